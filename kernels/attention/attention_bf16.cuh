/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ATTENTION_ATTENTION_BF16_CUH
#define BATON_KERNELS_ATTENTION_ATTENTION_BF16_CUH
/* attention_bf16.cuh - what the passes share.
 *
 * Ranges, documents, windows and prefixes come down to one thing: the rows [first, last] of k that a query sees.  A
 * table of them is made first, so the kernels know of nothing else, and tiles of queries need not end where ranges do.
 * Rows of k are counted in int: the launchers refuse 2^31 of them.
 *
 * A warp owns 16 rows of a tile of scores.  Tiles of q, k, v, do are rows of D elements in shared memory, D the head
 * width rounded up to 64, 128 or 256, zero outside. */
#include <limits.h>
#include "kernels/attention/attention_bf16.h"
#include "kernels/mma.cuh"
#include "kernels/ranges.cuh"

#define LOG2E 1.4426950408889634f
#define LN2   0.6931471805599453f

constexpr int BLOCK = 128;      /* queries, or keys, of one block of threads: 16 a warp */
constexpr int SPAN = 64;        /* queries of one entry of the table of tiles           */
constexpr int PROCESSORS = 132; /* of an H100 or H200; another number costs time, and no bits of results */
static_assert(BLOCK == 16 * WARPS && BLOCK % SPAN == 0, "a warp owns 16 rows");

struct seen {
    int first, last;
};
/* Of SPAN queries: some see from `first` on, some to `last`; all see [first_all, last_all]. */
struct seen_by_tile {
    int first, last, first_all, last_all;
};
/* Of a query and a head: lse in powers of 2, and do . o. */
struct row_sums {
    float lse, delta;
};
/* Of SPAN queries of a head, as threads of attention_wgmma_bwd.cu want them, whose columns are 2 c and 2 c + 1 of every
 * eight: those of two times eight in 16 bytes, and the four c side by side. */
struct tile_sums {
    float lse[SPAN], delta[SPAN];
};
static inline __device__ int place_in_tile(int q) { return q / 16 * 16 + q % 8 / 2 * 4 + q / 8 % 2 * 2 + q % 2; }

struct tables {
    struct seen *query;        /* (queries)                        */
    struct seen_by_tile *tile; /* (queries / SPAN)                 */
    struct seen *key_tile;     /* (ceil(U / BLOCK)) tiles of queries that see one of its rows, inclusive */
    struct row_sums *sums;     /* (H, queries), of heads wider than 128 */
    struct tile_sums *tiles;   /* (H, queries / SPAN), of others   */
    unsigned *turn;            /* (queries / SPAN, H) tiles of keys that have added to a tile's dq */
    int64_t queries;           /* T rounded up to BLOCK            */
    const int64_t *rest;       /* NULL, or the forward ends before this row */
};

static inline __host__ __device__ int64_t padded(int64_t T) { return ceil_div(T, BLOCK) * BLOCK; }

enum status attention_tables(struct ctx *c, const struct attention *a, bool backward, struct tables *t);
/* The forward of heads up to 128 wide (attention_wgmma.cu); the backward (attention_wgmma_bwd.cu), and its part of the
 * workspace. */
enum status attention_forward(struct ctx *c, const struct attention *a, const struct tables *t);
enum status attention_gradients(struct ctx *c, const struct attention *a, const struct tables *t);
int64_t attention_partial_bytes(const struct attention *a);

/* A matrix of BF16 in device memory: rows [0, n) of P columns. */
struct rows16 {
    const bf16_bits *at;
    int64_t pitch;
    int n, P;
};

static inline __device__ struct rows16 rows_of(const struct tensor &x, int64_t first, int64_t column, int P) {
    const int64_t left = x.shape[0] - first;
    return {(const bf16_bits *)x.data + first * x.pitch + column, x.pitch, (int)least(left, 1 << 20), P};
}

/* `rows` rows into a tile; what lies outside the matrix becomes zero. */
template <int D, int rows> static __device__ void fetch(bf16_bits *to, const struct rows16 &x) {
    constexpr int pieces = D / 8;
    static_assert(rows * pieces % THREADS == 0, "every thread copies as many pieces");
#pragma unroll
    for (int i = 0; i < rows * pieces / THREADS; i++) {
        const int at = i * THREADS + (int)threadIdx.x, r = at / pieces, col = at % pieces * 8;
        const bool inside = r < x.n && col < x.P;
        cp_async16_or_zero(tile_piece<D>(to, r, col), inside ? x.at + r * x.pitch + col : x.at, inside);
    }
}

