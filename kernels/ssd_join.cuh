/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_JOIN_CUH
#define BATON_KERNELS_SSD_JOIN_CUH
/* ssd_join.cuh - the segments of ssd_walk.cuh joined along a range, and the launches of both halves. */
#include "kernels/ssd_walk.cuh"

/* Spans are counted in 32 bits, since divisions of 64 cost a small kernel most of its time.  Chunks of range r, and
 * segments of so many. */
static inline __device__ int chunks_in(const struct walk &a, int64_t r) {
    return (int)((long_at(a.range, r + 1) - long_at(a.range, r) + a.chunk - 1) >> (a.chunk == STEP ? 6 : 7));
}
static inline __device__ int segments_in(const struct walk &a, int chunks) {
    const unsigned each = (unsigned)a.segment >> (a.chunk == STEP ? 6 : 7);
    return (int)(((unsigned)chunks + each - 1) / each);
}

/* What enters a chunk from its segment's first (up: last): the factor, 0 where nothing is to be added, and in whose
 * slot of states it lies.  Where less than 2^-64 of it is left, far below what sums in F32 keep, nothing is added. */
struct entering {
    float keep;
    int from;
};

/* Of each (segment, head): what a state keeps through it, 0 where a document starts in it; enters (c, heads), or
 * absent. Heads are whole ones. */
enum { DECAYS_AHEAD = 8 };
template <bool up>
__global__ static void segment_decays(const struct walk a, int64_t n_segments, float *decays, struct entering *enters) {
    const int64_t H = a.heads >> a.shift;
    struct device_span k;
    FOR_CELLS(segment, h, n_segments, H) {
        if (!span_find(a.range, a.pos, a.segment, segment, &k)) continue;
        int chunk = (int)(k.begin - long_at(a.range, k.range)) >> (a.chunk == STEP ? 6 : 7);
        for (int64_t r = 0; r < k.range; r++) chunk += chunks_in(a, r);
        const int n = (int)(k.end - k.begin + a.chunk - 1) >> (a.chunk == STEP ? 6 : 7);
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
                const float keep = through && i0 + i > 0 ? step_exp((float)sum) : 0.0f;
                if (enters) enters[c * H + h] = {keep < 0x1p-64f ? 0.0f : keep, up ? chunk + n - 1 : chunk};
                sum += (double)own[i], through = through && seen[i];
            }
        }
        decays[segment * H + h] = through ? (float)exp(sum) : 0.0f;
    }
}

/* A thread owns eight elements of the state of a (range, head), JOIN_AHEAD segments on their way at a time.  enter:
 * slots of what segments add become what enters them, rounded as any state is.  last is what the range ends with. */
enum { JOIN_AHEAD = 8 };
struct join {
    const float *decays;
    struct tensor first, last, states, range_decay; /* (R, H, P, N) (R, H, P, N) (c, H, P, N) (R, H), or absent */
};
template <bool up, bool enter> __global__ static void join_segments(const struct walk a, const struct join j) {
    const int H = (int)a.heads, each = (int)a.segment >> (a.chunk == STEP ? 6 : 7);
    const int64_t PN = j.states.shape[2] * j.states.shape[3];
    FOR_CELLS(item, e, (a.range.shape[0] - 1) * H, PN / 8) {
        const int r = (int)((unsigned)item / (unsigned)H), h = (int)item - r * H, chunks = chunks_in(a, r);
        const int n = segments_in(a, chunks);
        int chunk0 = 0, s0 = 0;
        for (int i = 0; i < r; i++) chunk0 += chunks_in(a, i), s0 += segments_in(a, chunks_in(a, i));
        float now[8] = {};
        double keep = 1.0;
        for (int i = 0; i < 8 && j.first.data; i++) now[i] = state_of(j.first, r, h)[8 * e + i];
        for (int i0 = 0; i0 < n; i0 += JOIN_AHEAD) {
            uint4 own[JOIN_AHEAD];
            float decay[JOIN_AHEAD];
            uint4 *slot[JOIN_AHEAD];
#pragma unroll
            for (int i = 0; i < JOIN_AHEAD; i++) {
                const int k = i0 + i < n ? i0 + i : n - 1, s = up ? n - 1 - k : k;
                const int end = (s + 1) * each < chunks ? (s + 1) * each : chunks;
                slot[i] = (uint4 *)state16(j.states, chunk0 + (up ? end - 1 : s * each), h) + e;
                decay[i] = j.decays[(s0 + s) * (H >> a.shift) + (h >> a.shift)];
                own[i] = *slot[i];
            }
#pragma unroll
            for (int i = 0; i < JOIN_AHEAD; i++) {
                if (i0 + i >= n) continue;
                if (enter) *slot[i] = state_pack(now);
                state_step(now, decay[i], own[i]);
                keep *= (double)decay[i];
            }
        }
        for (int i = 0; i < 8 && j.last.data; i++) state_of(j.last, r, h)[8 * e + i] = now[i];
        if (j.range_decay.data && e == 0 && h >> a.shift << a.shift == h)
            row(j.range_decay, r)[h >> a.shift] = (float)keep;
    }
}

