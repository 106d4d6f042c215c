// Own CUDA kernels, f32: what takes several passes as a composition of candle's operations, in one.
//
// Every kernel has the one parameter `Args`, filled by `src/cuda/plan.rs`, which also chooses grid and block and says
// there what each place holds. Kernels of rows give a warp to each row. Nothing returns early where threads meet.
// The same text is compiled for the processor by `emulation.cpp`, which is how it is tested without a GPU.

#ifndef NESTGEN_EMULATION
#include <cstddef>
#endif

struct Args {
  const float *in[6];
  float *out[4];
  unsigned long long n[12];
  float f[8];
};

#define EACH(i, count)                                                                     \
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < (size_t)(count);      \
       i += (size_t)gridDim.x * blockDim.x)

// ---- elementwise -------------------------------------------------------------------------------------------------

// in: x, bias or null. n: elements, width. f: slope. out: y.
extern "C" __global__ void bias_leak(Args a) {
  const float *bias = a.in[1];
  EACH(i, a.n[0]) {
    float v = a.in[0][i] + (bias ? bias[i % a.n[1]] : 0.f);
    a.out[0][i] = v > 0.f ? v : v * a.f[0];
  }
}

// in: gradient, output. n: elements. f: slope. out: gradient before the activation.
extern "C" __global__ void leak_backward(Args a) {
  EACH(i, a.n[0]) {
    float g = a.in[0][i];
    a.out[0][i] = a.in[1][i] > 0.f ? g : g * a.f[0];
  }
}

__device__ __forceinline__ float sigmoid(float x) {
  float small = expf(-fabsf(x));
  return (x >= 0.f ? 1.f : small) / (1.f + small);
}

// The value of a smooth activation, and its derivative.
__device__ __forceinline__ void smooth(int kind, float x, float *value, float *slope) {
  if (kind == 0) { // GELU, exact
    float cdf = 0.5f * (1.f + erff(x * 0.70710678118654752f));
    *value = x * cdf;
    *slope = cdf + x * 0.39894228040143268f * expf(-0.5f * x * x);
  } else if (kind == 1) { // GELU, tanh: 0.5 (1 + tanh u) is the sigmoid of 2u = a x + b x^3
    const float a = 1.5957691216057308f, b = 0.071354816272600253f;
    float s = sigmoid(x * (a + b * x * x));
    *value = x * s;
    *slope = s + x * s * (1.f - s) * (a + 3.f * b * x * x);
  } else if (kind == 2) { // SiLU
    float s = sigmoid(x);
    *value = x * s;
    *slope = s + x * s * (1.f - s);
  } else { // tanh
    float y = tanhf(x);
    *value = y;
    *slope = 1.f - y * y;
  }
}

// in: x. n: elements, kind. out: y.
extern "C" __global__ void activate(Args a) {
  float slope;
  EACH(i, a.n[0]) smooth((int)a.n[1], a.in[0][i], &a.out[0][i], &slope);
}

// in: x, gradient. n: elements, kind. out: gradient before the activation.
extern "C" __global__ void activate_backward(Args a) {
  float value, slope;
  EACH(i, a.n[0]) {
    smooth((int)a.n[1], a.in[0][i], &value, &slope);
    a.out[0][i] = a.in[1][i] * slope;
  }
}

// in: parameter, gradient, mean, mean square. n: elements.
// f: 1 - beta1, 1 - beta2, rate, root correction, eps, keep. out: parameter, mean, mean square.
extern "C" __global__ void adam(Args a) {
  EACH(i, a.n[0]) {
    float g = a.in[1][i];
    float mean = a.in[2][i], square = a.in[3][i];
    mean += (g - mean) * a.f[0];
    square += (g * g - square) * a.f[1];
    a.out[0][i] = a.in[0][i] * a.f[5] - a.f[2] * (mean / (sqrtf(square) * a.f[3] + a.f[4]));
    a.out[1][i] = mean;
    a.out[2][i] = square;
  }
}

// in: from, to. n: elements. f: weight. out: from + weight (to - from).
extern "C" __global__ void lerp_towards(Args a) {
  EACH(i, a.n[0]) a.out[0][i] = a.in[0][i] + (a.in[1][i] - a.in[0][i]) * a.f[0];
}

// What each output of a convolution sees, a row each: in: images [B, h, w, c].
// n: elements of the columns (below 2^32), h, w, c, kh, kw, oh, ow, stride y, stride x, padding y, padding x.
extern "C" __global__ void columns(Args a) {
  const unsigned h = a.n[1], w = a.n[2], c = a.n[3], kh = a.n[4], kw = a.n[5], oh = a.n[6], ow = a.n[7];
  EACH(i, a.n[0]) {
    unsigned rest = (unsigned)i;
    unsigned channel = rest % c;
    rest /= c;
    unsigned kx = rest % kw;
    rest /= kw;
    unsigned ky = rest % kh;
    rest /= kh;
    unsigned x = rest % ow;
    rest /= ow;
    unsigned y = rest % oh;
    unsigned image = rest / oh;
    // Above or left of the image these wrap round to numbers larger than any side.
    unsigned from_y = y * (unsigned)a.n[8] + ky - (unsigned)a.n[10];
    unsigned from_x = x * (unsigned)a.n[9] + kx - (unsigned)a.n[11];
    bool inside = from_y < h && from_x < w;
    a.out[0][i] = inside ? a.in[0][(((size_t)image * h + from_y) * w + from_x) * c + channel] : 0.f;
  }
}

// ---- columns of a matrix -----------------------------------------------------------------------------------------

// A block of 32 x 8 threads sums one chunk of rows of 32 columns: in: x [rows, width], and for `weighted_column_sums` a
// factor y of the same shape. n: rows, width, rows of a chunk. out: sums of each chunk [chunks, width].
__device__ void sum_columns(const Args &a, const float *weights) {
  __shared__ float sums[8][33];
  const size_t rows = a.n[0], width = a.n[1], chunk = a.n[2];
  const unsigned lane = threadIdx.x % 32, band = threadIdx.x / 32;
  const size_t column = blockIdx.x * (size_t)32 + lane;
  const size_t first = blockIdx.y * chunk, last = first + chunk < rows ? first + chunk : rows;
  float sum = 0.f;
  if (column < width)
    for (size_t row = first + band; row < last; row += 8) {
      float v = a.in[0][row * width + column];
      sum += weights ? v * weights[row * width + column] : v;
    }
  sums[band][lane] = sum;
  __syncthreads();
  if (band == 0 && column < width) {
    float total = 0.f;
    for (int i = 0; i < 8; i++) total += sums[i][lane];
    a.out[0][blockIdx.y * width + column] = total;
  }
}

extern "C" __global__ void column_sums(Args a) { sum_columns(a, nullptr); }
extern "C" __global__ void weighted_column_sums(Args a) { sum_columns(a, a.in[1]); }

// ---- rows of a matrix --------------------------------------------------------------------------------------------

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
