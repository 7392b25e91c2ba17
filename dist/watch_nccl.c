/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "dist/watch_nccl.h"
#include <cuda_runtime.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "base/arena.h"
#include "base/log.h"
#include "profiling/prof.h"

enum {
    TICK_MS = 20,
    LAST_S = 30, /* after a failure: then what does not end is ended */
    EXIT_LOST = 4,
};
struct closing { /* one communicator on its way out */
    struct watch *watch;
    ncclComm_t comm;
    int card;
    bool by_force, taken;
};
struct watch {
    struct world *world;
    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows; innermost */
    pthread_cond_t changed;
    bool stop;
    int n_closing;
    struct closing *closing; /* (ranks here, COMMS_MAX) */
    int n_places;
    bool said; /* the watch's own, like what follows */
    double failed_s;
};

static int ranks_here(const struct world *w) { return w->kind == &world_threads ? w->size : 1; }

static bool sleep_until(struct watch *t, double until_s) {
    const struct timespec until = {.tv_sec = (time_t)until_s,
                                   .tv_nsec = (long)((until_s - (double)(time_t)until_s) * 1e9)};
    return pthread_cond_timedwait(&t->changed, &t->lock, &until) == 0;
}

void nccl_explain(struct comm_inside *in, ncclResult_t e, const char *what, char *out, size_t room) {
    const char *last = ncclGetLastError(NULL);
    snprintf(out, room, "NCCL, %s of %s: %s%s%.200s", what, in->comm->name, ncclGetErrorString(e),
             last && *last ? "; its latest words: " : "", last ? last : "");
}

ncclResult_t nccl_state(struct comm_inside *in) {
    ncclResult_t e = ncclInProgress;
    if (!in->lane->nccl) return e;
    const ncclResult_t asked = ncclCommGetAsyncError(in->lane->nccl, &e);
    return asked == ncclSuccess ? e : asked;
}

static void *close_main(void *arg) {
    struct closing *c = arg;
    (void)cudaSetDevice(c->card); /* else a context appears on GPU 0 */
    if (c->by_force) (void)ncclCommAbort(c->comm);
    else (void)ncclCommDestroy(c->comm);
    pthread_mutex_lock(&c->watch->lock);
    c->taken = false;
    c->watch->n_closing--;
    pthread_cond_broadcast(&c->watch->changed);
    pthread_mutex_unlock(&c->watch->lock);
    return NULL;
}

void nccl_let_go(struct comm_inside *in, bool by_force) {
    struct watch *t = in->rank->world->nccl;
    pthread_t thread;
    int i = 0;
    if (!in->lane->nccl) return;
    pthread_mutex_lock(&t->lock);
    while (i < t->n_places && t->closing[i].taken) i++;
    ASSERT(i < t->n_places);
    t->closing[i] = (struct closing){
        .watch = t, .comm = in->lane->nccl, .card = in->rank->card, .by_force = by_force, .taken = true};
    t->n_closing++;
    pthread_mutex_unlock(&t->lock);
    in->lane->nccl = NULL;
    if (pthread_create(&thread, NULL, close_main, &t->closing[i]) == 0) pthread_detach(thread);
    else close_main(&t->closing[i]);
}

bool nccl_wait_closed(struct world *w, double seconds) {
    struct watch *t = w->nccl;
    const double until = prof_seconds() + seconds;
    pthread_mutex_lock(&t->lock);
    while (t->n_closing > 0 && prof_seconds() < until) (void)sleep_until(t, until);
    const bool closed = t->n_closing == 0;
    pthread_mutex_unlock(&t->lock);
    return closed;
}

/* Has this rank, a thread, launched its part of the exchange of that number? */
static bool has_launched(struct rank *peer, int serial, int64_t number) {
    bool launched = false;
    pthread_mutex_lock(&peer->lock);
    for (int i = 0; i < peer->n_lanes; i++) {
        const struct comm_inside *theirs = peer->lanes[i];
        if (theirs->serial != serial) continue;
        launched = theirs->n_begun > number || (peer->launching == theirs && peer->launched->number == number);
        for (int k = 0; k < theirs->n_slots; k++)
            launched |= theirs->flights[k].number == number && theirs->flights[k].enqueued;
    }
    pthread_mutex_unlock(&peer->lock);
    return launched;
}

