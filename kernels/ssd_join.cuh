/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_JOIN_CUH
#define BATON_KERNELS_SSD_JOIN_CUH
/* ssd_join.cuh - the segments of ssd_walk.cuh joined along a range, and the launches of both halves. */
#include "kernels/ssd_steps.cuh"

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

/* A thread owns four elements of the state of a (range, head).  ends: what segments add, which goes into the slots of
 * states, and last is what the range ends with.  Without: what slots hold, and begin is what enters every segment. */
struct join {
    const float *decays, *ends;
    float *begin;
    struct tensor first, last, states, range_decay; /* (R, H, P, N) (R, H, P, N) (c, H, P, N) (R, H), or absent */
};
template <bool up> __global__ static void join_segments(const struct walk a, const struct join j) {
    const int64_t H = a.heads, PN = j.states.shape[2] * j.states.shape[3], R = a.range.shape[0] - 1;
    const int64_t each = a.segment / a.chunk;
    FOR_CELLS(item, e, R * H, PN / 4) {
        const int64_t r = item / H, h = item % H, tokens = long_at(a.range, r + 1) - long_at(a.range, r);
        const int64_t n = ceil_div(tokens, a.segment), s0 = spans_before(a.range, r, a.segment);
        const int64_t chunk0 = spans_before(a.range, r, a.chunk), chunks = ceil_div(tokens, a.chunk);
        float4 now = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        double keep = 1.0;
        if (j.first.data) now = ((const float4 *)state_of(j.first, r, h))[e];
#pragma unroll 4
        for (int64_t i = 0; i < n; i++) {
            const int64_t s = up ? n - 1 - i : i, chunk = chunk0 + (up ? least((s + 1) * each, chunks) - 1 : s * each);
            uint2 *slot = (uint2 *)state16(j.states, chunk, h) + e;
            const float decay = j.decays[(s0 + s) * H + h];
            float4 own;
            if (j.ends) {
                own = ((const float4 *)(j.ends + ((s0 + s) * H + h) * PN))[e];
                *slot = make_uint2(pack(own.x, own.y), pack(own.z, own.w));
            } else {
                const uint2 u = *slot;
                own = make_float4(low_half(u.x), high_half(u.x), low_half(u.y), high_half(u.y));
                ((float4 *)(j.begin + ((s0 + s) * H + h) * PN))[e] = now;
            }
            now.x = fmaf(decay, now.x, own.x), now.y = fmaf(decay, now.y, own.y);
            now.z = fmaf(decay, now.z, own.z), now.w = fmaf(decay, now.w, own.w);
            keep *= (double)decay;
        }
        if (j.last.data && (j.ends || n == 0)) ((float4 *)state_of(j.last, r, h))[e] = now;
        if (j.range_decay.data && e == 0 && h >> a.shift << a.shift == h)
            row(j.range_decay, r)[h >> a.shift] = (float)keep;
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

template <int N, bool outputs, bool up> static enum status walk_launch(struct ctx *c, const struct walk *a) {
    constexpr int cols = outputs ? N : walk_cols<N>, parts = N / cols, bytes = sizeof(walk_shared<cols, outputs>);
    const int64_t blocks = segments_of(a) * parts * (a->heads / walk_heads<N, outputs>);
    static_assert(bytes <= (outputs ? 227 : 113) * 1024, "a processor's shared memory");
    if constexpr (outputs) LAUNCH_SHARED(walk_outputs<N>, blocks, walk_threads<N>, bytes, *a);
    else LAUNCH_SHARED((walk_states<cols, parts, up>), blocks, WALK_THREADS, bytes, *a);
    return OK;
}
template <bool outputs, bool up> static enum status walk_shape(struct ctx *c, const struct walk *a) {
    if (a->state == 64) return walk_launch<64, outputs, up>(c, a);
    return a->state == 128 ? walk_launch<128, outputs, up>(c, a) : walk_launch<256, outputs, up>(c, a);
}

/* The walk of ssd_local: from zero.  states: the slots. */
template <bool up>
static enum status walk_from_zero(struct ctx *c, struct walk a, struct tensor states, struct tensor range_decay,
                                  struct tensor range_state) {
    int64_t bytes[2];
    void *at[2];
    segments_bytes(&a, bytes);
    for (int i = 0; i < 2; i++) TRY(arena_take(c->work, bytes[i], &at[i]));
    struct join j = {};
    j.decays = (float *)at[0], j.ends = a.end = (float *)at[1];
    j.states = ssd_halves(states), j.last = ssd_halves(range_state), j.range_decay = range_decay;
    TRY((walk_shape<false, up>(c, &a)));
    LAUNCH_WARPS(segment_decays, segments_of(&a) * a.heads, a, segments_of(&a), (float *)at[0]);
    LAUNCH_CELLS((join_segments<up>), (a.range.shape[0] - 1) * a.heads, SSD_P * a.state / 4, a, j);
    return OK;
}

/* The walk of ssd: from what enters ranges (first), to what leaves them (last); every chunk's state into states. */
template <bool outputs, bool up>
static enum status walk_through(struct ctx *c, struct walk a, struct tensor states, struct tensor first,
                                struct tensor last) {
    int64_t bytes[2];
    void *at[2];
    segments_bytes(&a, bytes);
    for (int i = 0; i < 2; i++) TRY(arena_take(c->work, bytes[i], &at[i]));
    struct join j = {};
    j.decays = (float *)at[0], j.begin = (float *)at[1];
    j.states = ssd_halves(states), j.first = ssd_halves(first), j.last = ssd_halves(last);
    a.begin = j.begin, a.states = j.states, a.range_end = j.last;
    LAUNCH_WARPS(segment_decays, segments_of(&a) * a.heads, a, segments_of(&a), (float *)at[0]);
    LAUNCH_CELLS((join_segments<up>), (a.range.shape[0] - 1) * a.heads, SSD_P * a.state / 4, a, j);
    return walk_shape<outputs, up>(c, &a);
}
#endif
