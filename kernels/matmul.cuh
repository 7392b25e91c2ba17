/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_MATMUL_CUH
#define BATON_KERNELS_MATMUL_CUH
/* matmul.cuh - C (m, n) = alpha op(A) op(B) + beta C with FMA in F32, matrices of any shape with a row pitch.
 *
 * A block of threads owns SIDE x SIDE elements of C, a thread 4 x 4 of them; DEPTH terms are summed in F32, those sums
 * in F64.  The order is fixed by the shape: the same bits every time.  With beta = 0, C is not read. */
#include "kernels/packs.cuh"

/* Elements of A and B are `real`, of C `out`. */
template <typename real, typename out> struct factors {
    const real *A, *B;
    const float *bias; /* added to every row of C; may be NULL */
    out *C;
    int64_t m, n, k, lda, ldb, ldc;
    float alpha, beta;
};

constexpr int SIDE = 64, DEPTH = 16, EACH = SIDE / 16;
static_assert(EACH * EACH * THREADS == SIDE * SIDE, "every element of a tile has a thread");

/* Rows [at, at + SIDE) and terms [k0, k0 + DEPTH) of op(X) into shared memory, 0 outside; `along`: terms lie side by
 * side in memory, not rows. */
template <bool along, typename real>
static __device__ void matmul_load(float to[DEPTH][SIDE + 1], const real *X, int64_t ld, int64_t at, int64_t rows,
                                   int64_t k0, int64_t k) {
    for (int e = threadIdx.x; e < SIDE * DEPTH; e += THREADS) {
        const int i = along ? e / DEPTH : e % SIDE, d = along ? e % DEPTH : e / SIDE;
        const bool in = at + i < rows && k0 + d < k;
        to[d][i] = !in ? 0.0f : one(X + (along ? (at + i) * ld + k0 + d : (k0 + d) * ld + at + i));
    }
}

/* total += the tile of op(A) op(B) at (i0, j0): of a thread, rows threadIdx.x / 16 + 16 i, columns % 16 + 16 j. */
template <bool trans_a, bool trans_b, typename real, typename out>
static __device__ void matmul_add(double total[EACH][EACH], const struct factors<real, out> &x, int64_t i0,
                                  int64_t j0) {
    __shared__ float a[DEPTH][SIDE + 1], b[DEPTH][SIDE + 1];
    const int ti = threadIdx.x / 16, tj = threadIdx.x % 16;
    for (int64_t k0 = 0; k0 < x.k; k0 += DEPTH) {
        matmul_load<!trans_a>(a, x.A, x.lda, i0, x.m, k0, x.k);
        matmul_load<trans_b>(b, x.B, x.ldb, j0, x.n, k0, x.k);
        __syncthreads();
        float sum[EACH][EACH] = {};
        for (int d = 0; d < DEPTH; d++)
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < EACH; j++) sum[i][j] = fmaf(a[d][ti + 16 * i], b[d][tj + 16 * j], sum[i][j]);
        for (int i = 0; i < EACH; i++)
            for (int j = 0; j < EACH; j++) total[i][j] += (double)sum[i][j];
        __syncthreads();
    }
}

template <typename real, typename out>
static __device__ void matmul_store(const double total[EACH][EACH], const struct factors<real, out> &x, int64_t i0,
                                    int64_t j0) {
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) {
            const int64_t r = i0 + threadIdx.x / 16 + 16 * i, s = j0 + threadIdx.x % 16 + 16 * j;
            if (r >= x.m || s >= x.n) continue;
            out *to = x.C + r * x.ldc + s;
            const float v = x.alpha * (float)total[i][j] + (x.bias ? x.bias[s] : 0.0f);
            set(to, x.beta == 0.0f ? v : v + x.beta * one(to));
        }
}

template <bool trans_a, bool trans_b>
__global__ __launch_bounds__(THREADS) static void matmul_tiles(const struct factors<float, float> x) {
    const int64_t across = ceil_div(x.n, SIDE), i0 = blockIdx.x / across * SIDE, j0 = blockIdx.x % across * SIDE;
    double total[EACH][EACH] = {};
    matmul_add<trans_a, trans_b>(total, x, i0, j0);
    matmul_store(total, x, i0, j0);
}

/* Sizes come from the tensors, which agree (the ops check). */
static inline enum status matmul(struct ctx *c, bool trans_a, bool trans_b, float alpha, struct tensor A,
                                 struct tensor B, float beta, struct tensor C, const float *bias) {
    struct factors<float, float> x = {
        (const float *)A.data, (const float *)B.data, bias,
            (float *)C.data, C.shape[0], C.shape[1], A.shape[trans_a ? 0 : 1], A.pitch, B.pitch, C.pitch, alpha, beta
    };
    const int64_t tiles = ceil_div(x.m, SIDE) * ceil_div(x.n, SIDE);
    FAIL_UNLESS(tiles < INT32_MAX, ERR_ARG, "a product of %" PRId64 " x %" PRId64 " elements has too many tiles", x.m,
                x.n);
    const dim3 grid((unsigned)tiles);
    ASSERT(!(trans_a && trans_b)); /* no op needs it */
    if (trans_a) LAUNCH((matmul_tiles<true, false>), grid, THREADS, x);
    else if (trans_b) LAUNCH((matmul_tiles<false, true>), grid, THREADS, x);
    else LAUNCH((matmul_tiles<false, false>), grid, THREADS, x);
    return OK;
}
#endif
