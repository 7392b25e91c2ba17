/* SPDX-License-Identifier: Apache-2.0 */
/* Backward of the second half in BF16, in the division of selective_bf16.cuh.  A warp goes through a chunk of its
 * channels twice: forward to leave the state before every segment of eight tokens, then segment by segment from the
 * end: states and decays again, in registers, then gradients.  Nothing passes between warps before the block's end.
 *
 * Sums over channels, dB and dC, are products with ones on the tensor cores: a lane's terms of a token, rounded to
 * BF16, are a piece of the operand as they stand, and the ones choose the rows that their sums, F32, come to.  Then
 * over the units of a warp, the warps of a block, the strips, each in order.
 *
 * Per token and channel: reads x, dt twice, z, dout, writes dx, dz, ddt, 18 bytes, and 12 N / chunk of states; 2 N + 7
 * special functions, 18 N flops.  At D 8,192, N 16, 1.755 GHz the special functions of an H200 need 86 ns a token, the
 * bytes 35 ns of 4.8 TB/s, the 475 instructions of a lane, 4 tokens and channels, 132 ns. */
#include "kernels/selective_scan/selective_scan_bf16.h"
#include "kernels/selective_bf16.cuh"
#include "kernels/selective_scan/selective_sums.cuh"

enum { MOST_CREWS = 4, MOST_SHARED = 227 * 1024 }; /* warps of a block, bytes of a multiprocessor */

/* What a warp has in shared memory beside its marks and sums. */
struct room {
    union {
        float4 token[SEGMENT][ABREAST]; /* dts, dts x, dy, slope of softplus */
        pairs mark[2][SEGMENT];         /* for the marks dts, dts x; every other segment */
    };
    float4 part[SEGMENT][WARP / 2]; /* of two lanes side by side, sums over their states: of g B, of g rate a h */
    float2 y[SEGMENT][WARP / 2];    /* and of C h */
    float4 gate[WARP];              /* dout silu'(z) of the lane's tokens and channels */
};
/* Shared memory of a block, n segments: B | C of every token; then of each warp its room, its marks, the states before
 * segments, and its sums, dC | dB of four tokens and of one state to a lane. */
static inline __host__ __device__ int segments_of(int64_t rows) { return (int)ceil_div(rows, SEGMENT); }
static inline __host__ __device__ int rows_bytes(int n) { return n * SEGMENT * BC * (int)sizeof(float); }
static inline __host__ __device__ int warp_bytes(int n) {
    return (int)sizeof(struct room) + n * WARP * (OWN / 4 + 2) * (int)sizeof(float4);
}
struct shared {
    float4 *rows, *marks, *sums; /* the last two: this lane's, WARP apart */
    struct room *room;
};
static __device__ struct shared shared_at(unsigned char *memory, int n, int crew) {
    unsigned char *own = memory + rows_bytes(n) + crew * warp_bytes(n);
    float4 *marks = (float4 *)(own + sizeof(struct room)) + threadIdx.x % WARP;
    return (struct shared){(float4 *)memory, marks, marks + n * (OWN / 4) * WARP, (struct room *)own};
}

/* The chunk. */
struct chunk {
    struct device_span k;
    int64_t i;
    int n; /* rows */
};
/* The gradient of what is after the lane's states, and the sum of g dts a h. */
struct asked {
    float g[OWN], dA[OWN];
};
/* The desk's channels at the chunk's first row; sums over its tokens. */
struct place {
    bf16_bits *dt, *x, *z, *dout, *dx, *dz, *ddt;
    float dbias[2], dD[2];
};
/* Ones that bring a lane's four terms to rows 0 to 3 of a product, or to rows 4 to 7.  They lie in shared memory: read
 * from there, an operand keeps the four registers side by side that it needs. */
