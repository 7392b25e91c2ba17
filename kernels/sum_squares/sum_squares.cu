/* SPDX-License-Identifier: Apache-2.0 */
/* The order of the contract to the bit: 16 threads are the 16 lanes of a block of elements. */
#include "kernels/sum_squares/sum_squares.h"
#include "kernels/device.cuh"

#define LANES       16
#define TREE_BLOCKS 1024

/* Reads 4 n bytes. */
__global__ static void sum_blocks(const float *x, int64_t n, double *sums, int64_t n_blocks) {
    const int64_t block = (int64_t)blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
    const int lane = threadIdx.x % LANES;
    const int64_t end = least(n, (block + 1) * SUM_SQUARES_BLOCK);
    double sum = 0.0;
    for (int64_t i = block * SUM_SQUARES_BLOCK + lane; i < end; i += LANES) sum += (double)x[i] * (double)x[i];
    for (int half = LANES / 2; half > 0; half /= 2) sum += __shfl_down_sync(0xffffffffu, sum, half, LANES);
    if (lane == 0 && block < n_blocks) sums[block] = sum;
}

/* The binary tree, level by level between two buffers; one block of threads. */
__global__ static void sum_tree(double *from, double *to, int64_t n_blocks, double *out) {
    for (int64_t left = n_blocks; left > 1; left = ceil_div(left, 2)) {
        for (int64_t i = threadIdx.x; i < ceil_div(left, 2); i += blockDim.x)
            to[i] = 2 * i + 1 < left ? from[2 * i] + from[2 * i + 1] : from[2 * i];
        __syncthreads();
        double *const other = from;
        from = to;
        to = other;
    }
    if (threadIdx.x == 0) *out += from[0];
}

static enum status launch_blocks(struct ctx *c, const struct sum_squares *a, double *sums, int64_t n_blocks) {
    LAUNCH(sum_blocks, dim3((unsigned)ceil_div(n_blocks, THREADS / LANES)), THREADS, (const float *)a->x.data,
           a->x.shape[0], sums, n_blocks);
    return OK;
}

static enum status sum(struct ctx *c, const struct sum_squares *a) {
    const int64_t n_blocks = ceil_div(a->x.shape[0], SUM_SQUARES_BLOCK);
    void *sums, *more;
    TRY(arena_take(c->work, n_blocks * (int64_t)sizeof(double), &sums));
    TRY(arena_take(c->work, n_blocks * (int64_t)sizeof(double), &more));
    TRY(launch_blocks(c, a, (double *)sums, n_blocks));
    LAUNCH(sum_tree, 1, TREE_BLOCKS, (double *)sums, (double *)more, n_blocks, (double *)a->out.data);
    return OK;
}

extern "C" enum status sum_squares_fwd_cuda(struct ctx *c, const struct sum_squares *a) {
    const int64_t n = a->x.shape[0];
    CHECK_SHAPE(sum_squares, x, WIDE, n);
    if (tensor_has(a->sums)) {
        const int64_t n_blocks = ceil_div(n, SUM_SQUARES_BLOCK);
        CHECK_SHAPE(sum_squares, sums, F64, n_blocks);
        return n == 0 ? OK : launch_blocks(c, a, (double *)a->sums.data, n_blocks);
    }
    CHECK_SHAPE(sum_squares, out, F64, 1);
    if (n == 0) return OK;
    const int64_t mark = arena_mark(c->work);
    const enum status st = sum(c, a);
    arena_release(c->work, mark);
    return st;
}

extern "C" int64_t sum_squares_work_cuda(const struct ctx *, const struct sum_squares *a) {
    return 2 * arena_round(ceil_div(a->x.shape[0], SUM_SQUARES_BLOCK) * (int64_t)sizeof(double));
}
NO_BACKWARD(sum_squares)
