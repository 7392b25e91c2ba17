/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_WALK_CUH
#define BATON_KERNELS_SSD_WALK_CUH
/* ssd_walk.cuh - states of the SSD scan by a walk, for both directions: a warpgroup owns a head, holds its state in F32
 * registers and goes over the tokens of a segment in steps of 64, four heads of a group to a block, or two, so that
 * tiles of B and C come once for all.
 *
 *   a step   S = exp(cum_end - cum_before) S + sum_t weight_t X_t Y_t^T          (T, H P) X, (T, G N) Y
 *            down: X = x, Y = B, weight_t = exp(cum_end - cum_t) dts_t;  up: X = dy, Y = C, weight_t = exp(cum_t -
 *            cum_before), last step first.  Weights are made while the products of the step before are under way
 *   segment  so many chunks of a range, from its start, that a GPU is filled (segment_chunks).  The walk begins with
 *            zero and leaves, rounded, what stands before (up: after) every chunk of the segment but its first (up:
 *            last), whose slot of states (dstates) gets what the segment adds.  ssd joins segments from what enters the
 *            range and adds to every chunk what reaches it: ssd_join.cuh.  The length hangs on the shape and on the
 *            range's own length (heads are the rank's), so that a range gives the same bits on every mesh.seq
 *   N 256    is two halves of 128 columns, whose states hang on nothing of each other: a block owns a half
 *   shapes   an even number of heads (of width 64) to a group: ssd_walks */
#include "kernels/bulk.cuh"
#include "kernels/ssd_bf16.cuh"
#include "kernels/wgmma.cuh"

enum { STEP = 64, PANEL = STEP * 64 };

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

/* Columns of a state that a warpgroup carries. */
template <int N> constexpr int walk_cols = N > 128 ? 128 : N;

static inline bool ssd_walks(int64_t heads, int64_t groups, int64_t P) { return heads * (P / SSD_P) / groups % 2 == 0; }
/* Chunks of a segment: 32 heads tokens, less where a range has less than four such segments, but not so few that
 * joining them shows. */
enum { SEGMENT_LEAST = 8, SEGMENTS_SHORT = 9 /* at most, of a range whose segments are shorter */ };
static inline int segment_most(int64_t heads, int64_t chunk) { return (int)ceil_div(32 * heads, chunk); }
static inline __host__ __device__ int segment_chunks(int most, int chunks) {
    while (most >= 2 * SEGMENT_LEAST && chunks < 4 * most) most /= 2;
    return most;
}

struct walk {
    int64_t heads, groups, state, chunk;
    int shift;      /* ssd_bf16.cuh                                                   */
    int most, bits; /* segment_most; chunk = 1 << bits                                */
    struct tensor range, pos, cum, dts;
    struct tensor X, Y;   /* what a step adds to the state                                  */
    struct tensor states; /* (c, H, P, N): what stands before (up: after) chunks            */
    bool whole;           /* rows begin at multiples of 16 bytes: the hardware copies tiles */
};

/* Chunks of range r.  Spans are counted in 32 bits, since divisions of 64 cost a small kernel most of its time. */
static inline __device__ int chunks_in(const struct walk &a, int64_t r) {
    return (int)((long_at(a.range, r + 1) - long_at(a.range, r) + a.chunk - 1) >> a.bits);
}
/* Segments of a range of so many chunks, `each` to a segment. */
static inline __device__ int segments_in(int chunks, int each) {
    return (int)(((unsigned)chunks + (unsigned)each - 1) / (unsigned)each);
}
/* Segment i, counted over all ranges, and its first chunk; false: there is none. */
static __device__ bool segment_find(const struct walk &a, int i, struct device_span *k, int *chunk) {
    *chunk = 0;
    for (int64_t r = 0; r < a.range.shape[0] - 1; r++) {
        const int chunks = chunks_in(a, r), each = segment_chunks(a.most, chunks), n = segments_in(chunks, each);
        if (i < n) {
            const int64_t begin = long_at(a.range, r) + (int64_t)i * each * a.chunk;
            *k = span_at(a.pos, r, begin, least(begin + each * a.chunk, long_at(a.range, r + 1)));
            *chunk += i * each;
            return true;
        }
        i -= n, *chunk += chunks;
    }
    return false;
}
struct walk_maps {
    tensor_map X, Y;
};

/* A head's step: cum and dts of its rows, those past the end as the last (dts: anything); cum before the first; the
 * last row's position. */
