// Columns of a matrix.

// A block of 32 x 8 threads sums one chunk of rows of 32 columns: in: x [rows, width], and for `weighted_column_sums` a
// factor y of the same shape. n: rows, width, rows of a chunk. out: sums of each chunk [chunks, width].
__device__ void sum_columns(const Args &a, const float *weights) {
  __shared__ float sums[8][33];
  const size_t rows = a.n[0], width = a.n[1], chunk = a.n[2];
  const unsigned lane = threadIdx.x % 32, band = threadIdx.x / 32;
  const size_t column = blockIdx.x * (size_t)32 + lane;
  const size_t first = blockIdx.y * chunk, last = first + chunk < rows ? first + chunk : rows;
  float sum = 0.f;
  if (column < width)
    for (size_t row = first + band; row < last; row += 8) {
      float v = a.in[0][row * width + column];
      sum += weights ? v * weights[row * width + column] : v;
    }
  sums[band][lane] = sum;
  __syncthreads();
  if (band == 0 && column < width) {
    float total = 0.f;
    for (int i = 0; i < 8; i++) total += sums[i][lane];
    a.out[0][blockIdx.y * width + column] = total;
  }
}

extern "C" __global__ void column_sums(Args a) { sum_columns(a, nullptr); }
extern "C" __global__ void weighted_column_sums(Args a) { sum_columns(a, a.in[1]); }

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
    a.out[0][blockIdx.y * width + column] = first;
    a.out[1][blockIdx.y * width + column] = second;
  }
}

// in: x [rows, width], shift [channels]. n: rows, width, rows of a chunk, channels.
// out: of each chunk the sums of x - shift, and of its square.
extern "C" __global__ void centred_sums(Args a) {
  sum_two(a, [&a](size_t i, size_t channel) {
    float d = a.in[0][i] - a.in[1][channel];
    return Two{d, d * d};
  });
}

// in: gradient, x [rows, width], mean, 1 / standard deviation [channels]. n: rows, width, rows of a chunk, channels.
// out: of each chunk the sums of the gradient, and of the gradient times normalised x.
extern "C" __global__ void norm_sums(Args a) {
  sum_two(a, [&a](size_t i, size_t channel) {
    float g = a.in[0][i];
    return Two{g, g * (a.in[1][i] - a.in[2][channel]) * a.in[3][channel]};
  });
}

// in: x, mean, scale, offset [channels]. n: elements, channels. out: y.
extern "C" __global__ void normalise(Args a) {
  EACH(i, a.n[0]) {
    size_t channel = i % a.n[1];
    a.out[0][i] = (a.in[0][i] - a.in[1][channel]) * a.in[2][channel] + a.in[3][channel];
  }
}

// in: gradient, x, mean, 1 / standard deviation, scale, the sums of `norm_sums` [channels]. n: elements, channels.
// f: 1 / rows, or 0 where the statistics are no functions of x. out: gradient of x.
extern "C" __global__ void normalise_backward(Args a) {
  EACH(i, a.n[0]) {
    size_t channel = i % a.n[1];
    float normal = (a.in[1][i] - a.in[2][channel]) * a.in[3][channel];
    float inner = a.in[0][i] - (a.in[5][channel] + normal * a.in[6][channel]) * a.f[0];
    a.out[0][i] = inner * a.in[4][channel];
  }
}
