/* SPDX-License-Identifier: Apache-2.0 */
/* F32, and groups that do not come in packs: one warp owns one group of one row; what it reads twice hits the cache.
 * Forward moves 12 T C bytes (F32), backward 20 T C and 12 T C more for dw.
 * BF16 in packs: a team of threads keeps a group of a row in registers.  Forward moves 6 T C bytes, backward 10 T C and
 * the lines of dw (rmsnorm.cu). */
#include "kernels/gated_norm/gated_norm.h"
#include "kernels/packs.cuh"

/* Where groups lie on several ranks: the first half leaves its sum, the second one takes that of all. */
static __device__ bool half_done(const struct gated_norm &a, struct tensor sums, int64_t t, int64_t g, double *sum) {
    if (a.half == GATED_WHOLE) return false;
    double *at = (double *)sums.data + t * sums.pitch + g;
    if (a.half == GATED_REST) *sum = *at;
    else if (threadIdx.x == 0) *at = *sum;
    return a.half == GATED_SUMS;
}
static __device__ int64_t all_of(const struct gated_norm &a) { return a.half == GATED_REST ? a.group_all : a.group; }

template <typename real> __global__ static void forward_groups(const struct gated_norm a) {
    const int64_t groups = a.r.shape[1], n = a.group;
    FOR_WARPS(item, a.y.shape[0] * groups) {
        const int64_t t = item / groups, at = item % groups * n;
        const real *y = row_of<real>(a.y, t) + at, *z = row_of<real>(a.z, t) + at;
        const float *w = (const float *)a.w.data + at;
        real *out = row_of<real>(a.out, t) + at;
        double sum = 0.0;
        for (int64_t i = threadIdx.x; i < n; i += WARP) {
            const float u = a.norm_first ? one(y + i) : one(y + i) * silu(one(z + i));
            sum += (double)u * (double)u;
        }
        sum = warp_sum(sum);
        if (half_done(a, a.square, t, item % groups, &sum)) continue;
        const float r = (float)(1.0 / sqrt(sum / (double)all_of(a) + a.eps));
        for (int64_t i = threadIdx.x; i < n; i += WARP)
            set(out + i,
                a.norm_first ? w[i] * silu(one(z + i)) * (one(y + i) * r) : one(y + i) * silu(one(z + i)) * (w[i] * r));
        if (threadIdx.x == 0) row(a.r, t)[item % groups] = r;
    }
}

/* The derivation: gated_norm_ref.c. */
template <typename real> __global__ static void backward_groups(const struct gated_norm a) {
    const int64_t groups = a.r.shape[1], n = a.group;
    FOR_WARPS(item, a.y.shape[0] * groups) {
        const int64_t t = item / groups, at = item % groups * n;
        const real *y = row_of<real>(a.y, t) + at, *z = row_of<real>(a.z, t) + at, *dout = row_of<real>(a.dout, t) + at;
        const float *w = (const float *)a.w.data + at, r = row(a.r, t)[item % groups];
        real *dy = row_of<real>(a.dy, t) + at, *dz = row_of<real>(a.dz, t) + at;
        double sum = 0.0; /* of h w do either way, but for a factor r: u w do, or g y */
        for (int64_t i = threadIdx.x; i < n; i += WARP)
            sum += (double)(one(y + i) * silu(one(z + i))) * (double)w[i] * (double)one(dout + i);
        sum = warp_sum(sum);
        if (half_done(a, a.pull, t, item % groups, &sum)) continue;
        const float pull = (float)(sum / (double)all_of(a) * (double)r * (double)r);
        for (int64_t i = threadIdx.x; i < n; i += WARP) {
            const float yi = one(y + i), zi = one(z + i), s = sigmoid(zi), gate = zi * s;
            const float slope = s * (1.0f + zi * (1.0f - s)), wd = w[i] * one(dout + i);
            if (a.norm_first) {
                set(dy + i, r * (wd * gate - yi * pull));
                set(dz + i, wd * yi * r * slope);
            } else {
                const float du = r * (wd - yi * gate * pull);
                set(dy + i, du * gate);
                set(dz + i, du * yi * slope);
            }
        }
    }
}

