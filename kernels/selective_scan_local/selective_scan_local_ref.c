/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/selective_scan_local/selective_scan_local.h"
#include "kernels/selective_tile.h"

/* An item of the pool is one (range, tile of channels); of backward one (chunk, tile), then one (range, tile). */
struct job {
    const struct selective_scan_local *a;
    struct span *chunk;
    int64_t *first, tiles; /* (R + 1) each range's first chunk;  of the channels */
    real *memory;          /* (workers, 3, N, TILE) rates, running state, one of a chunk */
};

static enum status check(struct ctx *c, const struct selective_scan_local *a, bool backward) {
    const int64_t T = a->pos.shape[0], D = a->A_log.shape[0], N = a->state, R = a->range.shape[0] - 1;
    const int64_t n = (backward ? a->dstates : a->states).shape[0];
    CHECK_THAT(selective_scan_local, N > 0 && a->chunk > 0, "state %" PRId64 ", chunk %" PRId64 ": expected above 0", N,
               a->chunk);
    CHECK_SHAPE(selective_scan_local, range, I64, R + 1);
    CHECK_SHAPE(selective_scan_local, pos, I64, T);
    CHECK_SHAPE(selective_scan_local, dt, REAL, T, D);
    CHECK_SHAPE(selective_scan_local, A_log, REAL, D, N);
    CHECK_SHAPE(selective_scan_local, dt_bias, REAL, D);
    CHECK_SHAPE(selective_scan_local, chunk_time, REAL, n, D);
    CHECK_SHAPE(selective_scan_local, z, REAL, T, D);
    CHECK_SHAPE(selective_scan_local, C, REAL, T, N);
    if (backward) {
        CHECK_SHAPE(selective_scan_local, dout, REAL, T, D);
        CHECK_SHAPE(selective_scan_local, dstates, REAL, n, D, 1, N);
        CHECK_SHAPE(selective_scan_local, range_dstate, REAL, R, D, 1, N);
    } else {
        CHECK_SHAPE(selective_scan_local, x, REAL, T, D);
        CHECK_SHAPE(selective_scan_local, B, REAL, T, N);
        CHECK_SHAPE(selective_scan_local, states, REAL, n, D, 1, N);
        CHECK_SHAPE(selective_scan_local, D, REAL, D);
        CHECK_SHAPE(selective_scan_local, out, REAL, T, D);
        CHECK_SHAPE(selective_scan_local, range_time, REAL, R, D);
        CHECK_SHAPE(selective_scan_local, range_state, REAL, R, D, 1, N);
    }
    TRY(ranges_check("selective_scan_local", a->range, a->pos));
    const int64_t found = spans_cut(a->range, a->pos, a->chunk, NULL, NULL);
    CHECK_THAT(selective_scan_local, found <= n, "%s holds %" PRId64 " chunks, the ranges have %" PRId64,
               backward ? "dstates" : "states", n, found);
    return OK;
}

/* Bytes of the spans, the ranges' first spans, and the workers' memory. */
static void sizes(const struct ctx *c, const struct selective_scan_local *a, int64_t bytes[3]) {
    const int64_t R = a->range.shape[0] - 1;
    bytes[0] = spans_max(a->pos.shape[0], R, a->chunk) * (int64_t)sizeof(struct span);
    bytes[1] = (R + 1) * (int64_t)sizeof(int64_t);
    bytes[2] = pool_size(c->pool) * 3 * a->state * TILE * (int64_t)sizeof(real);
}

int64_t REF(selective_scan_local_work)(const struct ctx *c, const struct selective_scan_local *a) {
    int64_t bytes[3];
    sizes(c, a, bytes);
    return arena_round(bytes[0]) + arena_round(bytes[1]) + arena_round(bytes[2]);
}

/* Memory of one call; the caller has marked the arena. */
static enum status job_open(struct job *j, struct ctx *c, const struct selective_scan_local *a, int64_t *n_chunks) {
    int64_t bytes[3];
    void *at[3];
    sizes(c, a, bytes);
    for (int i = 0; i < 3; i++) TRY(arena_take(c->work, bytes[i], &at[i]));
    *j = (struct job){.a = a, .chunk = at[0], .first = at[1], .memory = at[2], .tiles = tiles_of(a->A_log.shape[0])};
    *n_chunks = spans_cut(a->range, a->pos, a->chunk, j->chunk, j->first);
    return OK;
}

/* What one item works with. */
struct item {
    const struct selective_scan_local *a;
    struct tile k;
    real *A, *state, *other;
    real bias[TILE], D[TILE];
};

