// The optimizer's arithmetic on all parameters at once. A table has a row for each parameter, ten numbers: addresses of up to
// four f32 operands, of up to three f32 results and of a bf16 one, its elements, whose highest bit is set if it decays, and its
// first piece. A block works on a piece.

struct Item {
  const float *in[4];
  float *out[3];
  Half *rough;
  unsigned long long count, first;
};

#define DECAYS (1ull << 63)

// A block's parameter, and its elements from `start` to `end`.
struct Piece {
  const Item &item;
  unsigned long long start, end;
};

// n: parameters, elements of a piece.
__device__ __forceinline__ Piece piece(const Args &a) {
  const Item *items = (const Item *)a.in[0];
  // The last parameter that begins no later than this block.
  unsigned low = 0, high = (unsigned)a.n[0];
  while (low + 1 < high) {
    const unsigned middle = (low + high) / 2;
    if (items[middle].first <= blockIdx.x)
      low = middle;
    else
      high = middle;
  }
  const Item &item = items[low];
  const unsigned long long start = (blockIdx.x - item.first) * a.n[1], count = item.count & ~DECAYS;
  return {item, start, start + a.n[1] < count ? start + a.n[1] : count};
}

// in: table of parameter, gradient, mean, mean square. f: 1 - beta1, 1 - beta2, rate, root correction, eps, keep.
// results: parameters, means, mean squares, and where they are wanted the parameters rounded.
extern "C" __global__ void adam(Args a) {
  const Piece p = piece(a);
  const Item item = p.item;
  const float keep = item.count & DECAYS ? a.f[5] : 1.f;
  for (size_t i = p.start + threadIdx.x; i < p.end; i += blockDim.x) {
    const float g = item.in[1][i];
    float mean = item.in[2][i], square = item.in[3][i];
    mean += (g - mean) * a.f[0];
    square += (g * g - square) * a.f[1];
    const float value = item.in[0][i] * keep - a.f[2] * (mean / (sqrtf(square) * a.f[3] + a.f[4]));
    item.out[0][i] = value;
    item.out[1][i] = mean;
    item.out[2][i] = square;
    if (item.rough) item.rough[i] = rounded(value);
  }
}

// in: table of from, to. f: weight. results: from + weight (to - from).
extern "C" __global__ void lerp_towards(Args a) {
  const Piece p = piece(a);
  const Item item = p.item;
  for (size_t i = p.start + threadIdx.x; i < p.end; i += blockDim.x)
    item.out[0][i] = item.in[0][i] + (item.in[1][i] - item.in[0][i]) * a.f[0];
}
