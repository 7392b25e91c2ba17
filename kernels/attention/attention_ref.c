/* SPDX-License-Identifier: Apache-2.0 */
/* Scores exist one tile at a time: QUERIES rows by KEYS columns of one head.  The columns of a tile of queries run from
 * the first key its first query sees to the last its last query sees, so what nobody sees costs nothing.
 *
 *   forward    per row a running maximum m and sum l of exp(s - m); when m grows, l and o shrink by exp(old m - m);
 *              o / l and lse = m + log l at the end
 *   backward   p = exp(s - lse), made again;   dv += p^T do;   ds = scale p (do v^T - do . o);   dq = ds k;
 *              dk += ds^T q
 *
 * Items of backward are sets of heads that read one key head: each walks all its queries and owns a dk and dv.  Where
 * key heads are few, a key head's heads form several sets, whose dk and dv are summed in order. */
#include "kernels/attention/attention.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include "kernels/check.h"
#include "kernels/gemm.h"
#include "kernels/ranges.h"
#include "kernels/real_math.h"
#include "kernels/rows.h"
#include "kernels/sums.h"

#define QUERIES  64
#define KEYS     256
#define MIN_SETS 8 /* sets of heads that backward aims at, so that several threads have work */

struct job {
    const struct attention *a;
    struct span *span;
    int64_t n_spans, parts; /* spans of QUERIES rows; sets of heads to one key head */
    real *tiles;            /* (workers, 2, QUERIES, KEYS)                           */
    real *partial;          /* (parts, 2, U, J P) dk and dv, where parts > 1         */
    struct rows key_rows;
};

/* One tile of queries of one head, and the keys they see. */
struct tile {
    const struct attention *a;
    int64_t head, key_head;
    int64_t row, n;     /* first query, number of queries            */
    int64_t keys;       /* row of k and v that key index 0 stands for */
    int64_t at;         /* key index of the first query               */
    int64_t begin, end; /* key indices that any of the queries sees   */
};

static enum status check_plain(const struct attention *a) {
    const int64_t T = a->q.shape[0], R = a->range.shape[0] - 1, n = R > 0 ? T / R : 0;
    const int64_t *range = a->range.data, *keys = a->keys.data, *pos = a->pos.data;
    bool kept = a->k.shape[0] == T && n * R == T;
    for (int64_t r = 0; r < R; r++) kept &= range[r] == r * n && keys[2 * r] == r * n && keys[2 * r + 1] == (r + 1) * n;
    for (int64_t t = 0; t < T && kept; t++) kept = pos[t] == t % n;
    CHECK_THAT(attention, kept,
               "plain promises %" PRId64
               " documents of one length that see the same rows of k: expected that of range, "
               "pos and keys",
               R);
    return OK;
}

static enum status check(struct ctx *c, const struct attention *a, bool backward) {
    const int64_t T = a->q.shape[0], U = a->k.shape[0], H = a->heads, J = a->key_heads, P = a->head_width;
    const int64_t R = a->range.shape[0] - 1;
    CHECK_THAT(attention, H > 0 && J > 0 && P > 0 && H % J == 0 && a->window >= 0,
               "heads %" PRId64 ", key_heads %" PRId64 ", head_width %" PRId64 ", window %" PRId64
               ": expected counts above 0, key_heads dividing heads, and a window of 0 or more",
               H, J, P, a->window);
    CHECK_SHAPE(attention, range, I64, R + 1);
    CHECK_SHAPE(attention, pos, I64, T);
    CHECK_SHAPE(attention, keys, I64, R, 2);
    CHECK_THAT(attention, R == 0 || a->keys.pitch == 2, "keys has the row pitch %" PRId64 ": expected a packed tensor",
               a->keys.pitch);
    CHECK_SHAPE(attention, q, REAL, T, H * P);
    CHECK_SHAPE(attention, k, REAL, U, J * P);
    CHECK_SHAPE(attention, v, REAL, U, J * P);
    CHECK_SHAPE(attention, o, REAL, T, H * P);
    CHECK_SHAPE(attention, lse, REAL, T, H);
    if (backward) {
        CHECK_SHAPE(attention, dout, REAL, T, H * P);
        CHECK_SHAPE(attention, dq, REAL, T, H * P);
        CHECK_SHAPE(attention, dk, REAL, U, J * P);
        CHECK_SHAPE(attention, dv, REAL, U, J * P);
    }
    TRY(ranges_check("attention", a->range, a->pos));
    const int64_t *range = a->range.data, *keys = a->keys.data;
    for (int64_t r = 0; r < R; r++)
        CHECK_THAT(attention,
                   keys[2 * r] >= 0 && keys[2 * r + 1] <= U && keys[2 * r + 1] - keys[2 * r] >= range[r + 1] - range[r],
                   "range %" PRId64 " has the keys [%" PRId64 ", %" PRId64 ") for %" PRId64
                   " queries: expected rows of the %" PRId64 " keys, at least as many as queries",
                   r, keys[2 * r], keys[2 * r + 1], range[r + 1] - range[r], U);
    return a->plain ? check_plain(a) : OK;
}