template <typename real> static __device__ float weight_gradient(const struct gated_norm &a, int64_t t, int64_t i) {
    return one(row_of<real>(a.dout, t) + i) * one(row_of<real>(a.y, t) + i) * silu(one(row_of<real>(a.z, t) + i)) *
           row(a.r, t)[i / a.group];
}

/* ---- BF16 in packs ---- */

template <bool norm_first, int team, int packs>
__global__ __launch_bounds__(team_block(team)) static void forward_teams(const struct gated_norm a) {
    constexpr int teams = team_block(team) / team;
    const int64_t groups = a.r.shape[1], n = a.group, item = (int64_t)blockIdx.x * teams + threadIdx.x / team;
    const int64_t t = item / groups, at = item % groups * n;
    const int lane = threadIdx.x % team;
    struct row_packs<packs> row_y = {}, row_z = {};
    float sum = 0.0f, gated[packs][PACK];
    if (t >= a.y.shape[0]) return; /* a whole team, and no barrier waits for it */
    fetch<team, packs>(row_y, row_of<bf16_bits>(a.y, t) + at, lane, n);
    fetch<team, packs>(row_z, row_of<bf16_bits>(a.z, t) + at, lane, n);
#pragma unroll
    for (int p = 0; p < packs; p++) {
        float y[PACK], z[PACK];
        open<PACK>(y, row_y.at[p]), open<PACK>(z, row_z.at[p]);
        for (int k = 0; k < PACK; k++) {
            gated[p][k] = y[k] * (z[k] * sigmoid_fast(z[k]));
            const float v = norm_first ? y[k] : gated[p][k];
            sum = fmaf(v, v, sum);
        }
    }
    const float r = 1.0f / sqrtf((float)(team_sum<team>(sum, 0) / (double)n + a.eps));
    FOR_TEAM_PACKS(p, i, n) {
        float w[PACK];
        get<PACK>(w, (const float *)a.w.data + at + i);
        for (int k = 0; k < PACK; k++) w[k] *= gated[p][k] * r;
        put<PACK>(row_of<bf16_bits>(a.out, t) + at + i, w);
    }
    if (lane == 0) row(a.r, t)[item % groups] = r;
}

/* One pack of a row's group: gradients from the group's pull. */
template <bool norm_first>
static inline __device__ void pack_gradients(float r, float pull, const float *w, const float *dout, float *y,
                                             float *z) {
#pragma unroll
    for (int k = 0; k < PACK; k++) {
        const float yi = y[k], zi = z[k], s = sigmoid_fast(zi), gate = zi * s;
        const float slope = fmaf(gate, 1.0f - s, s), wd = w[k] * dout[k];
        const float du = r * (wd - yi * gate * pull);
        y[k] = norm_first ? r * (wd * gate - yi * pull) : du * gate;
        z[k] = norm_first ? wd * yi * r * slope : du * yi * slope;
    }
}

/* Where a team works: rows first, first + step, ... of one group. */
struct place {
    int lane, group;
    int64_t first, step, at; /* at: the group's first channel */
};
template <int team> static inline __device__ struct place place_of(const struct gated_norm &a) {
    constexpr int teams = team_block(team) / team;
    const int groups = (int)a.r.shape[1], group = (int)blockIdx.x % groups;
    return {(int)threadIdx.x % team, group, (int64_t)(blockIdx.x / groups) * teams + threadIdx.x / team,
            (int64_t)(gridDim.x / groups) * teams, group * a.group};
}

template <int packs> struct in_hand {
    struct row_packs<packs> y, z, dout;
    float r;
};
template <int team, int packs>
static inline __device__ void fetch_row(struct in_hand<packs> &to, const struct gated_norm &a, int64_t t,
                                        const struct place &my) {
    if (t >= a.y.shape[0]) return;
    fetch<team, packs>(to.y, row_of<bf16_bits>(a.y, t) + my.at, my.lane, a.group);
    fetch<team, packs>(to.z, row_of<bf16_bits>(a.z, t) + my.at, my.lane, a.group);
    fetch<team, packs>(to.dout, row_of<bf16_bits>(a.dout, t) + my.at, my.lane, a.group);
    to.r = row(a.r, t)[my.group];
}

