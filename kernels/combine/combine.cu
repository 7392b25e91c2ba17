/* SPDX-License-Identifier: Apache-2.0 */
/* Forward, a thread has a pack of a token's channels and reads k rows: (k + 1) D elements a token.  Backward, a warp
 * has a choice: reads dy (from the cache but once a token) and, for dw, x, and writes dx: k (1 or 2) D + D elements. */
#include "kernels/combine/combine.h"
#include "kernels/packs.cuh"

/* Sums over a few choices: F64 in F32, F32 in BF16. */
template <typename real> struct sums;
template <> struct sums<float> { typedef double type; };
template <> struct sums<bf16_bits> { typedef float type; };

template <typename real, int n> __global__ static void gather_cells(const struct combine a) {
    const int64_t k = a.row.shape[1], N = a.x.shape[0];
    FOR_PACKS(t, d, a.y.shape[0], a.y.shape[1], n) {
        const int64_t *at = (const int64_t *)a.row.data + t * k;
        typename sums<real>::type sum[n] = {};
        float v[n];
        for (int64_t i = 0; i < k; i++) {
            const float w = a.w.data ? row(a.w, t)[i] : 1.0f;
            for (int e = 0; e < n; e++) v[e] = NAN; /* a row outside */
            if ((uint64_t)at[i] < (uint64_t)N) get<n>(v, row_of<real>(a.x, at[i]) + d);
            for (int e = 0; e < n; e++) sum[e] += (typename sums<real>::type)w * v[e];
        }
        real *y = row_of<real>(a.y, t) + d;
        if (a.add) {
            get<n>(v, y);
            for (int e = 0; e < n; e++) sum[e] += v[e];
        }
        for (int e = 0; e < n; e++) v[e] = (float)sum[e];
        put<n>(y, v);
    }
}

template <typename real, int n> __global__ static void spread_rows(const struct combine a) {
    const int64_t T = a.dy.shape[0], D = a.dy.shape[1], k = a.row.shape[1];
    FOR_WARPS(item, T * k) {
        const int64_t t = item / k, at = ((const int64_t *)a.row.data)[item];
        if ((uint64_t)at >= (uint64_t)(T * k)) continue;
        const real *dy = row_of<real>(a.dy, t);
        const float w = a.w.data ? row(a.w, t)[item % k] : 1.0f;
        typename sums<real>::type sum = 0;
        for (int64_t d = threadIdx.x * n; d < D; d += WARP * n) {
            float v[n], x[n];
            get<n>(v, dy + d);
            if (a.dw.data) {
                get<n>(x, row_of<real>(a.x, at) + d);
                for (int e = 0; e < n; e++) sum += (typename sums<real>::type)x[e] * v[e];
            }
            for (int e = 0; e < n; e++) v[e] *= w;
            put<n>(row_of<real>(a.dx, at) + d, v);
        }
        const double all = a.dw.data ? warp_sum((double)sum) : 0.0;
        if (a.dw.data && threadIdx.x == 0) row(a.dw, t)[item % k] = (float)all;
    }
}

extern "C" enum status combine_fwd_cuda(struct ctx *c, const struct combine *a) {
    const int64_t T = a->y.shape[0], D = a->y.shape[1], k = a->row.shape[1];
    CHECK_SHAPE(combine, y, REAL, T, D);
    CHECK_SHAPE(combine, row, I64, T, k);
    CHECK_THAT(combine, tensor_packed(a->row), "row must be packed");
    CHECK_SHAPE(combine, x, REAL, T * k, D);
    CHECK_OPTIONAL(combine, w, WIDE, T, k);
    LAUNCH_PACKS(gather_cells, REAL, packs_fit(a->x) && packs_fit(a->y), T, D, *a);
    return OK;
}

extern "C" enum status combine_bwd_cuda(struct ctx *c, const struct combine *a) {
    const int64_t T = a->dy.shape[0], D = a->dy.shape[1], k = a->row.shape[1];
    CHECK_SHAPE(combine, dy, REAL, T, D);
    CHECK_SHAPE(combine, row, I64, T, k);
    CHECK_THAT(combine, tensor_packed(a->row), "row must be packed");
    CHECK_SHAPE(combine, dx, REAL, T * k, D);
    CHECK_OPTIONAL(combine, w, WIDE, T, k);
    if (tensor_has(a->dw)) {
        CHECK_SHAPE(combine, x, REAL, T * k, D);
        CHECK_SHAPE(combine, dw, WIDE, T, k);
    }
    const bool fit = packs_fit(a->dy) && packs_fit(a->dx) && (!tensor_has(a->dw) || packs_fit(a->x)) && D % PACK == 0;
    if (REAL == F32) LAUNCH_WARPS((spread_rows<float, 1>), T * k, *a);
    else if (fit) LAUNCH_WARPS((spread_rows<bf16_bits, PACK>), T * k, *a);
    else LAUNCH_WARPS((spread_rows<bf16_bits, 1>), T * k, *a);
    return OK;
}
NO_WORK(combine)