struct step_raw {
    int64_t pos;
    float cum[STEP], dts[STEP], before;
};
/* What a thread of a segment needs, few numbers since registers are few: its first row, columns of X and Y; its row
 * of what weights are made of, positions from the first row on, its piece of its head's state in the first chunk's
 * slot. */
struct walk_place {
    int row, X, Y;
    const float *raw;
    const int64_t *pos;
    bf16_bits *slot;
    int rows, steps, more; /* more: steps of a chunk but one */
};
enum { LEAVING = 32 /* columns of a state on their way to memory at a time */ };
template <int columns, int heads> struct walk_shared {
    enum { N = columns, HEADS = heads, BLOCK = heads * GROUP, BLOCKS = 4 / heads, STAGES = heads == 4 ? 4 : 3 };
    struct {
        bf16_bits X[heads][PANEL], Y[N / 64][PANEL];
    } stage[STAGES];
    bf16_bits leaving[heads][SSD_P * LEAVING];
    struct step_raw raw[STAGES][heads];
    uint64_t there[STAGES]; /* a step's tiles */
    float weight[STAGES][heads][STEP];
};

/* Where a lane begins in a state that leaves, 8 rows below each other and four pieces of 16 bytes at a time. */
static inline __device__ int leaving_row() { return threadIdx.x % GROUP / WARP * 16 + threadIdx.x % WARP / 4; }
static inline __device__ int leaving_col() { return threadIdx.x % 4 * 8; }

/* A block's segment, some of its heads, and N columns of `parts` times as many of their states. */
template <int N, int parts, int heads> static __device__ bool walk_find(const struct walk &a, struct walk_place *p) {
    const unsigned n = (unsigned)a.heads / heads, item = blockIdx.x / parts, h0 = item % n * heads;
    const unsigned group = h0 / ((unsigned)a.heads / (unsigned)a.groups), h = h0 + threadIdx.x / GROUP;
    const int t = threadIdx.x % GROUP, part = blockIdx.x % parts * N, col = (int)(group * a.state) + part;
    struct device_span k;
    int chunk;
    if (!segment_find(a, (int)(item / n), &k, &chunk)) return false;
    p->row = (int)k.begin, p->X = (int)h0 * SSD_P, p->Y = col;
    p->raw = row(t < STEP ? a.cum : a.dts, k.begin) + (h >> a.shift);
    p->pos = (const int64_t *)a.pos.data + k.begin;
    p->slot = state16(a.states, chunk, h) + leaving_row() * a.state + part + leaving_col();
    p->more = a.bits - 6;
    p->rows = (int)(k.end - k.begin);
    p->steps = (p->rows + STEP - 1) / STEP;
    return true;
}
/* The i-th step in the order of the walk, its number from the segment's first row on. */
template <bool up> static inline __device__ int step_at(const struct walk_place &p, int i) {
    return up ? p.steps - 1 - i : i;
}
static inline __device__ int step_rows(const struct walk_place &p, int step) {
    const int left = p.rows - step * STEP;
    return left < STEP ? left : STEP;
}

/* Where columns 8 j and 8 j + 1 and on, by lane, of a thread's row lie in a panel, the row 8 below 512 behind: rows are
 * lane / 4 of eight, so that all places come of one by an exclusive or. */
static inline __device__ int panel_pair(int row, int j) {
    const int lane = threadIdx.x % WARP;
    return (row * 64 + lane / 4 * 8 + lane % 4 * 2) ^ 8 * j;
}

/* 64 columns of `rows` rows, by so many threads, the first a multiple of them; rows from n on become zero.  turned:
 * rows 64-127 lie in strips of 16 from the last up. */
template <int rows, int threads, bool turned = false>
static __device__ void panel_fetch(bf16_bits *to, const bf16_bits *from, int64_t pitch, int n, bool whole) {
    constexpr int each = threads / 8;
    static_assert(each % 8 == 0, "a thread's pieces lie at one place of their rows");
    static_assert(!turned || each == 16, "a thread has one row of every strip");
    const int first = threadIdx.x % threads / 8, col = threadIdx.x % 8 * 8;
    to = tile_piece<64>(to, first, col), from += col;
    if (whole) {
#pragma unroll
        for (int r = 0; r < rows; r += each)
            if (rows % each == 0 || first + r < rows)
                cp_async16_or_zero(to + (turned && r >= 64 ? r ^ 48 : r) * 64, from + (int64_t)(first + r) * (int)pitch,
                                   first + r < n);
    } else {
#pragma unroll 1
        for (int r = 0; r < rows - first; r += each)
#pragma unroll 1
            for (int e = 0; e < 8; e++)
                to[(turned && r >= 64 ? r ^ 48 : r) * 64 + e] =
                    first + r < n ? from[(int64_t)(first + r) * pitch + e] : (bf16_bits)0;
    }
}

