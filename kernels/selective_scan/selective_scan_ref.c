/* SPDX-License-Identifier: Apache-2.0 */
/* The backward pass, for one channel: g_t is what the outputs from t on ask of h_t, and a_t = exp(dts_t A), 0 where a
 * document starts.  Going down from the chunk's last token, with g the gradient that the chunk's end state is asked
 * for:
 *
 *   dy_t = dout_t silu(z_t)                       dz_t = dout_t y_t silu'(z_t)
 *   g_t = dy_t C_t + a_{t+1} g_{t+1}              dC_t = sum_d dy_t h_t         dB_t = sum_d g_t dts_t x_t
 *   dx_t = dts_t sum_n g_t B_t + D dy_t           dD = sum_t dy_t x_t
 *   ddts_t = sum_n g_t (B_t x_t + A a_t h_{t-1})  ddt_t = ddts_t softplus'(dt_t + dt_bias)    ddt_bias = sum_t ddt_t
 *   dA = sum_t g_t dts_t a_t h_{t-1}              dA_log = dA A
 *
 * a_t h_{t-1} is a product of two numbers that are kept for the tokens of a chunk, never a difference. */
#include "kernels/selective_scan/selective_scan.h"
#include "kernels/partials.h"
#include "kernels/selective_tile.h"

enum { STRIPS = 4 }; /* at most: parts of the channels that sum dB and dC apart */

/* Items: (range, tile); of backward (some chunks, strip of tiles), which sum into lines of their own. */
struct job {
    const struct selective_scan *a;
    struct span *chunk;
    int64_t *first, n_chunks, tiles, strips;
    struct rows cut;                /* of the chunks                                                  */
    double *d_a_log, *d_bias, *d_D; /* (cut.items, D N), (cut.items, D) twice                         */
    double *bc;                     /* (strips, T, 2 N) what each strip adds to dB | dC               */
    char *memory;                   /* a worker's, memory_each bytes each: see item_open              */
    int64_t memory_each;
};

/* One tile of channels over one chunk or range. */
struct item {
    const struct selective_scan *a;
    struct tile k;
    real *A, *g, *h; /* [N][TILE]: rates, gradient of the state; states after 0, 1, ... tokens: h + t N TILE */
    real *keep;      /* [t][N][TILE] a_t                                                                     */
    real *dts, *x;   /* [t][TILE]                                                                            */
    double *dA;      /* [N][TILE] sum of a chunk                                                             */
    double dbias[TILE], dD[TILE]; /* likewise                                                                   */
    real bias[TILE], D[TILE];
};

static int64_t longest(const struct selective_scan *a) { return least(a->chunk, most(a->pos.shape[0], 1)); }

static int64_t memory_each(const struct selective_scan *a) {
    const int64_t Q = longest(a), size = a->state * TILE;
    return size * (int64_t)sizeof(double) + (size * (2 * Q + 3) + 2 * Q * TILE) * (int64_t)sizeof(real);
}

static struct item item_open(const struct job *j, int64_t tile, int worker) {
    const struct selective_scan *a = j->a;
    const int64_t Q = longest(a), size = a->state * TILE, D = a->A_log.shape[0];
    struct item it = {.a = a, .k = tile_at(D, tile)};
    it.dA = (double *)(j->memory + worker * j->memory_each);
    it.A = (real *)(it.dA + size);
    it.g = it.A + size;
    it.h = it.g + size;
    it.keep = it.h + size * (Q + 1);
    it.dts = it.keep + size * Q;
    it.x = it.dts + Q * TILE;
    tile_rates(a->A_log, a->state, it.k, it.A);
    tile_load(tensor_2d(a->dt_bias.data, REAL, 1, D), 0, it.k, it.bias);
    tile_load(tensor_2d(a->D.data, REAL, 1, D), 0, it.k, it.D);
    return it;
}

/* ---- forward ---- */

