/* SPDX-License-Identifier: Apache-2.0 */
/* Backward of the second half in BF16.  Four lanes own a channel, four states each; a block owns BLOCK channels of a
 * chunk at a time and goes through it twice: forward to leave the state before every segment of eight tokens in shared
 * memory, then segment by segment from the end: states and decays again, in registers, then gradients.
 *
 * What is once a token and channel - softplus, gates, epilogue - is done by one thread each and handed over through
 * shared memory, as are sums over the states.  Sums over channels, dB and dC, are products with ones on the tensor
 * cores: terms rounded to BF16, sums F32, first over the block, then over the blocks of a strip, then strips in order.
 *
 * Per token and channel: reads x, dt twice, z, dout, writes dx, dz, ddt, 18 bytes, and 12 N / chunk of states; 2 N + 9
 * special functions, 18 N flops, some 29 N instructions.  At D 8,192, N 16, 1.755 GHz an H200 needs 128 ns a token for
 * the instructions, 90 ns for the special functions, 35 ns of 4.8 TB/s for the bytes. */
#include "kernels/selective_scan/selective_scan_bf16.h"
#include "kernels/selective_bf16.cuh"
#include "kernels/selective_scan/selective_sums.cuh"

enum { OWN = 4, LANES = STATES / OWN, SEGMENT = 8, PART = 4, BLOCK = THREADS / LANES, BC = 2 * STATES };
/* OWN states of a lane, LANES lanes of a channel, PART tokens between two hand-overs of sums. */

/* Shared memory of a block. */
struct tile {
    float4 step[SEGMENT][BLOCK];        /* dts, dts x, dy, softplus's slope: zeros past the end  */
    float2 gate[SEGMENT][BLOCK];        /* x, dout silu'(z)                                      */
    float4 rows[2][SEGMENT][LANES];     /* B, C                                                  */
    float4 sums[PART][BLOCK][LANES];    /* y, g B, g rate a h of four states, lanes permuted     */
    uint2 terms[2][PART][BLOCK][LANES]; /* of dB, dC: four states, BF16, halves permuted         */
    bool fresh[SEGMENT];                /* a document starts                                     */
};
static inline __host__ __device__ int64_t segments_of(int64_t rows) { return ceil_div(rows, SEGMENT); }
static int64_t tile_bytes(int64_t rows) {
    return (int64_t)sizeof(struct tile) + segments_of(rows) * (THREADS * 16 + SEGMENT * BC * 4);
}
/* Behind it: (segments, THREADS) states, then (SEGMENT segments, BC) sums. */
static inline __device__ float4 *marks_of(struct tile *m) { return (float4 *)(m + 1); }
static inline __device__ int lane_place(int channel, int lane) { return lane ^ (channel >> 1 & 3); }

/* What a thread asks for ahead: of a segment's tokens, one row of a pair of channels and one element of B or C. */
struct ahead_rows {
    uint32_t dt, x, z, dout;
    bf16_bits bc;
    bool fresh;
};
/* The chunk and the block's channels; of this thread, its pair of them down the rows it stages, their biases. */
struct place {
    struct device_span k;
    int64_t chunk, d0;
    int n; /* rows */
    bool live;
    float bias[2];
    struct column dt, x, z, dout;
};
static __device__ void place_open(struct place *p, const struct selective_scan &a, int64_t d0) {
    const int64_t t = p->k.begin + threadIdx.x / WARP, D = a.A_log.shape[0], d = d0 + 2 * (threadIdx.x % WARP);
    p->d0 = d0;
    p->n = (int)(p->k.end - p->k.begin);
    p->live = d < D;
    for (int i = 0; i < 2; i++) p->bias[i] = d + i < D ? vector_at(a.dt_bias, d + i) : 0.0f;
    p->dt = column_open(a.dt, t, d), p->x = column_open(a.x, t, d);
    p->z = column_open(a.z, t, d), p->dout = column_open(a.dout, t, d);
}

template <bool whole>
static __device__ void rows_ahead(struct ahead_rows *r, const struct selective_scan &a, const struct place &p,
                                  int segment, bool gate) {
    static_assert(SEGMENT * BLOCK == 2 * THREADS && 2 * SEGMENT * STATES == THREADS, "threads cover a segment");
    const int t0 = segment * SEGMENT, u = t0 + threadIdx.x % (THREADS / 2) / STATES, n = threadIdx.x % STATES;
    *r = (struct ahead_rows){};
    if (segment < 0) return;
    if (p.live && t0 + (int)(threadIdx.x / WARP) < p.n) {
        r->dt = column_get<whole>(p.dt, t0);
        r->x = column_get<whole>(p.x, t0);
        if (gate) r->z = column_get<whole>(p.z, t0), r->dout = column_get<whole>(p.dout, t0);
    }
    if (u < p.n && n < a.state) r->bc = row16(threadIdx.x < THREADS / 2 ? a.B : a.C, p.k.begin + u)[n];
    if (!p.k.through && threadIdx.x < SEGMENT && t0 + (int)threadIdx.x < p.n)
        r->fresh = long_at(a.pos, p.k.begin + t0 + threadIdx.x) == 0;
}

