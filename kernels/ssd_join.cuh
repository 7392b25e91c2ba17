/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_JOIN_CUH
#define BATON_KERNELS_SSD_JOIN_CUH
/* ssd_join.cuh - the segments of ssd_walk.cuh joined along a range, and the launches of both halves. */
#include "kernels/ssd_walk.cuh"

/* What enters a chunk: the factor that is left of what enters the segment, 0 where nothing is to be added, and the
 * segment.  Where less than 2^-64 is left, far below what sums in F32 keep, nothing is added. */
struct entering {
    float keep;
    int segment; /* of its first (up: last) chunk, which has nothing of its own, the complement */
};

/* Of each (segment, head): what a state keeps through it, 0 where a document starts in it; enters (c, heads), or
 * absent. Heads are whole ones. */
enum { DECAYS_AHEAD = 8 };
template <bool up>
__global__ static void segment_decays(const struct walk a, int64_t n_segments, float *decays, struct entering *enters) {
    const int64_t H = a.heads >> a.shift;
    struct device_span k;
    int chunk;
    FOR_CELLS(segment, h, n_segments, H) {
        if (!segment_find(a, (int)segment, &k, &chunk)) continue;
        const int n = (int)((k.end - k.begin + a.chunk - 1) >> a.bits);
        double sum = 0.0;
        bool through = true;
        for (int i0 = 0; i0 < n; i0 += DECAYS_AHEAD) {
            float own[DECAYS_AHEAD];
            bool seen[DECAYS_AHEAD];
#pragma unroll
            for (int i = 0; i < DECAYS_AHEAD; i++) {
                const int64_t c = up ? n - 1 - least(i0 + i, n - 1) : least(i0 + i, n - 1), b = k.begin + c * a.chunk;
                const int64_t end = least(b + a.chunk, k.end);
                own[i] = row(a.cum, end - 1)[h], seen[i] = long_at(a.pos, end - 1) >= end - b;
            }
#pragma unroll
            for (int i = 0; i < DECAYS_AHEAD; i++) {
                if (i0 + i >= n) continue;
                const int c = chunk + (up ? n - 1 - i0 - i : i0 + i);
                const float keep = through ? step_exp((float)sum) : 0.0f;
                if (enters) enters[c * H + h] = {keep < 0x1p-64f ? 0.0f : keep, (int)(i0 + i ? segment : ~segment)};
                sum += (double)own[i], through = through && seen[i];
            }
        }
        decays[segment * H + h] = through ? (float)exp(sum) : 0.0f;
    }
}

/* Four elements of a state. */
static inline __device__ float4 four(uint2 u) {
    return make_float4(low_half(u.x), high_half(u.x), low_half(u.y), high_half(u.y));
}
static inline __device__ float4 four_step(float4 x, float keep, float4 own) {
    return make_float4(fmaf(keep, x.x, own.x), fmaf(keep, x.y, own.y), fmaf(keep, x.z, own.z), fmaf(keep, x.w, own.w));
}

/* A thread owns four elements of the state of a (range, head), JOIN_AHEAD segments on their way at a time: what they
 * add, from their slots of states.  begin: what enters every segment, or absent; last: what the range ends with. */
enum { JOIN_AHEAD = 8 };
struct join {
    float *decays, *begin;                          /* (segments, H without halves) (segments, H, P, N)         */
    struct tensor first, last, states, range_decay; /* (R, H, P, N) (R, H, P, N) (c, H, P, N) (R, H), or absent */
};
template <bool up> __global__ static void join_segments(const struct walk a, const struct join j) {
    const int H = (int)a.heads;
    const int64_t PN = j.states.shape[2] * j.states.shape[3];
    FOR_CELLS(item, e, (a.range.shape[0] - 1) * H, PN / 4) {
        const int r = (int)((unsigned)item / (unsigned)H), h = (int)item - r * H;
        const int chunks = chunks_in(a, r), each = segment_chunks(a.most, chunks), n = segments_in(chunks, each);
        int chunk0 = 0, s0 = 0;
        for (int i = 0; i < r; i++) {
            const int own = chunks_in(a, i);
            chunk0 += own, s0 += segments_in(own, segment_chunks(a.most, own));
        }
        float4 now = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        double keep = 1.0;
        if (j.first.data) now = ((const float4 *)state_of(j.first, r, h))[e];
        for (int i0 = 0; i0 < n; i0 += JOIN_AHEAD) {
            uint2 own[JOIN_AHEAD];
            float decay[JOIN_AHEAD];
            int at[JOIN_AHEAD]; /* segments, then heads */
#pragma unroll
            for (int i = 0; i < JOIN_AHEAD; i++) {
                const int k = i0 + i < n ? i0 + i : n - 1, s = up ? n - 1 - k : k;
                const int end = (s + 1) * each < chunks ? (s + 1) * each : chunks;
                own[i] = ((const uint2 *)state16(j.states, chunk0 + (up ? end - 1 : s * each), h))[e];
                decay[i] = j.decays[(s0 + s) * (H >> a.shift) + (h >> a.shift)];
                at[i] = (s0 + s) * H + h;
            }
#pragma unroll
            for (int i = 0; i < JOIN_AHEAD; i++) {
                if (i0 + i >= n) continue;
                if (j.begin) ((float4 *)(j.begin + at[i] * PN))[e] = now;
                now = four_step(now, decay[i], four(own[i]));
                keep *= (double)decay[i];
            }
        }
        if (j.last.data) ((float4 *)state_of(j.last, r, h))[e] = now;
        if (j.range_decay.data && e == 0 && h >> a.shift << a.shift == h)
            row(j.range_decay, r)[h >> a.shift] = (float)keep;
    }
}

