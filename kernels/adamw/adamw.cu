/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/adamw/adamw.h"
#include "kernels/packs.cuh"

/* Moves 28 n bytes, and what `out` takes.  The knobs are read here, so that a step can be skipped or replayed without
 * the host. */
template <typename real, int n, bool out> __global__ static void update_cells(const struct adamw a) {
    const double *knob = (const double *)a.knobs.data;
    if (knob[KNOB_SKIP] != 0.0) return;
    float *w = (float *)a.w.data, *m = (float *)a.m.data, *v = (float *)a.v.data;
    const float *g = (const float *)a.g.data;
    const float clip = (float)knob[KNOB_CLIP], fix1 = (float)knob[KNOB_FIX1], fix2 = (float)knob[KNOB_FIX2];
    const float beta1 = (float)a.beta1, beta2 = (float)a.beta2, eps = (float)a.eps, decay = (float)a.decay;
    const float rest1 = (float)(1.0 - a.beta1), rest2 = (float)(1.0 - a.beta2);
    const float rate = (float)(knob[KNOB_LR] * a.lr_scale);
    FOR_PACKS(unused, i, 1, a.w.shape[0], n) {
        float wi[n], mi[n], vi[n], gi[n];
        get<n>(wi, w + i), get<n>(mi, m + i), get<n>(vi, v + i), get<n>(gi, g + i);
        for (int k = 0; k < n; k++) {
            gi[k] *= clip;
            mi[k] = beta1 * mi[k] + rest1 * gi[k];
            vi[k] = beta2 * vi[k] + rest2 * gi[k] * gi[k];
            wi[k] -= rate * (mi[k] * fix1 / (sqrtf(vi[k] * fix2) + eps) + decay * wi[k]);
        }
        put<n>(m + i, mi), put<n>(v + i, vi), put<n>(w + i, wi);
        if (out) put<n>((real *)a.out.data + i, wi);
    }
}

extern "C" enum status adamw_fwd_cuda(struct ctx *c, const struct adamw *a) {
    const int64_t n = a->w.shape[0];
    CHECK_SHAPE(adamw, w, WIDE, n);
    CHECK_SHAPE(adamw, m, WIDE, n);
    CHECK_SHAPE(adamw, v, WIDE, n);
    CHECK_SHAPE(adamw, g, WIDE, n);
    CHECK_OPTIONAL(adamw, out, REAL, n);
    CHECK_SHAPE(adamw, knobs, F64, N_KNOBS);
    const bool fit = packs_fit(a->w) && packs_fit(a->m) && packs_fit(a->v) && packs_fit(a->g) && packs_fit(a->out);
    if (REAL == F32 && tensor_has(a->out)) LAUNCH_CELLS((update_cells<float, 1, true>), 1, n, *a);
    else if (REAL == F32) LAUNCH_CELLS((update_cells<float, 1, false>), 1, n, *a);
    else if (!tensor_has(a->out) && fit && n % 4 == 0) LAUNCH_CELLS((update_cells<bf16_bits, 4, false>), 1, n / 4, *a);
    else if (!tensor_has(a->out)) LAUNCH_CELLS((update_cells<bf16_bits, 1, false>), 1, n, *a);
    else if (fit && n % 4 == 0) LAUNCH_CELLS((update_cells<bf16_bits, 4, true>), 1, n / 4, *a);
    else LAUNCH_CELLS((update_cells<bf16_bits, 1, true>), 1, n, *a);
    return OK;
}
NO_BACKWARD(adamw)
NO_WORK(adamw)
