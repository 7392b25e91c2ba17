/* SPDX-License-Identifier: Apache-2.0 */
/* F32, and rows that do not come in packs: one warp owns one row; what it reads twice hits the cache.  Forward moves
 * 8 T D bytes (F32), backward 12 T D and 8 T D more for dw.
 * BF16 in packs: a team of threads keeps a row in registers.  Forward moves 4 T D bytes, backward 6 T D (8 T D where dx
 * is added to) and the lines of dw, at most 1,056 x 1,024 F32 whatever T, which stay in the cache. */
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

template <int team, int packs>
__global__ __launch_bounds__(team_block(team)) static void forward_teams(const struct rmsnorm a) {
    constexpr int teams = team_block(team) / team;
    const int64_t T = a.x.shape[0], D = a.x.shape[1], t = (int64_t)blockIdx.x * teams + threadIdx.x / team;
    const int lane = threadIdx.x % team;
    struct row_packs<packs> row_x = {};
    float sum = 0.0f, x[PACK];
    if (t >= T) return; /* a whole team, and no barrier waits for it */
    fetch<team, packs>(row_x, row_of<bf16_bits>(a.x, t), lane, D);
#pragma unroll
    for (int p = 0; p < packs; p++) {
        open<PACK>(x, row_x.at[p]);
        for (int k = 0; k < PACK; k++) sum = fmaf(x[k], x[k], sum);
    }
    const float r = 1.0f / sqrtf((float)(team_sum<team>(sum, 0) / (double)D + a.eps));
    FOR_TEAM_PACKS(p, i, D) {
        float w[PACK];
        open<PACK>(x, row_x.at[p]);
        get_weight(w, a, i);
        for (int k = 0; k < PACK; k++) x[k] *= r * w[k];
        put<PACK>(row_of<bf16_bits>(a.y, t) + i, x);
    }
    if (lane == 0) *row(a.r, t) = r;
}

/* What a lane has of one row. */
template <int packs> struct in_hand {
    struct row_packs<packs> x, dy, dx;
    float r;
};
template <int team, int packs>
static inline __device__ void fetch_row(struct in_hand<packs> &to, const struct rmsnorm &a, int64_t t, int lane) {
    const int64_t D = a.x.shape[1];
    if (t >= a.x.shape[0]) return;
    fetch<team, packs>(to.x, row_of<bf16_bits>(a.x, t), lane, D);
    fetch<team, packs>(to.dy, row_of<bf16_bits>(a.dy, t), lane, D);
    if (a.dx_add) fetch<team, packs>(to.dx, row_of<bf16_bits>(a.dx, t), lane, D);
    to.r = *row(a.r, t);
}

/* The sums of dw stay in registers over all rows of a team.  dx may be dy: a thread reads what it writes over. */
template <int team, int packs>
__global__ __launch_bounds__(team_block(team)) static void backward_teams(const struct rmsnorm a, float *lines) {
    constexpr int teams = team_block(team) / team;
    const int64_t T = a.x.shape[0], D = a.x.shape[1], step = (int64_t)gridDim.x * teams;
    const int lane = threadIdx.x % team;
    const double share = 1.0 / (double)D;
    float w[packs][PACK] = {}, dw[packs][PACK] = {};
    struct in_hand<packs> now = {}, next = {};
    int64_t t = (int64_t)blockIdx.x * teams + threadIdx.x / team, turn = 0;
    FOR_TEAM_PACKS(p, i, D) get_weight(w[p], a, i);
    fetch_row<team, packs>(now, a, t, lane);
    for (; t < T; t += step, turn++) {
        float sum = 0.0f, x[PACK], dy[PACK], dx[PACK];
        fetch_row<team, packs>(next, a, t + step, lane);
#pragma unroll
        for (int p = 0; p < packs; p++) {
            open<PACK>(x, now.x.at[p]), open<PACK>(dy, now.dy.at[p]);
            for (int k = 0; k < PACK; k++) {
                const float xdy = x[k] * dy[k];
                dw[p][k] = fmaf(xdy, now.r, dw[p][k]);
                sum = fmaf(xdy, w[p][k], sum);
            }
        }
        const float pull = (float)(team_sum<team>(sum, turn) * share * (double)now.r * (double)now.r);
        FOR_TEAM_PACKS(p, i, D) {
            open<PACK>(x, now.x.at[p]), open<PACK>(dy, now.dy.at[p]), open<PACK>(dx, now.dx.at[p]);
            for (int k = 0; k < PACK; k++) dx[k] = fmaf(now.r, dy[k] * w[p][k] - x[k] * pull, dx[k]);
            put<PACK>(row_of<bf16_bits>(a.dx, t) + i, dx);
        }
        now = next;
    }
    if (lines) put_team_line<team, packs>(dw, lines + (int64_t)blockIdx.x * D, lane, D);
}

static __device__ void add_weight(const struct rmsnorm &a, int64_t i, float sum) { ((float *)a.dw.data)[i] += sum; }

static bool in_packs(const struct rmsnorm *a) {
    const int64_t D = a->x.shape[1];
    return D % PACK == 0 && D <= TEAM_MOST && packs_fit(a->x) && packs_fit(a->w) && packs_fit(a->y) &&
           packs_fit(a->dy) && packs_fit(a->dx);
}

template <int team, int packs> static enum status launch_forward(struct ctx *c, const struct rmsnorm *a) {
    const int64_t blocks = ceil_div(a->x.shape[0], team_block(team) / team);
    LAUNCH((forward_teams<team, packs>), dim3((unsigned)blocks), team_block(team), *a);
    return OK;
}

template <int team, int packs>
static enum status launch_backward(struct ctx *c, const struct rmsnorm *a, float *lines) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1], parts = team_parts(T, D, 1);
    LAUNCH((backward_teams<team, packs>), dim3((unsigned)parts), team_block(team), *a, lines);
    if (lines && T > 0) LAUNCH_LINE_SUMS(struct rmsnorm, add_weight, *a, (const float *)lines, parts, D);
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
