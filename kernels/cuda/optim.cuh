// The optimizer's arithmetic on all parameters at once. A table has a row for each piece of a parameter, eight numbers:
// addresses of up to four f32 operands and of up to three results, and its elements; the highest bit of the last is set if it
// decays. A block takes a row.

struct Piece {
  const float *in[4];
  float *out[3];
  unsigned long long count;
};

#define DECAYS (1ull << 63)

__device__ __forceinline__ Piece piece(const Args &a) { return ((const Piece *)a.in[0])[blockIdx.x]; }

// in: table of parameter, gradient, mean, mean square. f: 1 - beta1, 1 - beta2, rate, root correction, eps, keep.
// results: parameters, means, mean squares.
extern "C" __global__ void adam(Args a) {
  const Piece p = piece(a);
  const float keep = p.count & DECAYS ? a.f[5] : 1.f;
  for (size_t i = threadIdx.x; i < (p.count & ~DECAYS); i += blockDim.x) {
    const float g = p.in[1][i];
    float mean = p.in[2][i], square = p.in[3][i];
    mean += (g - mean) * a.f[0];
    square += (g * g - square) * a.f[1];
    p.out[0][i] = p.in[0][i] * keep - a.f[2] * (mean / (sqrtf(square) * a.f[3] + a.f[4]));
    p.out[1][i] = mean;
    p.out[2][i] = square;
  }
}

// in: table of from, to. f: weight. results: from + weight (to - from).
extern "C" __global__ void lerp_towards(Args a) {
  const Piece p = piece(a);
  for (size_t i = threadIdx.x; i < p.count; i += blockDim.x)
    p.out[0][i] = p.in[0][i] + (p.in[1][i] - p.in[0][i]) * a.f[0];
}
