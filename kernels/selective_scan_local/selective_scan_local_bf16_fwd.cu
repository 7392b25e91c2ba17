/* SPDX-License-Identifier: Apache-2.0 */
/* Forward of the first half in BF16.  Ranges are cut into stretches of many chunks, by their tokens and the number of
 * channels (of the rank, where mesh.tensor splits them) alone, so that no split of tokens shows.  Warps walk through a
 * stretch from a zero state.  Then states are folded over the stretches, and out is made again of the chunks that what
 * enters a stretch reaches. */
#include "kernels/selective_scan_local/selective_scan_local_bf16.h"
#include "kernels/selective_out_bf16.cuh"

/* What the walk leaves of each stretch: the state behind it and the sum of its chunks' times.
 *
 * Few stretches are cheap: tokens that what enters one reaches are walked twice, and a slow state reaches far; of a
 * long range, stretches have 2 D tokens.  A GPU wants some 2,048 warps, of ABREAST channels and a stretch each; half as
 * many do where stretches would be shorter than D / 2. */
struct stretches {
    int64_t chunk, D, few;
    float *state, *time; /* (stretches, D, N) (stretches, D) */
};
enum { LEAST_STRETCH = 1024, FEW_WARPS = 1024 };
static struct stretches stretches_of(const struct selective_scan_local *a) {
    const int64_t D = a->A_log.shape[0];
    return (struct stretches){a->chunk, D, most(1, (int64_t)FEW_WARPS * ABREAST / most(1, D)), NULL, NULL};
}
static inline __host__ __device__ int64_t stretch_length(const struct stretches &w, int64_t tokens) {
    const int64_t few = ceil_div(tokens, w.few), many = ceil_div(tokens, 2 * w.few);
    const int64_t wanted = least(2 * w.D, most(many, least(few, w.D / 2)));
    return ceil_div(most(LEAST_STRETCH, wanted), w.chunk) * w.chunk;
}
static int64_t stretches_max(const struct selective_scan_local *a) {
    const int64_t T = a->pos.shape[0], R = a->range.shape[0] - 1;
    const struct stretches w = stretches_of(a);
    return R + least(T / LEAST_STRETCH, T / most(LEAST_STRETCH, 2 * w.D) + 2 * R * w.few);
}
/* Stretches of range r; of the ranges before it. */
static __device__ int64_t stretches_in(const struct tensor &range, const struct stretches &w, int64_t r) {
    const int64_t tokens = long_at(range, r + 1) - long_at(range, r);
    return ceil_div(tokens, stretch_length(w, tokens));
}
static __device__ int64_t stretches_before(const struct tensor &range, const struct stretches &w, int64_t r) {
    int64_t n = 0;
    for (int64_t i = 0; i < r; i++) n += stretches_in(range, w, i);
    return n;
}
/* Stretch i; false: there is none. */
static __device__ bool stretch_find(const struct selective_scan_local &a, const struct stretches &w, int64_t i,
                                    struct device_span *out) {
    for (int64_t r = 0; r < a.range.shape[0] - 1; r++) {
        const int64_t begin = long_at(a.range, r), end = long_at(a.range, r + 1), n = stretches_in(a.range, w, r);
        const int64_t length = stretch_length(w, end - begin);
        if (i < n) {
            *out = span_at(a.pos, r, begin + i * length, least(end, begin + (i + 1) * length));
            return true;
        }
        i -= n;
    }
    return false;
}

