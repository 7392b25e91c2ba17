/* SPDX-License-Identifier: Apache-2.0 */
/* Forward of the first half in BF16.  Ranges are cut into stretches of many chunks, by the number of channels alone.  A
 * warp walks 16 channels through a stretch from a zero state: four lanes own a pair of channels, four states of each to
 * a lane; tokens come STEP at a time, each the work of one of the four lanes as far as it is once a token.  Then states
 * are folded over the stretches, and out is made again of the chunks that what enters a stretch reaches.
 *
 * Per token and channel: reads x, z, dt, writes out, 8 bytes, 4 N / chunk of states; N + 4 special functions, 6 N
 * flops. At D 8,192, N 16, 1.755 GHz the special functions of an H200 need 44 ns a token, the bytes 16 ns of 4.8 TB/s,
 * 190 instructions 52 ns. */
#include "kernels/selective_scan_local/selective_scan_local_bf16.h"
#include "kernels/selective_out_bf16.cuh"

enum { OWN = 4, LANES = STATES / OWN, STRIP = 2 * WARP / LANES, CREWS = PAIRS / WARP, BLOCK = CREWS * STRIP };
enum { LEAST_STRETCH = 1024, BY_FMA = 2 };

/* What the walk leaves of each stretch: the state behind it and the sum of its chunks' times. */
struct stretches {
    int64_t length;
    float *state, *time; /* (stretches, D, N) (stretches, D) */
};
static int64_t stretch_of(const struct selective_scan_local *a) {
    return ceil_div(most(LEAST_STRETCH, 2 * a->A_log.shape[0]), a->chunk) * a->chunk;
}
static int64_t stretches_max(const struct selective_scan_local *a) {
    return spans_max(a->pos.shape[0], a->range.shape[0] - 1, stretch_of(a));
}

/* A lane: its pair of channels at its token's row of the next step; rates times log2(e). */
struct own {
    int64_t d;
    int q;
    bool live;
    float A[2][OWN], h[2][OWN], bias[2], D[2], time[2];
    double all[2];
    struct column dt, x, z, out;
};
/* A step's tokens of the lane, as they lie in memory. */
struct raw {
    uint32_t dt, x, z;
};

static __device__ void own_open(struct own *o, const struct selective_scan_local &a, int64_t begin) {
    const int64_t D = a.A_log.shape[0];
    const int lane = threadIdx.x % WARP;
    *o = (struct own){};
    o->d = (int64_t)blockIdx.x * BLOCK + threadIdx.x / WARP * STRIP + 2 * (lane % 8), o->q = lane / 8;
    o->live = o->d < D;
    for (int i = 0; i < 2; i++) {
        if (o->d + i < D) o->bias[i] = vector_at(a.dt_bias, o->d + i), o->D[i] = vector_at(a.D, o->d + i);
        for (int s = 0; s < OWN; s++) o->A[i][s] = rate_at(a.A_log, o->d + i, OWN * o->q + s);
    }
    begin += o->q;
    o->dt = column_open(a.dt, begin, o->d), o->x = column_open(a.x, begin, o->d);
    o->z = column_open(a.z, begin, o->d), o->out = column_open(a.out, begin, o->d);
}

template <bool whole> static __device__ struct raw raw_fetch(const struct own &o, bool is) {
    if (!is || !o.live) return (struct raw){};
    return (struct raw){column_get<whole>(o.dt, 0), column_get<whole>(o.x, 0), column_get<whole>(o.z, 0)};
}

/* The lane's states to (D, N) at `to`. */
static __device__ void states_put(float *to, const struct own &o, int64_t D, int64_t N) {
    for (int i = 0; i < 2; i++) {
        float *at = to + (o.d + i) * N + OWN * o.q;
        if (o.d + i >= D) continue;
        if (N == STATES && (uintptr_t)at % 16 == 0)
            *(float4 *)at = make_float4(o.h[i][0], o.h[i][1], o.h[i][2], o.h[i][3]);
        else
            for (int s = 0; s < OWN; s++)
                if (OWN * o.q + s < N) at[s] = o.h[i][s];
    }
}

/* A step, of rows B and C; bit j of fresh: a document starts with token j; is: the lane's token is there.  y: of the
 * lane's token. */
