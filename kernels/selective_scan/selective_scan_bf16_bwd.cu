/* SPDX-License-Identifier: Apache-2.0 */
/* Backward of the second half in BF16.  A warp owns ABREAST channels of a chunk at a time, four lanes a channel and
 * four states a lane, and goes through it twice: forward to leave the state before every segment of eight tokens, then
 * segment by segment from the end: states and decays again, in registers, then gradients.  Nothing passes between warps
 * before the block's end.
 *
 * What is once a token and channel - softplus, gates, epilogue - is done by the lane that owns the token, and goes to
 * the channel's other lanes by shuffles, as sums over the states come back.  Sums over channels, dB and dC, are
 * products with ones on the tensor cores: a lane's terms of a token are a piece of the operand as they stand, rounded
 * to BF16, and the ones choose the rows that their sums, F32, come to.  Then over the units of a warp, the warps of a
 * block, the strips, each in order.
 *
 * Per token and channel: reads x, dt twice, z, dout, writes dx, dz, ddt, 18 bytes, and 12 N / chunk of states; 2 N + 7
 * special functions, 18 N flops.  At D 8,192, N 16, 1.755 GHz the special functions of an H200 need 86 ns a token, the
 * bytes 35 ns of 4.8 TB/s, shared memory and shuffles, 26 passes for the warp's channels, 117 ns, the 625 instructions
 * that there are 172 ns. */
#include "kernels/selective_scan/selective_scan_bf16.h"
#include "kernels/selective_bf16.cuh"
#include "kernels/selective_scan/selective_sums.cuh"

enum { OWN = 4, LANES = STATES / OWN, ABREAST = WARP / LANES, SEGMENT = 8, PART = 4, CREWS = 4, BC = 2 * STATES };
/* OWN states of a lane, LANES lanes of a channel, PART tokens between two sums over lanes, CREWS warps of a block. */
enum { UNIT = CREWS * ABREAST, CREW_THREADS = CREWS * WARP };

/* Shared memory of a block, n segments: B | C of every token; then of each warp its marks, the states before segments,
 * and its sums, dB | dC of two tokens of a part and of one state to a lane. */
static inline __host__ __device__ int segments_of(int64_t rows) { return (int)ceil_div(rows, SEGMENT); }
static int64_t shared_bytes(int64_t rows) {
    return (int64_t)segments_of(rows) * (SEGMENT * BC * 4 + CREWS * (1 + SEGMENT / PART) * WARP * 16);
}
struct shared {
    float4 *rows, *marks, *sums; /* the last two: this lane's, WARP apart */
};
static __device__ struct shared shared_at(unsigned char *memory, int n, int crew) {
    float4 *rows = (float4 *)memory, *marks = rows + n * SEGMENT * (BC / 4), *sums = marks + CREWS * n * WARP;
    const int lane = threadIdx.x % WARP;
    return (struct shared){rows, marks + crew * n * WARP + lane, sums + crew * n * (SEGMENT / PART) * WARP + lane};
}

/* The chunk. */
struct place {
    struct device_span k;
    int64_t chunk;
    int n; /* rows */
};
/* A lane: its channel, its number there, which is also its token of a part; rates times log2(e); the gradient of what
 * is after the states, the sum of g dts a h; sums of the tokens that it finishes. */
struct own {
    int d, q;
    bool live;
    float A[OWN], g[OWN], dA[OWN], bias, D, dbias, dD;
    bf16_bits *dt, *x, *z, *dout, *dx, *dz, *ddt; /* at the chunk's row q */
};
/* Ones that bring a lane's four terms to rows 0 to 3 and 12 to 15 of a product, or to rows 4 to 7 and 8 to 11. */
struct ones {
    uint32_t even[4], odd[4];
};
static __device__ struct ones ones_open(void) {
    const int lane = threadIdx.x % WARP, term = lane / 4 % 4;
    const uint32_t one = term % 2 ? 0x3f800000u : 0x3f80u, low = term < 2 ? one : 0u, high = term < 2 ? 0u : one;
    if (lane < WARP / 2) return (struct ones){{low, 0u, high, 0u}, {0u, low, 0u, high}};
    return (struct ones){{0u, low, 0u, high}, {low, 0u, high, 0u}};
}

