/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_SSD_TILES_CUH
#define BATON_KERNELS_SSD_SSD_TILES_CUH
/* ssd_tiles.cuh - decays between the rows of a chunk, for both passes of ssd.h in BF16. */
#include "kernels/ssd/ssd.h"
#include "kernels/ssd/ssd_bf16.h"
#include "kernels/ssd_join.cuh"

/* As kernels count heads. */
static inline struct ssd ssd_by_halves(const struct ssd *a) {
    struct ssd k = *a;
    k.heads <<= ssd_shift(a->head_width), k.head_width = SSD_P;
    k.states = ssd_halves(a->states), k.dstates = ssd_halves(a->dstates);
    return k;
}

/* Workspace of backward: (c, H, Q) each; decays and products (c, H); K (parts, c, G, Q, Q) BF16 as [s][t]; sums (c, H,
 * N_SUMS).  Heads are of width 64 but in decays and sums; of N 256 u and products are there twice, once for each half
 * of the columns. */
struct scratch {
    float *da, *u, *v, *xq, *xdy, *decays, *products;
    bf16_bits *K;
    double *sums;
    int64_t n_chunks, parts;
    int shift; /* ssd_bf16.cuh */
};
static __device__ bf16_bits *weights_at(const struct ssd &a, const struct scratch &w, int64_t part, int64_t chunk,
                                        int64_t g) {
    return w.K + ((part * w.n_chunks + chunk) * a.groups + g) * a.chunk * a.chunk;
}

static inline __device__ int64_t rows_at(const struct ssd &a, int64_t chunk, int64_t h) {
    return (chunk * a.heads + h) * a.chunk;
}

/* First row of the chunk that each row sees; rows that do not exist see none. */
static __device__ void first_seen(const struct tensor &pos, const struct place &p, int rows, int *from) {
    for (int t = threadIdx.x; t < rows; t += blockDim.x)
        from[t] = t < p.n ? (int)most(0, t - long_at(pos, p.k.begin + t)) : INT32_MAX;
}

/* What a head's decays are made of, in shared memory: cum in powers of 2; dts; and reach, dts of a row times the decay
 * from it to the last row of its 16.  So a block of 16 x 16 that lies off the diagonal and is seen whole costs an
 * exponential a row, not an element: L[t, s] dts_s = exp(cum_t - cum_last) reach_s, and both exponents are below 0. */
template <int Q> struct head_steps { float cum[Q], dts[Q], reach[Q]; };
/* On their way through registers of thread t: of row t, and cum of the last row of its 16. */
struct step_on_way {
    float cum, last, dts;
};
template <int Q>
static inline __device__ struct step_on_way step_fetch(const struct ssd &a, const struct place &p, int64_t h) {
    const int t = threadIdx.x, last = t | 15;
    struct step_on_way s = {0.0f, 0.0f, 0.0f};
    if (t >= Q || t >= p.n) return s;
    s.cum = row(a.cum, p.k.begin + t)[h];
    s.last = row(a.cum, p.k.begin + (last < p.n ? last : p.n - 1))[h];
    s.dts = row(a.dts, p.k.begin + t)[h];
    return s;
}
template <int Q> static inline __device__ void step_store(struct head_steps<Q> *to, const struct step_on_way &s) {
    const int t = threadIdx.x;
    if (t >= Q) return;
    to->cum[t] = s.cum * LOG2_E;
    to->dts[t] = s.dts;
    to->reach[t] = s.dts * exp2_fast(fminf((s.last - s.cum) * LOG2_E, 0.0f));
}

/* L[t, s], e_t, w_s */
static inline __device__ float decay_of(const float *cum, const int *from, int t, int s) {
    return s <= t && s >= from[t] ? exp2_fast(fminf(cum[t] - cum[s], 0.0f)) : 0.0f;
}
static inline __device__ float decay_in(const struct place &p, const float *cum, int t) {
    return t < p.n_enter ? exp2_fast(fminf(cum[t], 0.0f)) : 0.0f;
}
static inline __device__ float decay_out(const struct place &p, const float *cum, int s) {
    return s >= p.last && s < p.n ? exp2_fast(fminf(cum[p.n - 1] - cum[s], 0.0f)) : 0.0f;
}
/* The first row that all rows of a block of 16 see, of those that exist. */
static inline __device__ int seen_by_all(const int *from, int block, int n) {
    int most_from = 0;
    for (int t = 16 * block; t < 16 * block + 16 && t < n; t++) most_from = from[t] > most_from ? from[t] : most_from;
    return most_from;
}

static inline __device__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* A warp's 16 rows of a panel, from which `piece` is this lane's in its first four rows, into rows of a matrix, of
 * which n exist from the lane's first on; whole: 16 bytes at a time. */
static inline __device__ void rows_leave(bf16_bits *to, int pitch, const bf16_bits *panel, int piece, int n,
                                         bool whole) {
#pragma unroll
    for (int k = 0; k < 16; k += 4) {
        const bf16_bits *from = panel + k * 64 + (piece ^ k % 8 * 8);
        if (k >= n) continue;
        if (whole) store_whole(to + (int64_t)k * pitch, *(const uint4 *)from);
        else
            for (int e = 0; e < 8; e++) to[(int64_t)k * pitch + e] = from[e];
    }
}

/* Warps that do much beside warps that do little, on each quarter of the processor. */
static inline __device__ int strip_of(int warp, int n_warps) { return n_warps == 8 && warp >= 4 ? 11 - warp : warp; }
#endif
