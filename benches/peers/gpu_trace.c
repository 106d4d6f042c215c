/* Writes what ran on a GPU, and when, as lines `start_ns,end_ns,name` to the file that GPU_TRACE names.
 * Needs CUPTI (in NVIDIA's toolkit; nvidia-cuda-cupti on PyPI):
 *
 *   cc -shared -fPIC -I CUDA/include -o gpu_trace.so gpu_trace.c -L CUDA/lib -lcupti
 *   GPU_TRACE=trace.csv CUDA_INJECTION64_PATH=$PWD/gpu_trace.so PROGRAM
 *
 * `gpu_idle.py` reads the file. The driver loads the library into the program; tracing makes launches a little slower. */
#include <cupti.h>
#include <stdio.h>
#include <stdlib.h>

#define BYTES (8 << 20)

static FILE *out;

static void CUPTIAPI give(uint8_t **buffer, size_t *size, size_t *records) {
  *buffer = aligned_alloc(8, BYTES);
  *size = BYTES;
  *records = 0;
}

static void CUPTIAPI take(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
  (void)context, (void)stream, (void)size;
  CUpti_Activity *record = NULL;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    unsigned long long start, end;
    const char *name;
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const CUpti_ActivityKernel10 *kernel = (const CUpti_ActivityKernel10 *)record;
      start = kernel->start, end = kernel->end, name = kernel->name;
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const CUpti_ActivityMemcpy6 *copy = (const CUpti_ActivityMemcpy6 *)record;
      static const char *const kinds[] = {"unknown", "to the GPU", "to the processor"};
      start = copy->start, end = copy->end;
      name = copy->copyKind < 3 ? kinds[copy->copyKind] : "copy within the GPU";
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      const CUpti_ActivityMemset4 *set = (const CUpti_ActivityMemset4 *)record;
      start = set->start, end = set->end, name = "memset";
    } else {
      continue;
    }
    fprintf(out, "%llu,%llu,%s\n", start, end, name);
  }
  free(buffer);
}

static void finish(void) {
  cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  fclose(out);
}

int InitializeInjection(void) {
  const char *path = getenv("GPU_TRACE");
  if (!path || !(out = fopen(path, "w"))) {
    fprintf(stderr, "gpu_trace: GPU_TRACE names no file that can be written\n");
    return 1;
  }
  cuptiActivityRegisterCallbacks(give, take);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMSET);
  atexit(finish);
  return 1;
}
