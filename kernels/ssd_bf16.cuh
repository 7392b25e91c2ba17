/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_BF16_CUH
#define BATON_KERNELS_SSD_BF16_CUH
/* ssd_bf16.cuh - what both halves of the SSD scan in BF16 share.  x, B, C, dt, y and their gradients are BF16, so are
 * states and dstates, one for each chunk, which are products' operands anyway; dts, cum, what enters and leaves ranges,
 * decays and every sum are F32.
 *
 * A block of threads owns a chunk and some heads of one group: tiles of B and C are loaded once for all of them, tiles
 * of x, dy and of states come one head ahead.  Bounds of exponents are in powers of 2: cum times log2 e.
 *
 * A head of width 128 is two of width 64 that have the same time steps, A, B and C: kernels count halves as heads, and
 * tensors (., H, P, N) are the same memory as (., 2 H, P / 2, N).  What they have in common is read at h >> shift, and
 * gradients of it are sums over both. */
#include "kernels/mma.cuh"
#include "kernels/ssd_chunk.cuh"

#define SSD_P      64 /* head width */
#define LOG2_E     1.4426950408889634f
#define SSD_SHAPES "head_width 64, or 128 with chunk 128, state 64, 128 or 256, chunk 64 or 128"

static inline bool ssd_has_shape(int64_t P, int64_t N, int64_t Q) {
    return (P == SSD_P || (P == 2 * SSD_P && Q == 128)) && (N == 64 || N == 128 || N == 256) && (Q == 64 || Q == 128);
}
static inline int ssd_shift(int64_t P) { return P > SSD_P ? 1 : 0; }
/* (., H, P, N) as kernels count heads. */
static inline struct tensor ssd_halves(struct tensor t) {
    t.shape[1] *= t.shape[2] / SSD_P;
    t.shape[2] = SSD_P;
    return t;
}

/* Calls f<N, Q>(args): every pair of sizes that ssd_has_shape allows. */
#define SSD_FOR_SHAPE(n, q, f, ...)                                                                                    \
    do {                                                                                                               \
        if ((n) == 64 && (q) == 64) TRY((f<64, 64>(__VA_ARGS__)));                                                     \
        else if ((n) == 64) TRY((f<64, 128>(__VA_ARGS__)));                                                            \
        else if ((n) == 128 && (q) == 64) TRY((f<128, 64>(__VA_ARGS__)));                                              \
        else if ((n) == 128) TRY((f<128, 128>(__VA_ARGS__)));                                                          \
        else if ((q) == 64) TRY((f<256, 64>(__VA_ARGS__)));                                                            \
        else TRY((f<256, 128>(__VA_ARGS__)));                                                                          \
    } while (0)

/* Heads of one block: a divisor of the group's heads, at most `most_heads`. */
static inline int64_t heads_of_block(int64_t per_group, int64_t most_heads) {
    int64_t n = per_group < most_heads ? per_group : most_heads;
    while (per_group % n) n--;
    return n;
}

static inline __host__ __device__ bool rows_whole(const struct tensor &t) {
    return (uintptr_t)t.data % 16 == 0 && t.pitch % 8 == 0;
}
static inline bool rows_pair(struct tensor t) { return (uintptr_t)t.data % 4 == 0 && t.pitch % 2 == 0; }

static inline __device__ bf16_bits *row16(const struct tensor &t, int64_t i) {
    return (bf16_bits *)t.data + i * t.pitch;
}
static inline __device__ bf16_bits *state16(const struct tensor &t, int64_t chunk, int64_t h) {
    return row16(t, chunk) + h * t.shape[2] * t.shape[3];
}
static inline __device__ bf16_bits bf16_of(float x) { return (bf16_bits)pack(x, 0.0f); }

/* Where a block is: its chunk, the group, the first of its heads. */
struct place {
    struct device_span k;
    int64_t chunk, g, h0;
    int n;             /* rows of the chunk                                                        */
    int n_enter, last; /* rows of the document that enters; first row of the last row's document   */
};
/* What hangs on ranges alone: the chunk's rows, the group, the heads; in 32 bits, since divisions of 64 take as long as
 * a load.  Then what hangs on positions, one load later. */
