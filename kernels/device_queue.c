/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/device_queue.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/pool.h"
#include "kernels/device_inside.h"

#ifdef BATON_CUDA
#include <cuda_runtime.h>

#define CUDA(call, what)                                                                                               \
    do {                                                                                                               \
        const cudaError_t e_ = (call);                                                                                 \
        FAIL_UNLESS(e_ == cudaSuccess, ERR_CUDA, "%s: %s; run with --device cpu, or under compute-sanitizer", (what),  \
                    cudaGetErrorString(e_));                                                                           \
    } while (0)

enum status device_send(struct device *d, void *to, const void *from, int64_t bytes) {
    if (bytes == 0) return OK;
    CUDA(cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDefault, d->stream), "a copy to or from the GPU");
    return OK;
}

enum status device_mark(struct device *d) {
    CUDA(cudaEventRecord(d->mark, d->stream), "marking the stream");
    return OK;
}

enum status device_reach(struct device *d) {
    CUDA(cudaEventSynchronize(d->mark), "the GPU's work before a mark");
    return OK;
}

enum status device_settle(struct device *d) {
    CUDA(cudaStreamSynchronize(d->stream), "the GPU's work");
    return OK;
}

static enum status pinned(cudaError_t e, int64_t bytes) {
    FAIL_UNLESS(e == cudaSuccess, ERR_OOM, "cannot pin %" PRId64 " bytes of this machine's memory: %s", bytes,
                cudaGetErrorString(e));
    return OK;
}

enum status device_pinned_take(int64_t bytes, void **out) {
    *out = NULL;
    return pinned(mem_call() ? cudaErrorMemoryAllocation : cudaMallocHost(out, bytes ? (size_t)bytes : 1), bytes);
}

void device_pinned_free(void *p) {
    if (p) (void)cudaFreeHost(p);
}

struct pages {
    char *base;
    int64_t bytes;
};
enum { TOUCHED = 64 << 20, PAGE = 4096, TOUCHING = 16 }; /* bytes; threads */

static void touch(void *arg, int64_t item, int worker) {
    const struct pages *p = arg;
    const int64_t end = (item + 1) * TOUCHED < p->bytes ? (item + 1) * TOUCHED : p->bytes;
    (void)worker;
    for (int64_t at = item * TOUCHED; at < end; at += PAGE) p->base[at] = 0;
}

/* Every rank of the host does so at once: where there is no room for threads it takes longer, no more. */
static void touch_all(struct pages p) {
    const int64_t items = (p.bytes + TOUCHED - 1) / TOUCHED;
    const int cores = pool_cores(), most = cores < TOUCHING ? cores : TOUCHING;
    struct pool *pool = NULL;
    if (pool_init(&pool, items < most ? (int)items : most) != OK) pool = NULL, status_clear();
    pool_run(pool, items, touch, &p);
    pool_term(pool);
}

/* cudaHostAlloc brings its pages one by one: 0.36 s a GiB, 0.66 where two ask at once.  Large pages that 16 cores have
 * touched are there in 0.02 and pinned in 0.03 to 0.08. */
enum status device_store_take(int64_t bytes, void **out) {
    TRY(mem_pages_take(bytes, out));
    touch_all((struct pages){*out, bytes});
    const enum status st = pinned(
        mem_call() ? cudaErrorMemoryAllocation : cudaHostRegister(*out, (size_t)bytes, cudaHostRegisterDefault), bytes);
    if (st != OK) mem_pages_free(*out, bytes), *out = NULL;
    return st;
}

void device_store_free(void *p, int64_t bytes) {
    if (p) (void)cudaHostUnregister(p);
    mem_pages_free(p, bytes);
}

bool device_compiled(void) { return true; }

#define CAPABLE_MAJOR 9 /* kernels are compiled for compute capability 9.0 */

enum status device_usable(void) {
    int n = 0, driver = 0, runtime = 0;
    const cudaError_t e = cudaGetDeviceCount(&n);
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    FAIL_UNLESS(
        e != cudaErrorInsufficientDriver || driver == 0, ERR_CUDA,
        "the NVIDIA driver is too old: it supports CUDA %d.%d, and this program needs %d.%d; update the driver, "
        "or run with --device cpu",
        driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    FAIL_UNLESS(driver != 0, ERR_CUDA, "no NVIDIA driver is installed here: run with --device cpu");
    FAIL_UNLESS(e == cudaSuccess && n > 0, ERR_CUDA, "no GPU is here (%s): run with --device cpu",
                e == cudaSuccess ? "none is visible" : cudaGetErrorString(e));
    int major = 0;
    CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "asking the GPU what it is");
    FAIL_UNLESS(major == CAPABLE_MAJOR, ERR_CUDA,
                "the GPU has compute capability %d, and the kernels of this program are compiled for %d (H100, H200): "
                "run with --device cpu",
                major, CAPABLE_MAJOR);
    return OK;
}

