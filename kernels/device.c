/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/device.h"
#include <inttypes.h>
#include <stddef.h>

#ifdef BATON_CUDA
#include <cuda_runtime.h>

#define CUDA(call, what)                                                                                               \
    do {                                                                                                               \
        const cudaError_t e_ = (call);                                                                                 \
        FAIL_UNLESS(e_ == cudaSuccess, ERR_CUDA, "%s: %s; run with --device cpu, or under compute-sanitizer", (what),  \
                    cudaGetErrorString(e_));                                                                           \
    } while (0)

int device_count(void) {
    int n = 0;
    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

enum status device_take(int64_t bytes, void **out) {
    *out = NULL;
    const cudaError_t e = cudaMalloc(out, bytes ? (size_t)bytes : 1);
    FAIL_UNLESS(e != cudaErrorMemoryAllocation, ERR_OOM,
                "cannot allocate %" PRId64 " bytes on the GPU: it has less memory free", bytes);
    CUDA(e, "the GPU's memory");
    return OK;
}

void device_free(void *p) { (void)cudaFree(p); }

enum status device_copy(void *to, const void *from, int64_t bytes) {
    if (bytes == 0) return OK;
    CUDA(cudaMemcpy(to, from, (size_t)bytes, cudaMemcpyDefault), "a copy to or from the GPU");
    return OK;
}

enum status device_fill(void *p, int byte, int64_t bytes) {
    if (bytes == 0) return OK;
    CUDA(cudaMemset(p, byte, (size_t)bytes), "filling memory of the GPU");
    return OK;
}

enum status device_wait(void) {
    CUDA(cudaDeviceSynchronize(), "a kernel");
    return OK;
}
#else
#define NO_CUDA() FAIL(ERR_CUDA, "this program was built without CUDA: run with --device cpu, or build with a toolkit")

int device_count(void) { return 0; }
enum status device_take(int64_t bytes, void **out) {
    (void)bytes;
    *out = NULL;
    NO_CUDA();
}
void device_free(void *p) { ASSERT(!p); }
enum status device_copy(void *to, const void *from, int64_t bytes) {
    (void)to, (void)from, (void)bytes;
    NO_CUDA();
}
enum status device_fill(void *p, int byte, int64_t bytes) {
    (void)p, (void)byte, (void)bytes;
    NO_CUDA();
}
enum status device_wait(void) { NO_CUDA(); }
#endif

enum status device_arena_init(struct arena *a, const char *name, int64_t bytes) {
    void *base = NULL;
    *a = (struct arena){.name = name};
    if (bytes == 0) return OK;
    TRY(device_take(arena_round(bytes), &base));
    a->base = base;
    a->size = arena_round(bytes);
    return OK;
}

void device_arena_term(struct arena *a) {
    device_free(a->base);
    *a = (struct arena){0};
}
