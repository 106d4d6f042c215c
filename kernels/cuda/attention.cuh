// Softmax attention within blocks of tokens, without its matrix of scores in memory.
//
// A block of threads has 16 rows (queries, or keys in `attention_keys`), four to each of its four warps, and goes through
// the other side in tiles of 32, one to each lane. A row's results are kept over the tiles, its elements spread over the
// lanes. Heads of at most 64 elements.
//
// Sizes of all kernels: n: sequences, tokens, heads, elements of a head, of queries: elements from token to token and
// before the first head's; of keys and values: elements from token to token, before the first head's keys, and values;
// 1 if all heads share one head of keys and values. f: factor of the scores.

// An output that is always f32.
__device__ __forceinline__ float *results(const Args &a, int k) { return (float *)a.out[k]; }

#define HEAD 64
#define TILE 32
#define ROWS_A_WARP 4
#define ROWS_A_BLOCK 16
// Unrolled, so that what belongs to a row stays in registers.
#define EACH_ROW(r) _Pragma("unroll") for (int r = 0; r < ROWS_A_WARP; r++)

// A head of a row of tokens: element d of token t is at `first + t * step + d`.
struct Tokens {
  const float *first;
  size_t step;
};

struct Attention {
  unsigned tokens, head, lane, warp;
  size_t sequence;
  bool shared;

  __device__ explicit Attention(const Args &a)
      : tokens(a.n[1]), head(a.n[3]), lane(threadIdx.x % 32), warp(threadIdx.x / 32), shared(a.n[9]) {}

  // Operand `in`, whose tokens are `step` elements apart; `before` comes before the heads, `index` is the head's.
  __device__ Tokens part(const float *in, size_t step, size_t before, size_t index) const {
    return {in + sequence * tokens * step + before + index * head, step};
  }
  __device__ Tokens queries(const Args &a, size_t index) const { return part(numbers(a, 0), a.n[4], a.n[5], index); }
  __device__ Tokens keys(const Args &a, size_t index) const { return part(numbers(a, 1), a.n[6], a.n[7], shared ? 0 : index); }
  __device__ Tokens values(const Args &a, size_t index) const { return part(numbers(a, 1), a.n[6], a.n[8], shared ? 0 : index); }
  // A tensor of the output's shape: all heads side by side.
  __device__ Tokens output(const Args &a, const float *in, size_t index) const {
    return part(in, a.n[2] * head, 0, index);
  }
};

// `count` tokens from `start` into shared memory; what does not exist is 0.
__device__ __forceinline__ void fetch(const Attention &at, Tokens from, unsigned start, unsigned count,
                                      float (*into)[HEAD + 1]) {
  for (unsigned i = threadIdx.x; i < count * HEAD; i += blockDim.x) {
    unsigned token = start + i / HEAD, d = i % HEAD;
    into[i / HEAD][d] = token < at.tokens && d < at.head ? from.first[token * from.step + d] : 0.f;
  }
}

__device__ __forceinline__ float dot(const float *x, const float *y, unsigned count) {
  float sum = 0.f;
  for (unsigned d = 0; d < count; d++) sum += x[d] * y[d];
  return sum;
}

// Adds `weights[j] * rows[j]` over a tile to this lane's two elements.
__device__ __forceinline__ void gather(const Attention &at, const float *weights, float (*rows)[HEAD + 1],
                                       float *sums) {
  for (unsigned j = 0; j < TILE; j++) {
    sums[0] += weights[j] * rows[j][at.lane];
    if (at.head > 32) sums[1] += weights[j] * rows[j][at.lane + 32];
  }
}

// Writes this lane's two elements of a row.
__device__ __forceinline__ void put(const Attention &at, float *row, const float *sums, float factor) {
  if (at.lane < at.head) row[at.lane] = sums[0] * factor;
  if (at.lane + 32 < at.head) row[at.lane + 32] = sums[1] * factor;
}

