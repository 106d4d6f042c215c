// Reading and writing operands of either type: arithmetic is f32 throughout.

#ifdef NESTGEN_EMULATION
static inline float from_bits(unsigned bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
static inline unsigned to_bits(float x) {
  unsigned bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
#else
__device__ __forceinline__ float from_bits(unsigned bits) { return __uint_as_float(bits); }
__device__ __forceinline__ unsigned to_bits(float x) { return __float_as_uint(x); }
#endif

typedef unsigned short Half;

__device__ __forceinline__ float widen(Half x) { return from_bits((unsigned)x << 16); }

// To the nearest, ties to even; a NaN stays one.
__device__ __forceinline__ Half rounded(float x) {
  const unsigned bits = to_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (Half)(bits >> 16 | 0x40u);
  return (Half)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Two neighbours in one register, the first in the low half.
__device__ __forceinline__ unsigned pair(float first, float second) {
  return (unsigned)rounded(first) | (unsigned)rounded(second) << 16;
}

__device__ __forceinline__ bool is_rough(const Args &a, int k) { return a.rough >> k & 1u; }

// An operand that is always f32.
__device__ __forceinline__ const float *numbers(const Args &a, int k) { return (const float *)a.in[k]; }

__device__ __forceinline__ float get(const Args &a, int k, size_t i) {
  return is_rough(a, k) ? widen(((const Half *)a.in[k])[i]) : ((const float *)a.in[k])[i];
}

__device__ __forceinline__ void put(const Args &a, int k, size_t i, float v) {
  if (is_rough(a, 8 + k))
    ((Half *)a.out[k])[i] = rounded(v);
  else
    ((float *)a.out[k])[i] = v;
}

struct alignas(16) Four {
  float v[4];
};

struct alignas(8) FourHalves {
  Half v[4];
};

#define EACH_OF_FOUR(j) _Pragma("unroll") for (int j = 0; j < 4; j++)

// Elements i to i + 3 of an operand of `count`; past the end they are 0. `i` is a multiple of 4.
__device__ __forceinline__ Four get4(const Args &a, int k, size_t i, size_t count) {
  Four x;
  if (!a.aligned || i + 4 > count) {
    EACH_OF_FOUR(j) x.v[j] = i + j < count ? get(a, k, i + j) : 0.f;
  } else if (is_rough(a, k)) {
    const FourHalves halves = *(const FourHalves *)((const Half *)a.in[k] + i);
    EACH_OF_FOUR(j) x.v[j] = widen(halves.v[j]);
  } else {
    x = *(const Four *)((const float *)a.in[k] + i);
  }
  return x;
}

__device__ __forceinline__ void put4(const Args &a, int k, size_t i, size_t count, const Four &x) {
  if (!a.aligned || i + 4 > count) {
    EACH_OF_FOUR(j) if (i + j < count) put(a, k, i + j, x.v[j]);
  } else if (is_rough(a, 8 + k)) {
    FourHalves halves;
    EACH_OF_FOUR(j) halves.v[j] = rounded(x.v[j]);
    *(FourHalves *)((Half *)a.out[k] + i) = halves;
  } else {
    *(Four *)((float *)a.out[k] + i) = x;
  }
}

// Four elements at a time.
#define EACH4(i, count)                                                                          \
  for (size_t i = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) * 4; i < (size_t)(count);      \
       i += (size_t)gridDim.x * blockDim.x * 4)
