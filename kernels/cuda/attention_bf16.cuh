// Softmax attention within blocks of tokens by the matrix units: factors are bf16, sums f32. What is kept in memory and
// the sizes of the kernels are as in `attention.cuh`; operands may be of either type.
//
// A warp has 16 rows (queries, or keys) and goes through the other side in tiles of 32. The matrix units' layout: with
// g = lane / 4 and t = lane % 4, a lane holds of a result 16 x 8 the columns 2t and 2t + 1 of rows g and g + 8, of a left
// factor 16 x 16 those and the two 8 columns on, of a right factor 16 x 8 rows 2t, 2t + 1, 2t + 8, 2t + 9 of column g.
// Right factors come from tiles of tokens in shared memory: the tile's transpose, or with `load_across` the tile itself.

// Heads of up to SIZE elements, 32 or 64: smaller ones leave registers for more warps.

#define HEAD_STEPS (SIZE / 16)
#define HEAD_PARTS (SIZE / 8)
#define TILE_PARTS (TILE / 8)
#define ROWS_A_MATRIX 16
// Halves from row to row in shared memory: neighbouring rows start in other banks, at multiples of 16 bytes.
#define ROW_STEP (SIZE + 8)
// Halves that a thread fetches at once.
#define RUN 8

#ifndef NESTGEN_EMULATION
// sums += left * right.
__device__ __forceinline__ void multiply(float *sums, const unsigned *left, unsigned right0, unsigned right1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}

// Four 8 x 8 matrices, whose rows lie at the addresses that lanes 0 to 7, 8 to 15, 16 to 23 and 24 to 31 give: from each,
// rows 2t and 2t + 1 of column g.
__device__ __forceinline__ void load_across(unsigned *out, const Half *row) {
  const unsigned address = (unsigned)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address));
}

// The same of columns 2t and 2t + 1 of row g.
__device__ __forceinline__ void load_along(unsigned *out, const Half *row) {
  const unsigned address = (unsigned)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address));
}
#endif

struct alignas(16) Run {
  unsigned v[RUN / 2];
};

// A head of a sequence: element d of token t is number `first + t * step + d` of operand `in`.
struct Head {
  int in;
  size_t first, step;
};

struct Rough {
  unsigned tokens, head, lane, warp, g, t;
  size_t sequence;
  bool shared;

  __device__ explicit Rough(const Args &a)
      : tokens(a.n[1]), head(a.n[3]), lane(threadIdx.x % 32), warp(threadIdx.x / 32), g(lane / 4), t(lane % 4),
        sequence(blockIdx.x / a.n[2]), shared(a.n[9]) {}

  __device__ Head part(int in, size_t step, size_t before, size_t index) const {
    return {in, sequence * tokens * step + before + index * head, step};
  }
  __device__ Head queries(const Args &a, size_t index) const { return part(0, a.n[4], a.n[5], index); }
  __device__ Head keys(const Args &a, size_t index) const { return part(1, a.n[6], a.n[7], shared ? 0 : index); }
  __device__ Head values(const Args &a, size_t index) const { return part(1, a.n[6], a.n[8], shared ? 0 : index); }
  // An operand of the output's shape: all heads side by side.
  __device__ Head output(const Args &a, int in, size_t index) const { return part(in, a.n[2] * head, 0, index); }
  __device__ size_t row(const Args &a, size_t index, unsigned token) const {
    return (sequence * a.n[2] + index) * tokens + token;
  }
};

// Elements d and d + 1 of a token; what does not exist is 0.
__device__ __forceinline__ unsigned two(const Rough &at, const Args &a, const Head &h, unsigned token, unsigned d) {
  if (token >= at.tokens || d >= at.head) return 0u;
  const size_t i = h.first + token * h.step + d;
  if (is_rough(a, h.in) && a.aligned && i % 2 == 0 && d + 1 < at.head)
    return *(const unsigned *)((const Half *)a.in[h.in] + i);
  return pair(get(a, h.in, i), d + 1 < at.head ? get(a, h.in, i + 1) : 0.f);
}

