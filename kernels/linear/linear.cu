/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear.h"
#include "kernels/matmul.cuh"

extern "C" enum status linear_fwd_cuda(struct ctx *c, const struct linear *a) {
    const int64_t T = a->x.shape[0], I = a->x.shape[1], O = a->w.shape[0];
    CHECK_SHAPE(linear, x, F32, T, I);
    CHECK_SHAPE(linear, w, F32, O, I);
    CHECK_OPTIONAL(linear, b, F32, O);
    CHECK_SHAPE(linear, y, F32, T, O);
    TRY(matmul(c, false, true, 1.0f, a->x, a->w, a->add ? 1.0f : 0.0f, a->y, (const float *)a->b.data));
    return OK;
}

static __device__ float bias_gradient(const struct linear &a, int64_t t, int64_t o) { return row(a.dy, t)[o]; }

static enum status sum_bias(struct ctx *c, const struct linear *a) {
    const int64_t T = a->dy.shape[0], O = a->dy.shape[1];
    void *lines;
    TRY(arena_take(c->work, lines_bytes(T, O), &lines));
    return sum_rows<struct linear, bias_gradient>(c, *a, (double *)lines, T, O, (float *)a->db.data);
}

extern "C" enum status linear_bwd_cuda(struct ctx *c, const struct linear *a) {
    const int64_t T = a->dy.shape[0], O = a->dy.shape[1];
    const int64_t I = tensor_has(a->dx) ? a->w.shape[1] : a->x.shape[1];
    CHECK_SHAPE(linear, dy, F32, T, O);
    if (tensor_has(a->dx)) {
        CHECK_SHAPE(linear, w, F32, O, I);
        CHECK_SHAPE(linear, dx, F32, T, I);
        TRY(matmul(c, false, false, 1.0f, a->dy, a->w, a->dx_add ? 1.0f : 0.0f, a->dx, NULL));
    }
    if (tensor_has(a->dw)) {
        CHECK_SHAPE(linear, x, F32, T, I);
        CHECK_SHAPE(linear, dw, F32, O, I);
        TRY(matmul(c, true, false, 1.0f, a->dy, a->x, 1.0f, a->dw, NULL));
    }
    if (!tensor_has(a->db)) return OK;
    CHECK_SHAPE(linear, db, F32, O);
    const int64_t mark = arena_mark(c->work);
    const enum status st = sum_bias(c, a);
    arena_release(c->work, mark);
    return st;
}

extern "C" int64_t linear_work_cuda(const struct ctx *, const struct linear *a) {
    return lines_bytes(a->x.shape[0], a->db.shape[0]);
}