/* From s_in on until the state is the one that stands there, to the bit: from there on nothing changes. */
static void fwd_range(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct selective_scan *a = j->a;
    const struct item it = item_open(j, item % j->tiles, worker);
    const int64_t r = item / j->tiles, N = a->state, end = j->first[r + 1];
    const size_t bytes = (size_t)(N * TILE) * sizeof(real);
    const struct tile_walk w = {a->x, a->z, a->dt, a->B, a->C, a->out, a->pos, N, it.k, it.A, it.bias, it.D};
    double time[TILE] = {0};
    bool met = false;
    tile_load_state(state_of(a->s_in, r), N, it.k, it.h);
    for (int64_t i = j->first[r]; i < end && !met; i++) {
        tile_load_state(state_of(a->states, i), N, it.k, it.g);
        met = memcmp(it.g, it.h, bytes) == 0;
        if (met) break;
        tile_store_state(state_of(a->states, i), N, it.k, it.h);
        tile_tokens(&w, j->chunk[i].begin, j->chunk[i].end, it.h, time);
    }
    if (!tensor_has(a->s_out)) return;
    if (met) { /* what leaves the range, from its last chunk */
        tile_load_state(state_of(a->states, end - 1), N, it.k, it.h);
        tile_tokens(&w, j->chunk[end - 1].begin, j->chunk[end - 1].end, it.h, time);
    }
    tile_store_state(state_of(a->s_out, r), N, it.k, it.h);
}

/* ---- backward ---- */

/* What a chunk's own outputs ask of its entering state becomes what all later ones ask of its end state. */
static void bwd_range(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct selective_scan *a = j->a;
    const struct item it = item_open(j, item % j->tiles, worker);
    const int64_t r = item / j->tiles, N = a->state;
    real time[TILE];
    if (tensor_has(a->ds_out)) tile_load_state(state_of(a->ds_out, r), N, it.k, it.g);
    else memset(it.g, 0, (size_t)(N * TILE) * sizeof(real));
    for (int64_t i = j->first[r + 1] - 1; i >= j->first[r]; i--) {
        tile_load(a->chunk_time, i, it.k, time);
        tile_load_state(state_of(a->dstates, i), N, it.k, it.h);
        tile_store_state(state_of(a->dstates, i), N, it.k, it.g);
        tile_fold(it.g, it.A, time, it.h, N);
    }
    if (tensor_has(a->ds_in)) tile_store_state(state_of(a->ds_in, r), N, it.k, it.g);
}

/* next = keep now + dtx B, with keep = exp(dts A) kept. */
static inline void step_kept(real *restrict next, real *restrict keep, const real *restrict now, const real *restrict A,
                             const real *restrict dts, const real *restrict x, const real *restrict B, int64_t N) {
    real dtx[TILE];
    for (int w = 0; w < TILE; w++) dtx[w] = dts[w] * x[w];
    for (int64_t n = 0; n < N; n++)
        for (int w = 0; w < TILE; w++) {
            const int64_t i = n * TILE + w;
            keep[i] = real_exp(dts[w] * A[i]);
            next[i] = keep[i] * now[i] + dtx[w] * B[n];
        }
}

static inline void only_input(real *restrict next, real *restrict keep, const real *restrict dts,
                              const real *restrict x, const real *restrict B, int64_t N) {
    memset(keep, 0, (size_t)(N * TILE) * sizeof(real));
    for (int64_t n = 0; n < N; n++)
        for (int w = 0; w < TILE; w++) next[n * TILE + w] = dts[w] * x[w] * B[n];
}

/* The states of all tokens again, from the one that enters. */
static void states_again(const struct item *it, const struct span *s, int64_t chunk) {
    const struct selective_scan *a = it->a;
    const int64_t size = a->state * TILE, *pos = a->pos.data;
    tile_load_state(state_of(a->states, chunk), a->state, it->k, it->h);
    for (int64_t t = s->begin, i = 0; t < s->end; t++, i++) {
        real *dts = it->dts + i * TILE, *x = it->x + i * TILE, *now = it->h + i * size, *keep = it->keep + i * size;
        tile_load(a->x, t, it->k, x);
        tile_steps(a->dt, t, it->k, it->bias, dts);
        if (pos[t] == 0) only_input(now + size, keep, dts, x, row(a->B, t), a->state);
        else step_kept(now + size, keep, now, it->A, dts, x, row(a->B, t), a->state);
    }
}

/* Sum over the channels of a tile, in a binary tree. */
static inline double tile_sum(real *restrict p) {
    for (int w = 0; w < 8; w++) p[w] += p[w + 8];
    for (int w = 0; w < 4; w++) p[w] += p[w + 4];
    return (double)((p[0] + p[2]) + (p[1] + p[3]));
}

/* Of one token: vectors [TILE]. */
struct token {
    real dy[TILE], gB[TILE], drate[TILE]; /* in; sums over n of g B and of A g a h_{t-1} */
};

