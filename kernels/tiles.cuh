/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_TILES_CUH
#define BATON_KERNELS_TILES_CUH
/* tiles.cuh - products of 32 x 32 tiles by one block of THREADS threads, the parts of the plain SSD and attention
 * kernels.  Matrices are rows in device memory with a pitch, of any width; tiles lie in shared memory.
 *
 * Thread x owns the elements (i, j) with j = x mod 32 and i = x / 32 + 8 q, q = 0 to 3, of every tile: TILE_EACH.
 * Each helper is called by the whole block and begins and ends with a barrier, so a tile may be written before a call
 * and after it. */
#include "kernels/device.cuh"

constexpr int TILE = 32, TILE_OWN = TILE / WARPS;
typedef float tile[TILE][TILE + 1];

struct mat {
    float *at;
    int64_t pitch;
};

/* Rows of t from `first` on, columns from `column` on. */
static inline __device__ struct mat mat_of(const struct tensor &t, int64_t first, int64_t column) {
    return {row(t, first) + column, t.pitch};
}

#define TILE_EACH(i, j, q)                                                                                             \
    for (int q = 0, j = threadIdx.x % WARP, i = threadIdx.x / WARP; q < TILE_OWN; q++, i += WARPS)

/* own[q] = sum over k < K of A_i[k] B_j[k], i < n, j < m; 0 outside. */
static __device__ void tile_dots(float own[TILE_OWN], struct mat A, int n, struct mat B, int m, int64_t K) {
    __shared__ tile a, b;
    for (int q = 0; q < TILE_OWN; q++) own[q] = 0.0f;
    for (int64_t k0 = 0; k0 < K; k0 += TILE) {
        __syncthreads();
        TILE_EACH(i, j, q) {
            a[i][j] = i < n && k0 + j < K ? A.at[i * A.pitch + k0 + j] : 0.0f;
            b[i][j] = i < m && k0 + j < K ? B.at[i * B.pitch + k0 + j] : 0.0f;
        }
        __syncthreads();
        TILE_EACH(i, j, q) {
            float sum = 0.0f;
            for (int k = 0; k < TILE; k++) sum = fmaf(a[i][k], b[j][k], sum);
            own[q] += sum;
        }
    }
    __syncthreads();
}

/* Y_i[p] = keep_i Y_i[p] + sum over s < m of M[i][s] X_s[p], i < n, p < P; keep NULL: 1.  `transposed`: M[s][i]. */
template <bool transposed>
static __device__ void tile_add(struct mat Y, int n, const tile M, struct mat X, int m, int64_t P, const float *keep) {
    __shared__ tile x;
    for (int64_t p0 = 0; p0 < P; p0 += TILE) {
        __syncthreads();
        TILE_EACH(i, j, q) x[i][j] = i < m && p0 + j < P ? X.at[i * X.pitch + p0 + j] : 0.0f;
        __syncthreads();
        TILE_EACH(i, j, q) {
            if (i >= n || p0 + j >= P) continue;
            float sum = 0.0f, *y = Y.at + i * Y.pitch + p0 + j;
            for (int s = 0; s < m; s++) sum = fmaf(transposed ? M[s][i] : M[i][s], x[s][j], sum);
            *y = (keep ? keep[i] * *y : *y) + sum;
        }
    }
    __syncthreads();
}

/* Y_i[p] = 0 for i < n, p < P. */
static __device__ void tile_clear(struct mat Y, int n, int64_t P) {
    __syncthreads();
    for (int64_t p0 = 0; p0 < P; p0 += TILE)
        TILE_EACH(i, j, q) if (i < n && p0 + j < P) Y.at[i * Y.pitch + p0 + j] = 0.0f;
    __syncthreads();
}

/* M = s_i A_i[k0 + j] inside, 0 outside. */
static __device__ void tile_load(tile M, struct mat A, int n, int64_t k0, int64_t K, const float *scale) {
    __syncthreads();
    TILE_EACH(i, j, q) M[i][j] = i < n && k0 + j < K ? scale[i] * A.at[i * A.pitch + k0 + j] : 0.0f;
    __syncthreads();
}
#endif