// 16 tokens from `start` as a left factor.
template <int SIZE>
__device__ __forceinline__ void fetch_left(const Rough &at, const Args &a, const Head &h, unsigned start,
                                           unsigned (*left)[4]) {
  _Pragma("unroll") for (int s = 0; s < HEAD_STEPS; s++) {
    const unsigned d = s * 16 + 2 * at.t;
    left[s][0] = two(at, a, h, start + at.g, d);
    left[s][1] = two(at, a, h, start + at.g + 8, d);
    left[s][2] = two(at, a, h, start + at.g, d + 8);
    left[s][3] = two(at, a, h, start + at.g + 8, d + 8);
  }
}

// Whether `RUN` elements of a token can be read at once, wherever a run starts.
__device__ __forceinline__ bool in_runs(const Rough &at, const Args &a, const Head &h) {
  return is_rough(a, h.in) && a.aligned && (h.first | h.step | at.head) % RUN == 0;
}

// `count` rounded up to what the matrix units take at once.
__device__ __forceinline__ unsigned whole(unsigned count) { return (count + 15) / 16 * 16; }

// A tile of tokens into shared memory, as far as it is used; what does not exist is 0.
template <int SIZE>
__device__ __forceinline__ void fetch_tile(const Rough &at, const Args &a, const Head &h, unsigned start,
                                           Half (*rows)[ROW_STEP]) {
  const bool fast = in_runs(at, a, h);
  const unsigned runs = whole(at.head) / RUN, left = whole(at.tokens - start), count = left < TILE ? left : TILE;
  for (unsigned i = threadIdx.x; i < count * runs; i += blockDim.x) {
    const unsigned row = i / runs, d = i % runs * RUN, token = start + row;
    Run run = {{0u, 0u, 0u, 0u}};
    if (fast) {
      if (token < at.tokens && d < at.head)
        run = *(const Run *)((const Half *)a.in[h.in] + h.first + token * h.step + d);
    } else {
      _Pragma("unroll") for (int j = 0; j < RUN / 2; j++) run.v[j] = two(at, a, h, token, d + 2 * j);
    }
    *(Run *)&rows[row][d] = run;
  }
}

// sums [16 x TILE] = left [16 x head] times the transpose of the tile `rows`, which starts with token `start`.
template <int SIZE>
__device__ __forceinline__ void times_rows(const Rough &at, const unsigned (*left)[4], Half (*rows)[ROW_STEP],
                                           unsigned start, float (*sums)[4]) {
  _Pragma("unroll") for (int part = 0; part < TILE_PARTS; part++) EACH_OF_FOUR(j) sums[part][j] = 0.f;
  _Pragma("unroll") for (int s = 0; s < HEAD_STEPS; s++) {
    if (s * 16 >= at.head) continue;
    // Two parts of tokens at once, the 16 elements of each in two halves.
    _Pragma("unroll") for (int part = 0; part < TILE_PARTS; part += 2) {
      if (start + part * 8 >= at.tokens) continue;
      unsigned right[4];
      load_along(right, &rows[part * 8 + at.lane / 16 * 8 + at.lane % 8][s * 16 + at.lane / 8 % 2 * 8]);
      multiply(sums[part], left[s], right[0], right[1]);
      multiply(sums[part + 1], left[s], right[2], right[3]);
    }
  }
}

// sums [16 x head] += left [16 x 16] times the 16 tokens from `rows`, two parts of elements at once.
template <int SIZE>
__device__ __forceinline__ void times_tokens(const Rough &at, const unsigned *left, const Half (*rows)[ROW_STEP],
                                             float (*sums)[4]) {
  _Pragma("unroll") for (int part = 0; part < HEAD_PARTS; part += 2) {
    if (part * 8 >= at.head) continue;
    unsigned right[4];
    load_across(right, &rows[at.lane % 16][part * 8 + at.lane / 16 * 8]);
    multiply(sums[part], left, right[0], right[1]);
    multiply(sums[part + 1], left, right[2], right[3]);
  }
}