template <bool whole>
__global__ static void __launch_bounds__(OUT_CREWS *WARP, 4)
    walk_stretches(const struct selective_scan_local a, const struct strides by, const struct stretches w, int64_t n) {
    __shared__ struct room rooms[OUT_CREWS];
    const int64_t D = a.A_log.shape[0], N = a.state,
                  d = ((int64_t)blockIdx.x * OUT_CREWS + threadIdx.x / WARP) * ABREAST;
    struct room *room = &rooms[threadIdx.x / WARP];
    const struct own o = own_open<whole>(a.A_log, d);
    const struct desk desk = desk_open(d, D, a.dt_bias, &a.D);
    struct device_span k;
    for (int64_t i = blockIdx.y; d < D && i < n; i += gridDim.y) {
        if (!stretch_find(a, w, i, &k)) return;
        const int64_t before = k.begin - long_at(a.range, k.range);
        const int64_t chunk = spans_before(a.range, k.range, a.chunk) + before / a.chunk;
        float h[OWN] = {};
        double all[2] = {};
        walk<whole, true>(a, by, k, chunk, o, desk, room, h, all);
        states_put(w.state + i * D * N, o, h, D, N);
        for (int p = 0; p < 2; p++)
            if (desk.row == 0 && desk.live[p]) w.time[i * D + desk.d + p] = (float)all[p];
    }
}

/* A state of a range over its stretches: what enters each goes into its chunks, what leaves the last is the range's. */
__global__ static void fold_stretches(const struct selective_scan_local a, const struct stretches w,
                                      const struct reached reached) {
    const int64_t D = a.A_log.shape[0], N = a.state, R = a.range.shape[0] - 1;
    FOR_CELLS(r, e, R, D * N) {
        const int64_t d = e / N, tokens = long_at(a.range, r + 1) - long_at(a.range, r);
        const int64_t n = ceil_div(tokens, a.chunk), chunk = spans_before(a.range, r, a.chunk);
        const int64_t first = stretches_before(a.range, w, r), each = stretch_length(w, tokens) / a.chunk;
        const float A = -expf(row(a.A_log, d)[e % N]);
        float now = 0.0f;
        double sum = 0.0;
        for (int64_t i = 0; i * each < n; i++) {
            const float time = w.time[(first + i) * D + d];
            if (i > 0)
                chunks_reach(a.states, a.chunk_time, chunk + i * each, least(each, n - i * each), d, e, A, now,
                             reached);
            now = fmaf(keep_after(A, time), now, w.state[(first + i) * D * N + e]);
            sum += (double)time;
        }
        row(a.range_state, r)[e] = now;
        if (e % N == 0) row(a.range_time, r)[d] = (float)sum;
    }
}

int64_t selective_scan_local_work_bf16(const struct selective_scan_local *a, int64_t n_chunks) {
    const int64_t D = a->A_log.shape[0], n = stretches_max(a);
    return arena_round(n * D * a->state * (int64_t)sizeof(float)) + arena_round(n * D * (int64_t)sizeof(float)) +
           reached_bytes(D, n_chunks);
}

static enum status forward(struct ctx *c, const struct selective_scan_local *a, int64_t n_chunks) {
    const int64_t D = a->A_log.shape[0], n = stretches_max(a);
    const dim3 grid((unsigned)ceil_div(D, OUT_BLOCK), (unsigned)least(n, 32768));
    const struct strides by = strides_of(*a);
    struct reached reached;
    void *state, *time;
    TRY(arena_take(c->work, n * D * a->state * (int64_t)sizeof(float), &state));
    TRY(arena_take(c->work, n * D * (int64_t)sizeof(float), &time));
    TRY(reached_open(&reached, c, D, n_chunks));
    struct stretches w = stretches_of(a);
    w.state = (float *)state, w.time = (float *)time;
    if (is_whole(*a)) LAUNCH(walk_stretches<true>, grid, OUT_CREWS * WARP, *a, by, w, n);
    else LAUNCH(walk_stretches<false>, grid, OUT_CREWS * WARP, *a, by, w, n);
    LAUNCH_CELLS(fold_stretches, a->range.shape[0] - 1, D * a->state, *a, w, reached);
    return out_again(c, a, reached, (struct tensor){}, n_chunks);
}

enum status selective_scan_local_fwd_bf16(struct ctx *c, const struct selective_scan_local *a, int64_t n_chunks) {
    const int64_t mark = arena_mark(c->work);
    const enum status st = forward(c, a, n_chunks);
    arena_release(c->work, mark);
    return st;
}
