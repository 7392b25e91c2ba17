/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_WALK_CUH
#define BATON_KERNELS_SSD_WALK_CUH
/* ssd_walk.cuh - the SSD scan as a walk, for both halves and both directions: a warpgroup owns a head, holds its state
 * in F32 registers and goes over the tokens of a segment in steps of 64, two heads of a group to a block, so that tiles
 * of B and C come once for both.  No state is in memory but those that backward keeps, one a chunk.
 *
 *   a step   S = exp(cum_end - cum_before) S + sum_t weight_t X_t Y_t^T          (T, H P) X, (T, G N) Y
 *            down: X = x, Y = B, weight_t = exp(cum_end - cum_t) dts_t;  up: X = dy, Y = C, weight_t = exp(cum_t -
 *            cum_before), last step first.  Outputs y: ssd_steps.cuh
 *   segment  ssd_segment tokens of a range, from its start: enough of them to fill a GPU.  ssd_local's walk begins with
 *            zero and ends with what the segment adds, which it leaves, rounded, in the slot of the segment's first
 *            chunk (up: its last) of states (dstates); ssd joins them from what enters the range and walks again.  The
 *            length hangs on the shape alone, so that a range gives the same bits on every mesh.
 *   N 256    is two halves of 128 columns, whose states hang on nothing of each other: without outputs a block owns a
 *            half; with them one head, whose state two warpgroups carry
 *   shapes   an even number of heads (of width 64) to a group: ssd_walks */
#include "kernels/ssd_bf16.cuh"
#include "kernels/wgmma.cuh"

enum { STEP = 64, WALK_HEADS = 2, WALK_THREADS = WALK_HEADS * GROUP, PANEL = STEP * 64 };

/* The thread's warp and group in its block. */
static inline __device__ int warp_of() { return same((int)threadIdx.x / WARP); }
static inline __device__ int warpgroup_of() { return same((int)threadIdx.x / GROUP); }

/* Products of 64 x 64 x 16, a thread's 32 sums as d[4 j + e] for d[j][e] of wgmma.cuh.  16 terms from column k on of a
 * panel's rows from i on, or from row k on of its 64 columns. */
static inline __device__ struct operand panel_rows(const bf16_bits *panel, int i, int k) {
    return rows_at(panels_here(panel), 0, i, k);
}
static inline __device__ struct operand panel_cols(const bf16_bits *panel, int k) {
    return cols_at(panels_here(panel), 64, k, 0);
}
template <bool a_cols, bool b_cols>
static inline __device__ void product(float (&d)[32], struct operand a, struct operand b, bool add) {
    wgmma_shared<64, a_cols, b_cols>((float(*)[4])d, a, b, add);
}
template <bool b_cols>
static inline __device__ void product(float (&d)[32], const uint32_t (&a)[4], struct operand b, bool add) {
    wgmma_registers<64, b_cols>((float(*)[4])d, a, b, add);
}
static inline __device__ void sums_ended(float (&d)[32]) { wgmma_settled<8>((float(*)[4])d); }

/* Columns of a state that a warpgroup carries, and heads of a block. */
template <int N> constexpr int walk_cols = N > 128 ? 128 : N;
template <int N, bool outputs> constexpr int walk_heads = outputs &&N > 128 ? 1 : WALK_HEADS;

static inline bool ssd_walks(int64_t heads, int64_t groups, int64_t P) {
    return heads * (P / SSD_P) / groups % WALK_HEADS == 0;
}
static inline int64_t ssd_segment(int64_t heads, int64_t chunk) { return ceil_div(32 * heads, chunk) * chunk; }

