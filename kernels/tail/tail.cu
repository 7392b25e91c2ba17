/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/tail/tail.h"
#include "kernels/packs.cuh"

/* Row i of the packed tails is row t of the tokens; -1 where that row is not in the range. */
static __device__ int64_t token_of(const struct tensor &range, int64_t i, int64_t k) {
    const int64_t r = i / k, t = long_at(range, r + 1) - k + i % k;
    return t >= long_at(range, r) ? t : -1;
}

/* Moves 8 R k C bytes in F32, 4 R k C in BF16. */
template <typename real, int n> __global__ static void take_cells(const struct tail a, int64_t rows, int64_t k) {
    const int64_t C = a.x.shape[1];
    FOR_PACKS(i, j, rows, C, n) {
        const int64_t t = token_of(a.range, i, k);
        float x[n] = {};
        if (t >= 0) get<n>(x, row_of<real>(a.x, t) + j);
        put<n>((real *)a.tail.data + i * C + j, x);
    }
}

/* Moves 12 R k C bytes in F32, 6 R k C in BF16. */
template <typename real, int n> __global__ static void give_cells(const struct tail a, int64_t rows, int64_t k) {
    const int64_t C = a.dx.shape[1];
    FOR_PACKS(i, j, rows, C, n) {
        const int64_t t = token_of(a.range, i, k);
        if (t < 0) continue;
        float x[n], dtail[n];
        get<n>(x, row_of<real>(a.dx, t) + j);
        get<n>(dtail, (const real *)a.dtail.data + i * C + j);
        for (int e = 0; e < n; e++) x[e] += dtail[e];
        put<n>(row_of<real>(a.dx, t) + j, x);
    }
}

extern "C" enum status tail_fwd_cuda(struct ctx *c, const struct tail *a) {
    const int64_t R = a->range.shape[0] - 1, k = a->tail.shape[1], T = a->x.shape[0], C = a->x.shape[1];
    CHECK_THAT(tail, R >= 0, "range is empty: expected the rows where ranges begin");
    CHECK_SHAPE(tail, range, I64, R + 1);
    CHECK_SHAPE(tail, tail, REAL, R, k, C);
    CHECK_SHAPE(tail, x, REAL, T, C);
    LAUNCH_PACKS(take_cells, REAL, packs_fit(a->x) && packs_fit(a->tail), R * k, C, *a, R * k, k);
    return OK;
}

extern "C" enum status tail_bwd_cuda(struct ctx *c, const struct tail *a) {
    const int64_t R = a->range.shape[0] - 1, k = a->dtail.shape[1], T = a->dx.shape[0], C = a->dx.shape[1];
    CHECK_THAT(tail, R >= 0, "range is empty: expected the rows where ranges begin");
    CHECK_SHAPE(tail, range, I64, R + 1);
    CHECK_SHAPE(tail, dtail, REAL, R, k, C);
    CHECK_SHAPE(tail, dx, REAL, T, C);
    LAUNCH_PACKS(give_cells, REAL, packs_fit(a->dx) && packs_fit(a->dtail), R * k, C, *a, R * k, k);
    return OK;
}
NO_WORK(tail)
