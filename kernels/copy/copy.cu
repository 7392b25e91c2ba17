/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/copy/copy.h"
#include "kernels/packs.cuh"

/* Moves 8 T C bytes in F32, 4 T C in BF16; a NaN keeps its bits. */
template <typename type>
__global__ static void copy_cells(const struct tensor x, const struct tensor y, int64_t width) {
    FOR_CELLS(t, i, x.shape[0], width) row_of<type>(y, t)[i] = row_of<type>(x, t)[i];
}

/* The same rows as elements of 16 bytes. */
static struct tensor in_packs(struct tensor t) {
    t.pitch /= PACK;
    return t;
}

extern "C" enum status copy_fwd_cuda(struct ctx *c, const struct copy *a) {
    const int64_t T = a->x.shape[0], C = a->x.shape[1];
    const enum dtype type = a->x.dtype == WIDE ? WIDE : REAL;
    CHECK_SHAPE(copy, x, type, T, C);
    CHECK_SHAPE(copy, y, type, T, C);
    const bool fit = packs_fit(a->x) && packs_fit(a->y) && C % PACK == 0;
    if (type == F32) LAUNCH_CELLS((copy_cells<float>), T, C, a->x, a->y, C);
    else if (fit) LAUNCH_CELLS((copy_cells<uint4>), T, C / PACK, in_packs(a->x), in_packs(a->y), C / PACK);
    else LAUNCH_CELLS((copy_cells<bf16_bits>), T, C, a->x, a->y, C);
    return OK;
}
NO_BACKWARD(copy)
NO_WORK(copy)
