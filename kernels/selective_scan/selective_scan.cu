/* SPDX-License-Identifier: Apache-2.0 */
/* Forward: what s_in adds to the states that enter chunks; where it adds, out again.  Backward: four lanes own a
 * channel, four states each, and go through a chunk twice: forward to leave the state before every segment of four
 * tokens in ctx->work, then segment by segment from the end: states and decays of its tokens again, then gradients.
 * Lane q of a channel does what is once a token - softplus, gate, stores - for token q of the segment.  dB and dC are
 * summed over the eight channels of a warp with each lane keeping half of what it had at each step, seven exchanges a
 * token in place of 24, then over warps, blocks of channels and strips, all in fixed order.
 *
 * Per token and channel, F32, the states kept apart: backward reads x, z, dt, dout, writes dx, dz, ddt, twice over x
 * and dt, 36 bytes and 2 N more of ctx->work out of the L2 cache, 2 N exponentials, 18 N flops.  At D 8,192, N 16 the
 * exponentials need 71 ns a token of an H200's special-function units, the bytes 61 ns of 4.8 TB/s. */
#include "kernels/selective_scan/selective_scan.h"
#include "kernels/selective_scan/selective_scan_bf16.h"
#include "kernels/selective_scan/selective_sums.cuh"
#include "kernels/selective_out.cuh"

/* ---- forward ---- */

__global__ static void reach(const struct selective_scan a, const struct reached reached) {
    const int64_t D = a.A_log.shape[0], N = a.state, R = a.range.shape[0] - 1;
    FOR_CELLS(r, e, R, D * N) {
        const int64_t first = spans_before(a.range, r, a.chunk);
        const int64_t n = ceil_div(long_at(a.range, r + 1) - long_at(a.range, r), a.chunk);
        const float A = -expf(row(a.A_log, e / N)[e % N]), in = row(a.s_in, r)[e];
        chunks_reach(a.states, a.chunk_time, first, n, e / N, e, A, in, reached);
        if (a.s_out.data && n > 0) reached_mark(reached, first + n - 1, e / N);
        if (a.s_out.data && n == 0) row(a.s_out, r)[e] = in;
    }
}

/* ---- backward ---- */

/* What is asked of the entering state becomes what is asked of the end. */
__global__ static void ranges(const struct selective_scan a) {
    const int64_t D = a.A_log.shape[0], N = a.state, R = a.range.shape[0] - 1;
    FOR_CELLS(r, e, R, D * N) {
        const int64_t d = e / N, first = spans_before(a.range, r, a.chunk);
        const int64_t n = ceil_div(long_at(a.range, r + 1) - long_at(a.range, r), a.chunk);
        const float A = -expf(row(a.A_log, d)[e % N]);
        double time;
        const float now = chunks_walk<true, true>(a.dstates, a.chunk_time, first, n, d, e, A,
                                                  a.ds_out.data ? row(a.ds_out, r)[e] : 0.0f, &time);
        if (a.ds_in.data) row(a.ds_in, r)[e] = now;
    }
}

enum { OWN = 4, LANES = STATES / OWN, SEGMENT = 4, BLOCK = THREADS / LANES, BLOCKS_MAX = 528 };
/* OWN states of a lane, LANES lanes of a channel, SEGMENT tokens at a time, BLOCK channels to a block of threads. */

struct room {
    float *marks;     /* (blocks, segments of a chunk, THREADS, OWN) states before segments */
    int64_t segments; /* of a chunk, at most                                                */
    struct sums sums;
};

/* One lane's place: channel, first state, and what it keeps of them. */
struct own {
    int64_t d, n0;
    int q;
    bool live;
    float A[OWN], bias, D; /* A times log2(e) */
};
/* What is once a token, of the lane's token of a segment. */
struct token {
    float x, z, step, dout, dts, dy;
};

static __device__ struct token token_load(const struct selective_scan &a, const struct own &o, int64_t t, int64_t end,
                                          bool gate) {
    struct token k = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    if (!o.live || t >= end) return k;
    k.x = row(a.x, t)[o.d];
    k.step = row(a.dt, t)[o.d] + o.bias;
    k.dts = softplus(k.step);
    if (!gate) return k;
    k.z = row(a.z, t)[o.d];
    k.dout = row(a.dout, t)[o.d];
    k.dy = k.dout * silu(k.z);
    return k;
}