static struct item item_open(const struct job *j, int64_t tile, int worker) {
    const struct selective_scan_local *a = j->a;
    const int64_t size = a->state * TILE;
    struct item it = {.a = a, .k = tile_at(a->A_log.shape[0], tile)};
    it.A = j->memory + worker * 3 * size;
    it.state = it.A + size;
    it.other = it.state + size;
    tile_rates(a->A_log, a->state, it.k, it.A);
    tile_load(tensor_2d(a->dt_bias.data, REAL, 1, a->A_log.shape[0]), 0, it.k, it.bias);
    if (tensor_has(a->D)) tile_load(tensor_2d(a->D.data, REAL, 1, a->A_log.shape[0]), 0, it.k, it.D);
    memset(it.state, 0, (size_t)size * sizeof(real));
    return it;
}

static void fwd_range(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct selective_scan_local *a = j->a;
    const struct item it = item_open(j, item % j->tiles, worker);
    const struct tile_walk w = {a->x, a->z, a->dt, a->B, a->C, a->out, a->pos, a->state, it.k, it.A, it.bias, it.D};
    const int64_t r = item / j->tiles;
    double all[TILE] = {0};
    real time[TILE];
    for (int64_t i = j->first[r]; i < j->first[r + 1]; i++) {
        const struct span *s = &j->chunk[i];
        const bool starts = s->enter < s->end - s->begin;
        double sum[TILE] = {0};
        tile_store_state(state_of(a->states, i), a->state, it.k, it.state);
        tile_tokens(&w, s->begin, s->end, it.state, sum);
        for (int k = 0; k < TILE; k++) time[k] = starts ? (real)AFFINE_FOREVER : (real)sum[k];
        for (int k = 0; k < TILE; k++) all[k] += (double)time[k];
        tile_store(a->chunk_time, i, it.k, time);
    }
    for (int k = 0; k < TILE; k++) time[k] = (real)all[k];
    tile_store(a->range_time, r, it.k, time);
    tile_store_state(state_of(a->range_state, r), a->state, it.k, it.state);
}

enum status REF(selective_scan_local_fwd)(struct ctx *c, const struct selective_scan_local *a) {
    enum status st = OK;
    struct job j;
    int64_t n_chunks;
    TRY(check(c, a, false));
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(job_open(&j, c, a, &n_chunks));
    pool_run(c->pool, (a->range.shape[0] - 1) * j.tiles, fwd_range, &j);
out:
    arena_release(c->work, mark);
    return st;
}

/* What tokens t, ..., enter - 1 ask of the state before t: g = exp(dts A) (g + dy C), from the last one down. */
static void bwd_chunk(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct selective_scan_local *a = j->a;
    const struct item it = item_open(j, item % j->tiles, worker);
    const struct span *s = &j->chunk[item / j->tiles];
    real z[TILE], dy[TILE], dts[TILE];
    real *restrict g = it.state;
    for (int64_t t = s->begin + s->enter - 1; t >= s->begin; t--) {
        const real *C = row(a->C, t);
        tile_load(a->z, t, it.k, z);
        tile_load(a->dout, t, it.k, dy);
        tile_steps(a->dt, t, it.k, it.bias, dts);
        for (int w = 0; w < TILE; w++) dy[w] *= real_silu(z[w]);
        for (int64_t n = 0; n < a->state; n++)
            for (int w = 0; w < TILE; w++)
                g[n * TILE + w] = real_exp(dts[w] * it.A[n * TILE + w]) * (g[n * TILE + w] + dy[w] * C[n]);
    }
    tile_store_state(state_of(a->dstates, item / j->tiles), a->state, it.k, g);
}

static void bwd_range(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct selective_scan_local *a = j->a;
    const struct item it = item_open(j, item % j->tiles, worker);
    const int64_t r = item / j->tiles;
    real time[TILE];
    for (int64_t i = j->first[r + 1] - 1; i >= j->first[r]; i--) {
        tile_load(a->chunk_time, i, it.k, time);
        tile_load_state(state_of(a->dstates, i), a->state, it.k, it.other);
        tile_fold(it.state, it.A, time, it.other, a->state);
    }
    tile_store_state(state_of(a->range_dstate, r), a->state, it.k, it.state);
}

enum status REF(selective_scan_local_bwd)(struct ctx *c, const struct selective_scan_local *a) {
    enum status st = OK;
    struct job j;
    int64_t n_chunks;
    TRY(check(c, a, true));
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(job_open(&j, c, a, &n_chunks));
    pool_run(c->pool, n_chunks * j.tiles, bwd_chunk, &j);
    pool_run(c->pool, (a->range.shape[0] - 1) * j.tiles, bwd_range, &j);
out:
    arena_release(c->work, mark);
    return st;
}