/* The sums of dw stay in registers over all rows of a team. */
template <bool norm_first, int team, int packs>
__global__ __launch_bounds__(team_block(team)) static void backward_teams(const struct gated_norm a, float *lines) {
    const struct place my = place_of<team>(a);
    const int64_t T = a.y.shape[0], n = a.group;
    const int lane = my.lane;
    const double share = 1.0 / (double)n;
    float dw[packs][PACK] = {};
    struct in_hand<packs> now = {}, next = {};
    int64_t turn = 0;
    fetch_row<team, packs>(now, a, my.first, my);
    for (int64_t t = my.first; t < T; t += my.step, turn++) {
        float sum = 0.0f, y[PACK], z[PACK], dout[PACK], w[PACK];
        fetch_row<team, packs>(next, a, t + my.step, my);
        FOR_TEAM_PACKS(p, i, n) {
            open<PACK>(y, now.y.at[p]), open<PACK>(z, now.z.at[p]), open<PACK>(dout, now.dout.at[p]);
            get<PACK>(w, (const float *)a.w.data + my.at + i);
            for (int k = 0; k < PACK; k++) {
                const float g = y[k] * (z[k] * sigmoid_fast(z[k])) * dout[k];
                dw[p][k] = fmaf(g, now.r, dw[p][k]);
                sum = fmaf(g, w[k], sum);
            }
        }
        const float pull = (float)(team_sum<team>(sum, turn) * share * (double)now.r * (double)now.r);
        FOR_TEAM_PACKS(p, i, n) {
            open<PACK>(y, now.y.at[p]), open<PACK>(z, now.z.at[p]), open<PACK>(dout, now.dout.at[p]);
            get<PACK>(w, (const float *)a.w.data + my.at + i);
            pack_gradients<norm_first>(now.r, pull, w, dout, y, z);
            put<PACK>(row_of<bf16_bits>(a.dy, t) + my.at + i, y);
            put<PACK>(row_of<bf16_bits>(a.dz, t) + my.at + i, z);
        }
        now = next;
    }
    if (lines)
        put_team_line<team, packs>(dw, lines + (int64_t)blockIdx.x / a.r.shape[1] * a.y.shape[1] + my.at, lane, n);
}

static __device__ void add_weight(const struct gated_norm &a, int64_t i, float sum) { ((float *)a.dw.data)[i] += sum; }

static bool in_packs(const struct gated_norm *a) {
    return a->half == GATED_WHOLE && a->group % PACK == 0 && a->group <= TEAM_MOST && packs_fit(a->y) &&
           packs_fit(a->z) && packs_fit(a->w) && packs_fit(a->out) && packs_fit(a->dout) && packs_fit(a->dy) &&
           packs_fit(a->dz);
}

template <int team, int packs> static enum status launch_forward(struct ctx *c, const struct gated_norm *a) {
    const int64_t blocks = ceil_div(a->y.shape[0] * a->r.shape[1], team_block(team) / team);
    if (a->norm_first) LAUNCH((forward_teams<true, team, packs>), dim3((unsigned)blocks), team_block(team), *a);
    else LAUNCH((forward_teams<false, team, packs>), dim3((unsigned)blocks), team_block(team), *a);
    return OK;
}

template <int team, int packs>
static enum status launch_backward(struct ctx *c, const struct gated_norm *a, float *lines) {
    const int64_t T = a->y.shape[0], C = a->y.shape[1], groups = a->r.shape[1];
    const int64_t parts = team_parts(T, a->group, groups);
    const dim3 grid((unsigned)(parts * groups));
    if (a->norm_first) LAUNCH((backward_teams<true, team, packs>), grid, team_block(team), *a, lines);
    else LAUNCH((backward_teams<false, team, packs>), grid, team_block(team), *a, lines);
    if (lines && T > 0) LAUNCH_LINE_SUMS(struct gated_norm, add_weight, *a, (const float *)lines, parts, C);
    return OK;
}

