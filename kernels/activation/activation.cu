/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/activation/activation.h"
#include "kernels/packs.cuh"

/* The tanh form of GELU is h sigmoid(2 u), u = sqrt(2/pi) (h + 0.044715 h^3): no tanh, no cancellation at u < 0. */
#define GELU_SLOPE 1.5957691216057307118f /* 2 sqrt(2/pi) */
#define GELU_CUBE  0.044715f

/* 2 max(h, 0), exactly, and NaN kept */
static __device__ float twice_positive(float h) { return h + fabsf(h); }
static __device__ float gelu_argument(float h) { return GELU_SLOPE * (h + GELU_CUBE * h * h * h); }

/* What becomes BF16 comes from the special function unit: a kernel that moves bytes has no time for more. */
template <typename real> static __device__ float gate_of(float x) {
    if constexpr (sizeof(real) == sizeof(bf16_bits)) return sigmoid_fast(x);
    else return sigmoid(x);
}

/* Phi(h) = q or 1 - q, q = Phi(-|h|) = phi(h) (a polynomial in t = 1 / (1 + p |h|)): off by 8e-8 at most.  Abramowitz
 * and Stegun 1964, 7.1.26, its p and coefficients divided by sqrt(2) and by 2. */
template <typename real> static __device__ float share_below(float h) {
    if constexpr (sizeof(real) != sizeof(bf16_bits)) return normcdff(h);
    const float t = reciprocal_fast(fmaf(0.23164189f, fabsf(h), 1.0f));
    const float poly =
        fmaf(fmaf(fmaf(fmaf(0.5307027145f, t, -0.7265760135f), t, 0.7107068705f), t, -0.142248368f), t, 0.127414796f);
    const float q = t * poly * exp2_fast(-0.72134752f * h * h); /* log2(e) / 2 */
    return h > 0.0f ? 1.0f - q : q;
}
template <typename real> static __device__ float density(float h) {
    if constexpr (sizeof(real) == sizeof(bf16_bits)) return 0.39894228040143267794f * exp2_fast(-0.72134752f * h * h);
    else return 0.39894228040143267794f * expf(-0.5f * h * h);
}

/* Moves 8 T F bytes in F32 (swiglu 12), half of it in BF16. */
template <enum activation_kind kind, typename real, int n>
__global__ static void forward_cells(const struct activation a) {
    const int64_t F = a.y.shape[1];
    FOR_PACKS(t, i, a.y.shape[0], F, n) {
        float h[n], up[n] = {}, y[n];
        get<n>(h, row_of<real>(a.h, t) + i);
        if (kind == ACT_SWIGLU) get<n>(up, row_of<real>(a.h, t) + F + i);
        for (int k = 0; k < n; k++) {
            const float positive = twice_positive(h[k]) / 2.0f;
            if (kind == ACT_RELU2) y[k] = positive * positive;
            if (kind == ACT_SWIGLU) y[k] = h[k] * gate_of<real>(h[k]) * up[k];
            if (kind == ACT_GELU) y[k] = h[k] * share_below<real>(h[k]);
            if (kind == ACT_GELU_TANH) y[k] = h[k] * gate_of<real>(gelu_argument(h[k]));
        }
        put<n>(row_of<real>(a.y, t) + i, y);
    }
}