/* `rows` rows into panels by so many threads; what lies outside the matrix becomes zero. */
template <int D, int rows, int threads>
static __device__ void fetch_panels(bf16_bits *to, const struct rows16 &x, int thread) {
    constexpr int pieces = D / 8;
#pragma unroll 8
    for (int i = 0; i < rows * pieces / threads; i++) {
        const int at = i * threads + thread, r = at / pieces, col = at % pieces * 8;
        const bool inside = r < x.n && col < x.P;
        cp_async16_or_zero(tile_piece<64>(to + col / 64 * rows * 64, r, col % 64),
                           inside ? x.at + r * x.pitch + col : x.at, inside);
    }
}

/* What a lane's two rows see, and what its warp's 16 rows see. */
struct warp_rows {
    struct seen row[2];
    struct seen_by_tile all;
};

static inline __device__ struct warp_rows warp_rows_of(const struct seen *query) {
    const int lane = threadIdx.x % WARP;
    struct warp_rows w;
    w.row[0] = query[lane / 4];
    w.row[1] = query[lane / 4 + 8];
    w.all = {min(w.row[0].first, w.row[1].first), max(w.row[0].last, w.row[1].last),
             max(w.row[0].first, w.row[1].first), min(w.row[0].last, w.row[1].last)};
    for (int half = 4; half < WARP; half *= 2) {
        w.all.first = min(w.all.first, __shfl_xor_sync(0xffffffffu, w.all.first, half));
        w.all.last = max(w.all.last, __shfl_xor_sync(0xffffffffu, w.all.last, half));
        w.all.first_all = max(w.all.first_all, __shfl_xor_sync(0xffffffffu, w.all.first_all, half));
        w.all.last_all = min(w.all.last_all, __shfl_xor_sync(0xffffffffu, w.all.last_all, half));
    }
    return w;
}

/* What any of the BLOCK queries from entry `tile` on sees; none of them: first > last. */
static inline __device__ struct seen block_sees(const struct seen_by_tile *tile) {
    struct seen s = {tile[0].first, tile[0].last};
    for (int i = 1; i < BLOCK / SPAN; i++) s = {min(s.first, tile[i].first), max(s.last, tile[i].last)};
    return s;
}

/* Scores of keys k0.. that a row does not see become `value`. */
template <int N> static __device__ void hide(float s[N][4], const struct warp_rows &w, int k0, float value) {
    const int c = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int key = k0 + 8 * n + c + e % 2;
            if (key < w.row[e / 2].first || key > w.row[e / 2].last) s[n][e] = value;
        }
}

/* Keys of one tile: what fits beside the sums in registers and, twice, in shared memory. */
static inline constexpr __host__ __device__ int keys_of(int D) { return D > 128 ? 32 : 64; }

/* s (16, 8 N) of a warp: rows m0.. of `a` times rows n0.. of `b`, D terms. */
template <int D, int N>
static __device__ void products(float s[N][4], const bf16_bits *a, int m0, const bf16_bits *b, int n0) {
#pragma unroll
    for (int n = 0; n < N; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        uint32_t fa[4];
        a_rows<D>(fa, a, m0, k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t fb[4];
            b_rows<D>(fb, b, n0 + 8 * n, k);
            mma(s[n], fa, fb[0], fb[1]);
            mma(s[n + 1], fa, fb[2], fb[3]);
        }
    }
}

/* sum (16, D) of a warp += s (16, 8 N), rounded to BF16, times rows k0.. of `b`. */
template <int D, int N>
static __device__ void add_products(float sum[D / 8][4], const float s[N][4], const bf16_bits *b, int k0) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        const uint32_t fa[4] = {pack(s[n][0], s[n][1]), pack(s[n][2], s[n][3]), pack(s[n + 1][0], s[n + 1][1]),
                                pack(s[n + 1][2], s[n + 1][3])};
#pragma unroll
        for (int d = 0; d < D / 8; d += 2) {
            uint32_t fb[4];
            b_cols<D>(fb, b, 8 * d, k0 + 8 * n);
            mma(sum[d], fa, fb[0], fb[1]);
            mma(sum[d + 1], fa, fb[2], fb[3]);
        }
    }
}

