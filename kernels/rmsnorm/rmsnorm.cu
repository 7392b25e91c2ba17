/* SPDX-License-Identifier: Apache-2.0 */
/* F32, and rows that do not come in packs: one warp owns one row; what it reads twice hits the cache.  Forward moves
 * 8 T D bytes (F32), backward 12 T D and 8 T D more for dw.
 * BF16 in packs: a team of threads keeps a row in registers.  Forward moves 4 T D bytes, backward 6 T D (8 T D where dx
 * is added to) and the lines of dw, some 2,112 x 1,024 F32 whatever T, which stay in the cache: at 3 TB/s a row of
 * 4,096 takes 5.5 ns forward, 8.2 to 11 ns backward. */
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/packs.cuh"

template <typename real> __global__ static void forward_rows(const struct rmsnorm a) {
    const int64_t T = a.x.shape[0], D = a.x.shape[1];
    const float *w = (const float *)a.w.data;
    FOR_WARPS(t, T) {
        const real *x = row_of<real>(a.x, t);
        double sum = 0.0;
        for (int64_t d = threadIdx.x; d < D; d += WARP) sum += (double)one(x + d) * (double)one(x + d);
        const float r = (float)(1.0 / sqrt(warp_sum(sum) / (double)D + a.eps));
        for (int64_t d = threadIdx.x; d < D; d += WARP)
            set(row_of<real>(a.y, t) + d, w ? one(x + d) * r * w[d] : one(x + d) * r);
        if (threadIdx.x == 0) *row(a.r, t) = r;
    }
}

template <typename real> __global__ static void backward_rows(const struct rmsnorm a) {
    const int64_t T = a.x.shape[0], D = a.x.shape[1];
    const float *w = (const float *)a.w.data;
    FOR_WARPS(t, T) {
        const real *x = row_of<real>(a.x, t), *dy = row_of<real>(a.dy, t);
        const float r = *row(a.r, t);
        real *dx = row_of<real>(a.dx, t);
        double sum = 0.0;
        for (int64_t d = threadIdx.x; d < D; d += WARP)
            sum += (double)one(dy + d) * (w ? (double)w[d] : 1.0) * (double)one(x + d);
        const float pull = (float)(warp_sum(sum) / (double)D * (double)r * (double)r);
        for (int64_t d = threadIdx.x; d < D; d += WARP) {
            const float v = r * ((w ? one(dy + d) * w[d] : one(dy + d)) - one(x + d) * pull);
            set(dx + d, a.dx_add ? one(dx + d) + v : v);
        }
    }
}

template <typename real> static __device__ float weight_gradient(const struct rmsnorm &a, int64_t t, int64_t d) {
    return one(row_of<real>(a.dy, t) + d) * one(row_of<real>(a.x, t) + d) * *row(a.r, t);
}

/* ---- BF16 in packs ---- */

static inline __device__ void get_weight(float w[PACK], const struct rmsnorm &a, int64_t i) {
    for (int k = 0; k < PACK; k++) w[k] = 1.0f;
    if (a.w.data) get<PACK>(w, (const float *)a.w.data + i);
}

template <int team, int packs> __global__ __launch_bounds__(THREADS) static void forward_teams(const struct rmsnorm a) {
    __shared__ double room[WARPS];
    const int64_t T = a.x.shape[0], D = a.x.shape[1];
    const int lane = threadIdx.x % team;
    for (int64_t t = (int64_t)blockIdx.x * (THREADS / team) + threadIdx.x / team; t < T;
         t += (int64_t)gridDim.x * (THREADS / team)) {
        uint4 x_at[packs] = {};
        float sum = 0.0f;
#pragma unroll
        for (int p = 0; p < packs; p++) {
            const int64_t i = ((int64_t)p * team + lane) * PACK;
            if (i < D) x_at[p] = pack_of(row_of<bf16_bits>(a.x, t) + i);
        }
#pragma unroll
        for (int p = 0; p < packs; p++) {
            float x[PACK];
            open(x, x_at[p]);
            for (int k = 0; k < PACK; k++) sum = fmaf(x[k], x[k], sum);
        }
        const float r = (float)(1.0 / sqrt(team_sum<team>((double)sum, room) / (double)D + a.eps));
#pragma unroll
        for (int p = 0; p < packs; p++) {
            const int64_t i = ((int64_t)p * team + lane) * PACK;
            float x[PACK], w[PACK];
            if (i >= D) continue;
            open(x, x_at[p]), get_weight(w, a, i);
            for (int k = 0; k < PACK; k++) x[k] = x[k] * r * w[k];
            put<PACK>(row_of<bf16_bits>(a.y, t) + i, x);
        }
        if (lane == 0) *row(a.r, t) = r;
    }
}

