// The optimizer's arithmetic on all parameters at once. A table has a row for each piece of a parameter, six numbers:
// addresses of up to four f32 operands, where its results lie in the outputs, and its elements; the highest bit of the last
// is set if it decays. Offsets and pieces are multiples of 4, a parameter's last piece excepted. A block takes a row.

struct Piece {
  const float *in[4];
  unsigned long long at, count;
};

#define DECAYS (1ull << 63)

__device__ __forceinline__ Piece piece(const Args &a) { return ((const Piece *)a.in[0])[blockIdx.x]; }

// in: table of parameter, gradient, mean, mean square. f: 1 - beta1, 1 - beta2, rate, root correction, eps, keep.
// out: parameters, means, mean squares.
extern "C" __global__ void adam(Args a) {
  const Piece p = piece(a);
  float *out[3] = {(float *)a.out[0] + p.at, (float *)a.out[1] + p.at, (float *)a.out[2] + p.at};
  const float keep = p.count & DECAYS ? a.f[5] : 1.f;
  for (size_t i = threadIdx.x; i < (p.count & ~DECAYS); i += blockDim.x) {
    const float g = p.in[1][i];
    float mean = p.in[2][i], square = p.in[3][i];
    mean += (g - mean) * a.f[0];
    square += (g * g - square) * a.f[1];
    out[0][i] = p.in[0][i] * keep - a.f[2] * (mean / (sqrtf(square) * a.f[3] + a.f[4]));
    out[1][i] = mean;
    out[2][i] = square;
  }
}

// in: table of from, to. f: weight. out: from + weight (to - from).
extern "C" __global__ void lerp_towards(Args a) {
  const Piece p = piece(a);
  float *out = (float *)a.out[0] + p.at;
  for (size_t i = threadIdx.x; i < p.count; i += blockDim.x) out[i] = p.in[0][i] + (p.in[1][i] - p.in[0][i]) * a.f[0];
}