static enum status check_inputs(struct ctx *c, const struct gated_norm *a) {
    const int64_t T = a->y.shape[0], C = a->y.shape[1];
    CHECK_THAT(gated_norm, a->group > 0 && C % a->group == 0,
               "groups of %" PRId64 " channels do not divide the %" PRId64 " channels of y", a->group, C);
    CHECK_SHAPE(gated_norm, y, REAL, T, C);
    CHECK_SHAPE(gated_norm, z, REAL, T, C);
    CHECK_SHAPE(gated_norm, w, WIDE, C);
    CHECK_SHAPE(gated_norm, r, WIDE, T, C / a->group);
    return OK;
}

extern "C" enum status gated_norm_fwd_cuda(struct ctx *c, const struct gated_norm *a) {
    const int64_t T = a->y.shape[0], C = a->y.shape[1];
    TRY(check_inputs(c, a));
    CHECK_SHAPE(gated_norm, out, REAL, T, C);
    if (a->half != GATED_WHOLE) CHECK_SHAPE(gated_norm, square, F64, T, C / a->group);
    if (REAL == F32) LAUNCH_WARPS(forward_groups<float>, T * (C / a->group), *a);
    else if (in_packs(a)) FOR_TEAM(launch_forward, a->group, c, a);
    else LAUNCH_WARPS(forward_groups<bf16_bits>, T * (C / a->group), *a);
    return OK;
}

static enum status backward(struct ctx *c, const struct gated_norm *a) {
    const int64_t T = a->y.shape[0], C = a->y.shape[1];
    const bool packs = REAL == BF16 && in_packs(a);
    const int64_t bytes = packs ? team_lines_bytes(T, a->group, C / a->group) : lines_bytes(T, C);
    void *lines = NULL;
    if (tensor_has(a->dw) && a->half != GATED_SUMS) TRY(arena_take(c->work, bytes, &lines));
    if (packs) {
        FOR_TEAM(launch_backward, a->group, c, a, (float *)lines);
        return OK;
    }
    if (lines && REAL == F32)
        TRY((sum_rows<struct gated_norm, weight_gradient<float>>(c, *a, (double *)lines, T, C, (float *)a->dw.data)));
    if (lines && REAL == BF16)
        TRY((sum_rows<struct gated_norm, weight_gradient<bf16_bits>>(c, *a, (double *)lines, T, C,
                                                                     (float *)a->dw.data)));
    if (REAL == F32) LAUNCH_WARPS(backward_groups<float>, T * (C / a->group), *a);
    else LAUNCH_WARPS(backward_groups<bf16_bits>, T * (C / a->group), *a);
    return OK;
}

extern "C" enum status gated_norm_bwd_cuda(struct ctx *c, const struct gated_norm *a) {
    const int64_t T = a->y.shape[0], C = a->y.shape[1];
    TRY(check_inputs(c, a));
    CHECK_SHAPE(gated_norm, dout, REAL, T, C);
    CHECK_SHAPE(gated_norm, dy, REAL, T, C);
    CHECK_SHAPE(gated_norm, dz, REAL, T, C);
    CHECK_OPTIONAL(gated_norm, dw, WIDE, C);
    if (a->half != GATED_WHOLE) CHECK_SHAPE(gated_norm, pull, F64, T, C / a->group);
    const int64_t mark = arena_mark(c->work);
    const enum status st = backward(c, a);
    arena_release(c->work, mark);
    return st;
}

extern "C" int64_t gated_norm_work_cuda(const struct ctx *c, const struct gated_norm *a) {
    const int64_t T = a->y.shape[0], C = a->dw.shape[0], plain = lines_bytes(T, C);
    if (REAL == F32 || a->group <= 0 || C < a->group) return plain;
    return most(plain, team_lines_bytes(T, a->group, C / a->group));
}