/* All that sums over n or over the tile; g becomes what is asked of the state before. */
static inline void token_states(const struct item *it, struct token *v, const real *restrict dts,
                                const real *restrict x, const real *restrict before, const real *restrict keep,
                                const real *restrict B, const real *restrict C, double *restrict bc) {
    const int64_t N = it->a->state;
    const real *restrict after = before + N * TILE, *restrict A = it->A;
    real *restrict g = it->g;
    double *restrict dA = it->dA;
    for (int64_t n = 0; n < N; n++) {
        real to_b[TILE], to_c[TILE];
        for (int w = 0; w < TILE; w++) {
            const int64_t i = n * TILE + w;
            const real gt = g[i] + v->dy[w] * C[n], gh = gt * (keep[i] * before[i]);
            to_b[w] = gt * (dts[w] * x[w]);
            to_c[w] = v->dy[w] * after[i];
            v->gB[w] += gt * B[n];
            v->drate[w] += A[i] * gh;
            dA[i] += (double)(gh * dts[w]);
            g[i] = keep[i] * gt;
        }
        bc[n] += tile_sum(to_b);
        bc[N + n] += tile_sum(to_c);
    }
}

/* One token, and what hangs on its sums. */
static void bwd_token(struct item *it, int64_t t, int64_t i, double *bc) {
    const struct selective_scan *a = it->a;
    const int64_t size = a->state * TILE;
    const real *dts = it->dts + i * TILE, *x = it->x + i * TILE, *before = it->h + i * size;
    struct token v = {{0}, {0}, {0}};
    real z[TILE], dt[TILE], y[TILE], dout[TILE], dz[TILE], dx[TILE], ddt[TILE];
    tile_load(a->z, t, it->k, z);
    tile_load(a->dt, t, it->k, dt);
    tile_load(a->dout, t, it->k, dout);
    for (int w = 0; w < TILE; w++) y[w] = it->D[w] * x[w];
    tile_read(y, before + size, row(a->C, t), a->state);
    for (int w = 0; w < TILE; w++) {
        v.dy[w] = dout[w] * real_silu(z[w]);
        dz[w] = dout[w] * y[w] * real_dsilu(z[w]);
    }
    token_states(it, &v, dts, x, before, it->keep + i * size, row(a->B, t), row(a->C, t), bc);
    for (int w = 0; w < TILE; w++) {
        const real step = dt[w] + it->bias[w], slope = step > 20 ? 1 : real_sigmoid(step);
        dx[w] = dts[w] * v.gB[w] + it->D[w] * v.dy[w];
        ddt[w] = (x[w] * v.gB[w] + v.drate[w]) * slope;
        it->dD[w] += (double)(v.dy[w] * x[w]);
        it->dbias[w] += (double)ddt[w];
    }
    tile_store(a->dz, t, it->k, dz);
    tile_store(a->dx, t, it->k, dx);
    tile_store(a->ddt, t, it->k, ddt);
}

static void bwd_tile(const struct job *j, int64_t tile, int64_t chunk, int64_t line, double *bc, int worker) {
    const struct selective_scan *a = j->a;
    const struct span *s = &j->chunk[chunk];
    const int64_t N = a->state, D = a->A_log.shape[0];
    struct item it = item_open(j, tile, worker);
    memset(it.dA, 0, (size_t)(N * TILE) * sizeof(double));
    states_again(&it, s, chunk);
    tile_load_state(state_of(a->dstates, chunk), N, it.k, it.g);
    for (int64_t t = s->end - 1; t >= s->begin; t--) bwd_token(&it, t, t - s->begin, bc + t * 2 * N);
    for (int64_t w = 0; w < it.k.wide; w++) {
        const int64_t d = it.k.d + w;
        double *to = j->d_a_log + (line * D + d) * N;
        for (int64_t n = 0; n < N; n++) to[n] += it.dA[n * TILE + w] * (double)it.A[n * TILE + w];
        j->d_bias[line * D + d] += it.dbias[w];
        j->d_D[line * D + d] += it.dD[w];
    }
}