struct walk {
    int64_t heads, groups, state, chunk, segment;
    int shift; /* ssd_bf16.cuh                                                               */
    struct tensor range, pos, cum, dts;
    struct tensor X, Y;      /* what a step adds to the state                                              */
    struct tensor Z, y, x_D; /* with outputs: C (T, G N), y (T, H P), D (H)                                */
    struct tensor states;    /* (c, H, P, N): what enters (up: leaves) every chunk; absent: not wanted     */
    const float *begin;      /* (segments, H, P, N): what a segment begins with; NULL: zero                */
    float *end;              /* likewise: what it ends with; NULL: not wanted                              */
    struct tensor range_end; /* (R, H, P, N): what a range ends with, or absent                            */
    bool whole, whole_y;     /* rows begin at multiples of 16 bytes                                        */
};

/* A head's step: cum and dts of its rows, those past the end as the last (dts: anything); cum before the first. */
struct step_raw {
    float cum[STEP], dts[STEP], before;
};
template <int N, bool outputs> struct walk_stage {
    bf16_bits X[walk_heads<N, outputs>][PANEL], Y[N / 64][PANEL], Z[outputs ? N / 64 : 1][outputs ? PANEL : 512];
};
enum { STAGES = 2 };
/* With outputs S is double: what a step reads, and what the next one will. */
template <int N, bool outputs> struct walk_shared {
    enum { HEADS = walk_heads<N, outputs> };
    walk_stage<N, outputs> stage[STAGES];
    bf16_bits S[outputs ? 2 : 1][HEADS][N / 64][PANEL], out[HEADS][outputs ? PANEL : 512];
    struct step_raw raw[STAGES][HEADS];
    float weight[HEADS][STEP], reach[HEADS][STEP], in[HEADS][STEP];
    int from[HEADS][STEP];
    int64_t pos[STAGES]; /* of the step's last row */
};

/* A block's segment, the first of its `heads` heads, and its part of `parts` parts of their states' columns. */
struct walk_place {
    struct device_span k;
    int64_t h0, g, segment, range_begin, range_end, chunk; /* chunk: the segment's first */
    int steps, more, col;                                  /* more: steps of a chunk but one; col: first column */
};
template <int heads, int parts> static __device__ bool walk_find(const struct walk &a, struct walk_place *p) {
    const int64_t n = a.heads / heads, item = blockIdx.x / parts;
    p->col = (int)(blockIdx.x % parts) * 128;
    p->segment = item / n;
    p->h0 = item % n * heads;
    p->g = p->h0 / (a.heads / a.groups);
    if (!span_find(a.range, a.pos, a.segment, p->segment, &p->k)) return false;
    p->range_begin = long_at(a.range, p->k.range);
    p->range_end = long_at(a.range, p->k.range + 1);
    p->chunk = spans_before(a.range, p->k.range, a.chunk) + (p->k.begin - p->range_begin) / a.chunk;
    p->more = a.chunk == STEP ? 0 : 1;
    p->steps = (int)ceil_div(p->k.end - p->k.begin, STEP);
    return true;
}
/* The i-th step in the order of the walk, its number from the segment's first row on. */
template <bool up> static inline __device__ int step_at(const struct walk_place &p, int i) {
    return up ? p.steps - 1 - i : i;
}
static inline __device__ int64_t step_begin(const struct walk_place &p, int step) {
    return p.k.begin + (int64_t)step * STEP;
}
static inline __device__ int step_rows(const struct walk_place &p, int64_t b) { return (int)least(STEP, p.k.end - b); }

/* 64 columns of `rows` rows, by so many threads from `from_thread` on; rows from n on become zero.  turned: rows 64-127
 * lie in strips of 16 from the last up. */
