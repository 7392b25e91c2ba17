/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear.h"
#include "kernels/gemm_cuda.h"
#include "kernels/matmul.cuh"
#include "kernels/packs.cuh"

/* F32: our own kernel; BF16: cuBLASLt, sums in F32. */
static enum status product(struct ctx *c, bool trans_a, bool trans_b, struct tensor A, struct tensor B, bool add,
                           struct tensor C) {
    const float beta = add ? 1.0f : 0.0f;
    if (REAL == F32) return matmul(c, trans_a, trans_b, 1.0f, A, B, beta, C, NULL);
    return gemm_cuda(c, trans_a, trans_b, 1.0f, A, B, beta, C);
}

/* BF16, the bias first: the product is then added to it.  Writes y once, and reads it where it is a sum. */
template <typename real, int n>
__global__ static void bias_cells(const struct tensor b, const struct tensor y, bool add) {
    FOR_PACKS(t, o, y.shape[0], y.shape[1], n) {
        float v[n], old[n] = {};
        get<n>(v, (const float *)b.data + o);
        if (add) get<n>(old, row_of<real>(y, t) + o);
        for (int k = 0; k < n; k++) v[k] += old[k];
        put<n>(row_of<real>(y, t) + o, v);
    }
}

static enum dtype type_of_y(const struct ctx *c, const struct linear *a) { return a->wide ? WIDE : REAL; }

extern "C" enum status linear_fwd_cuda(struct ctx *c, const struct linear *a) {
    const int64_t T = a->x.shape[0], I = a->x.shape[1], O = a->w.shape[0];
    CHECK_SHAPE(linear, x, REAL, T, I);
    CHECK_SHAPE(linear, w, REAL, O, I);
    CHECK_OPTIONAL(linear, b, WIDE, O);
    CHECK_SHAPE(linear, y, type_of_y(c, a), T, O);
    if (REAL == BF16) {
        if (tensor_has(a->b))
            LAUNCH_PACKS(bias_cells, a->y.dtype, packs_fit(a->b) && packs_fit(a->y), T, O, a->b, a->y, a->add);
        return product(c, false, true, a->x, a->w, a->add || tensor_has(a->b), a->y);
    }
    TRY(matmul(c, false, true, 1.0f, a->x, a->w, a->add ? 1.0f : 0.0f, a->y, (const float *)a->b.data));
    return OK;
}

template <typename real> static __device__ float bias_gradient(const struct linear &a, int64_t t, int64_t o) {
    float dy[1];
    get<1>(dy, row_of<real>(a.dy, t) + o);
    return dy[0];
}

static enum status sum_bias(struct ctx *c, const struct linear *a) {
    const int64_t T = a->dy.shape[0], O = a->dy.shape[1];
    void *lines;
    TRY(arena_take(c->work, lines_bytes(T, O), &lines));
    if (a->dy.dtype == BF16)
        return sum_rows<struct linear, bias_gradient<bf16_bits>>(c, *a, (double *)lines, T, O, (float *)a->db.data);
    return sum_rows<struct linear, bias_gradient<float>>(c, *a, (double *)lines, T, O, (float *)a->db.data);
}

static enum status products(struct ctx *c, const struct linear *a, struct tensor dy) {
    if (tensor_has(a->dx)) TRY(product(c, false, false, dy, a->w, a->dx_add, a->dx));
    return tensor_has(a->dw) ? product(c, true, false, dy, a->x, true, a->dw) : OK;
}

/* The two parts of dy: rounded to BF16, or with `rest` what that leaves, rounded.  Reads 4 T O bytes, writes 2 T O. */
__global__ static void part_cells(const struct tensor dy, const struct tensor part, bool rest) {
    FOR_CELLS(t, o, dy.shape[0], dy.shape[1]) {
        const float v = row(dy, t)[o];
        bf16_bits first;
        set(&first, v);
        set(row_of<bf16_bits>(part, t) + o, rest ? v - one(&first) : one(&first));
    }
}

static int64_t part_bytes(int64_t T, int64_t O) { return arena_round(T * O * 2); }

/* A wide dy beside factors of BF16. */
static enum status products_of_parts(struct ctx *c, const struct linear *a) {
    const int64_t T = a->dy.shape[0], O = a->dy.shape[1];
    struct linear dw_alone = *a;
    struct tensor part = tensor_2d(NULL, BF16, T, O);
    part.space = DEVICE;
    TRY(arena_take(c->work, part_bytes(T, O), &part.data));
    LAUNCH_CELLS(part_cells, T, O, a->dy, part, false);
    TRY(products(c, a, part));
    if (!tensor_has(a->dw)) return OK;
    LAUNCH_CELLS(part_cells, T, O, a->dy, part, true);
    dw_alone.dx.data = NULL;
    return products(c, &dw_alone, part);
}

extern "C" enum status linear_bwd_cuda(struct ctx *c, const struct linear *a) {
    const int64_t T = a->dy.shape[0], O = a->dy.shape[1];
    const int64_t I = tensor_has(a->dx) ? a->w.shape[1] : a->x.shape[1];
    CHECK_SHAPE(linear, dy, type_of_y(c, a), T, O);
    if (tensor_has(a->dx)) {
        CHECK_SHAPE(linear, w, REAL, O, I);
        CHECK_SHAPE(linear, dx, REAL, T, I);
    }
    if (tensor_has(a->dw)) {
        CHECK_SHAPE(linear, x, REAL, T, I);
        CHECK_SHAPE(linear, dw, WIDE, O, I);
    }
    CHECK_OPTIONAL(linear, db, WIDE, O);
    const int64_t mark = arena_mark(c->work);
    enum status st = REAL == BF16 && a->wide ? products_of_parts(c, a) : products(c, a, a->dy);
    if (st == OK && tensor_has(a->db)) st = sum_bias(c, a);
    arena_release(c->work, mark);
    return st;
}

extern "C" int64_t linear_work_cuda(const struct ctx *c, const struct linear *a) {
    const int64_t T = a->x.shape[0];
    return lines_bytes(T, a->db.shape[0]) + (REAL == BF16 && a->wide ? part_bytes(T, a->w.shape[0]) : 0);
}