enum status device_facts(int index, struct device_facts *out) {
    struct cudaDeviceProp p;
    CUDA(cudaGetDeviceProperties(&p, index), "asking the GPU what it is");
    *out = (struct device_facts){.bytes = (int64_t)p.totalGlobalMem};
    snprintf(out->name, sizeof out->name, "%.95s", p.name);
    return OK;
}

enum status device_bus(const struct device *d, char out[DEVICE_BUS]) {
    CUDA(cudaDeviceGetPCIBusId(out, DEVICE_BUS, d->index), "asking the GPU for its place on the bus");
    return OK;
}

enum status device_memory(const struct device *d, int64_t *unused, int64_t *all) {
    size_t some = 0, total = 0;
    CUDA(cudaSetDevice(d->index), "choosing the GPU");
    CUDA(cudaMemGetInfo(&some, &total), "asking the GPU for its memory");
    *unused = (int64_t)some;
    *all = (int64_t)total;
    return OK;
}

enum status device_timer_init(struct device_timer *t) {
    cudaEvent_t begin = NULL, end = NULL;
    CUDA(cudaEventCreate(&begin), "making an event");
    t->begin = begin;
    CUDA(cudaEventCreate(&end), "making an event");
    t->end = end;
    return OK;
}

void device_timer_term(struct device_timer *t) {
    if (t->begin) (void)cudaEventDestroy(t->begin);
    if (t->end) (void)cudaEventDestroy(t->end);
    *t = (struct device_timer){0};
}

enum status device_timer_begin(struct device *d, struct device_timer *t) {
    CUDA(cudaEventRecord(t->begin, d->stream), "timing the stream");
    return OK;
}

enum status device_timer_end(struct device *d, struct device_timer *t) {
    CUDA(cudaEventRecord(t->end, d->stream), "timing the stream");
    return OK;
}

enum status device_timer_read(struct device_timer *t, double *ms) {
    float time = 0.0f;
    CUDA(cudaEventSynchronize(t->end), "the GPU's work");
    CUDA(cudaEventElapsedTime(&time, t->begin, t->end), "timing the stream");
    *ms = (double)time;
    return OK;
}
#else
#define NONE()                                                                                                         \
    FAIL(ERR_CUDA, "this program was built without CUDA: run with --device cpu, or build with the CUDA Toolkit")

enum status device_send(struct device *d, void *to, const void *from, int64_t bytes) {
    (void)d, (void)to, (void)from, (void)bytes;
    NONE();
}
enum status device_mark(struct device *d) {
    (void)d;
    NONE();
}
enum status device_reach(struct device *d) {
    (void)d;
    NONE();
}
enum status device_settle(struct device *d) {
    (void)d;
    NONE();
}
enum status device_pinned_take(int64_t bytes, void **out) {
    (void)bytes;
    *out = NULL;
    NONE();
}
void device_pinned_free(void *p) { ASSERT(!p); }
enum status device_store_take(int64_t bytes, void **out) { return device_pinned_take(bytes, out); }
void device_store_free(void *p, int64_t bytes) { ASSERT(!p && bytes >= 0); }
enum status device_usable(void) { NONE(); }
bool device_compiled(void) { return false; }
enum status device_facts(int index, struct device_facts *out) {
    (void)index, (void)out;
    NONE();
}
enum status device_bus(const struct device *d, char out[DEVICE_BUS]) {
    (void)d, (void)out;
    NONE();
}
enum status device_memory(const struct device *d, int64_t *unused, int64_t *all) {
    (void)d, (void)unused, (void)all;
    NONE();
}
enum status device_timer_init(struct device_timer *t) {
    (void)t;
    NONE();
}
void device_timer_term(struct device_timer *t) { ASSERT(!t->begin); }
enum status device_timer_begin(struct device *d, struct device_timer *t) {
    (void)d, (void)t;
    NONE();
}
enum status device_timer_end(struct device *d, struct device_timer *t) {
    (void)d, (void)t;
    NONE();
}
enum status device_timer_read(struct device_timer *t, double *ms) {
    (void)t, (void)ms;
    NONE();
}
#endif