// sums [16 x head] += weights [16 x TILE] times the tile.
template <int SIZE>
__device__ __forceinline__ void times_tile(const Rough &at, const float (*weights)[4], Half (*rows)[ROW_STEP],
                                           unsigned start, float (*sums)[4]) {
  _Pragma("unroll") for (int s = 0; s < TILE / 16; s++) {
    if (start + s * 16 >= at.tokens) continue;
    const unsigned left[4] = {pair(weights[2 * s][0], weights[2 * s][1]), pair(weights[2 * s][2], weights[2 * s][3]),
                              pair(weights[2 * s + 1][0], weights[2 * s + 1][1]),
                              pair(weights[2 * s + 1][2], weights[2 * s + 1][3])};
    times_tokens<SIZE>(at, left, rows + s * 16, sums);
  }
}

// The sum over the four lanes that share a row.
__device__ __forceinline__ float row_sum(float v) {
  v += __shfl_xor_sync(0xffffffffu, v, 1);
  return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

__device__ __forceinline__ float row_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
  return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

// Writes rows `start + g` and `start + g + 8`, each times its factor, where operand `h` has them in output `out`.
template <int SIZE>
__device__ __forceinline__ void put_rows(const Rough &at, const Args &a, int out, const Head &h, unsigned start,
                                         const float (*sums)[4], const float *factors) {
  _Pragma("unroll") for (int half = 0; half < 2; half++) {
    const unsigned token = start + at.g + 8 * half;
    if (token >= at.tokens) continue;
    _Pragma("unroll") for (int part = 0; part < HEAD_PARTS; part++) {
      const unsigned d = part * 8 + 2 * at.t;
      const float x = sums[part][2 * half] * factors[half], y = sums[part][2 * half + 1] * factors[half];
      const size_t i = h.first + token * h.step + d;
      if (d + 1 < at.head && is_rough(a, 8 + out) && a.aligned && i % 2 == 0) {
        *(unsigned *)((Half *)a.out[out] + i) = pair(x, y);
        continue;
      }
      if (d < at.head) put(a, out, i, x);
      if (d + 1 < at.head) put(a, out, i + 1, y);
    }
  }
}

#define CLEAR(sums, parts) _Pragma("unroll") for (int c = 0; c < (parts); c++) EACH_OF_FOUR(j) sums[c][j] = 0.f

// in: queries, keys and values. out: y [sequences, tokens, heads * elements], the logarithm of each row's sum of powers
// [sequences, heads, tokens], f32. Blocks: x sequences * heads, y groups of rows, 16 to each warp.
template <int SIZE>
__device__ __forceinline__ void attend(const Args &a) {
  alignas(16) __shared__ Half keys[TILE][ROW_STEP];
  alignas(16) __shared__ Half values[TILE][ROW_STEP];
  const Rough at(a);
  const size_t index = blockIdx.x % a.n[2];
  const unsigned first = (blockIdx.y * (blockDim.x / 32) + at.warp) * ROWS_A_MATRIX;
  unsigned queries[HEAD_STEPS][4];
  fetch_left<SIZE>(at, a, at.queries(a, index), first, queries);
  float y[HEAD_PARTS][4], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};
  CLEAR(y, HEAD_PARTS);
  for (unsigned start = 0; start < at.tokens; start += TILE) {
    __syncthreads();
    fetch_tile<SIZE>(at, a, at.keys(a, index), start, keys);
    fetch_tile<SIZE>(at, a, at.values(a, index), start, values);
    __syncthreads();
    float scores[TILE_PARTS][4], now[2] = {top[0], top[1]};
    times_rows<SIZE>(at, queries, keys, start, scores);
    _Pragma("unroll") for (int part = 0; part < TILE_PARTS; part++) EACH_OF_FOUR(j) {
      const unsigned column = start + part * 8 + 2 * at.t + j % 2;
      scores[part][j] = column < at.tokens ? scores[part][j] * a.f[0] : -INFINITY;
      now[j / 2] = fmaxf(now[j / 2], scores[part][j]);
    }
    _Pragma("unroll") for (int half = 0; half < 2; half++) {
      now[half] = row_max(now[half]);
      const float fade = quick_exp(top[half] - now[half]);
      sum[half] *= fade;
      _Pragma("unroll") for (int part = 0; part < HEAD_PARTS; part++)
          y[part][2 * half] *= fade, y[part][2 * half + 1] *= fade;
      top[half] = now[half];
    }
    _Pragma("unroll") for (int part = 0; part < TILE_PARTS; part++) EACH_OF_FOUR(j) {
      scores[part][j] = quick_exp(scores[part][j] - top[j / 2]);
      sum[j / 2] += scores[part][j];
    }
    times_tile<SIZE>(at, scores, values, start, y);
  }
  float factors[2];
  _Pragma("unroll") for (int half = 0; half < 2; half++) {
    sum[half] = row_sum(sum[half]);
    factors[half] = 1.f / sum[half];
    const unsigned token = first + at.g + 8 * half;
    if (token < at.tokens && at.t == 0)
      ((float *)a.out[1])[at.row(a, index, token)] = top[half] + logf(sum[half]);
  }
  put_rows<SIZE>(at, a, 0, at.output(a, 0, index), first, y, factors);
}