/* Of a lane's two tokens of a segment, PART apart, side by side in 32 bits; zeros where there are none. */
struct raw {
    uint32_t dt, x, z, dout;
};
static __device__ bool token_is(const struct place &p, const struct own &o, int segment, int part) {
    return o.live && segment * SEGMENT + part * PART + o.q < p.n;
}
/* Bytes of a row: within a chunk, places are numbers of 32 bits. */
struct strides {
    uint32_t dt, x, z, dout, dx, dz, ddt;
};
static __device__ bf16_bits *down(bf16_bits *from, uint32_t bytes, int row) {
    return (bf16_bits *)((char *)from + (uint64_t)(uint32_t)row * bytes);
}
static __device__ void raw_fetch(struct raw *r, const struct strides &by, const struct place &p, const struct own &o,
                                 int segment, bool gate) {
    *r = (struct raw){};
#pragma unroll
    for (int k = 0; k < SEGMENT / PART; k++) {
        const int t = segment * SEGMENT + k * PART;
        if (segment < 0 || !token_is(p, o, segment, k)) continue;
        r->dt |= (uint32_t)*down(o.dt, by.dt, t) << 16 * k;
        r->x |= (uint32_t)*down(o.x, by.x, t) << 16 * k;
        if (!gate) continue;
        r->z |= (uint32_t)*down(o.z, by.z, t) << 16 * k;
        r->dout |= (uint32_t)*down(o.dout, by.dout, t) << 16 * k;
    }
}

/* One token of one channel; past the chunk's end it has no time and nothing is asked of it. */
struct token {
    float x, dts, dtx;
    float dy, gate, slope; /* gate: dout silu'(z); slope: softplus's */
};
static __device__ struct token token_open(const struct raw &r, int part, float bias, bool is, bool gate) {
    struct token k = {};
    float e;
    const float v = half_of(r.dt, part) + bias, dts = softplus_fast(v, &e);
    k.x = half_of(r.x, part);
    k.dts = is ? dts : 0.0f;
    k.dtx = k.dts * k.x;
    if (!gate) return k;
    const float z = half_of(r.z, part), s = sigmoid_fast(z), dout = half_of(r.dout, part);
    k.dy = dout * z * s;
    k.gate = dout * s * fmaf(z, 1.0f - s, 1.0f);
    k.slope = reciprocal_fast(1.0f + e) * (v < 0.0f ? e : 1.0f);
    return k;
}
static __device__ void four(float *to, const float4 &v) { to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w; }

/* resets: documents may start in the chunk; bit i of fresh: token i does.  A segment forward: h goes from before it to
 * behind it; what backward needs of it stays in keep and past.  rows: its first, B of the lane's states. */
template <bool resets, bool keeps>
static __device__ void segment_forward(const float4 *rows, const struct own &o, const struct token *own, uint32_t fresh,
                                       float *h, float (*keep)[OWN], float (*past)[OWN]) {
#pragma unroll
    for (int i = 0; i < SEGMENT; i++) {
        const float dts = of_eight(own[i / PART].dts, i % PART), dtx = of_eight(own[i / PART].dtx, i % PART);
        float B[OWN];
        four(B, rows[i * (BC / 4)]);
#pragma unroll
        for (int s = 0; s < OWN; s++) {
            const float a = resets && fresh >> i & 1 ? 0.0f : exp2_fast(dts * o.A[s]), ah = a * h[s];
            if (keeps) keep[i][s] = a, past[i][s] = ah;
            h[s] = fmaf(dtx, B[s], ah);
        }
    }
}

