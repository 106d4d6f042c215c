// Looks for data races within blocks of the kernels that share memory, under ThreadSanitizer: a barrier that is missing, which
// the tests' comparisons may pass by luck. The emulation's shuffles order memory, which those of a GPU need not do.
//
//   c++ -std=c++20 -O1 -g -fsanitize=thread -pthread -o races kernels/cuda/races.cpp && TSAN_OPTIONS=exitcode=66 ./races
//
// The exit status is 66 where there is one. What the kernels compute is not looked at here.

#include "emulation.cpp"

#include <cstdio>
#include <random>

static std::mt19937 generator(1);

static std::vector<float> floats(size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> numbers(count);
  for (float &x : numbers) x = normal(generator);
  return numbers;
}

static std::vector<Half> halves(size_t count) {
  std::vector<Half> numbers;
  for (float x : floats(count)) numbers.push_back(rounded(x));
  return numbers;
}

static void launch(const char *name, void (*kernel)(Args), unsigned blocks, unsigned chunks, unsigned threads, const Args &a) {
  std::printf("%s\n", name);
  emulate(kernel, blocks, chunks, threads, &a);
}
#define LAUNCH(kernel, blocks, chunks, threads, a) launch(#kernel, kernel, blocks, chunks, threads, a)

// Attention by the matrix units, forward and backward, laid out as `src/cuda/attention.rs` has it: queries, keys and values side
// by side, or one head of keys and values that all queries share.
static void rough_attention(unsigned tokens, unsigned heads, unsigned head, bool shared) {
  const size_t sequences = 2, all = heads * head, q_step = shared ? all : 3 * all, kv_step = shared ? 2 * head : 3 * all;
  const size_t rows = sequences * tokens;
  auto q = halves(rows * q_step), kv = halves(rows * kv_step), grad = halves(rows * all);
  std::vector<Half> y(rows * all), dq(rows * q_step), dkv(rows * kv_step);
  std::vector<float> logs(rows * heads);
  Args a{};
  a.in[0] = q.data(), a.in[1] = shared ? kv.data() : q.data(), a.out[0] = y.data(), a.out[1] = logs.data();
  const size_t sizes[] = {sequences, tokens, heads, head, q_step, 0, kv_step, shared ? 0 : all, shared ? head : 2 * all, shared};
  for (int i = 0; i < 10; i++) a.n[i] = sizes[i];
  a.f[0] = 1.f / sqrtf((float)head);
  a.rough = ROUGH_IN(0) | ROUGH_IN(1) | ROUGH_OUT;
  a.aligned = 1;
  Args b = a;
  b.in[2] = grad.data(), b.out[0] = dq.data(), b.out[1] = dkv.data();
  b.rough |= ROUGH_IN(2) | ROUGH_OUT << 1;
  Args c = b;
  c.in[3] = y.data(), c.in[4] = logs.data();
  c.rough |= ROUGH_IN(3);
  unsigned warps = 1;
  while (warps * 16 < tokens && warps < 4) warps *= 2;
  const unsigned groups = (tokens + 16 * warps - 1) / (16 * warps), blocks = sequences * heads;
  const unsigned backward = sequences * (shared ? 1 : heads);
#define OF_SIZE(size)                                                                                \
  if (tokens <= 16) {                                                                                \
    LAUNCH(attention_shortest_##size, blocks, 1, 32, a);                                             \
    LAUNCH(attention_shortest_backward_##size, backward, 1, 32, b);                                  \
  }                                                                                                  \
  if (tokens <= SHORT) {                                                                             \
    LAUNCH(attention_short_##size, blocks, 1, 32 * warps, a);                                        \
    LAUNCH(attention_short_backward_##size, backward, 1, 32 * warps, b);                             \
  }                                                                                                  \
  LAUNCH(attention_bf16_##size, blocks, groups, 32 * warps, a);                                      \
  LAUNCH(attention_backward_bf16_##size, blocks, 2 * groups, 32 * warps, c);
  if (head > 32) {
    OF_SIZE(64)
  } else {
    OF_SIZE(32)
  }
}

// The same in f32, by plain arithmetic.
static void single_attention(unsigned tokens, unsigned heads, unsigned head) {
  const size_t sequences = 2, all = heads * head, rows = sequences * tokens;
  auto q = floats(rows * 3 * all), grad = floats(rows * all);
  std::vector<float> y(rows * all), logs(rows * heads), dq(rows * all), inner(rows * heads), dk(rows * all), dv(rows * all);
  Args a{};
  a.in[0] = a.in[1] = q.data(), a.out[0] = y.data(), a.out[1] = logs.data();
  const size_t sizes[] = {sequences, tokens, heads, head, 3 * all, 0, 3 * all, all, 2 * all, 0};
  for (int i = 0; i < 10; i++) a.n[i] = sizes[i];
  a.f[0] = 1.f / sqrtf((float)head);
  a.aligned = 1;
  const unsigned groups = (tokens + ROWS_A_BLOCK - 1) / ROWS_A_BLOCK, blocks = sequences * heads;
  LAUNCH(attention, blocks, groups, 128, a);
  a.in[2] = grad.data(), a.in[3] = y.data(), a.in[4] = logs.data(), a.out[0] = dq.data(), a.out[1] = inner.data();
  LAUNCH(attention_queries, blocks, groups, 128, a);
  a.in[3] = logs.data(), a.in[4] = inner.data(), a.out[0] = dk.data(), a.out[1] = dv.data();
  LAUNCH(attention_keys, blocks, groups, 128, a);
}

// Layer norms, sums of columns, spectral norm and augmentation.
static void rows_and_columns() {
  const size_t rows = 700, width = 40;
  auto x = floats(rows * width), grad = floats(rows * width), vector = floats(400), statistics = floats(2 * rows);
  std::vector<float> y(rows * width), z(rows * width), sums(rows * width);
  std::vector<Half> rough(rows * width);
  Args a{};
  a.in[0] = x.data(), a.in[1] = a.in[2] = vector.data(), a.out[0] = y.data(), a.out[1] = sums.data();
  a.n[0] = rows, a.n[1] = width, a.f[0] = 1e-6f, a.aligned = 1;
  LAUNCH(layer_norm_64, 5, 1, 256, a);
  Args b = a;
  b.in[0] = grad.data(), b.in[1] = b.in[4] = x.data(), b.in[3] = statistics.data();
  LAUNCH(layer_norm_backward_64, 5, 1, 256, b);
  b.n[0] = rows / 10, b.n[1] = 10 * width;
  LAUNCH(layer_norm_backward_512, 5, 1, 256, b);

  a.n[2] = 64, a.n[3] = width, a.out[0] = sums.data();
  LAUNCH(column_sums, 1, 11, 256, a);
  LAUNCH(centred_sums, 1, 11, 256, a);
  Args c = a;
  c.out[1] = rough.data(), c.rough = ROUGH_OUT << 1;
  LAUNCH(column_sums_and_rounded, 1, 11, 256, c);
  c = a;
  c.n[2] = rows;
  LAUNCH(column_sums_of_chunks, 2, 1, 256, c);
  c = a;
  c.in[2] = grad.data(), c.out[1] = y.data(), c.out[2] = z.data(), c.n[3] = GELU_TANH;
  LAUNCH(through_hidden, 1, 11, 256, c);
  c = a;
  c.out[0] = y.data(), c.out[1] = sums.data();
  LAUNCH(unit_vector, 1, 1, 512, c);
  c = a;
  c.n[0] = rows * width, c.in[1] = grad.data();
  LAUNCH(inner_parts, 3, 1, 256, c);
  c.n[1] = width, c.n[2] = 300, c.out[0] = y.data();
  c.in[1] = statistics.data(), c.in[2] = c.in[3] = vector.data(), c.in[4] = x.data();
  LAUNCH(spectral_gradient, 3, 1, 256, c);
  c = a;
  c.in[0] = grad.data(), c.in[1] = x.data(), c.in[2] = c.in[3] = vector.data();
  LAUNCH(norm_sums, 1, 11, 256, c);
  c.in[2] = c.in[3] = nullptr;
  LAUNCH(weighted_column_sums, 1, 11, 256, c);
  // Two images of 8 x 8 pixels, moved and with a hole.
  const float changes[] = {0.1f, 1.2f, 0.9f, 1, -2, 2, 4, 2, 4, 0.2f, 0.8f, 1.1f, -1, 0, 0, 0, 0, 0};
  for (unsigned direction = 0; direction < 3; direction++) {
    c = a;
    c.in[1] = changes, c.n[0] = c.n[1] = 8, c.n[2] = direction, c.out[0] = y.data();
    LAUNCH(change_images, 2, 1, 512, c);
  }
}

int main() {
  // Tokens, heads, elements of a head; whether keys are shared. Parts of a warp, of a block, several blocks.
  rough_attention(9, 1, 20, false);
  rough_attention(16, 2, 48, false);
  rough_attention(16, 3, 32, true);
  rough_attention(33, 1, 40, false);
  rough_attention(64, 2, 32, false);
  rough_attention(48, 3, 64, true);
  rough_attention(70, 2, 16, false);
  rough_attention(130, 2, 64, true);
  single_attention(35, 2, 24);
  single_attention(64, 1, 48);
  rows_and_columns();
}