/* The value that lane i of my channel has. */
static __device__ float of_lane(float x, int i) {
    return __shfl_sync(0xffffffffu, x, (int)(threadIdx.x % WARP / LANES * LANES) + i);
}

static __device__ float column(const struct tensor &from, int64_t t, int64_t n) {
    return n < from.shape[1] ? row(from, t)[n] : 0.0f;
}

/* One token: h becomes the state after it; keep, the decay. */
static __device__ void advance(const struct selective_scan &a, const struct own &o, int64_t t, float dts, float dtx,
                               const float *before, float *after, float *keep) {
    const bool fresh = long_at(a.pos, t) == 0;
#pragma unroll
    for (int s = 0; s < OWN; s++) {
        keep[s] = fresh ? 0.0f : exp2_fast(dts * o.A[s]);
        after[s] = fmaf(keep[s], before[s], dtx * column(a.B, t, o.n0 + s));
    }
}

static __device__ void leave_marks(const struct selective_scan &a, const struct own &o, const struct device_span &k,
                                   float *h, float4 *marks) {
    float keep[OWN];
    for (int64_t t0 = k.begin; t0 < k.end; t0 += SEGMENT, marks += THREADS) {
        const struct token own = token_load(a, o, t0 + o.q, k.end, false);
        *marks = make_float4(h[0], h[1], h[2], h[3]);
        for (int i = 0; i < SEGMENT; i++) {
            const float dts = of_lane(own.dts, i), x = of_lane(own.x, i);
            if (t0 + i < k.end) advance(a, o, t0 + i, dts, dts * x, h, h, keep);
        }
    }
}

enum { SUM_Y, SUM_GB, SUM_RATE, SUMS };
struct gradient {
    float g[OWN];
    double dA[OWN], dbias, dD;
};

/* A segment's gradients: v gets what goes into dB and dC, [token][B | C][state]; sums those over the states. */
static __device__ void segment_back(const struct selective_scan &a, const struct own &o, int64_t t0, int64_t end,
                                    const float4 &mark, const struct token &own, struct gradient *r, float *v,
                                    float *sums) {
    float h[SEGMENT + 1][OWN] = {{mark.x, mark.y, mark.z, mark.w}}, keep[SEGMENT][OWN], dA[OWN] = {0.0f};
#pragma unroll
    for (int i = 0; i < SEGMENT; i++) {
        const float dts = of_lane(own.dts, i), x = of_lane(own.x, i);
        if (t0 + i < end) advance(a, o, t0 + i, dts, dts * x, h[i], h[i + 1], keep[i]);
    }
#pragma unroll
    for (int i = SEGMENT - 1; i >= 0; i--) {
        const float dts = of_lane(own.dts, i), dtx = dts * of_lane(own.x, i), dy = of_lane(own.dy, i);
        for (int j = 0; j < SUMS; j++) sums[i * SUMS + j] = 0.0f;
        for (int j = 0; j < 2 * OWN; j++) v[i * 2 * OWN + j] = 0.0f;
        if (t0 + i >= end) continue;
#pragma unroll
        for (int s = 0; s < OWN; s++) {
            const float C = column(a.C, t0 + i, o.n0 + s), B = column(a.B, t0 + i, o.n0 + s);
            const float g = fmaf(dy, C, r->g[s]), gh = g * (keep[i][s] * h[i][s]);
            v[i * 2 * OWN + s] = g * dtx;
            v[i * 2 * OWN + OWN + s] = dy * h[i + 1][s];
            sums[i * SUMS + SUM_Y] = fmaf(C, h[i + 1][s], sums[i * SUMS + SUM_Y]);
            sums[i * SUMS + SUM_GB] = fmaf(g, B, sums[i * SUMS + SUM_GB]);
            sums[i * SUMS + SUM_RATE] = fmaf(o.A[s] / LOG2_E, gh, sums[i * SUMS + SUM_RATE]);
            dA[s] = fmaf(gh, dts, dA[s]);
            r->g[s] = keep[i][s] * g;
        }
    }
    for (int s = 0; s < OWN; s++) r->dA[s] += (double)dA[s];
}

