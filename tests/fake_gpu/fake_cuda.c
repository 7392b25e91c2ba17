/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/arena.h"
#include "base/rng.h"
#include "tests/fake_gpu/fake_gpu.h"
#include "tests/gpu_work.h"

enum { STREAMS = 512, ACCESSES = 1 << 16, BURST = 64, RACES_SHOWN = 10 };

struct fake_event {
    int64_t n_records, n_done;
    int64_t clock[STREAMS]; /* of its latest record */
    int n_users;            /* ops that name it     */
    bool destroyed;
    struct fake_event *next;
};
struct fake_stream {
    bool open;
    int device;
    int64_t n_enqueued, n_done; /* never reset: a place used again goes on counting */
    int64_t clock[STREAMS];     /* how far each stream is known to have come before the next op of this one */
    struct fake_op *head, *tail;
};
struct access {
    const char *at, *end;
    bool writes;
    int stream;
    int64_t number;
};
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool stop;
    enum fake_pace pace;
    int demand, n_devices, n_races, n_accesses;
    uint64_t seed, n_random;
    struct fake_stream streams[STREAMS];
    struct access accesses[ACCESSES];
    struct fake_event *free_events;
    struct fake_op *free_ops;
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
static _Thread_local int device_now;

void fake_lock(void) { pthread_mutex_lock(&fake.lock); }
void fake_unlock(void) { pthread_mutex_unlock(&fake.lock); }
uint64_t fake_random(void) { return rng_bits(fake.seed, 0, fake.n_random++); }
int fake_races(void) { return fake.n_races; }

static void *take(int64_t bytes) {
    void *p = NULL;
    if (mem_take(bytes, &p) != OK) abort();
    return p;
}

static void unuse(struct fake_event *e) {
    if (e->n_users > 0 || !e->destroyed) return;
    e->next = fake.free_events;
    fake.free_events = e;
}

/* ---- the executor ---- */

static void run_one(struct fake_stream *s) {
    struct fake_op *op = s->head;
    if (!op->turn(op)) return;
    s->head = op->next;
    if (!s->head) s->tail = NULL;
    s->n_done++;
    if (op->event) {
        op->event->n_users--;
        unuse(op->event);
    }
    op->next = fake.free_ops;
    fake.free_ops = op;
}

static void *execute(void *unused) {
    fake_lock();
    while (!fake.stop) {
        int busy[STREAMS], n = 0;
        for (int i = 0; i < STREAMS; i++)
            if (fake.streams[i].head) busy[n++] = i;
        const bool rest = n == 0 || (fake.pace == FAKE_LAZY && fake.demand == 0);
        if (!rest) {
            run_one(&fake.streams[busy[fake_random() % (uint64_t)n]]);
            if (fake.demand > 0) fake.demand--;
        }
        if (rest && !fake.stop) pthread_cond_wait(&fake.changed, &fake.lock);
        const uint64_t bits = fake_random();
        if (rest || bits % 16) continue;
        fake_unlock();
        if (fake.pace == FAKE_RANDOM && bits / 16 % 64 == 0) nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
        else sched_yield();
        fake_lock();
    }
    fake_unlock();
    return unused;
}

void fake_open(uint64_t seed, int n_devices, enum fake_pace pace) {
    fake.stop = false;
    fake.pace = pace;
    fake.seed = seed;
    fake.n_devices = n_devices;
    fake.demand = 0;
    if (pthread_create(&fake.thread, NULL, execute, NULL) != 0) abort();
}

void fake_close(void) {
    fake_lock();
    fake.stop = true;
    pthread_cond_signal(&fake.changed);
    fake_unlock();
    pthread_join(fake.thread, NULL);
    fake.n_accesses = 0;
    for (int i = 0; i < STREAMS; i++)
        if (fake.streams[i].open || fake.streams[i].head) {
            fprintf(stderr, "fake_gpu: stream %d is still open or busy\n", i);
            fake.n_races++;
        }
}

static void ask(void) {
    fake.demand = BURST;
    pthread_cond_signal(&fake.changed);
}

