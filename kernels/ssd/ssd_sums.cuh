/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_SSD_SUMS_CUH
#define BATON_KERNELS_SSD_SSD_SUMS_CUH
/* ssd_sums.cuh - gradients of a chunk's head that sum over all chunks, for both forms of ssd.h. */
#include "kernels/ranges.cuh"
#include "kernels/ssd/ssd.h"

enum { SUM_A_LOG, SUM_DT_BIAS, SUM_D, N_SUMS };

/* The chunks' sums: a warp for each, its lanes every 32nd chunk. */
__global__ static void backward_sums(const struct ssd a, const double *sums) {
    const int64_t n = spans_before(a.range, a.range.shape[0] - 1, a.chunk);
    FOR_WARPS(item, N_SUMS * a.heads) {
        const int64_t which = item / a.heads, h = item % a.heads;
        const struct tensor &out = which == SUM_A_LOG ? a.dA_log : which == SUM_DT_BIAS ? a.ddt_bias : a.dD;
        double sum = 0.0;
#pragma unroll 4
        for (int64_t i = threadIdx.x; i < n; i += WARP) sum += sums[(i * a.heads + h) * N_SUMS + which];
        sum = warp_sum(sum);
        if (threadIdx.x == 0) ((float *)out.data)[h] += (float)sum;
    }
}
#endif