/* What enters chunks is added to what they have, but for the first (up: last) of a segment, which has nothing.  A warp
 * owns the state of a (chunk, head), four elements a lane at a time. */
enum { ENTER_AHEAD = 8 };
__global__ static void enter_chunks(const struct walk a, const struct tensor states, const float *begin,
                                    const struct entering *enters, int64_t n_chunks) {
    const int64_t PN = states.shape[2] * states.shape[3];
    int exist = 0;
    for (int64_t r = 0; r < a.range.shape[0] - 1; r++) exist += chunks_in(a, r);
    FOR_WARPS(item, n_chunks * a.heads) {
        const int chunk = (int)((unsigned)item / (unsigned)a.heads), h = (int)(item - chunk * a.heads);
        if (chunk >= exist) continue;
        const struct entering in = enters[chunk * (a.heads >> a.shift) + (h >> a.shift)];
        if (in.keep == 0.0f) continue;
        const bool own_too = in.segment >= 0;
        const int64_t segment = own_too ? in.segment : ~in.segment;
        uint2 *to = (uint2 *)state16(states, chunk, h) + threadIdx.x;
        const float4 *from = (const float4 *)(begin + (segment * a.heads + h) * PN) + threadIdx.x;
        for (int64_t e = 0; e < PN / 4; e += ENTER_AHEAD * WARP) {
            uint2 own[ENTER_AHEAD] = {};
            float4 enter[ENTER_AHEAD];
#pragma unroll
            for (int i = 0; i < ENTER_AHEAD; i++) {
                if (own_too) own[i] = to[e + i * WARP];
                enter[i] = from[e + i * WARP];
            }
#pragma unroll
            for (int i = 0; i < ENTER_AHEAD; i++) {
                const float4 sum = four_step(enter[i], in.keep, four(own[i]));
                to[e + i * WARP] = make_uint2(pack(sum.x, sum.y), pack(sum.z, sum.w));
            }
        }
    }
}

/* ---- launches ---- */

/* The walk of either half over X and Y. */
template <typename op> static struct walk walk_of(const op *a, struct tensor X, struct tensor Y) {
    struct walk w = {};
    w.shift = ssd_shift(a->head_width), w.heads = a->heads << w.shift, w.groups = a->groups, w.state = a->state;
    w.chunk = a->chunk, w.bits = a->chunk == STEP ? 6 : 7, w.most = segment_most(w.heads, a->chunk);
    w.range = a->range, w.pos = a->pos, w.cum = a->cum, w.dts = a->dts, w.X = X, w.Y = Y;
    w.whole = rows_whole(X) && rows_whole(Y) && a->pos.shape[0] > 0;
    return w;
}

