// SPDX-License-Identifier: Apache-2.0
// Streams: what is enqueued waits in its stream until somebody asks for it.  Then streams run by a rank that dice give
// them anew from time to time, as far as events that they wait for allow, until what was asked for is there; so what
// neither a stream nor an event puts in order happens in many orders.
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include "base/arena.h"
#include "tests/emulator/inside.h"

// Something to run, or, without `run`, a wait until a stream has run so many.
struct op {
    struct op *next;
    void (*run)(void *);
    long stream, position;
    int size; // 2^size bytes in all
    alignas(16) unsigned char arg[];
};
struct stream {
    struct stream *next;
    long id; // never used again
    struct op *first, *last;
    long n_enqueued, n_run;
    unsigned rank;
};
struct event {
    long stream, position; // of its latest record; 0: none
    cudaStream_t sends_of;
    unsigned long sends; // of the last copy before it
    double ms;
    int users; // records that are enqueued
    bool destroyed;
};
static struct stream null_stream = {NULL, 1, NULL, NULL, 0, 0, 0};
static struct stream *streams = &null_stream;
static long n_ids = 1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void device_lock(void) { pthread_mutex_lock(&lock); }
void device_unlock(void) { pthread_mutex_unlock(&lock); }

unsigned device_dice(void) {
    static uint64_t state;
    if (state == 0) {
        const char *n = getenv("EMULATED_DICE");
        state = 2 * (n ? strtoull(n, NULL, 10) : 0) + 1;
        for (int i = 0; i < 4; i++) state = state * 6364136223846793005u + 1442695040888963407u;
    }
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state >> 33);
}

// Blocks of 2^k bytes that were given back; not of base/arena.h, which counts calls: a GPU has room of its own.
static struct op *unused_ops[48];
static int size_of(size_t bytes) {
    int k = 8;
    while ((size_t)1 << k < bytes) k++;
    return k;
}
static struct op *take_op(size_t bytes) {
    const int k = size_of(bytes);
    struct op *op = unused_ops[k];
    if (!op) {
        const size_t size = (size_t)1 << k, all = size < 1 << 20 ? 1 << 20 : size;
        void *mem = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ASSERT(mem != MAP_FAILED);
        for (size_t at = 0; at < all; at += size) {
            struct op *one = (struct op *)((char *)mem + at);
            one->next = op;
            op = one;
        }
    }
    unused_ops[k] = op->next;
    op->next = NULL;
    op->size = k;
    return op;
}
static void drop_op(struct op *op) {
    op->next = unused_ops[op->size];
    unused_ops[op->size] = op;
}

static struct stream *of(cudaStream_t s) { return s ? (struct stream *)s : &null_stream; }

static bool has_run(long id, long position) {
    for (const struct stream *s = streams; s; s = s->next)
        if (s->id == id) return s->n_run >= position;
    return true;
}

static void give_ranks(struct stream *asked) {
    for (struct stream *s = streams; s; s = s->next) s->rank = device_dice();
    if (device_dice() % 2) asked->rank = UINT_MAX; // nothing that it does not wait for
}

static struct stream *choose() {
    struct stream *best = NULL;
    for (struct stream *s = streams; s; s = s->next) {
        const struct op *op = s->first;
        if (!op || (!op->run && !has_run(op->stream, op->position))) continue;
        if (!best || s->rank > best->rank) best = s;
    }
    return best;
}

static void run_first(struct stream *s) {
    struct op *op = s->first;
    if (op->run) op->run(op->arg);
    s->first = op->next;
    s->n_run++;
    drop_op(op);
}

// Runs `most` at most; whether the stream has come to the position.
static bool run_to(struct stream *asked, long position, long most) {
    if (asked->n_run >= position) return true;
    give_ranks(asked);
    memory_open();
    while (asked->n_run < position && most-- > 0) {
        struct stream *s = choose();
        ASSERT(s); // waits are for what was enqueued before them: no circle
        run_first(s);
        if (device_dice() % 8 == 0) give_ranks(asked);
    }
    memory_close();
    return asked->n_run >= position;
}
static void finish(struct stream *s) { run_to(s, s->n_enqueued, LONG_MAX); }
static long some() { return device_dice() % 64; }

void streams_finish(void) {
    for (struct stream *s = streams; s; s = s->next) finish(s);
}

static struct op *enqueue(cudaStream_t stream, void (*run)(void *), const void *arg, size_t bytes, size_t more) {
    struct stream *s = of(stream);
    struct op *op = take_op(sizeof(struct op) + bytes + more);
    op->run = run;
    memcpy(op->arg, arg, bytes);
    if (s->first) s->last->next = op;
    else s->first = op;
    s->last = op;
    s->n_enqueued++;
    return op;
}

void emulated_enqueue(cudaStream_t stream, void (*run)(void *), const void *arg, size_t bytes) {
    device_lock();
    enqueue(stream, run, arg, bytes, 0);
    if (device_dice() % 8 == 0) run_to(of(stream), of(stream)->n_enqueued, some() / 8); // a GPU does not wait
    device_unlock();
}

// ---- copies ----

