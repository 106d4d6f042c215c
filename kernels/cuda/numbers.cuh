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

#ifdef NESTGEN_EMULATION
// To the nearest, ties to even; a NaN stays one.
static inline Half rounded(float x) {
  const unsigned bits = to_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (Half)(bits >> 16 | 0x40u);
  return (Half)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Two neighbours in one register, the first in the low half.
static inline unsigned pair(float first, float second) {
  return (unsigned)rounded(first) | (unsigned)rounded(second) << 16;
}

static inline float quick_power2(float x) { return exp2f(x); }
static inline float quick_reciprocal(float x) { return 1.f / x; }
static inline float product(float x, float y) { return x * y; }
#else
// Rounded by itself, whatever follows: the same number wherever it is made.
__device__ __forceinline__ float product(float x, float y) { return __fmul_rn(x, y); }

__device__ __forceinline__ Half rounded(float x) {
  Half half;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half) : "f"(x));
  return half;
}

__device__ __forceinline__ unsigned pair(float first, float second) {
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
}

// To some units in the last place, which bf16 does not see, and what is smaller than normal numbers as 0. `__expf` and
// `__fdividef` take three and four instructions more to keep such numbers.
__device__ __forceinline__ float quick_power2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float quick_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#endif

__device__ __forceinline__ float quick_exp(float x) { return quick_power2(x * 1.44269504f); }

__device__ __forceinline__ float first_of(unsigned both) { return from_bits(both << 16); }
__device__ __forceinline__ float second_of(unsigned both) { return from_bits(both & 0xffff0000u); }

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

// A kernel's BODY for operands that are all aligned and whole, of types known to the compiler.
template <void (*BODY)(const Args &), unsigned PATTERN> __device__ __forceinline__ bool known_types(const Args &a) {
  Args known = a;
  known.rough = PATTERN;
  known.aligned = WHOLE;
  BODY(known);
  return true;
}

// Runs a kernel's BODY, which is compiled by itself for operands of each of PATTERNS (as in `Args::rough`) where all are
// aligned and `whole`, and once more for everything else. Types that are only known at run time cost more than a branch:
// what is read is widened inside of it, so that a warp waits there, with one read under way instead of all of a row's.
template <void (*BODY)(const Args &), unsigned... PATTERNS>
__device__ __forceinline__ void by_type(const Args &a, bool whole) {
  const bool fits = whole && a.aligned;
  if (((fits && a.rough == PATTERNS && known_types<BODY, PATTERNS>(a)) || ...)) return;
  Args any = a;
  any.aligned = a.aligned & 1u; // Never `WHOLE`.
  BODY(any);
}

// Patterns: bf16 are these inputs, and output 0 where ROUGH_OUT is among them (shifted for the others).
#define ROUGH_IN(k) (1u << (k))
#define ROUGH_OUT (1u << 8)

struct alignas(16) Four {
  float v[4];
};

// Pairs of bf16: two or four of them are read and written at once.
struct alignas(8) TwoPairs {
  unsigned v[2];
};
struct alignas(16) FourPairs {
  unsigned v[4];
};

// Written at once, by name: the compiler takes an assignment apart in some kernels and not in others.
#ifdef NESTGEN_EMULATION
template <class T> static inline void store(void *to, const T &x) { *(T *)to = x; }
#else
__device__ __forceinline__ void store(void *to, const Four &x) {
  __stwb((float4 *)to, make_float4(x.v[0], x.v[1], x.v[2], x.v[3]));
}
__device__ __forceinline__ void store(void *to, const TwoPairs &x) { __stwb((uint2 *)to, make_uint2(x.v[0], x.v[1])); }
__device__ __forceinline__ void store(void *to, const FourPairs &x) {
  __stwb((uint4 *)to, make_uint4(x.v[0], x.v[1], x.v[2], x.v[3]));
}
#endif

#define EACH_OF_FOUR(j) _Pragma("unroll") for (int j = 0; j < 4; j++)
#define EACH_OF_EIGHT(j) _Pragma("unroll") for (int j = 0; j < 8; j++)

// Elements i to i + 3 of an operand of `count`; past the end they are 0. `i` is a multiple of 4.
__device__ __forceinline__ Four get4(const Args &a, int k, size_t i, size_t count) {
  Four x;
  if (a.aligned != WHOLE && (!a.aligned || i + 4 > count)) {
    EACH_OF_FOUR(j) x.v[j] = i + j < count ? get(a, k, i + j) : 0.f;
  } else if (is_rough(a, k)) {
    const TwoPairs pairs = *(const TwoPairs *)((const Half *)a.in[k] + i);
    EACH_OF_FOUR(j) x.v[j] = j % 2 ? second_of(pairs.v[j / 2]) : first_of(pairs.v[j / 2]);
  } else {
    x = *(const Four *)((const float *)a.in[k] + i);
  }
  return x;
}

