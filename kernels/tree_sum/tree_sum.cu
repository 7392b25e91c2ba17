/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/device.cuh"
#include "kernels/tree_sum/tree_sum.h"

#define TREE_THREADS 1024

/* A level in place: a piece is read by all before it is written, and what it writes was read by the pieces before. */
static __device__ void add_pairs(double *x, int64_t n) {
    for (int64_t base = 0; 2 * base < n; base += TREE_THREADS) {
        const int64_t i = base + threadIdx.x;
        double sum = 0.0;
        if (2 * i < n) sum = 2 * i + 1 < n ? x[2 * i] + x[2 * i + 1] : x[2 * i];
        __syncthreads();
        if (2 * i < n) x[i] = sum;
        __syncthreads();
    }
}

/* One block of threads a segment; reads and writes some 32 n bytes. */
__global__ static void __launch_bounds__(TREE_THREADS)
    sum_segments(double *x, const int64_t *at, int64_t n, int64_t m, double *roots) {
    for (int64_t s = blockIdx.x; s < m; s += gridDim.x) {
        const int64_t begin = at ? at[s] : 0, end = at ? at[s + 1] : n;
        for (int64_t left = end - begin; left > 1; left = ceil_div(left, 2)) add_pairs(x + begin, left);
        if (threadIdx.x == 0) roots[s] = begin < end ? x[begin] : 0.0;
    }
}

extern "C" enum status tree_sum_fwd_cuda(struct ctx *c, const struct tree_sum *a) {
    const int64_t n = a->x.shape[0], m = a->roots.shape[0];
    CHECK_SHAPE(tree_sum, x, F64, n);
    CHECK_SHAPE(tree_sum, roots, F64, m);
    CHECK_OPTIONAL(tree_sum, at, I64, m + 1);
    CHECK_THAT(tree_sum, tensor_has(a->at) || m == 1, "at is absent, and that means one root");
    LAUNCH(sum_segments, dim3((unsigned)least(m, 1 << 16)), TREE_THREADS, (double *)a->x.data,
           (const int64_t *)a->at.data, n, m, (double *)a->roots.data);
    return OK;
}
NO_BACKWARD(tree_sum)
NO_WORK(tree_sum)