struct ones {
    uint4 of[2][WARP];
};
static __device__ void ones_make(struct ones *to) {
    const int row = threadIdx.x % WARP / 4, term = row % 4;
    const uint32_t one = term % 2 ? 0x3f800000u : 0x3f80u;
    const uint4 is = make_uint4(term < 2 ? one : 0u, 0u, term < 2 ? 0u : one, 0u), none = make_uint4(0u, 0u, 0u, 0u);
    if (threadIdx.x >= WARP) return;
    to->of[0][threadIdx.x] = row < 4 ? is : none;
    to->of[1][threadIdx.x] = row < 4 ? none : is;
}
struct operands {
    uint32_t of[2][4];
};
static __device__ struct operands ones_get(const struct ones &o) {
    const uint4 a = o.of[0][threadIdx.x % WARP], b = o.of[1][threadIdx.x % WARP];
    return (struct operands){{{a.x, a.y, a.z, a.w}, {b.x, b.y, b.z, b.w}}};
}

/* The desk's tokens of a segment; z and dout for the way back. */
struct raw {
    uint32_t dt[MINE], x[MINE], z[MINE], dout[MINE];
};
struct strides {
    uint32_t dt, x, z, dout, dx, dz, ddt; /* bytes from a row to the next */
};
/* Rows outside the chunk: some other of its rows. */
template <bool whole>
static __device__ void raw_fetch(struct raw *r, const struct strides &by, const struct place &p, const struct desk &d,
                                 int n, int segment, bool gate) {
#pragma unroll
    for (int k = 0; k < MINE; k++) {
        const int t = segment * SEGMENT + k * ROWS_APART + d.row, at = t < n ? t < 0 ? 0 : t : n - 1;
        r->dt[k] = two<whole>(down(p.dt, by.dt, at), d);
        r->x[k] = two<whole>(down(p.x, by.x, at), d);
        if (!gate) continue;
        r->z[k] = two<whole>(down(p.z, by.z, at), d);
        r->dout[k] = two<whole>(down(p.dout, by.dout, at), d);
    }
}
/* n tokens are there: the others have no time, and nothing is asked of them. */
static __device__ void tokens_open(struct room *to, const struct raw &r, const struct desk &d, int n) {
    float gate[2 * MINE];
#pragma unroll
    for (int k = 0; k < MINE; k++) {
        const int t = k * ROWS_APART + d.row;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float e;
            const float v = half_of(r.dt[k], i) + d.bias[i], dts = softplus_fast(v, &e);
            const float z = half_of(r.z[k], i), s = sigmoid_fast(z), dout = half_of(r.dout[k], i);
            const float slope = reciprocal_fast(1.0f + e) * (v < 0.0f ? e : 1.0f);
            const bool is = t < n && d.live[i];
            gate[2 * k + i] = dout * s * fmaf(z, 1.0f - s, 1.0f);
            to->token[t][2 * d.pair + i] = is ? make_float4(dts, dts * half_of(r.x[k], i), dout * z * s, slope)
                                              : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
    }
    to->gate[threadIdx.x % WARP] = make_float4(gate[0], gate[1], gate[2], gate[3]);
}

/* resets: documents may start in the chunk; bit i of fresh: token i does.  A segment forward: h goes from before it to
 * behind it.  rows: its first, B of the lane's states. */
template <bool resets>
static __device__ void segment_mark(const float4 *rows, const pairs *token, const struct own &o, uint32_t fresh,
                                    float *h) {
#pragma unroll
    for (int i = 0; i < SEGMENT; i++) {
        const float2 k = ((const float2 *)token[i])[threadIdx.x % ABREAST];
        float B[OWN];
        eight(B, rows + i * (BC / 4));
#pragma unroll
        for (int s = 0; s < OWN; s++) {
            const float a = resets && fresh >> i & 1 ? 0.0f : exp2_fast(k.x * o.A[s]);
            h[s] = fmaf(k.y, B[s], a * h[s]);
        }
    }
}

/* Sums over the channels of v times `by` for a token of the lane's states: rows 0 to 7 of a product; d[0] + d[1] are
 * two of its four parts of one half of the states. */
