/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_JOIN_CUH
#define BATON_KERNELS_SSD_JOIN_CUH
/* ssd_join.cuh - the segments of ssd_walk.cuh joined along a range, and the launches of both halves. */
#include "kernels/ssd_walk.cuh"

/* The factor that a state keeps through each (segment, head): 0 where a document starts in it.  A warp for each, its
 * lanes every 32nd chunk. */
__global__ static void segment_decays(const struct walk a, int64_t n_segments, float *decays) {
    struct device_span k;
    FOR_WARPS(item, n_segments * a.heads) {
        if (!span_find(a.range, a.pos, a.segment, item / a.heads, &k)) continue;
        double sum = 0.0;
        for (int64_t t = k.begin + threadIdx.x * a.chunk; t < k.end; t += WARP * a.chunk)
            sum += (double)row(a.cum, least(t + a.chunk, k.end) - 1)[item % a.heads >> a.shift];
        sum = warp_sum(sum);
        if (threadIdx.x == 0) decays[item] = k.through ? (float)exp(sum) : 0.0f;
    }
}

/* A thread owns four elements of the state of a (range, head), JOIN_AHEAD segments on their way at a time.  ends: what
 * segments add goes into their slots of states, last is what the range ends with.  Without: slots hold it, and begin is
 * what enters every segment. */
enum { JOIN_AHEAD = 8 };
struct join {
    const float *decays, *ends;
    float *begin;
    struct tensor first, last, states, range_decay; /* (R, H, P, N) (R, H, P, N) (c, H, P, N) (R, H), or absent */
};
template <bool up, bool ends> __global__ static void join_segments(const struct walk a, const struct join j) {
    const int64_t H = a.heads, PN = j.states.shape[2] * j.states.shape[3], R = a.range.shape[0] - 1;
    const int64_t each = a.segment / a.chunk;
    FOR_CELLS(item, e, R * H, PN / 4) {
        const int64_t r = item / H, h = item % H, tokens = long_at(a.range, r + 1) - long_at(a.range, r);
        const int64_t n = ceil_div(tokens, a.segment), s0 = spans_before(a.range, r, a.segment);
        const int64_t chunk0 = spans_before(a.range, r, a.chunk), chunks = ceil_div(tokens, a.chunk);
        float4 now = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        double keep = 1.0;
        if (j.first.data) now = ((const float4 *)state_of(j.first, r, h))[e];
        for (int64_t i0 = 0; i0 < n; i0 += JOIN_AHEAD) {
            float4 own[JOIN_AHEAD];
            float decay[JOIN_AHEAD];
            uint2 *slot[JOIN_AHEAD];
            int64_t at[JOIN_AHEAD]; /* in ends or begin */
#pragma unroll
            for (int i = 0; i < JOIN_AHEAD; i++) {
                const int64_t k = least(i0 + i, n - 1), s = up ? n - 1 - k : k;
                const int64_t chunk = chunk0 + (up ? least((s + 1) * each, chunks) - 1 : s * each);
                at[i] = (s0 + s) * H + h;
                slot[i] = (uint2 *)state16(j.states, chunk, h) + e;
                decay[i] = j.decays[at[i]];
                if (ends) own[i] = ((const float4 *)(j.ends + at[i] * PN))[e];
                else {
                    const uint2 u = *slot[i];
                    own[i] = make_float4(low_half(u.x), high_half(u.x), low_half(u.y), high_half(u.y));
                }
            }
#pragma unroll
            for (int i = 0; i < JOIN_AHEAD; i++) {
                if (i0 + i >= n) continue;
                if (ends) *slot[i] = make_uint2(pack(own[i].x, own[i].y), pack(own[i].z, own[i].w));
                else ((float4 *)(j.begin + at[i] * PN))[e] = now;
                now.x = fmaf(decay[i], now.x, own[i].x), now.y = fmaf(decay[i], now.y, own[i].y);
                now.z = fmaf(decay[i], now.z, own[i].z), now.w = fmaf(decay[i], now.w, own[i].w);
                keep *= (double)decay[i];
            }
        }
        if (j.last.data) ((float4 *)state_of(j.last, r, h))[e] = now;
        if (j.range_decay.data && e == 0 && h >> a.shift << a.shift == h)
            row(j.range_decay, r)[h >> a.shift] = (float)keep;
    }
}

/* A thread owns eight elements of the state of a (segment, head): what enters the segment is added to every chunk that
 * it reaches.  Where less than 2^-64 of it is left, far below what sums in F32 keep, the rest of the segment is not
 * touched. */