/* At most. */
static inline int64_t segments_of(const struct walk *a) {
    const int64_t T = a->pos.shape[0], R = a->range.shape[0] - 1, n = spans_max(T, R, a->most * a->chunk);
    if (a->most < 2 * SEGMENT_LEAST) return n;
    return least(n + R * SEGMENTS_SHORT, spans_max(T, R, SEGMENT_LEAST * a->chunk));
}
static inline int64_t walk_chunks_of(const struct walk *a) {
    return spans_max(a->pos.shape[0], a->range.shape[0] - 1, a->chunk);
}
/* Decays of segments, what enters chunks, what enters segments. */
enum { N_JOIN = 3 };
static inline void join_bytes(const struct walk *a, int64_t bytes[N_JOIN]) {
    const int64_t heads = a->heads >> a->shift;
    bytes[0] = segments_of(a) * heads * (int64_t)sizeof(float);
    bytes[1] = walk_chunks_of(a) * heads * (int64_t)sizeof(struct entering);
    bytes[2] = segments_of(a) * a->heads * SSD_P * a->state * (int64_t)sizeof(float);
}
template <typename op> static int64_t walk_work(const op *a) {
    int64_t bytes[N_JOIN], sum = 0;
    const struct walk w = walk_of(a, (struct tensor){}, (struct tensor){});
    join_bytes(&w, bytes);
    for (int i = 0; i < N_JOIN; i++) sum += arena_round(bytes[i]);
    return sum;
}

template <int N, int heads, bool up> static enum status walk_launch(struct ctx *c, const struct walk *a) {
    constexpr int cols = walk_cols<N>, parts = N / cols;
    using shared = walk_shared<cols, heads>;
    static_assert(sizeof(shared) * shared::BLOCKS <= 226 * 1024, "the tiles fit into a processor's shared memory");
    struct walk_maps maps = {};
    if (a->whole) {
        TRY(tensor_map_make(&maps.X, a->X.data, a->X.shape[1], a->X.shape[0], 1, a->X.pitch, STEP));
        TRY(tensor_map_make(&maps.Y, a->Y.data, a->Y.shape[1], a->Y.shape[0], 1, a->Y.pitch, STEP));
    }
    LAUNCH_SHARED((walk_states<cols, parts, heads, up>), segments_of(a) * parts * (a->heads / heads), shared::BLOCK,
                  sizeof(shared), *a, maps);
    return OK;
}
template <int heads, bool up> static enum status walk_shape(struct ctx *c, const struct walk *a) {
    if (a->state == 64) return walk_launch<64, heads, up>(c, a);
    return a->state == 128 ? walk_launch<128, heads, up>(c, a) : walk_launch<256, heads, up>(c, a);
}
template <bool up>
static enum status segments_join(struct ctx *c, const struct walk &a, const struct join &j, struct entering *enters) {
    const int64_t n = segments_of(&a);
    LAUNCH_CELLS(segment_decays<up>, n, a.heads >> a.shift, a, n, j.decays, enters);
    LAUNCH_CELLS(join_segments<up>, (a.range.shape[0] - 1) * a.heads, SSD_P * a.state / 4, a, j);
    return OK;
}

/* Of ssd_local: the walk from zero into the slots. */
template <bool up>
static enum status walk_from_zero(struct ctx *c, struct walk a, struct tensor states, struct tensor range_decay,
                                  struct tensor range_state) {
    int64_t bytes[N_JOIN];
    void *decays;
    struct join j = {};
    join_bytes(&a, bytes);
    TRY(arena_take(c->work, bytes[0], &decays));
    j.decays = (float *)decays;
    j.states = a.states = ssd_halves(states), j.last = ssd_halves(range_state), j.range_decay = range_decay;
    if (a.heads / a.groups % 4 == 0) TRY((walk_shape<4, up>(c, &a)));
    else TRY((walk_shape<2, up>(c, &a)));
    return segments_join<up>(c, a, j, NULL);
}

/* Of ssd: slots become the state that enters (up: leaves) every chunk, from what enters ranges (first); last: what
 * leaves them. */
template <bool up>
static enum status states_enter(struct ctx *c, const struct walk &a, struct tensor states, struct tensor first,
                                struct tensor last) {
    const int64_t n = least(walk_chunks_of(&a), states.shape[0]);
    int64_t bytes[N_JOIN];
    void *at[N_JOIN];
    struct join j = {};
    join_bytes(&a, bytes);
    for (int i = 0; i < N_JOIN; i++) TRY(arena_take(c->work, bytes[i], &at[i]));
    struct entering *const enters = (struct entering *)at[1];
    j.decays = (float *)at[0], j.begin = (float *)at[2];
    j.states = ssd_halves(states), j.first = ssd_halves(first), j.last = ssd_halves(last);
    TRY((segments_join<up>(c, a, j, enters)));
    LAUNCH_WARPS(enter_chunks, n * a.heads, a, j.states, j.begin, enters, n);
    return OK;
}
#endif