/* Sets of heads to one key head: a divisor of their number, fixed by the shape. */
static int64_t parts_of(const struct attention *a) {
    const int64_t heads = a->heads / a->key_heads;
    int64_t parts = least(heads, ceil_div(MIN_SETS, a->key_heads));
    while (heads % parts != 0) parts++;
    return parts;
}

/* Bytes of the spans, the workers' tiles and backward's partial sums. */
static void sizes(const struct ctx *c, const struct attention *a, int64_t bytes[3]) {
    const int64_t parts = parts_of(a), partial = a->k.shape[0] * a->key_heads * a->head_width;
    bytes[0] = spans_max(a->q.shape[0], a->range.shape[0] - 1, QUERIES) * (int64_t)sizeof(struct span);
    bytes[1] = pool_size(c->pool) * 2 * QUERIES * KEYS * (int64_t)sizeof(real);
    bytes[2] = parts > 1 ? parts * 2 * partial * (int64_t)sizeof(real) : 0;
}

int64_t REF(attention_work)(const struct ctx *c, const struct attention *a) {
    int64_t bytes[3];
    sizes(c, a, bytes);
    return arena_round(bytes[0]) + arena_round(bytes[1]) + arena_round(bytes[2]);
}

/* Memory of one call; the caller has marked the arena. */
static enum status job_open(struct job *j, struct ctx *c, const struct attention *a, bool backward) {
    int64_t bytes[3];
    void *at[3] = {NULL};
    sizes(c, a, bytes);
    for (int i = 0; i < 2 + backward; i++) TRY(arena_take(c->work, bytes[i], &at[i]));
    *j = (struct job){.a = a, .span = at[0], .tiles = at[1], .partial = at[2], .parts = parts_of(a)};
    j->n_spans = spans_cut(a->range, a->pos, QUERIES, j->span, NULL);
    return OK;
}

/* First key index that query i of the tile sees; the last is at + i. */
static int64_t sees_from(const struct tile *t, int64_t i) {
    const int64_t at = t->at + i, pos = ((int64_t *)t->a->pos.data)[t->row + i];
    const int64_t from = t->a->window > 0 ? at - least(pos, t->a->window - 1) : at - pos;
    return most(0, from);
}

static struct tile tile_open(const struct attention *a, const struct span *s, int64_t head) {
    const int64_t *keys = (int64_t *)a->keys.data + 2 * s->range, end = ((int64_t *)a->range.data)[s->range + 1];
    struct tile t = {.a = a, .head = head, .key_head = head / (a->heads / a->key_heads)};
    t.row = s->begin;
    t.n = s->end - s->begin;
    t.keys = keys[0];
    t.at = keys[1] - keys[0] - (end - s->begin);
    t.begin = sees_from(&t, 0);
    t.end = t.at + t.n;
    return t;
}

static real *query(const struct tile *t, struct tensor x) { return row(x, t->row) + t->head * t->a->head_width; }
static real *key(const struct tile *t, struct tensor x, int64_t i) {
    return row(x, t->keys + i) + t->key_head * t->a->head_width;
}

/* Columns [*from, *to) of a score row are seen, of a tile that starts at key index k0 and has m columns; none: *from is
 * *to. */
static void seen(const struct tile *t, int64_t i, int64_t k0, int64_t m, int64_t *from, int64_t *to) {
    *to = most(0, least(m, t->at + i + 1 - k0));
    *from = least(*to, most(0, sees_from(t, i) - k0));
}