/* ---- order ---- */

static void join(int64_t *clock, const int64_t *other) {
    for (int i = 0; i < STREAMS; i++)
        if (other[i] > clock[i]) clock[i] = other[i];
}

/* The host has seen the stream empty: what came before is over for all. */
static void seen(const struct fake_stream *s) {
    int n = 0;
    for (int i = 0; i < fake.n_accesses; i++)
        if (s->clock[fake.accesses[i].stream] < fake.accesses[i].number) fake.accesses[n++] = fake.accesses[i];
    fake.n_accesses = n;
}

static void check(const struct fake_stream *s, const struct access *a) {
    for (int i = 0; i < fake.n_accesses; i++) {
        const struct access *b = &fake.accesses[i];
        if (b->end <= a->at || a->end <= b->at || (!a->writes && !b->writes)) continue;
        if (s->clock[b->stream] >= b->number) continue;
        if (fake.n_races++ < RACES_SHOWN)
            fprintf(stderr, "fake_gpu: op %lld of stream %d %s what op %lld of stream %d %s, in no order\n",
                    (long long)a->number, a->stream, a->writes ? "writes" : "reads", (long long)b->number, b->stream,
                    b->writes ? "writes" : "reads");
    }
}

void fake_enqueue(cudaStream_t s, const struct fake_op *op, const struct fake_access *accesses, int n) {
    const int id = (int)(s - fake.streams);
    struct fake_op *o = fake.free_ops;
    if (o) fake.free_ops = o->next;
    else o = take(sizeof *o);
    *o = *op;
    if (!s->open) abort();
    s->clock[id] = ++s->n_enqueued;
    for (int i = 0; i < n; i++) {
        const struct access a = {.at = accesses[i].at,
                                 .end = (const char *)accesses[i].at + accesses[i].bytes,
                                 .writes = accesses[i].writes,
                                 .stream = id,
                                 .number = s->n_enqueued};
        check(s, &a);
        if (fake.n_accesses == ACCESSES) abort();
        fake.accesses[fake.n_accesses++] = a;
    }
    if (s->tail) s->tail->next = o;
    else s->head = o;
    s->tail = o;
    if (fake.pace != FAKE_LAZY) pthread_cond_signal(&fake.changed);
}

/* ---- ops ---- */

static bool turn_copy(struct fake_op *op) { return memcpy(op->to, op->from, (size_t)op->bytes), true; }
static bool turn_set(struct fake_op *op) { return memset(op->to, (int)op->value, (size_t)op->bytes), true; }
static bool turn_spin(struct fake_op *op) { return --op->value <= 0; }
static bool turn_record(struct fake_op *op) { return op->event->n_done = op->value, true; }
static bool turn_wait(struct fake_op *op) { return op->event->n_done >= op->value; }
static bool turn_add(struct fake_op *op) {
    if (op->value == F32)
        for (int64_t i = 0; i < op->bytes / 4; i++) ((float *)op->to)[i] += ((const float *)op->from)[i];
    else
        for (int64_t i = 0; i < op->bytes / 8; i++) ((double *)op->to)[i] += ((const double *)op->from)[i];
    return true;
}

enum status gpu_add(void *arg, enum dtype t, void *to, const void *from, int64_t n) {
    const int64_t bytes = n * dtype_bytes(t);
    const struct fake_access used[] = {{to, bytes, true}, {from, bytes, false}};
    fake_lock();
    fake_enqueue(arg, &(struct fake_op){.turn = turn_add, .to = to, .from = from, .bytes = bytes, .value = t}, used, 2);
    fake_unlock();
    return OK;
}

