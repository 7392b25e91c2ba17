/* SPDX-License-Identifier: Apache-2.0 */
#include "profiling/trace_inside.h"
#ifdef BATON_CUPTI
#include <cupti.h>
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include "base/arena.h"

/* The library is loaded when a trace is asked for: a program that makes none need not find it. */
#define FUNCTIONS(F)                                                                                                   \
    F(cuptiActivityRegisterCallbacks)                                                                                  \
    F(cuptiActivityRegisterTimestampCallback)                                                                          \
    F(cuptiActivityEnable)                                                                                             \
    F(cuptiActivityDisable)                                                                                            \
    F(cuptiActivityFlushAll)                                                                                           \
    F(cuptiActivityGetNextRecord)                                                                                      \
    F(cuptiGetResultString)
#define POINTER(name) __typeof__(name) *name;
static struct {
    void *library;
    FUNCTIONS(POINTER)
} cupti;

static const CUpti_ActivityKind kinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
                                           CUPTI_ACTIVITY_KIND_MEMCPY2, CUPTI_ACTIVITY_KIND_MEMSET};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static enum status call(CUptiResult r, const char *what) {
    const char *text = "unknown";
    if (r == CUPTI_SUCCESS) return OK;
    cupti.cuptiGetResultString(r, &text);
    FAIL(ERR_CUDA, "CUPTI, %s: %s (another profiler may hold the GPU)", what, text);
}

/* Without a driver, as where GPU programs are only built, there is nothing to record, and CUPTI fails. */
static bool driver_here(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY);
    if (driver) dlclose(driver);
    return driver != NULL;
}

static bool load(void) {
    char name[32];
    snprintf(name, sizeof name, "libcupti.so.%d", CUPTI_API_VERSION / 10000);
    if (!cupti.library) cupti.library = dlopen(name, RTLD_NOW);
    if (!cupti.library) return false;
#define FIND(name)   *(void **)&cupti.name = dlsym(cupti.library, #name);
#define MISSES(name) || !cupti.name
    FUNCTIONS(FIND)
    return !(0 FUNCTIONS(MISSES));
}

/* CUPTI's threads ask for buffers during a step, which allocates nothing: they are taken once, before.  Where all are
 * under way there is none, and CUPTI drops records. */
enum { BUFFERS = 32, BUFFER_BYTES = 4 << 20 };
static struct {
    uint8_t *memory;
    atomic_bool used[BUFFERS];
} pool;

static void CUPTIAPI give_buffer(uint8_t **buffer, size_t *bytes, size_t *n_records) {
    *bytes = 0, *n_records = 0, *buffer = NULL;
    for (int i = 0; i < BUFFERS && !*buffer; i++) {
        if (atomic_exchange(&pool.used[i], true)) continue;
        *buffer = pool.memory + (size_t)i * BUFFER_BYTES;
        *bytes = BUFFER_BYTES;
    }
}

static void add(const CUpti_Activity *record) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
        const CUpti_ActivityKernel10 *k = (const CUpti_ActivityKernel10 *)record;
        trace_add(&(struct trace_record){.kind = TRACE_KERNEL,
                                         .name = k->name,
                                         .device = (int)k->deviceId,
                                         .stream = (int)k->streamId,
                                         .begin_ns = (int64_t)k->start,
                                         .end_ns = (int64_t)k->end});
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
        const CUpti_ActivityMemset4 *m = (const CUpti_ActivityMemset4 *)record;
        trace_add(&(struct trace_record){.kind = TRACE_FILL,
                                         .device = (int)m->deviceId,
                                         .stream = (int)m->streamId,
                                         .begin_ns = (int64_t)m->start,
                                         .end_ns = (int64_t)m->end,
                                         .bytes = (int64_t)m->bytes});
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY || record->kind == CUPTI_ACTIVITY_KIND_MEMCPY2) {
        const bool peers = record->kind == CUPTI_ACTIVITY_KIND_MEMCPY2; /* these fields stand alike in both */
        const CUpti_ActivityMemcpy6 *m = (const CUpti_ActivityMemcpy6 *)record;
        const CUpti_ActivityMemcpyPtoP4 *p = (const CUpti_ActivityMemcpyPtoP4 *)record;
        const bool host = !peers && (m->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD ||
                                     m->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH);
        trace_add(&(struct trace_record){.kind = peers  ? TRACE_PEER_COPY
                                                 : host ? TRACE_HOST_COPY
                                                        : TRACE_COPY,
                                         .device = (int)(peers ? p->deviceId : m->deviceId),
                                         .stream = (int)(peers ? p->streamId : m->streamId),
                                         .begin_ns = (int64_t)(peers ? p->start : m->start),
                                         .end_ns = (int64_t)(peers ? p->end : m->end),
                                         .bytes = (int64_t)(peers ? p->bytes : m->bytes)});
    }
}

static void CUPTIAPI take_buffer(CUcontext c, uint32_t stream, uint8_t *buffer, size_t bytes, size_t valid) {
    CUpti_Activity *record = NULL;
    (void)c, (void)stream, (void)bytes;
    while (valid > 0 && cupti.cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) add(record);
    if (buffer) atomic_store(&pool.used[(buffer - pool.memory) / BUFFER_BYTES], false);
}

static uint64_t CUPTIAPI now(void) { return (uint64_t)trace_now_ns(); }

enum status cupti_begin(bool *found) {
    void *mem = NULL;
    *found = driver_here() && load();
    if (!*found) return OK;
    if (!pool.memory) {
        TRY(mem_take(BUFFERS * (int64_t)BUFFER_BYTES, &mem));
        pool.memory = mem;
    }
    TRY(call(cupti.cuptiActivityRegisterCallbacks(give_buffer, take_buffer), "its buffers"));
    TRY(call(cupti.cuptiActivityRegisterTimestampCallback(now), "its clock"));
    for (int i = 0; i < N_KINDS; i++) TRY(call(cupti.cuptiActivityEnable(kinds[i]), "recording"));
    return OK;
}

enum status cupti_end(void) {
    for (int i = 0; i < N_KINDS; i++) TRY(call(cupti.cuptiActivityDisable(kinds[i]), "the end of recording"));
    return call(cupti.cuptiActivityFlushAll(0), "its records");
}
#else
enum status cupti_begin(bool *found) {
    *found = false;
    return OK;
}
enum status cupti_end(void) { return OK; }
#endif