// The gradient of queries.
template <int SIZE>
__device__ __forceinline__ void queries_backward(const Rough &at, const Args &a, size_t index, unsigned first,
                                                 Half (*keys)[ROW_STEP], Half (*values)[ROW_STEP]) {
  unsigned queries[HEAD_STEPS][4], grads[HEAD_STEPS][4], outputs[HEAD_STEPS][4];
  fetch_left<SIZE>(at, a, at.queries(a, index), first, queries);
  fetch_left<SIZE>(at, a, at.output(a, 2, index), first, grads);
  fetch_left<SIZE>(at, a, at.output(a, 3, index), first, outputs);
  float inner[2] = {0.f, 0.f}, norm[2], dq[HEAD_PARTS][4];
  _Pragma("unroll") for (int s = 0; s < HEAD_STEPS; s++) EACH_OF_FOUR(j) inner[j % 2] +=
      first_of(grads[s][j]) * first_of(outputs[s][j]) + second_of(grads[s][j]) * second_of(outputs[s][j]);
  _Pragma("unroll") for (int half = 0; half < 2; half++) {
    inner[half] = row_sum(inner[half]);
    const unsigned token = first + at.g + 8 * half;
    norm[half] = token < at.tokens ? numbers(a, 4)[at.row(a, index, token)] : 0.f;
  }
  CLEAR(dq, HEAD_PARTS);
  for (unsigned start = 0; start < at.tokens; start += TILE) {
    __syncthreads();
    fetch_tile<SIZE>(at, a, at.keys(a, index), start, keys);
    fetch_tile<SIZE>(at, a, at.values(a, index), start, values);
    __syncthreads();
    float scores[TILE_PARTS][4], slopes[TILE_PARTS][4];
    times_rows<SIZE>(at, queries, keys, start, scores);
    times_rows<SIZE>(at, grads, values, start, slopes);
    _Pragma("unroll") for (int part = 0; part < TILE_PARTS; part++) EACH_OF_FOUR(j) {
      const unsigned column = start + part * 8 + 2 * at.t + j % 2;
      const float p = column < at.tokens ? quick_exp(scores[part][j] * a.f[0] - norm[j / 2]) : 0.f;
      slopes[part][j] = p * (slopes[part][j] - inner[j / 2]) * a.f[0];
    }
    times_tile<SIZE>(at, slopes, keys, start, dq);
  }
  const float ones[2] = {1.f, 1.f};
  put_rows<SIZE>(at, a, 0, at.queries(a, index), first, dq, ones);
}

