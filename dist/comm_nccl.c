/* SPDX-License-Identifier: Apache-2.0 */
#include <cuda_runtime.h>
#include <inttypes.h>
#include <nccl.h>
#include <stdio.h>
#include <string.h>
#include "base/log.h"
#include "dist/collectives.h"
#include "dist/watch_nccl.h"
#include "profiling/prof.h"

/* Communicators of NCCL, none of which blocks: a call that has more to do says ncclInProgress, and goes on in a thread
 * of NCCL's; until it is through, no other call may follow, and what it enqueues is not on the stream yet.  So one
 * exchange of a rank at a time is `launching`, and the next begin, of any communicator, waits for it: all ranks launch
 * in the order of their programs, and kernels of several communicators cannot wait for each other in a circle.
 *
 * Every wait is in wait_ready, where failures of other ranks and those the watch has found end it. */

enum {
    OLDEST = 21900,    /* its first releases abort communicators of several threads without hanging */
    BAD_FIRST = 22803, /* may crash in ncclCommAbort */
    BAD_LAST = 22808,
    CLOSE_S = 10, /* for NCCL to let go of a communicator */
};

int nccl_version(void) {
    int version = NCCL_NONE;
    return ncclGetVersion(&version) == ncclSuccess ? version : NCCL_NONE;
}

bool nccl_is_bad(void) {
    const int v = nccl_version();
    return v >= BAD_FIRST && v <= BAD_LAST;
}

static void print_version(int v, char out[32]) { snprintf(out, 32, "%d.%d.%d", v / 10000, v / 100 % 100, v % 100); }

enum status nccl_check_version(bool speaks) {
    const int v = nccl_version();
    char found[32], want[32];
    print_version(v, found);
    print_version(OLDEST, want);
    FAIL_UNLESS(v >= OLDEST, ERR_CONFIG,
                "NCCL %s is too old: %s or newer is needed (LD_LIBRARY_PATH says which one is loaded)", found, want);
    print_version(NCCL_VERSION_CODE, want);
    FAIL_UNLESS(
        v / 100 >= NCCL_VERSION_CODE / 100, ERR_CONFIG,
        "NCCL %s is loaded, and this program was built with the header of %s: set LD_LIBRARY_PATH to the folder "
        "of that libnccl, or build with the older one (-DNCCL_ROOT=DIR)",
        found, want);
    if (speaks && nccl_is_bad())
        log_warn("NCCL %s may crash where communicators are aborted after the failure of a rank (2.28.3 to 2.28.8 do): "
                 "2.28.9 or newer is better",
                 found);
    return OK;
}

static enum status refuse(struct comm_inside *in, ncclResult_t e, const char *what) {
    char text[500];
    nccl_explain(in, e, what, text, sizeof text);
    return in->rank->world->kind->fail(in->rank, ERR_COMM, text);
}

static enum status fail_late(struct comm_inside *in, const char *what) {
    char others[200] = "", text[500];
    size_t n = 0;
    for (int i = 0; i < in->comm->size && n + 12 < sizeof others; i++)
        if (i != in->comm->index)
            n += (size_t)snprintf(others + n, sizeof others - n, "%s%d", n ? ", " : "", comm_world_rank(in, i));
    snprintf(text, sizeof text, "waited %g s for NCCL, %s of %s: rank %s late, stuck or lost",
             in->rank->world->spec.deadline_s, what, in->comm->name, others);
    return in->rank->world->kind->fail(in->rank, ERR_TIMEOUT, text);
}

/* The one place where the host waits for NCCL. */
static enum status wait_ready(struct comm_inside *in, const char *what) {
    struct rank *r = in->rank;
    const double until = prof_seconds() + r->world->spec.deadline_s;
    for (int64_t polls = 0;; polls++) {
        TRY(r->world->kind->poll(r));
        TRY(nccl_verdict(r));
        pthread_mutex_lock(&r->lock);
        const ncclResult_t e = nccl_state(in);
        pthread_mutex_unlock(&r->lock);
        if (e == ncclSuccess) return OK;
        if (e != ncclInProgress) return refuse(in, e, what);
        if (prof_seconds() > until) return fail_late(in, what);
        world_nap(polls);
    }
}

static void launching_none(struct rank *r) {
    pthread_mutex_lock(&r->lock);
    r->launching = NULL;
    pthread_mutex_unlock(&r->lock);
}

/* What is launching is on its stream when this returns. */
static enum status settle(struct rank *r) {
    struct comm_inside *in = r->launching;
    if (!in) return OK;
    TRY(wait_ready(in, "the launch of an exchange"));
    launching_none(r);
    return lane_finish(in, r->launched);
}

/* Under rank.lock. */
static ncclResult_t group(struct comm_inside *in, const struct flight *f) {
    struct lane *l = in->lane;
    ncclResult_t bad = ncclSuccess;
    if (!l->nccl) return ncclInProgress; /* aborted: the next wait says why */
    const ncclResult_t begun = ncclGroupStart();
    if (begun != ncclSuccess) return begun;
    for (int k = 0; k < f->n; k++) {
        const struct post *p = &f->posts[k];
        ncclResult_t e = ncclSuccess;
        if (p->state == POST_DONE) continue; /* lost, by a fault */
        if (p->is_send) e = ncclSend(p->from, (size_t)p->bytes, ncclInt8, p->peer, l->nccl, l->stream);
        else e = ncclRecv(p->to, (size_t)p->bytes, ncclInt8, p->peer, l->nccl, l->stream);
        if (bad == ncclSuccess && e != ncclInProgress) bad = e;
    }
    const ncclResult_t ended = ncclGroupEnd();
    return bad != ncclSuccess ? bad : ended;
}

