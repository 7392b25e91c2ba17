/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu */
/* Streamed attention against the quadratic form, forward and backward, in F64: documents, windows, grouped heads, keys
 * before the queries, ranges that share keys, key rows that no range names. */
#include <inttypes.h>
#include "base/pool.h"
#include "base/rng.h"
#include "tests/check.h"
#include "kernels/attention/attention.h"
#include "kernels/ops.h"

#define MAX_RANGES 6
#define BOUND      1e-13 /* of a tensor's largest element */

struct row {
    const char *why;
    int64_t T, U, H, J, P, window;
    int n_ranges;
    int64_t range[MAX_RANGES + 1], keys[2 * MAX_RANGES];
    int64_t older; /* tokens of its document before a range's first one */
    int n_starts;
    int64_t starts[6];
};

static const struct row rows[] = {
    {"one token", 1, 1, 1, 1, 4, 0, 1, {0, 1}, {0, 1}, 0, 0, {0}},
    {"one document, several tiles of keys", 700, 700, 2, 1, 5, 0, 1, {0, 700}, {0, 700}, 0, 0, {0}},
    {"four heads to a key head", 70, 70, 8, 2, 4, 0, 1, {0, 70}, {0, 70}, 0, 0, {0}},
    {"three heads to a key head", 70, 70, 9, 3, 4, 0, 1, {0, 70}, {0, 70}, 0, 0, {0}},
    {"a key head to each of nine", 70, 70, 9, 9, 4, 0, 1, {0, 70}, {0, 70}, 0, 0, {0}},
    {"documents at, before and after tile edges",
     400,
     400,
     2,
     2,
     4,
     0,
     1,
     {0, 400},
     {0, 400},
     0,
     5,
     {63, 64, 129, 130, 320}},
    {"a window of one", 130, 130, 2, 1, 4, 1, 1, {0, 130}, {0, 130}, 0, 0, {0}},
    {"a window across tiles", 700, 700, 2, 1, 4, 300, 1, {0, 700}, {0, 700}, 0, 1, {450}},
    {"a window longer than all", 130, 130, 2, 1, 4, 1000, 1, {0, 130}, {0, 130}, 0, 0, {0}},
    {"keys before the queries, all seen", 90, 400, 2, 1, 4, 0, 1, {0, 90}, {0, 400}, 310, 0, {0}},
    {"keys before the queries, of which some are an older document's",
     90,
     400,
     2,
     1,
     4,
     0,
     1,
     {0, 90},
     {0, 400},
     20,
     1,
     {70}},
    {"a document older than its keys", 90, 100, 2, 1, 4, 0, 1, {0, 90}, {0, 100}, 5000, 0, {0}},
    {"two ranges share keys", 100, 100, 4, 2, 4, 0, 2, {0, 40, 100}, {0, 40, 0, 100}, 40, 0, {0}},
    {"key rows that no range names", 60, 100, 4, 2, 4, 0, 2, {0, 30, 60}, {3, 33, 50, 90}, 9, 1, {40}},
    {"sequences of a batch, one empty",
     150,
     150,
     2,
     2,
     4,
     16,
     4,
     {0, 70, 70, 71, 150},
     {0, 70, 70, 70, 70, 71, 71, 150},
     0,
     1,
     {100}},
};

static struct arena memory, work;

static double *take(int64_t n, uint64_t stream) {
    void *p;
    MUST(arena_take(&memory, n * (int64_t)sizeof(double), &p));
    for (int64_t i = 0; i < n; i++) ((double *)p)[i] = stream ? rng_normal(4, stream, (uint64_t)i) : NAN;
    return p;
}

