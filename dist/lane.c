/* SPDX-License-Identifier: Apache-2.0 */
#include "dist/lane.h"
#include <inttypes.h>
#include <stdio.h>
#include "base/arena.h"
#include "profiling/prof.h"

#ifdef BATON_CUDA
#include <cuda_runtime.h>

enum {
    SLACK_S = 2,  /* the watch of NCCL knows more, and speaks first */
    FAILED_S = 10 /* after a failure: for what is enqueued to end   */
};

#define CUDA(call, what)                                                                                               \
    do {                                                                                                               \
        const cudaError_t e_ = (call);                                                                                 \
        FAIL_UNLESS(e_ == cudaSuccess, ERR_CUDA, "%s: %s", (what), cudaGetErrorString(e_));                            \
    } while (0)

static enum status make_stream(struct lane *l) {
    int least = 0, greatest = 0;
    CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest), "priorities of streams");
    CUDA(cudaStreamCreateWithPriority((cudaStream_t *)&l->stream, cudaStreamNonBlocking, greatest),
         "the stream of exchanges");
    CUDA(cudaEventCreateWithFlags((cudaEvent_t *)&l->copied, cudaEventDisableTiming), "an event of exchanges");
    return OK;
}

static enum status make_events(struct comm_inside *in) {
    for (int i = 0; i < in->n_slots; i++) {
        void **const events[] = {&in->flights[i].ready, &in->flights[i].finished};
        for (int k = 0; k < 2; k++)
            CUDA(cudaEventCreateWithFlags((cudaEvent_t *)events[k], cudaEventDisableTiming), "an event of exchanges");
    }
    return OK;
}

static void listed(struct comm_inside *in, bool on) {
    struct rank *r = in->rank;
    int i = 0;
    pthread_mutex_lock(&r->lock);
    while (i < r->n_lanes && r->lanes[i] != in) i++;
    if (on) r->lanes[r->n_lanes++] = in;
    else if (i < r->n_lanes) r->lanes[i] = r->lanes[--r->n_lanes];
    pthread_mutex_unlock(&r->lock);
}

/* A group of one has nobody to send to: what it sends itself is copied when it is begun. */
static enum status alone(struct comm_inside *in) { return (void)in, OK; }
static void alone_leave(struct comm_inside *in) { (void)in; }
static enum status alone_move(struct comm_inside *in, struct flight *f) { return (void)in, (void)f, OK; }
static const struct transport transport_alone = {
    .name = "copies", .join = alone, .leave = alone_leave, .begin = alone_move, .end = alone_move};

static const struct transport *transport_of(const struct comm_inside *in) {
    if (in->comm->size == 1) return &transport_alone;
#ifdef BATON_NCCL
    if (in->rank->device_way == DEVICE_WAY_NCCL) return &transport_nccl;
#endif
    return &transport_copies;
}

enum status lane_open(struct comm_inside *in, const struct mesh *m, const struct comm_device *spec) {
    void *mem = NULL;
    ASSERT(spec->add);
    TRY(mem_take(sizeof(struct lane), &mem));
    in->lane = mem;
    in->lane->spec = *spec;
    TRY(make_stream(in->lane));
    TRY(make_events(in));
    TRY(way_choose(in->rank, m));
    TRY(comm_init(&in->lane->control, in->rank, m, in->axis, NULL));
    in->transport = transport_of(in);
    listed(in, true);
    return OK;
}

bool lane_idle(struct comm_inside *in) {
    const struct world *w = in->rank->world;
    const double begun = prof_seconds(), deadline = w->spec.deadline_s;
    for (int64_t polls = 0;; polls++) {
        const cudaError_t e = cudaStreamQuery(in->lane->stream);
        const bool failed = __atomic_load_n(&w->failed, __ATOMIC_ACQUIRE);
        if (e != cudaErrorNotReady) return e == cudaSuccess;
        if (prof_seconds() - begun > (failed && deadline > FAILED_S ? FAILED_S : deadline)) return false;
        world_nap(polls);
    }
}

