// Element by element. n[0] is the number of elements throughout, n[1] where there is a vector its width.

// Whether there are only whole runs of eight, and in operand 1, if it is a vector of width n[1], too.
__device__ __forceinline__ bool in_eights(const Args &a, bool vector = false) {
  return a.n[0] % 8 == 0 && (!vector || !a.in[1] || a.n[1] % 8 == 0);
}

// What belongs to element i and its seven neighbours of a vector over the last dimension of `width`; 0 without a vector.
__device__ __forceinline__ Eight vector8(const Args &a, int k, size_t i, size_t width) {
  Eight b = {{0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f}};
  const float *vector = numbers(a, k);
  if (!vector) return b;
  size_t column = column_of(i, width);
  if (a.aligned == WHOLE || (a.aligned && width % 8 == 0)) {
    const Four *fours = (const Four *)(vector + column);
    const Four low = fours[0], high = fours[1];
    EACH_OF_EIGHT(j) b.v[j] = j < 4 ? low.v[j % 4] : high.v[j % 4];
    return b;
  }
  EACH_OF_EIGHT(j) {
    b.v[j] = vector[column];
    column = column + 1 == width ? 0 : column + 1;
  }
  return b;
}

__device__ __forceinline__ void bias_leak_body(const Args &a) {
  EACH8(i, a.n[0]) {
    Eight x = get8(a, 0, i, a.n[0]);
    const Eight b = vector8(a, 1, i, a.n[1]);
    EACH_OF_EIGHT(j) {
      const float v = x.v[j] + b.v[j];
      x.v[j] = v > 0.f ? v : v * a.f[0];
    }
    put8(a, 0, i, a.n[0], x);
  }
}

// in: x, bias [width] or null. n: elements, width. f: slope. out: y.
extern "C" __global__ void bias_leak(Args a) {
  by_type<bias_leak_body, 0, ROUGH_IN(0), ROUGH_IN(0) | ROUGH_OUT>(a, in_eights(a, true));
}

__device__ __forceinline__ void bias_residual_body(const Args &a) {
  EACH8(i, a.n[0]) {
    Eight x = get8(a, 0, i, a.n[0]);
    const Eight r = get8(a, 2, i, a.n[0]), b = vector8(a, 1, i, a.n[1]);
    EACH_OF_EIGHT(j) x.v[j] = r.v[j] + (x.v[j] + b.v[j]);
    put8(a, 0, i, a.n[0], x);
  }
}

// in: x, bias [width] or null, residual. n: elements, width. out: residual + x + bias.
extern "C" __global__ void bias_residual(Args a) {
  by_type<bias_residual_body, 0, ROUGH_IN(0), ROUGH_IN(0) | ROUGH_IN(2) | ROUGH_OUT>(a, in_eights(a, true));
}

__device__ __forceinline__ void leak_backward_body(const Args &a) {
  EACH8(i, a.n[0]) {
    Eight g = get8(a, 0, i, a.n[0]);
    const Eight y = get8(a, 1, i, a.n[0]);
    EACH_OF_EIGHT(j) g.v[j] = y.v[j] > 0.f ? g.v[j] : g.v[j] * a.f[0];
    put8(a, 0, i, a.n[0], g);
  }
}

// in: gradient, output. f: slope. out: gradient before the activation.
extern "C" __global__ void leak_backward(Args a) {
  by_type<leak_backward_body, 0, ROUGH_IN(1) | ROUGH_OUT, ROUGH_IN(0) | ROUGH_IN(1) | ROUGH_OUT>(a, in_eights(a));
}

__device__ __forceinline__ float sigmoid(float x) {
  float small = expf(-fabsf(x));
  return (x >= 0.f ? 1.f : small) / (1.f + small);
}

// GELU where the result is bf16: the normal distribution's tail as Abramowitz and Stegun have it (7.1.26, 1.5e-7 of erf),
// down to -5 to bf16's digits, and one power for value and derivative.
__device__ __forceinline__ void quick_gelu(float x, float *value, float *slope) {
  const float t = quick_reciprocal(1.f + 0.23164189f * fabsf(x)), density = quick_power2(-0.72134752f * x * x);
  const float tail =
      density * t * (0.127414796f + t * (-0.142248368f + t * (0.710706871f + t * (-0.726576014f + t * 0.530702715f))));
  const float cdf = x > 0.f ? 1.f - tail : tail;
  *value = x * cdf;
  *slope = cdf + x * 0.39894228040143268f * density;
}

// GELU's tanh form where the result is bf16: 0.5 (1 + tanh u) is the sigmoid of 2u = a x + b x^3, one power and one reciprocal.
__device__ __forceinline__ void quick_gelu_tanh(float x, float *value, float *slope) {
  const float a = 1.5957691216057308f, b = 0.071354816272600253f, log2e = 1.44269504f;
  const float square = x * x;
  // Far to the left the power is infinite, and its reciprocal 0.
  const float s = quick_reciprocal(1.f + quick_power2(x * (-a * log2e - b * log2e * square)));
  *value = x * s;
  *slope = s + *value * (1.f - s) * (a + 3.f * b * square);
}