static struct attention make_case(const struct row *c) {
    void *pos;
    MUST(arena_take(&memory, c->T * (int64_t)sizeof(int64_t), &pos));
    for (int r = 0; r < c->n_ranges; r++)
        for (int64_t t = c->range[r]; t < c->range[r + 1]; t++) {
            ((int64_t *)pos)[t] = t == c->range[r] ? c->older : ((int64_t *)pos)[t - 1] + 1;
            for (int i = 0; i < c->n_starts; i++)
                if (c->starts[i] == t) ((int64_t *)pos)[t] = 0;
        }
    const int64_t HP = c->H * c->P, JP = c->J * c->P;
    return (struct attention){.heads = c->H,
                              .key_heads = c->J,
                              .head_width = c->P,
                              .window = c->window,
                              .scale = 0.7,
                              .range = tensor_1d((void *)c->range, I64, c->n_ranges + 1),
                              .pos = tensor_1d(pos, I64, c->T),
                              .keys = tensor_2d((void *)c->keys, I64, c->n_ranges, 2),
                              .q = tensor_2d(take(c->T * HP, 1), F64, c->T, HP),
                              .k = tensor_2d(take(c->U * JP, 2), F64, c->U, JP),
                              .v = tensor_2d(take(c->U * JP, 3), F64, c->U, JP),
                              .o = tensor_2d(take(c->T * HP, 0), F64, c->T, HP),
                              .lse = tensor_2d(take(c->T * c->H, 0), F64, c->T, c->H),
                              .dout = tensor_2d(take(c->T * HP, 4), F64, c->T, HP),
                              .dq = tensor_2d(take(c->T * HP, 0), F64, c->T, HP),
                              .dk = tensor_2d(take(c->U * JP, 0), F64, c->U, JP),
                              .dv = tensor_2d(take(c->U * JP, 0), F64, c->U, JP)};
}

static double *at(struct tensor t, int64_t i, int64_t head, int64_t P) {
    return (double *)t.data + i * t.pitch + head * P;
}

