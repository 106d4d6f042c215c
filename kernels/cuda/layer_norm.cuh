// Layer normalisation. LANES lanes of a warp share a row and keep it in registers, each RUNS runs of four columns: rows of up
// to 4 * LANES * RUNS elements. A lane has the same columns of every row, so that sums over rows stay in registers too.

#define EACH_RUN(k) _Pragma("unroll") for (int k = 0; k < RUNS; k++)

// A thread's share of a matrix: its rows, and of each the runs of columns from `column(k)`.
template <int LANES, int RUNS> struct Share {
  const size_t rows, width;
  const float per_column;
  const unsigned lane, group, groups;
  const bool whole;

  __device__ explicit Share(const Args &a)
      : rows(a.n[0]), width(a.n[1]), per_column(1.f / a.n[1]), lane(threadIdx.x % LANES), group(threadIdx.x / LANES),
        groups(blockDim.x / LANES), whole(a.n[1] % 4 == 0) {}

  __device__ unsigned column(int k) const { return (lane + k * LANES) * 4; }
  // How many columns there are from run k on, in a row that exists.
  __device__ unsigned left(int k, bool exists) const {
    return exists && column(k) < width ? (unsigned)width - column(k) : 0u;
  }
};

// The same number of rows for all threads of a block, so that they meet; the last may not exist.
#define EACH_ROW_OF(share, row)                                                                       \
  for (size_t row = blockIdx.x * (size_t)share.groups + share.group; row - share.group < share.rows; \
       row += (size_t)gridDim.x * share.groups)

// in: x [rows, width], gain, offset [width]. n: rows, width. f: eps. out: y, of each row the mean and
// 1 / standard deviation [rows, 2].
template <int LANES, int RUNS> __device__ __forceinline__ void normalise_rows(const Args &a) {
  const Share<LANES, RUNS> at(a);
  Four gain[RUNS], offset[RUNS];
  EACH_RUN(k) {
    gain[k] = some4(a, 1, at.column(k), at.left(k, true), at.whole);
    offset[k] = some4(a, 2, at.column(k), at.left(k, true), at.whole);
  }
  EACH_ROW_OF(at, row) {
    const bool exists = row < at.rows;
    Four x[RUNS];
    float sum = 0.f, squares = 0.f;
    EACH_RUN(k) x[k] = some4(a, 0, row * at.width + at.column(k), at.left(k, exists), at.whole);
    EACH_RUN(k) EACH_OF_FOUR(j) sum += x[k].v[j];
    // Divided: equal numbers have no deviation.
    const float mean = lanes_sum<LANES>(sum) / at.width;
    EACH_RUN(k) EACH_OF_FOUR(j) {
      const float d = (unsigned)j < at.left(k, exists) ? x[k].v[j] - mean : 0.f;
      x[k].v[j] = d;
      squares += d * d;
    }
    const float rstd = 1.f / sqrtf(lanes_sum<LANES>(squares) * at.per_column + a.f[0]);
    EACH_RUN(k) {
      EACH_OF_FOUR(j) x[k].v[j] = x[k].v[j] * rstd * gain[k].v[j] + offset[k].v[j];
      put_some4(a, 0, row * at.width + at.column(k), at.left(k, exists), at.whole, x[k]);
    }
    if (exists && at.lane == 0) {
      put(a, 1, 2 * row, mean);
      put(a, 1, 2 * row + 1, rstd);
    }
  }
}

