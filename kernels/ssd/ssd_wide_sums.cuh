/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_SSD_WIDE_SUMS_CUH
#define BATON_KERNELS_SSD_SSD_WIDE_SUMS_CUH
/* ssd_wide_sums.cuh - where threads of ssd_wide.cuh are, and what sums over rows and columns of a chunk: the double sum
 * of da (ssd_bf16_bwd.cu). */
#include "kernels/ssd/ssd_tiles.cuh"

enum { WIDE_ROWS = 128, WIDE_GROUPS = 3, WIDE_THREADS = WIDE_GROUPS * GROUP, WIDE_PANEL = WIDE_ROWS * 64 };

/* Parts of the double sum of da; later: over the block's own half of t, and over the other. */
struct wide_sums {
    float earlier[WIDE_ROWS / 16][WIDE_ROWS], diagonal[WIDE_ROWS / 16][16][17], later[2][WIDE_ROWS], across[4][8];
};
/* What a block owns, in shared memory, since registers are few: its chunk's rows and the first of the last document's,
 * the first of its heads; where rows of that head begin, its state, and sums over heads. */
struct wide_owns {
    const bf16_bits *x, *dy, *G;
    const float *cum, *dts, *D;
    bf16_bits *dx, *K;
    float *da, *v, *xq, *xdy;
    int n, last, h0, shift;
    bool through, whole, whole_dx;
};

/* Where a thread is. */
struct wide_place {
    int group, half_s, half_t;
    int strip, s, c; /* strip: of 16 rows, of eight; s: its first row; c: its first column of 8 */
    int at;          /* where row s lies in tiles of x and B */
};
static inline __device__ struct wide_place wide_find() {
    struct wide_place i;
    const int lane = threadIdx.x % WARP, warp = warp_of() % 4;
    i.group = warpgroup_of();
    i.half_s = i.group == 2, i.half_t = i.group > 0;
    i.strip = i.half_s ? 7 - warp : warp;
    i.s = 16 * i.strip + lane / 4;
    i.c = lane % 4 * 2;
    i.at = 64 * i.half_s + 16 * warp + lane / 4;
    return i;
}

/* Where a lane's row of a fragment of 16 x 16 begins in 16 rows of a panel; that of columns 16 k on: exclusive or 16 k.
 * Made anew where it is asked for, and takes no registers meanwhile. */
static inline __device__ int lane_piece() {
    int l = threadIdx.x % WARP;
    asm volatile("" : "+r"(l));
    return l % 16 * 64 + (l / 16 ^ l % 8) * 8;
}

/* 64 columns of `rows` rows, by so many threads, as panel_fetch (ssd_walk.cuh) copies them; at: of the first row's
 * first element from `from` on.  Places of rows that begin at multiples of 16 bytes are made of numbers of 32 bits. */
template <int rows, int threads, bool turned = false>
static inline __device__ void rows_fetch(bf16_bits *to, const bf16_bits *from, int at, int pitch, int n, bool whole) {
    constexpr int each = threads / 8;
    static_assert(rows % each == 0, "all threads have as many rows");
    if (!whole) return panel_fetch<rows, threads, turned>(to, from + at, pitch, n, false);
    const int first = threadIdx.x % threads / 8;
    const uint32_t own = (uint32_t)at + (uint32_t)first * (uint32_t)pitch + threadIdx.x % 8 * 8;
    to = tile_piece<64>(to, first, threadIdx.x % 8 * 8);
#pragma unroll
    for (int r = 0; r < rows; r += each)
        cp_async16_or_zero(to + (turned && r >= 64 ? r ^ 48 : r) * 64, from + (own + (uint32_t)r * (uint32_t)pitch),
                           first + r < n);
}

/* Sums over lanes that differ in bits half, half / 2 .. last: of 2 k values a lane keeps k, its upper ones where its
 * bit is set, and sends the others; one value is summed whole.  Values, not places, are chosen: no local memory. */