/* Rows that came ahead, worked on and put where all see them; barriers are the caller's.  Past the end a token has no
 * time and nothing is asked of it; a channel that is not there has rates 0 and x 0. */
static __device__ void rows_put(struct tile *m, const struct place &p, int segment, const struct ahead_rows &r,
                                bool gate) {
    const int i = threadIdx.x / WARP, channel = 2 * (threadIdx.x % WARP);
    const bool in = p.live && segment * SEGMENT + i < p.n;
    ((float *)m->rows)[threadIdx.x] = bf16_float(r.bc);
    if (threadIdx.x < SEGMENT) m->fresh[threadIdx.x] = r.fresh;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        float e;
        const float v = half_of(r.dt, k) + p.bias[k], x = half_of(r.x, k), dts = in ? softplus_fast(v, &e) : 0.0f;
        float4 step = make_float4(dts, dts * x, 0.0f, 0.0f);
        if (gate) {
            const float z = half_of(r.z, k), s = sigmoid_fast(z), dout = half_of(r.dout, k);
            step.z = dout * z * s;
            step.w = in ? reciprocal_fast(1.0f + e) * (v < 0.0f ? e : 1.0f) : 0.0f;
            m->gate[i][channel + k] = make_float2(x, dout * s * fmaf(z, 1.0f - s, 1.0f));
        }
        m->step[i][channel + k] = step;
    }
}

/* A lane's states: rates times log2(e), the gradient of what is after them, the sum of g dts a h. */
struct own {
    int channel, q; /* of the block, of the channel */
    float A[OWN], g[OWN], dA[OWN];
};
/* What a thread adds up of the channel and tokens it finishes. */
struct finish {
    bool live;
    float D, dbias, dD;
};

static __device__ void four(float *to, const float4 &v) { to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w; }

/* resets: documents may start in the chunk.  A segment forward: h goes from before it to behind it; what backward needs
 * of it stays in keep and past. */
template <bool resets>
static __device__ void segment_forward(const struct tile *m, const struct own &o, float *h, float (*keep)[OWN],
                                       float (*past)[OWN]) {
#pragma unroll
    for (int i = 0; i < SEGMENT; i++) {
        const float *half = &m->step[i][o.channel].x; /* that is needed */
        const float2 step = {half[0], half[1]};
        float B[OWN];
        four(B, m->rows[0][i][o.q]);
        if (resets && m->fresh[i])
            for (int s = 0; s < OWN; s++) h[s] = 0.0f;
#pragma unroll
        for (int s = 0; s < OWN; s++) {
            const float a = exp2_fast(step.x * o.A[s]);
            if (keep) keep[i][s] = a, past[i][s] = a * h[s];
            h[s] = fmaf(step.y, B[s], a * h[s]);
        }
        if (resets && keep && m->fresh[i])
            for (int s = 0; s < OWN; s++) keep[i][s] = 0.0f;
    }
}

/* Token i of the segment, backward; its terms and sums into places of token i % PART. */
static __device__ void token_back(struct tile *m, struct own *o, int i, const float *keep, const float *past) {
    const float4 step = m->step[i][o->channel];
    float B[OWN], C[OWN], dB[OWN], dC[OWN], y = 0.0f, gB = 0.0f, rate = 0.0f;
    four(B, m->rows[0][i][o->q]);
    four(C, m->rows[1][i][o->q]);
#pragma unroll
    for (int s = 0; s < OWN; s++) {
        const float h = fmaf(step.y, B[s], past[s]), g = fmaf(step.z, C[s], o->g[s]), gh = g * past[s];
        dB[s] = g * step.y;
        dC[s] = step.z * h;
        y = fmaf(C[s], h, y);
        gB = fmaf(g, B[s], gB);
        rate = fmaf(o->A[s], gh, rate);
        o->dA[s] = fmaf(gh, step.x, o->dA[s]);
        o->g[s] = keep[s] * g;
    }
    const int place = o->q ^ ((o->channel >> 2 & 1) << 1); /* eight rows of half a channel in eight banks */
    uint2 b, c;
    b.x = pack(dB[0], dB[1]), b.y = pack(dB[2], dB[3]);
    c.x = pack(dC[0], dC[1]), c.y = pack(dC[2], dC[3]);
    m->terms[0][i % PART][o->channel][place] = b;
    m->terms[1][i % PART][o->channel][place] = c;
    m->sums[i % PART][o->channel][lane_place(o->channel, o->q)] = make_float4(y, gB, rate, 0.0f);
}

