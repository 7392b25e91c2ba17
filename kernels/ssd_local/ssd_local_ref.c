/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ssd_local/ssd_local.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include "kernels/check.h"
#include "kernels/gemm.h"
#include "kernels/ranges.h"
#include "kernels/ssd_chunk.h"

/* An item of the pool is one (chunk, group), then one (range, head): each writes its own rows, states or summaries. */
struct job {
    const struct ssd_local *a;
    struct span *chunk;
    int64_t *first; /* (R + 1) each range's first chunk        */
    real *scaled;   /* (workers, Q, P) rows times their decays */
};

static enum status check(struct ctx *c, const struct ssd_local *a, bool backward) {
    const int64_t T = a->pos.shape[0], H = a->heads, P = a->head_width, N = a->state, G = a->groups;
    const int64_t R = a->range.shape[0] - 1, n = (backward ? a->dstates : a->states).shape[0];
    CHECK_THAT(ssd_local, H > 0 && P > 0 && N > 0 && G > 0 && H % G == 0 && a->chunk > 0,
               "heads %" PRId64 ", head_width %" PRId64 ", state %" PRId64 ", groups %" PRId64 ", chunk %" PRId64
               ": expected all above 0, and groups dividing heads",
               H, P, N, G, a->chunk);
    CHECK_SHAPE(ssd_local, range, I64, R + 1);
    CHECK_SHAPE(ssd_local, pos, I64, T);
    CHECK_SHAPE(ssd_local, cum, REAL, T, H);
    if (backward) {
        CHECK_SHAPE(ssd_local, C, REAL, T, G * N);
        CHECK_SHAPE(ssd_local, dy, REAL, T, H * P);
        CHECK_SHAPE(ssd_local, dstates, REAL, n, H, P, N);
        CHECK_SHAPE(ssd_local, range_dstate, REAL, R, H, P, N);
    } else {
        CHECK_SHAPE(ssd_local, x, REAL, T, H * P);
        CHECK_SHAPE(ssd_local, dt, REAL, T, H);
        CHECK_SHAPE(ssd_local, B, REAL, T, G * N);
        CHECK_SHAPE(ssd_local, A_log, REAL, H);
        CHECK_SHAPE(ssd_local, dt_bias, REAL, H);
        CHECK_SHAPE(ssd_local, dts, REAL, T, H);
        CHECK_SHAPE(ssd_local, states, REAL, n, H, P, N);
        CHECK_SHAPE(ssd_local, range_decay, REAL, R, H);
        CHECK_SHAPE(ssd_local, range_state, REAL, R, H, P, N);
    }
    TRY(ranges_check("ssd_local", a->range, a->pos));
    const int64_t found = spans_cut(a->range, a->pos, a->chunk, NULL, NULL);
    CHECK_THAT(ssd_local, found <= n, "%s holds %" PRId64 " chunks, the ranges have %" PRId64,
               backward ? "dstates" : "states", n, found);
    return OK;
}

int64_t REF(ssd_local_work)(const struct ctx *c, const struct ssd_local *a) {
    const int64_t R = a->range.shape[0] - 1;
    return arena_round(spans_max(a->pos.shape[0], R, a->chunk) * (int64_t)sizeof(struct span)) +
           arena_round((R + 1) * (int64_t)sizeof(int64_t)) +
           arena_round(pool_size(c->pool) * a->chunk * a->head_width * (int64_t)sizeof(real));
}

/* Memory of one call; the caller has marked the arena. */
static enum status job_open(struct job *j, struct ctx *c, const struct ssd_local *a, int64_t *n_chunks) {
    const int64_t R = a->range.shape[0] - 1;
    void *chunk, *first, *scaled;
    TRY(arena_take(c->work, spans_max(a->pos.shape[0], R, a->chunk) * (int64_t)sizeof(struct span), &chunk));
    TRY(arena_take(c->work, (R + 1) * (int64_t)sizeof(int64_t), &first));
    TRY(arena_take(c->work, pool_size(c->pool) * a->chunk * a->head_width * (int64_t)sizeof(real), &scaled));
    *j = (struct job){.a = a, .chunk = chunk, .first = first, .scaled = scaled};
    *n_chunks = spans_cut(a->range, a->pos, a->chunk, j->chunk, j->first);
    return OK;
}

static real *state_of(struct tensor states, int64_t chunk, int64_t head) {
    return (real *)states.data + (chunk * states.shape[1] + head) * states.shape[2] * states.shape[3];
}

/* dts and cum of one head over one chunk. */
static void time_steps(const struct ssd_local *a, const struct span *k, int64_t h) {
    const double A = -exp((double)((real *)a->A_log.data)[h]), bias = ((real *)a->dt_bias.data)[h];
    const int64_t *pos = a->pos.data;
    double sum = 0;
    for (int64_t t = k->begin; t < k->end; t++) {
        const real dts = (real)ssd_dt(row(a->dt, t)[h] + bias, a->dt_min, a->dt_max);
        sum = A * (double)dts + (pos[t] == 0 ? 0 : sum);
        row(a->dts, t)[h] = dts;
        row(a->cum, t)[h] = (real)sum;
    }
}

