// Runs the kernels of kernels.cu on the processor, block by block, a thread for each thread of a block: for tests.
//
// `__syncthreads` is a barrier of the block, so a kernel in which not all its threads meet hangs here, as it may there; shuffles,
// `__syncwarp` and the matrix units are barriers of a warp alone. Shared memory is a static variable, since blocks run one
// after another.

#define NESTGEN_EMULATION
#include <barrier>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads, blocks)

struct Index {
  unsigned x, y, z;
};
static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;
static std::unique_ptr<std::barrier<>> meeting;
static std::vector<std::unique_ptr<std::barrier<>>> warps;
static std::vector<float> shown;

static void __syncthreads() { meeting->arrive_and_wait(); }
static void __syncwarp() { warps[threadIdx.x / 32]->arrive_and_wait(); }

static float __shfl_xor_sync(unsigned, float value, int apart) {
  shown[threadIdx.x] = value;
  __syncwarp();
  float other = shown[threadIdx.x ^ apart];
  __syncwarp();
  return other;
}

// The matrix units' product, by lanes that look into each other's registers (`attention_bf16.cuh` has the layout).
struct Factors {
  unsigned left[4], right[2];
};
static std::vector<Factors> factors;

static float half_of(unsigned both, int which) {
  unsigned bits = which ? both & 0xffff0000u : both << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static void multiply(float *sums, const unsigned *left, unsigned right0, unsigned right1) {
  factors[threadIdx.x] = {{left[0], left[1], left[2], left[3]}, {right0, right1}};
  __syncwarp();
  const unsigned first = threadIdx.x / 32 * 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int j = 0; j < 4; j++)
    for (int k = 0; k < 16; k++) {
      const unsigned pair = k % 8 / 2, far = k / 8;
      const Factors &a = factors[first + g * 4 + pair], &b = factors[first + (2 * t + j % 2) * 4 + pair];
      sums[j] += half_of(a.left[j / 2 + 2 * far], k % 2) * half_of(b.right[far], k % 2);
    }
  __syncwarp();
}

static std::vector<const unsigned short *> rows_shown;

static void load(unsigned *out, const unsigned short *row, bool across) {
  rows_shown[threadIdx.x] = row;
  __syncwarp();
  const unsigned first = threadIdx.x / 32 * 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (unsigned matrix = 0; matrix < 4; matrix++) {
    const unsigned short *const *rows = &rows_shown[first + matrix * 8];
    const unsigned low = across ? rows[2 * t][g] : rows[g][2 * t], high = across ? rows[2 * t + 1][g] : rows[g][2 * t + 1];
    out[matrix] = low | high << 16;
  }
  __syncwarp();
}

static void load_across(unsigned *out, const unsigned short *row) { load(out, row, true); }
static void load_along(unsigned *out, const unsigned short *row) { load(out, row, false); }

#include "kernels.cu"

extern "C" void emulate(void (*kernel)(Args), unsigned grid_x, unsigned grid_y, unsigned block, const Args *args) {
  blockDim = {block, 1, 1};
  gridDim = {grid_x, grid_y, 1};
  shown.assign(block, 0.f);
  factors.assign(block, {});
  rows_shown.assign(block, nullptr);
  meeting = std::make_unique<std::barrier<>>(block);
  warps.clear();
  for (unsigned first = 0; first < block; first += 32)
    warps.push_back(std::make_unique<std::barrier<>>(block - first < 32 ? block - first : 32));
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < block; t++)
    threads.emplace_back([=] {
      threadIdx = {t, 0, 0};
      for (unsigned y = 0; y < grid_y; y++)
        for (unsigned x = 0; x < grid_x; x++) {
          blockIdx = {x, y, 0};
          kernel(*args);
          __syncthreads();
        }
    });
  for (auto &thread : threads) thread.join();
}