/* Some chunks, one strip of the channels. */
static void bwd_chunks(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct selective_scan *a = j->a;
    const int64_t N = a->state, D = a->A_log.shape[0], line = item / j->strips, strip = item % j->strips;
    const int64_t begin = strip * j->tiles / j->strips, end = (strip + 1) * j->tiles / j->strips;
    const int64_t d = begin * TILE, wide = least(end * TILE, D) - d;
    double *bc = j->bc + strip * a->pos.shape[0] * 2 * N;
    memset(j->d_a_log + (line * D + d) * N, 0, (size_t)(wide * N) * sizeof(double));
    memset(j->d_bias + line * D + d, 0, (size_t)wide * sizeof(double));
    memset(j->d_D + line * D + d, 0, (size_t)wide * sizeof(double));
    for (int64_t i = rows_begin(j->cut, line); i < rows_end(j->cut, line); i++) {
        const struct span *s = &j->chunk[i];
        memset(bc + s->begin * 2 * N, 0, (size_t)((s->end - s->begin) * 2 * N) * sizeof(double));
        for (int64_t tile = begin; tile < end; tile++) bwd_tile(j, tile, i, line, bc, worker);
    }
}

/* dB and dC of the rows of one chunk: the strips in order. */
static void add_strips(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const int64_t N = j->a->state, T = j->a->pos.shape[0];
    (void)worker;
    for (int64_t t = j->chunk[item].begin; t < j->chunk[item].end; t++) {
        real *dB = row(j->a->dB, t), *dC = row(j->a->dC, t);
        for (int64_t n = 0; n < N; n++) {
            double b = 0, c = 0;
            for (int64_t s = 0; s < j->strips; s++) {
                const double *bc = j->bc + (s * T + t) * 2 * N;
                b += bc[n];
                c += bc[N + n];
            }
            dB[n] = (real)b;
            dC[n] = (real)c;
        }
    }
}

/* ---- both ---- */

static enum status check_backward(struct ctx *c, const struct selective_scan *a) {
    const int64_t T = a->pos.shape[0], D = a->A_log.shape[0], N = a->state, R = a->range.shape[0] - 1;
    CHECK_SHAPE(selective_scan, dout, REAL, T, D);
    CHECK_SHAPE(selective_scan, dstates, REAL, a->states.shape[0], D, 1, N);
    CHECK_OPTIONAL(selective_scan, ds_out, REAL, R, D, 1, N);
    CHECK_OPTIONAL(selective_scan, ds_in, REAL, R, D, 1, N);
    CHECK_SHAPE(selective_scan, dx, REAL, T, D);
    CHECK_SHAPE(selective_scan, dz, REAL, T, D);
    CHECK_SHAPE(selective_scan, ddt, REAL, T, D);
    CHECK_SHAPE(selective_scan, dB, REAL, T, N);
    CHECK_SHAPE(selective_scan, dC, REAL, T, N);
    CHECK_SHAPE(selective_scan, dA_log, REAL, D, N);
    CHECK_SHAPE(selective_scan, ddt_bias, REAL, D);
    CHECK_SHAPE(selective_scan, dD, REAL, D);
    return OK;
}

static enum status check(struct ctx *c, const struct selective_scan *a, bool backward) {
    const int64_t T = a->pos.shape[0], D = a->A_log.shape[0], N = a->state, R = a->range.shape[0] - 1;
    const int64_t n = a->states.shape[0];
    CHECK_THAT(selective_scan, N > 0 && a->chunk > 0, "state %" PRId64 ", chunk %" PRId64 ": expected above 0", N,
               a->chunk);
    CHECK_SHAPE(selective_scan, range, I64, R + 1);
    CHECK_SHAPE(selective_scan, pos, I64, T);
    CHECK_SHAPE(selective_scan, x, REAL, T, D);
    CHECK_SHAPE(selective_scan, z, REAL, T, D);
    CHECK_SHAPE(selective_scan, dt, REAL, T, D);
    CHECK_SHAPE(selective_scan, B, REAL, T, N);
    CHECK_SHAPE(selective_scan, C, REAL, T, N);
    CHECK_SHAPE(selective_scan, A_log, REAL, D, N);
    CHECK_SHAPE(selective_scan, dt_bias, REAL, D);
    CHECK_SHAPE(selective_scan, D, REAL, D);
    CHECK_SHAPE(selective_scan, states, REAL, n, D, 1, N);
    CHECK_SHAPE(selective_scan, chunk_time, REAL, n, D);
    TRY(ranges_check("selective_scan", a->range, a->pos));
    const int64_t found = spans_cut(a->range, a->pos, a->chunk, NULL, NULL);
    CHECK_THAT(selective_scan, found <= n, "states holds %" PRId64 " chunks, the ranges have %" PRId64, n, found);
    if (backward) return check_backward(c, a);
    CHECK_SHAPE(selective_scan, s_in, REAL, R, D, 1, N);
    CHECK_OPTIONAL(selective_scan, s_out, REAL, R, D, 1, N);
    CHECK_SHAPE(selective_scan, out, REAL, T, D);
    return OK;
}

