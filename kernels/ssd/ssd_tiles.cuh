/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_SSD_TILES_CUH
#define BATON_KERNELS_SSD_SSD_TILES_CUH
/* ssd_tiles.cuh - decays between the rows of a chunk, for both passes of ssd.h in BF16. */
#include "kernels/ssd/ssd.h"
#include "kernels/ssd/ssd_bf16.h"
#include "kernels/ssd_bf16.cuh"

enum { SUM_A_LOG, SUM_DT_BIAS, SUM_D, N_SUMS };

/* Workspace of backward: (T, H) each, but decays, products (c, H), K (parts, c, G, Q, Q) BF16 as [s][t], sums (c, H,
 * N_SUMS). */
struct scratch {
    float *da, *u, *v, *xq, *xdy, *decays, *products;
    bf16_bits *K;
    double *sums;
    int64_t n_chunks, parts;
};
static __device__ bf16_bits *weights_at(const struct ssd &a, const struct scratch &w, int64_t part, int64_t chunk,
                                        int64_t g) {
    return w.K + ((part * w.n_chunks + chunk) * a.groups + g) * a.chunk * a.chunk;
}

/* First row of the chunk that each row sees; rows that do not exist see none. */
static __device__ void first_seen(const struct tensor &pos, const struct place &p, int rows, int *from) {
    for (int t = threadIdx.x; t < rows; t += blockDim.x)
        from[t] = t < p.n ? (int)most(0, t - long_at(pos, p.k.begin + t)) : INT32_MAX;
}

/* L[t, s] */
static inline __device__ float decay_of(const float *cum, const int *from, int t, int s) {
    return s <= t && s >= from[t] ? exp2_fast(fminf((cum[t] - cum[s]) * LOG2_E, 0.0f)) : 0.0f;
}
/* e_t and w_s */
static inline __device__ float decay_in(const struct place &p, const float *cum, int t) {
    return t < p.n_enter ? exp2_fast(fminf(cum[t] * LOG2_E, 0.0f)) : 0.0f;
}
static inline __device__ float decay_out(const struct place &p, const float *cum, int s) {
    return s >= p.last && s < p.n ? exp2_fast(fminf((cum[p.n - 1] - cum[s]) * LOG2_E, 0.0f)) : 0.0f;
}

static inline __device__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* Warps that do much beside warps that do little, on each quarter of the processor. */
static inline __device__ int strip_of(int warp, int n_warps) { return n_warps == 8 && warp >= 4 ? 11 - warp : warp; }
#endif