template <int rows, int threads, int from_thread = 0, bool turned = false>
static __device__ void panel_fetch(bf16_bits *to, const bf16_bits *from, int64_t pitch, int n, bool whole) {
    constexpr int each = threads / 8;
    static_assert(each % 8 == 0, "a thread's pieces lie at one place of their rows");
    static_assert(!turned || each == 16, "a thread has one row of every strip");
    const int first = (threadIdx.x - from_thread) / 8, col = threadIdx.x % 8 * 8;
    to = tile_piece<64>(to, first, col);
    from += first * pitch + col;
    if (whole) {
#pragma unroll
        for (int r = 0; r < rows; r += each)
            if (rows % each == 0 || first + r < rows)
                cp_async16_or_zero(to + (turned && r >= 64 ? r ^ 48 : r) * 64, from + r * pitch, first + r < n);
    } else {
#pragma unroll 1
        for (int r = 0; r < rows - first; r += each)
#pragma unroll 1
            for (int e = 0; e < 8; e++)
                to[(turned && r >= 64 ? r ^ 48 : r) * 64 + e] = first + r < n ? from[r * pitch + e] : (bf16_bits)0;
    }
}

/* N: columns of the block's states. */
template <int N, bool outputs, bool up>
static __device__ void step_fetch(const struct walk &a, const struct walk_place &p, int i, walk_shared<N, outputs> *m) {
    constexpr int heads = walk_heads<N, outputs>;
    constexpr int skip = outputs ? heads * GROUP : 0; /* with outputs by the warpgroups that carry states */
    if (i >= p.steps) return;
    const int at = i % STAGES, w = (threadIdx.x - skip) / GROUP, t = threadIdx.x % STEP, step = step_at<up>(p, i);
    const int64_t b = step_begin(p, step), col = p.g * a.state + p.col, h = (p.h0 + w) >> a.shift;
    const int n = step_rows(p, b);
    walk_stage<N, outputs> *s = &m->stage[at];
    for (int k = 0; k < heads; k++)
        panel_fetch<STEP, WALK_THREADS, skip>(s->X[k], row16(a.X, b) + (p.h0 + k) * SSD_P, a.X.pitch, n, a.whole);
    for (int k = 0; k < N / 64; k++) {
        const int64_t at_k = col + 64 * k;
        panel_fetch<STEP, WALK_THREADS, skip>(s->Y[k], row16(a.Y, b) + at_k, a.Y.pitch, n, a.whole);
        if (outputs) panel_fetch<STEP, WALK_THREADS, skip>(s->Z[k], row16(a.Z, b) + at_k, a.Z.pitch, n, a.whole);
    }
    const int *pos = (const int *)((const int64_t *)a.pos.data + b + n - 1);
    if (threadIdx.x - skip < 2) cp_async4((int *)&m->pos[at] + threadIdx.x - skip, pos + threadIdx.x - skip);
    if (w >= heads) return;
    struct step_raw *raw = &m->raw[at][w];
    const int64_t r = b + (t < n ? t : n - 1);
    if (threadIdx.x % GROUP < STEP) cp_async4(&raw->cum[t], &row(a.cum, r)[h]);
    else if (!up) cp_async4(&raw->dts[t], &row(a.dts, r)[h]);
    if (threadIdx.x % GROUP > 0) return;
    if ((step & p.more) == 0) raw->before = 0.0f;
    else cp_async4(&raw->before, &row(a.cum, b - 1)[h]);
}

/* exp of a sum of decays, which rounding may leave above 0. */
static inline __device__ float step_exp(float sum) { return exp2_fast(fminf(sum * LOG2_E, 0.0f)); }

/* Position of a step's row t, or more than t where no document starts in the step. */
static inline __device__ int64_t step_pos(const struct walk &a, int64_t b, int n, int t, bool through) {
    return through ? n + t : t < n ? long_at(a.pos, b + t) : 0;
}
/* What row t of the warpgroup's thread t adds to the state. */
template <bool up>
static __device__ void step_make(const struct walk &a, const struct step_raw *raw, int64_t b, int n, int64_t pos_last,
                                 float *weight) {
    const int t = threadIdx.x % GROUP;
    if (t >= STEP) return;
    const bool through = pos_last >= n;
    const float cum = raw->cum[t];
    if (up) {
        weight[t] = t < n && step_pos(a, b, n, t, through) > t ? step_exp(cum - raw->before) : 0.0f;
    } else {
        const bool stays = t < n && (through || t >= n - 1 - pos_last);
        weight[t] = stays ? step_exp(raw->cum[STEP - 1] - cum) * raw->dts[t] : 0.0f;
    }
}

