/* SPDX-License-Identifier: Apache-2.0 */
/* One warp owns one group of one row; what it reads twice hits the cache.  Forward moves 12 T C bytes, backward
 * 20 T C and 12 T C more for dw. */
#include "kernels/gated_norm/gated_norm.h"
#include "kernels/device.cuh"

__global__ static void forward_groups(const struct gated_norm a) {
    const int64_t groups = a.r.shape[1], n = a.group;
    FOR_WARPS(item, a.y.shape[0] * groups) {
        const int64_t t = item / groups, at = item % groups * n;
        const float *y = row(a.y, t) + at, *z = row(a.z, t) + at, *w = (const float *)a.w.data + at;
        float *out = row(a.out, t) + at;
        double sum = 0.0;
        for (int64_t i = threadIdx.x; i < n; i += WARP) {
            const float u = a.norm_first ? y[i] : y[i] * silu(z[i]);
            sum += (double)u * (double)u;
        }
        const float r = (float)(1.0 / sqrt(warp_sum(sum) / (double)n + a.eps));
        for (int64_t i = threadIdx.x; i < n; i += WARP)
            out[i] = a.norm_first ? w[i] * silu(z[i]) * (y[i] * r) : y[i] * silu(z[i]) * (w[i] * r);
        if (threadIdx.x == 0) row(a.r, t)[item % groups] = r;
    }
}

/* The derivation: gated_norm_ref.c. */
__global__ static void backward_groups(const struct gated_norm a) {
    const int64_t groups = a.r.shape[1], n = a.group;
    FOR_WARPS(item, a.y.shape[0] * groups) {
        const int64_t t = item / groups, at = item % groups * n;
        const float *y = row(a.y, t) + at, *z = row(a.z, t) + at, *w = (const float *)a.w.data + at;
        const float *dout = row(a.dout, t) + at, r = row(a.r, t)[item % groups];
        float *dy = row(a.dy, t) + at, *dz = row(a.dz, t) + at;
        double sum = 0.0; /* of h w do either way, but for a factor r: u w do, or g y */
        for (int64_t i = threadIdx.x; i < n; i += WARP)
            sum += (double)(y[i] * silu(z[i])) * (double)w[i] * (double)dout[i];
        const float pull = (float)(warp_sum(sum) / (double)n * (double)r * (double)r);
        for (int64_t i = threadIdx.x; i < n; i += WARP) {
            const float yi = y[i], zi = z[i], s = sigmoid(zi), gate = zi * s;
            const float slope = s * (1.0f + zi * (1.0f - s)), wd = w[i] * dout[i];
            if (a.norm_first) {
                dy[i] = r * (wd * gate - yi * pull);
                dz[i] = wd * yi * r * slope;
            } else {
                const float du = r * (wd - yi * gate * pull);
                dy[i] = du * gate;
                dz[i] = du * yi * slope;
            }
        }
    }
}

static __device__ float weight_gradient(const struct gated_norm &a, int64_t t, int64_t i) {
    return row(a.dout, t)[i] * row(a.y, t)[i] * silu(row(a.z, t)[i]) * row(a.r, t)[i / a.group];
}

static enum status check_inputs(struct ctx *c, const struct gated_norm *a) {
    const int64_t T = a->y.shape[0], C = a->y.shape[1];
    CHECK_THAT(gated_norm, a->group > 0 && C % a->group == 0,
               "groups of %" PRId64 " channels do not divide the %" PRId64 " channels of y", a->group, C);
    CHECK_SHAPE(gated_norm, y, F32, T, C);
    CHECK_SHAPE(gated_norm, z, F32, T, C);
    CHECK_SHAPE(gated_norm, w, F32, C);
    CHECK_SHAPE(gated_norm, r, F32, T, C / a->group);
    return OK;
}

extern "C" enum status gated_norm_fwd_cuda(struct ctx *c, const struct gated_norm *a) {
    const int64_t T = a->y.shape[0], C = a->y.shape[1];
    TRY(check_inputs(c, a));
    CHECK_SHAPE(gated_norm, out, F32, T, C);
    LAUNCH_WARPS(forward_groups, T * (C / a->group), *a);
    return OK;
}

static enum status backward(struct ctx *c, const struct gated_norm *a) {
    const int64_t T = a->y.shape[0], C = a->y.shape[1];
    if (tensor_has(a->dw)) {
        void *lines;
        TRY(arena_take(c->work, lines_bytes(T, C), &lines));
        TRY((sum_rows<struct gated_norm, weight_gradient>(c, *a, (double *)lines, T, C, (float *)a->dw.data)));
    }
    LAUNCH_WARPS(backward_groups, T * (C / a->group), *a);
    return OK;
}

extern "C" enum status gated_norm_bwd_cuda(struct ctx *c, const struct gated_norm *a) {
    const int64_t T = a->y.shape[0], C = a->y.shape[1];
    TRY(check_inputs(c, a));
    CHECK_SHAPE(gated_norm, dout, F32, T, C);
    CHECK_SHAPE(gated_norm, dy, F32, T, C);
    CHECK_SHAPE(gated_norm, dz, F32, T, C);
    CHECK_OPTIONAL(gated_norm, dw, F32, C);
    const int64_t mark = arena_mark(c->work);
    const enum status st = backward(c, a);
    arena_release(c->work, mark);
    return st;
}

extern "C" int64_t gated_norm_work_cuda(const struct ctx *, const struct gated_norm *a) {
    return lines_bytes(a->y.shape[0], a->dw.shape[0]);
}
