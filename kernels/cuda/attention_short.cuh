// Softmax attention of sequences of at most 64 tokens by the matrix units, in memory for 64 or for 16: a block of threads has a
// whole head, so that every row of scores is complete and nothing is kept for the backward pass but the operands. See
// `attention_bf16.cuh` for sizes, layouts and the parts. A warp has 16 rows.

#define SHORT 64
#define WEIGHT_STEP (SHORT + 8)

// 16 tokens from `first` of a tile as a left factor.
template <int SIZE>
__device__ __forceinline__ void left_rows(const Rough &at, Half (*rows)[ROW_STEP], unsigned first, unsigned (*left)[4]) {
  _Pragma("unroll") for (int s = 0; s < HEAD_STEPS; s++)
      load_along(left[s], &rows[first + at.lane % 16][s * 16 + at.lane / 16 * 8]);
}

// What a thread has of a whole head on its way into shared memory: SIZE / 16 runs, since a block has 32 threads for 16 tokens.
#define HEAD_RUNS (SIZE / 16)

// Reads a thread's runs; what does not exist is 0. Nothing waits here: an operand is stored when all of them are read.
template <int SIZE>
__device__ __forceinline__ void read_all(const Rough &at, const Args &a, const Head &h, Run *found) {
  const unsigned runs = whole(at.head) / RUN;
  if (in_runs(at, a, h)) {
    _Pragma("unroll") for (int k = 0; k < HEAD_RUNS; k++) {
      const unsigned i = threadIdx.x + k * blockDim.x, token = i / runs, d = i % runs * RUN;
      found[k] = {{0u, 0u, 0u, 0u}};
      if (token < at.tokens && d < at.head)
        found[k] = *(const Run *)((const Half *)a.in[h.in] + h.first + token * h.step + d);
    }
    return;
  }
  _Pragma("unroll") for (int k = 0; k < HEAD_RUNS; k++) {
    const unsigned i = threadIdx.x + k * blockDim.x;
    _Pragma("unroll") for (int j = 0; j < RUN / 2; j++) found[k].v[j] = two(at, a, h, i / runs, i % runs * RUN + 2 * j);
  }
}

// Stores them, as far as they are used.
template <int SIZE>
__device__ __forceinline__ void write_all(const Rough &at, const Run *found, Half (*rows)[ROW_STEP]) {
  const unsigned runs = whole(at.head) / RUN, count = whole(at.tokens) * runs;
  _Pragma("unroll") for (int k = 0; k < HEAD_RUNS; k++) {
    const unsigned i = threadIdx.x + k * blockDim.x;
    if (i < count) *(Run *)&rows[i / runs][i % runs * RUN] = found[k];
  }
}

// sums [2][16 x TILE] = left [16 x head] times the transpose of `rows`.
template <int SIZE>
__device__ __forceinline__ void times_all_rows(const Rough &at, const unsigned (*left)[4], Half (*rows)[ROW_STEP],
                                               float (*sums)[TILE_PARTS][4]) {
  times_rows<SIZE>(at, left, rows, 0, sums[0]);
  times_rows<SIZE>(at, left, rows + TILE, TILE, sums[1]);
}

#define EACH_WEIGHT(half, part, j)                                                                                  \
  _Pragma("unroll") for (int half = 0; half < 2; half++) _Pragma("unroll") for (int part = 0; part < TILE_PARTS; part++) \
      EACH_OF_FOUR(j)

// The probabilities of 16 queries, in place of their scores.
__device__ __forceinline__ void probabilities(const Rough &at, float scale, float (*scores)[TILE_PARTS][4]) {
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};
  EACH_WEIGHT(half, part, j) {
    const unsigned column = half * TILE + part * 8 + 2 * at.t + j % 2;
    float *score = &scores[half][part][j];
    *score = column < at.tokens ? *score * scale : -INFINITY;
    top[j / 2] = fmaxf(top[j / 2], *score);
  }
  top[0] = row_max(top[0]), top[1] = row_max(top[1]);
  EACH_WEIGHT(half, part, j) {
    float *score = &scores[half][part][j];
    *score = quick_exp(*score - top[j / 2]);
    sum[j / 2] += *score;
  }
  sum[0] = 1.f / row_sum(sum[0]), sum[1] = 1.f / row_sum(sum[1]);
  EACH_WEIGHT(half, part, j) scores[half][part][j] *= sum[j / 2];
}