/* Token i of a part, backward: sums of y, g B, g rate a h over the lane's states; its terms into dB and dC. */
static __device__ void token_back(const float4 *row, struct own *o, const struct token &own, int i,
                                  const struct ones &ones, const float *keep, const float *past, float *sum, float *dB,
                                  float *dC) {
    const float dts = of_eight(own.dts, i), dtx = of_eight(own.dtx, i), dy = of_eight(own.dy, i);
    float B[OWN], C[OWN], b[OWN], c[OWN];
    four(B, row[0]);
    four(C, row[LANES]);
    sum[0] = sum[1] = sum[2] = 0.0f;
#pragma unroll
    for (int s = 0; s < OWN; s++) {
        const float h = fmaf(dtx, B[s], past[s]), g = fmaf(dy, C[s], o->g[s]), gh = g * past[s];
        b[s] = g * dtx;
        c[s] = dy * h;
        sum[0] = fmaf(C[s], h, sum[0]);
        sum[1] = fmaf(g, B[s], sum[1]);
        sum[2] = fmaf(o->A[s], gh, sum[2]);
        o->dA[s] = fmaf(gh, dts, o->dA[s]);
        o->g[s] = keep[s] * g;
    }
    const uint32_t *to = i % 2 ? ones.odd : ones.even;
    mma(&dB[i / 2 * 4], to, pack(b[0], b[1]), pack(b[2], b[3]));
    mma(&dC[i / 2 * 4], to, pack(c[0], c[1]), pack(c[2], c[3]));
}

/* What is left of the lane's token when its states are summed; row: the part's first. */
static __device__ void token_finish(const struct strides &by, struct own *o, int row, const struct token &k,
                                    const float *sum) {
    const float y = fmaf(o->D, k.x, sum[0]), gB = sum[1], ddt = fmaf(sum[2], 1.0f / LOG2_E, k.x * gB) * k.slope;
    *down(o->dz, by.dz, row) = (bf16_bits)pack(k.gate * y, 0.0f);
    *down(o->dx, by.dx, row) = (bf16_bits)pack(fmaf(k.dts, gB, o->D * k.dy), 0.0f);
    *down(o->ddt, by.ddt, row) = (bf16_bits)pack(ddt, 0.0f);
    o->dbias += ddt;
    o->dD = fmaf(k.dy, k.x, o->dD);
}

/* The segment's tokens from the last; its sums are written by a warp's first unit, else added to. */
static __device__ void segment_back(const struct strides &by, const struct place &p, const struct shared &m,
                                    struct own *o, const struct ones &ones, const struct token *own, float (*keep)[OWN],
                                    float (*past)[OWN], int segment, bool first) {
    const bool low = threadIdx.x % WARP < WARP / 2;
#pragma unroll
    for (int part = SEGMENT / PART - 1; part >= 0; part--) {
        const int row = segment * SEGMENT + part * PART;
        float sum[PART * 3], dB[8] = {}, dC[8] = {};
#pragma unroll
        for (int i = PART - 1; i >= 0; i--)
            token_back(&m.rows[(row + i) * (BC / 4) + o->q], o, own[part], i, ones, keep[part * PART + i],
                       past[part * PART + i], &sum[3 * i], dB, dC);
        halve<PART * 3, WARP / 2, ABREAST>(sum);
        if (token_is(p, *o, segment, part)) token_finish(by, o, row, own[part], sum);
        float4 *to = &m.sums[row / PART * WARP];
        float4 all = first ? make_float4(0.0f, 0.0f, 0.0f, 0.0f) : *to;
        all.x += low ? dB[0] + dB[1] : dB[4] + dB[5], all.y += low ? dB[2] + dB[3] : dB[6] + dB[7];
        all.z += low ? dC[0] + dC[1] : dC[4] + dC[5], all.w += low ? dC[2] + dC[3] : dC[6] + dC[7];
        *to = all;
    }
}

