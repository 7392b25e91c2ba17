/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/tail/tail.h"
#include "kernels/device.cuh"

/* Row i of the packed tails is row t of the tokens; -1 where that row is not in the range. */
static __device__ int64_t token_of(const struct tensor &range, int64_t i, int64_t k) {
    const int64_t r = i / k, t = long_at(range, r + 1) - k + i % k;
    return t >= long_at(range, r) ? t : -1;
}

__global__ static void take_cells(const struct tail a, int64_t n, int64_t k) {
    const int64_t C = a.x.shape[1];
    FOR_CELLS(i, j, n, C) {
        const int64_t t = token_of(a.range, i, k);
        ((float *)a.tail.data)[i * C + j] = t < 0 ? 0.0f : row(a.x, t)[j];
    }
}

__global__ static void give_cells(const struct tail a, int64_t n, int64_t k) {
    const int64_t C = a.dx.shape[1];
    FOR_CELLS(i, j, n, C) {
        const int64_t t = token_of(a.range, i, k);
        if (t >= 0) row(a.dx, t)[j] += ((const float *)a.dtail.data)[i * C + j];
    }
}

extern "C" enum status tail_fwd_cuda(struct ctx *c, const struct tail *a) {
    const int64_t R = a->range.shape[0] - 1, k = a->tail.shape[1], T = a->x.shape[0], C = a->x.shape[1];
    CHECK_THAT(tail, R >= 0, "range is empty: expected the rows where ranges begin");
    CHECK_SHAPE(tail, range, I64, R + 1);
    CHECK_SHAPE(tail, tail, F32, R, k, C);
    CHECK_SHAPE(tail, x, F32, T, C);
    LAUNCH_CELLS(take_cells, R * k, C, *a, R * k, k);
    return OK;
}

extern "C" enum status tail_bwd_cuda(struct ctx *c, const struct tail *a) {
    const int64_t R = a->range.shape[0] - 1, k = a->dtail.shape[1], T = a->dx.shape[0], C = a->dx.shape[1];
    CHECK_THAT(tail, R >= 0, "range is empty: expected the rows where ranges begin");
    CHECK_SHAPE(tail, range, I64, R + 1);
    CHECK_SHAPE(tail, dtail, F32, R, k, C);
    CHECK_SHAPE(tail, dx, F32, T, C);
    LAUNCH_CELLS(give_cells, R * k, C, *a, R * k, k);
    return OK;
}
NO_WORK(tail)