// in: queries, keys and values. out: y [sequences, tokens, heads * elements], the logarithm of each row's sum of powers
// [sequences, heads, tokens]. Blocks: x sequences * heads, y tiles of queries.
extern "C" __global__ void attention(Args a) {
  __shared__ float keys[TILE][HEAD + 1];
  __shared__ float values[TILE][HEAD + 1];
  __shared__ float queries[ROWS_A_BLOCK][HEAD + 1];
  __shared__ float powers[ROWS_A_BLOCK][TILE];
  Attention at(a);
  at.sequence = blockIdx.x / a.n[2];
  const size_t index = blockIdx.x % a.n[2];
  const unsigned first = blockIdx.y * ROWS_A_BLOCK;
  fetch(at, at.queries(a, index), first, ROWS_A_BLOCK, queries);
  float top[ROWS_A_WARP], sum[ROWS_A_WARP], y[ROWS_A_WARP][2];
  EACH_ROW(r) top[r] = -INFINITY, sum[r] = y[r][0] = y[r][1] = 0.f;
  for (unsigned start = 0; start < at.tokens; start += TILE) {
    __syncthreads();
    fetch(at, at.keys(a, index), start, TILE, keys);
    fetch(at, at.values(a, index), start, TILE, values);
    __syncthreads();
    EACH_ROW(r) {
      const unsigned row = at.warp * ROWS_A_WARP + r;
      float score = start + at.lane < at.tokens ? dot(queries[row], keys[at.lane], at.head) * a.f[0] : -INFINITY;
      const float now = fmaxf(top[r], warp_max(score));
      const float power = expf(score - now), fade = expf(top[r] - now);
      sum[r] = sum[r] * fade + warp_sum(power);
      y[r][0] *= fade, y[r][1] *= fade;
      top[r] = now;
      powers[row][at.lane] = power;
    }
    __syncwarp();
    EACH_ROW(r) gather(at, powers[at.warp * ROWS_A_WARP + r], values, y[r]);
  }
  EACH_ROW(r) {
    const unsigned token = first + at.warp * ROWS_A_WARP + r;
    if (token >= at.tokens) continue;
    float *row = results(a, 0) + (at.sequence * at.tokens + token) * a.n[2] * at.head + index * at.head;
    put(at, row, y[r], 1.f / sum[r]);
    if (at.lane == 0) results(a, 1)[(size_t)blockIdx.x * at.tokens + token] = top[r] + logf(sum[r]);
  }
}

// in: queries, keys and values, gradient of y, y, logarithms of sums. out: gradient of the queries
// [sequences, tokens, heads * elements], sums of gradient * y [sequences, heads, tokens]. Blocks as `attention`.
extern "C" __global__ void attention_queries(Args a) {
  __shared__ float keys[TILE][HEAD + 1];
  __shared__ float values[TILE][HEAD + 1];
  __shared__ float queries[ROWS_A_BLOCK][HEAD + 1];
  __shared__ float grads[ROWS_A_BLOCK][HEAD + 1];
  __shared__ float slopes[ROWS_A_BLOCK][TILE];
  Attention at(a);
  at.sequence = blockIdx.x / a.n[2];
  const size_t index = blockIdx.x % a.n[2];
  const unsigned first = blockIdx.y * ROWS_A_BLOCK;
  fetch(at, at.queries(a, index), first, ROWS_A_BLOCK, queries);
  fetch(at, at.output(a, numbers(a, 2), index), first, ROWS_A_BLOCK, grads);
  __syncthreads();
  float inner[ROWS_A_WARP], norm[ROWS_A_WARP], dq[ROWS_A_WARP][2];
  const Tokens outputs = at.output(a, numbers(a, 3), index);
  EACH_ROW(r) {
    const unsigned row = at.warp * ROWS_A_WARP + r, token = first + row;
    const bool exists = token < at.tokens;
    float sum = 0.f;
    for (unsigned d = at.lane; exists && d < at.head; d += 32) sum += grads[row][d] * outputs.first[token * outputs.step + d];
    inner[r] = warp_sum(sum);
    norm[r] = exists ? numbers(a, 4)[(size_t)blockIdx.x * at.tokens + token] : 0.f;
    if (exists && at.lane == 0) results(a, 1)[(size_t)blockIdx.x * at.tokens + token] = inner[r];
    dq[r][0] = dq[r][1] = 0.f;
  }
  for (unsigned start = 0; start < at.tokens; start += TILE) {
    __syncthreads();
    fetch(at, at.keys(a, index), start, TILE, keys);
    fetch(at, at.values(a, index), start, TILE, values);
    __syncthreads();
    EACH_ROW(r) {
      const unsigned row = at.warp * ROWS_A_WARP + r;
      float slope = 0.f;
      if (start + at.lane < at.tokens && first + row < at.tokens) {
        const float p = expf(dot(queries[row], keys[at.lane], at.head) * a.f[0] - norm[r]);
        slope = p * (dot(grads[row], values[at.lane], at.head) - inner[r]) * a.f[0];
      }
      slopes[row][at.lane] = slope;
    }
    __syncwarp();
    EACH_ROW(r) gather(at, slopes[at.warp * ROWS_A_WARP + r], keys, dq[r]);
  }
  EACH_ROW(r) {
    const unsigned token = first + at.warp * ROWS_A_WARP + r;
    if (token >= at.tokens) continue;
    put(at, results(a, 0) + (at.sequence * at.tokens + token) * a.n[2] * at.head + index * at.head, dq[r], 1.f);
  }
}