template <bool resets>
static __device__ void step(struct own *o, const struct raw &now, bool is, uint32_t fresh, const float4 (*B)[QUADS],
                            const float4 (*C)[QUADS], float *y) {
    float dts[2], dtx[2], v[STEP * 2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float e;
        dts[i] = softplus_fast(half_of(now.dt, i) + o->bias[i], &e);
        if (!is) dts[i] = 0.0f;
        dtx[i] = dts[i] * half_of(now.x, i);
        o->time[i] += dts[i];
    }
#pragma unroll
    for (int j = 0; j < STEP; j++) {
        const float4 quad_B = B[j][o->q], quad_C = C[j][o->q];
        const float b[4] = {quad_B.x, quad_B.y, quad_B.z, quad_B.w}, c[4] = {quad_C.x, quad_C.y, quad_C.z, quad_C.w};
        if (resets && fresh >> j & 1)
            for (int s = 0; s < OWN; s++) o->h[0][s] = o->h[1][s] = 0.0f;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float t = of_eight(dts[i], j), tx = of_eight(dtx[i], j);
            float sum = 0.0f;
#pragma unroll
            for (int s = 0; s < OWN; s++) {
                o->h[i][s] = fmaf(decay_of<BY_FMA>(j % 2 * 8 + i * 4 + s, t * o->A[i][s]), o->h[i][s], tx * b[s]);
                sum = fmaf(c[s], o->h[i][s], sum);
            }
            v[j * 2 + i] = sum;
        }
    }
    halve<STEP * 2, WARP / 2, WARP / LANES>(v);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float z = half_of(now.z, i);
        y[i] = fmaf(o->D[i], half_of(now.x, i), v[i]) * z * sigmoid_fast(z);
    }
}

/* The chunk's time; the lanes of a channel have parts of it. */
static __device__ void chunk_close(const struct selective_scan_local &a, struct own *o, int64_t chunk, bool starts) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        double sum = (double)o->time[i];
        for (int half = WARP / 2; half >= WARP / LANES; half /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, half);
        const float time = starts ? (float)AFFINE_FOREVER : (float)sum;
        if (o->q == 0 && o->d + i < a.A_log.shape[0]) row(a.chunk_time, chunk)[o->d + i] = time;
        o->all[i] += (double)time;
        o->time[i] = 0.0f;
    }
}

/* n tokens of a stretch, `chunk` its first chunk. */
template <bool whole, bool resets>
static __device__ void walk(const struct selective_scan_local &a, const struct device_span &k, int64_t chunk,
                            struct own *o, float4 (*B)[QUADS], float4 (*C)[QUADS]) {
    const int n = (int)(k.end - k.begin), Q = (int)a.chunk;
    int start = 0, end = Q < n ? Q : n, tile = 0;
    bool starts = false;
    struct raw next = raw_fetch<whole>(*o, o->q < end);
    for (int t = 0; t < n;) {
        if (t == 0 || t + STEP > tile + TILE_ROWS) {
            tile = t;
            __syncthreads();
            tile_rows(B, a.B, k.begin + t, k.end);
            tile_rows(C, a.C, k.begin + t, k.end);
            __syncthreads();
        }
        if (t == start) states_put(row(a.states, chunk), *o, a.A_log.shape[0], a.state);
        const int then = t + STEP < end ? t + STEP : end, beyond = then < end ? end : end + Q < n ? end + Q : n;
        const bool is = o->live && t + o->q < end;
        const struct raw now = next;
        uint32_t fresh = 0;
        float y[2];
        column_move(&o->dt, then - t), column_move(&o->x, then - t), column_move(&o->z, then - t);
        next = raw_fetch<whole>(*o, then + o->q < beyond);
        if (resets) {
            const int at = t + (int)(threadIdx.x % STEP);
            fresh = __ballot_sync(0xffffffffu, at < end && long_at(a.pos, k.begin + at) == 0);
            starts = starts || fresh;
        }
        step<resets>(o, now, is, fresh, B + (t - tile), C + (t - tile), y);
        if (is) column_set<whole>(o->out, 0, y[0], y[1]);
        column_move(&o->out, then - t);
        if (then == end) {
            chunk_close(a, o, chunk, starts);
            starts = false;
            chunk++, start = end, end = beyond;
        }
        t = then;
    }
}