/* s (16, 8 N) of a warp, rounded: an operand of 8 N terms. */
template <int N> static __device__ void pack_all(uint32_t a[N / 2][4], const float s[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++) {
        a[n / 2][n % 2 * 2] = pack(s[n][0], s[n][1]);
        a[n / 2][n % 2 * 2 + 1] = pack(s[n][2], s[n][3]);
    }
}

/* Rows m0 + g and m0 + g + 8 of a warp's sums, times a factor each, to rows of x from `first` on. */
template <int D>
static __device__ void store(const float sum[D / 8][4], const struct tensor &x, int64_t first, int m0, int64_t column,
                             int P, const float factor[2]) {
    const int lane = threadIdx.x % WARP, c = 2 * (lane % 4);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int64_t r = first + m0 + lane / 4 + 8 * half;
        if (r >= x.shape[0]) continue;
        bf16_bits *to = (bf16_bits *)x.data + r * x.pitch + column;
#pragma unroll
        for (int d = 0; d < D / 8; d++)
            if (8 * d < P)
                *(uint32_t *)(to + 8 * d + c) =
                    pack(factor[half] * sum[d][2 * half], factor[half] * sum[d][2 * half + 1]);
    }
}

/* Scores of a row pair become weights against the new maxima, the sums shrink to them, and so must o by `shrink`.
 * Lanes 4 g to 4 g + 3 hold row g's columns in s[.][0..1], row g + 8's in s[.][2..3]. */
template <int N>
static __device__ void soften(float s[N][4], float top[2], float sum[2], float shrink[2], float scale) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most_of = top[half];
#pragma unroll
        for (int n = 0; n < N; n++) most_of = fmaxf(most_of, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        most_of = fmaxf(most_of, __shfl_xor_sync(0xffffffffu, most_of, 1));
        most_of = fmaxf(most_of, __shfl_xor_sync(0xffffffffu, most_of, 2));
        const float shift = most_of == -INFINITY ? 0.0f : scale * most_of; /* a row that sees nothing yet */
        shrink[half] = exp2_fast(fmaf(scale, top[half], -shift));
        top[half] = most_of;
        sum[half] *= shrink[half];
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                s[n][e] = exp2_fast(fmaf(scale, s[n][e], -shift));
                sum[half] += s[n][e];
            }
    }
}
template <int D> static __device__ void shrink_rows(float o[D / 8][4], const float shrink[2]) {
#pragma unroll
    for (int d = 0; d < D / 8; d++)
#pragma unroll
        for (int e = 0; e < 4; e++) o[d][e] *= shrink[e / 2];
}

/* o / sum and lse of a lane's two rows. */
template <int D>
static __device__ void finish(const struct attention &a, int64_t t0, int m0, int64_t h, const float o[D / 8][4],
                              const float top[2], float sum[2]) {
    const int lane = threadIdx.x % WARP;
    float share[2];
    for (int half = 0; half < 2; half++) {
        const int64_t t = t0 + m0 + lane / 4 + 8 * half;
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
        share[half] = 1.0f / sum[half];
        if (lane % 4 == 0 && t < a.q.shape[0]) row(a.lse, t)[h] = (float)a.scale * top[half] + logf(sum[half]);
    }
    store<D>(o, a.o, t0, m0, h * a.head_width, (int)a.head_width, share);
}

#define LAUNCH_TILES(kernel, blocks, threads, bytes, ...)                                                              \
    do {                                                                                                               \
        const int64_t blocks_ = (blocks);                                                                              \
        if (blocks_ == 0) break;                                                                                       \
        FAIL_UNLESS(blocks_ <= INT32_MAX, ERR_ARG, "attention: %" PRId64 " blocks of threads are too many", blocks_);  \
        cudaError_t e_ = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes));      \
        if (e_ == cudaSuccess) {                                                                                       \
            START(kernel, (unsigned)blocks_, (threads), (size_t)(bytes), (cudaStream_t)c->stream, __VA_ARGS__);        \
            e_ = cudaGetLastError();                                                                                   \
        }                                                                                                              \
        FAIL_UNLESS(e_ == cudaSuccess, ERR_CUDA, "the kernel %s does not start: %s; it needs an H100 or H200",         \
                    #kernel, cudaGetErrorString(e_));                                                                  \
    } while (0)
#endif
