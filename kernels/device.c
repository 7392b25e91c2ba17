/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/device_inside.h"
#include <inttypes.h>
#include <stddef.h>
#include "kernels/attention/attention_dnn.h"
#include "kernels/gemm_cuda.h"

#ifdef BATON_CUDA
#include <cuda_runtime.h>

#define CUDA(call, what)                                                                                               \
    do {                                                                                                               \
        const cudaError_t e_ = (call);                                                                                 \
        FAIL_UNLESS(e_ == cudaSuccess, ERR_CUDA, "%s: %s; run with --device cpu, or under compute-sanitizer", (what),  \
                    cudaGetErrorString(e_));                                                                           \
    } while (0)

#define CUDA_OUT(call, what)                                                                                           \
    do {                                                                                                               \
        const cudaError_t e_ = (call);                                                                                 \
        if (e_ != cudaSuccess) FAIL_OUT(ERR_CUDA, "%s: %s; run with --device cpu", (what), cudaGetErrorString(e_));    \
    } while (0)

int device_count(void) {
    int n = 0;
    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

enum status device_take(int64_t bytes, void **out) {
    *out = NULL;
    const cudaError_t e = mem_call() ? cudaErrorMemoryAllocation : cudaMalloc(out, bytes ? (size_t)bytes : 1);
    FAIL_UNLESS(e != cudaErrorMemoryAllocation, ERR_OOM,
                "cannot allocate %" PRId64 " bytes on the GPU: it has less memory free", bytes);
    CUDA(e, "the GPU's memory");
    return OK;
}

void device_free(void *p) { (void)cudaFree(p); }

enum status device_copy(void *to, const void *from, int64_t bytes) {
    if (bytes == 0) return OK;
    CUDA(cudaMemcpy(to, from, (size_t)bytes, cudaMemcpyDefault), "a copy to or from the GPU");
    /* From pageable memory it may still be under way, and streams of ranks do not wait for it. */
    CUDA(cudaStreamSynchronize(NULL), "a copy to or from the GPU");
    return OK;
}

enum status device_fill(void *p, int byte, int64_t bytes) {
    if (bytes == 0) return OK;
    CUDA(cudaMemset(p, byte, (size_t)bytes), "filling memory of the GPU");
    CUDA(cudaStreamSynchronize(NULL), "filling memory of the GPU");
    return OK;
}

enum status device_wait(void) {
    CUDA(cudaDeviceSynchronize(), "a kernel");
    return OK;
}

enum status device_open(struct device **out, int index) {
    enum status st = OK;
    void *mem = NULL;
    TRY(mem_take(sizeof **out, &mem));
    struct device *d = *out = mem;
    d->index = index;
    CUDA_OUT(cudaSetDevice(index), "choosing the GPU");
    CUDA_OUT(cudaStreamCreateWithFlags((cudaStream_t *)&d->stream, cudaStreamNonBlocking), "making a stream");
    CUDA_OUT(cudaEventCreateWithFlags((cudaEvent_t *)&d->mark, cudaEventDisableTiming | cudaEventBlockingSync),
             "making an event");
    TRY_OUT(gemm_cuda_open(d));
    TRY_OUT(attention_dnn_open(d));
out:
    if (st != OK) {
        device_close(d);
        *out = NULL;
    }
    return st;
}

void device_close(struct device *d) {
    if (!d) return;
    if (d->stream) {
        (void)cudaStreamSynchronize(d->stream);
        (void)cudaStreamDestroy(d->stream);
    }
    if (d->mark) (void)cudaEventDestroy(d->mark);
    attention_dnn_close(d);
    gemm_cuda_close(d);
    mem_free(d);
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
enum status device_open(struct device **out, int index) {
    (void)index;
    *out = NULL;
    NO_CUDA();
}
void device_close(struct device *d) { ASSERT(!d); }
#endif

void *device_stream(struct device *d) { return d->stream; }
int device_index(const struct device *d) { return d->index; }

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