template <bool up> __global__ static void enter_chunks(const struct walk a, const struct join j, int64_t n_segments) {
    const int64_t H = a.heads, PN = j.states.shape[2] * j.states.shape[3];
    struct device_span k;
    FOR_CELLS(item, e, n_segments * H, PN / 8) {
        const int64_t h = item % H;
        if (!span_find(a.range, a.pos, a.segment, item / H, &k)) continue;
        const int64_t begin = long_at(a.range, k.range), chunks = ceil_div(k.end - k.begin, a.chunk);
        const int64_t chunk0 = spans_before(a.range, k.range, a.chunk) + (k.begin - begin) / a.chunk;
        const float4 *from = (const float4 *)(j.begin + item * PN) + 2 * e;
        const float4 low = from[0], high = from[1];
        const float enters[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        float sum = 0.0f;
        for (int64_t i = 0; i < chunks; i++) {
            const int64_t c = up ? chunks - 1 - i : i, b = k.begin + c * a.chunk, end = least(b + a.chunk, k.end);
            const float keep = step_exp(sum);
            if (keep < 0x1p-64f) break;
            uint4 *slot = (uint4 *)state16(j.states, chunk0 + c, h) + e;
            float now[8] = {};
            if (i > 0) state_step(now, 0.0f, *slot);
            for (int n = 0; n < 8; n++) now[n] = fmaf(keep, enters[n], now[n]);
            *slot = state_pack(now);
            if (long_at(a.pos, end - 1) < end - b) break; /* a document starts in it */
            sum += row(a.cum, end - 1)[h >> a.shift];
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
    w.whole = rows_whole(X) && rows_whole(Y);
    return w;
}

static inline int64_t segments_of(const struct walk *a) {
    return spans_max(a->pos.shape[0], a->range.shape[0] - 1, a->segment);
}
static inline int64_t segments_bytes(const struct walk *a, int64_t bytes[2]) {
    bytes[0] = segments_of(a) * a->heads * (int64_t)sizeof(float);
    bytes[1] = bytes[0] * SSD_P * a->state;
    return arena_round(bytes[0]) + arena_round(bytes[1]);
}
template <typename op> static int64_t walk_work(const op *a) {
    int64_t bytes[2];
    const struct walk w = walk_of(a, (struct tensor){}, (struct tensor){});
    return segments_bytes(&w, bytes);
}

template <int N, bool up> static enum status walk_launch(struct ctx *c, const struct walk *a) {
    constexpr int cols = walk_cols<N>, parts = N / cols, bytes = sizeof(walk_shared<cols>);
    static_assert(bytes <= 113 * 1024, "two blocks' tiles fit into a processor's shared memory");
    LAUNCH_SHARED((walk_states<cols, parts, up>), segments_of(a) * parts * (a->heads / WALK_HEADS), WALK_THREADS, bytes,
                  *a);
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
    void *at[2];
    segments_bytes(&a, bytes);
    for (int i = 0; i < 2; i++) TRY(arena_take(c->work, bytes[i], &at[i]));
    struct join j = {};
    j.decays = (float *)at[0], j.ends = a.end = (float *)at[1];
    j.states = a.states = ssd_halves(states), j.last = ssd_halves(range_state), j.range_decay = range_decay;
    TRY(walk_shape<up>(c, &a));
    LAUNCH_WARPS(segment_decays, segments_of(&a) * a.heads, a, segments_of(&a), (float *)at[0]);
    LAUNCH_CELLS((join_segments<up, true>), (a.range.shape[0] - 1) * a.heads, SSD_P * a.state / 4, a, j);
    return OK;
}

/* Of ssd: slots become the state that enters (up: leaves) every chunk, from what enters ranges (first); last: what
 * leaves them. */
template <bool up>
static enum status states_enter(struct ctx *c, struct walk a, struct tensor states, struct tensor first,
                                struct tensor last) {
    int64_t bytes[2];
    void *at[2];
    segments_bytes(&a, bytes);
    for (int i = 0; i < 2; i++) TRY(arena_take(c->work, bytes[i], &at[i]));
    struct join j = {};
    j.decays = (float *)at[0], j.begin = (float *)at[1];
    j.states = ssd_halves(states), j.first = ssd_halves(first), j.last = ssd_halves(last);
    LAUNCH_WARPS(segment_decays, segments_of(&a) * a.heads, a, segments_of(&a), (float *)at[0]);
    LAUNCH_CELLS((join_segments<up, false>), (a.range.shape[0] - 1) * a.heads, SSD_P * a.state / 4, a, j);
    LAUNCH_CELLS((enter_chunks<up>), segments_of(&a) * a.heads, SSD_P * a.state / 8, a, j, segments_of(&a));
    return OK;
}
#endif