/* dB or dC of one token over the block's channels: a warp each. */
static __device__ void channels_add(const struct tile *m, float *bc, bool first) {
    static_assert(WARPS == 2 * PART, "a warp for dB and dC of each token");
    const uint32_t ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, token = warp / 2, which = warp % 2;
    float low[4] = {}, high[4] = {};
#pragma unroll
    for (int k = 0; k < BLOCK; k += 16) {
        const int channel = k + (lane & 15), half = lane >> 4 ^ (channel >> 2 & 1);
        uint32_t r[4];
        ldmatrix_t(r, &m->terms[which][token][channel][2 * half]);
        mma(low, ones, r[0], r[1]);
        mma(high, ones, r[2], r[3]);
    }
    if (lane >= 8) return; /* all rows of the products are the same */
    float *to = bc + token * BC + which * STATES + lane / 4 * 8 + 2 * (lane % 4);
    const float x = lane < 4 ? low[0] : high[0], y = lane < 4 ? low[1] : high[1];
    to[0] = first ? x : to[0] + x;
    to[1] = first ? y : to[1] + y;
}

/* What is left of one token and channel when its states are summed: thread's token and channel of the part. */
static __device__ void finish_one(const struct tile *m, const struct selective_scan &a, const struct place &p, int i0,
                                  int t0, struct finish *f) {
    const int channel = threadIdx.x % BLOCK, j = threadIdx.x / BLOCK;
    const int64_t t = p.k.begin + t0 + j, d = p.d0 + channel;
    if (t0 + j >= p.n || !f->live) return;
    const float4 step = m->step[i0 + j][channel];
    const float2 gate = m->gate[i0 + j][channel];
    float y = f->D * gate.x, gB = 0.0f, rate = 0.0f;
#pragma unroll
    for (int q = 0; q < LANES; q++) {
        const float4 sum = m->sums[j][channel][lane_place(channel, q)];
        y += sum.x, gB += sum.y, rate += sum.z;
    }
    const float ddt = fmaf(rate, 1.0f / LOG2_E, gate.x * gB) * step.w;
    row16(a.dz, t)[d] = (bf16_bits)pack(gate.y * y, 0.0f);
    row16(a.dx, t)[d] = (bf16_bits)pack(fmaf(step.x, gB, f->D * step.z), 0.0f);
    row16(a.ddt, t)[d] = (bf16_bits)pack(ddt, 0.0f);
    f->dbias += ddt;
    f->dD = fmaf(step.z, gate.x, f->dD);
}

/* dA_log of the lanes' states; ddt_bias and dD, of which four threads have parts. */
static __device__ void finish_chunk(struct tile *m, const struct selective_scan &a, const struct sums &w,
                                    const struct place &p, const struct own &o, const struct finish &f) {
    const int64_t D = a.A_log.shape[0], N = a.state, d = p.d0 + o.channel;
    float2 *parts = (float2 *)m->sums;
    __syncthreads();
    parts[threadIdx.x] = make_float2(f.dbias, f.dD);
    __syncthreads();
    for (int s = 0; s < OWN; s++)
        if (d < D && OWN * o.q + s < N) w.dA[(p.chunk * D + d) * N + OWN * o.q + s] = o.dA[s] * (o.A[s] / LOG2_E);
    if (threadIdx.x >= BLOCK || p.d0 + threadIdx.x >= D) return;
    double dbias = 0.0, dD = 0.0;
    for (int j = 0; j < PART; j++) {
        dbias += (double)parts[j * BLOCK + threadIdx.x].x;
        dD += (double)parts[j * BLOCK + threadIdx.x].y;
    }
    w.dbias[p.chunk * D + p.d0 + threadIdx.x] = dbias;
    w.dD[p.chunk * D + p.d0 + threadIdx.x] = dD;
}

static __device__ struct own own_open(const struct selective_scan &a, const struct place &p, float *h) {
    const int64_t D = a.A_log.shape[0], N = a.state;
    struct own o = {(int)(threadIdx.x / LANES), (int)(threadIdx.x % LANES), {}, {}, {}};
    const int64_t d = p.d0 + o.channel;
#pragma unroll
    for (int s = 0; s < OWN; s++) {
        const int64_t n = OWN * o.q + s;
        const bool is = d < D && n < N;
        o.A[s] = rate_at(a.A_log, d, n);
        h[s] = is ? row(a.states, p.chunk)[d * N + n] : 0.0f;
        o.g[s] = is ? row(a.dstates, p.chunk)[d * N + n] : 0.0f;
    }
    return o;
}

