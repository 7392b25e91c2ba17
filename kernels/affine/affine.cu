/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/affine/affine.h"
#include "kernels/device.cuh"

__global__ static void affine_cells(const struct affine a) {
    FOR_CELLS(n, i, a.in.shape[0], a.in.shape[1])
    row(a.out, n)[i] = *row(a.decay, n) * row(a.in, n)[i] + row(a.state, n)[i];
}

__global__ static void affine_rates(const struct affine a) {
    FOR_CELLS(n, i, a.in.shape[0], a.in.shape[1]) {
        const float time = *row(a.decay, n);
        const float keep = time < (float)AFFINE_FOREVER ? expf(-expf(row(a.log_rate, n)[i]) * time) : 0.0f;
        row(a.out, n)[i] = keep * row(a.in, n)[i] + row(a.state, n)[i];
    }
}

extern "C" enum status affine_fwd_cuda(struct ctx *c, const struct affine *a) {
    const int64_t n = a->in.shape[0], M = a->in.shape[1];
    CHECK_SHAPE(affine, in, WIDE, n, M);
    CHECK_SHAPE(affine, decay, WIDE, n);
    CHECK_SHAPE(affine, state, WIDE, n, M);
    CHECK_SHAPE(affine, out, WIDE, n, M);
    CHECK_OPTIONAL(affine, log_rate, WIDE, n, M);
    if (tensor_has(a->log_rate)) {
        LAUNCH_CELLS(affine_rates, n, M, *a);
        return OK;
    }
    LAUNCH_CELLS(affine_cells, n, M, *a);
    return OK;
}
NO_BACKWARD(affine)
NO_WORK(affine)