// The sums over a block's rows of what each of its threads found for its columns, into `to` of output 1.
template <int LANES, int RUNS>
__device__ __forceinline__ void put_sums(const Args &a, const Share<LANES, RUNS> &at, const Four *sums, size_t to) {
  __shared__ float warps[8][4 * LANES * RUNS];
  __syncthreads();
  EACH_RUN(k) EACH_OF_FOUR(j) {
    float sum = sums[k].v[j];
    for (int apart = LANES; apart < 32; apart *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
    if (threadIdx.x % 32 < LANES) warps[threadIdx.x / 32][at.column(k) + j] = sum;
  }
  __syncthreads();
  for (unsigned c = threadIdx.x; c < at.width; c += blockDim.x) {
    float sum = 0.f;
    for (int warp = 0; warp < 8; warp++) sum += warps[warp][c];
    put(a, 1, to + c, sum);
  }
}

// in: gradient, x, gain, statistics [rows, 2], another gradient of x or null. n: rows, width.
// out: gradient of x and the other one, of each block the gradients of offset and gain [blocks, 2, width].
template <int LANES, int RUNS> __device__ __forceinline__ void normalise_rows_backward(const Args &a) {
  const Share<LANES, RUNS> at(a);
  Four gain[RUNS], offset_sums[RUNS], gain_sums[RUNS];
  EACH_RUN(k) {
    gain[k] = some4(a, 2, at.column(k), at.left(k, true), at.whole);
    EACH_OF_FOUR(j) offset_sums[k].v[j] = gain_sums[k].v[j] = 0.f;
  }
  EACH_ROW_OF(at, row) {
    const bool exists = row < at.rows;
    const float mean = exists ? numbers(a, 3)[2 * row] : 0.f, rstd = exists ? numbers(a, 3)[2 * row + 1] : 0.f;
    Four g[RUNS], normal[RUNS], x[RUNS];
    EACH_RUN(k) {
      const size_t i = row * at.width + at.column(k);
      g[k] = some4(a, 0, i, at.left(k, exists), at.whole);
      normal[k] = some4(a, 1, i, at.left(k, exists), at.whole);
      EACH_OF_FOUR(j) x[k].v[j] = 0.f;
    }
    // Read with the others, and before any is used.
    if (a.in[4]) EACH_RUN(k) x[k] = some4(a, 4, row * at.width + at.column(k), at.left(k, exists), at.whole);
    float sum = 0.f, inner = 0.f;
    EACH_RUN(k) EACH_OF_FOUR(j) {
      normal[k].v[j] = (unsigned)j < at.left(k, exists) ? (normal[k].v[j] - mean) * rstd : 0.f;
      offset_sums[k].v[j] += g[k].v[j];
      gain_sums[k].v[j] += g[k].v[j] * normal[k].v[j];
      g[k].v[j] *= gain[k].v[j];
      sum += g[k].v[j];
      inner += g[k].v[j] * normal[k].v[j];
    }
    sum = lanes_sum<LANES>(sum) * at.per_column;
    inner = lanes_sum<LANES>(inner) * at.per_column;
    EACH_RUN(k) {
      EACH_OF_FOUR(j) x[k].v[j] += (g[k].v[j] - sum - normal[k].v[j] * inner) * rstd;
      put_some4(a, 0, row * at.width + at.column(k), at.left(k, exists), at.whole, x[k]);
    }
  }
  put_sums<LANES, RUNS>(a, at, offset_sums, 2 * blockIdx.x * at.width);
  put_sums<LANES, RUNS>(a, at, gain_sums, (2 * blockIdx.x + 1) * at.width);
}

// Of a kernel: lanes, runs, the widest row; and how many of its blocks, forward and backward, are to be on a multiprocessor at
// once, which bounds the registers of a thread: what is under way there must cover the memory's latency.
#define LAYER_NORM(lanes, runs, width, blocks, backward_blocks)                                                  \
  extern "C" __global__ void __launch_bounds__(256, blocks) layer_norm_##width(Args a) {                         \
    const bool whole = a.n[1] % 4 == 0;                                                                          \
    by_type<normalise_rows<lanes, runs>, 0, ROUGH_OUT, ROUGH_IN(0) | ROUGH_OUT>(a, whole);                       \
  }                                                                                                              \
  extern "C" __global__ void __launch_bounds__(256, backward_blocks) layer_norm_backward_##width(Args a) {       \
    const bool whole = a.n[1] % 4 == 0;                                                                          \
    by_type<normalise_rows_backward<lanes, runs>, 0, ROUGH_IN(0), ROUGH_IN(1) | ROUGH_OUT>(a, whole);            \
  }
LAYER_NORM(8, 1, 32, 6, 4)
LAYER_NORM(8, 2, 64, 4, 3)
LAYER_NORM(16, 2, 128, 4, 3)
LAYER_NORM(32, 2, 256, 4, 3)
LAYER_NORM(32, 4, 512, 3, 2)
LAYER_NORM(32, 8, 1024, 1, 1)
