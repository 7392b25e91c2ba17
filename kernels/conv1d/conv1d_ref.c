/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/conv1d/conv1d.h"
#include <inttypes.h>
#include <string.h>
#include "kernels/check.h"
#include "kernels/ranges.h"
#include "kernels/real_math.h"
#include "kernels/rows.h"

#define ROWS     64   /* tokens of an item                                                            */
#define CHANNELS 2048 /* channels of an item: memory likes long rows, and a row of sums still fits L1 */
#define MAX_TAPS 16

/* An item of the pool is (span of rows, block of channels); dbefore and the sums of dw and db have passes of their own.
 */
struct job {
    const struct conv1d *a;
    struct span *span;
    real *taps;           /* (K, C) tap j, the weight of x_{t-j}: w transposed, last column first */
    real *du;             /* (workers, ROWS + K - 1, CHANNELS)                                    */
    real *partial;        /* (spans, K + 1, C) dw by tap, then db                                 */
    int64_t K, C, blocks; /* taps, channels, blocks of channels                                   */
    int64_t n_spans;
};

static enum status check(struct ctx *c, const struct conv1d *a, bool backward) {
    const int64_t T = a->x.shape[0], C = a->x.shape[1], K = a->w.shape[1], R = a->range.shape[0] - 1;
    CHECK_THAT(conv1d, K >= 1 && K <= MAX_TAPS, "w has %" PRId64 " taps: expected 1 to %d", K, MAX_TAPS);
    CHECK_SHAPE(conv1d, range, I64, R + 1);
    CHECK_SHAPE(conv1d, pos, I64, T);
    CHECK_SHAPE(conv1d, x, REAL, T, C);
    CHECK_SHAPE(conv1d, w, WIDE, C, K);
    CHECK_THAT(conv1d, a->w.pitch == K, "w has the row pitch %" PRId64 ": expected a packed tensor", a->w.pitch);
    CHECK_OPTIONAL(conv1d, b, WIDE, C);
    if (K > 1) CHECK_SHAPE(conv1d, before, REAL, R, K - 1, C);
    if (backward) {
        CHECK_SHAPE(conv1d, dy, REAL, T, C);
        CHECK_SHAPE(conv1d, dx, REAL, T, C);
        CHECK_SHAPE(conv1d, dw, WIDE, C, K);
        CHECK_THAT(conv1d, a->dw.pitch == K, "dw has the row pitch %" PRId64 ": expected a packed tensor", a->dw.pitch);
        CHECK_OPTIONAL(conv1d, db, WIDE, C);
        if (K > 1) CHECK_SHAPE(conv1d, dbefore, REAL, R, K - 1, C);
    } else {
        CHECK_SHAPE(conv1d, y, REAL, T, C);
    }
    return ranges_check("conv1d", a->range, a->pos);
}

/* Bytes of the spans, the taps, the workers' du and the partial sums. */
static void sizes(const struct ctx *c, const struct conv1d *a, int64_t bytes[4]) {
    const int64_t T = a->x.shape[0], C = a->x.shape[1], K = a->w.shape[1];
    const int64_t spans = spans_max(T, a->range.shape[0] - 1, ROWS), each = (int64_t)sizeof(real);
    bytes[0] = spans * (int64_t)sizeof(struct span);
    bytes[1] = K * C * each;
    bytes[2] = pool_size(c->pool) * (ROWS + K - 1) * CHANNELS * each;
    bytes[3] = spans * (K + 1) * C * each;
}

int64_t REF(conv1d_work)(const struct ctx *c, const struct conv1d *a) {
    int64_t bytes[4];
    sizes(c, a, bytes);
    return arena_round(bytes[0]) + arena_round(bytes[1]) + arena_round(bytes[2]) + arena_round(bytes[3]);
}

/* Memory of one call; the caller has marked the arena. */
static enum status job_open(struct job *j, struct ctx *c, const struct conv1d *a) {
    int64_t bytes[4];
    void *at[4];
    sizes(c, a, bytes);
    for (int i = 0; i < 4; i++) TRY(arena_take(c->work, bytes[i], &at[i]));
    *j = (struct job){.a = a, .span = at[0], .taps = at[1], .du = at[2], .partial = at[3]};
    j->K = a->w.shape[1];
    j->C = a->x.shape[1];
    j->blocks = ceil_div(j->C, CHANNELS);
    j->n_spans = spans_cut(a->range, a->pos, ROWS, j->span, NULL);
    for (int64_t k = 0; k < j->K; k++)
        for (int64_t n = 0; n < j->C; n++) j->taps[k * j->C + n] = ((real *)a->w.data)[n * j->K + j->K - 1 - k];
    return OK;
}

static int64_t taps_of(const struct job *j, int64_t t) { return least(j->K, ((int64_t *)j->a->pos.data)[t] + 1); }

/* x_{t-k}, in the range or before it. */
static const real *x_at(const struct job *j, int64_t range, int64_t t, int64_t k) {
    const int64_t begin = ((int64_t *)j->a->range.data)[range];
    if (t - k >= begin) return row(j->a->x, t - k);
    return (real *)j->a->before.data + ((range + 1) * (j->K - 1) + t - k - begin) * j->C;
}

static void add_product(real *restrict u, const real *restrict w, const real *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) u[i] += w[i] * x[i];
}

/* u_t over channels [c0, c0 + n). */
static void pre_activation(const struct job *j, int64_t range, int64_t t, int64_t c0, int64_t n, real *restrict u) {
    const real *b = j->a->b.data;
    for (int64_t i = 0; i < n; i++) u[i] = b ? b[c0 + i] : 0;
    for (int64_t k = taps_of(j, t) - 1; k >= 0; k--)
        add_product(u, j->taps + k * j->C + c0, x_at(j, range, t, k) + c0, n);
}

