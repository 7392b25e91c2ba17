/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_SSD_BF16_HEADS_CUH
#define BATON_KERNELS_SSD_SSD_BF16_HEADS_CUH
/* ssd_bf16_heads.cuh - dx, and what hangs on decays inside a chunk: a part of ssd_bf16_bwd.cu. */
#include "kernels/ssd/ssd_tiles.cuh"

template <int Q> struct double_sum { float earlier[Q / 16][Q], diagonal[Q / 16][16][17], later[Q]; };
template <int N, int Q> struct heads_shared {
    bf16_bits C[Q * N], B[Q * N];
    struct {
        bf16_bits x[Q * SSD_P], dy[Q * SSD_P], G[SSD_P * N];
    } head[2];
    struct double_sum<Q> w;
    head_steps<Q> steps;
    int from[Q], seen[Q / 16]; /* seen: by all rows of a block; Q where one of them does not exist */
};

/* B C^T of 16 rows s, columns from their own on. */
template <int N, int Q> static __device__ void products_BC(float bc[Q / 8][4], const heads_shared<N, Q> *m, int strip) {
#pragma unroll
    for (int kb = 0; kb < Q / 16; kb++) {
#pragma unroll
        for (int i = 0; i < 4; i++) bc[2 * kb][i] = bc[2 * kb + 1][i] = 0.0f;
        if (kb < strip) continue;
#pragma unroll
        for (int k0 = 0; k0 < N; k0 += 16) {
            uint32_t A[4], b[4];
            a_rows<N>(A, m->B, 16 * strip, k0);
            b_rows<N>(b, m->C, 16 * kb, k0);
            mma(bc[2 * kb], A, b[0], b[1]);
            mma(bc[2 * kb + 1], A, b[2], b[3]);
        }
    }
}

/* q = w G B: what later chunks ask. */
template <int N>
static __device__ void asked_later(float q[SSD_P / 8][4], const bf16_bits *B, const bf16_bits *G, const struct place &p,
                                   const float *cum, int strip) {
    const int s = 16 * strip + threadIdx.x % WARP / 4;
    for (int k0 = 0; k0 < N && 16 * strip + 15 >= p.last; k0 += 16) {
        uint32_t A[4];
        a_rows<N>(A, B, 16 * strip, k0);
#pragma unroll
        for (int j = 0; j < SSD_P / 16; j++) {
            uint32_t b[4];
            b_rows<N>(b, G, 16 * j, k0);
            mma(q[2 * j], A, b[0], b[1]);
            mma(q[2 * j + 1], A, b[2], b[3]);
        }
    }
    const float w0 = decay_out(p, cum, s), w8 = decay_out(p, cum, s + 8);
#pragma unroll
    for (int j = 0; j < SSD_P / 8; j++) q[j][0] *= w0, q[j][1] *= w0, q[j][2] *= w8, q[j][3] *= w8;
}

/* A 16 x 8 part of W, rows s, columns t from t0 on: its sums over s, or itself if it lies on the diagonal. */
template <int Q> static __device__ void keep_sums(struct double_sum<Q> *w, const float W[4], int strip, int t0) {
    const int lane = threadIdx.x % WARP, c = lane % 4 * 2;
    if (t0 / 16 == strip) {
        float(*to)[17] = w->diagonal[strip];
        to[lane / 4][t0 % 16 + c] = W[0];
        to[lane / 4][t0 % 16 + c + 1] = W[1];
        to[lane / 4 + 8][t0 % 16 + c] = W[2];
        to[lane / 4 + 8][t0 % 16 + c + 1] = W[3];
        return;
    }
    float even = W[0] + W[2], odd = W[1] + W[3];
#pragma unroll
    for (int lanes = 4; lanes < WARP; lanes *= 2) {
        even += __shfl_xor_sync(0xffffffffu, even, lanes);
        odd += __shfl_xor_sync(0xffffffffu, odd, lanes);
    }
    if (lane < 4) w->earlier[strip][t0 + c] = even, w->earlier[strip][t0 + c + 1] = odd;
}