/* An exchange that waits beyond the deadline, and the ranks it sends to or receives from. */
struct late {
    struct rank *rank; /* NULL: none */
    int serial, n;
    int64_t number;
    char what[100];
    int others[32];
};

static void note_late(struct comm_inside *in, const struct flight *f, struct late *out) {
    char tag[60];
    *out = (struct late){.rank = in->rank, .serial = in->serial, .number = f->number};
    comm_print_tag(comm_tag(f), tag, sizeof tag);
    snprintf(out->what, sizeof out->what, "%s, exchange %" PRId64 " of %s", tag, f->number, in->comm->name);
    for (int member = 0; member < in->comm->size; member++) {
        bool is_peer = false;
        for (int k = 0; k < f->n; k++) is_peer |= f->posts[k].peer == member;
        if (is_peer && out->n < 32) out->others[out->n++] = comm_world_rank(in, member);
    }
}

static void judge(struct rank *r, enum status st, const char *text) {
    if (r->verdict.st != OK) return;
    r->verdict.st = st;
    snprintf(r->verdict.text, sizeof r->verdict.text, "%s", text);
}

/* Which of the others have not launched it is known of threads; else all of them are named. */
static void judge_late(const struct late *l) {
    struct world *w = l->rank->world;
    char missing[300] = "", text[600];
    size_t n = 0;
    for (int i = 0; i < l->n && n + 12 < sizeof missing; i++)
        if (w->kind != &world_threads || !has_launched(&w->ranks[l->others[i]], l->serial, l->number))
            n += (size_t)snprintf(missing + n, sizeof missing - n, "%s%d", n ? ", " : "", l->others[i]);
    snprintf(text, sizeof text, "%s, has waited %g s on the GPU, not heard of rank %s", l->what, w->spec.deadline_s,
             n ? missing : "any: a message was lost, or sizes differ");
    pthread_mutex_lock(&l->rank->lock);
    judge(l->rank, ERR_TIMEOUT, text);
    pthread_mutex_unlock(&l->rank->lock);
}

/* Under rank.lock. */
static void look_at(struct comm_inside *in, struct late *late) {
    struct lane *l = in->lane;
    bool waits = false;
    if (!l->nccl) return;
    const ncclResult_t e = nccl_state(in);
    if (e != ncclSuccess && e != ncclInProgress) {
        char text[500];
        nccl_explain(in, e, "exchanges", text, sizeof text);
        judge(in->rank, ERR_COMM, text);
        return;
    }
    const struct flight *f = lane_oldest(in, &waits);
    const double now = prof_seconds();
    if (!f || !waits || f->number != l->suspect) {
        l->suspect = f && waits ? f->number : 0;
        l->suspect_s = now;
    } else if (now - l->suspect_s > in->rank->world->spec.deadline_s && !late->rank) note_late(in, f, late);
}

static bool look_around(struct watch *t) {
    bool bad = false;
    for (int i = 0; i < ranks_here(t->world); i++) {
        struct rank *r = &t->world->ranks[i];
        struct late late = {0};
        pthread_mutex_lock(&r->lock);
        if (r->n_lanes > 0) (void)cudaSetDevice(r->card);
        for (int k = 0; k < r->n_lanes; k++) look_at(r->lanes[k], &late);
        bad |= r->verdict.st != OK || late.rank;
        pthread_mutex_unlock(&r->lock);
        if (late.rank) judge_late(&late); /* it takes the locks of other ranks, one at a time */
    }
    return bad;
}

/* What there is to say of the failure: the record, or, before any rank could take it up, a verdict. */
static void say(struct watch *t) {
    struct world *w = t->world;
    if (t->said) return;
    t->said = true;
    if (__atomic_load_n(&w->failed, __ATOMIC_ACQUIRE)) {
        if (w->first_here) log_warn("%s", w->first.text);
        return;
    }
    for (int i = 0; i < ranks_here(w); i++) {
        struct rank *r = &w->ranks[i];
        pthread_mutex_lock(&r->lock);
        if (r->verdict.st != OK) log_warn("rank %d of %d: %s", r->index, w->size, r->verdict.text);
        pthread_mutex_unlock(&r->lock);
    }
}

