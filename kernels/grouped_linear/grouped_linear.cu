/* SPDX-License-Identifier: Apache-2.0 */
/* Any shape with FMA: F32, and BF16 that the tensor cores' kernels do not take (grouped_linear_bf16.h).  A block has a
 * tile of 64 x 64 of a result, found from offset; blocks are started for as many as there can be. */
#include "kernels/grouped_linear/grouped_linear_bf16.h"
#include "kernels/grouped_linear/grouped_tiles.cuh"
#include "kernels/matmul.cuh"

/* C: y or dx, rows of experts; A: x or dy; a weight as it is or transposed. */
template <bool trans_b, typename real>
__global__ __launch_bounds__(THREADS) static void rows_tiles(const struct groups g, struct factors<real, real> x) {
    const int64_t across = ceil_div(x.n, SIDE);
    int64_t group, row;
    struct group_rows at;
    if (!group_tile(g, SIDE, blockIdx.x / across, &group, &row, &at)) return;
    double total[EACH][EACH] = {};
    x.A += at.begin * x.lda;
    x.C += at.begin * x.ldc;
    x.m = at.end - at.begin;
    x.B += group % g.E * x.n * x.k;
    const int64_t j0 = (int64_t)blockIdx.x % across * SIDE;
    matmul_add<false, trans_b>(total, x, row, j0);
    matmul_store(total, x, row, j0);
}

/* C: dw, the sections of an expert in their order. */
template <typename real>
__global__ __launch_bounds__(THREADS) static void weight_tiles(const struct groups g, struct factors<real, float> x) {
    const int64_t across = ceil_div(x.n, SIDE), per = ceil_div(x.m, SIDE) * across, e = blockIdx.x / per;
    const int64_t i0 = blockIdx.x % per / across * SIDE, j0 = blockIdx.x % across * SIDE;
    const real *A = x.A, *B = x.B;
    double total[EACH][EACH] = {};
    x.C += e * x.m * x.n;
    for (int64_t i = e; i < g.n; i += g.E) {
        const struct group_rows at = group_at(g, i);
        x.A = A + at.begin * x.lda;
        x.B = B + at.begin * x.ldb;
        x.k = at.end - at.begin;
        matmul_add<true, false>(total, x, i0, j0);
    }
    matmul_store(total, x, i0, j0);
}

static enum status many(int64_t tiles) {
    FAIL_UNLESS(tiles < INT32_MAX, ERR_ARG, "grouped_linear: a product of %" PRId64 " tiles is too large", tiles);
    return OK;
}

/* y = x w^T, or dx (+)= dy w. */
template <bool trans_b, typename real>
static enum status rows_of_type(struct ctx *c, const struct grouped_linear *a, struct tensor A, bool add,
                                struct tensor C) {
    const struct groups g = groups_of(a);
    const struct factors<real, real> x = {
        (const real *)A.data, (const real *)a->w.data, NULL, (real *)C.data,
            0, C.shape[1], A.shape[1], A.pitch, a->w.shape[2], C.pitch, 1.0f, add ? 1.0f : 0.0f
    };
    const int64_t tiles = group_tiles_most(g, SIDE) * ceil_div(x.n, SIDE);
    TRY(many(tiles));
    LAUNCH((rows_tiles<trans_b, real>), dim3((unsigned)tiles), THREADS, g, x);
    return OK;
}

template <bool trans_b>
static enum status rows_by(struct ctx *c, const struct grouped_linear *a, struct tensor A, bool add, struct tensor C) {
    if (REAL == BF16) return rows_of_type<trans_b, bf16_bits>(c, a, A, add, C);
    return rows_of_type<trans_b, float>(c, a, A, add, C);
}

template <typename real> static enum status weights(struct ctx *c, const struct grouped_linear *a) {
    const int64_t O = a->dw.shape[1], I = a->dw.shape[2];
    const struct factors<real, float> x = {
        (const real *)a->dy.data, (const real *)a->x.data, NULL, (float *)a->dw.data, O, I,
            0, a->dy.pitch, a->x.pitch, I, 1.0f, 1.0f
    };
    const int64_t tiles = a->dw.shape[0] * ceil_div(O, SIDE) * ceil_div(I, SIDE);
    TRY(many(tiles));
    LAUNCH(weight_tiles<real>, dim3((unsigned)tiles), THREADS, groups_of(a), x);
    return OK;
}

extern "C" enum status grouped_linear_fwd_cuda(struct ctx *c, const struct grouped_linear *a) {
    const int64_t N = a->x.shape[0], E = a->w.shape[0], O = a->w.shape[1], I = a->w.shape[2];
    CHECK_SHAPE(grouped_linear, x, REAL, N, I);
    CHECK_SHAPE(grouped_linear, w, REAL, E, O, I);
    CHECK_SHAPE(grouped_linear, offset, I64, a->offset.shape[0], E + 1);
    CHECK_SHAPE(grouped_linear, y, REAL, N, O);
    if (REAL == BF16 && wide_fits(a, WIDE_Y)) return grouped_linear_wide(c, a, WIDE_Y);
    return rows_by<true>(c, a, a->x, false, a->y);
}

extern "C" enum status grouped_linear_bwd_cuda(struct ctx *c, const struct grouped_linear *a) {
    const int64_t N = a->dy.shape[0], E = a->offset.shape[1] - 1, O = a->dy.shape[1];
    const int64_t I = tensor_has(a->dx) ? a->w.shape[2] : a->x.shape[1];
    CHECK_SHAPE(grouped_linear, dy, REAL, N, O);
    CHECK_SHAPE(grouped_linear, offset, I64, a->offset.shape[0], E + 1);
    if (tensor_has(a->dx)) {
        CHECK_SHAPE(grouped_linear, w, REAL, E, O, I);
        CHECK_SHAPE(grouped_linear, dx, REAL, N, I);
    }
    if (tensor_has(a->dw)) {
        CHECK_SHAPE(grouped_linear, x, REAL, N, I);
        CHECK_SHAPE(grouped_linear, dw, WIDE, E, O, I);
    }
    if (tensor_has(a->dx))
        TRY(REAL == BF16 && wide_fits(a, WIDE_DX) ? grouped_linear_wide(c, a, WIDE_DX)
                                                  : rows_by<false>(c, a, a->dy, a->dx_add, a->dx));
    if (!tensor_has(a->dw)) return OK;
    if (REAL == BF16 && wide_fits(a, WIDE_DW)) return grouped_linear_wide(c, a, WIDE_DW);
    return REAL == BF16 ? weights<bf16_bits>(c, a) : weights<float>(c, a);
}
NO_WORK(grouped_linear)