/* A team walks `per` rows; its sums of dw stay in registers.  dx may be dy: a thread reads what it writes over. */
template <int team, int packs>
__global__ __launch_bounds__(THREADS) static void backward_teams(const struct rmsnorm a, float *lines, int64_t per,
                                                                 int64_t n_parts) {
    __shared__ double room[WARPS];
    const int64_t T = a.x.shape[0], D = a.x.shape[1];
    const int64_t part = (int64_t)blockIdx.x * (THREADS / team) + threadIdx.x / team;
    const int lane = threadIdx.x % team;
    float dw[packs][PACK] = {};
    for (int64_t t = part * per; t < least(T, (part + 1) * per); t++) {
        const float r = *row(a.r, t);
        float sum = 0.0f;
        uint4 x_at[packs] = {}, dy_at[packs] = {};
#pragma unroll
        for (int p = 0; p < packs; p++) {
            const int64_t i = ((int64_t)p * team + lane) * PACK;
            if (i < D)
                x_at[p] = pack_of(row_of<bf16_bits>(a.x, t) + i), dy_at[p] = pack_of(row_of<bf16_bits>(a.dy, t) + i);
        }
#pragma unroll
        for (int p = 0; p < packs; p++) {
            const int64_t i = ((int64_t)p * team + lane) * PACK;
            float x[PACK], dy[PACK], w[PACK];
            if (i >= D) continue;
            open(x, x_at[p]), open(dy, dy_at[p]), get_weight(w, a, i);
            for (int k = 0; k < PACK; k++) {
                const float xdy = x[k] * dy[k];
                dw[p][k] = fmaf(xdy, r, dw[p][k]);
                sum = fmaf(xdy, w[k], sum);
            }
        }
        const float pull = (float)(team_sum<team>((double)sum, room) / (double)D * (double)r * (double)r);
#pragma unroll
        for (int p = 0; p < packs; p++) {
            const int64_t i = ((int64_t)p * team + lane) * PACK;
            float x[PACK], dy[PACK], w[PACK], dx[PACK] = {};
            if (i >= D) continue;
            open(x, x_at[p]), open(dy, dy_at[p]), get_weight(w, a, i);
            if (a.dx_add) get<PACK>(dx, row_of<bf16_bits>(a.dx, t) + i);
            for (int k = 0; k < PACK; k++) dx[k] += r * (dy[k] * w[k] - x[k] * pull);
            put<PACK>(row_of<bf16_bits>(a.dx, t) + i, dx);
        }
    }
#pragma unroll
    for (int p = 0; p < packs; p++) {
        const int64_t i = ((int64_t)p * team + lane) * PACK;
        if (i < D && lines && part < n_parts) put<PACK>(lines + part * D + i, dw[p]);
    }
}

static __device__ void add_weight(const struct rmsnorm &a, int64_t i, float sum) { ((float *)a.dw.data)[i] += sum; }

static bool in_packs(const struct rmsnorm *a) {
    const int64_t D = a->x.shape[1];
    return D % PACK == 0 && D <= TEAM_MOST && packs_fit(a->x) && packs_fit(a->w) && packs_fit(a->y) &&
           packs_fit(a->dy) && packs_fit(a->dx);
}

