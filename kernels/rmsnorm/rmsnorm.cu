/* SPDX-License-Identifier: Apache-2.0 */
/* One warp owns one row; what it reads twice hits the cache.  Forward moves 8 T D bytes, backward 12 T D and 8 T D more
 * for dw. */
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/device.cuh"

__global__ static void forward_rows(const struct rmsnorm a) {
    const int64_t T = a.x.shape[0], D = a.x.shape[1];
    const float *w = (const float *)a.w.data;
    FOR_WARPS(t, T) {
        const float *x = row(a.x, t);
        double sum = 0.0;
        for (int64_t d = threadIdx.x; d < D; d += WARP) sum += (double)x[d] * (double)x[d];
        const float r = (float)(1.0 / sqrt(warp_sum(sum) / (double)D + a.eps));
        for (int64_t d = threadIdx.x; d < D; d += WARP) row(a.y, t)[d] = w ? x[d] * r * w[d] : x[d] * r;
        if (threadIdx.x == 0) *row(a.r, t) = r;
    }
}

__global__ static void backward_rows(const struct rmsnorm a) {
    const int64_t T = a.x.shape[0], D = a.x.shape[1];
    const float *w = (const float *)a.w.data;
    FOR_WARPS(t, T) {
        const float *x = row(a.x, t), *dy = row(a.dy, t), r = *row(a.r, t);
        float *dx = row(a.dx, t);
        double sum = 0.0;
        for (int64_t d = threadIdx.x; d < D; d += WARP) sum += (double)dy[d] * (w ? (double)w[d] : 1.0) * (double)x[d];
        const float pull = (float)(warp_sum(sum) / (double)D * (double)r * (double)r);
        for (int64_t d = threadIdx.x; d < D; d += WARP) {
            const float v = r * ((w ? dy[d] * w[d] : dy[d]) - x[d] * pull);
            dx[d] = a.dx_add ? dx[d] + v : v;
        }
    }
}

static __device__ float weight_gradient(const struct rmsnorm &a, int64_t t, int64_t d) {
    return row(a.dy, t)[d] * row(a.x, t)[d] * *row(a.r, t);
}

extern "C" enum status rmsnorm_fwd_cuda(struct ctx *c, const struct rmsnorm *a) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1];
    CHECK_SHAPE(rmsnorm, x, F32, T, D);
    CHECK_OPTIONAL(rmsnorm, w, F32, D);
    CHECK_SHAPE(rmsnorm, y, F32, T, D);
    CHECK_SHAPE(rmsnorm, r, F32, T);
    LAUNCH_WARPS(forward_rows, T, *a);
    return OK;
}

static enum status backward(struct ctx *c, const struct rmsnorm *a) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1];
    void *lines = NULL;
    if (tensor_has(a->dw)) TRY(arena_take(c->work, lines_bytes(T, D), &lines));
    if (tensor_has(a->dw)) /* first: dx may be dy */
        TRY((sum_rows<struct rmsnorm, weight_gradient>(c, *a, (double *)lines, T, D, (float *)a->dw.data)));
    LAUNCH_WARPS(backward_rows, T, *a);
    return OK;
}

extern "C" enum status rmsnorm_bwd_cuda(struct ctx *c, const struct rmsnorm *a) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1];
    CHECK_SHAPE(rmsnorm, x, F32, T, D);
    CHECK_OPTIONAL(rmsnorm, w, F32, D);
    CHECK_SHAPE(rmsnorm, r, F32, T);
    CHECK_SHAPE(rmsnorm, dy, F32, T, D);
    CHECK_SHAPE(rmsnorm, dx, F32, T, D);
    CHECK_OPTIONAL(rmsnorm, dw, F32, D);
    CHECK_THAT(rmsnorm, tensor_has(a->w) || !tensor_has(a->dw), "dw is wanted, and there is no weight w");
    const int64_t mark = arena_mark(c->work);
    const enum status st = backward(c, a);
    arena_release(c->work, mark);
    return st;
}

extern "C" int64_t rmsnorm_work_cuda(const struct ctx *, const struct rmsnorm *a) {
    return lines_bytes(a->x.shape[0], a->w.shape[0]);
}