// The value of a smooth activation, and its derivative.
__device__ __forceinline__ void smooth(int kind, bool quick, float x, float *value, float *slope) {
  if (kind == 0 && quick) {
    quick_gelu(x, value, slope);
  } else if (kind == 0) { // GELU, exact
    float cdf = 0.5f * (1.f + erff(x * 0.70710678118654752f));
    *value = x * cdf;
    *slope = cdf + x * 0.39894228040143268f * expf(-0.5f * x * x);
  } else if (kind == 1 && quick) {
    quick_gelu_tanh(x, value, slope);
  } else if (kind == 1) { // GELU, tanh form
    const float a = 1.5957691216057308f, b = 0.071354816272600253f;
    float s = sigmoid(x * (a + b * x * x));
    *value = x * s;
    *slope = s + x * s * (1.f - s) * (a + 3.f * b * x * x);
  } else if (kind == 2) { // SiLU
    float s = sigmoid(x);
    *value = x * s;
    *slope = s + x * s * (1.f - s);
  } else if (kind == 3) { // tanh
    float y = tanhf(x);
    *value = y;
    *slope = 1.f - y * y;
  } else if (kind == 4) { // softplus
    *value = fmaxf(x, 0.f) + log1pf(expf(-fabsf(x)));
    *slope = sigmoid(x);
  } else { // sigmoid
    float s = sigmoid(x);
    *value = s;
    *slope = s * (1.f - s);
  }
}

// KIND is that of `smooth`, or -1: n[2] has it. Both forms of GELU, what networks have, are compiled by themselves, so that
// eight elements are computed side by side.
#define GELU_ERF 0
#define GELU_TANH 1

template <int KIND> __device__ __forceinline__ void activate_body(const Args &a) {
  const int kind = KIND < 0 ? (int)a.n[2] : KIND;
  float slope;
  EACH8(i, a.n[0]) {
    Eight x = get8(a, 0, i, a.n[0]);
    const Eight b = vector8(a, 1, i, a.n[1]);
    EACH_OF_EIGHT(j) smooth(kind, is_rough(a, 8), x.v[j] + b.v[j], &x.v[j], &slope);
    put8(a, 0, i, a.n[0], x);
  }
}

// in: x, bias [width] or null. n: elements, width, kind. out: y.
extern "C" __global__ void activate(Args a) {
  if (a.n[2] == GELU_ERF)
    by_type<activate_body<GELU_ERF>, 0, ROUGH_IN(0) | ROUGH_OUT>(a, in_eights(a, true));
  else if (a.n[2] == GELU_TANH)
    by_type<activate_body<GELU_TANH>, 0, ROUGH_IN(0) | ROUGH_OUT>(a, in_eights(a, true));
  else
    activate_body<-1>(a);
}

// in: x, bias [width] or null, gradient. n: elements, width, kind. out: gradient before the activation.
extern "C" __global__ void activate_backward(Args a) {
  float value, slope;
  EACH8(i, a.n[0]) {
    const Eight x = get8(a, 0, i, a.n[0]);
    Eight g = get8(a, 2, i, a.n[0]);
    const Eight b = vector8(a, 1, i, a.n[1]);
    EACH_OF_EIGHT(j) {
      smooth((int)a.n[2], is_rough(a, 8), x.v[j] + b.v[j], &value, &slope);
      g.v[j] *= slope;
    }
    put8(a, 0, i, a.n[0], g);
  }
}

__device__ __forceinline__ void add_body(const Args &a) {
  EACH8(i, a.n[0]) {
    Eight x = get8(a, 0, i, a.n[0]);
    const Eight y = get8(a, 1, i, a.n[0]);
    EACH_OF_EIGHT(j) x.v[j] += y.v[j];
    put8(a, 0, i, a.n[0], x);
  }
}

// in: x, y. out: x + y.
extern "C" __global__ void add(Args a) {
  by_type<add_body, 0, ROUGH_IN(0), ROUGH_IN(1), ROUGH_IN(0) | ROUGH_IN(1) | ROUGH_OUT>(a, in_eights(a));
}

// in: x, y. f: factors of both. out: their sum.
extern "C" __global__ void blend(Args a) {
  EACH8(i, a.n[0]) {
    Eight x = get8(a, 0, i, a.n[0]);
    const Eight y = get8(a, 1, i, a.n[0]);
    EACH_OF_EIGHT(j) x.v[j] = x.v[j] * a.f[0] + y.v[j] * a.f[1];
    put8(a, 0, i, a.n[0], x);
  }
}

__device__ __forceinline__ void convert_body(const Args &a) {
  EACH8(i, a.n[0]) put8(a, 0, i, a.n[0], get8(a, 0, i, a.n[0]));
}