static __device__ float over_channels(const struct operands &ones, const float *v, float by) {
    float d[4] = {};
    mma(d, ones.of[0], pack(v[0] * by, v[1] * by), pack(v[2] * by, v[3] * by));
    mma(d, ones.of[1], pack(v[4] * by, v[5] * by), pack(v[6] * by, v[7] * by));
    return d[0] + d[1];
}
/* Of two tokens, one with all of its parts. */
static __device__ float of_two(float even, float odd) {
    const bool is = threadIdx.x % 2;
    return (is ? odd : even) + __shfl_xor_sync(0xffffffffu, is ? even : odd, 1);
}
static __device__ void add_four(float4 *to, const float *v, bool first) {
    float4 all = first ? make_float4(0.0f, 0.0f, 0.0f, 0.0f) : *to;
    all.x += v[0], all.y += v[1], all.z += v[2], all.w += v[3];
    *to = all;
}

/* A segment forward; what its way back needs stays in keep and past.  sums: dC's.  A token's y is stored when the next
 * one's operands are on their way. */
template <bool resets>
static __device__ void segment_forward(const float4 *rows, struct room *room, const struct own &o,
                                       const struct ones &ones, uint32_t fresh, float *h, float (*keep)[OWN],
                                       float (*past)[OWN], float4 *sums, bool first) {
    const struct operands at = ones_get(ones);
    float dC[SEGMENT], y = 0.0f;
#pragma unroll
    for (int i = 0; i < SEGMENT; i++) {
        const float4 k = room->token[i][threadIdx.x % ABREAST];
        float B[OWN], C[OWN];
        eight(B, rows + i * (BC / 4));
        eight(C, rows + i * (BC / 4) + STATES / 4);
        if (i > 0) ((float *)room->y[i - 1])[threadIdx.x % WARP] = y;
        y = 0.0f;
#pragma unroll
        for (int s = 0; s < OWN; s++) {
            keep[i][s] = resets && fresh >> i & 1 ? 0.0f : exp2_fast(k.x * o.A[s]);
            past[i][s] = keep[i][s] * h[s];
            h[s] = fmaf(k.y, B[s], past[i][s]);
            y = fmaf(C[s], h[s], y);
        }
        dC[i] = over_channels(at, h, k.z);
        if (i % 2) dC[i / 2] = of_two(dC[i - 1], dC[i]);
    }
    ((float *)room->y[SEGMENT - 1])[threadIdx.x % WARP] = y;
    add_four(sums, dC, first);
}

/* The segment's tokens from the last.  sums: dB's. */
static __device__ void segment_back(const float4 *rows, struct room *room, const struct own &o, struct asked *r,
                                    const struct ones &ones, float (*keep)[OWN], float (*past)[OWN], float4 *sums,
                                    bool first) {
    const struct operands at = ones_get(ones);
    float dB[SEGMENT], gB = 0.0f, rate = 0.0f;
#pragma unroll
    for (int i = SEGMENT - 1; i >= 0; i--) {
        const float4 k = room->token[i][threadIdx.x % ABREAST];
        float B[OWN], C[OWN], g[OWN];
        eight(B, rows + i * (BC / 4));
        eight(C, rows + i * (BC / 4) + STATES / 4);
        if (i < SEGMENT - 1) ((float2 *)room->part[i + 1])[threadIdx.x % WARP] = make_float2(gB, rate);
        gB = rate = 0.0f;
#pragma unroll
        for (int s = 0; s < OWN; s++) {
            g[s] = fmaf(k.z, C[s], r->g[s]);
            const float gh = g[s] * past[i][s];
            gB = fmaf(g[s], B[s], gB);
            rate = fmaf(o.A[s], gh, rate);
            r->dA[s] = fmaf(gh, k.x, r->dA[s]);
            r->g[s] = keep[i][s] * g[s];
        }
        dB[i] = over_channels(at, g, k.y);
        if (i % 2 == 0) dB[i / 2 + SEGMENT / 2] = of_two(dB[i], dB[i + 1]);
    }
    ((float2 *)room->part[0])[threadIdx.x % WARP] = make_float2(gB, rate);
    add_four(sums, dB + SEGMENT / 2, first);
}