/* Sixteen columns t from 16 kb on: K joins the sum over heads, W its sums, and q += (L C B^T)^T dy. */
template <int N, int Q>
static __device__ void columns(heads_shared<N, Q> *m, int at, int strip, int kb, const uint32_t x[4][4],
                               const float bc[2][4], float K[2][4], float later[2], float q[SSD_P / 8][4]) {
    const int lane = threadIdx.x % WARP, c = lane % 4 * 2, s = 16 * strip + lane / 4;
    const float *cum = m->steps.cum, last = cum[16 * strip + 15];
    const float dts[2] = {m->steps.dts[s], m->steps.dts[s + 8]};
    const bool seen = kb > strip && m->seen[kb] <= 16 * strip; /* a decay is from s to the strip's last row, and on */
    const float f[2] = {exp2_fast(fminf(last - cum[s], 0.0f)), exp2_fast(fminf(last - cum[s + 8], 0.0f))};
    float xdy[2][4] = {};
    uint32_t A[4];
#pragma unroll
    for (int k = 0; k < SSD_P / 16; k++) {
        uint32_t b[4];
        b_rows<SSD_P>(b, m->head[at].dy, 16 * kb, 16 * k);
        mma(xdy[0], x[k], b[0], b[1]);
        mma(xdy[1], x[k], b[2], b[3]);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float W[4], M[4], on[2] = {0.0f, 0.0f};
        if (seen)
            on[0] = exp2_fast(cum[16 * kb + 8 * i + c] - last), on[1] = exp2_fast(cum[16 * kb + 8 * i + c + 1] - last);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float L =
                seen ? on[e % 2] * f[e / 2] : decay_of(cum, m->from, 16 * kb + 8 * i + c + e % 2, s + e / 2 * 8);
            const float own = L * dts[e / 2] * xdy[i][e];
            K[i][e] += own;
            W[e] = own * bc[i][e];
            M[e] = L * bc[i][e];
        }
        keep_sums<Q>(&m->w, W, strip, 16 * kb + 8 * i);
        if (kb > strip) later[0] += W[0] + W[1], later[1] += W[2] + W[3];
        A[2 * i] = pack(M[0], M[1]);
        A[2 * i + 1] = pack(M[2], M[3]);
    }
#pragma unroll
    for (int j = 0; j < SSD_P / 16; j++) {
        uint32_t b[4];
        b_cols<SSD_P>(b, m->head[at].dy, 16 * j, 16 * kb);
        mma(q[2 * j], A, b[0], b[1]);
        mma(q[2 * j + 1], A, b[2], b[3]);
    }
}

/* dx = dts q + D dy, x . q and x . dy of 16 rows. */
static __device__ void store_dx(const struct ssd &a, const struct scratch &w, const struct place &p, int64_t h,
                                int strip, const bf16_bits *x, const bf16_bits *dy, const float *dts,
                                const float q[SSD_P / 8][4]) {
    const int lane = threadIdx.x % WARP, c = lane % 4 * 2;
    const float D = ((const float *)a.D.data)[h];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int s = 16 * strip + lane / 4 + 8 * half;
        float xq = 0.0f, xdy = 0.0f;
        bf16_bits *to = row16(a.dx, p.k.begin + s) + h * SSD_P + c;
#pragma unroll
        for (int j = 0; j < SSD_P / 8; j++) {
            const uint32_t xs = tile_pair<SSD_P>(x, s, 8 * j + c), dys = tile_pair<SSD_P>(dy, s, 8 * j + c);
            const float q0 = q[j][2 * half], q1 = q[j][2 * half + 1];
            xq = fmaf(low_half(xs), q0, fmaf(high_half(xs), q1, xq));
            xdy = fmaf(low_half(xs), low_half(dys), fmaf(high_half(xs), high_half(dys), xdy));
            if (s < p.n)
                *(uint32_t *)(to + 8 * j) = pack(dts[s] * q0 + D * low_half(dys), dts[s] * q1 + D * high_half(dys));
        }
        xq = quad_sum(xq);
        xdy = quad_sum(xdy);
        if (lane % 4 || s >= p.n) continue;
        const int64_t at = rows_at(a, p.chunk, h) + s;
        w.xq[at] = xq;
        w.xdy[at] = xdy;
    }
}

/* The double sum of da for the 16 rows j of a block, by one warp. */
template <int Q>
static __device__ void store_da(const struct ssd &a, const struct scratch &sc, const struct place &p, int64_t h,
                                int block, const struct double_sum<Q> *w) {
    const int lane = threadIdx.x % WARP, j = 16 * block + lane % 16;
    float sum = 0.0f;
    for (int t = 16 * (block + 1) + lane; t < Q; t += WARP)
        for (int sb = 0; sb < block; sb++) sum += w->earlier[sb][t];
#pragma unroll
    for (int half = WARP / 2; half > 0; half /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, half);
    float own = 0.0f;
    for (int sb = 0; sb < block; sb++) own += w->earlier[sb][j];
    const float later = w->later[j];
    for (int i = 0; i < 16; i++) {
        const float up = __shfl_sync(0xffffffffu, own, i), down = __shfl_sync(0xffffffffu, later, i);
        sum += (i >= lane % 16 ? up : 0.0f) + (i < lane % 16 ? down : 0.0f);
    }
    for (int t = lane % 16; t < 16; t++)
        for (int s = 0; s < lane % 16; s++) sum += w->diagonal[block][s][t];
    if (lane < 16 && j < p.n) sc.da[rows_at(a, p.chunk, h) + j] = sum;
}