static __device__ struct own own_open(const struct selective_scan &a, const struct place &p, int64_t unit, float *h) {
    const int64_t D = a.A_log.shape[0], N = a.state;
    struct own o = {};
    o.d = (int)(unit * ABREAST + threadIdx.x % ABREAST), o.q = (int)(threadIdx.x % WARP / ABREAST);
    o.live = o.d < D;
    const int64_t t = p.k.begin + o.q;
    o.dt = row16(a.dt, t) + o.d, o.x = row16(a.x, t) + o.d, o.z = row16(a.z, t) + o.d;
    o.dout = row16(a.dout, t) + o.d, o.dx = row16(a.dx, t) + o.d, o.dz = row16(a.dz, t) + o.d;
    o.ddt = row16(a.ddt, t) + o.d;
    if (o.live) o.bias = vector_at(a.dt_bias, o.d), o.D = vector_at(a.D, o.d);
#pragma unroll
    for (int s = 0; s < OWN; s++) {
        const int64_t n = OWN * o.q + s;
        const bool is = o.live && n < N;
        o.A[s] = rate_at(a.A_log, o.d, n);
        h[s] = is ? row(a.states, p.chunk)[o.d * N + n] : 0.0f;
        o.g[s] = is ? row(a.dstates, p.chunk)[o.d * N + n] : 0.0f;
    }
    return o;
}
/* dA_log of the lane's states; ddt_bias and dD, of which the channel's lanes have parts. */
static __device__ void own_close(const struct selective_scan &a, const struct sums &w, const struct place &p,
                                 const struct own &o) {
    const int64_t D = a.A_log.shape[0], N = a.state;
    double dbias = (double)o.dbias, dD = (double)o.dD;
    for (int half = WARP / 2; half >= ABREAST; half /= 2) {
        dbias += __shfl_xor_sync(0xffffffffu, dbias, half);
        dD += __shfl_xor_sync(0xffffffffu, dD, half);
    }
    if (!o.live) return;
    for (int s = 0; s < OWN; s++)
        if (OWN * o.q + s < N) w.dA[(p.chunk * D + o.d) * N + OWN * o.q + s] = o.dA[s] * (o.A[s] / LOG2_E);
    if (o.q > 0) return;
    w.dbias[p.chunk * D + o.d] = dbias;
    w.dD[p.chunk * D + o.d] = dD;
}

/* Bit i: a document starts with token i of the segment. */
static __device__ uint32_t fresh_of(const struct selective_scan &a, const struct place &p, int segment) {
    const int t = segment * SEGMENT + threadIdx.x % SEGMENT;
    return __ballot_sync(0xffffffffu, t < p.n && long_at(a.pos, p.k.begin + t) == 0);
}

/* ABREAST channels of a chunk. */
template <bool resets>
static __device__ void unit_back(const struct selective_scan &a, const struct strides &by, const struct sums &w,
                                 const struct place &p, const struct shared &m, const struct ones &ones, int64_t unit,
                                 bool first) {
    const int n = segments_of(p.n);
    float h[OWN], keep[SEGMENT][OWN], past[SEGMENT][OWN];
    struct own o = own_open(a, p, unit, h);
    struct raw next;
    raw_fetch(&next, by, p, o, 0, n == 1);
    NO_UNROLL for (int i = 0; i < n - 1; i++) {
        const struct token own[] = {token_open(next, 0, o.bias, token_is(p, o, i, 0), false),
                                    token_open(next, 1, o.bias, token_is(p, o, i, 1), false)};
        m.marks[i * WARP] = make_float4(h[0], h[1], h[2], h[3]);
        raw_fetch(&next, by, p, o, i + 1, i + 2 == n);
        segment_forward<resets, false>(&m.rows[i * SEGMENT * (BC / 4) + o.q], o, own, resets ? fresh_of(a, p, i) : 0u,
                                       h, NULL, NULL);
    }
    m.marks[(n - 1) * WARP] = make_float4(h[0], h[1], h[2], h[3]);
    NO_UNROLL for (int i = n - 1; i >= 0; i--) {
        const struct token own[] = {token_open(next, 0, o.bias, token_is(p, o, i, 0), true),
                                    token_open(next, 1, o.bias, token_is(p, o, i, 1), true)};
        raw_fetch(&next, by, p, o, i - 1, true);
        four(h, m.marks[i * WARP]);
        segment_forward<resets, true>(&m.rows[i * SEGMENT * (BC / 4) + o.q], o, own, resets ? fresh_of(a, p, i) : 0u, h,
                                      keep, past);
        segment_back(by, p, m, &o, ones, own, keep, past, i, first);
    }
    own_close(a, w, p, o);
}

