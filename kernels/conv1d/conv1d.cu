/* SPDX-License-Identifier: Apache-2.0 */
/* F32, and what does not come in packs of four taps: a thread owns one channel of one row; neighbours along a row are
 * neighbours in memory, and the K rows that a thread reads are those its neighbours above and below read too.  Backward
 * makes du again wherever it is needed, K times for dx, instead of keeping T C numbers. */
#include "kernels/conv1d/conv1d.h"
#include "kernels/conv1d/conv1d_packs.cuh"

#define MAX_TAPS 16
/* x_{t-k}, in the range r that begins at row `begin`, or before it. */
template <typename real>
static __device__ float x_at(const struct conv1d &a, int64_t r, int64_t begin, int64_t t, int64_t k, int64_t i) {
    const int64_t C = a.x.shape[1], before = a.w.shape[1] - 1;
    if (t - k >= begin) return one(row_of<real>(a.x, t - k) + i);
    return one((const real *)a.before.data + ((r + 1) * before + t - k - begin) * C + i);
}

static __device__ float tap(const struct conv1d &a, int64_t k, int64_t i) {
    const int64_t K = a.w.shape[1];
    return ((const float *)a.w.data)[i * K + K - 1 - k];
}

template <typename real>
static __device__ float pre_activation(const struct conv1d &a, int64_t r, int64_t begin, int64_t t, int64_t i) {
    const int64_t taps = least(a.w.shape[1], long_at(a.pos, t) + 1);
    float u = a.b.data ? ((const float *)a.b.data)[i] : 0.0f;
    for (int64_t k = taps - 1; k >= 0; k--) u += tap(a, k, i) * x_at<real>(a, r, begin, t, k, i);
    return u;
}

template <typename real>
static __device__ float du_at(const struct conv1d &a, int64_t r, int64_t begin, int64_t t, int64_t i) {
    const float dy = one(row_of<real>(a.dy, t) + i);
    return a.silu ? dy * dsilu(pre_activation<real>(a, r, begin, t, i)) : dy;
}

/* sum over k >= k0 of tap k times du_{s+k}, s a row of range r or before it (then k0 > 0). */
template <typename real>
static __device__ float gather_taps(const struct conv1d &a, int64_t r, int64_t s, int64_t k0, int64_t i) {
    const int64_t begin = long_at(a.range, r), end = long_at(a.range, r + 1);
    float sum = 0.0f;
    for (int64_t k = k0; k < a.w.shape[1] && s + k < end; k++)
        if (long_at(a.pos, s + k) >= k) sum += tap(a, k, i) * du_at<real>(a, r, begin, s + k, i);
    return sum;
}

template <typename real> __global__ static void forward_cells(const struct conv1d a) {
    FOR_CELLS(t, i, a.x.shape[0], a.x.shape[1]) {
        const int64_t r = range_of(a.range, t);
        const float u = pre_activation<real>(a, r, long_at(a.range, r), t, i);
        set(row_of<real>(a.y, t) + i, a.silu ? silu(u) : u);
    }
}

template <typename real> __global__ static void dx_cells(const struct conv1d a) {
    FOR_CELLS(t, i, a.x.shape[0], a.x.shape[1])
    set(row_of<real>(a.dx, t) + i, gather_taps<real>(a, range_of(a.range, t), t, 0, i));
}

template <typename real> __global__ static void dbefore_cells(const struct conv1d a, int64_t n) {
    const int64_t before = a.w.shape[1] - 1, C = a.x.shape[1];
    FOR_CELLS(at, i, n, C) {
        const int64_t r = at / before, k0 = before - at % before;
        set((real *)a.dbefore.data + at * C + i, gather_taps<real>(a, r, long_at(a.range, r) - k0, k0, i));
    }
}

/* Lines of dw by tap, then db: (parts, K + 1, C). */
template <typename real> __global__ static void weight_lines(const struct conv1d a, double *lines) {
    const int64_t T = a.x.shape[0], C = a.x.shape[1], K = a.w.shape[1];
    const int64_t begin = blockIdx.y * part_rows(T), end = least(T, begin + part_rows(T));
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < C; i += (int64_t)gridDim.x * blockDim.x) {
        double sum[MAX_TAPS] = {}, bias = 0.0;
        for (int64_t t = begin; t < end; t++) {
            const int64_t r = range_of(a.range, t), first = long_at(a.range, r);
            const float du = du_at<real>(a, r, first, t, i);
            const int64_t taps = least(K, long_at(a.pos, t) + 1);
            bias += (double)du;
            for (int k = 0; k < MAX_TAPS; k++)
                if (k < taps) sum[k] += (double)(du * x_at<real>(a, r, first, t, k, i));
        }
        double *line = lines + blockIdx.y * (K + 1) * C + i;
        for (int k = 0; k < MAX_TAPS; k++)
            if (k < K) line[k * C] = sum[k];
        line[K * C] = bias;
    }
}

__global__ static void weight_sums(const struct conv1d a, const double *lines, int64_t n_lines) {
    const int64_t C = a.x.shape[1], K = a.w.shape[1];
    FOR_CELLS(k, i, K + 1, C) {
        double sum = 0.0;
        for (int64_t l = 0; l < n_lines; l++) sum += lines[(l * (K + 1) + k) * C + i];
        if (k < K) ((float *)a.dw.data)[i * K + K - 1 - k] += (float)sum;
        else if (a.db.data) ((float *)a.db.data)[i] += (float)sum;
    }
}