// in: queries, keys and values, gradient of y, logarithms of sums, sums of gradient * y.
// out: gradients of keys and of values [sequences, tokens, heads of them * elements].
// Blocks: x sequences * heads of keys, y tiles of keys.
extern "C" __global__ void attention_keys(Args a) {
  __shared__ float queries[TILE][HEAD + 1];
  __shared__ float grads[TILE][HEAD + 1];
  __shared__ float keys[ROWS_A_BLOCK][HEAD + 1];
  __shared__ float values[ROWS_A_BLOCK][HEAD + 1];
  __shared__ float powers[ROWS_A_BLOCK][TILE];
  __shared__ float slopes[ROWS_A_BLOCK][TILE];
  Attention at(a);
  const unsigned key_heads = at.shared ? 1 : a.n[2];
  at.sequence = blockIdx.x / key_heads;
  const size_t key_head = blockIdx.x % key_heads;
  const unsigned first = blockIdx.y * ROWS_A_BLOCK;
  fetch(at, at.keys(a, key_head), first, ROWS_A_BLOCK, keys);
  fetch(at, at.values(a, key_head), first, ROWS_A_BLOCK, values);
  float dk[ROWS_A_WARP][2], dv[ROWS_A_WARP][2];
  EACH_ROW(r) dk[r][0] = dk[r][1] = dv[r][0] = dv[r][1] = 0.f;
  const size_t last = at.shared ? a.n[2] : key_head + 1;
  for (size_t index = at.shared ? 0 : key_head; index < last; index++)
    for (unsigned start = 0; start < at.tokens; start += TILE) {
      __syncthreads();
      fetch(at, at.queries(a, index), start, TILE, queries);
      fetch(at, at.output(a, numbers(a, 2), index), start, TILE, grads);
      __syncthreads();
      const bool exists = start + at.lane < at.tokens;
      const size_t place = (at.sequence * a.n[2] + index) * at.tokens + start + at.lane;
      const float norm = exists ? numbers(a, 3)[place] : 0.f, inner = exists ? numbers(a, 4)[place] : 0.f;
      EACH_ROW(r) {
        const unsigned row = at.warp * ROWS_A_WARP + r;
        float p = exists ? expf(dot(keys[row], queries[at.lane], at.head) * a.f[0] - norm) : 0.f;
        powers[row][at.lane] = p;
        slopes[row][at.lane] = p * (dot(values[row], grads[at.lane], at.head) - inner) * a.f[0];
      }
      __syncwarp();
      EACH_ROW(r) {
        gather(at, powers[at.warp * ROWS_A_WARP + r], grads, dv[r]);
        gather(at, slopes[at.warp * ROWS_A_WARP + r], queries, dk[r]);
      }
    }
  EACH_ROW(r) {
    const unsigned token = first + at.warp * ROWS_A_WARP + r;
    if (token >= at.tokens) continue;
    const size_t row = (at.sequence * at.tokens + token) * key_heads * at.head + key_head * at.head;
    put(at, results(a, 0) + row, dk[r], 1.f);
    put(at, results(a, 1) + row, dv[r], 1.f);
  }
}
