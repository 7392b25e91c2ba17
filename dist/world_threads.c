/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <time.h>
#include "base/arena.h"
#include "dist/lane.h"
#include "profiling/prof.h"

/* One thread a rank.  All start at a gate: a world that cannot start whole does not start. */
enum gate { GATE_SHUT, GATE_OPEN, GATE_CANCELLED };
struct start {
    struct world *world;
    world_fn *fn;
    void *arg;
    enum gate gate;
};
struct thread {
    struct start *start;
    struct rank *rank;
    pthread_t id;
};

void threads_wake_all(struct world *w) {
    for (int i = 0; i < w->size; i++) pthread_cond_signal(&w->ranks[i].wake);
}

bool threads_sleep(struct rank *r, double until_s) {
    const struct timespec until = {.tv_sec = (time_t)until_s, .tv_nsec = (long)((until_s - floor(until_s)) * 1e9)};
    return pthread_cond_timedwait(&r->wake, &r->world->lock, &until) != ETIMEDOUT;
}

static void end_rank(struct rank *r, enum status st) {
    struct world *w = r->world;
    for (int i = 0; i < r->n_comms; i++) ASSERT(!r->comms[i]); /* comm_term on every path */
    pthread_mutex_lock(&w->lock);
    r->st = st;
    r->ended = true;
    if (st != OK && st != ERR_STOPPED) world_record(r, st, false);
    threads_wake_all(w);
    pthread_mutex_unlock(&w->lock);
}

static void *thread_main(void *arg) {
    const struct thread *t = arg;
    struct world *w = t->start->world;
    pthread_mutex_lock(&w->lock);
    while (t->start->gate == GATE_SHUT) pthread_cond_wait(&t->rank->wake, &w->lock);
    const bool go = t->start->gate == GATE_OPEN;
    pthread_mutex_unlock(&w->lock);
    if (go) end_rank(t->rank, t->start->fn(t->rank, t->start->arg));
    return NULL;
}

static void open_gate(struct start *s, enum gate gate) {
    pthread_mutex_lock(&s->world->lock);
    s->gate = gate;
    threads_wake_all(s->world);
    pthread_mutex_unlock(&s->world->lock);
}

static enum status run_many(struct world *w, world_fn *fn, void *arg) {
    void *mem = NULL;
    TRY(mem_take(w->size * (int64_t)sizeof(struct thread), &mem));
    struct thread *threads = mem;
    struct start start = {.world = w, .fn = fn, .arg = arg};
    int n = 0;
    for (; n < w->size; n++) {
        threads[n] = (struct thread){.start = &start, .rank = &w->ranks[n]};
        if (pthread_create(&threads[n].id, NULL, thread_main, &threads[n]) != 0) break;
    }
    open_gate(&start, n == w->size ? GATE_OPEN : GATE_CANCELLED);
    for (int i = 0; i < n; i++) pthread_join(threads[i].id, NULL);
    mem_free(threads);
    nccl_stop(w);
    FAIL_UNLESS(n == w->size, ERR_OOM, "cannot start thread %d of %d ranks: raise the limit on processes (ulimit -u)",
                n, w->size);
    if (w->first.set) FAIL(w->first.st, "%s", w->first.text);
    for (int i = 0; i < w->size; i++)
        if (w->ranks[i].st != OK) FAIL(w->ranks[i].st, "rank %d of %d has stopped as asked", i, w->size);
    return OK;
}

static void reset(struct rank *r) {
    r->n_comms = r->n_opened = 0;
    r->n_messages = 0;
    r->last = NULL;
    r->phase = NULL;
    r->waits = NULL;
    r->in = r->ended = false;
    r->st = OK;
    r->device_way = DEVICE_WAY_AUTO;
    r->n_lanes = 0;
    r->launching = NULL;
    r->verdict.st = OK;
}

static enum status threads_run(struct world *w, world_fn *fn, void *arg) {
    w->first.set = w->first_here = false;
    w->failed = 0;
    for (int i = 0; i < w->size; i++) reset(&w->ranks[i]);
    struct rank *r = &w->ranks[w->spec.paper ? w->spec.alone : 0];
    if (w->size > 1 && !w->spec.paper) return run_many(w, fn, arg);
    const enum status st = fn(r, arg); /* one rank: its record is the caller's */
    for (int i = 0; i < r->n_comms; i++) ASSERT(!r->comms[i]);
    return st == OK ? OK : status_pass(st, __FILE__, __LINE__);
}

static void threads_close(struct world *w) {
    for (int i = 0; i < w->size; i++) {
        pthread_cond_destroy(&w->ranks[i].wake);
        pthread_mutex_destroy(&w->ranks[i].lock);
    }
    pthread_mutex_destroy(&w->lock);
    mem_free(w->ranks);
}

const struct transport transport_threads = {
    .name = "threads",
    .join = threads_join,
    .leave = threads_leave,
    .begin = threads_begin,
    .end = threads_end,
};
const struct world_kind world_threads = {
    .host = &transport_threads,
    .run = threads_run,
    .close = threads_close,
    .fail = threads_fail,
    .poll = threads_poll,
};

static const struct world_kind world_paper = {
    .host = &transport_paper,
    .run = threads_run,
    .close = threads_close,
    .fail = threads_fail,
    .poll = threads_poll,
};

enum status threads_open(struct world *w) {
    void *mem = NULL;
    w->size = w->on_host = w->spec.n_ranks;
    TRY(mem_take(w->size * (int64_t)sizeof(struct rank), &mem));
    w->ranks = mem;
    w->kind = w->spec.paper ? &world_paper : &world_threads;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    for (int i = 0; i < w->size; i++) {
        w->ranks[i] = (struct rank){.world = w, .index = i};
        pthread_cond_init(&w->ranks[i].wake, &attr);
        pthread_mutex_init(&w->ranks[i].lock, NULL);
    }
    pthread_condattr_destroy(&attr);
    return OK;
}

enum status fault_strike(struct rank *r, bool *lost) {
    struct world *w = r->world;
    const int64_t k = ++r->n_messages;
    *lost = false;
    for (int i = 0; i < w->spec.n_faults; i++) {
        const struct fault *f = &w->spec.faults[i];
        if (f->rank != r->index || f->k != k) continue;
        if (f->kind == FAULT_LOST) *lost = true;
        if (f->kind == FAULT_ERROR)
            FAIL(ERR_IO, "injected fault: rank %d fails at its message %lld", r->index, (long long)k);
        const double until = prof_seconds() + (f->kind == FAULT_LATE ? f->ms * 1e-3 : 2 * w->spec.deadline_s);
        if (f->kind != FAULT_LATE && f->kind != FAULT_STOP) continue;
        /* A rank that went silent wakes only to be joined: when the others have given it up. */
        pthread_mutex_lock(&w->lock);
        for (bool awake = true; awake && !(f->kind == FAULT_STOP && w->first.set);) awake = threads_sleep(r, until);
        pthread_mutex_unlock(&w->lock);
        if (f->kind == FAULT_STOP)
            FAIL(ERR_COMM, "injected fault: rank %d went silent at its message %lld", r->index, (long long)k);
    }
    return OK;
}