/* What is left of the desk's tokens when their states are summed. */
template <bool whole>
static __device__ void tokens_finish(const struct strides &by, const struct room *room, struct place *p,
                                     const struct desk &d, const uint32_t *x, int n, int segment) {
    const float4 four = room->gate[threadIdx.x % WARP];
    const float gate[2 * MINE] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int k = 0; k < MINE; k++) {
        const int t = k * ROWS_APART + d.row, at = segment * SEGMENT + t;
        const float2 y = room->y[t][d.pair], y2 = room->y[t][DESKS + d.pair];
        const float4 g = room->part[t][d.pair], g2 = room->part[t][DESKS + d.pair];
        const float sum[2] = {y.x + y2.x, y.y + y2.y}, gB[2] = {g.x + g2.x, g.z + g2.z};
        const float rate[2] = {g.y + g2.y, g.w + g2.w};
        float dx[2], dz[2], ddt[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float4 own = room->token[t][2 * d.pair + i];
            const float of_x = half_of(x[k], i);
            dz[i] = gate[2 * k + i] * fmaf(d.D[i], of_x, sum[i]);
            dx[i] = fmaf(own.x, gB[i], d.D[i] * own.z);
            ddt[i] = fmaf(rate[i], 1.0f / LOG2_E, of_x * gB[i]) * own.w;
            p->dbias[i] += ddt[i]; /* slope and dy are zero past the end */
            p->dD[i] = fmaf(own.z, of_x, p->dD[i]);
        }
        if (at >= n || !d.live[0]) continue;
        two_put<whole>(down(p->dz, by.dz, at), d, dz);
        two_put<whole>(down(p->dx, by.dx, at), d, dx);
        two_put<whole>(down(p->ddt, by.ddt, at), d, ddt);
    }
}

static __device__ struct place place_open(const struct selective_scan &a, int64_t begin, const struct desk &d) {
    return (struct place){desk_at(a.dt, begin, d),
                          desk_at(a.x, begin, d),
                          desk_at(a.z, begin, d),
                          desk_at(a.dout, begin, d),
                          desk_at(a.dx, begin, d),
                          desk_at(a.dz, begin, d),
                          desk_at(a.ddt, begin, d),
                          {0.0f, 0.0f},
                          {0.0f, 0.0f}};
}
/* dA_log of the lane's states; ddt_bias and dD, of which the lanes of a pair of channels have parts. */
static __device__ void unit_close(const struct selective_scan &a, const struct sums &w, int64_t chunk,
                                  const struct own &o, const struct asked &r, const struct desk &d,
                                  const struct place &p) {
    const int64_t D = a.A_log.shape[0], N = a.state;
    for (int s = 0; s < OWN; s++)
        if (o.d < D && OWN * o.q + s < N) w.dA[(chunk * D + o.d) * N + OWN * o.q + s] = r.dA[s] * (o.A[s] / LOG2_E);
    for (int i = 0; i < 2; i++) {
        double dbias = (double)p.dbias[i], dD = (double)p.dD[i];
        for (int half = WARP / 2; half >= DESKS; half /= 2) {
            dbias += __shfl_xor_sync(0xffffffffu, dbias, half);
            dD += __shfl_xor_sync(0xffffffffu, dD, half);
        }
        if (d.row > 0 || !d.live[i]) continue;
        w.dbias[chunk * D + d.d + i] = dbias;
        w.dD[chunk * D + d.d + i] = dD;
    }
}

/* Bit i: a document starts with token i of the segment. */
static __device__ uint32_t fresh_of(const struct selective_scan &a, const struct chunk &p, int segment) {
    const int t = segment * SEGMENT + threadIdx.x % SEGMENT;
    return __ballot_sync(0xffffffffu, t < p.n && long_at(a.pos, p.k.begin + t) == 0);
}
static __device__ void mark_put(float4 *to, const float *h) {
    to[0] = make_float4(h[0], h[1], h[2], h[3]);
    to[WARP] = make_float4(h[4], h[5], h[6], h[7]);
}
static __device__ void mark_get(float *h, const float4 *from) {
    const float4 both[] = {from[0], from[WARP]};
    eight(h, both);
}