/* What enters a chunk, added to what it has: eight elements. */
static inline __device__ uint4 entered(uint4 own, uint4 enters, float keep) {
    float sum[8] = {};
    state_step(sum, 0.0f, enters);
    state_step(sum, keep, own);
    return state_pack(sum);
}
/* A warp owns the state of a (chunk, head), 32 pieces of 16 bytes at a time. */
enum { ENTER_AHEAD = 4 };
__global__ static void enter_chunks(const struct walk a, const struct tensor states, const struct entering *enters,
                                    int64_t n_chunks) {
    const int64_t PN = states.shape[2] * states.shape[3];
    int exist = 0;
    for (int64_t r = 0; r < a.range.shape[0] - 1; r++) exist += chunks_in(a, r);
    FOR_WARPS(item, n_chunks * a.heads) {
        const int chunk = (int)((uint64_t)item / (uint64_t)a.heads), h = (int)(item - chunk * a.heads);
        if (chunk >= exist) continue;
        const struct entering in = enters[chunk * (a.heads >> a.shift) + (h >> a.shift)];
        if (in.keep == 0.0f) continue;
        uint4 *to = (uint4 *)state16(states, chunk, h) + threadIdx.x;
        const uint4 *from = (const uint4 *)state16(states, in.from, h) + threadIdx.x;
        for (int64_t e = 0; e < PN / 8; e += ENTER_AHEAD * WARP) {
            uint4 own[ENTER_AHEAD], other[ENTER_AHEAD];
#pragma unroll
            for (int i = 0; i < ENTER_AHEAD; i++) own[i] = to[e + i * WARP], other[i] = from[e + i * WARP];
#pragma unroll
            for (int i = 0; i < ENTER_AHEAD; i++) to[e + i * WARP] = entered(own[i], other[i], in.keep);
        }
    }
}

/* ---- launches ---- */

/* The walk of either half over X and Y. */
template <typename op> static struct walk walk_of(const op *a, struct tensor X, struct tensor Y) {
    struct walk w = {};
    w.shift = ssd_shift(a->head_width), w.heads = a->heads << w.shift, w.groups = a->groups, w.state = a->state;
    w.chunk = a->chunk, w.segment = ssd_segment(w.heads, a->chunk);
    w.range = a->range, w.pos = a->pos, w.cum = a->cum, w.dts = a->dts, w.X = X, w.Y = Y;
    w.whole = rows_whole(X) && rows_whole(Y) && a->pos.shape[0] > 0;
    return w;
}

static inline int64_t segments_of(const struct walk *a) {
    return spans_max(a->pos.shape[0], a->range.shape[0] - 1, a->segment);
}
/* Decays of segments, and what enters chunks. */
static inline void join_bytes(const struct walk *a, int64_t bytes[2]) {
    const int64_t heads = a->heads >> a->shift, chunks = spans_max(a->pos.shape[0], a->range.shape[0] - 1, a->chunk);
    bytes[0] = segments_of(a) * heads * (int64_t)sizeof(float);
    bytes[1] = chunks * heads * (int64_t)sizeof(struct entering);
}
template <typename op> static int64_t walk_work(const op *a) {
    int64_t bytes[2];
    const struct walk w = walk_of(a, (struct tensor){}, (struct tensor){});
    join_bytes(&w, bytes);
    return arena_round(bytes[0]) + arena_round(bytes[1]);
}

