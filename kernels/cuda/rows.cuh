// Rows of a matrix.

__device__ __forceinline__ float warp_sum(float v) {
  for (int apart = 16; apart > 0; apart /= 2) v += __shfl_xor_sync(0xffffffffu, v, apart);
  return v;
}

__device__ __forceinline__ float warp_max(float v) {
  for (int apart = 16; apart > 0; apart /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, apart));
  return v;
}

// The row of this warp, and the end of its elements: none past the last row, whose warps still meet the others.
#define ROW(rows, width)                                                                  \
  const unsigned lane = threadIdx.x % 32;                                                 \
  const size_t row = blockIdx.x * (size_t)(blockDim.x / 32) + threadIdx.x / 32;           \
  const size_t start = row * (width), end = row < (rows) ? start + (width) : start;

// in: x [rows, width], gain, offset. n: rows, width. f: eps. out: y, normalised x, 1 / standard deviation of each row.
extern "C" __global__ void layer_norm(Args a) {
  const size_t rows = a.n[0], width = a.n[1];
  ROW(rows, width)
  float sum = 0.f;
  for (size_t i = start + lane; i < end; i += 32) sum += a.in[0][i];
  const float mean = warp_sum(sum) / width;
  float squares = 0.f;
  for (size_t i = start + lane; i < end; i += 32) {
    float d = a.in[0][i] - mean;
    squares += d * d;
  }
  const float rstd = 1.f / sqrtf(warp_sum(squares) / width + a.f[0]);
  for (size_t i = start + lane; i < end; i += 32) {
    float normal = (a.in[0][i] - mean) * rstd;
    a.out[0][i] = normal * a.in[1][i - start] + a.in[2][i - start];
    a.out[1][i] = normal;
  }
  if (row < rows && lane == 0) a.out[2][row] = rstd;
}

// in: gradient, normalised x, gain, 1 / standard deviations. n: rows, width. out: gradient of x.
extern "C" __global__ void layer_norm_backward(Args a) {
  const size_t rows = a.n[0], width = a.n[1];
  ROW(rows, width)
  float sum = 0.f, inner = 0.f;
  for (size_t i = start + lane; i < end; i += 32) {
    float g = a.in[0][i] * a.in[2][i - start];
    sum += g;
    inner += g * a.in[1][i];
  }
  sum = warp_sum(sum) / width;
  inner = warp_sum(inner) / width;
  const float rstd = row < rows ? a.in[3][row] : 0.f;
  for (size_t i = start + lane; i < end; i += 32)
    a.out[0][i] = (a.in[0][i] * a.in[2][i - start] - sum - a.in[1][i] * inner) * rstd;
}

// in: scores [rows, width]. n: rows, width. f: factor of the scores. out: probabilities.
extern "C" __global__ void softmax(Args a) {
  const size_t rows = a.n[0], width = a.n[1];
  ROW(rows, width)
  float top = -INFINITY;
  for (size_t i = start + lane; i < end; i += 32) top = fmaxf(top, a.in[0][i] * a.f[0]);
  top = warp_max(top);
  float sum = 0.f;
  for (size_t i = start + lane; i < end; i += 32) {
    float power = expf(a.in[0][i] * a.f[0] - top);
    a.out[0][i] = power;
    sum += power;
  }
  const float norm = 1.f / warp_sum(sum);
  for (size_t i = start + lane; i < end; i += 32) a.out[0][i] *= norm;
}

// in: probabilities, gradient. n: rows, width. f: factor of the scores. out: gradient of the scores.
extern "C" __global__ void softmax_backward(Args a) {
  const size_t rows = a.n[0], width = a.n[1];
  ROW(rows, width)
  float inner = 0.f;
  for (size_t i = start + lane; i < end; i += 32) inner += a.in[0][i] * a.in[1][i];
  inner = warp_sum(inner);
  for (size_t i = start + lane; i < end; i += 32) a.out[0][i] = a.in[0][i] * (a.in[1][i] - inner) * a.f[0];
}
