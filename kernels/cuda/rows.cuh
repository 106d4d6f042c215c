// Rows of a matrix.

// The sum over neighbouring lanes, a power of two of them.
template <int LANES> __device__ __forceinline__ float lanes_sum(float v) {
  for (int apart = LANES / 2; apart > 0; apart /= 2) v += __shfl_xor_sync(0xffffffffu, v, apart);
  return v;
}

__device__ __forceinline__ float warp_sum(float v) { return lanes_sum<32>(v); }

__device__ __forceinline__ float warp_max(float v) {
  for (int apart = 16; apart > 0; apart /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, apart));
  return v;
}

// The row of this warp, and the end of its elements: none past the last row, whose warps still meet the others.
#define ROW(rows, width)                                                                  \
  const unsigned lane = threadIdx.x % 32;                                                 \
  const size_t row = blockIdx.x * (size_t)(blockDim.x / 32) + threadIdx.x / 32;           \
  const size_t start = row * (width), end = row < (rows) ? start + (width) : start;

// in: scores [rows, width]. n: rows, width. f: factor of the scores. out: probabilities, f32.
extern "C" __global__ void softmax(Args a) {
  const size_t rows = a.n[0], width = a.n[1];
  float *out = (float *)a.out[0];
  ROW(rows, width)
  float top = -INFINITY;
  for (size_t i = start + lane; i < end; i += 32) top = fmaxf(top, get(a, 0, i) * a.f[0]);
  top = warp_max(top);
  float sum = 0.f;
  for (size_t i = start + lane; i < end; i += 32) {
    float power = expf(get(a, 0, i) * a.f[0] - top);
    out[i] = power;
    sum += power;
  }
  const float norm = 1.f / warp_sum(sum);
  for (size_t i = start + lane; i < end; i += 32) out[i] *= norm;
}

// in: probabilities, gradient. n: rows, width. f: factor of the scores. out: gradient of the scores.
extern "C" __global__ void softmax_backward(Args a) {
  const size_t rows = a.n[0], width = a.n[1];
  ROW(rows, width)
  float inner = 0.f;
  for (size_t i = start + lane; i < end; i += 32) inner += get(a, 0, i) * get(a, 1, i);
  inner = warp_sum(inner);
  for (size_t i = start + lane; i < end; i += 32) put(a, 0, i, get(a, 0, i) * (get(a, 1, i) - inner) * a.f[0]);
}
