// Columns of a matrix.

// Kernels of sums: a block of 256 threads sums one chunk of rows, LANES of them the columns of a row, four each; the others have
// rows of their own. Many rows take LANES 32, as one run of memory; what chunks leave is few rows, and takes 8, so that more
// blocks have less to wait for.
// n: rows, width, rows of a chunk. out: of each chunk the sums of each quantity [chunks, quantities, width].

// Four neighbours of a row, from element i, as far as the row goes.
struct Place {
  size_t i, column;
  unsigned left;
  bool whole;
};

__device__ __forceinline__ Four at4(const Args &a, int k, const Place &place) {
  return some4(a, k, place.i, place.left, place.whole);
}

// Sums of COUNT quantities at once: `quantity` gives those of a place, and `then` may write what was found there. A thread reads
// AT_ONCE rows before it adds up the first of them; a chunk has 64 rows mostly, 8 for each warp.
template <int COUNT, int AT_ONCE, int LANES, class Quantity, class Then>
__device__ __forceinline__ void sum_columns(const Args &a, Quantity quantity, Then then) {
  __shared__ float sums[COUNT][8][4 * LANES];
  const size_t rows = a.n[0], width = a.n[1], chunk = a.n[2];
  const unsigned lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
  const int groups = 256 / LANES;
  const size_t column = blockIdx.x * (size_t)(4 * LANES) + 4 * lane;
  const size_t first = blockIdx.y * chunk, last = first + chunk < rows ? first + chunk : rows;
  const unsigned left = column < width ? (unsigned)(width - column < 4 ? width - column : 4) : 0u;
  Four mine[COUNT];
  for (int q = 0; q < COUNT; q++) EACH_OF_FOUR(j) mine[q].v[j] = 0.f;
  if (left)
    for (size_t row = first + group; row < last; row += groups * AT_ONCE) {
      Four found[AT_ONCE][COUNT];
      // Beyond the last row this one again: what is made of a read would stand behind a test with it, and the next would wait.
      const auto place = [&](int r) {
        const size_t there = row + r * groups < last ? row + r * groups : row;
        return Place{there * width + column, column, left, width % 4 == 0};
      };
      _Pragma("unroll") for (int r = 0; r < AT_ONCE; r++) quantity(place(r), found[r]);
      _Pragma("unroll") for (int r = 0; r < AT_ONCE; r++) {
        const bool counts = row + r * groups < last;
        then(place(r), found[r]);
        for (int q = 0; q < COUNT; q++) EACH_OF_FOUR(j) mine[q].v[j] += counts ? found[r][q].v[j] : 0.f;
      }
    }
  for (int q = 0; q < COUNT; q++) EACH_OF_FOUR(j) {
    float sum = mine[q].v[j];
    for (int apart = LANES; apart < 32; apart *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
    if (threadIdx.x % 32 < LANES) sums[q][threadIdx.x / 32][4 * lane + j] = sum;
  }
  __syncthreads();
  const size_t ours = blockIdx.x * (size_t)(4 * LANES) + threadIdx.x;
  if (threadIdx.x >= 4 * LANES || ours >= width) return;
  for (int q = 0; q < COUNT; q++) {
    float total = 0.f;
    for (int warp = 0; warp < 8; warp++) total += sums[q][warp][threadIdx.x];
    put(a, 0, (blockIdx.y * (size_t)COUNT + q) * width + ours, total);
  }
}

template <int COUNT, int AT_ONCE, int LANES, class Quantity>
__device__ __forceinline__ void sum_columns(const Args &a, Quantity quantity) {
  sum_columns<COUNT, AT_ONCE, LANES>(a, quantity, [](const Place &, const Four *) {});
}

// Whether there are only whole runs of four columns.
__device__ __forceinline__ bool in_fours(const Args &a) { return a.n[1] % 4 == 0; }

template <int LANES> __device__ __forceinline__ void column_sums_body(const Args &a) {
  sum_columns<1, 8, LANES>(a, [&a](const Place &at, Four *sum) { *sum = at4(a, 0, at); });
}

// in: x [rows, width].
extern "C" __global__ void column_sums(Args a) { by_type<column_sums_body<32>, 0, ROUGH_IN(0)>(a, in_fours(a)); }

// The same by blocks of fewer columns, for the few rows that chunks leave, which are f32.
extern "C" __global__ void column_sums_of_chunks(Args a) { by_type<column_sums_body<8>, 0>(a, in_fours(a)); }

__device__ __forceinline__ void column_sums_and_rounded_body(const Args &a) {
  sum_columns<1, 8, 32>(
      a, [&a](const Place &at, Four *sum) { *sum = at4(a, 0, at); },
      // Not with the reads: a store may be to what is read next, for all that the compiler knows.
      [&a](const Place &at, const Four *x) { put_some4(a, 1, at.i, at.left, at.whole, *x); });
}

// in: x [rows, width]. out: beside the sums x in the type of output 1.
extern "C" __global__ void column_sums_and_rounded(Args a) {
  by_type<column_sums_and_rounded_body, ROUGH_OUT << 1>(a, in_fours(a));
}

__device__ __forceinline__ void weighted_column_sums_body(const Args &a) {
  sum_columns<1, 8, 32>(a, [&a](const Place &at, Four *sum) {
    const Four x = at4(a, 0, at), y = at4(a, 1, at);
    EACH_OF_FOUR(j) sum->v[j] = x.v[j] * y.v[j];
  });
}

// in: x [rows, width], a factor y of the same shape.
extern "C" __global__ void weighted_column_sums(Args a) {
  by_type<weighted_column_sums_body, 0, ROUGH_IN(0) | ROUGH_IN(1)>(a, in_fours(a));
}

// The way back through an activation, whose value is made again. A thread takes AT_ONCE rows, so that all of them are read
// before one is used. KIND as in `activate_body`.
#define HIDDEN_IN_BF16 (ROUGH_IN(0) | ROUGH_IN(2) | ROUGH_OUT << 1 | ROUGH_OUT << 2)
// A block has rows of 128 columns in eight bands of 32 threads.
#define BANDS 8
#define BAND (4 * 32)
#define EACH_ROW_AT_ONCE(r) _Pragma("unroll") for (int r = 0; r < AT_ONCE; r++)

template <int KIND, int AT_ONCE> __device__ __forceinline__ void through_hidden_body(const Args &a) {
  __shared__ float sums[BANDS][BAND];
  const size_t rows = a.n[0], width = a.n[1], chunk = a.n[2];
  const int kind = KIND < 0 ? (int)a.n[3] : KIND;
  const unsigned lane = threadIdx.x % 32, band = threadIdx.x / 32;
  const size_t column = blockIdx.x * (size_t)BAND + 4 * lane;
  const size_t first = blockIdx.y * chunk, last = first + chunk < rows ? first + chunk : rows;
  const unsigned left = column < width ? (unsigned)(width - column < 4 ? width - column : 4) : 0u;
  const bool whole = width % 4 == 0;
  Four bias = {{0.f, 0.f, 0.f, 0.f}}, mine = bias;
  if (a.in[1]) bias = some4(a, 1, column, left, whole);
  for (size_t row = first + band; row < last; row += BANDS * AT_ONCE) {
    Four x[AT_ONCE], g[AT_ONCE];
    EACH_ROW_AT_ONCE(r) {
      const unsigned here = row + r * BANDS < last ? left : 0u;
      x[r] = some4(a, 0, (row + r * BANDS) * width + column, here, whole);
      g[r] = some4(a, 2, (row + r * BANDS) * width + column, here, whole);
    }
    EACH_ROW_AT_ONCE(r) {
      const unsigned here = row + r * BANDS < last ? left : 0u;
      EACH_OF_FOUR(j) {
        float value, slope;
        smooth(kind, is_rough(a, 9), x[r].v[j] + bias.v[j], &value, &slope);
        x[r].v[j] = value;
        g[r].v[j] *= slope;
        mine.v[j] += g[r].v[j];
      }
      put_some4(a, 1, (row + r * BANDS) * width + column, here, whole, g[r]);
      put_some4(a, 2, (row + r * BANDS) * width + column, here, whole, x[r]);
    }
  }
  EACH_OF_FOUR(j) sums[band][4 * lane + j] = mine.v[j];
  __syncthreads();
  const size_t ours = blockIdx.x * (size_t)BAND + threadIdx.x;
  if (threadIdx.x >= BAND || ours >= width) return;
  float total = 0.f;
  for (int i = 0; i < BANDS; i++) total += sums[i][threadIdx.x];
  put(a, 0, blockIdx.y * width + ours, total);
}

// in: x [rows, width], bias [width] or null, gradient. n: rows, width, rows of a chunk, kind. out: of each chunk the sums of
// the gradient before the activation [chunks, width], that gradient, the activation's value.
extern "C" __global__ void __launch_bounds__(256, 3) through_hidden(Args a) {
  if (a.n[3] == GELU_ERF)
    by_type<through_hidden_body<GELU_ERF, 4>, 0, HIDDEN_IN_BF16>(a, in_fours(a));
  else if (a.n[3] == GELU_TANH)
    by_type<through_hidden_body<GELU_TANH, 4>, 0, HIDDEN_IN_BF16>(a, in_fours(a));
  else
    through_hidden_body<-1, 1>(a);
}

// ---- batch norm: columns are channels, or those of several rows side by side ----

// An element of a vector over channels for each of a place's columns.
__device__ __forceinline__ Four channels4(const Args &a, int k, const Place &at) {
  Four x;
  EACH_OF_FOUR(j) x.v[j] = (unsigned)j < at.left ? numbers(a, k)[(unsigned)(at.column + j) % (unsigned)a.n[3]] : 0.f;
  return x;
}

__device__ __forceinline__ void centred_sums_body(const Args &a) {
  sum_columns<2, 8, 32>(a, [&a](const Place &at, Four *sums) {
    const Four x = at4(a, 0, at), total = channels4(a, 1, at);
    EACH_OF_FOUR(j) {
      const float d = x.v[j] - product(total.v[j], a.f[0]);
      sums[0].v[j] = d;
      sums[1].v[j] = d * d;
    }
  });
}

// in: x [rows, width], the sums of its columns [channels]. n: rows, width, rows of a chunk, channels. f: 1 / all rows.
// out: of each chunk the sums of x - mean, and of its square.
extern "C" __global__ void centred_sums(Args a) {
  by_type<centred_sums_body, 0, ROUGH_IN(0)>(a, in_fours(a));
}

__device__ __forceinline__ void norm_sums_body(const Args &a) {
  sum_columns<2, 4, 32>(a, [&a](const Place &at, Four *sums) {
    const Four g = at4(a, 0, at), x = at4(a, 1, at), mean = channels4(a, 2, at), rstd = channels4(a, 3, at);
    sums[0] = g;
    EACH_OF_FOUR(j) sums[1].v[j] = g.v[j] * (x.v[j] - mean.v[j]) * rstd.v[j];
  });
}

// in: gradient, x [rows, width], mean, 1 / standard deviation [channels]. n: rows, width, rows of a chunk, channels.
// out: of each chunk the sums of the gradient, and of the gradient times normalised x.
extern "C" __global__ void norm_sums(Args a) {
  by_type<norm_sums_body, 0, ROUGH_IN(0) | ROUGH_IN(1)>(a, in_fours(a));
}

// in: the sums of x [channels], of x - mean and of its square [2, channels], gain [channels]. n: channels. f: 1 / rows, eps.
// out: mean, variance, 1 / standard deviation, and that times the gain.
extern "C" __global__ void batch_statistics(Args a) {
  EACH(i, a.n[0]) {
    const float mean = product(numbers(a, 0)[i], a.f[0]), square = numbers(a, 1)[a.n[0] + i] * a.f[0];
    // What rounding left of the mean.
    const float lost = numbers(a, 1)[i] * a.f[0], spread = square - lost * lost;
    // A NaN stays one.
    const float variance = spread < 0.f ? 0.f : spread, rstd = 1.f / sqrtf(variance + a.f[1]);
    put(a, 0, i, mean + lost);
    put(a, 1, i, variance);
    put(a, 2, i, rstd);
    put(a, 3, i, rstd * numbers(a, 2)[i]);
  }
}

__device__ __forceinline__ void normalise_body(const Args &a) {
  EACH8(i, a.n[0]) {
    Eight x = get8(a, 0, i, a.n[0]);
    const Eight mean = vector8(a, 1, i, a.n[1]), scale = vector8(a, 2, i, a.n[1]);
    const Eight offset = vector8(a, 3, i, a.n[1]);
    EACH_OF_EIGHT(j) x.v[j] = (x.v[j] - mean.v[j]) * scale.v[j] + offset.v[j];
    put8(a, 0, i, a.n[0], x);
  }
}

// in: x, mean, scale, offset [channels]. n: elements, channels. out: y.
extern "C" __global__ void normalise(Args a) {
  by_type<normalise_body, 0, ROUGH_IN(0) | ROUGH_OUT>(a, in_eights(a, true));
}

__device__ __forceinline__ void normalise_backward_body(const Args &a) {
  EACH8(i, a.n[0]) {
    Eight g = get8(a, 0, i, a.n[0]);
    const Eight x = get8(a, 1, i, a.n[0]);
    const Eight mean = vector8(a, 2, i, a.n[1]), rstd = vector8(a, 3, i, a.n[1]);
    const Eight scale = vector8(a, 4, i, a.n[1]);
    const Eight sums = vector8(a, 5, i, a.n[1]), inner = vector8(a, 6, i, a.n[1]);
    EACH_OF_EIGHT(j) {
      const float normal = (x.v[j] - mean.v[j]) * rstd.v[j];
      g.v[j] = (g.v[j] - (sums.v[j] + normal * inner.v[j]) * a.f[0]) * scale.v[j];
    }
    put8(a, 0, i, a.n[0], g);
  }
}

// in: gradient, x, mean, 1 / standard deviation, scale, the sums of `norm_sums` [channels]. n: elements, channels.
// f: 1 / rows, or 0 where the statistics are no functions of x. out: gradient of x.
extern "C" __global__ void normalise_backward(Args a) {
  by_type<normalise_backward_body, 0, ROUGH_IN(0) | ROUGH_IN(1) | ROUGH_OUT>(a, in_eights(a) && a.n[1] % 8 == 0);
}
