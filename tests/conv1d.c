/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu */
/* The convolution against its definition, forward and backward, in F64; then one sequence against the same sequence cut
 * into ranges, where the op tail makes what each range hands to the next, and takes the gradient back. */
#include <inttypes.h>
#include "base/pool.h"
#include "base/rng.h"
#include "tests/check.h"
#include "kernels/conv1d/conv1d.h"
#include "kernels/ops.h"
#include "kernels/tail/tail.h"

#define MAX_RANGES 6
#define BOUND      1e-14 /* of a tensor's largest element, times the terms of a sum */

struct row {
    const char *why;
    int64_t T, C, K;
    bool silu, bias;
    int n_ranges;
    int64_t range[MAX_RANGES + 1];
    int64_t older; /* tokens of its document before a range's first one */
    int n_starts;
    int64_t starts[6];
};

static const struct row rows[] = {
    {"one token of a document that goes on", 1, 3, 4, true, true, 1, {0, 1}, 2, 0, {0}},
    {"one token of a new document", 1, 3, 4, true, true, 1, {0, 1}, 0, 0, {0}},
    {"one tap", 20, 5, 1, true, true, 2, {0, 9, 20}, 3, 0, {0}},
    {"no bias, no SiLU", 70, 5, 4, false, false, 1, {0, 70}, 3, 0, {0}},
    {"sixteen taps", 200, 5, 16, true, true, 2, {0, 100, 200}, 40, 1, {150}},
    {"more channels than a block, more rows than an item", 80, 2051, 4, true, true, 1, {0, 80}, 0, 0, {0}},
    {"ranges shorter than the taps, one empty", 70, 5, 4, true, true, 5, {0, 2, 2, 3, 67, 70}, 7, 0, {0}},
    {"documents at, before and after edges",
     200,
     5,
     4,
     true,
     true,
     3,
     {0, 64, 130, 200},
     1,
     6,
     {63, 65, 66, 130, 132, 199}},
};

static struct arena memory, work;

static struct tensor take(int64_t d0, int64_t d1, int64_t d2, uint64_t stream) {
    void *p;
    const int64_t n = d0 * d1 * d2;
    MUST(arena_take(&memory, n * (int64_t)sizeof(double), &p));
    for (int64_t i = 0; i < n; i++) ((double *)p)[i] = stream ? rng_normal(4, stream, (uint64_t)i) : NAN;
    return tensor_4d(p, F64, (int64_t[]){d0, d1, d2, 1});
}

static struct conv1d make_case(const struct row *c) {
    void *pos;
    MUST(arena_take(&memory, c->T * (int64_t)sizeof(int64_t), &pos));
    for (int r = 0; r < c->n_ranges; r++)
        for (int64_t t = c->range[r]; t < c->range[r + 1]; t++) {
            ((int64_t *)pos)[t] = t == c->range[r] ? c->older : ((int64_t *)pos)[t - 1] + 1;
            for (int i = 0; i < c->n_starts; i++)
                if (c->starts[i] == t) ((int64_t *)pos)[t] = 0;
        }
    struct conv1d a = {.range = tensor_1d((void *)c->range, I64, c->n_ranges + 1),
                       .pos = tensor_1d(pos, I64, c->T),
                       .x = take(c->T, c->C, 1, 1),
                       .w = take(c->C, c->K, 1, 2),
                       .y = take(c->T, c->C, 1, 0),
                       .dy = take(c->T, c->C, 1, 4),
                       .dx = take(c->T, c->C, 1, 0),
                       .dw = take(c->C, c->K, 1, 5),
                       .silu = c->silu};
    if (c->K > 1) a.before = take(c->n_ranges, c->K - 1, c->C, 3), a.dbefore = take(c->n_ranges, c->K - 1, c->C, 0);
    if (c->bias) a.b = take(c->C, 1, 1, 6), a.db = take(c->C, 1, 1, 7);
    return a;
}

static double *at(struct tensor t, int64_t i, int64_t j, int64_t k) {
    return (double *)t.data + (i * t.shape[1] + j) * t.shape[2] + k;
}

/* Where x_{t-j} of range r is (or its gradient): in t0, or in the rows before the range. */
static double *tap(const struct conv1d *a, struct tensor here, struct tensor before, int64_t r, int64_t t, int64_t j,
                   int64_t ch) {
    const int64_t begin = ((int64_t *)a->range.data)[r];
    return t - j >= begin ? at(here, t - j, ch, 0) : at(before, r, before.shape[1] + t - j - begin, ch);
}

