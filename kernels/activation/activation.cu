/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/activation/activation.h"
#include "kernels/device.cuh"

/* The tanh form of GELU is h sigmoid(2 u), u = sqrt(2/pi) (h + 0.044715 h^3): no tanh, no cancellation at u < 0. */
#define GELU_SLOPE 1.5957691216057307118f /* 2 sqrt(2/pi) */
#define GELU_CUBE  0.044715f

/* 2 max(h, 0), exactly, and NaN kept */
static __device__ float twice_positive(float h) { return h + fabsf(h); }
static __device__ float gelu_argument(float h) { return GELU_SLOPE * (h + GELU_CUBE * h * h * h); }

template <enum activation_kind kind> __global__ static void forward_cells(const struct activation a) {
    const int64_t F = a.y.shape[1];
    FOR_CELLS(t, i, a.y.shape[0], F) {
        const float h = row(a.h, t)[i], up = twice_positive(h) / 2.0f;
        float *y = row(a.y, t) + i;
        if (kind == ACT_RELU2) *y = up * up;
        if (kind == ACT_SWIGLU) *y = silu(h) * row(a.h, t)[F + i];
        if (kind == ACT_GELU) *y = h * normcdff(h);
        if (kind == ACT_GELU_TANH) *y = h * sigmoid(gelu_argument(h));
    }
}

/* The derivatives: activation_ref.c. */
template <enum activation_kind kind> __global__ static void backward_cells(const struct activation a) {
    const int64_t F = a.dy.shape[1];
    FOR_CELLS(t, i, a.dy.shape[0], F) {
        const float h = row(a.h, t)[i], dy = row(a.dy, t)[i];
        float *dh = row(a.dh, t) + i;
        if (kind == ACT_RELU2) *dh = twice_positive(h) * dy;
        if (kind == ACT_SWIGLU) {
            const float s = sigmoid(h);
            const float up = row(a.h, t)[F + i];
            dh[0] = dy * up * s * (1.0f + h * (1.0f - s));
            dh[F] = dy * h * s;
        }
        if (kind == ACT_GELU) *dh = dy * (normcdff(h) + h * 0.39894228040143267794f * expf(-0.5f * h * h));
        if (kind == ACT_GELU_TANH) {
            const float s = sigmoid(gelu_argument(h));
            *dh = dy * (s + h * s * (1.0f - s) * GELU_SLOPE * (1.0f + 3.0f * GELU_CUBE * h * h));
        }
    }
}

/* The kernel of each kind, in the order of the enum. */
typedef void kernel(struct activation);
static kernel *const forward_of[] = {forward_cells<ACT_RELU2>, forward_cells<ACT_SWIGLU>, forward_cells<ACT_GELU>,
                                     forward_cells<ACT_GELU_TANH>};
static kernel *const backward_of[] = {backward_cells<ACT_RELU2>, backward_cells<ACT_SWIGLU>, backward_cells<ACT_GELU>,
                                      backward_cells<ACT_GELU_TANH>};
static_assert(ACT_RELU2 == 0 && ACT_SWIGLU == 1 && ACT_GELU == 2 && ACT_GELU_TANH == 3, "order of the tables");

extern "C" enum status activation_fwd_cuda(struct ctx *c, const struct activation *a) {
    CHECK_THAT(activation, (unsigned)a->kind <= ACT_GELU_TANH, "the kind %d is none of " ACTIVATION_CHOICES,
               (int)a->kind);
    const int64_t T = a->y.shape[0], F = a->y.shape[1];
    CHECK_SHAPE(activation, y, F32, T, F);
    CHECK_SHAPE(activation, h, F32, T, a->kind == ACT_SWIGLU ? 2 * F : F);
    LAUNCH_CELLS(forward_of[a->kind], T, F, *a);
    return OK;
}

extern "C" enum status activation_bwd_cuda(struct ctx *c, const struct activation *a) {
    CHECK_THAT(activation, (unsigned)a->kind <= ACT_GELU_TANH, "the kind %d is none of " ACTIVATION_CHOICES,
               (int)a->kind);
    const int64_t T = a->dy.shape[0], F = a->dy.shape[1], width = a->kind == ACT_SWIGLU ? 2 * F : F;
    CHECK_SHAPE(activation, dy, F32, T, F);
    CHECK_SHAPE(activation, h, F32, T, width);
    CHECK_SHAPE(activation, dh, F32, T, width);
    LAUNCH_CELLS(backward_of[a->kind], T, F, *a);
    return OK;
}
NO_WORK(activation)