/* ---- N columns of a state: warp w of a warpgroup, lane l: rows p = 16 w + l / 4 and 8 below, columns 64 k + 8 j + 2
 * (l % 4) ---- */

template <int N> struct state { float d[N / 64][32]; };

/* From or to memory, `pitch` columns from row to row. */
template <int N, bool store> static __device__ void state_move(struct state<N> *s, float *at, int64_t pitch) {
    const int lane = threadIdx.x % WARP, p = threadIdx.x % GROUP / WARP * 16 + lane / 4, c = lane % 4 * 2;
#pragma unroll
    for (int k = 0; k < N / 64; k++)
#pragma unroll
        for (int i = 0; i < 16; i++) {
            float2 *to = (float2 *)(at + (p + i % 2 * 8) * pitch + 64 * k + i / 2 * 8 + c);
            float *d = &s->d[k][i / 2 * 4 + i % 2 * 2];
            if (store) *to = make_float2(d[0], d[1]);
            else {
                const float2 x = *to;
                d[0] = x.x, d[1] = x.y;
            }
        }
}
/* Rounded, into panels of rows p. */
template <int N> static __device__ void state_round(const struct state<N> *s, bf16_bits (*to)[PANEL]) {
    const int lane = threadIdx.x % WARP, p = threadIdx.x % GROUP / WARP * 16 + lane / 4, c = lane % 4 * 2;
#pragma unroll
    for (int k = 0; k < N / 64; k++)
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const float *d = &s->d[k][i / 2 * 4 + i % 2 * 2];
            *(uint32_t *)(tile_piece<64>(to[k], p + i % 2 * 8, i / 2 * 8) + c) = pack(d[0], d[1]);
        }
}
template <int N> static __device__ void state_keep(const bf16_bits (*from)[PANEL], bf16_bits *to, int64_t pitch) {
    for (int i = threadIdx.x % GROUP; i < SSD_P * N / 8; i += GROUP) {
        const int p = i / (N / 8), n = i % (N / 8) * 8;
        *(uint4 *)(to + p * pitch + n) = *(const uint4 *)tile_piece<64>((bf16_bits *)from[n / 64], p, n % 64);
    }
}

/* The products of S += sum_t weight_t X_t Y_t^T, on their way. */
template <int N>
static __device__ void state_add(struct state<N> *s, const bf16_bits *X, const bf16_bits (*Y)[PANEL],
                                 const float *weight) {
    const int c = threadIdx.x % 4 * 2, m0 = threadIdx.x % GROUP / WARP * 16;
    uint32_t A[STEP / 16][4];
#pragma unroll
    for (int k = 0; k < STEP / 16; k++) {
        const float2 w0 = *(const float2 *)(weight + 16 * k + c), w8 = *(const float2 *)(weight + 16 * k + c + 8);
        a_cols<64>(A[k], X, m0, 16 * k);
#pragma unroll
        for (int i = 0; i < 4; i++)
            A[k][i] = pack(low_half(A[k][i]) * (i < 2 ? w0.x : w8.x), high_half(A[k][i]) * (i < 2 ? w0.y : w8.y));
    }
    wgmma_fence();
#pragma unroll
    for (int j = 0; j < N / 64; j++)
#pragma unroll
        for (int k = 0; k < STEP / 16; k++) product<true>(s->d[j], A[k], panel_cols(Y[j], 16 * k), true);
    wgmma_commit();
}

