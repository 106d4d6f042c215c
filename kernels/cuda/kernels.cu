// Own CUDA kernels: what takes several passes as a composition of candle's operations, in one.
//
// Every kernel has the one parameter `Args`, filled by `src/cuda/plan.rs`, which also chooses grid and block and says
// there what each place holds. Softmax gives a warp to each row. Nothing returns early where threads meet.
// The same text is compiled for the processor by `emulation.cpp`, which is how it is tested without a GPU.

#ifndef NESTGEN_EMULATION
#include <cstddef>
#endif

struct Args {
  const void *in[8];
  void *out[4];
  unsigned long long n[12];
  float f[8];
  // Which operands are bf16: bit k for in[k], bit 8 + k for out[k]. The others are f32.
  unsigned rough;
  // Whether all operands start at multiples of 16 bytes; `WHOLE` where besides no run of eight elements is cut short.
  unsigned aligned;
};

#define WHOLE 2u

#define EACH(i, count)                                                                     \
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < (size_t)(count);      \
       i += (size_t)gridDim.x * blockDim.x)

#include "numbers.cuh"
#include "elementwise.cuh"
#include "columns.cuh"
#include "images.cuh"
#include "rows.cuh"
#include "layer_norm.cuh"
#include "spectral.cuh"
#include "augment.cuh"
// After `rows.cuh`, whose sums over a warp they need.
#include "attention.cuh"
#include "attention_bf16.cuh"
#include "attention_short.cuh"
#include "optim.cuh"