/* The lane's token: sums of all its states so far; with the last ones, its gradients. */
static __device__ void token_back(const struct selective_scan &a, const struct own &o, int64_t t, const struct token &k,
                                  const float *sums, bool first, bool last, struct gradient *r) {
    if (!o.live) return;
    float *dz = &row(a.dz, t)[o.d], *dx = &row(a.dx, t)[o.d], *ddt = &row(a.ddt, t)[o.d];
    const float y = sums[SUM_Y] + (first ? o.D * k.x : *dz), gB = sums[SUM_GB] + (first ? 0.0f : *dx);
    const float rate = sums[SUM_RATE] + (first ? 0.0f : *ddt);
    const float step = fmaf(k.x, gB, rate) * (k.step > 20.0f ? 1.0f : sigmoid(k.step));
    *dz = last ? k.dout * y * dsilu(k.z) : y;
    *dx = last ? fmaf(k.dts, gB, o.D * k.dy) : gB;
    *ddt = last ? step : rate;
    if (!last) return;
    r->dbias += (double)step;
    r->dD += (double)(k.dy * k.x);
}

/* What the warps hold for a segment goes into the strip's dB | dC: written by the strip's first channels, else added.
 */
static __device__ void bc_add(const struct selective_scan &a, const struct own &o, float *bc, int64_t t0, int64_t end,
                              const float *v, bool write) {
    __shared__ float4 all[WARPS][WARP];
    all[threadIdx.x / WARP][threadIdx.x % WARP] = make_float4(v[0], v[1], v[2], v[3]);
    __syncthreads();
    const int lane = threadIdx.x % WARP, s = threadIdx.x / WARP;
    const int64_t t = t0 + lane / 8, n = o.n0 + s; /* bits 16 and 8 of a lane chose the token, bit 4 B or C */
    if (s < OWN && t < end && n < a.state) {
        float sum = 0.0f;
        for (int w = 0; w < WARPS; w++) sum += ((const float *)&all[w][lane])[s];
        float *to = bc + (t * 2 + (lane & 4 ? 1 : 0)) * a.state + n;
        *to = write ? sum : *to + sum;
    }
    __syncthreads();
}

/* BLOCK channels, STATES states of one chunk. */
static __device__ void backward_block(const struct selective_scan &a, const struct room &w, const struct device_span &k,
                                      int64_t chunk, int64_t block, int64_t group, float *bc, bool write,
                                      struct gradient *r) {
    const int64_t D = a.A_log.shape[0], N = a.state;
    struct own o = {block * BLOCK + threadIdx.x / LANES, 0, (int)(threadIdx.x % LANES), false, {0.0f}, 0.0f, 0.0f};
    const bool first = group == 0, last = (group + 1) * STATES >= N;
    float h[OWN], v[SEGMENT * 2 * OWN], sums[SEGMENT * SUMS];
    float4 *marks = (float4 *)w.marks + (int64_t)blockIdx.x * w.segments * THREADS + threadIdx.x;
    o.n0 = group * STATES + o.q * OWN;
    o.live = o.d < D;
    if (o.live) o.bias = vector_at(a.dt_bias, o.d), o.D = vector_at(a.D, o.d);
    for (int s = 0; s < OWN; s++) {
        const bool is = o.live && o.n0 + s < N;
        o.A[s] = rate_at(a.A_log, o.d, o.n0 + s);
        h[s] = is ? row(a.states, chunk)[o.d * N + o.n0 + s] : 0.0f;
        r->g[s] = is ? row(a.dstates, chunk)[o.d * N + o.n0 + s] : 0.0f;
        r->dA[s] = 0.0;
    }
    leave_marks(a, o, k, h, marks);
    for (int64_t i = ceil_div(k.end - k.begin, SEGMENT) - 1; i >= 0; i--) {
        const int64_t t0 = k.begin + i * SEGMENT;
        const struct token own = token_load(a, o, t0 + o.q, k.end, true);
        segment_back(a, o, t0, k.end, marks[i * THREADS], own, r, v, sums);
        halve<SEGMENT * SUMS, LANES / 2, 1>(sums);
        if (t0 + o.q < k.end) token_back(a, o, t0 + o.q, own, sums, first, last, r);
        halve<SEGMENT * 2 * OWN, WARP / 2, LANES>(v);
        bc_add(a, o, bc, t0, k.end, v, write);
    }
    for (int s = 0; s < OWN; s++) /* dA_log = A dA */
        if (o.live && o.n0 + s < N)
            w.sums.dA[(chunk * D + o.d) * N + o.n0 + s] = (float)(r->dA[s] * (double)(o.A[s] / LOG2_E));
    if (!last) return;
    for (int half = LANES / 2; half > 0; half /= 2) {
        r->dbias += __shfl_xor_sync(0xffffffffu, r->dbias, half);
        r->dD += __shfl_xor_sync(0xffffffffu, r->dD, half);
    }
    if (!o.live || o.q != 0) return;
    w.sums.dbias[chunk * D + o.d] = r->dbias;
    w.sums.dD[chunk * D + o.d] = r->dD;
}

