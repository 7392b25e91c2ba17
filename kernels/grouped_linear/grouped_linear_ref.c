/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/grouped_linear/grouped_linear.h"
#include <inttypes.h>
#include "kernels/check.h"
#include "kernels/gemm.h"
#include "kernels/rows.h"

enum { TILE_M = 256, TILE_N = 512 };

/* What each item of the pool computes: tile i of group g, tiles of all groups numbered through. */
struct grouped_job {
    const struct grouped_linear *a;
    int64_t groups, E, cols; /* cols: of the result, in tiles of TILE_N */
    int64_t *first;          /* (groups + 1) a group's first tile     */
};
struct tile {
    int64_t group, expert, begin, end; /* rows of the group */
    int64_t i, j, rows, cols;          /* of the result     */
};

static void rows_of(const struct grouped_job *job, int64_t g, int64_t *begin, int64_t *end) {
    const int64_t *at = (const int64_t *)job->a->offset.data + g / job->E * (job->E + 1) + g % job->E;
    *begin = at[0];
    *end = at[1];
}

static int64_t group_of(const struct grouped_job *job, int64_t item) {
    int64_t low = 0, high = job->groups;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (job->first[middle] <= item) low = middle;
        else high = middle;
    }
    return low;
}

/* The tile of a result whose rows are the group's. */
static struct tile tile_at(const struct grouped_job *job, int64_t item) {
    struct tile t = {.group = group_of(job, item)};
    const int64_t across = ceil_div(job->cols, TILE_N), own = item - job->first[t.group];
    rows_of(job, t.group, &t.begin, &t.end);
    t.expert = t.group % job->E;
    t.i = t.begin + own / across * TILE_M;
    t.j = own % across * TILE_N;
    t.rows = least(TILE_M, t.end - t.i);
    t.cols = least(TILE_N, job->cols - t.j);
    return t;
}

static const real *weight(const struct grouped_linear *a, int64_t e) {
    return (const real *)a->w.data + e * a->w.shape[1] * a->w.shape[2];
}

static void forward_tile(void *arg, int64_t item, int worker) {
    const struct grouped_job *job = arg;
    const struct grouped_linear *a = job->a;
    const struct tile t = tile_at(job, item);
    const int64_t I = a->w.shape[2];
    (void)worker;
    REF(gemm)
    (false, true, t.rows, t.cols, I, 1, row(a->x, t.i), a->x.pitch, weight(a, t.expert) + t.j * I, I, 0,
     row(a->y, t.i) + t.j, a->y.pitch);
}

static void dx_tile(void *arg, int64_t item, int worker) {
    const struct grouped_job *job = arg;
    const struct grouped_linear *a = job->a;
    const struct tile t = tile_at(job, item);
    const int64_t O = a->w.shape[1], I = a->w.shape[2];
    (void)worker;
    REF(gemm)
    (false, false, t.rows, t.cols, O, 1, row(a->dy, t.i), a->dy.pitch, weight(a, t.expert) + t.j, I, a->dx_add ? 1 : 0,
     row(a->dx, t.i) + t.j, a->dx.pitch);
}

/* An item is a tile of one expert's gradient and takes its sections in order. */
static void dw_tile(void *arg, int64_t item, int worker) {
    const struct grouped_job *job = arg;
    const struct grouped_linear *a = job->a;
    const int64_t O = a->dw.shape[1], I = a->dw.shape[2], across = ceil_div(I, TILE_N),
                  per = ceil_div(O, TILE_N) * across;
    const int64_t e = item / per, i = item % per / across * TILE_N, j = item % across * TILE_N;
    (void)worker;
    for (int64_t g = e; g < job->groups; g += job->E) {
        int64_t begin, end;
        rows_of(job, g, &begin, &end);
        if (begin == end) continue;
        REF(gemm)
        (true, false, least(TILE_N, O - i), least(TILE_N, I - j), end - begin, 1, row(a->dy, begin) + i, a->dy.pitch,
         row(a->x, begin) + j, a->x.pitch, 1, (real *)a->dw.data + (e * O + i) * I + j, I);
    }
}