// Rows first + g and first + g + 8 of a warp's weights into shared memory.
__device__ __forceinline__ void keep_weights(const Rough &at, const float (*weights)[TILE_PARTS][4], unsigned first,
                                             Half (*to)[WEIGHT_STEP]) {
  _Pragma("unroll") for (int half = 0; half < 2; half++) _Pragma("unroll") for (int part = 0; part < TILE_PARTS; part++) {
    const float *w = weights[half][part];
    const unsigned column = half * TILE + part * 8 + 2 * at.t;
    *(unsigned *)&to[first + at.g][column] = pair(w[0], w[1]);
    *(unsigned *)&to[first + at.g + 8][column] = pair(w[2], w[3]);
  }
}

// sums [16 x head] += the transpose of columns first to first + 15 of `weights`, times `rows`.
template <int SIZE>
__device__ __forceinline__ void times_across(const Rough &at, Half (*weights)[WEIGHT_STEP], Half (*rows)[ROW_STEP],
                                             unsigned first, float (*sums)[4]) {
  _Pragma("unroll") for (int s = 0; s < SHORT / 16; s++) {
    if (s * 16 >= at.tokens) continue;
    unsigned left[4];
    load_across(left, &weights[s * 16 + at.lane / 16 * 8 + at.lane % 8][first + at.lane / 8 % 2 * 8]);
    times_tokens<SIZE>(at, left, rows + s * 16, sums);
  }
}

// A warp's 16 rows, by way of its rows of `rows`, where operand `h` has them in output `out`.
template <int SIZE>
__device__ __forceinline__ void put_tile(const Rough &at, const Args &a, int out, const Head &h, unsigned first,
                                         const float (*sums)[4], Half (*rows)[ROW_STEP]) {
  if (!is_rough(a, 8 + out) || !a.aligned || (h.first | h.step | at.head) % RUN != 0) {
    const float ones[2] = {1.f, 1.f};
    put_rows<SIZE>(at, a, out, h, first, sums, ones);
    return;
  }
  _Pragma("unroll") for (int part = 0; part < HEAD_PARTS; part++) {
    const unsigned d = part * 8 + 2 * at.t;
    *(unsigned *)&rows[first + at.g][d] = pair(sums[part][0], sums[part][1]);
    *(unsigned *)&rows[first + at.g + 8][d] = pair(sums[part][2], sums[part][3]);
  }
  __syncwarp();
  const unsigned runs = at.head / RUN;
  for (unsigned i = at.lane; i < ROWS_A_MATRIX * runs; i += 32) {
    const unsigned token = first + i / runs, d = i % runs * RUN;
    if (token < at.tokens) *(Run *)((Half *)a.out[out] + h.first + token * h.step + d) = *(const Run *)&rows[token][d];
  }
  __syncwarp();
}

// in: queries, keys and values. out: y [sequences, tokens, heads * elements]. Blocks: sequences * heads.
template <int SIZE, int TOKENS> __device__ __forceinline__ void attend_short(const Args &a) {
  alignas(16) __shared__ Half queries[TOKENS][ROW_STEP];
  alignas(16) __shared__ Half keys[TOKENS][ROW_STEP];
  alignas(16) __shared__ Half values[TOKENS][ROW_STEP];
  const Rough at(a);
  const size_t index = blockIdx.x % a.n[2];
  const unsigned first = at.warp * ROWS_A_MATRIX;
  Run found[3][HEAD_RUNS];
  read_all<SIZE>(at, a, at.queries(a, index), found[0]);
  read_all<SIZE>(at, a, at.keys(a, index), found[1]);
  read_all<SIZE>(at, a, at.values(a, index), found[2]);
  write_all<SIZE>(at, found[0], queries);
  write_all<SIZE>(at, found[1], keys);
  write_all<SIZE>(at, found[2], values);
  __syncthreads();
  unsigned left[HEAD_STEPS][4];
  float weights[2][TILE_PARTS][4], y[HEAD_PARTS][4];
  left_rows<SIZE>(at, queries, first, left);
  times_all_rows<SIZE>(at, left, keys, weights);
  probabilities(at, a.f[0], weights);
  CLEAR(y, HEAD_PARTS);
  times_tile<SIZE>(at, weights[0], values, 0, y);
  times_tile<SIZE>(at, weights[1], values + TILE, TILE, y);
  __syncthreads();
  put_tile<SIZE>(at, a, 0, at.output(a, 0, index), first, y, queries);
}

