// Columns of a matrix.

// A block of 32 x 8 threads sums one chunk of rows of 32 columns: in: x [rows, width], and for `weighted_column_sums` a
// factor y of the same shape. n: rows, width, rows of a chunk. out: sums of each chunk [chunks, width].
__device__ void sum_columns(const Args &a, bool weighted) {
  __shared__ float sums[8][33];
  const size_t rows = a.n[0], width = a.n[1], chunk = a.n[2];
  const unsigned lane = threadIdx.x % 32, band = threadIdx.x / 32;
  const size_t column = blockIdx.x * (size_t)32 + lane;
  const size_t first = blockIdx.y * chunk, last = first + chunk < rows ? first + chunk : rows;
  float sum = 0.f;
  if (column < width)
    for (size_t row = first + band; row < last; row += 8) {
      const float v = get(a, 0, row * width + column);
      sum += weighted ? v * get(a, 1, row * width + column) : v;
    }
  sums[band][lane] = sum;
  __syncthreads();
  if (band == 0 && column < width) {
    float total = 0.f;
    for (int i = 0; i < 8; i++) total += sums[i][lane];
    put(a, 0, blockIdx.y * width + column, total);
  }
}

extern "C" __global__ void column_sums(Args a) { sum_columns(a, false); }
extern "C" __global__ void weighted_column_sums(Args a) { sum_columns(a, true); }

// ---- batch norm: columns are channels ----

// As `sum_columns`, of two quantities at once. `width` may be several rows of `channels` columns.
struct Two {
  float first, second;
};

template <class Quantity>
__device__ void sum_two(const Args &a, Quantity quantity) {
  __shared__ float firsts[8][33];
  __shared__ float seconds[8][33];
  const size_t rows = a.n[0], width = a.n[1], chunk = a.n[2];
  const unsigned lane = threadIdx.x % 32, band = threadIdx.x / 32;
  const size_t column = blockIdx.x * (size_t)32 + lane;
  const size_t start = blockIdx.y * chunk, end = start + chunk < rows ? start + chunk : rows;
  float first = 0.f, second = 0.f;
  if (column < width)
    for (size_t row = start + band; row < end; row += 8) {
      Two v = quantity(row * width + column, column % a.n[3]);
      first += v.first;
      second += v.second;
    }
  firsts[band][lane] = first;
  seconds[band][lane] = second;
  __syncthreads();
  if (band == 0 && column < width) {
    first = second = 0.f;
    for (int i = 0; i < 8; i++) first += firsts[i][lane], second += seconds[i][lane];
    put(a, 0, blockIdx.y * width + column, first);
    put(a, 1, blockIdx.y * width + column, second);
  }
}

// in: x [rows, width], shift [channels]. n: rows, width, rows of a chunk, channels.
// out: of each chunk the sums of x - shift, and of its square.
extern "C" __global__ void centred_sums(Args a) {
  sum_two(a, [&a](size_t i, size_t channel) {
    const float d = get(a, 0, i) - numbers(a, 1)[channel];
    return Two{d, d * d};
  });
}

// in: gradient, x [rows, width], mean, 1 / standard deviation [channels]. n: rows, width, rows of a chunk, channels.
// out: of each chunk the sums of the gradient, and of the gradient times normalised x.
extern "C" __global__ void norm_sums(Args a) {
  sum_two(a, [&a](size_t i, size_t channel) {
    const float g = get(a, 0, i);
    return Two{g, g * (get(a, 1, i) - numbers(a, 2)[channel]) * numbers(a, 3)[channel]};
  });
}

// in: gradient, x [rows, channels], statistics of the rows [rows, 2]. n: rows, channels, rows of a chunk, channels.
// out: of each chunk the sums of the gradient, and of the gradient times normalised x: the gradients of a layer norm's
// offset and gain.
extern "C" __global__ void layer_norm_sums(Args a) {
  sum_two(a, [&a](size_t i, size_t) {
    const float g = get(a, 0, i), *row = numbers(a, 2) + i / a.n[3] * 2;
    return Two{g, g * (get(a, 1, i) - row[0]) * row[1]};
  });
}

// in: x, mean, scale, offset [channels]. n: elements, channels. out: y.
extern "C" __global__ void normalise(Args a) {
  EACH4(i, a.n[0]) {
    Four x = get4(a, 0, i, a.n[0]);
    const Four mean = bias4(numbers(a, 1), i, a.n[1]), scale = bias4(numbers(a, 2), i, a.n[1]);
    const Four offset = bias4(numbers(a, 3), i, a.n[1]);
    EACH_OF_FOUR(j) x.v[j] = (x.v[j] - mean.v[j]) * scale.v[j] + offset.v[j];
    put4(a, 0, i, a.n[0], x);
  }
}

// in: gradient, x, mean, 1 / standard deviation, scale, the sums of `norm_sums` [channels]. n: elements, channels.
// f: 1 / rows, or 0 where the statistics are no functions of x. out: gradient of x.
extern "C" __global__ void normalise_backward(Args a) {
  EACH4(i, a.n[0]) {
    Four g = get4(a, 0, i, a.n[0]);
    const Four x = get4(a, 1, i, a.n[0]);
    const Four mean = bias4(numbers(a, 2), i, a.n[1]), rstd = bias4(numbers(a, 3), i, a.n[1]);
    const Four scale = bias4(numbers(a, 4), i, a.n[1]);
    const Four sums = bias4(numbers(a, 5), i, a.n[1]), inner = bias4(numbers(a, 6), i, a.n[1]);
    EACH_OF_FOUR(j) {
      const float normal = (x.v[j] - mean.v[j]) * rstd.v[j];
      g.v[j] = (g.v[j] - (sums.v[j] + normal * inner.v[j]) * a.f[0]) * scale.v[j];
    }
    put4(a, 0, i, a.n[0], g);
  }
}