/* K of 16 rows s, rounded; 0 in the blocks before their own. */
template <int Q> static __device__ void store_K(bf16_bits *to, const float K[Q / 8][4], int strip) {
    const int lane = threadIdx.x % WARP, c = lane % 4 * 2;
    to += (16 * strip + lane / 4) * Q + c;
#pragma unroll
    for (int j = 0; j < Q / 8; j++) {
        *(uint32_t *)(to + 8 * j) = pack(K[j][0], K[j][1]);
        *(uint32_t *)(to + 8 * Q + 8 * j) = pack(K[j][2], K[j][3]);
    }
}

template <int N, int Q>
static __device__ void heads_fetch(const struct ssd &a, const struct place &p, int64_t h, int at, heads_shared<N, Q> *m,
                                   bool whole) {
    tile_fetch<SSD_P>(m->head[at].x, row16(a.x, p.k.begin) + h * SSD_P, a.x.pitch, Q, p.n, whole);
    tile_fetch<SSD_P>(m->head[at].dy, row16(a.dy, p.k.begin) + h * SSD_P, a.dy.pitch, Q, p.n, whole);
    tile_fetch<N>(m->head[at].G, state16(a.dstates, p.chunk, h), N, SSD_P, SSD_P, true);
}

template <int N, int Q>
__global__ __launch_bounds__(2 * Q) static void backward_heads(const struct ssd a, const struct scratch w,
                                                               int64_t heads, bool whole) {
    DYNAMIC_SHARED(memory);
    heads_shared<N, Q> *m = (heads_shared<N, Q> *)memory;
    const int64_t per_group = a.heads / a.groups;
    struct place p;
    if (!place_find(a.range, a.pos, a.chunk, a.groups, per_group, heads, &p)) return;
    const int strip = strip_of(threadIdx.x / WARP, Q / 16), lane = threadIdx.x % WARP;
    tile_fetch<N>(m->C, row16(a.C, p.k.begin) + p.g * N, a.C.pitch, Q, p.n, whole);
    tile_fetch<N>(m->B, row16(a.B, p.k.begin) + p.g * N, a.B.pitch, Q, p.n, whole);
    first_seen(a.pos, p, Q, m->from);
    heads_fetch<N, Q>(a, p, p.h0, 0, m, whole);
    cp_commit();
    step_store<Q>(&m->steps, step_fetch<Q>(a, p, p.h0));
    cp_wait<0>();
    __syncthreads();
    for (int b = threadIdx.x; b < Q / 16; b += blockDim.x)
        m->seen[b] = 16 * b + 15 < p.n ? seen_by_all(m->from, b, p.n) : Q;
    float bc[Q / 8][4], K[Q / 8][4] = {};
    products_BC<N, Q>(bc, m, strip);
    for (int64_t i = 0; i < heads; i++) {
        const int64_t h = p.h0 + i;
        const int at = (int)(i & 1);
        if (i + 1 < heads) heads_fetch<N, Q>(a, p, h + 1, 1 - at, m, whole);
        cp_commit();
        struct step_on_way next = {0.0f, 0.0f, 0.0f};
        if (i + 1 < heads) next = step_fetch<Q>(a, p, h + 1);
        cp_wait<1>();
        __syncthreads();
        float q[SSD_P / 8][4] = {}, later[2] = {0.0f, 0.0f};
        uint32_t x[SSD_P / 16][4];
#pragma unroll
        for (int k = 0; k < SSD_P / 16; k++) a_rows<SSD_P>(x[k], m->head[at].x, 16 * strip, 16 * k);
        asked_later<N>(q, m->B, m->head[at].G, p, m->steps.cum, strip);
#pragma unroll
        for (int kb = 0; kb < Q / 16; kb++)
            if (kb >= strip) columns<N, Q>(m, at, strip, kb, x, bc + 2 * kb, K + 2 * kb, later, q);
        later[0] = quad_sum(later[0]);
        later[1] = quad_sum(later[1]);
        if (lane % 4 == 0)
            m->w.later[16 * strip + lane / 4] = later[0], m->w.later[16 * strip + lane / 4 + 8] = later[1];
        store_dx(a, w, p, h, strip, m->head[at].x, m->head[at].dy, m->steps.dts, q);
        __syncthreads();
        step_store<Q>(&m->steps, next);
        store_da<Q>(a, w, p, h, strip, &m->w);
        __syncthreads();
    }
    store_K<Q>(weights_at(a, w, (p.h0 - p.g * per_group) / heads, p.chunk, p.g), K, strip);
}
#endif