static enum status check_offsets(const struct grouped_linear *a, int64_t N) {
    const int64_t S = a->offset.shape[0], E = a->offset.shape[1] - 1, *at = a->offset.data;
    for (int64_t s = 0; s < S; s++)
        for (int64_t e = 0; e < E; e++) {
            const int64_t begin = at[s * (E + 1) + e], end = at[s * (E + 1) + e + 1];
            FAIL_UNLESS(begin >= 0 && begin <= end && end <= N, ERR_ARG,
                        "grouped_linear: offset: expert %" PRId64 " of section %" PRId64 " has the rows %" PRId64
                        " to %" PRId64 " of %" PRId64,
                        e, s, begin, end, N);
        }
    return OK;
}

static struct grouped_job job_of(const struct grouped_linear *a, int64_t cols) {
    const int64_t E = a->offset.shape[1] - 1;
    return (struct grouped_job){.a = a, .groups = a->offset.shape[0] * E, .E = E, .cols = cols};
}

static int64_t first_bytes(int64_t groups) { return arena_round((groups + 1) * (int64_t)sizeof(int64_t)); }

static enum status run_tiles(struct ctx *c, struct grouped_job *job, void (*fn)(void *, int64_t, int)) {
    void *mem = NULL;
    enum status st = OK;
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(arena_take(c->work, first_bytes(job->groups), &mem));
    job->first = mem;
    job->first[0] = 0;
    for (int64_t g = 0; g < job->groups; g++) {
        int64_t begin, end;
        rows_of(job, g, &begin, &end);
        job->first[g + 1] = job->first[g] + ceil_div(end - begin, TILE_M) * ceil_div(job->cols, TILE_N);
    }
    pool_run(c->pool, job->first[job->groups], fn, job);
out:
    arena_release(c->work, mark);
    return st;
}

enum status REF(grouped_linear_fwd)(struct ctx *c, const struct grouped_linear *a) {
    const int64_t N = a->x.shape[0], E = a->w.shape[0], O = a->w.shape[1], I = a->w.shape[2];
    CHECK_SHAPE(grouped_linear, x, REAL, N, I);
    CHECK_SHAPE(grouped_linear, w, REAL, E, O, I);
    CHECK_SHAPE(grouped_linear, offset, I64, a->offset.shape[0], E + 1);
    CHECK_SHAPE(grouped_linear, y, REAL, N, O);
    TRY(check_offsets(a, N));
    struct grouped_job job = job_of(a, O);
    return run_tiles(c, &job, forward_tile);
}

enum status REF(grouped_linear_bwd)(struct ctx *c, const struct grouped_linear *a) {
    const int64_t N = a->dy.shape[0], E = a->offset.shape[1] - 1, O = a->dy.shape[1];
    const int64_t I = tensor_has(a->dx) ? a->w.shape[2] : a->x.shape[1];
    CHECK_SHAPE(grouped_linear, dy, REAL, N, O);
    CHECK_SHAPE(grouped_linear, offset, I64, a->offset.shape[0], E + 1);
    TRY(check_offsets(a, N));
    struct grouped_job job = job_of(a, I);
    if (tensor_has(a->dx)) {
        CHECK_SHAPE(grouped_linear, w, REAL, E, O, I);
        CHECK_SHAPE(grouped_linear, dx, REAL, N, I);
        TRY(run_tiles(c, &job, dx_tile));
    }
    if (!tensor_has(a->dw)) return OK;
    CHECK_SHAPE(grouped_linear, x, REAL, N, I);
    CHECK_SHAPE(grouped_linear, dw, REAL, E, O, I);
    pool_run(c->pool, E * ceil_div(O, TILE_N) * ceil_div(I, TILE_N), dw_tile, &job);
    return OK;
}

int64_t REF(grouped_linear_work)(const struct ctx *c, const struct grouped_linear *a) {
    (void)c;
    return first_bytes(a->offset.shape[0] * (a->offset.shape[1] - 1));
}
