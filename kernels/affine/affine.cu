/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/affine/affine.h"
#include "kernels/device.cuh"

__global__ static void affine_cells(const struct affine a) {
    FOR_CELLS(n, i, a.in.shape[0], a.in.shape[1])
    row(a.out, n)[i] = *row(a.decay, n) * row(a.in, n)[i] + row(a.state, n)[i];
}

extern "C" enum status affine_fwd_cuda(struct ctx *c, const struct affine *a) {
    const int64_t n = a->in.shape[0], M = a->in.shape[1];
    CHECK_SHAPE(affine, in, WIDE, n, M);
    CHECK_SHAPE(affine, decay, WIDE, n);
    CHECK_SHAPE(affine, state, WIDE, n, M);
    CHECK_SHAPE(affine, out, WIDE, n, M);
    LAUNCH_CELLS(affine_cells, n, M, *a);
    return OK;
}
NO_BACKWARD(affine)
NO_WORK(affine)