void gpu_spin(void *stream, int64_t microseconds) {
    fake_lock();
    fake_enqueue(stream, &(struct fake_op){.turn = turn_spin, .value = microseconds}, NULL, 0);
    fake_unlock();
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s) {
    const struct fake_access used[] = {{to, (int64_t)bytes, true}, {from, (int64_t)bytes, false}};
    (void)kind;
    fake_lock();
    fake_enqueue(s, &(struct fake_op){.turn = turn_copy, .to = to, .from = from, .bytes = (int64_t)bytes}, used, 2);
    fake_unlock();
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int byte, size_t bytes, cudaStream_t s) {
    const struct fake_access used[] = {{p, (int64_t)bytes, true}};
    fake_lock();
    fake_enqueue(s, &(struct fake_op){.turn = turn_set, .to = p, .bytes = (int64_t)bytes, .value = byte}, used, 1);
    fake_unlock();
    return cudaSuccess;
}

/* ---- streams and events ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    return cudaStreamCreateWithPriority(out, flags, 0);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int priority) {
    int i = 0;
    (void)flags, (void)priority;
    fake_lock();
    while (i < STREAMS && (fake.streams[i].open || fake.streams[i].head)) i++;
    if (i == STREAMS) abort();
    fake.streams[i].open = true;
    fake.streams[i].device = device_now;
    *out = &fake.streams[i];
    fake_unlock();
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s) {
    fake_lock();
    s->open = false;
    fake_unlock();
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t s) {
    fake_lock();
    const bool empty = !s->head;
    if (empty) seen(s);
    else ask();
    fake_unlock();
    return empty ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    while (cudaStreamQuery(s) == cudaErrorNotReady) sched_yield();
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    (void)flags;
    fake_lock();
    struct fake_event *e = fake.free_events;
    if (e) fake.free_events = e->next;
    else e = take(sizeof *e);
    memset(e, 0, sizeof *e);
    *out = e;
    fake_unlock();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e) {
    fake_lock();
    e->destroyed = true;
    unuse(e);
    fake_unlock();
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    fake_lock();
    if (e->destroyed) abort();
    e->n_users++;
    fake_enqueue(s, &(struct fake_op){.turn = turn_record, .event = e, .value = ++e->n_records}, NULL, 0);
    memcpy(e->clock, s->clock, sizeof e->clock);
    fake_unlock();
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags) {
    (void)flags;
    fake_lock();
    if (e->destroyed) abort();
    e->n_users++;
    fake_enqueue(s, &(struct fake_op){.turn = turn_wait, .event = e, .value = e->n_records}, NULL, 0);
    join(s->clock, e->clock);
    fake_unlock();
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t e) {
    fake_lock();
    const bool done = e->n_done >= e->n_records;
    fake_unlock();
    return done ? cudaSuccess : cudaErrorNotReady;
}

/* ---- devices and memory ---- */

const char *cudaGetErrorString(cudaError_t e) { return e == cudaSuccess ? "no error" : "an error of the fake GPU"; }
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *n) { return *n = fake.n_devices, cudaSuccess; }
cudaError_t cudaGetDevice(int *device) { return *device = device_now, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device_now = device, cudaSuccess; }
cudaError_t cudaDeviceGetPCIBusId(char *out, int room, int device) {
    snprintf(out, (size_t)room, "0000:%02x:00.0", device);
    return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) { return *can = device != peer, cudaSuccess; }
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
    return (void)flags, peer % 2 ? cudaErrorPeerAccessAlreadyEnabled : cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **out, size_t bytes) {
    return mem_take((int64_t)bytes, out) == OK ? cudaSuccess : cudaErrorMemoryAllocation;
}
/* As on a GPU, waits for all that is enqueued on this one. */
cudaError_t cudaFree(void *p) {
    int64_t until[STREAMS];
    fake_lock();
    for (int i = 0; i < STREAMS; i++) until[i] = fake.streams[i].n_enqueued;
    for (int i = 0; i < STREAMS; i++)
        while (fake.streams[i].device == device_now && fake.streams[i].n_done < until[i]) {
            ask();
            fake_unlock();
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
            fake_lock();
        }
    for (int i = 0; i < STREAMS; i++)
        if (fake.streams[i].device == device_now && !fake.streams[i].head) seen(&fake.streams[i]);
    fake_unlock();
    mem_free(p);
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **out, size_t bytes) { return cudaMalloc(out, bytes); }
cudaError_t cudaFreeHost(void *p) { return mem_free(p), cudaSuccess; }