static enum status check(struct ctx *c, const struct conv1d *a, bool backward) {
    const int64_t T = a->x.shape[0], C = a->x.shape[1], K = a->w.shape[1], R = a->range.shape[0] - 1;
    CHECK_THAT(conv1d, K >= 1 && K <= MAX_TAPS, "w has %" PRId64 " taps: expected 1 to %d", K, MAX_TAPS);
    CHECK_THAT(conv1d, R >= 0, "range is empty: expected the rows where ranges begin");
    CHECK_SHAPE(conv1d, range, I64, R + 1);
    CHECK_SHAPE(conv1d, pos, I64, T);
    CHECK_SHAPE(conv1d, x, REAL, T, C);
    CHECK_SHAPE(conv1d, w, WIDE, C, K);
    CHECK_THAT(conv1d, a->w.pitch == K, "w has the row pitch %" PRId64 ": expected a packed tensor", a->w.pitch);
    CHECK_OPTIONAL(conv1d, b, WIDE, C);
    if (K > 1) CHECK_SHAPE(conv1d, before, REAL, R, K - 1, C);
    if (!backward) {
        CHECK_SHAPE(conv1d, y, REAL, T, C);
        return OK;
    }
    CHECK_SHAPE(conv1d, dy, REAL, T, C);
    CHECK_SHAPE(conv1d, dx, REAL, T, C);
    CHECK_SHAPE(conv1d, dw, WIDE, C, K);
    CHECK_THAT(conv1d, a->dw.pitch == K, "dw has the row pitch %" PRId64 ": expected a packed tensor", a->dw.pitch);
    CHECK_OPTIONAL(conv1d, db, WIDE, C);
    if (K > 1) CHECK_SHAPE(conv1d, dbefore, REAL, R, K - 1, C);
    return OK;
}

static bool in_packs(const struct conv1d *a) {
    return a->w.shape[1] == TAPS && a->x.shape[1] % PACK == 0 && packs_fit(a->x) && packs_fit(a->w) &&
           packs_fit(a->b) && packs_fit(a->before) && packs_fit(a->y) && packs_fit(a->dy) && packs_fit(a->dx);
}

extern "C" enum status conv1d_fwd_cuda(struct ctx *c, const struct conv1d *a) {
    TRY(check(c, a, false));
    const int64_t T = a->x.shape[0], C = a->x.shape[1];
    const dim3 runs = run_grid(T, C, BLOCKS_FORWARD);
    const int64_t run = run_rows(T, C, BLOCKS_FORWARD);
    if (REAL == F32) LAUNCH_CELLS(forward_cells<float>, T, C, *a);
    else if (in_packs(a) && a->silu) LAUNCH((forward_runs<true, N, AHEAD_FORWARD>), runs, RUN_BLOCK, *a, run);
    else if (in_packs(a)) LAUNCH((forward_runs<false, N, AHEAD_FORWARD>), runs, RUN_BLOCK, *a, run);
    else LAUNCH_CELLS(forward_cells<bf16_bits>, T, C, *a);
    return OK;
}

/* Any number of taps, any pitch. */
template <typename real> static enum status backward(struct ctx *c, const struct conv1d *a) {
    const int64_t T = a->x.shape[0], C = a->x.shape[1], K = a->w.shape[1], R = a->range.shape[0] - 1;
    void *lines;
    TRY(arena_take(c->work, lines_bytes(T, (K + 1) * C), &lines));
    LAUNCH_CELLS(dx_cells<real>, T, C, *a);
    if (K > 1) LAUNCH_CELLS(dbefore_cells<real>, R * (K - 1), C, *a, R * (K - 1));
    const dim3 grid((unsigned)least(ceil_div(C, 128), 1 << 20), (unsigned)part_count(T));
    LAUNCH(weight_lines<real>, grid, 128, *a, (double *)lines);
    LAUNCH_CELLS(weight_sums, K + 1, C, *a, (const double *)lines, part_count(T));
    return OK;
}

static enum status backward_packs(struct ctx *c, const struct conv1d *a) {
    const int64_t T = a->x.shape[0], C = a->x.shape[1], rows = (a->range.shape[0] - 1) * (TAPS - 1);
    const dim3 runs = run_grid(T, C, BLOCKS_BACKWARD);
    const int64_t run = run_rows(T, C, BLOCKS_BACKWARD);
    void *room;
    TRY(arena_take(c->work, run_bytes(T, C), &room));
    float *const lines = (float *)room;
    if (a->silu) LAUNCH((backward_runs<true, N, AHEAD_BACKWARD>), runs, RUN_BLOCK, *a, lines, run);
    else LAUNCH((backward_runs<false, N, AHEAD_BACKWARD>), runs, RUN_BLOCK, *a, lines, run);
    LAUNCH_CELLS(dbefore_cells<bf16_bits>, rows, C, *a, rows);
    if (T > 0) LAUNCH_LINE_SUMS(struct conv1d, add_line, *a, lines, (int64_t)runs.y, (TAPS + 1) * C);
    return OK;
}

extern "C" enum status conv1d_bwd_cuda(struct ctx *c, const struct conv1d *a) {
    TRY(check(c, a, true));
    const int64_t mark = arena_mark(c->work);
    const enum status st = REAL == F32   ? backward<float>(c, a)
                           : in_packs(a) ? backward_packs(c, a)
                                         : backward<bf16_bits>(c, a);
    arena_release(c->work, mark);
    return st;
}

extern "C" int64_t conv1d_work_cuda(const struct ctx *c, const struct conv1d *a) {
    const int64_t T = a->x.shape[0], C = a->x.shape[1], plain = lines_bytes(T, (a->w.shape[1] + 1) * C);
    return REAL == F32 ? plain : most(plain, run_bytes(T, C));
}