template <int k, int half, int last> static inline __device__ void scatter_sum(float *x) {
    if constexpr (half >= last) {
        const bool upper = threadIdx.x & half;
        if constexpr (k == 0) x[0] += __shfl_xor_sync(0xffffffffu, x[0], half);
#pragma unroll
        for (int i = 0; i < k; i++) {
            const float low = x[i], high = x[i + k];
            x[i] = (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, half);
        }
        scatter_sum<k / 2, half / 2, last>(x);
    }
}

/* A thread's two rows s: what decays are made of (f: to `middle`), and sums of M (x dy^T) over blocks of later columns
 * and over its own block. */
struct wide_two {
    float cum[2], dts[2], f[2], later[2], own[2];
};

/* Sums over the columns and rows of a warp go to wide_sums; two->later and own are whole afterwards. */
static __device__ void wide_sum(const struct wide_place &i, float (&col)[16], struct wide_two *two,
                                struct wide_sums *w) {
    scatter_sum<8, 16, 4>(col); /* over a warp's rows: two columns to a lane */
    *(float2 *)(w->earlier[i.strip] + 64 * i.half_t + threadIdx.x % WARP / 4 * 8 + i.c) = make_float2(col[0], col[1]);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        two->later[half] = quad_sum(two->later[half]);
        if (i.group != 1) two->own[half] = quad_sum(two->own[half]);
        if (i.c == 0) w->later[i.half_t - i.half_s][i.s + 8 * half] = two->dts[half] * two->later[half];
    }
}

/* The double sum of da inside the 16 x 16 blocks on the diagonal: by a warp, two of them, a lane for a column t, then
 * for a row j: the sum over s < j of W[s][t], over t >= j. */
static __device__ float diagonal_sums(const struct wide_sums *w, int warp) {
    const int lane = threadIdx.x % WARP, t = lane % 16;
    const float(*W)[17] = w->diagonal[2 * warp + lane / 16];
    float sum = 0.0f, x[16];
#pragma unroll
    for (int j = 0; j < 16; j++) {
        x[j] = t >= j ? sum : 0.0f;
        sum += W[j][t];
    }
    scatter_sum<8, 8, 1>(x);
    return x[0];
}

/* What blocks off the diagonal add, by a warpgroup, thread t for column t, then for row t: `earlier` summed over the
 * strips before a block, of columns in later blocks (across), and of its own from row j on; `later` of rows before j.
 */
static __device__ float block_sums(struct wide_sums *w) {
    const int t = threadIdx.x % GROUP, lane = threadIdx.x % WARP, l = t % 16;
    float sum = 0.0f, own = 0.0f, x[8];
#pragma unroll
    for (int block = 0; block < 8; block++) {
        x[block] = block < t / 16 ? sum : 0.0f;
        if (block == t / 16) own = sum;
        if (block < t / 16) sum += w->earlier[block][t];
    }
    scatter_sum<4, 16, 1>(x);
    if (lane % 4 == 0) w->across[t / WARP][lane / 4] = x[0];
    float later = w->later[0][t] + (t < 64 ? w->later[1][t] : 0.0f);
#pragma unroll
    for (int by = 1; by < 16; by *= 2) {
        const float o = __shfl_down_sync(0xffffffffu, own, by), a = __shfl_up_sync(0xffffffffu, later, by);
        if (l + by < 16) own += o;
        if (l >= by) later += a;
    }
    barrier_of(2, ALL_MEET ? WIDE_THREADS : GROUP);
    const float before = __shfl_up_sync(0xffffffffu, later, 1);
    sum = own + (l > 0 ? before : 0.0f);
    for (int k = 0; k < GROUP / WARP; k++) sum += w->across[k][t / 16];
    return sum;
}

static __device__ void store_da(const struct wide_owns &o, int head, struct wide_sums *w) {
    const int t = threadIdx.x % GROUP;
    const float da = diagonal_sums(w, t / WARP) + block_sums(w);
    if (t < o.n) o.da[head * WIDE_ROWS + t] = da;
}
#endif
