// Runs the kernels of kernels.cu on the processor, block by block, a thread for each thread of a block: for tests.
//
// `__syncthreads` and shuffles are barriers of the whole block, so a kernel in which not all threads of a block meet
// hangs here, as it may there. Shared memory is a static variable, since blocks run one after another.

#define NESTGEN_EMULATION
#include <barrier>
#include <cmath>
#include <cstddef>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static

struct Index {
  unsigned x, y, z;
};
static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;
static std::unique_ptr<std::barrier<>> meeting;
static std::vector<float> shown;

static void __syncthreads() { meeting->arrive_and_wait(); }
static void __syncwarp() { meeting->arrive_and_wait(); }

static float __shfl_xor_sync(unsigned, float value, int apart) {
  shown[threadIdx.x] = value;
  meeting->arrive_and_wait();
  float other = shown[threadIdx.x ^ apart];
  meeting->arrive_and_wait();
  return other;
}

#include "kernels.cu"

extern "C" void emulate(void (*kernel)(Args), unsigned grid_x, unsigned grid_y, unsigned block, const Args *args) {
  blockDim = {block, 1, 1};
  gridDim = {grid_x, grid_y, 1};
  shown.assign(block, 0.f);
  meeting = std::make_unique<std::barrier<>>(block);
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