struct copy {
    void *to;
    const void *from; // NULL: the bytes behind this
    size_t n;
    unsigned long send; // its number, out of pinned memory
};
static void run_copy(void *arg) {
    const struct copy *c = (const struct copy *)arg;
    if (c->send) sends_check(c->send);
    memmove(c->to, c->from ? c->from : c + 1, c->n);
}
struct fill {
    void *p;
    int byte;
    size_t n;
};
static void run_fill(void *arg) {
    const struct fill *f = (const struct fill *)arg;
    memset(f->p, f->byte, f->n);
}

// Memory of the host that is not pinned: out of it bytes are taken at once, into it they are there on return.
static void copy(void *to, const void *from, size_t n, cudaStream_t stream) {
    if (n == 0) return;
    const bool from_host = !memory_of_device(from), staged = from_host && !memory_pinned(from);
    const struct copy c = {to, staged ? NULL : from, n, from_host && !staged ? sends_note(from, n, stream) : 0};
    struct op *op = enqueue(stream, run_copy, &c, sizeof c, staged ? n : 0);
    if (staged) memcpy(op->arg + sizeof c, from, n);
    if (!memory_of_device(to) && !memory_pinned(to)) finish(of(stream));
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int, cudaStream_t stream) {
    device_lock();
    copy(to, from, bytes, stream);
    device_unlock();
    return cudaSuccess;
}
// Into memory of the device it may return before the bytes are there.
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, int) {
    device_lock();
    copy(to, from, bytes, NULL);
    if (!memory_of_device(to) || memory_pinned(from)) {
        finish(&null_stream);
        sends_settle(NULL, ~0ul);
    }
    device_unlock();
    return cudaSuccess;
}
cudaError_t cudaMemset(void *p, int byte, size_t bytes) {
    const struct fill f = {p, byte, bytes};
    emulated_enqueue(NULL, run_fill, &f, sizeof f);
    return cudaSuccess;
}

// ---- streams ----

cudaError_t cudaDeviceSynchronize(void) {
    device_lock();
    streams_finish();
    for (struct stream *s = streams; s; s = s->next) sends_settle(s == &null_stream ? NULL : s, ~0ul);
    device_unlock();
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    ASSERT(flags == cudaStreamNonBlocking); // others wait for the stream NULL, and it for them
    if (mem_take(sizeof(struct stream), stream) != OK) return cudaErrorMemoryAllocation;
    device_lock();
    struct stream *s = (struct stream *)*stream;
    *s = {streams, ++n_ids, NULL, NULL, 0, 0, 0};
    streams = s;
    device_unlock();
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int) {
    return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = *greatest = 0, cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    device_lock();
    finish(of(stream));
    sends_settle(stream, ~0ul);
    device_unlock();
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    struct stream **at = &streams;
    cudaStreamSynchronize(stream);
    device_lock();
    while (*at != stream) at = &(*at)->next;
    *at = (*at)->next;
    device_unlock();
    return mem_free(stream), cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    device_lock();
    const bool there = run_to(of(stream), of(stream)->n_enqueued, some());
    if (there) sends_settle(stream, ~0ul);
    device_unlock();
    return there ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    const struct event *e = (const struct event *)event;
    device_lock();
    if (e->position > 0 && !getenv("EMULATED_NO_WAITS")) { // a test that must fail then
        struct op *op = enqueue(stream, NULL, "", 0, 0);
        op->stream = e->stream;
        op->position = e->position;
    }
    device_unlock();
    return cudaSuccess;
}

// ---- events ----

static void run_record(void *arg) {
    struct event *e = *(struct event **)arg;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    e->ms = 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
    if (--e->users == 0 && e->destroyed) mem_free(e);
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    if (mem_take(sizeof(struct event), event) != OK) return cudaErrorMemoryAllocation;
    memset(*event, 0, sizeof(struct event));
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    struct event *e = (struct event *)event;
    device_lock();
    e->destroyed = true;
    if (e->users == 0) mem_free(e);
    device_unlock();
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    struct event *e = (struct event *)event;
    device_lock();
    enqueue(stream, run_record, &e, sizeof e, 0);
    e->users++;
    e->stream = of(stream)->id;
    e->position = of(stream)->n_enqueued;
    e->sends_of = stream;
    e->sends = sends_number();
    device_unlock();
    return cudaSuccess;
}

static cudaError_t reach(const struct event *e, long most) {
    bool there = has_run(e->stream, e->position);
    for (struct stream *s = streams; s && !there; s = s->next)
        if (s->id == e->stream) there = run_to(s, e->position, most);
    if (there) sends_settle(e->sends_of, e->sends);
    return there ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    device_lock();
    const cudaError_t e = reach((const struct event *)event, LONG_MAX);
    device_unlock();
    return e;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
    device_lock();
    const cudaError_t e = reach((const struct event *)event, some());
    device_unlock();
    return e;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
    return *ms = (float)(((struct event *)end)->ms - ((struct event *)begin)->ms), cudaSuccess;
}

// ---- the device ----

const char *cudaGetErrorString(cudaError_t e) { return e == cudaSuccess ? "no error" : "an error"; }
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *n) { return *n = 1, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
cudaError_t cudaDeviceGetPCIBusId(char *out, int room, int) {
    snprintf(out, (size_t)room, "emulated");
    return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int, int) { return *can = 0, cudaSuccess; }
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int *value, int, int) { return *value = 9, cudaSuccess; }