static void naive_element(const struct conv1d *a, int64_t r, int64_t t, int64_t ch) {
    const int64_t K = a->w.shape[1], pos = ((int64_t *)a->pos.data)[t];
    double u = tensor_has(a->b) ? *at(a->b, ch, 0, 0) : 0;
    for (int64_t j = 0; j < K && j <= pos; j++)
        u += *at(a->w, ch, K - 1 - j, 0) * *tap(a, a->x, a->before, r, t, j, ch);
    const double sigmoid = 1 / (1 + exp(-u));
    *at(a->y, t, ch, 0) = a->silu ? u * sigmoid : u;
    const double du = *at(a->dy, t, ch, 0) * (a->silu ? sigmoid * (1 + u * (1 - sigmoid)) : 1);
    if (tensor_has(a->db)) *at(a->db, ch, 0, 0) += du;
    for (int64_t j = 0; j < K && j <= pos; j++) {
        *tap(a, a->dx, a->dbefore, r, t, j, ch) += *at(a->w, ch, K - 1 - j, 0) * du;
        *at(a->dw, ch, K - 1 - j, 0) += du * *tap(a, a->x, a->before, r, t, j, ch);
    }
}

static void naive(const struct conv1d *a) {
    const int64_t *range = a->range.data;
    memset(a->dx.data, 0, (size_t)tensor_bytes(a->dx));
    if (tensor_has(a->dbefore)) memset(a->dbefore.data, 0, (size_t)tensor_bytes(a->dbefore));
    for (int64_t r = 0; r + 1 < a->range.shape[0]; r++)
        for (int64_t t = range[r]; t < range[r + 1]; t++)
            for (int64_t ch = 0; ch < a->x.shape[1]; ch++) naive_element(a, r, t, ch);
}

static void compare(const char *why, const char *name, struct tensor got, struct tensor want, int64_t terms) {
    const double *x = got.data, *y = want.data;
    double scale = 0;
    if (!tensor_has(want)) return;
    for (int64_t i = 0; i < tensor_count(want); i++) scale = fmax(scale, fabs(y[i]));
    for (int64_t i = 0; i < tensor_count(want); i++)
        CHECK(fabs(x[i] - y[i]) <= BOUND * scale * (double)terms, "%s: %s[%" PRId64 "] is %.17g, expected %.17g", why,
              name, i, x[i], y[i]);
}

static void run_case(struct ctx *ctx, const struct row *c) {
    const int64_t mark = arena_mark(&memory);
    const struct conv1d got = make_case(c), want = make_case(c);
    naive(&want);
    MUST(ctx->ops->conv1d_fwd(ctx, &got));
    MUST(ctx->ops->conv1d_bwd(ctx, &got));
    compare(c->why, "y", got.y, want.y, c->K);
    compare(c->why, "dx", got.dx, want.dx, c->K);
    compare(c->why, "dw", got.dw, want.dw, c->T);
    compare(c->why, "db", got.db, want.db, c->T);
    compare(c->why, "dbefore", got.dbefore, want.dbefore, c->K);
    CHECK(work.high == ctx->ops->conv1d_work(ctx, &got), "%s: %" PRId64 " bytes taken, %" PRId64 " planned", c->why,
          work.high, ctx->ops->conv1d_work(ctx, &got));
    work.high = 0;
    arena_release(&memory, mark);
}

/* What enters range r + 1: the last k rows of what entered range r followed by the range, of which tails holds the last
 * k, rows that the range does not have being zero. */
static void hand_on(const int64_t *range, int64_t r, struct tensor entering, struct tensor tails) {
    const int64_t k = tails.shape[1], n = range[r + 1] - range[r];
    for (int64_t i = 0; i < k; i++)
        for (int64_t ch = 0; ch < tails.shape[2]; ch++)
            *at(entering, r + 1, i, ch) = i >= k - n ? *at(tails, r, i, ch) : *at(entering, r, i + n, ch);
}
/* The transpose: what range r + 1 asks of its entering rows goes to the tail of range r and to what entered that. */
static void hand_back(const int64_t *range, int64_t r, struct tensor dentering, struct tensor dtails) {
    const int64_t k = dtails.shape[1], n = range[r + 1] - range[r];
    for (int64_t i = 0; i < k; i++)
        for (int64_t ch = 0; ch < dtails.shape[2]; ch++) {
            *at(dtails, r, i, ch) = i >= k - n ? *at(dentering, r + 1, i, ch) : 0;
            if (i < k - n) *at(dentering, r, i + n, ch) += *at(dentering, r + 1, i, ch);
        }
}