/* The states before the chunk's segments; ends with the last segment's tokens open. */
template <bool whole, bool resets>
static __device__ void unit_marks(const struct selective_scan &a, const struct strides &by, const struct chunk &c,
                                  const struct shared &m, const struct own &o, const struct desk &d,
                                  const struct place &p, struct raw *next) {
    const int last = segments_of(c.n) - 1;
    float h[OWN];
    states_get<whole>(h, a.states, c.i, o);
    raw_fetch<whole>(next, by, p, d, c.n, 0, last == 0);
    __syncwarp();
    if (last > 0) {
        pairs_open(m.room->mark[0], next->dt, next->x, d, SEGMENT, NULL);
        raw_fetch<whole>(next, by, p, d, c.n, 1, last == 1);
    }
    NO_UNROLL for (int i = 0; i < last; i++) {
        const int then = i + 2 < last ? i + 2 : last;
        __syncwarp();
        mark_put(&m.marks[i * 2 * WARP], h);
        segment_mark<resets>(&m.rows[i * SEGMENT * (BC / 4) + 2 * o.q], m.room->mark[i % 2], o,
                             resets ? fresh_of(a, c, i) : 0u, h);
        pairs_open(m.room->mark[(i + 1) % 2], next->dt, next->x, d, c.n - (i + 1) * SEGMENT, NULL);
        raw_fetch<whole>(next, by, p, d, c.n, then, then == last);
    }
    mark_put(&m.marks[last * 2 * WARP], h);
    __syncwarp();
    tokens_open(m.room, *next, d, c.n - last * SEGMENT);
}

/* ABREAST channels of a chunk. */
template <bool whole, bool resets>
static __device__ void unit_back(const struct selective_scan &a, const struct strides &by, const struct sums &w,
                                 const struct chunk &c, const struct shared &m, const struct ones &ones, int64_t unit,
                                 bool first) {
    const struct own o = own_open<whole>(a.A_log, unit * ABREAST);
    const struct desk d = desk_open(unit * ABREAST, a.A_log.shape[0], a.dt_bias, &a.D);
    struct place p = place_open(a, c.k.begin, d);
    struct asked r = {};
    struct raw next = {};
    float h[OWN], keep[SEGMENT][OWN], past[SEGMENT][OWN];
    states_get<whole>(r.g, a.dstates, c.i, o);
    unit_marks<whole, resets>(a, by, c, m, o, d, p, &next);
    NO_UNROLL for (int i = segments_of(c.n) - 1; i >= 0; i--) {
        const float4 *rows = &m.rows[i * SEGMENT * (BC / 4) + 2 * o.q];
        const uint32_t x[MINE] = {next.x[0], next.x[1]};
        raw_fetch<whole>(&next, by, p, d, c.n, i - 1, true);
        mark_get(h, &m.marks[i * 2 * WARP]);
        __syncwarp();
        segment_forward<resets>(rows, m.room, o, ones, resets ? fresh_of(a, c, i) : 0u, h, keep, past,
                                &m.sums[i * 2 * WARP], first);
        segment_back(rows, m.room, o, &r, ones, keep, past, &m.sums[(i * 2 + 1) * WARP], first);
        __syncwarp();
        tokens_finish<whole>(by, m.room, &p, d, x, c.n, i);
        tokens_open(m.room, next, d, SEGMENT);
    }
    unit_close(a, w, c.i, o, r, d, p);
}

/* B | C of the chunk, zeros where there are none. */
static __device__ void rows_fetch_all(float *to, const struct selective_scan &a, const struct chunk &c) {
    for (int i = threadIdx.x; i < segments_of(c.n) * SEGMENT * BC; i += blockDim.x) {
        const int t = i / BC, n = i % STATES;
        to[i] = t < c.n && n < a.state ? bf16_float(row16(i % BC < STATES ? a.B : a.C, c.k.begin + t)[n]) : 0.0f;
    }
}

