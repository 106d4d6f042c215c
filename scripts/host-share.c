// The GPU's driver and libraries, doing nothing: memory is addresses that nobody looks at, kernels return at once, what is
// downloaded is zeros. A program runs on it at the speed of its own work on the processor. At its end it is told what was
// asked for. `host-share.sh` compiles this; functions that it does not define return 0.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *Handle;
typedef uint64_t Address;

// Uploads from memory that is not pinned are copied by the driver first, without waiting, up to this size.
#define AT_ONCE 65536

// Pinned memory: the last pieces of it that were asked for.
static struct {
  const char *from;
  size_t bytes;
} pinned[16];

enum { LAUNCHES, PRODUCTS, CONVOLUTIONS, DESCRIPTORS, ALLOCATIONS, UPLOADS, WAITING_UPLOADS, DOWNLOADS, COUNTERS };
static const char *const names[] = {"launches",    "products", "convolutions",    "cuDNN descriptors",
                                    "allocations", "uploads",  "waiting uploads", "downloads"};
static long counts[COUNTERS];

// Launches by kernel. A function's handle is its place here, counted from 1.
static struct {
  char name[128];
  long launches;
} kernels[4096];
static size_t known;

// Memory is numbered, and an address is a number's in its high bits. Numbers of what was freed are given again.
#define SPACE 34
static struct {
  size_t bytes;
  uint32_t free;
} memory[1 << 20];
static uint32_t numbered, freed;
static size_t in_use, most;

static void report(void) {
  const char *where = getenv("HOST_SHARE_REPORT");
  FILE *out = where ? fopen(where, "w") : stderr;
  if (!out) return;
  for (int k = 0; k < COUNTERS; k++) fprintf(out, "%ld\t%s\n", counts[k], names[k]);
  fprintf(out, "%zu\tMiB at most\n", most >> 20);
  for (size_t k = 0; k < known; k++) fprintf(out, "%ld\t\t%s\n", kernels[k].launches, kernels[k].name);
  if (where) fclose(out);
}

__attribute__((constructor)) static void begin(void) { atexit(report); }

// ---- the driver ----

int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetName(char *name, int size, int device) { return snprintf(name, (size_t)size, "no GPU"), 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  // Compute capability 9.0, 132 multiprocessors; all else is a yes.
  *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 16 ? 132 : 1;
  return 0;
}
int cuDevicePrimaryCtxRetain(Handle *context, int device) { return *context = (Handle)1, 0; }
int cuCtxGetCurrent(Handle *context) { return *context = (Handle)1, 0; }
int cuStreamCreate(Handle *stream, unsigned flags) { return *stream = (Handle)1, 0; }
int cuEventCreate(Handle *event, unsigned flags) { return *event = (Handle)1, 0; }
int cuDeviceGetDefaultMemPool(Handle *pool, int device) { return *pool = (Handle)1, 0; }
int cuModuleLoadData(Handle *module, const void *image) { return *module = (Handle)1, 0; }
int cuStreamIsCapturing(Handle stream, int *status) { return *status = 0, 0; }

int cuMemPoolGetAttribute(Handle pool, int attribute, uint64_t *value) {
  // 8: the most that was in use.
  return *value = attribute == 8 ? most : 0, 0;
}
int cuMemPoolSetAttribute(Handle pool, int attribute, uint64_t *value) {
  if (attribute == 8) most = in_use;
  return 0;
}
int cuMemAllocAsync(Address *at, size_t bytes, Handle stream) {
  if (!freed && numbered == sizeof memory / sizeof *memory) return 2; // out of memory
  const uint32_t number = freed ? memory[--freed].free : numbered++;
  counts[ALLOCATIONS]++;
  *at = (Address)(number + 1) << SPACE;
  memory[number].bytes = bytes;
  in_use += bytes;
  if (in_use > most) most = in_use;
  return 0;
}
int cuMemFreeAsync(Address at, Handle stream) {
  if (!at) return 0;
  const uint32_t number = (uint32_t)(at >> SPACE) - 1;
  in_use -= memory[number].bytes;
  memory[freed++].free = number;
  return 0;
}
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, Handle stream) {
  int waits = bytes > AT_ONCE;
  for (int k = 0; k < 16; k++)
    if ((const char *)from >= pinned[k].from && (const char *)from + bytes <= pinned[k].from + pinned[k].bytes) waits = 0;
  counts[UPLOADS]++;
  counts[WAITING_UPLOADS] += waits;
  return 0;
}
int cuMemHostAlloc(Handle *at, size_t bytes, unsigned flags) {
  static int next;
  *at = malloc(bytes);
  pinned[next].from = *at;
  pinned[next].bytes = bytes;
  next = (next + 1) % 16;
  return *at ? 0 : 2;
}
int cuMemFreeHost(Handle at) {
  for (int k = 0; k < 16; k++)
    if (pinned[k].from == at) pinned[k].from = 0, pinned[k].bytes = 0;
  free(at);
  return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, Handle stream) {
  counts[DOWNLOADS]++;
  memset(to, 0, bytes);
  return 0;
}
int cuModuleGetFunction(Handle *function, Handle module, const char *name) {
  size_t k = 0;
  while (k < known && strcmp(kernels[k].name, name)) k++;
  if (k == known && known < sizeof kernels / sizeof *kernels)
    strncpy(kernels[known++].name, name, sizeof kernels->name - 1);
  *function = (Handle)(k + 1);
  return 0;
}
int cuLaunchKernel(Handle function, unsigned x, unsigned y, unsigned z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, Handle stream, void **arguments, void **extra) {
  counts[LAUNCHES]++;
  if ((size_t)function <= known) kernels[(size_t)function - 1].launches++;
  return 0;
}

// ---- cuBLAS, cuRAND, cuDNN ----

int cublasCreate_v2(Handle *handle) { return *handle = (Handle)1, 0; }
int curandCreateGenerator(Handle *generator, int kind) { return *generator = (Handle)1, 0; }
int cublasGemmStridedBatchedEx(void) { return counts[PRODUCTS]++, 0; }
int cudnnCreate(Handle *handle) { return *handle = (Handle)1, 0; }

#define DESCRIPTOR(name) \
  int name(Handle *descriptor) { return counts[DESCRIPTORS]++, *descriptor = (Handle)1, 0; }
DESCRIPTOR(cudnnCreateConvolutionDescriptor)
DESCRIPTOR(cudnnCreateFilterDescriptor)
DESCRIPTOR(cudnnCreateTensorDescriptor)

#define WORKSPACE(name) \
  int name(Handle handle, Handle a, Handle b, Handle conv, Handle c, int algorithm, size_t *bytes) { return *bytes = 0, 0; }
WORKSPACE(cudnnGetConvolutionForwardWorkspaceSize)
WORKSPACE(cudnnGetConvolutionBackwardDataWorkspaceSize)
WORKSPACE(cudnnGetConvolutionBackwardFilterWorkspaceSize)

int cudnnConvolutionForward(void) { return counts[CONVOLUTIONS]++, 0; }
int cudnnConvolutionBackwardData(void) { return counts[CONVOLUTIONS]++, 0; }
int cudnnConvolutionBackwardFilter(void) { return counts[CONVOLUTIONS]++, 0; }