/* The i-th step's tiles: whole ones by the hardware, at the word of one thread. */
static inline __device__ bool step_whole(const struct walk &a, const struct walk_place &p, int step) {
    return a.whole && step_rows(p, step) == STEP;
}
template <bool up, typename shared>
static __device__ void step_fetch(const struct walk &a, const struct walk_maps &maps, const struct walk_place &p, int i,
                                  shared *m) {
    if (i >= p.steps) return;
    const int step = step_at<up>(p, i), n = step_rows(p, step), row = p.row + step * STEP;
    const bool whole = step_whole(a, p, step);
    auto *s = &m->stage[i % shared::STAGES];
    uint64_t *there = &m->there[i % shared::STAGES];
    if (threadIdx.x == 0) {
        if (whole) {
            bulk_expect(there, (int)sizeof *s);
            for (int k = 0; k < shared::HEADS; k++) bulk_fetch(s->X[k], &maps.X, p.X + k * SSD_P, row, 0, there);
            for (int k = 0; k < shared::N / 64; k++) bulk_fetch(s->Y[k], &maps.Y, p.Y + k * 64, row, 0, there);
        } else bulk_arrive(there);
    }
    if (whole) return;
    NO_UNROLL for (int k = 0; k < shared::HEADS; k++)
        panel_fetch<STEP, shared::BLOCK>(s->X[k], row16(a.X, row) + p.X + k * SSD_P, a.X.pitch, n, a.whole);
    NO_UNROLL for (int k = 0; k < shared::N / 64; k++)
        panel_fetch<STEP, shared::BLOCK>(s->Y[k], row16(a.Y, row) + p.Y + k * 64, a.Y.pitch, n, a.whole);
}
/* What its weights are made of, by each warpgroup for its head. */
template <bool up, typename shared>
static __device__ void raw_fetch(const struct walk &a, const struct walk_place &p, int i, shared *m) {
    if (i >= p.steps) return;
    const int t = threadIdx.x % GROUP, of_dts = t >= STEP, step = step_at<up>(p, i), n = step_rows(p, step);
    const int pitch = (int)(of_dts ? a.dts : a.cum).pitch, r = t % STEP < n ? t % STEP : n - 1;
    struct step_raw *raw = &m->raw[i % shared::STAGES][threadIdx.x / GROUP];
    if (!up || !of_dts)
        cp_async4((of_dts ? raw->dts : raw->cum) + t % STEP, p.raw + (int64_t)(step * STEP + r) * pitch);
    if (t < 2) cp_async4((int *)&raw->pos + t, (const int *)(p.pos + step * STEP + n - 1) + t);
    if (t > 0) return;
    if ((step & p.more) == 0) raw->before = 0.0f;
    else cp_async4(&raw->before, p.raw + (int64_t)(step * STEP - 1) * pitch);
}

/* exp of a sum of decays, which rounding may leave above 0. */
static inline __device__ float step_exp(float sum) { return exp2_fast(fminf(sum * LOG2_E, 0.0f)); }

/* What row t of the i-th step adds to the state, by thread t of the warpgroup; what the state keeps through the step.
 */
template <bool up, typename shared> static __device__ float step_make(const struct walk_place &p, int i, shared *m) {
    if (i >= p.steps) return 0.0f;
    const int w = threadIdx.x / GROUP, t = threadIdx.x % GROUP, step = step_at<up>(p, i), n = step_rows(p, step);
    const struct step_raw *raw = &m->raw[i % shared::STAGES][w];
    const bool through = raw->pos >= n;
    if (t < STEP) {
        const float cum = raw->cum[t];
        float weight = up ? step_exp(cum - raw->before) : step_exp(raw->cum[STEP - 1] - cum) * raw->dts[t];
        if (t >= n) weight = 0.0f;
        else if (!through && (up ? p.pos[step * STEP + t] <= t : t < n - 1 - raw->pos)) weight = 0.0f;
        m->weight[i % shared::STAGES][w][t] = weight;
    }
    return through ? step_exp(raw->cum[STEP - 1] - raw->before) : 0.0f;
}

/* ---- N columns of a state: warp w of a warpgroup, lane l: rows p = 16 w + l / 4 and 8 below, columns 64 k + 8 j + 2
 * (l % 4) ---- */