/* The derivatives: activation_ref.c.  Moves 12 T F bytes in F32 (swiglu 20), half of it in BF16. */
template <enum activation_kind kind, typename real, int n>
__global__ static void backward_cells(const struct activation a) {
    const int64_t F = a.dy.shape[1];
    FOR_PACKS(t, i, a.dy.shape[0], F, n) {
        float h[n], up[n] = {}, dy[n], dh[n], dup[n] = {};
        get<n>(h, row_of<real>(a.h, t) + i);
        get<n>(dy, row_of<real>(a.dy, t) + i);
        if (kind == ACT_SWIGLU) get<n>(up, row_of<real>(a.h, t) + F + i);
        for (int k = 0; k < n; k++) {
            if (kind == ACT_RELU2) dh[k] = twice_positive(h[k]) * dy[k];
            if (kind == ACT_SWIGLU) {
                const float s = gate_of<real>(h[k]);
                dh[k] = dy[k] * up[k] * s * (1.0f + h[k] * (1.0f - s));
                dup[k] = dy[k] * h[k] * s;
            }
            if (kind == ACT_GELU) dh[k] = dy[k] * fmaf(h[k], density<real>(h[k]), share_below<real>(h[k]));
            if (kind == ACT_GELU_TANH) {
                const float s = gate_of<real>(gelu_argument(h[k]));
                dh[k] = dy[k] * (s + h[k] * s * (1.0f - s) * GELU_SLOPE * (1.0f + 3.0f * GELU_CUBE * h[k] * h[k]));
            }
        }
        put<n>(row_of<real>(a.dh, t) + i, dh);
        if (kind == ACT_SWIGLU) put<n>(row_of<real>(a.dh, t) + F + i, dup);
    }
}

/* The kernels of each kind, in the order of the enum. */
typedef void kernel(struct activation);
template <typename real, int n> struct kernels {
    static constexpr kernel *forward[] = {forward_cells<ACT_RELU2, real, n>, forward_cells<ACT_SWIGLU, real, n>,
                                          forward_cells<ACT_GELU, real, n>, forward_cells<ACT_GELU_TANH, real, n>};
    static constexpr kernel *backward[] = {backward_cells<ACT_RELU2, real, n>, backward_cells<ACT_SWIGLU, real, n>,
                                           backward_cells<ACT_GELU, real, n>, backward_cells<ACT_GELU_TANH, real, n>};
};
static_assert(ACT_RELU2 == 0 && ACT_SWIGLU == 1 && ACT_GELU == 2 && ACT_GELU_TANH == 3, "order of the tables");

#define LAUNCH_KIND(pass, fit)                                                                                         \
    do {                                                                                                               \
        if (REAL == F32) LAUNCH_CELLS((kernels<float, 1>::pass[a->kind]), T, F, *a);                                   \
        else if ((fit) && F % PACK == 0) LAUNCH_CELLS((kernels<bf16_bits, PACK>::pass[a->kind]), T, F / PACK, *a);     \
        else LAUNCH_CELLS((kernels<bf16_bits, 1>::pass[a->kind]), T, F, *a);                                           \
    } while (0)

extern "C" enum status activation_fwd_cuda(struct ctx *c, const struct activation *a) {
    CHECK_THAT(activation, (unsigned)a->kind <= ACT_GELU_TANH, "the kind %d is none of " ACTIVATION_CHOICES,
               (int)a->kind);
    const int64_t T = a->y.shape[0], F = a->y.shape[1];
    CHECK_SHAPE(activation, y, REAL, T, F);
    CHECK_SHAPE(activation, h, REAL, T, a->kind == ACT_SWIGLU ? 2 * F : F);
    LAUNCH_KIND(forward, packs_fit(a->h) && packs_fit(a->y));
    return OK;
}

extern "C" enum status activation_bwd_cuda(struct ctx *c, const struct activation *a) {
    CHECK_THAT(activation, (unsigned)a->kind <= ACT_GELU_TANH, "the kind %d is none of " ACTIVATION_CHOICES,
               (int)a->kind);
    const int64_t T = a->dy.shape[0], F = a->dy.shape[1], width = a->kind == ACT_SWIGLU ? 2 * F : F;
    CHECK_SHAPE(activation, dy, REAL, T, F);
    CHECK_SHAPE(activation, h, REAL, T, width);
    CHECK_SHAPE(activation, dh, REAL, T, width);
    LAUNCH_KIND(backward, packs_fit(a->h) && packs_fit(a->dy) && packs_fit(a->dh));
    return OK;
}
NO_WORK(activation)