static enum status begin(struct comm_inside *in, struct flight *f) {
    struct rank *r = in->rank;
    TRY(r->world->kind->poll(r));
    TRY(nccl_verdict(r));
    TRY(settle(r));
    if (f->n == 0) return OK;
    pthread_mutex_lock(&r->lock);
    const ncclResult_t e = group(in, f);
    const bool good = e == ncclSuccess || e == ncclInProgress;
    if (good) r->launching = in;
    r->launched = f;
    pthread_mutex_unlock(&r->lock);
    return good ? OK : refuse(in, e, "the launch of an exchange");
}

static void enters(struct comm_inside *in, const struct flight *f) {
    pthread_mutex_lock(&in->rank->world->lock);
    rank_enters(in, f);
    pthread_mutex_unlock(&in->rank->world->lock);
}

static void leaves(struct rank *r) {
    pthread_mutex_lock(&r->world->lock);
    r->in = false;
    pthread_mutex_unlock(&r->world->lock);
}

static enum status nccl_begin(struct comm_inside *in, struct flight *f) {
    enters(in, f);
    TRY(threads_strike(in->rank, f));
    TRY(begin(in, f));
    leaves(in->rank);
    return OK;
}

static enum status nccl_end(struct comm_inside *in, struct flight *f) {
    enters(in, f);
    if (in->rank->launching == in && in->rank->launched == f) TRY(settle(in->rank));
    leaves(in->rank);
    return OK;
}

static enum status first_exchange(struct comm_inside *in, char *room) {
    const int n = in->comm->size;
    struct flight *f = &in->flights[0];
    f->n = 0;
    for (int k = 0; k < 2 * n; k++) {
        const int peer = k % n;
        if (peer == in->comm->index) continue;
        f->posts[f->n++] =
            (struct post){.flight = f, .is_send = k >= n, .peer = peer, .from = room + k, .to = room + k, .bytes = 1};
    }
    TRY(begin(in, f));
    TRY(wait_ready(in, "the first exchange"));
    launching_none(in->rank);
    return comm_wait_stream(in->rank, in->lane->stream);
}

/* Connections are made at the first message between two members, and take memory: so here, one byte each way.  The room
 * is the rank's until the end of the world: cudaFree waits for the whole GPU, and so for exchanges of other ranks that
 * share it, which wait for this one. */
static enum status warm_up(struct comm_inside *in) {
    struct rank *r = in->rank;
    if (!r->warm) {
        const cudaError_t e = cudaMalloc(&r->warm, (size_t)(2 * r->world->size));
        FAIL_UNLESS(e == cudaSuccess, ERR_OOM, "no memory on the GPU for NCCL's first exchange: %s",
                    cudaGetErrorString(e));
    }
    return first_exchange(in, r->warm);
}

static enum status start(struct comm_inside *in) {
    struct rank *r = in->rank;
    struct comm *control = &in->lane->control;
    struct pending p = {0};
    ncclUniqueId id = {0};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm = NULL;
    config.blocking = 0;
    if (in->comm->index == 0) {
        const ncclResult_t e = ncclGetUniqueId(&id);
        if (e != ncclSuccess) return refuse(in, e, "ncclGetUniqueId");
    }
    TRY(broadcast_begin(control, COMM_CONTROL, 0, &id, sizeof id, &p));
    TRY(comm_end(control, &p));
    pthread_mutex_lock(&r->lock);
    const ncclResult_t e = ncclCommInitRankConfig(&comm, in->comm->size, id, in->comm->index, &config);
    in->lane->nccl = comm;
    pthread_mutex_unlock(&r->lock);
    if (e != ncclSuccess && e != ncclInProgress) return refuse(in, e, "the start");
    return wait_ready(in, "the start");
}

/* Let go of the communicator: in peace, or, where ranks have failed, by force. */
static void nccl_leave(struct comm_inside *in) {
    struct rank *r = in->rank;
    const bool peace = in->n_open == 0 && !__atomic_load_n(&r->world->failed, __ATOMIC_ACQUIRE) && lane_idle(in) &&
                       !__atomic_load_n(&r->world->failed, __ATOMIC_ACQUIRE);
    if (r->launching == in) launching_none(r);
    pthread_mutex_lock(&r->lock);
    nccl_let_go(in, !peace);
    pthread_mutex_unlock(&r->lock);
    (void)nccl_wait_closed(r->world, CLOSE_S);
    pthread_mutex_lock(&r->world->lock);
    if (r->last == in) r->last = NULL;
    pthread_mutex_unlock(&r->world->lock);
}

static enum status nccl_join(struct comm_inside *in) {
    enum status st = OK;
    TRY(watch_start(in->rank->world));
    TRY_OUT(settle(in->rank));
    TRY_OUT(start(in));
    TRY_OUT(warm_up(in));
out:
    if (st != OK) {
        in->n_open = 1; /* by force */
        nccl_leave(in);
    }
    return st;
}

const struct transport transport_nccl = {
    .name = "nccl",
    .join = nccl_join,
    .leave = nccl_leave,
    .begin = nccl_begin,
    .end = nccl_end,
};