template <int N> struct state { float d[N / 64][32]; };

/* Rounded, to memory, from `to` on of each thread; room: rows of LEAVING columns, of each warp its own, pieces permuted
 * so that neither way two threads meet in a bank. */
template <int N>
static __device__ void state_leave(const struct state<N> *s, bf16_bits *room, bf16_bits *to, int pitch) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x % GROUP / WARP * 16;
    bf16_bits *in = room + (warp + lane % 16) * LEAVING;
    const bf16_bits *out = room + (warp + lane / 4) * LEAVING + (lane % 4 ^ lane / 8 % 4) * 8;
    const int piece = (lane / 16 ^ lane / 2 % 4) * 8; /* matrices of rows 0-7, 8-15, then of the next eight columns */
#pragma unroll
    for (int q = 0; q < N / LEAVING; q++) {
#pragma unroll
        for (int j = 0; j < LEAVING / 8; j += 2) {
            const float *d = &s->d[q / 2][16 * (q % 2) + 4 * j];
            const uint32_t m[4] = {pack(d[0], d[1]), pack(d[2], d[3]), pack(d[4], d[5]), pack(d[6], d[7])};
            stmatrix(m, in + (piece ^ 8 * j));
        }
        __syncwarp();
#pragma unroll
        for (int r = 0; r < 16; r += 8) *(uint4 *)(to + r * pitch + LEAVING * q) = *(const uint4 *)(out + r * LEAVING);
        __syncwarp();
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
    for (int k = 0; k < STEP / 16; k++) wgmma_registers<N, true>((float(*)[4])s->d, A[k], panel_cols(Y[0], 16 * k));
    wgmma_commit();
}

/* The i-th step: whether the state that stands before it goes to memory: a chunk begins (up: ends) there. */
template <bool up> static __device__ bool walk_keeps(const struct walk_place &p, int i) {
    const int step = step_at<up>(p, i);
    return i > 0 && (up ? (step + 1) & p.more : step & p.more) == 0;
}

/* N columns of states, of `parts` times as many; four heads to a processor. */
template <int N, int parts, int heads, bool up>
__global__ __launch_bounds__((walk_shared<N, heads>::BLOCK), (walk_shared<N, heads>::BLOCKS)) static void walk_states(
    const struct walk a, const __grid_constant__ struct walk_maps maps) {
    using shared = walk_shared<N, heads>;
    constexpr int stages = shared::STAGES;
    DYNAMIC_PANELS(tiles);
    shared *m = (shared *)tiles;
    struct walk_place p;
    if (!walk_find<N, parts, heads>(a, &p)) return;
    const int w = warpgroup_of();
    struct state<N> s = {};
    if (threadIdx.x == 0) {
        for (int i = 0; i < stages; i++) bulk_barrier_init(&m->there[i], 1);
        bulk_barriers_see();
    }
    raw_fetch<up>(a, p, 0, m);
#pragma unroll
    for (int i = 0; i < stages - 1; i++) {
        step_fetch<up>(a, maps, p, i, m);
        raw_fetch<up>(a, p, i + 1, m);
        cp_commit();
    }
    cp_wait<stages - 2>();
    __syncthreads();
    float keep = step_make<up>(p, 0, m);
    for (int i = 0; i < p.steps; i++) {
        const int at = i % stages, step = step_at<up>(p, i);
        cp_wait<stages - 2>();
        bulk_wait(&m->there[at], i / stages % 2);
        if (!step_whole(a, p, step)) shared_fence();
        __syncthreads();
        step_fetch<up>(a, maps, p, i + stages - 1, m);
        raw_fetch<up>(a, p, i + stages, m);
        cp_commit();
        if (walk_keeps<up>(p, i))
            state_leave<N>(&s, m->leaving[w], p.slot + (step >> p.more) * a.states.pitch, N * parts);
#pragma unroll
        for (int k = 0; k < N / 64; k++)
#pragma unroll
            for (int e = 0; e < 32; e++) s.d[k][e] *= keep;
        state_add<N>(&s, m->stage[at].X[w], m->stage[at].Y, m->weight[at][w]);
        keep = step_make<up>(p, i + 1, m);
        wgmma_wait<0>();
        wgmma_settled<N / 8>((float(*)[4])s.d);
    }
    state_leave<N>(&s, m->leaving[w], p.slot + (up ? (p.steps - 1) >> p.more : 0) * a.states.pitch, N * parts);
}
#endif