static void abort_all(struct watch *t) {
    if (nccl_is_bad()) say(t); /* there may be no later */
    for (int i = 0; i < ranks_here(t->world); i++) {
        struct rank *r = &t->world->ranks[i];
        pthread_mutex_lock(&r->lock);
        for (int k = 0; k < r->n_lanes; k++) nccl_let_go(r->lanes[k], true);
        pthread_mutex_unlock(&r->lock);
    }
}

static void give_up(struct watch *t) {
    if (!t->world->spec.hard_exit) return;
    say(t);
    log_warn("this process does not come to its end %d s after the failure: it is ended with exit code %d", LAST_S,
             EXIT_LOST);
    t->world->spec.hard_exit(EXIT_LOST);
}

/* Threads hear of it here; a process when its rank, which alone may call MPI, takes it up. */
static void record(struct world *w) {
    char text[sizeof w->ranks[0].verdict.text];
    for (int i = 0; w->kind == &world_threads && i < w->size; i++) {
        struct rank *r = &w->ranks[i];
        pthread_mutex_lock(&r->lock);
        const enum status st = r->verdict.st;
        memcpy(text, r->verdict.text, sizeof text);
        pthread_mutex_unlock(&r->lock);
        if (st != OK) (void)w->kind->fail(r, st, text);
    }
}

static bool failed(const struct world *w) { return __atomic_load_n(&w->failed, __ATOMIC_ACQUIRE); }

static void tick(struct watch *t) {
    const bool found = look_around(t);
    if (found && !failed(t->world)) record(t->world);
    if (!found && !failed(t->world)) return;
    if (t->failed_s == 0) t->failed_s = prof_seconds();
    abort_all(t); /* each time: a rank that has not heard of it may have opened one more */
    if (prof_seconds() - t->failed_s > LAST_S) give_up(t);
}

static void *watch_main(void *arg) {
    struct watch *t = arg;
    pthread_mutex_lock(&t->lock);
    while (!t->stop) {
        pthread_mutex_unlock(&t->lock);
        tick(t);
        pthread_mutex_lock(&t->lock);
        if (!t->stop) (void)sleep_until(t, prof_seconds() + TICK_MS * 1e-3);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void release(struct watch *t) {
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->lock);
    mem_free(t->closing);
    mem_free(t);
}

static enum status start(struct world *w) {
    void *mem = NULL, *closing = NULL;
    const int n = ranks_here(w) * COMMS_MAX;
    TRY(mem_take(sizeof(struct watch), &mem));
    struct watch *t = mem;
    if (mem_take(n * (int64_t)sizeof(struct closing), &closing) != OK) {
        mem_free(t);
        return status_pass(ERR_OOM, __FILE__, __LINE__);
    }
    *t = (struct watch){.world = w, .closing = closing, .n_places = n};
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->changed, &attr);
    pthread_condattr_destroy(&attr);
    w->nccl = t;
    if (pthread_create(&t->thread, NULL, watch_main, t) == 0) return OK;
    w->nccl = NULL;
    release(t);
    FAIL(ERR_OOM, "cannot start the thread that watches NCCL: raise the limit on processes (ulimit -u)");
}

enum status watch_start(struct world *w) {
    pthread_mutex_lock(&w->lock);
    const enum status st = w->nccl ? OK : start(w);
    pthread_mutex_unlock(&w->lock);
    return st;
}

void nccl_stop(struct world *w) {
    struct watch *t = w->nccl;
    if (!t) return;
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    const bool closed = nccl_wait_closed(w, LAST_S);
    w->nccl = NULL;
    if (!closed) {
        give_up(t); /* without hard_exit: what hangs keeps its memory */
        return;
    }
    for (int i = 0; i < ranks_here(w); i++) {
        if (!w->ranks[i].warm) continue;
        (void)cudaSetDevice(w->ranks[i].card);
        (void)cudaFree(w->ranks[i].warm);
        w->ranks[i].warm = NULL;
    }
    release(t);
}

enum status nccl_verdict(struct rank *r) {
    char text[sizeof r->verdict.text];
    pthread_mutex_lock(&r->lock);
    const enum status st = r->verdict.st;
    if (st != OK) memcpy(text, r->verdict.text, sizeof text);
    pthread_mutex_unlock(&r->lock);
    return st == OK ? OK : r->world->kind->fail(r, st, text);
}