static __device__ bool place_begin(unsigned item, const struct tensor &range, int64_t chunk_rows, int64_t groups,
                                   int64_t per_group, int64_t heads, struct place *p) {
    const unsigned parts = (unsigned)per_group / (unsigned)heads, each = (unsigned)groups * parts;
    const int bits = chunk_rows == 64 ? 6 : 7;
    int64_t left = item / each;
    p->chunk = left, p->g = item / parts % (unsigned)groups;
    p->h0 = p->g * per_group + item % parts * heads;
    for (int64_t r = 0; r < range.shape[0] - 1; r++) {
        const int64_t begin = long_at(range, r), end = long_at(range, r + 1);
        const int64_t n = (end - begin + chunk_rows - 1) >> bits;
        if (left < n) {
            p->k.range = r, p->k.begin = begin + (left << bits), p->k.end = least(end, p->k.begin + chunk_rows);
            p->n = (int)(p->k.end - p->k.begin);
            return true;
        }
        left -= n;
    }
    return false;
}
static __device__ void place_end(const struct tensor &pos, struct place *p) {
    p->k = span_at(pos, p->k.range, p->k.begin, p->k.end);
    p->last = (int)(p->k.last - p->k.begin);
    int enter = p->k.through ? p->n : 0; /* few chunks have a document's start */
    while (enter < p->n && long_at(pos, p->k.begin + enter) > enter) enter++;
    p->n_enter = enter;
}
static __device__ bool place_of(int64_t item, const struct tensor &range, const struct tensor &pos, int64_t chunk_rows,
                                int64_t groups, int64_t per_group, int64_t heads, struct place *p) {
    if (!place_begin((unsigned)item, range, chunk_rows, groups, per_group, heads, p)) return false;
    place_end(pos, p);
    return true;
}
static __device__ bool place_find(const struct tensor &range, const struct tensor &pos, int64_t chunk_rows,
                                  int64_t groups, int64_t per_group, int64_t heads, struct place *p) {
    return place_of(blockIdx.x, range, pos, chunk_rows, groups, per_group, heads, p);
}

/* The factor that a state keeps through each (chunk, head). */
__global__ static void chunk_decays(const struct tensor range, const struct tensor pos, const struct tensor cum,
                                    int64_t chunk_rows, int64_t n_chunks, float *decays) {
    const int64_t H = cum.shape[1];
    struct device_span k;
    FOR_CELLS(chunk, h, n_chunks, H)
    if (span_find(range, pos, chunk_rows, chunk, &k)) decays[chunk * H + h] = ssd_chunk_decay(k, cum, h);
}
static inline int64_t decays_bytes(int64_t n_chunks, int64_t H) {
    return arena_round(n_chunks * H * (int64_t)sizeof(float));
}

/* Along the chunks of a range, a thread for eight elements of the state of a (range, head); state = decay state + own.
 * replace: own states become what stands before them.  up: from the last chunk down.  first: (R, H, P, N) or absent:
 * zero; last: likewise, or not wanted.  States come AHEAD chunks before they are needed: 64 bytes a thread. */
enum { AHEAD = 4 };
struct ahead {
    uint4 own[AHEAD];
    float keep[AHEAD];
};
static __device__ void states_fetch(struct ahead *a, const uint4 *state, const float *decay, int64_t step,
                                    int64_t step_decay, int64_t left) {
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        if (i < left) a->own[i] = state[i * step], a->keep[i] = decay[i * step_decay];
}
static inline __device__ uint4 state_pack(const float x[8]) {
    return make_uint4(pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7]));
}
static inline __device__ void state_step(float x[8], float keep, uint4 own) {
    const uint32_t w[4] = {own.x, own.y, own.z, own.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = fmaf(keep, x[2 * i], low_half(w[i]));
        x[2 * i + 1] = fmaf(keep, x[2 * i + 1], high_half(w[i]));
    }
}

template <bool replace, bool up>
__global__ static void walk_chunks(const struct tensor range, int64_t chunk_rows, const struct tensor states,
                                   const float *decays, const struct tensor first, const struct tensor last) {
    const int64_t H = states.shape[1], PN = states.shape[2] * states.shape[3], R = range.shape[0] - 1;
    const int64_t step = (up ? -1 : 1) * H * PN / 8, step_decay = (up ? -1 : 1) * H;
    FOR_CELLS(item, e, R * H, PN / 8) {
        const int64_t r = item / H, h = item % H, n = ceil_div(long_at(range, r + 1) - long_at(range, r), chunk_rows);
        const int64_t begin = spans_before(range, r, chunk_rows) + (up ? n - 1 : 0);
        uint4 *state = (uint4 *)row16(states, 0) + (begin * H + h) * (PN / 8) + e;
        const float *decay = decays + begin * H + h;
        float now[8] = {};
        for (int i = 0; i < 8 && first.data; i++) now[i] = state_of(first, r, h)[8 * e + i];
        struct ahead next;
        states_fetch(&next, state, decay, step, step_decay, n);
        for (int64_t i0 = 0; i0 < n; i0 += AHEAD) {
            const struct ahead a = next;
            states_fetch(&next, state + AHEAD * step, decay + AHEAD * step_decay, step, step_decay, n - i0 - AHEAD);
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                if (i0 + i >= n) continue;
                if (replace) state[i * step] = state_pack(now);
                state_step(now, a.keep[i], a.own[i]);
            }
            state += AHEAD * step;
            decay += AHEAD * step_decay;
        }
        for (int i = 0; i < 8 && last.data; i++) state_of(last, r, h)[8 * e + i] = now[i];
    }
}
#endif