template <int N, bool up> static enum status walk_launch(struct ctx *c, const struct walk *a) {
    constexpr int cols = walk_cols<N>, parts = N / cols, bytes = sizeof(walk_shared<cols>);
    static_assert(bytes <= 113 * 1024, "two blocks' tiles fit into a processor's shared memory");
    struct walk_maps maps = {};
    if (a->whole) {
        TRY(tensor_map_make(&maps.X, a->X.data, a->X.shape[1], a->X.shape[0], 1, a->X.pitch, STEP));
        TRY(tensor_map_make(&maps.Y, a->Y.data, a->Y.shape[1], a->Y.shape[0], 1, a->Y.pitch, STEP));
    }
    LAUNCH_SHARED((walk_states<cols, parts, up>), segments_of(a) * parts * (a->heads / WALK_HEADS), WALK_THREADS, bytes,
                  *a, maps);
    return OK;
}
template <bool up> static enum status walk_shape(struct ctx *c, const struct walk *a) {
    if (a->state == 64) return walk_launch<64, up>(c, a);
    return a->state == 128 ? walk_launch<128, up>(c, a) : walk_launch<256, up>(c, a);
}

/* Of ssd_local: the walk from zero into the slots. */
template <bool up>
static enum status walk_from_zero(struct ctx *c, struct walk a, struct tensor states, struct tensor range_decay,
                                  struct tensor range_state) {
    int64_t bytes[2];
    void *decays;
    struct join j = {};
    join_bytes(&a, bytes);
    TRY(arena_take(c->work, bytes[0], &decays));
    j.decays = (float *)decays;
    j.states = a.states = ssd_halves(states), j.last = ssd_halves(range_state), j.range_decay = range_decay;
    TRY(walk_shape<up>(c, &a));
    LAUNCH_CELLS(segment_decays<up>, segments_of(&a), a.heads >> a.shift, a, segments_of(&a), (float *)decays, NULL);
    LAUNCH_CELLS((join_segments<up, false>), (a.range.shape[0] - 1) * a.heads, SSD_P * a.state / 8, a, j);
    return OK;
}

/* Of ssd: the first (up: last) slot of every segment becomes the state that enters (up: leaves) it, from what enters
 * ranges (first); last: what leaves them.  enters: what is to be added to the others. */
template <bool up>
static enum status segments_join(struct ctx *c, const struct walk &a, struct tensor states, struct tensor first,
                                 struct tensor last, struct entering **enters) {
    int64_t bytes[2];
    void *at[2];
    struct join j = {};
    join_bytes(&a, bytes);
    for (int i = 0; i < 2; i++) TRY(arena_take(c->work, bytes[i], &at[i]));
    j.decays = (float *)at[0], *enters = (struct entering *)at[1];
    j.states = ssd_halves(states), j.first = ssd_halves(first), j.last = ssd_halves(last);
    LAUNCH_CELLS(segment_decays<up>, segments_of(&a), a.heads >> a.shift, a, segments_of(&a), (float *)at[0], *enters);
    LAUNCH_CELLS((join_segments<up, true>), (a.range.shape[0] - 1) * a.heads, SSD_P * a.state / 8, a, j);
    return OK;
}
/* And added. */
template <bool up>
static enum status states_enter(struct ctx *c, const struct walk &a, struct tensor states, struct tensor first,
                                struct tensor last) {
    const int64_t n = least(spans_max(a.pos.shape[0], a.range.shape[0] - 1, a.chunk), states.shape[0]);
    struct entering *enters = NULL;
    TRY((segments_join<up>(c, a, states, first, last, &enters)));
    LAUNCH_WARPS(enter_chunks, n * a.heads, a, ssd_halves(states), enters, n);
    return OK;
}
#endif
