// Element by element.

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