__global__ static void __launch_bounds__(THREADS)
    backward_chunks(const struct selective_scan a, const struct room w, int64_t n_chunks) {
    const int64_t T = a.pos.shape[0], N = a.state, blocks = ceil_div(a.A_log.shape[0], BLOCK);
    struct device_span k;
    for (int64_t item = blockIdx.x; item < n_chunks * w.sums.strips; item += gridDim.x) {
        const int64_t chunk = item / w.sums.strips, strip = item % w.sums.strips,
                      begin = strip * blocks / w.sums.strips;
        if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
        for (int64_t b = begin; b < (strip + 1) * blocks / w.sums.strips; b++) {
            struct gradient r = {{0.0f}, {0.0}, 0.0, 0.0};
            for (int64_t g = 0; g * STATES < N; g++)
                backward_block(a, w, k, chunk, b, g, w.sums.bc + strip * T * 2 * N, b == begin, &r);
        }
    }
}

/* ---- both ---- */

static enum status check_backward(struct ctx *c, const struct selective_scan *a) {
    const int64_t T = a->pos.shape[0], D = a->A_log.shape[0], N = a->state, R = a->range.shape[0] - 1;
    CHECK_SHAPE(selective_scan, dout, REAL, T, D);
    CHECK_SHAPE(selective_scan, dstates, WIDE, a->states.shape[0], D, 1, N);
    CHECK_OPTIONAL(selective_scan, ds_out, WIDE, R, D, 1, N);
    CHECK_OPTIONAL(selective_scan, ds_in, WIDE, R, D, 1, N);
    CHECK_SHAPE(selective_scan, dx, REAL, T, D);
    CHECK_SHAPE(selective_scan, dz, REAL, T, D);
    CHECK_SHAPE(selective_scan, ddt, REAL, T, D);
    CHECK_SHAPE(selective_scan, dB, REAL, T, N);
    CHECK_SHAPE(selective_scan, dC, REAL, T, N);
    CHECK_SHAPE(selective_scan, dA_log, WIDE, D, N);
    CHECK_SHAPE(selective_scan, ddt_bias, WIDE, D);
    CHECK_SHAPE(selective_scan, dD, WIDE, D);
    return OK;
}

static bool has_kernel(const struct ctx *c, const struct selective_scan *a) {
    return REAL == F32 || selective_bf16_has(a->state, a->chunk);
}

