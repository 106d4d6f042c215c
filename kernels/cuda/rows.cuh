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

// in: x [rows, width], gain, offset [width]. n: rows, width. f: eps. out: y, of each row the mean and
// 1 / standard deviation [rows, 2].
extern "C" __global__ void layer_norm(Args a) {
  const size_t rows = a.n[0], width = a.n[1];
  const float *gain = numbers(a, 1), *offset = numbers(a, 2);
  ROW(rows, width)
  float sum = 0.f;
  for (size_t i = start + lane; i < end; i += 32) sum += get(a, 0, i);
  const float mean = warp_sum(sum) / width;
  float squares = 0.f;
  for (size_t i = start + lane; i < end; i += 32) {
    float d = get(a, 0, i) - mean;
    squares += d * d;
  }
  const float rstd = 1.f / sqrtf(warp_sum(squares) / width + a.f[0]);
  for (size_t i = start + lane; i < end; i += 32)
    put(a, 0, i, (get(a, 0, i) - mean) * rstd * gain[i - start] + offset[i - start]);
  if (row < rows && lane == 0) {
    put(a, 1, 2 * row, mean);
    put(a, 1, 2 * row + 1, rstd);
  }
}

// in: gradient, x, gain, statistics [rows, 2]. n: rows, width. out: gradient of x.
extern "C" __global__ void layer_norm_backward(Args a) {
  const size_t rows = a.n[0], width = a.n[1];
  const float *gain = numbers(a, 2);
  ROW(rows, width)
  const float mean = row < rows ? numbers(a, 3)[2 * row] : 0.f, rstd = row < rows ? numbers(a, 3)[2 * row + 1] : 0.f;
  float sum = 0.f, inner = 0.f;
  for (size_t i = start + lane; i < end; i += 32) {
    float g = get(a, 0, i) * gain[i - start];
    sum += g;
    inner += g * (get(a, 1, i) - mean) * rstd;
  }
  sum = warp_sum(sum) / width;
  inner = warp_sum(inner) / width;
  for (size_t i = start + lane; i < end; i += 32) {
    const float normal = (get(a, 1, i) - mean) * rstd;
    put(a, 0, i, (get(a, 0, i) * gain[i - start] - sum - normal * inner) * rstd);
  }
}

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