/* B | C of the chunk, zeros where there are none. */
static __device__ void rows_fetch_all(float *to, const struct selective_scan &a, const struct place &p) {
    for (int i = threadIdx.x; i < segments_of(p.n) * SEGMENT * BC; i += CREW_THREADS) {
        const int t = i / BC, n = i % STATES;
        to[i] = t < p.n && n < a.state ? bf16_float(row16(i % BC < STATES ? a.B : a.C, p.k.begin + t)[n]) : 0.0f;
    }
}

/* dB | dC of the strip: the warps' sums in order. */
static __device__ void crews_add(const struct selective_scan &a, float *bc, const struct place &p, const float4 *sums,
                                 int crews) {
    const int each = segments_of(p.n) * (SEGMENT / PART) * WARP, N = (int)a.state;
    for (int i = threadIdx.x; i < each; i += CREW_THREADS) {
        const int lane = i % WARP, t = i / WARP * PART, n = lane % 4 * OWN + lane / 4 % 4;
        float4 all = sums[i];
        for (int w = 1; w < crews; w++) {
            const float4 v = sums[w * each + i];
            all.x += v.x, all.y += v.y, all.z += v.z, all.w += v.w;
        }
        const int t0 = lane < WARP / 2 ? t : t + 3, t1 = lane < WARP / 2 ? t + 1 : t + 2;
        float *to = bc + p.k.begin * 2 * N + n;
        if (n >= N) continue;
        if (t0 < p.n) to[t0 * 2 * N] = all.x, to[t0 * 2 * N + N] = all.z;
        if (t1 < p.n) to[t1 * 2 * N] = all.y, to[t1 * 2 * N + N] = all.w;
    }
}

__global__ static void __launch_bounds__(CREW_THREADS, 3)
    backward_chunks(const struct selective_scan a, const struct strides by, const struct sums w) {
    DYNAMIC_SHARED(memory);
    const int64_t T = a.pos.shape[0], units = ceil_div(a.A_log.shape[0], ABREAST);
    const int64_t strip = blockIdx.x % w.strips, begin = strip * units / w.strips, end = (strip + 1) * units / w.strips;
    const int crew = threadIdx.x / WARP;
    const struct ones ones = ones_open();
    struct place p = {};
    p.chunk = blockIdx.x / w.strips;
    if (!span_find(a.range, a.pos, a.chunk, p.chunk, &p.k)) return;
    p.n = (int)(p.k.end - p.k.begin);
    const struct shared m = shared_at(memory, segments_of(p.n), crew), all = shared_at(memory, segments_of(p.n), 0);
    rows_fetch_all((float *)m.rows, a, p);
    __syncthreads();
    for (int64_t unit = begin + crew; unit < end; unit += CREWS) {
        if (p.k.through) unit_back<false>(a, by, w, p, m, ones, unit, unit < begin + CREWS);
        else unit_back<true>(a, by, w, p, m, ones, unit, unit < begin + CREWS);
    }
    __syncthreads();
    crews_add(a, w.bc + strip * T * 2 * a.state, p, all.sums - threadIdx.x % WARP, (int)least(CREWS, end - begin));
}

int64_t selective_scan_work_bf16(const struct selective_scan *a, int64_t n_chunks) {
    return sums_bytes(a, n_chunks, strips_of(a, UNIT));
}

static uint32_t row_bytes(struct tensor t) { return (uint32_t)t.pitch * (uint32_t)sizeof(bf16_bits); }

enum status selective_scan_bwd_bf16(struct ctx *c, const struct selective_scan *a, int64_t n_chunks) {
    const int64_t strips = strips_of(a, UNIT), bytes = shared_bytes(least(a->chunk, a->pos.shape[0]));
    const struct strides by = {row_bytes(a->dt), row_bytes(a->x),  row_bytes(a->z),  row_bytes(a->dout),
                               row_bytes(a->dx), row_bytes(a->dz), row_bytes(a->ddt)};
    struct sums w;
    TRY(sums_open(&w, c, a, n_chunks, strips));
    LAUNCH_SHARED(backward_chunks, n_chunks * strips, CREW_THREADS, bytes, *a, by, w);
    return sums_close<bf16_bits>(c, a, w);
}