// in: x. out: the same numbers in the type of the output.
extern "C" __global__ void convert(Args a) {
  by_type<convert_body, ROUGH_OUT, ROUGH_IN(0)>(a, in_eights(a));
}

// in: x [rows, from]. n: elements of y, from, to. out: y [rows, to]: rows cut off, or with zeros behind them.
extern "C" __global__ void resize_rows(Args a) {
  EACH8(i, a.n[0]) {
    Eight x;
    EACH_OF_EIGHT(j) {
      const size_t row = row_of(i + j, a.n[2]), column = i + j - row * a.n[2];
      x.v[j] = i + j < a.n[0] && column < a.n[1] ? get(a, 0, row * a.n[1] + column) : 0.f;
    }
    put8(a, 0, i, a.n[0], x);
  }
}

__device__ __forceinline__ void scale_samples_in_eights(const Args &a) {
  EACH8(i, a.n[0]) {
    Eight x = get8(a, 0, i, a.n[0]);
    const float factor = numbers(a, 1)[row_of(i, a.n[1])];
    EACH_OF_EIGHT(j) x.v[j] *= factor;
    put8(a, 0, i, a.n[0], x);
  }
}

// in: x [samples, each], factors [samples]. n: elements, each. out: x times its sample's factor.
extern "C" __global__ void scale_samples(Args a) {
  if (a.n[1] % 8 == 0) return by_type<scale_samples_in_eights, 0, ROUGH_IN(0) | ROUGH_OUT>(a, true);
  EACH8(i, a.n[0]) {
    Eight x = get8(a, 0, i, a.n[0]);
    EACH_OF_EIGHT(j) if (i + j < a.n[0]) x.v[j] *= numbers(a, 1)[row_of(i + j, a.n[1])];
    put8(a, 0, i, a.n[0], x);
  }
}

// Some samples of a batch. A map has the places of those that are taken in the batch, and behind them for each sample of the
// batch its slot among the taken, or their number if it is not one.
__device__ __forceinline__ const unsigned *map_of(const Args &a, int k) { return (const unsigned *)a.in[k]; }

__device__ __forceinline__ void take_samples_in_eights(const Args &a) {
  EACH8(i, a.n[0]) {
    const size_t slot = row_of(i, a.n[1]), place = map_of(a, 1)[slot];
    Eight x = get8(a, 0, place * a.n[1] + (i - slot * a.n[1]), a.n[2]);
    EACH_OF_EIGHT(j) x.v[j] *= a.f[0];
    put8(a, 0, i, a.n[0], x);
  }
}

// in: x [batch, each], map. n: elements of y, each, elements of x. f: scale. out: y [taken, each].
extern "C" __global__ void take_samples(Args a) {
  if (a.n[1] % 8 == 0)
    return by_type<take_samples_in_eights, 0, ROUGH_OUT, ROUGH_IN(0) | ROUGH_OUT>(a, true);
  EACH8(i, a.n[0]) {
    Eight x;
    EACH_OF_EIGHT(j) {
      const size_t slot = row_of(i + j, a.n[1]), column = i + j - slot * a.n[1];
      x.v[j] = i + j < a.n[0] ? get(a, 0, map_of(a, 1)[slot] * a.n[1] + column) * a.f[0] : 0.f;
    }
    put8(a, 0, i, a.n[0], x);
  }
}

__device__ __forceinline__ void add_samples_in_eights(const Args &a) {
  const size_t taken = a.n[2];
  EACH8(i, a.n[0]) {
    const size_t place = row_of(i, a.n[1]), slot = map_of(a, 2)[taken + place];
    Eight x = {{0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f}};
    if (a.in[0]) x = get8(a, 0, i, a.n[0]);
    if (slot < taken) {
      const Eight branch = get8(a, 1, slot * a.n[1] + (i - place * a.n[1]), taken * a.n[1]);
      EACH_OF_EIGHT(j) x.v[j] += a.f[0] * branch.v[j];
    }
    put8(a, 0, i, a.n[0], x);
  }
}

// in: x [batch, each] or null, branch [taken, each], map. n: elements of x, each, taken. f: scale. out: x or 0, with scale times
// the branch added to the samples that were taken.
extern "C" __global__ void add_samples(Args a) {
  const size_t taken = a.n[2];
  if (a.n[1] % 8 == 0) return by_type<add_samples_in_eights, 0, ROUGH_IN(1)>(a, true);
  EACH8(i, a.n[0]) {
    Eight x;
    EACH_OF_EIGHT(j) {
      x.v[j] = a.in[0] && i + j < a.n[0] ? get(a, 0, i + j) : 0.f;
      const size_t place = row_of(i + j, a.n[1]), column = i + j - place * a.n[1];
      const size_t slot = i + j < a.n[0] ? map_of(a, 2)[taken + place] : taken;
      if (slot < taken) x.v[j] += a.f[0] * get(a, 1, slot * a.n[1] + column);
    }
    put8(a, 0, i, a.n[0], x);
  }
}
