/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cast/cast.h"
#include "kernels/packs.cuh"

/* Moves 6 T C bytes in BF16, 8 T C in F32. */
template <typename from, typename to, int n> __global__ static void cast_cells(const struct cast a) {
    FOR_PACKS(t, i, a.x.shape[0], a.x.shape[1], n) {
        float x[n];
        get<n>(x, row_of<from>(a.x, t) + i);
        put<n>(row_of<to>(a.y, t) + i, x);
    }
}

extern "C" enum status cast_fwd_cuda(struct ctx *c, const struct cast *a) {
    const int64_t T = a->x.shape[0], C = a->x.shape[1];
    const bool widens = a->x.dtype == REAL;
    CHECK_SHAPE(cast, x, widens ? REAL : WIDE, T, C);
    CHECK_SHAPE(cast, y, widens ? WIDE : REAL, T, C);
    const bool fit = packs_fit(a->x) && packs_fit(a->y) && C % PACK == 0;
    if (REAL == F32) LAUNCH_CELLS((cast_cells<float, float, 1>), T, C, *a);
    else if (fit && widens) LAUNCH_CELLS((cast_cells<bf16_bits, float, PACK>), T, C / PACK, *a);
    else if (fit) LAUNCH_CELLS((cast_cells<float, bf16_bits, PACK>), T, C / PACK, *a);
    else if (widens) LAUNCH_CELLS((cast_cells<bf16_bits, float, 1>), T, C, *a);
    else LAUNCH_CELLS((cast_cells<float, bf16_bits, 1>), T, C, *a);
    return OK;
}
NO_BACKWARD(cast)
NO_WORK(cast)
