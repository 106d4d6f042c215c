// Spectral normalisation: what a power iteration does with its vectors, and the gradient of a weight over its norm.

// The sum over a block of up to 32 warps.
__device__ __forceinline__ float block_sum(float v) {
  __shared__ float warps[32];
  __syncthreads();
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
  __syncthreads();
  v = 0.f;
  for (unsigned warp = 0; warp < blockDim.x / 32; warp++) v += warps[warp];
  return v;
}

// What a thread reads of a vector before it uses the first of it.
#define READ_AHEAD 8

__device__ __forceinline__ void read_ahead(const float *x, size_t i, size_t count, float *found) {
  _Pragma("unroll") for (int k = 0; k < READ_AHEAD; k++) {
    const size_t at = i + k * blockDim.x;
    found[k] = at < count ? x[at] : 0.f;
  }
}

// One block. in: x. n: elements. f: eps. out: x over its length plus eps, and 1 over the product of both.
extern "C" __global__ void __launch_bounds__(512, 1) unit_vector(Args a) {
  const float *x = numbers(a, 0);
  float *unit = (float *)a.out[0];
  float squares = 0.f, inner = 0.f;
  float found[READ_AHEAD];
  for (size_t i = threadIdx.x; i < a.n[0]; i += READ_AHEAD * blockDim.x) {
    read_ahead(x, i, a.n[0], found);
    _Pragma("unroll") for (int k = 0; k < READ_AHEAD; k++) squares += found[k] * found[k];
  }
  const float factor = 1.f / (sqrtf(block_sum(squares)) + a.f[0]);
  for (size_t i = threadIdx.x; i < a.n[0]; i += READ_AHEAD * blockDim.x) {
    read_ahead(x, i, a.n[0], found);
    _Pragma("unroll") for (int k = 0; k < READ_AHEAD; k++) {
      const size_t at = i + k * blockDim.x;
      if (at < a.n[0]) unit[at] = found[k] * factor;
      inner += found[k] * factor * found[k];
    }
  }
  inner = block_sum(inner);
  if (threadIdx.x == 0) *(float *)a.out[1] = 1.f / inner;
}

// in: x, y. n: elements. out: of each block the inner product of its elements.
extern "C" __global__ void inner_parts(Args a) {
  float sum = 0.f;
  EACH8(i, a.n[0]) {
    const Eight x = get8(a, 0, i, a.n[0]), y = get8(a, 1, i, a.n[0]);
    EACH_OF_EIGHT(j) sum += x.v[j] * y.v[j];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) ((float *)a.out[0])[blockIdx.x] = sum;
}

// in: gradient g of w / s [rows, width], u [rows], v [width], 1 / s for s = u^T w v, parts of the inner product of g and w.
// n: elements, width, parts. out: gradient of w, (g - (g, w) / s u v^T) / s.
extern "C" __global__ void spectral_gradient(Args a) {
  float inner = 0.f;
  for (size_t part = threadIdx.x; part < a.n[2]; part += blockDim.x) inner += numbers(a, 4)[part];
  const float factor = numbers(a, 3)[0], share = block_sum(inner) * factor;
  const size_t width = a.n[1];
  EACH8(i, a.n[0]) {
    Eight g = get8(a, 0, i, a.n[0]);
    const Eight v = vector8(a, 2, i, width);
    EACH_OF_EIGHT(j) if (i + j < a.n[0])
        g.v[j] = (g.v[j] - share * numbers(a, 1)[row_of(i + j, width)] * v.v[j]) * factor;
    put8(a, 0, i, a.n[0], g);
  }
}
