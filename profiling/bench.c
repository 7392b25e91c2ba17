/* SPDX-License-Identifier: Apache-2.0 */
#include "profiling/bench.h"
#include <stdlib.h>
#include <string.h>
#include "base/arena.h"
#include "profiling/prof.h"

enum { TURNS_MIN = 7, TURN_CALLS = 10, CALLS_MAX = 400 };
#define TURN_S     0.05
#define SECONDS    1.0
#define COPY_BYTES (64 << 20)
#define COPY_PIECE (1 << 20)

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Sorts as well. */
static double sort_median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_size);
    return n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}

static enum status time_one(const struct bench_subject *s, double *seconds) {
    if (s->prepare) TRY(s->prepare(s->arg));
    const double begin = prof_seconds();
    TRY(s->run(s->arg));
    *seconds = prof_seconds() - begin;
    return OK;
}

/* The calls that were timed of one subject. */
struct calls {
    int n;
    double seconds[CALLS_MAX];
};

static enum status take_turn(const struct bench_subject *s, struct calls *c) {
    if (s->begin) TRY(s->begin(s->arg));
    const double begin = prof_seconds();
    for (int i = 0; i < TURN_CALLS && c->n < CALLS_MAX && (i == 0 || prof_seconds() - begin < TURN_S); i++)
        TRY(time_one(s, &c->seconds[c->n++]));
    return OK;
}

enum status bench_compare(const struct bench_subject *s, const struct bench_subject *yardstick,
                          struct bench_result *out) {
    struct calls run = {0}, yard = {0};
    double unused;
    const double begin = prof_seconds();
    TRY(time_one(yardstick, &unused));
    TRY(time_one(s, &unused));
    for (int turn = 0; turn < TURNS_MIN || (prof_seconds() - begin < SECONDS && run.n < CALLS_MAX); turn++) {
        TRY(take_turn(yardstick, &yard));
        TRY(take_turn(s, &run));
    }
    out->n_calls = run.n;
    out->run_s = sort_median(run.seconds, run.n);
    out->run_best_s = run.seconds[0];
    sort_median(yard.seconds, yard.n);
    out->yardstick_best_s = yard.seconds[0];
    return OK;
}

enum status bench_copy_init(struct bench_copy *k, struct pool *pool) {
    void *mem = NULL;
    *k = (struct bench_copy){.pool = pool, .bytes = COPY_BYTES};
    TRY(mem_take(2 * k->bytes, &mem));
    memset(mem, 1, (size_t)(2 * k->bytes)); /* pages that exist */
    k->from = mem;
    k->to = k->from + k->bytes;
    return OK;
}

void bench_copy_term(struct bench_copy *k) {
    mem_free(k->from);
    *k = (struct bench_copy){0};
}

static void copy_piece(void *arg, int64_t item, int worker) {
    const struct bench_copy *k = arg;
    (void)worker;
    memcpy(k->to + item * COPY_PIECE, k->from + item * COPY_PIECE, COPY_PIECE);
}

enum status bench_copy_run(void *copy) {
    struct bench_copy *k = copy;
    pool_run(k->pool, k->bytes / COPY_PIECE, copy_piece, k);
    return OK;
}