template <int team, int packs> static enum status launch_forward(struct ctx *c, const struct rmsnorm *a) {
    const int64_t blocks = ceil_div(a->x.shape[0], THREADS / team);
    LAUNCH((forward_teams<team, packs>), dim3((unsigned)least(blocks, 1 << 20)), THREADS, *a);
    return OK;
}

template <int team, int packs>
static enum status launch_backward(struct ctx *c, const struct rmsnorm *a, float *lines) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1], per = team_rows(T, D, 1), n_parts = ceil_div(T, per);
    LAUNCH((backward_teams<team, packs>), dim3((unsigned)ceil_div(n_parts, THREADS / team)), THREADS, *a, lines, per,
           n_parts);
    if (lines && T > 0) LAUNCH_LINE_SUMS(struct rmsnorm, add_weight, *a, (const float *)lines, n_parts, D);
    return OK;
}

extern "C" enum status rmsnorm_fwd_cuda(struct ctx *c, const struct rmsnorm *a) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1];
    CHECK_SHAPE(rmsnorm, x, REAL, T, D);
    CHECK_OPTIONAL(rmsnorm, w, WIDE, D);
    CHECK_SHAPE(rmsnorm, y, REAL, T, D);
    CHECK_SHAPE(rmsnorm, r, WIDE, T);
    if (REAL == F32) LAUNCH_WARPS(forward_rows<float>, T, *a);
    else if (in_packs(a)) FOR_TEAM(launch_forward, D, c, a);
    else LAUNCH_WARPS(forward_rows<bf16_bits>, T, *a);
    return OK;
}

static enum status backward(struct ctx *c, const struct rmsnorm *a) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1];
    const bool packs = REAL == BF16 && in_packs(a);
    void *lines = NULL;
    if (tensor_has(a->dw)) TRY(arena_take(c->work, packs ? team_lines_bytes(T, D, 1) : lines_bytes(T, D), &lines));
    if (packs) {
        FOR_TEAM(launch_backward, D, c, a, (float *)lines);
        return OK;
    }
    if (tensor_has(a->dw) && REAL == F32) /* first: dx may be dy */
        TRY((sum_rows<struct rmsnorm, weight_gradient<float>>(c, *a, (double *)lines, T, D, (float *)a->dw.data)));
    if (tensor_has(a->dw) && REAL == BF16)
        TRY((sum_rows<struct rmsnorm, weight_gradient<bf16_bits>>(c, *a, (double *)lines, T, D, (float *)a->dw.data)));
    if (REAL == F32) LAUNCH_WARPS(backward_rows<float>, T, *a);
    else LAUNCH_WARPS(backward_rows<bf16_bits>, T, *a);
    return OK;
}

extern "C" enum status rmsnorm_bwd_cuda(struct ctx *c, const struct rmsnorm *a) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1];
    CHECK_SHAPE(rmsnorm, x, REAL, T, D);
    CHECK_OPTIONAL(rmsnorm, w, WIDE, D);
    CHECK_SHAPE(rmsnorm, r, WIDE, T);
    CHECK_SHAPE(rmsnorm, dy, REAL, T, D);
    CHECK_SHAPE(rmsnorm, dx, REAL, T, D);
    CHECK_OPTIONAL(rmsnorm, dw, WIDE, D);
    CHECK_THAT(rmsnorm, tensor_has(a->w) || !tensor_has(a->dw), "dw is wanted, and there is no weight w");
    const int64_t mark = arena_mark(c->work);
    const enum status st = backward(c, a);
    arena_release(c->work, mark);
    return st;
}

extern "C" int64_t rmsnorm_work_cuda(const struct ctx *c, const struct rmsnorm *a) {
    const int64_t T = a->x.shape[0], D = a->w.shape[0], plain = lines_bytes(T, D);
    return REAL == F32 ? plain : most(plain, team_lines_bytes(T, D, 1));
}