static void cut_in_ranges(struct ctx *ctx) {
    const struct row whole = {"one range", 100, 5, 4, true, true, 1, {0, 100}, 9, 2, {33, 80}};
    const struct row cut = {"cut", 100, 5, 4, true, true, 6, {0, 30, 31, 33, 33, 79, 100}, 0, 0, {0}};
    const struct conv1d want = make_case(&whole);
    struct conv1d got = make_case(&cut);
    got.pos = want.pos;
    const int64_t R = cut.n_ranges, k = cut.K - 1;
    const struct tail tail = {
        .range = got.range, .x = got.x, .tail = take(R, k, cut.C, 0), .dtail = take(R, k, cut.C, 0), .dx = got.dx};
    MUST(ctx->ops->conv1d_fwd(ctx, &want));
    MUST(ctx->ops->conv1d_bwd(ctx, &want));
    MUST(ctx->ops->tail_fwd(ctx, &tail));
    memcpy(got.before.data, want.before.data, (size_t)(k * cut.C) * sizeof(double));
    for (int64_t r = 0; r + 1 < R; r++) hand_on(cut.range, r, got.before, tail.tail);
    MUST(ctx->ops->conv1d_fwd(ctx, &got));
    MUST(ctx->ops->conv1d_bwd(ctx, &got));
    memset(tail.dtail.data, 0, (size_t)tensor_bytes(tail.dtail));
    for (int64_t r = R - 2; r >= 0; r--) hand_back(cut.range, r, got.dbefore, tail.dtail);
    MUST(ctx->ops->tail_bwd(ctx, &tail));
    got.dbefore = tensor_rows(got.dbefore, 0, 1);
    compare("cut into ranges", "y", got.y, want.y, cut.K);
    compare("cut into ranges", "dx", got.dx, want.dx, cut.K);
    compare("cut into ranges", "dw", got.dw, want.dw, cut.T);
    compare("cut into ranges", "db", got.db, want.db, cut.T);
    compare("cut into ranges", "dbefore", got.dbefore, want.dbefore, cut.K);
}

static void tails(struct ctx *ctx) {
    static int64_t range[] = {0, 1, 1, 4, 9};
    double x[18], dx[18], out[4 * 3 * 2];
    static const double expected[] = {0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4, 5, 6, 7, 8, 13, 14, 15, 16, 17, 18};
    for (int i = 0; i < 18; i++) x[i] = i + 1, dx[i] = 100 * (i + 1);
    const struct tensor packed = tensor_4d(out, F64, (int64_t[]){4, 3, 2, 1});
    const struct tail a = {.range = tensor_1d(range, I64, 5),
                           .x = tensor_2d(x, F64, 9, 2),
                           .tail = packed,
                           .dtail = packed,
                           .dx = tensor_2d(dx, F64, 9, 2)};
    MUST(ctx->ops->tail_fwd(ctx, &a));
    for (int i = 0; i < 24; i++) CHECK(out[i] == expected[i], "tail[%d] is %g, expected %g", i, out[i], expected[i]);
    MUST(ctx->ops->tail_bwd(ctx, &a));
    for (int i = 0; i < 18; i++) {
        const double want = (i >= 8 && i < 12 ? 100 : 101) * (i + 1); /* rows 4 and 5 are in no tail */
        CHECK(dx[i] == want, "dx[%d] is %g, expected %g", i, dx[i], want);
    }
}

int main(void) {
    struct ctx ctx = {.ops = &ops_ref64, .work = &work, .real = F64, .space = HOST};
    MUST(arena_init(&memory, "test memory", (int64_t)32 << 20));
    MUST(arena_init(&work, "workspace", (int64_t)16 << 20));
    MUST(pool_init(&ctx.pool, 2));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) run_case(&ctx, &rows[i]);
    cut_in_ranges(&ctx);
    tails(&ctx);
    pool_term(ctx.pool);
    arena_term(&work);
    arena_term(&memory);
    return check_end();
}