static void scores(const struct tile *t, int64_t k0, int64_t m, real *s) {
    const struct attention *a = t->a;
    REF(gemm)
    (false, true, t->n, m, a->head_width, (real)a->scale, query(t, a->q), a->q.pitch, key(t, a->k, k0), a->k.pitch, 0,
     s, KEYS);
}

/* ---- forward ---- */

static real largest(const real *x, int64_t n, real least_of_all) {
    real lane[LANES];
    int64_t i = 0;
    for (int l = 0; l < LANES; l++) lane[l] = least_of_all;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
    for (; i < n; i++) lane[0] = x[i] > lane[0] ? x[i] : lane[0];
    for (int l = 1; l < LANES; l++) lane[0] = lane[l] > lane[0] ? lane[l] : lane[0];
    return lane[0];
}

static void exponentials(real *restrict x, real shift, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = real_exp(x[i] - shift);
}

/* A row of scores over columns [from, to) of m becomes weights against the new maximum; o shrinks to it. */
static void soften(real *s, int64_t from, int64_t to, int64_t m, real *o, int64_t P, real *top, double *sum) {
    memset(s, 0, (size_t)from * sizeof(real));
    memset(s + to, 0, (size_t)(m - to) * sizeof(real));
    if (from == to) return;
    const real old = *top;
    *top = largest(s + from, to - from, old);
    exponentials(s + from, *top, to - from);
    if (*top > old && *sum > 0) {
        const real shrink = real_exp(old - *top);
        for (int64_t p = 0; p < P; p++) o[p] *= shrink;
        *sum *= (double)shrink;
    }
    *sum += sum_plain(s + from, to - from);
}

static void fwd_item(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct attention *a = j->a;
    const int64_t P = a->head_width, at = j->n_spans - 1 - item / a->heads; /* the longest rows first */
    const struct tile t = tile_open(a, &j->span[at], item % a->heads);
    real *s = j->tiles + worker * 2 * QUERIES * KEYS, *o = query(&t, a->o), top[QUERIES];
    double sum[QUERIES] = {0};
    for (int64_t i = 0; i < t.n; i++) top[i] = (real)-INFINITY;
    for (int64_t k0 = t.begin; k0 < t.end; k0 += KEYS) {
        const int64_t m = least(KEYS, t.end - k0);
        scores(&t, k0, m, s);
        for (int64_t i = 0; i < t.n; i++) {
            int64_t from, to;
            seen(&t, i, k0, m, &from, &to);
            soften(s + i * KEYS, from, to, m, o + i * a->o.pitch, P, &top[i], &sum[i]);
        }
        REF(gemm)
        (false, false, t.n, P, m, 1, s, KEYS, key(&t, a->v, k0), a->v.pitch, k0 == t.begin ? 0 : 1, o, a->o.pitch);
    }
    for (int64_t i = 0; i < t.n; i++) {
        const real share = (real)(1 / sum[i]);
        for (int64_t p = 0; p < P; p++) o[i * a->o.pitch + p] *= share;
        row(a->lse, t.row + i)[t.head] = (real)((double)top[i] + log(sum[i]));
    }
}

enum status REF(attention_fwd)(struct ctx *c, const struct attention *a) {
    enum status st = OK;
    struct job j;
    TRY(check(c, a, false));
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(job_open(&j, c, a, false));
    pool_run(c->pool, j.n_spans * a->heads, fwd_item, &j);
out:
    arena_release(c->work, mark);
    return st;
}

/* ---- backward ---- */

/* ds in the place of dp = do v^T, over n columns. */
static void soften_back(const real *restrict p, real *restrict dp, real delta, real scale, int64_t n) {
    for (int64_t i = 0; i < n; i++) dp[i] = scale * p[i] * (dp[i] - delta);
}

static void weights_back(const struct tile *t, int64_t k0, int64_t m, const real *delta, real *s, real *dp) {
    for (int64_t i = 0; i < t->n; i++, s += KEYS, dp += KEYS) {
        int64_t from, to;
        seen(t, i, k0, m, &from, &to);
        exponentials(s + from, row(t->a->lse, t->row + i)[t->head], to - from);
        soften_back(s + from, dp + from, delta[i], (real)t->a->scale, to - from);
        memset(s, 0, (size_t)from * sizeof(real));
        memset(dp, 0, (size_t)from * sizeof(real));
        memset(s + to, 0, (size_t)(m - to) * sizeof(real));
        memset(dp + to, 0, (size_t)(m - to) * sizeof(real));
    }
}