// The gradients of the keys and values of heads `index` to `last`, which share them.
template <int SIZE>
__device__ __forceinline__ void keys_backward(const Rough &at, const Args &a, size_t index, size_t last, unsigned first,
                                              Half (*queries)[ROW_STEP], Half (*grads)[ROW_STEP], float *inner) {
  unsigned keys[HEAD_STEPS][4], values[HEAD_STEPS][4];
  fetch_left<SIZE>(at, a, at.keys(a, index), first, keys);
  fetch_left<SIZE>(at, a, at.values(a, index), first, values);
  float dk[HEAD_PARTS][4], dv[HEAD_PARTS][4];
  CLEAR(dk, HEAD_PARTS);
  CLEAR(dv, HEAD_PARTS);
  const size_t head = index;
  for (; index < last; index++)
    for (unsigned start = 0; start < at.tokens; start += TILE) {
      __syncthreads();
      fetch_tile<SIZE>(at, a, at.queries(a, index), start, queries);
      fetch_tile<SIZE>(at, a, at.output(a, 2, index), start, grads);
      const Head outputs = at.output(a, 3, index);
      __syncthreads();
      for (unsigned row = at.warp; row < TILE; row += blockDim.x / 32) {
        const unsigned d = 2 * at.lane;
        const unsigned mine = d < at.head && start + row < at.tokens ? *(const unsigned *)&grads[row][d] : 0u;
        const unsigned y = two(at, a, outputs, start + row, d);
        const float sum = warp_sum(first_of(mine) * first_of(y) + second_of(mine) * second_of(y));
        if (at.lane == 0) inner[row] = sum;
      }
      __syncthreads();
      float powers[TILE_PARTS][4], slopes[TILE_PARTS][4];
      times_rows<SIZE>(at, keys, queries, start, powers);
      times_rows<SIZE>(at, values, grads, start, slopes);
      _Pragma("unroll") for (int part = 0; part < TILE_PARTS; part++) EACH_OF_FOUR(j) {
        const unsigned place = part * 8 + 2 * at.t + j % 2, token = start + place;
        const float norm = token < at.tokens ? numbers(a, 4)[at.row(a, index, token)] : 0.f;
        powers[part][j] = token < at.tokens ? quick_exp(powers[part][j] * a.f[0] - norm) : 0.f;
        slopes[part][j] = powers[part][j] * (slopes[part][j] - inner[place]) * a.f[0];
      }
      times_tile<SIZE>(at, powers, grads, start, dv);
      times_tile<SIZE>(at, slopes, queries, start, dk);
    }
  const float ones[2] = {1.f, 1.f};
  const int out = at.shared ? 1 : 0;
  put_rows<SIZE>(at, a, out, at.keys(a, head), first, dk, ones);
  put_rows<SIZE>(at, a, out, at.values(a, head), first, dv, ones);
}

// in: queries, keys and values, gradient of y, y, logarithms of sums. out: the gradients, laid out as the operands: of
// queries, and in another output if they are shared, of keys and values. Blocks: x as in `attend`, y those groups of
// rows twice: for queries, then for keys.
template <int SIZE>
__device__ __forceinline__ void attend_backward(const Args &a) {
  alignas(16) __shared__ Half rows[2][TILE][ROW_STEP];
  __shared__ float inner[TILE];
  const Rough at(a);
  const size_t index = blockIdx.x % a.n[2];
  const unsigned groups = gridDim.y / 2, rows_a_block = blockDim.x / 32 * ROWS_A_MATRIX;
  if (blockIdx.y < groups) {
    const unsigned first = blockIdx.y * rows_a_block + at.warp * ROWS_A_MATRIX;
    queries_backward<SIZE>(at, a, index, first, rows[0], rows[1]);
  } else if (!at.shared || index == 0) {
    const unsigned first = (blockIdx.y - groups) * rows_a_block + at.warp * ROWS_A_MATRIX;
    const size_t last = at.shared ? a.n[2] : index + 1;
    keys_backward<SIZE>(at, a, index, last, first, rows[0], rows[1], inner);
  }
}

extern "C" __global__ void attention_bf16_32(Args a) { attend<32>(a); }
extern "C" __global__ void attention_bf16_64(Args a) { attend<64>(a); }
extern "C" __global__ void attention_backward_bf16_32(Args a) { attend_backward<32>(a); }
extern "C" __global__ void attention_backward_bf16_64(Args a) { attend_backward<64>(a); }