/* BLOCK channels of a chunk; bc, in shared memory, gets their dB | dC. */
template <bool whole, bool resets>
static __device__ void block_back(struct tile *m, const struct selective_scan &a, const struct sums &w,
                                  const struct place &p, float *bc, bool first) {
    const int n = (int)segments_of(p.n);
    const int64_t mine = p.d0 + threadIdx.x % BLOCK;
    float h[OWN], keep[SEGMENT][OWN], past[SEGMENT][OWN];
    struct own o = own_open(a, p, h);
    struct finish f = {mine < a.A_log.shape[0], 0.0f, 0.0f, 0.0f};
    struct ahead_rows next;
    if (f.live) f.D = vector_at(a.D, mine);
    rows_ahead<whole>(&next, a, p, 0, n == 1);
    for (int i = 0; i < n - 1; i++) {
        marks_of(m)[i * THREADS + threadIdx.x] = make_float4(h[0], h[1], h[2], h[3]);
        __syncthreads();
        rows_put(m, p, i, next, false);
        __syncthreads();
        rows_ahead<whole>(&next, a, p, i + 1, i + 2 == n);
        segment_forward<resets>(m, o, h, NULL, NULL);
    }
    marks_of(m)[(n - 1) * THREADS + threadIdx.x] = make_float4(h[0], h[1], h[2], h[3]);
    for (int i = n - 1; i >= 0; i--) {
        __syncthreads();
        rows_put(m, p, i, next, true);
        __syncthreads();
        rows_ahead<whole>(&next, a, p, i - 1, true);
        four(h, marks_of(m)[i * THREADS + threadIdx.x]);
        segment_forward<resets>(m, o, h, keep, past);
#pragma unroll
        for (int i0 = SEGMENT - PART; i0 >= 0; i0 -= PART) {
            const int at = i * SEGMENT + i0;
            if (i0 < SEGMENT - PART) __syncthreads();
#pragma unroll
            for (int j = PART - 1; j >= 0; j--) token_back(m, &o, i0 + j, keep[i0 + j], past[i0 + j]);
            __syncthreads();
            channels_add(m, bc + at * BC, first);
            finish_one(m, a, p, i0, at, &f);
        }
    }
    finish_chunk(m, a, w, p, o, f);
}

template <bool whole>
__global__ static void __launch_bounds__(THREADS, 2)
    backward_chunks(const struct selective_scan a, const struct sums w) {
    DYNAMIC_SHARED(memory);
    struct tile *m = (struct tile *)memory;
    const int64_t T = a.pos.shape[0], N = a.state, blocks = ceil_div(a.A_log.shape[0], BLOCK);
    const int64_t strip = blockIdx.x % w.strips, begin = strip * blocks / w.strips;
    struct place p = {};
    p.chunk = blockIdx.x / w.strips;
    if (!span_find(a.range, a.pos, a.chunk, p.chunk, &p.k)) return;
    const int64_t rows = p.k.end - p.k.begin;
    float *bc = (float *)(marks_of(m) + segments_of(rows) * THREADS);
    for (int64_t b = begin; b < (strip + 1) * blocks / w.strips; b++) {
        place_open(&p, a, b * BLOCK);
        if (p.k.through) block_back<whole, false>(m, a, w, p, bc, b == begin);
        else block_back<whole, true>(m, a, w, p, bc, b == begin);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * BC; i += THREADS)
        if (i % STATES < N) w.bc[((strip * T + p.k.begin + i / BC) * 2 + i % BC / STATES) * N + i % STATES] = bc[i];
}

int64_t selective_scan_work_bf16(const struct selective_scan *a, int64_t n_chunks) {
    return sums_bytes(a, n_chunks, strips_of(a, BLOCK));
}

enum status selective_scan_bwd_bf16(struct ctx *c, const struct selective_scan *a, int64_t n_chunks) {
    const int64_t strips = strips_of(a, BLOCK), bytes = tile_bytes(least(a->chunk, a->pos.shape[0]));
    const bool whole = rows_in_pairs(a->x) && rows_in_pairs(a->z) && rows_in_pairs(a->dt) && rows_in_pairs(a->dout);
    struct sums w;
    TRY(sums_open(&w, c, a, n_chunks, strips));
    if (whole) LAUNCH_SHARED(backward_chunks<true>, n_chunks * strips, THREADS, bytes, *a, w);
    else LAUNCH_SHARED(backward_chunks<false>, n_chunks * strips, THREADS, bytes, *a, w);
    return sums_close<bf16_bits>(c, a, w);
}