static void fwd_chunk(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct ssd_local *a = j->a;
    const int64_t P = a->head_width, N = a->state, per_group = a->heads / a->groups;
    const struct span *k = &j->chunk[item / a->groups];
    const int64_t g = item % a->groups, from = k->begin + k->last, n = k->end - from;
    real *xs = j->scaled + worker * a->chunk * P;
    for (int64_t h = g * per_group; h < (g + 1) * per_group; h++) {
        time_steps(a, k, h);
        const real end = row(a->cum, k->end - 1)[h];
        for (int64_t i = 0; i < n; i++) {
            const real w = (real)exp((double)(end - row(a->cum, from + i)[h])) * row(a->dts, from + i)[h];
            const real *x = row(a->x, from + i) + h * P;
            for (int64_t p = 0; p < P; p++) xs[i * P + p] = w * x[p];
        }
        REF(gemm)
        (true, false, P, N, n, 1, xs, P, row(a->B, from) + g * N, a->B.pitch, 0,
         state_of(a->states, item / a->groups, h), N);
    }
}

/* The state at the end of a range that began with zero, and what it keeps of the state that entered. */
static void fwd_range(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct ssd_local *a = j->a;
    const int64_t r = item / a->heads, h = item % a->heads, PN = a->head_width * a->state;
    real *sum = state_of(a->range_state, r, h);
    double keep = 1;
    (void)worker;
    memset(sum, 0, (size_t)PN * sizeof(real));
    for (int64_t i = j->first[r]; i < j->first[r + 1]; i++) {
        const real decay = ssd_chunk_decay(&j->chunk[i], a->cum, h);
        const real *own = state_of(a->states, i, h);
        for (int64_t p = 0; p < PN; p++) sum[p] = decay * sum[p] + own[p];
        keep *= (double)decay;
    }
    row(a->range_decay, r)[h] = (real)keep;
}

enum status REF(ssd_local_fwd)(struct ctx *c, const struct ssd_local *a) {
    enum status st = OK;
    struct job j;
    int64_t n_chunks;
    TRY(check(c, a, false));
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(job_open(&j, c, a, &n_chunks));
    pool_run(c->pool, n_chunks * a->groups, fwd_chunk, &j);
    pool_run(c->pool, (a->range.shape[0] - 1) * a->heads, fwd_range, &j);
out:
    arena_release(c->work, mark);
    return st;
}

/* y_t = exp(cum_t) S C_t for the rows that see the entering state S: dS = sum_t exp(cum_t) dy_t C_t^T. */
static void bwd_chunk(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct ssd_local *a = j->a;
    const int64_t P = a->head_width, N = a->state, per_group = a->heads / a->groups;
    const struct span *k = &j->chunk[item / a->groups];
    const int64_t g = item % a->groups;
    real *dys = j->scaled + worker * a->chunk * P;
    for (int64_t h = g * per_group; h < (g + 1) * per_group; h++) {
        for (int64_t i = 0; i < k->enter; i++) {
            const real e = (real)exp((double)row(a->cum, k->begin + i)[h]);
            const real *dy = row(a->dy, k->begin + i) + h * P;
            for (int64_t p = 0; p < P; p++) dys[i * P + p] = e * dy[p];
        }
        REF(gemm)
        (true, false, P, N, k->enter, 1, dys, P, row(a->C, k->begin) + g * N, a->C.pitch, 0,
         state_of(a->dstates, item / a->groups, h), N);
    }
}

static void bwd_range(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct ssd_local *a = j->a;
    const int64_t r = item / a->heads, h = item % a->heads, PN = a->head_width * a->state;
    real *sum = state_of(a->range_dstate, r, h);
    (void)worker;
    memset(sum, 0, (size_t)PN * sizeof(real));
    for (int64_t i = j->first[r + 1] - 1; i >= j->first[r]; i--) {
        const real decay = ssd_chunk_decay(&j->chunk[i], a->cum, h);
        const real *own = state_of(a->dstates, i, h);
        for (int64_t p = 0; p < PN; p++) sum[p] = decay * sum[p] + own[p];
    }
}

enum status REF(ssd_local_bwd)(struct ctx *c, const struct ssd_local *a) {
    enum status st = OK;
    struct job j;
    int64_t n_chunks;
    TRY(check(c, a, true));
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(job_open(&j, c, a, &n_chunks));
    pool_run(c->pool, n_chunks * a->groups, bwd_chunk, &j);
    pool_run(c->pool, (a->range.shape[0] - 1) * a->heads, bwd_range, &j);
out:
    arena_release(c->work, mark);
    return st;
}