void lane_close(struct comm_inside *in) {
    struct lane *l = in->lane;
    if (!l) return;
    listed(in, false);
    if (l->stream) (void)lane_idle(in);
    comm_term(&l->control);
    for (int i = 0; in->flights && i < in->n_slots; i++) {
        if (in->flights[i].ready) (void)cudaEventDestroy(in->flights[i].ready);
        if (in->flights[i].finished) (void)cudaEventDestroy(in->flights[i].finished);
    }
    if (l->copied) (void)cudaEventDestroy(l->copied);
    if (l->stream) (void)cudaStreamDestroy(l->stream);
    mem_free(l);
    in->lane = NULL;
}

enum status lane_begin(struct comm_inside *in, struct flight *f) {
    CUDA(cudaEventRecord(f->ready, in->lane->spec.compute), "the begin of an exchange");
    CUDA(cudaStreamWaitEvent(in->lane->stream, f->ready, 0), "the begin of an exchange");
    return OK;
}

enum status lane_finish(struct comm_inside *in, struct flight *f) {
    if (!f->moves) return OK;
    CUDA(cudaEventRecord(f->finished, in->lane->stream), "an exchange");
    pthread_mutex_lock(&in->rank->lock);
    f->enqueued = true;
    pthread_mutex_unlock(&in->rank->lock);
    return OK;
}

enum status lane_end(struct comm_inside *in, struct flight *f) {
    if (!f->moves) return OK;
    CUDA(cudaStreamWaitEvent(in->lane->spec.compute, f->finished, 0), "the end of an exchange");
    return OK;
}

static enum status copy(void *stream, void *to, const void *from, int64_t bytes) {
    if (to == from || bytes == 0) return OK;
    CUDA(cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDeviceToDevice, stream), "a copy between GPUs' memory");
    return OK;
}

enum status lane_copy(struct comm_inside *in, void *to, const void *from, int64_t bytes) {
    return copy(in->lane->stream, to, from, bytes);
}

enum status lane_copy_compute(struct comm_inside *in, void *to, const void *from, int64_t bytes) {
    return copy(in->lane->spec.compute, to, from, bytes);
}

enum status lane_take(struct comm_inside *in, struct post *p, struct comm_inside *peer, struct post *s) {
    CUDA(cudaStreamWaitEvent(in->lane->stream, s->flight->ready, 0), "an exchange");
    TRY(lane_copy(in, p->to, s->from, p->bytes));
    CUDA(cudaEventRecord(in->lane->copied, in->lane->stream), "an exchange");
    CUDA(cudaStreamWaitEvent(peer->lane->stream, in->lane->copied, 0), "an exchange");
    return OK;
}

struct flight *lane_oldest(struct comm_inside *in, bool *waits) {
    struct flight *oldest = NULL;
    for (int i = 0; i < in->n_slots; i++) {
        struct flight *f = &in->flights[i];
        if (!f->enqueued || f->over) continue;
        f->over = cudaEventQuery(f->finished) != cudaErrorNotReady;
        if (!f->over && (!oldest || f->number < oldest->number)) oldest = f;
    }
    *waits = oldest && cudaEventQuery(oldest->ready) == cudaSuccess;
    return oldest;
}

static void waits(struct rank *r, bool on) {
    pthread_mutex_lock(&r->world->lock);
    r->waits_gpu = on;
    pthread_mutex_unlock(&r->world->lock);
}

/* Grows while exchanges come to their end on the device. */
static int64_t progress(struct rank *r) {
    int64_t sum = 0;
    bool ignored;
    pthread_mutex_lock(&r->lock);
    for (int i = 0; i < r->n_lanes; i++) {
        const struct flight *f = lane_oldest(r->lanes[i], &ignored);
        sum += f ? f->number : r->lanes[i]->n_begun + 1;
    }
    pthread_mutex_unlock(&r->lock);
    return sum;
}

