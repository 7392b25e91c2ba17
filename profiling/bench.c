/* SPDX-License-Identifier: Apache-2.0 */
#include "profiling/bench.h"
#include <stdlib.h>
#include <string.h>
#include "base/arena.h"
#include "profiling/prof.h"

enum { ROUNDS_MIN = 7, ROUNDS_MAX = 201 };
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

enum status bench_compare(const struct bench_subject *s, const struct bench_subject *yardstick,
                          struct bench_result *out) {
    double run[ROUNDS_MAX], yard[ROUNDS_MAX], unused;
    const double begin = prof_seconds();
    int n = 0;
    TRY(time_one(yardstick, &unused));
    TRY(time_one(s, &unused));
    for (; n < ROUNDS_MAX && (n < ROUNDS_MIN || prof_seconds() - begin < SECONDS); n++) {
        TRY(time_one(yardstick, &yard[n]));
        TRY(time_one(s, &run[n]));
    }
    out->n_rounds = n;
    out->run_s = sort_median(run, n);
    out->run_best_s = run[0];
    sort_median(yard, n);
    out->yardstick_best_s = yard[0];
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