__device__ __forceinline__ void put4(const Args &a, int k, size_t i, size_t count, const Four &x) {
  if (a.aligned != WHOLE && (!a.aligned || i + 4 > count)) {
    EACH_OF_FOUR(j) if (i + j < count) put(a, k, i + j, x.v[j]);
  } else if (is_rough(a, 8 + k)) {
    store((Half *)a.out[k] + i, TwoPairs{{pair(x.v[0], x.v[1]), pair(x.v[2], x.v[3])}});
  } else {
    store((float *)a.out[k] + i, x);
  }
}

// Up to four elements from `i`: those before `left`; the others are 0. `whole` runs are read at once. Where all runs are
// whole, the first is read in place of one that is not there, so that nothing branches.
__device__ __forceinline__ Four some4(const Args &a, int k, size_t i, unsigned left, bool whole) {
  Four x;
  if (a.aligned == WHOLE) {
    x = get4(a, k, left ? i : 0, 0);
    EACH_OF_FOUR(j) x.v[j] = left ? x.v[j] : 0.f;
    return x;
  }
  if (whole && left >= 4) return get4(a, k, i, i + 4);
  EACH_OF_FOUR(j) x.v[j] = (unsigned)j < left ? get(a, k, i + j) : 0.f;
  return x;
}

__device__ __forceinline__ void put_some4(const Args &a, int k, size_t i, unsigned left, bool whole, const Four &x) {
  if (a.aligned == WHOLE) {
    if (left) put4(a, k, i, 0, x);
    return;
  }
  if (whole && left >= 4) return put4(a, k, i, i + 4, x);
  EACH_OF_FOUR(j) if ((unsigned)j < left) put(a, k, i + j, x.v[j]);
}

struct Eight {
  float v[8];
};

// The same of eight elements; `i` is a multiple of 8.
__device__ __forceinline__ Eight get8(const Args &a, int k, size_t i, size_t count) {
  Eight x;
  if (a.aligned != WHOLE && (!a.aligned || i + 8 > count)) {
    EACH_OF_EIGHT(j) x.v[j] = i + j < count ? get(a, k, i + j) : 0.f;
  } else if (is_rough(a, k)) {
    const FourPairs pairs = *(const FourPairs *)((const Half *)a.in[k] + i);
    EACH_OF_EIGHT(j) x.v[j] = j % 2 ? second_of(pairs.v[j / 2]) : first_of(pairs.v[j / 2]);
  } else {
    const Four *fours = (const Four *)((const float *)a.in[k] + i);
    const Four low = fours[0], high = fours[1];
    EACH_OF_EIGHT(j) x.v[j] = j < 4 ? low.v[j % 4] : high.v[j % 4];
  }
  return x;
}

__device__ __forceinline__ void put8(const Args &a, int k, size_t i, size_t count, const Eight &x) {
  if (a.aligned != WHOLE && (!a.aligned || i + 8 > count)) {
    EACH_OF_EIGHT(j) if (i + j < count) put(a, k, i + j, x.v[j]);
  } else if (is_rough(a, 8 + k)) {
    FourPairs pairs;
    EACH_OF_FOUR(j) pairs.v[j] = pair(x.v[2 * j], x.v[2 * j + 1]);
    store((Half *)a.out[k] + i, pairs);
  } else {
    store((float *)a.out[k] + i, Four{{x.v[0], x.v[1], x.v[2], x.v[3]}});
    store((float *)a.out[k] + i + 4, Four{{x.v[4], x.v[5], x.v[6], x.v[7]}});
  }
}

// Eight elements at a time.
#define EACH8(i, count)                                                                          \
  for (size_t i = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) * 8; i < (size_t)(count);      \
       i += (size_t)gridDim.x * blockDim.x * 8)

// The column of element `i` of rows of `width`: divisions of 32 bits are several times as fast.
__device__ __forceinline__ size_t column_of(size_t i, size_t width) {
  return i >> 32 ? i % width : (unsigned)i % (unsigned)width;
}

// Its row.
__device__ __forceinline__ size_t row_of(size_t i, size_t width) {
  return i >> 32 ? i / width : (unsigned)i / (unsigned)width;
}