static double dot(const double *x, const double *y, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

/* One query against the key rows [first, last]. */
static void naive_query(const struct attention *a, int64_t t, int64_t h, int64_t first, int64_t last) {
    const int64_t P = a->head_width, j = h / (a->heads / a->key_heads), mark = arena_mark(&memory);
    const double *q = at(a->q, t, h, P), *dout = at(a->dout, t, h, P);
    double *o = at(a->o, t, h, P), *dq = at(a->dq, t, h, P), *s = take(last - first + 1, 0) - first, top = -INFINITY,
           sum = 0;
    for (int64_t i = first; i <= last; i++) top = fmax(top, s[i] = a->scale * dot(q, at(a->k, i, j, P), P));
    for (int64_t i = first; i <= last; i++) sum += exp(s[i] - top);
    *at(a->lse, t, h, 1) = top + log(sum);
    for (int64_t p = 0; p < P; p++) {
        o[p] = dq[p] = 0;
        for (int64_t i = first; i <= last; i++) o[p] += exp(s[i] - top) / sum * at(a->v, i, j, P)[p];
    }
    for (int64_t i = first; i <= last; i++) {
        const double weight = exp(s[i] - top) / sum;
        const double ds = a->scale * weight * (dot(dout, at(a->v, i, j, P), P) - dot(dout, o, P));
        for (int64_t p = 0; p < P; p++) {
            dq[p] += ds * at(a->k, i, j, P)[p];
            at(a->dk, i, j, P)[p] += ds * q[p];
            at(a->dv, i, j, P)[p] += weight * dout[p];
        }
    }
    arena_release(&memory, mark);
}

static void naive(const struct attention *a) {
    const int64_t *range = a->range.data, *keys = a->keys.data, *pos = a->pos.data;
    memset(a->dk.data, 0, (size_t)tensor_bytes(a->dk));
    memset(a->dv.data, 0, (size_t)tensor_bytes(a->dv));
    for (int64_t r = 0; r + 1 < a->range.shape[0]; r++)
        for (int64_t t = range[r]; t < range[r + 1]; t++) {
            const int64_t n_keys = keys[2 * r + 1] - keys[2 * r], i = n_keys - (range[r + 1] - t);
            int64_t first = i - pos[t] > 0 ? i - pos[t] : 0;
            if (a->window > 0 && i - a->window + 1 > first) first = i - a->window + 1;
            for (int64_t h = 0; h < a->heads; h++) naive_query(a, t, h, keys[2 * r] + first, keys[2 * r] + i);
        }
}

static void compare(const char *why, const char *name, struct tensor got, struct tensor want) {
    const double *x = got.data, *y = want.data;
    double scale = 1; /* the terms' size: a query that sees one key has a gradient of 0, the difference of two such */
    for (int64_t i = 0; i < tensor_count(want); i++) scale = fmax(scale, fabs(y[i]));
    for (int64_t i = 0; i < tensor_count(want); i++)
        CHECK(fabs(x[i] - y[i]) <= BOUND * scale, "%s: %s[%" PRId64 "] is %.17g, the quadratic form gives %.17g", why,
              name, i, x[i], y[i]);
}

static void run_case(struct ctx *ctx, const struct row *c) {
    const int64_t mark = arena_mark(&memory);
    const struct attention got = make_case(c), want = make_case(c);
    naive(&want);
    MUST(ctx->ops->attention_fwd(ctx, &got));
    MUST(ctx->ops->attention_bwd(ctx, &got));
    compare(c->why, "o", got.o, want.o);
    compare(c->why, "lse", got.lse, want.lse);
    compare(c->why, "dq", got.dq, want.dq);
    compare(c->why, "dk", got.dk, want.dk);
    compare(c->why, "dv", got.dv, want.dv);
    CHECK(work.high == ctx->ops->attention_work(ctx, &got), "%s: %" PRId64 " bytes taken, %" PRId64 " planned", c->why,
          work.high, ctx->ops->attention_work(ctx, &got));
    work.high = 0;
    arena_release(&memory, mark);
}

/* Scores of some hundreds: exp overflows unless the maximum is taken out first, and later tiles hold larger ones. */
static void large_scores(struct ctx *ctx) {
    const struct row c = {"scores that grow to 500", 400, 400, 1, 1, 4, 0, 1, {0, 400}, {0, 400}, 0, 0, {0}};
    const struct attention got = make_case(&c), want = make_case(&c);
    for (int64_t t = 0; t < 400; t++)
        for (int64_t p = 0; p < 4; p++) {
            at(got.q, t, 0, 4)[p] = at(want.q, t, 0, 4)[p] = 10;
            at(got.k, t, 0, 4)[p] = at(want.k, t, 0, 4)[p] = 0.045 * (double)t;
        }
    naive(&want);
    MUST(ctx->ops->attention_fwd(ctx, &got));
    compare(c.why, "o", got.o, want.o);
    compare(c.why, "lse", got.lse, want.lse);
}

static void refused(struct ctx *ctx) {
    const struct row c = {"", 4, 3, 1, 1, 4, 0, 1, {0, 4}, {0, 3}, 0, 0, {0}};
    const struct attention few = make_case(&c);
    CHECK(ctx->ops->attention_fwd(ctx, &few) == ERR_ARG, "a range with fewer keys than queries is accepted");
}

/* Two documents of one length keep the promise of being plain; each of the others breaks it in one way. */
static void promises(struct ctx *ctx) {
    const struct row rows_of_promises[] = {
        {"kept", 8, 8, 1, 1, 4, 0, 2, {0, 4, 8}, {0, 4, 4, 8}, 0, 0, {0}},
        {"a document begins inside", 8, 8, 1, 1, 4, 0, 2, {0, 4, 8}, {0, 4, 4, 8}, 0, 1, {5}},
        {"documents began before", 8, 8, 1, 1, 4, 0, 2, {0, 4, 8}, {0, 4, 4, 8}, 3, 0, {0}},
        {"two lengths", 8, 8, 1, 1, 4, 0, 2, {0, 3, 8}, {0, 3, 3, 8}, 0, 0, {0}},
        {"more keys", 8, 9, 1, 1, 4, 0, 2, {0, 4, 8}, {0, 4, 4, 8}, 0, 0, {0}},
        {"keys of another range", 8, 8, 1, 1, 4, 0, 2, {0, 4, 8}, {4, 8, 0, 4}, 0, 0, {0}},
    };
    for (size_t i = 0; i < sizeof rows_of_promises / sizeof *rows_of_promises; i++) {
        struct attention a = make_case(&rows_of_promises[i]);
        a.plain = true;
        const enum status st = ctx->ops->attention_fwd(ctx, &a);
        CHECK(st == (i == 0 ? OK : ERR_ARG), "a plain batch, %s: %s", rows_of_promises[i].why, status_name(st));
    }
}

int main(void) {
    struct ctx ctx = {.ops = &ops_ref64, .work = &work, .real = F64, .space = HOST};
    MUST(arena_init(&memory, "test memory", (int64_t)16 << 20));
    MUST(arena_init(&work, "workspace", (int64_t)16 << 20));
    MUST(pool_init(&ctx.pool, 2));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) run_case(&ctx, &rows[i]);
    large_scores(&ctx);
    refused(&ctx);
    promises(&ctx);
    pool_term(ctx.pool);
    arena_term(&work);
    arena_term(&memory);
    return check_end();
}