/* Whether the state that stands before a step goes to memory: a chunk begins (up: ends) there. */
template <bool up> static __device__ bool walk_keeps(const struct walk &a, const struct walk_place &p, int step) {
    if (!a.states.data) return false;
    return up ? ((step + 1) & p.more) == 0 || step_begin(p, step + 1) >= p.range_end : (step & p.more) == 0;
}
/* h: the head; col: the first of N columns. */
template <int N>
static __device__ void walk_keep(const struct walk &a, const struct walk_place &p, int step, int64_t h, int col,
                                 const bf16_bits (*from)[PANEL]) {
    bf16_bits *to = state16(a.states, p.chunk + (p.more ? step / 2 : step), h) + col;
    state_keep<N>(from, to, a.state);
}
static __device__ float *walk_at(const struct walk &a, const struct walk_place &p, float *segments, int64_t h) {
    return segments + (p.segment * a.heads + h) * SSD_P * a.state;
}
template <int N, bool up>
static __device__ void walk_end(const struct walk &a, const struct walk_place &p, int64_t h, int col,
                                struct state<N> *s) {
    const bool last = up ? p.k.begin == p.range_begin : p.k.end == p.range_end;
    if (a.end) state_move<N, true>(s, walk_at(a, p, a.end, h) + col, a.state);
    if (a.range_end.data && last) state_move<N, true>(s, state_of(a.range_end, p.k.range, h) + col, a.state);
}
template <int N>
static __device__ void walk_begin(const struct walk &a, const struct walk_place &p, int64_t h, int col,
                                  struct state<N> *s) {
    if (a.begin) state_move<N, false>(s, walk_at(a, p, (float *)a.begin, h) + col, a.state);
}

/* One step of the state, its products ended. */
template <int N>
static __device__ void walk_step(const struct step_raw *raw, bool through, const bf16_bits *X,
                                 const bf16_bits (*Y)[PANEL], const float *weight, struct state<N> *s) {
    const float keep = through ? step_exp(raw->cum[STEP - 1] - raw->before) : 0.0f;
#pragma unroll
    for (int k = 0; k < N / 64; k++)
#pragma unroll
        for (int e = 0; e < 32; e++) s->d[k][e] *= keep;
    state_add<N>(s, X, Y, weight);
    wgmma_wait<0>();
#pragma unroll
    for (int k = 0; k < N / 64; k++) sums_ended(s->d[k]);
}

/* The walk without outputs over N columns of states, of `parts` times as many; two blocks to a processor. */
template <int N, int parts, bool up>
__global__ __launch_bounds__(WALK_THREADS, 2) static void walk_states(const struct walk a) {
    DYNAMIC_PANELS(tiles);
    walk_shared<N, false> *m = (walk_shared<N, false> *)tiles;
    struct walk_place p;
    if (!walk_find<WALK_HEADS, parts>(a, &p)) return;
    const int w = warpgroup_of();
    struct state<N> s = {};
    step_fetch<N, false, up>(a, p, 0, m);
    cp_commit();
    walk_begin<N>(a, p, p.h0 + w, p.col, &s);
    for (int i = 0; i < p.steps; i++) {
        const int step = step_at<up>(p, i), at = i % STAGES;
        const int64_t b = step_begin(p, step);
        const int n = step_rows(p, b);
        cp_wait<0>();
        shared_fence();
        __syncthreads();
        step_fetch<N, false, up>(a, p, i + 1, m);
        cp_commit();
        if (walk_keeps<up>(a, p, step)) {
            state_round<N>(&s, m->S[0][w]);
            barrier_of(2 + w, GROUP);
            walk_keep<N>(a, p, step, p.h0 + w, p.col, m->S[0][w]);
        }
        step_make<up>(a, &m->raw[at][w], b, n, m->pos[at], m->weight[w]);
        barrier_of(2 + w, GROUP);
        walk_step<N>(&m->raw[at][w], m->pos[at] >= n, m->stage[at].X[w], m->stage[at].Y, m->weight[w], &s);
    }
    walk_end<N, up>(a, p, p.h0 + w, p.col, &s);
}
#endif