static enum status check(struct ctx *c, const struct selective_scan *a, bool backward) {
    const int64_t T = a->pos.shape[0], D = a->A_log.shape[0], N = a->state, R = a->range.shape[0] - 1;
    const int64_t n = a->states.shape[0];
    CHECK_THAT(selective_scan, N > 0 && a->chunk > 0, "state %" PRId64 ", chunk %" PRId64 ": expected above 0", N,
               a->chunk);
    CHECK_THAT(selective_scan, has_kernel(c, a), SELECTIVE_BF16, a->state, a->chunk);
    CHECK_THAT(selective_scan, R >= 0, "range is empty: expected the rows where ranges begin");
    CHECK_SHAPE(selective_scan, range, I64, R + 1);
    CHECK_SHAPE(selective_scan, pos, I64, T);
    CHECK_SHAPE(selective_scan, x, REAL, T, D);
    CHECK_SHAPE(selective_scan, z, REAL, T, D);
    CHECK_SHAPE(selective_scan, dt, REAL, T, D);
    CHECK_SHAPE(selective_scan, B, REAL, T, N);
    CHECK_SHAPE(selective_scan, C, REAL, T, N);
    CHECK_SHAPE(selective_scan, A_log, WIDE, D, N);
    CHECK_SHAPE(selective_scan, dt_bias, WIDE, D);
    CHECK_SHAPE(selective_scan, D, WIDE, D);
    CHECK_SHAPE(selective_scan, states, WIDE, n, D, 1, N);
    CHECK_SHAPE(selective_scan, chunk_time, WIDE, n, D);
    if (backward) return check_backward(c, a);
    CHECK_SHAPE(selective_scan, s_in, WIDE, R, D, 1, N);
    CHECK_OPTIONAL(selective_scan, s_out, WIDE, R, D, 1, N);
    CHECK_SHAPE(selective_scan, out, REAL, T, D);
    return OK;
}

/* Chunks that the ranges can make and the tensor has room for. */
static int64_t chunks_of(const struct selective_scan *a) {
    return least(a->states.shape[0], spans_max(a->pos.shape[0], a->range.shape[0] - 1, a->chunk));
}
static int64_t blocks_of(const struct selective_scan *a) {
    return least(BLOCKS_MAX, chunks_of(a) * strips_of(a, BLOCK));
}
static int64_t segments_of(const struct selective_scan *a) {
    return ceil_div(least(a->chunk, a->pos.shape[0]), SEGMENT);
}

static int64_t marks_bytes(const struct selective_scan *a) {
    return blocks_of(a) * segments_of(a) * THREADS * OWN * (int64_t)sizeof(float);
}

extern "C" int64_t selective_scan_work_cuda(const struct ctx *c, const struct selective_scan *a) {
    if (!has_kernel(c, a)) return -1;
    const int64_t forward = reached_bytes(a->A_log.shape[0], chunks_of(a));
    if (REAL == BF16) return most(forward, selective_scan_work_bf16(a, chunks_of(a)));
    return most(forward, arena_round(marks_bytes(a)) + sums_bytes(a, chunks_of(a), strips_of(a, BLOCK)));
}

static enum status forward(struct ctx *c, const struct selective_scan *a) {
    const int64_t n = chunks_of(a), D = a->A_log.shape[0];
    struct reached reached;
    TRY(reached_open(&reached, c, D, n));
    LAUNCH_CELLS(reach, a->range.shape[0] - 1, D * a->state, *a, reached);
    if (REAL == BF16) return selective_scan_fwd_bf16(c, a, &reached, n);
    LAUNCH(out_chunks<struct selective_scan>, selective_grid(n, D, 1), CHANNELS, *a, reached, a->s_out, n);
    return OK;
}

extern "C" enum status selective_scan_fwd_cuda(struct ctx *c, const struct selective_scan *a) {
    TRY(check(c, a, false));
    const int64_t mark = arena_mark(c->work);
    const enum status st = forward(c, a);
    arena_release(c->work, mark);
    return st;
}

static enum status backward(struct ctx *c, const struct selective_scan *a) {
    const int64_t n = chunks_of(a);
    struct room w = {NULL, segments_of(a), {}};
    void *at;
    LAUNCH_CELLS(ranges, a->range.shape[0] - 1, a->A_log.shape[0] * a->state, *a);
    if (REAL == BF16) return selective_scan_bwd_bf16(c, a, n);
    TRY(arena_take(c->work, marks_bytes(a), &at));
    w.marks = (float *)at;
    TRY(sums_open(&w.sums, c, a, n, strips_of(a, BLOCK)));
    LAUNCH(backward_chunks, dim3((unsigned)blocks_of(a)), THREADS, *a, w, n);
    return sums_close<float>(c, a, w.sums);
}

extern "C" enum status selective_scan_bwd_cuda(struct ctx *c, const struct selective_scan *a) {
    TRY(check(c, a, true));
    const int64_t mark = arena_mark(c->work);
    const enum status st = backward(c, a);
    arena_release(c->work, mark);
    return st;
}