// in: queries, keys and values, gradient of y. out: the gradients, laid out as the operands: of queries, and in another
// output if they are shared, of keys and values. Blocks: sequences * heads, or sequences where heads share keys and values.
template <int SIZE, int TOKENS> __device__ __forceinline__ void attend_short_backward(const Args &a) {
  alignas(16) __shared__ Half queries[TOKENS][ROW_STEP];
  alignas(16) __shared__ Half keys[TOKENS][ROW_STEP];
  alignas(16) __shared__ Half values[TOKENS][ROW_STEP];
  alignas(16) __shared__ Half grads[TOKENS][ROW_STEP];
  alignas(16) __shared__ Half kept[TOKENS][WEIGHT_STEP];
  Rough at(a);
  const size_t head = at.shared ? 0 : blockIdx.x % a.n[2], last = at.shared ? a.n[2] : head + 1;
  if (at.shared) at.sequence = blockIdx.x;
  const unsigned first = at.warp * ROWS_A_MATRIX;
  Run own[2][HEAD_RUNS];
  {
    Run common[2][HEAD_RUNS];
    read_all<SIZE>(at, a, at.keys(a, head), common[0]);
    read_all<SIZE>(at, a, at.values(a, head), common[1]);
    read_all<SIZE>(at, a, at.queries(a, head), own[0]);
    read_all<SIZE>(at, a, at.output(a, 2, head), own[1]);
    write_all<SIZE>(at, common[0], keys);
    write_all<SIZE>(at, common[1], values);
  }
  float dk[HEAD_PARTS][4], dv[HEAD_PARTS][4];
  CLEAR(dk, HEAD_PARTS);
  CLEAR(dv, HEAD_PARTS);
  for (size_t index = head; index < last; index++) {
    __syncthreads();
    write_all<SIZE>(at, own[0], queries);
    write_all<SIZE>(at, own[1], grads);
    __syncthreads();
    unsigned left[HEAD_STEPS][4];
    float weights[2][TILE_PARTS][4], slopes[2][TILE_PARTS][4], dq[HEAD_PARTS][4], inner[2] = {0.f, 0.f};
    left_rows<SIZE>(at, queries, first, left);
    times_all_rows<SIZE>(at, left, keys, weights);
    probabilities(at, a.f[0], weights);
    keep_weights(at, weights, first, kept);
    left_rows<SIZE>(at, grads, first, left);
    times_all_rows<SIZE>(at, left, values, slopes);
    EACH_WEIGHT(half, part, j) inner[j / 2] += weights[half][part][j] * slopes[half][part][j];
    inner[0] = row_sum(inner[0]), inner[1] = row_sum(inner[1]);
    EACH_WEIGHT(half, part, j)
        slopes[half][part][j] = weights[half][part][j] * (slopes[half][part][j] - inner[j / 2]) * a.f[0];
    CLEAR(dq, HEAD_PARTS);
    times_tile<SIZE>(at, slopes[0], keys, 0, dq);
    times_tile<SIZE>(at, slopes[1], keys + TILE, TILE, dq);
    __syncthreads();
    times_across<SIZE>(at, kept, grads, first, dv);
    __syncthreads();
    keep_weights(at, slopes, first, kept);
    __syncthreads();
    times_across<SIZE>(at, kept, queries, first, dk);
    __syncthreads();
    put_tile<SIZE>(at, a, 0, at.queries(a, index), first, dq, queries);
    if (index + 1 == last) break;
    read_all<SIZE>(at, a, at.queries(a, index + 1), own[0]);
    read_all<SIZE>(at, a, at.output(a, 2, index + 1), own[1]);
  }
  const int out = at.shared ? 1 : 0;
  put_tile<SIZE>(at, a, out, at.keys(a, head), first, dk, keys);
  put_tile<SIZE>(at, a, out, at.values(a, head), first, dv, values);
}

extern "C" __global__ void attention_short_32(Args a) { attend_short<32, SHORT>(a); }
extern "C" __global__ void attention_short_64(Args a) { attend_short<64, SHORT>(a); }
extern "C" __global__ void __launch_bounds__(128, 4) attention_short_backward_32(Args a) {
  attend_short_backward<32, SHORT>(a);
}
extern "C" __global__ void __launch_bounds__(128, 3) attention_short_backward_64(Args a) {
  attend_short_backward<64, SHORT>(a);
}

// Up to 16 tokens: one warp has a head, and memory for 64 would leave few of them on a multiprocessor.
extern "C" __global__ void __launch_bounds__(32, 16) attention_shortest_32(Args a) { attend_short<32, 16>(a); }
extern "C" __global__ void __launch_bounds__(32, 16) attention_shortest_64(Args a) { attend_short<64, 16>(a); }
extern "C" __global__ void __launch_bounds__(32, 16) attention_shortest_backward_32(Args a) {
  attend_short_backward<32, 16>(a);
}
extern "C" __global__ void __launch_bounds__(32, 12) attention_shortest_backward_64(Args a) {
  attend_short_backward<64, 16>(a);
}
