/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/adamw/adamw.h"
#include "kernels/device.cuh"

/* Moves 28 n bytes.  The knobs are read here, so that a step can be skipped or replayed without the host. */
__global__ static void update_cells(const struct adamw a) {
    const double *knob = (const double *)a.knobs.data;
    if (knob[KNOB_SKIP] != 0.0) return;
    float *w = (float *)a.w.data, *m = (float *)a.m.data, *v = (float *)a.v.data;
    const float *g = (const float *)a.g.data;
    const float clip = (float)knob[KNOB_CLIP], fix1 = (float)knob[KNOB_FIX1], fix2 = (float)knob[KNOB_FIX2];
    const float beta1 = (float)a.beta1, beta2 = (float)a.beta2, eps = (float)a.eps, decay = (float)a.decay;
    const float rest1 = (float)(1.0 - a.beta1), rest2 = (float)(1.0 - a.beta2);
    const float rate = (float)(knob[KNOB_LR] * a.lr_scale);
    FOR_CELLS(unused, i, 1, a.w.shape[0]) {
        const float gi = g[i] * clip;
        const float mi = beta1 * m[i] + rest1 * gi;
        const float vi = beta2 * v[i] + rest2 * gi * gi;
        m[i] = mi;
        v[i] = vi;
        w[i] -= rate * (mi * fix1 / (sqrtf(vi * fix2) + eps) + decay * w[i]);
    }
}

extern "C" enum status adamw_fwd_cuda(struct ctx *c, const struct adamw *a) {
    const int64_t n = a->w.shape[0];
    CHECK_SHAPE(adamw, w, F32, n);
    CHECK_SHAPE(adamw, m, F32, n);
    CHECK_SHAPE(adamw, v, F32, n);
    CHECK_SHAPE(adamw, g, F32, n);
    CHECK_SHAPE(adamw, knobs, F64, N_KNOBS);
    LAUNCH_CELLS(update_cells, 1, n, *a);
    return OK;
}
NO_BACKWARD(adamw)
NO_WORK(adamw)