static void fwd_item(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct span *s = &j->span[item / j->blocks];
    const int64_t c0 = item % j->blocks * CHANNELS, n = least(CHANNELS, j->C - c0);
    real u[CHANNELS];
    (void)worker;
    for (int64_t t = s->begin; t < s->end; t++) {
        real *restrict y = row(j->a->y, t) + c0;
        pre_activation(j, s->range, t, c0, n, u);
        if (j->a->silu)
            for (int64_t i = 0; i < n; i++) y[i] = real_silu(u[i]);
        else memcpy(y, u, (size_t)n * sizeof(real));
    }
}

enum status REF(conv1d_fwd)(struct ctx *c, const struct conv1d *a) {
    enum status st = OK;
    struct job j;
    TRY(check(c, a, false));
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(job_open(&j, c, a));
    pool_run(c->pool, j.n_spans * j.blocks, fwd_item, &j);
out:
    arena_release(c->work, mark);
    return st;
}

/* du of rows [begin, end) of one range, n channels each, rows CHANNELS apart. */
static void make_du(const struct job *j, int64_t range, int64_t begin, int64_t end, int64_t c0, int64_t n, real *du) {
    for (int64_t t = begin; t < end; t++) {
        real *restrict to = du + (t - begin) * CHANNELS;
        const real *restrict dy = row(j->a->dy, t) + c0;
        if (j->a->silu) {
            pre_activation(j, range, t, c0, n, to);
            for (int64_t i = 0; i < n; i++) to[i] = dy[i] * real_dsilu(to[i]);
        } else {
            memcpy(to, dy, (size_t)n * sizeof(real));
        }
    }
}

/* out = sum over k >= k0 of tap k times du_{s+k}, s a token of the range or before it (then k0 > 0). */
static void gather_taps(const struct job *j, int64_t end, int64_t s, int64_t k0, int64_t c0, int64_t n,
                        const real *du_s, real *out) {
    memset(out, 0, (size_t)n * sizeof(real));
    for (int64_t k = k0; k < j->K && s + k < end; k++)
        if (taps_of(j, s + k) > k) add_product(out, j->taps + k * j->C + c0, du_s + (k - k0) * CHANNELS, n);
}

static void bwd_item(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct span *s = &j->span[item / j->blocks];
    const int64_t end = ((int64_t *)j->a->range.data)[s->range + 1];
    const int64_t c0 = item % j->blocks * CHANNELS, n = least(CHANNELS, j->C - c0);
    real *du = j->du + worker * (ROWS + j->K - 1) * CHANNELS;
    real *partial = j->partial + item / j->blocks * (j->K + 1) * j->C + c0, *db = partial + j->K * j->C;
    make_du(j, s->range, s->begin, least(end, s->end + j->K - 1), c0, n, du);
    for (int64_t k = 0; k <= j->K; k++) memset(partial + k * j->C, 0, (size_t)n * sizeof(real));
    for (int64_t t = s->begin; t < s->end; t++) {
        const real *du_t = du + (t - s->begin) * CHANNELS;
        gather_taps(j, end, t, 0, c0, n, du_t, row(j->a->dx, t) + c0);
        for (int64_t k = 0; k < taps_of(j, t); k++)
            add_product(partial + k * j->C, du_t, x_at(j, s->range, t, k) + c0, n);
        for (int64_t i = 0; i < n; i++) db[i] += du_t[i];
    }
}

/* Item: (range, block of channels). */
static void bwd_before(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const int64_t r = item / j->blocks, *at = j->a->range.data, before = j->K - 1;
    const int64_t c0 = item % j->blocks * CHANNELS, n = least(CHANNELS, j->C - c0);
    real *du = j->du + worker * (ROWS + j->K - 1) * CHANNELS;
    make_du(j, r, at[r], least(at[r + 1], at[r] + before), c0, n, du);
    for (int64_t i = 0; i < before; i++)
        gather_taps(j, at[r + 1], at[r] - before + i, before - i, c0, n, du,
                    (real *)j->a->dbefore.data + (r * before + i) * j->C + c0);
}

/* Item: a block of channels.  Spans are summed in ascending order. */
static void bwd_sums(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const int64_t c0 = item * CHANNELS, n = least(CHANNELS, j->C - c0);
    (void)worker;
    for (int64_t k = 0; k <= j->K; k++) {
        double sum[CHANNELS] = {0};
        for (int64_t s = 0; s < j->n_spans; s++) {
            const real *partial = j->partial + (s * (j->K + 1) + k) * j->C + c0;
            for (int64_t i = 0; i < n; i++) sum[i] += (double)partial[i];
        }
        if (k < j->K)
            for (int64_t i = 0; i < n; i++) ((real *)j->a->dw.data)[(c0 + i) * j->K + j->K - 1 - k] += (real)sum[i];
        else if (tensor_has(j->a->db))
            for (int64_t i = 0; i < n; i++) ((real *)j->a->db.data)[c0 + i] += (real)sum[i];
    }
}

enum status REF(conv1d_bwd)(struct ctx *c, const struct conv1d *a) {
    enum status st = OK;
    struct job j;
    TRY(check(c, a, true));
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(job_open(&j, c, a));
    pool_run(c->pool, j.n_spans * j.blocks, bwd_item, &j);
    if (j.K > 1) pool_run(c->pool, (a->range.shape[0] - 1) * j.blocks, bwd_before, &j);
    pool_run(c->pool, j.blocks, bwd_sums, &j);
out:
    arena_release(c->work, mark);
    return st;
}
