// Element by element. n[0] is the number of elements throughout.

// What is added to element i and its three neighbours: a vector over the last dimension of `width`, or nothing.
__device__ __forceinline__ Four bias4(const float *bias, size_t i, size_t width) {
  Four b = {{0.f, 0.f, 0.f, 0.f}};
  if (!bias) return b;
  size_t column = i % width;
  EACH_OF_FOUR(j) {
    b.v[j] = bias[column];
    column = column + 1 == width ? 0 : column + 1;
  }
  return b;
}

// in: x, bias [width] or null. n: elements, width. f: slope. out: y.
extern "C" __global__ void bias_leak(Args a) {
  EACH4(i, a.n[0]) {
    Four x = get4(a, 0, i, a.n[0]);
    const Four b = bias4(numbers(a, 1), i, a.n[1]);
    EACH_OF_FOUR(j) {
      const float v = x.v[j] + b.v[j];
      x.v[j] = v > 0.f ? v : v * a.f[0];
    }
    put4(a, 0, i, a.n[0], x);
  }
}

// in: x, bias [width] or null, residual. n: elements, width. out: residual + x + bias.
extern "C" __global__ void bias_residual(Args a) {
  EACH4(i, a.n[0]) {
    Four x = get4(a, 0, i, a.n[0]);
    const Four b = bias4(numbers(a, 1), i, a.n[1]), r = get4(a, 2, i, a.n[0]);
    EACH_OF_FOUR(j) x.v[j] = r.v[j] + (x.v[j] + b.v[j]);
    put4(a, 0, i, a.n[0], x);
  }
}

// in: gradient, output. f: slope. out: gradient before the activation.
extern "C" __global__ void leak_backward(Args a) {
  EACH4(i, a.n[0]) {
    Four g = get4(a, 0, i, a.n[0]);
    const Four y = get4(a, 1, i, a.n[0]);
    EACH_OF_FOUR(j) g.v[j] = y.v[j] > 0.f ? g.v[j] : g.v[j] * a.f[0];
    put4(a, 0, i, a.n[0], g);
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

// in: x, bias [width] or null. n: elements, width, kind. out: y.
extern "C" __global__ void activate(Args a) {
  float slope;
  EACH4(i, a.n[0]) {
    Four x = get4(a, 0, i, a.n[0]);
    const Four b = bias4(numbers(a, 1), i, a.n[1]);
    EACH_OF_FOUR(j) smooth((int)a.n[2], x.v[j] + b.v[j], &x.v[j], &slope);
    put4(a, 0, i, a.n[0], x);
  }
}

// in: x, bias [width] or null, gradient. n: elements, width, kind. out: gradient before the activation.
extern "C" __global__ void activate_backward(Args a) {
  float value, slope;
  EACH4(i, a.n[0]) {
    const Four x = get4(a, 0, i, a.n[0]), b = bias4(numbers(a, 1), i, a.n[1]);
    Four g = get4(a, 2, i, a.n[0]);
    EACH_OF_FOUR(j) {
      smooth((int)a.n[2], x.v[j] + b.v[j], &value, &slope);
      g.v[j] *= slope;
    }
    put4(a, 0, i, a.n[0], g);
  }
}

// in: x, y. out: x + y.
extern "C" __global__ void add(Args a) {
  EACH4(i, a.n[0]) {
    Four x = get4(a, 0, i, a.n[0]);
    const Four y = get4(a, 1, i, a.n[0]);
    EACH_OF_FOUR(j) x.v[j] += y.v[j];
    put4(a, 0, i, a.n[0], x);
  }
}

// in: x. out: the same numbers in the type of the output.
extern "C" __global__ void convert(Args a) {
  EACH4(i, a.n[0]) put4(a, 0, i, a.n[0], get4(a, 0, i, a.n[0]));
}

// in: x [samples, each], factors [samples]. n: elements, each. out: x times its sample's factor.
extern "C" __global__ void scale_samples(Args a) {
  EACH4(i, a.n[0]) {
    Four x = get4(a, 0, i, a.n[0]);
    EACH_OF_FOUR(j) if (i + j < a.n[0]) x.v[j] *= numbers(a, 1)[(i + j) / a.n[1]];
    put4(a, 0, i, a.n[0], x);
  }
}