static enum status late(struct rank *r) {
    char what[300] = "a kernel hangs";
    bool others = false;
    pthread_mutex_lock(&r->lock);
    for (int i = r->n_lanes - 1; i >= 0; i--) {
        const struct flight *f = lane_oldest(r->lanes[i], &others);
        if (!f) continue;
        char tag[60];
        comm_print_tag(comm_tag(f), tag, sizeof tag);
        snprintf(what, sizeof what, "exchange %" PRId64 " of %s, %s, is not over there%s", f->number,
                 r->lanes[i]->comm->name, tag, others ? "" : ": it waits for kernels of this rank");
    }
    pthread_mutex_unlock(&r->lock);
    char text[400];
    snprintf(text, sizeof text, "waited %g s for the GPU: %s", r->world->spec.deadline_s, what);
    return r->world->kind->fail(r, ERR_TIMEOUT, text);
}

static enum status wait_stream(struct rank *r, cudaStream_t stream) {
    enum { LOOK = 512 };
    int64_t seen = -1;
    double since = prof_seconds();
    for (int64_t polls = 0;; polls++) {
        const cudaError_t e = cudaStreamQuery(stream);
        /* After the question: a stream is empty also where its exchange was aborted. */
        TRY(r->world->kind->poll(r));
        TRY(nccl_verdict(r));
        if (e == cudaSuccess) return OK;
        FAIL_UNLESS(e == cudaErrorNotReady, ERR_CUDA, "work on the GPU: %s", cudaGetErrorString(e));
        const double now = prof_seconds();
        if (polls % LOOK == 0 || now - since > r->world->spec.deadline_s) {
            const int64_t at = progress(r);
            if (at != seen) since = now;
            seen = at;
        }
        if (now - since > r->world->spec.deadline_s + SLACK_S) return late(r);
        world_nap(polls);
    }
}

enum status comm_wait_stream(struct rank *r, void *stream) {
    waits(r, true);
    const enum status st = wait_stream(r, stream);
    waits(r, false);
    return st == OK ? OK : status_pass(st, __FILE__, __LINE__);
}

enum status card_name(int *device, char *out, int room) {
    CUDA(cudaGetDevice(device), "the GPU of this rank");
    CUDA(cudaDeviceGetPCIBusId(out, room, *device), "the GPU of this rank");
    return OK;
}

enum status card_reach(int device) {
    int mine = 0, can = 0;
    CUDA(cudaGetDevice(&mine), "the GPU of this rank");
    if (device == mine) return OK;
    CUDA(cudaDeviceCanAccessPeer(&can, mine, device), "the way between two GPUs");
    if (!can) return OK; /* copies then go through host memory */
    const cudaError_t e = cudaDeviceEnablePeerAccess(device, 0);
    (void)cudaGetLastError(); /* that it was enabled before is no failure */
    FAIL_UNLESS(e == cudaSuccess || e == cudaErrorPeerAccessAlreadyEnabled, ERR_CUDA, "access to GPU %d: %s", device,
                cudaGetErrorString(e));
    return OK;
}
#else
#define NO_CUDA() FAIL(ERR_CUDA, "this program was built without CUDA: run with --device cpu, or build with a toolkit")

enum status lane_open(struct comm_inside *in, const struct mesh *m, const struct comm_device *spec) {
    (void)in, (void)m, (void)spec;
    NO_CUDA();
}
enum status comm_wait_stream(struct rank *r, void *stream) {
    (void)r, (void)stream;
    NO_CUDA();
}
void lane_close(struct comm_inside *in) { ASSERT(!in->lane); }
/* No lane is ever open here. */
enum status lane_begin(struct comm_inside *in, struct flight *f) { return (void)in, (void)f, ERR_CUDA; }
enum status lane_finish(struct comm_inside *in, struct flight *f) { return (void)in, (void)f, ERR_CUDA; }
enum status lane_end(struct comm_inside *in, struct flight *f) { return (void)in, (void)f, ERR_CUDA; }
enum status lane_copy(struct comm_inside *in, void *to, const void *from, int64_t bytes) {
    (void)in, (void)to, (void)from, (void)bytes;
    return ERR_CUDA;
}
enum status lane_copy_compute(struct comm_inside *in, void *to, const void *from, int64_t bytes) {
    return lane_copy(in, to, from, bytes);
}
enum status lane_take(struct comm_inside *in, struct post *p, struct comm_inside *peer, struct post *s) {
    (void)in, (void)p, (void)peer, (void)s;
    return ERR_CUDA;
}
#endif
