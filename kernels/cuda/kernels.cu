// Own CUDA kernels, f32: what takes several passes as a composition of candle's operations, in one.
//
// Every kernel has the one parameter `Args`, filled by `src/cuda/plan.rs`, which also chooses grid and block and says
// there what each place holds. Kernels of rows give a warp to each row. Nothing returns early where threads meet.
// The same text is compiled for the processor by `emulation.cpp`, which is how it is tested without a GPU.

#ifndef NESTGEN_EMULATION
#include <cstddef>
#endif

struct Args {
  const float *in[8];
  float *out[4];
  unsigned long long n[12];
  float f[8];
};

#define EACH(i, count)                                                                     \
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < (size_t)(count);      \
       i += (size_t)gridDim.x * blockDim.x)

#include "columns.cuh"
#include "elementwise.cuh"
#include "images.cuh"
#include "rows.cuh"
// After `rows.cuh`, whose sums over a warp it needs.
#include "attention.cuh"