/* dB | dC of the strip: the warps' sums in order. */
static __device__ void crews_add(const struct selective_scan &a, float *bc, const struct chunk &c,
                                 const unsigned char *sums, int crews) {
    const int n = segments_of(c.n), N = (int)a.state;
    for (int i = threadIdx.x; i < n * 2 * WARP; i += blockDim.x) {
        const int lane = i % WARP, state = lane % 4 / 2 * OWN + lane / 4, which = i / WARP % 2 ? 0 : N;
        const int t0 = i / WARP / 2 * SEGMENT + lane % 2;
        float4 all = ((const float4 *)sums)[i];
        for (int w = 1; w < crews; w++) {
            const float4 v = ((const float4 *)(sums + w * warp_bytes(n)))[i];
            all.x += v.x, all.y += v.y, all.z += v.z, all.w += v.w;
        }
        const float of[4] = {all.x, all.y, all.z, all.w};
        float *to = bc + (c.k.begin + t0) * 2 * N + which + state;
        for (int k = 0; k < 4; k++)
            if (state < N && t0 + 2 * k < c.n) to[4 * k * N] = of[k];
    }
}

template <bool whole>
__global__ static void __launch_bounds__(MOST_CREWS *WARP, 2)
    backward_chunks(const struct selective_scan a, const struct strides by, const struct sums w) {
    DYNAMIC_SHARED(memory);
    __shared__ struct ones ones;
    const int64_t T = a.pos.shape[0], units = ceil_div(a.A_log.shape[0], ABREAST);
    const int64_t strip = blockIdx.x % w.strips, begin = strip * units / w.strips, end = (strip + 1) * units / w.strips;
    const int crew = threadIdx.x / WARP, crews = blockDim.x / WARP;
    struct chunk c = {};
    c.i = blockIdx.x / w.strips;
    if (!span_find(a.range, a.pos, a.chunk, c.i, &c.k)) return;
    c.n = (int)(c.k.end - c.k.begin);
    const struct shared m = shared_at(memory, segments_of(c.n), crew), all = shared_at(memory, segments_of(c.n), 0);
    ones_make(&ones);
    rows_fetch_all((float *)m.rows, a, c);
    __syncthreads();
    for (int64_t unit = begin + crew; unit < end; unit += crews) {
        if (c.k.through) unit_back<whole, false>(a, by, w, c, m, ones, unit, unit < begin + crews);
        else unit_back<whole, true>(a, by, w, c, m, ones, unit, unit < begin + crews);
    }
    __syncthreads();
    crews_add(a, w.bc + strip * T * 2 * a.state, c, (const unsigned char *)(all.sums - threadIdx.x % WARP),
              (int)least(crews, end - begin));
}

static int64_t strips_in(const struct selective_scan *a) { return strips_of(a, (int64_t)MOST_CREWS * ABREAST); }

int64_t selective_scan_work_bf16(const struct selective_scan *a, int64_t n_chunks) {
    return sums_bytes(a, n_chunks, strips_in(a));
}

/* Channels in pairs, states in pieces of 16 bytes. */
static bool is_whole(const struct selective_scan *a) {
    return rows_in_pairs(a->dt) && rows_in_pairs(a->x) && rows_in_pairs(a->z) && rows_in_pairs(a->dout) &&
           rows_in_pairs(a->dx) && rows_in_pairs(a->dz) && rows_in_pairs(a->ddt) && in_pieces(a->A_log, a->states) &&
           packs_fit(a->dstates);
}

enum status selective_scan_bwd_bf16(struct ctx *c, const struct selective_scan *a, int64_t n_chunks) {
    const int64_t strips = strips_in(a);
    const int n = segments_of(least(a->chunk, a->pos.shape[0]));
    const int room = MOST_SHARED - (int)sizeof(struct ones) - rows_bytes(n);
    const int crews = (int)least(MOST_CREWS, room / warp_bytes(n));
    const int64_t bytes = rows_bytes(n) + crews * warp_bytes(n);
    const struct strides by = {row_bytes_of(a->dt), row_bytes_of(a->x),  row_bytes_of(a->z),  row_bytes_of(a->dout),
                               row_bytes_of(a->dx), row_bytes_of(a->dz), row_bytes_of(a->ddt)};
    struct sums w;
    TRY(sums_open(&w, c, a, n_chunks, strips));
    if (is_whole(a)) LAUNCH_SHARED(backward_chunks<true>, n_chunks * strips, crews * WARP, bytes, *a, by, w);
    else LAUNCH_SHARED(backward_chunks<false>, n_chunks * strips, crews * WARP, bytes, *a, by, w);
    return sums_close<bf16_bits>(c, a, w);
}