/* One tile of queries: dq, and its part of dk and dv. */
static void bwd_tile(const struct tile *t, real *s, struct tensor dk, struct tensor dv) {
    const struct attention *a = t->a;
    const int64_t P = a->head_width;
    const real *dout = query(t, a->dout), *q = query(t, a->q);
    real *dp = s + QUERIES * KEYS, delta[QUERIES];
    for (int64_t i = 0; i < t->n; i++)
        delta[i] = (real)sum_products(dout + i * a->dout.pitch, query(t, a->o) + i * a->o.pitch, P);
    for (int64_t k0 = t->begin; k0 < t->end; k0 += KEYS) {
        const int64_t m = least(KEYS, t->end - k0);
        scores(t, k0, m, s);
        REF(gemm)(false, true, t->n, m, P, 1, dout, a->dout.pitch, key(t, a->v, k0), a->v.pitch, 0, dp, KEYS);
        weights_back(t, k0, m, delta, s, dp);
        REF(gemm)(true, false, m, P, t->n, 1, s, KEYS, dout, a->dout.pitch, 1, key(t, dv, k0), dv.pitch);
        REF(gemm)(true, false, m, P, t->n, 1, dp, KEYS, q, a->q.pitch, 1, key(t, dk, k0), dk.pitch);
        REF(gemm)
        (false, false, t->n, P, m, 1, dp, KEYS, key(t, a->k, k0), a->k.pitch, k0 == t->begin ? 0 : 1, query(t, a->dq),
         a->dq.pitch);
    }
}

static void clear_head(struct tensor x, int64_t key_head, int64_t P) {
    for (int64_t i = 0; i < x.shape[0]; i++) memset(row(x, i) + key_head * P, 0, (size_t)P * sizeof(real));
}

static struct tensor partial_at(const struct job *j, int64_t part, int which) {
    const int64_t U = j->a->k.shape[0], width = j->a->key_heads * j->a->head_width;
    return tensor_2d(j->partial + (2 * part + which) * U * width, REAL, U, width);
}

/* Item: (set of heads of a key head, key head). */
static void bwd_item(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct attention *a = j->a;
    const int64_t part = item / a->key_heads, key_head = item % a->key_heads;
    const int64_t heads = a->heads / a->key_heads, per = heads / j->parts;
    const struct tensor dk = j->parts > 1 ? partial_at(j, part, 0) : a->dk;
    const struct tensor dv = j->parts > 1 ? partial_at(j, part, 1) : a->dv;
    clear_head(dk, key_head, a->head_width);
    clear_head(dv, key_head, a->head_width);
    for (int64_t h = key_head * heads + part * per; h < key_head * heads + (part + 1) * per; h++)
        for (int64_t i = 0; i < j->n_spans; i++) {
            const struct tile t = tile_open(a, &j->span[i], h);
            bwd_tile(&t, j->tiles + worker * 2 * QUERIES * KEYS, dk, dv);
        }
}

static void bwd_sums(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const int64_t width = j->a->k.shape[1];
    (void)worker;
    for (int which = 0; which < 2; which++)
        for (int64_t i = rows_begin(j->key_rows, item); i < rows_end(j->key_rows, item); i++) {
            real *sum = row(which ? j->a->dv : j->a->dk, i);
            memcpy(sum, row(partial_at(j, 0, which), i), (size_t)width * sizeof(real));
            for (int64_t part = 1; part < j->parts; part++) {
                const real *add = row(partial_at(j, part, which), i);
                for (int64_t n = 0; n < width; n++) sum[n] += add[n];
            }
        }
}

enum status REF(attention_bwd)(struct ctx *c, const struct attention *a) {
    enum status st = OK;
    struct job j;
    TRY(check(c, a, true));
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(job_open(&j, c, a, true));
    pool_run(c->pool, j.parts * a->key_heads, bwd_item, &j);
    j.key_rows = rows_cut(a->k.shape[0], a->k.shape[1] * 2 * j.parts);
    if (j.parts > 1) pool_run(c->pool, j.key_rows.items, bwd_sums, &j);
out:
    arena_release(c->work, mark);
    return st;
}