template <bool whole>
__global__ static void __launch_bounds__(PAIRS, 4)
    walk_stretches(const struct selective_scan_local a, const struct stretches w, int64_t n) {
    __shared__ float4 B[TILE_ROWS][QUADS], C[TILE_ROWS][QUADS];
    const int64_t D = a.A_log.shape[0], N = a.state;
    struct device_span k;
    struct own o;
    for (int64_t i = blockIdx.y; i < n; i += gridDim.y) {
        if (!span_find(a.range, a.pos, w.length, i, &k)) return;
        const int64_t before = k.begin - long_at(a.range, k.range);
        const int64_t chunk = spans_before(a.range, k.range, a.chunk) + before / a.chunk;
        own_open(&o, a, k.begin);
        if (k.through) walk<whole, false>(a, k, chunk, &o, B, C);
        else walk<whole, true>(a, k, chunk, &o, B, C);
        states_put(w.state + i * D * N, o, D, N);
        for (int p = 0; p < 2; p++)
            if (o.q == 0 && o.d + p < D) w.time[i * D + o.d + p] = (float)o.all[p];
    }
}

/* A state of a range over its stretches: what enters each goes into its chunks, what leaves the last is the range's. */
__global__ static void fold_stretches(const struct selective_scan_local a, const struct stretches w,
                                      const struct reached reached) {
    const int64_t D = a.A_log.shape[0], N = a.state, R = a.range.shape[0] - 1, each = w.length / a.chunk;
    FOR_CELLS(r, e, R, D * N) {
        const int64_t d = e / N, tokens = long_at(a.range, r + 1) - long_at(a.range, r);
        const int64_t n = ceil_div(tokens, a.chunk), chunk = spans_before(a.range, r, a.chunk);
        const int64_t first = spans_before(a.range, r, w.length);
        const float A = -expf(row(a.A_log, d)[e % N]);
        float now = 0.0f;
        double sum = 0.0;
        for (int64_t i = 0; i * each < n; i++) {
            const float time = w.time[(first + i) * D + d];
            if (i > 0)
                chunks_reach(a.states, a.chunk_time, chunk + i * each, least(each, n - i * each), d, e, A, now,
                             reached);
            now = fmaf(keep_after(A, time), now, w.state[(first + i) * D * N + e]);
            sum += (double)time;
        }
        row(a.range_state, r)[e] = now;
        if (e % N == 0) row(a.range_time, r)[d] = (float)sum;
    }
}

int64_t selective_scan_local_work_bf16(const struct selective_scan_local *a, int64_t n_chunks) {
    const int64_t D = a->A_log.shape[0], n = stretches_max(a);
    return arena_round(n * D * a->state * (int64_t)sizeof(float)) + arena_round(n * D * (int64_t)sizeof(float)) +
           reached_bytes(D, n_chunks);
}

static enum status forward(struct ctx *c, const struct selective_scan_local *a, int64_t n_chunks) {
    const int64_t D = a->A_log.shape[0], n = stretches_max(a);
    const dim3 grid((unsigned)ceil_div(D, BLOCK), (unsigned)least(n, 32768));
    const bool whole = rows_in_pairs(a->x) && rows_in_pairs(a->z) && rows_in_pairs(a->dt) && rows_in_pairs(a->out);
    struct reached reached;
    void *state, *time;
    TRY(arena_take(c->work, n * D * a->state * (int64_t)sizeof(float), &state));
    TRY(arena_take(c->work, n * D * (int64_t)sizeof(float), &time));
    TRY(reached_open(&reached, c, D, n_chunks));
    const struct stretches w = {stretch_of(a), (float *)state, (float *)time};
    if (whole) LAUNCH(walk_stretches<true>, grid, PAIRS, *a, w, n);
    else LAUNCH(walk_stretches<false>, grid, PAIRS, *a, w, n);
    LAUNCH_CELLS(fold_stretches, a->range.shape[0] - 1, D * a->state, *a, w, reached);
    return out_again(c, a, reached, (struct tensor){}, n_chunks);
}

enum status selective_scan_local_fwd_bf16(struct ctx *c, const struct selective_scan_local *a, int64_t n_chunks) {
    const int64_t mark = arena_mark(c->work);
    const enum status st = forward(c, a, n_chunks);
    arena_release(c->work, mark);
    return st;
}