enum { SPANS, FIRSTS, LINES_A, LINES_BIAS, LINES_D, STRIPS_BC, MEMORY, N_BUFFERS };

static int64_t strips_of(const struct selective_scan *a) { return least(STRIPS, tiles_of(a->A_log.shape[0])); }

static int64_t sizes(const struct ctx *c, const struct selective_scan *a, int64_t bytes[N_BUFFERS]) {
    const int64_t T = a->pos.shape[0], D = a->A_log.shape[0], N = a->state, R = a->range.shape[0] - 1;
    const int64_t n = spans_max(T, R, a->chunk), lines = least(n, ROWS_PARTIALS) * D * (int64_t)sizeof(double);
    int64_t all = 0;
    bytes[SPANS] = n * (int64_t)sizeof(struct span);
    bytes[FIRSTS] = (R + 1) * (int64_t)sizeof(int64_t);
    bytes[LINES_A] = lines * N;
    bytes[LINES_BIAS] = bytes[LINES_D] = lines;
    bytes[STRIPS_BC] = strips_of(a) * T * 2 * N * (int64_t)sizeof(double);
    bytes[MEMORY] = pool_size(c->pool) * memory_each(a);
    for (int i = 0; i < N_BUFFERS; i++) all += arena_round(bytes[i]);
    return all;
}

int64_t REF(selective_scan_work)(const struct ctx *c, const struct selective_scan *a) {
    int64_t bytes[N_BUFFERS];
    return sizes(c, a, bytes);
}

/* Memory of one call; the caller has marked the arena. */
static enum status job_open(struct job *j, struct ctx *c, const struct selective_scan *a) {
    int64_t bytes[N_BUFFERS];
    void *at[N_BUFFERS];
    sizes(c, a, bytes);
    for (int i = 0; i < N_BUFFERS; i++) TRY(arena_take(c->work, bytes[i], &at[i]));
    *j = (struct job){.a = a,
                      .chunk = at[SPANS],
                      .first = at[FIRSTS],
                      .d_a_log = at[LINES_A],
                      .d_bias = at[LINES_BIAS],
                      .d_D = at[LINES_D],
                      .bc = at[STRIPS_BC],
                      .memory = at[MEMORY],
                      .memory_each = memory_each(a),
                      .tiles = tiles_of(a->A_log.shape[0]),
                      .strips = strips_of(a)};
    j->n_chunks = spans_cut(a->range, a->pos, a->chunk, j->chunk, j->first);
    j->cut = rows_cut_partials(j->n_chunks, ROWS_GRAIN);
    return OK;
}

enum status REF(selective_scan_fwd)(struct ctx *c, const struct selective_scan *a) {
    enum status st = OK;
    struct job j;
    TRY(check(c, a, false));
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(job_open(&j, c, a));
    pool_run(c->pool, (a->range.shape[0] - 1) * j.tiles, fwd_range, &j);
out:
    arena_release(c->work, mark);
    return st;
}

enum status REF(selective_scan_bwd)(struct ctx *c, const struct selective_scan *a) {
    const int64_t D = a->A_log.shape[0];
    enum status st = OK;
    struct job j;
    TRY(check(c, a, true));
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(job_open(&j, c, a));
    pool_run(c->pool, (a->range.shape[0] - 1) * j.tiles, bwd_range, &j);
    pool_run(c->pool, j.cut.items * j.strips, bwd_chunks, &j);
    pool_run(c->pool, j.n_chunks, add_strips, &j);
    REF(partials_add)(c, j.d_a_log, j.cut.items, D * a->state, a->dA_log.data);
    REF(partials_add)(c, j.d_bias, j.cut.items, D, a->ddt_bias.data);
    REF(partials_add)(c, j.d_D, j.cut.items, D, a->dD.data);
out:
    arena_release(c->work, mark);
    return st;
}
