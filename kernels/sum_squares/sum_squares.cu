/* SPDX-License-Identifier: Apache-2.0 */
/* The order of the contract to the bit: 16 threads are the 16 lanes of a block of elements. */
#include "kernels/sum_squares/sum_squares.h"
#include "kernels/device.cuh"

#define LANES      16
#define GROUP      (THREADS / LANES) /* blocks of elements of a block of threads: a power of two        */
#define AHEAD      32                /* numbers that a lane has under way                               */
#define TREE       2048              /* sums of a block of threads, one level of the tree between pairs */
#define TREE_BLOCK (TREE / 2)

/* room[0..n) in a binary tree, an odd one passes up; the sum ends in room[0].  For a block whose threads from n / 2 on
 * have nothing to do. */
static __device__ void tree(double *room, int n) {
    for (; n > 1; n = (n + 1) / 2) {
        __syncthreads();
        const int i = threadIdx.x;
        const double sum = 2 * i + 1 < n ? room[2 * i] + room[2 * i + 1] : 2 * i < n ? room[2 * i] : 0.0;
        __syncthreads();
        if (2 * i < n) room[i] = sum;
    }
    __syncthreads();
}

/* Reads 4 n bytes.  A block of threads leaves the sums of GROUP blocks of elements, or their tree as one. */
template <bool whole_tree>
__global__ __launch_bounds__(THREADS) static void sum_blocks(const float *x, int64_t n, double *sums,
                                                             int64_t n_blocks) {
    __shared__ double room[GROUP];
    const int64_t first = (int64_t)blockIdx.x * GROUP, block = first + threadIdx.x / LANES;
    const int lane = threadIdx.x % LANES;
    const int64_t end = least(n, (block + 1) * SUM_SQUARES_BLOCK);
    int64_t i = block * SUM_SQUARES_BLOCK + lane;
    double sum = 0.0;
    for (; i + (AHEAD - 1) * LANES < end; i += AHEAD * LANES) {
        float v[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; k++) v[k] = x[i + k * LANES];
#pragma unroll
        for (int k = 0; k < AHEAD; k++) sum += (double)v[k] * (double)v[k];
    }
    for (; i < end; i += LANES) sum += (double)x[i] * (double)x[i];
    for (int half = LANES / 2; half > 0; half /= 2) sum += __shfl_down_sync(0xffffffffu, sum, half, LANES);
    if (!whole_tree) {
        if (lane == 0 && block < n_blocks) sums[block] = sum;
        return;
    }
    if (lane == 0) room[threadIdx.x / LANES] = sum;
    tree(room, (int)least(GROUP, n_blocks - first));
    if (threadIdx.x == 0) sums[blockIdx.x] = room[0];
}

/* to[b] = the tree of from[b TREE ..); with `out`, the only block's is added to it. */
__global__ __launch_bounds__(TREE_BLOCK) static void sum_tree(const double *from, int64_t n, double *to, double *out) {
    __shared__ double room[TREE];
    const int64_t first = (int64_t)blockIdx.x * TREE;
    const int here = (int)least(TREE, n - first);
    for (int i = threadIdx.x; i < here; i += TREE_BLOCK) room[i] = from[first + i];
    tree(room, here);
    if (threadIdx.x == 0 && out) *out += room[0];
    if (threadIdx.x == 0 && !out) to[blockIdx.x] = room[0];
}

static enum status sum(struct ctx *c, const struct sum_squares *a) {
    const int64_t n_blocks = ceil_div(a->x.shape[0], SUM_SQUARES_BLOCK);
    int64_t left = ceil_div(n_blocks, GROUP);
    void *sums, *more;
    TRY(arena_take(c->work, left * (int64_t)sizeof(double), &sums));
    TRY(arena_take(c->work, ceil_div(left, TREE) * (int64_t)sizeof(double), &more));
    double *from = (double *)sums, *to = (double *)more;
    LAUNCH(sum_blocks<true>, dim3((unsigned)left), THREADS, (const float *)a->x.data, a->x.shape[0], from, n_blocks);
    for (; left > TREE; left = ceil_div(left, TREE)) {
        LAUNCH(sum_tree, dim3((unsigned)ceil_div(left, TREE)), TREE_BLOCK, from, left, to, (double *)NULL);
        double *const other = from;
        from = to;
        to = other;
    }
    LAUNCH(sum_tree, 1, TREE_BLOCK, from, left, to, (double *)a->out.data);
    return OK;
}

extern "C" enum status sum_squares_fwd_cuda(struct ctx *c, const struct sum_squares *a) {
    const int64_t n = a->x.shape[0];
    CHECK_SHAPE(sum_squares, x, WIDE, n);
    if (tensor_has(a->sums)) {
        const int64_t n_blocks = ceil_div(n, SUM_SQUARES_BLOCK);
        CHECK_SHAPE(sum_squares, sums, F64, n_blocks);
        LAUNCH(sum_blocks<false>, dim3((unsigned)ceil_div(n_blocks, GROUP)), THREADS, (const float *)a->x.data, n,
               (double *)a->sums.data, n_blocks);
        return OK;
    }
    CHECK_SHAPE(sum_squares, out, F64, 1);
    if (n == 0) return OK;
    const int64_t mark = arena_mark(c->work);
    const enum status st = sum(c, a);
    arena_release(c->work, mark);
    return st;
}

extern "C" int64_t sum_squares_work_cuda(const struct ctx *, const struct sum_squares *a) {
    const int64_t left = ceil_div(ceil_div(a->x.shape[0], SUM_SQUARES_BLOCK), GROUP), each = sizeof(double);
    return arena_round(left * each) + arena_round(ceil_div(left, TREE) * each);
}
NO_BACKWARD(sum_squares)
