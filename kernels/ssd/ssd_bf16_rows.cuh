/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_SSD_BF16_ROWS_CUH
#define BATON_KERNELS_SSD_SSD_BF16_ROWS_CUH
/* ssd_bf16_rows.cuh - dC and u, dB and v: a part of ssd_bf16_bwd.cu. */
#include "kernels/ssd/ssd_tiles.cuh"

/* Columns [n0, n0 + NB) of the state.  Y, other: C and B for dC, B and C for dB; rows: dy or x; state: S or G. */
template <int NB, int Q> struct rows_shared {
    bf16_bits Y[Q * NB], other[Q * NB], K[Q * Q];
    struct {
        bf16_bits rows[Q * SSD_P], state[SSD_P * NB];
    } head[2];
    head_steps<Q> steps;
    float room[WARPS];
};

/* sum += K other, or K^T other: what comes of the chunk's own tokens. */
template <int NB, int Q, bool for_C>
static __device__ void own_tokens(float sum[NB / 8][4], const rows_shared<NB, Q> *m, int strip) {
    for (int kb = for_C ? 0 : strip; kb < (for_C ? strip + 1 : Q / 16); kb++) {
        uint32_t A[4];
        if (for_C) a_cols<Q>(A, m->K, 16 * strip, 16 * kb);
        else a_rows<Q>(A, m->K, 16 * strip, 16 * kb);
#pragma unroll
        for (int j = 0; j < NB / 16; j++) {
            uint32_t b[4];
            b_cols<NB>(b, m->other, 16 * j, 16 * kb);
            mma(sum[2 * j], A, b[0], b[1]);
            mma(sum[2 * j + 1], A, b[2], b[3]);
        }
    }
}

/* sum += f (rows state), and that times Y summed over columns: u or v of 16 rows, into to (a row's head). */
template <int NB, int Q, bool for_C>
static __device__ void through_state(float sum[NB / 8][4], const rows_shared<NB, Q> *m, int now, const struct place &p,
                                     int strip, float *to, bool first) {
    const int lane = threadIdx.x % WARP, c = lane % 4 * 2, r = 16 * strip + lane / 4;
    const head_steps<Q> *steps = &m->steps;
    float own[NB / 8][4] = {};
#pragma unroll
    for (int k = 0; k < SSD_P / 16; k++) {
        uint32_t A[4];
        a_rows<SSD_P>(A, m->head[now].rows, 16 * strip, 16 * k);
#pragma unroll
        for (int j = 0; j < NB / 16; j++) {
            uint32_t b[4];
            b_cols<NB>(b, m->head[now].state, 16 * j, 16 * k);
            mma(own[2 * j], A, b[0], b[1]);
            mma(own[2 * j + 1], A, b[2], b[3]);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int i = r + 8 * half;
        const float f = for_C ? decay_in(p, steps->cum, i) : decay_out(p, steps->cum, i) * steps->dts[i];
        float dot = 0.0f;
#pragma unroll
        for (int j = 0; j < NB / 8; j++) {
            const uint32_t y = tile_pair<NB>(m->Y, i, 8 * j + c);
            const float o0 = f * own[j][2 * half], o1 = f * own[j][2 * half + 1];
            dot = fmaf(o0, low_half(y), fmaf(o1, high_half(y), dot));
            sum[j][2 * half] += o0;
            sum[j][2 * half + 1] += o1;
        }
        dot = quad_sum(dot);
        if (lane % 4 == 0 && i < p.n) to[i] = first ? dot : to[i] + dot;
    }
}

/* This thread's part of <S, G>, of the columns at hand. */
template <int NB> static __device__ float state_product(const bf16_bits *S, int64_t N, const bf16_bits *G) {
    float sum = 0.0f;
    for (int e = threadIdx.x; e < SSD_P * NB / 8; e += blockDim.x) {
        const int r = e / (NB / 8), col = e % (NB / 8) * 8;
        const uint4 s = *(const uint4 *)(S + r * N + col), g = *(const uint4 *)tile_piece<NB>((bf16_bits *)G, r, col);
        const uint32_t sw[4] = {s.x, s.y, s.z, s.w}, gw[4] = {g.x, g.y, g.z, g.w};
#pragma unroll
        for (int i = 0; i < 4; i++)
            sum = fmaf(low_half(sw[i]), low_half(gw[i]), fmaf(high_half(sw[i]), high_half(gw[i]), sum));
    }
    return sum;
}

template <int N, int NB, int Q, bool for_C>
static __device__ void rows_fetch(const struct ssd &a, const struct place &p, int64_t h, int n0, int at,
                                  rows_shared<NB, Q> *m, bool whole) {
    const struct tensor &rows = for_C ? a.dy : a.x, &states = for_C ? a.states : a.dstates;
    tile_fetch<SSD_P>(m->head[at].rows, row16(rows, p.k.begin) + h * SSD_P, rows.pitch, Q, p.n, whole);
    tile_fetch<NB>(m->head[at].state, state16(states, p.chunk, h) + n0, N, SSD_P, SSD_P, true);
}

/* <S, G> of one head, over the block's threads in a fixed order. */
template <int NB, int Q>
static __device__ void store_product(const struct ssd &a, const struct scratch &w, const struct place &p, int64_t h,
                                     int n0, float part, rows_shared<NB, Q> *m) {
#pragma unroll
    for (int half = WARP / 2; half > 0; half /= 2) part += __shfl_xor_sync(0xffffffffu, part, half);
    if (threadIdx.x % WARP == 0) m->room[threadIdx.x / WARP] = part;
    __syncthreads();
    if (threadIdx.x > 0) return;
    float sum = n0 > 0 ? w.products[p.chunk * a.heads + h] : 0.0f;
    for (int i = 0; i < (int)blockDim.x / WARP; i++) sum += m->room[i];
    w.products[p.chunk * a.heads + h] = sum;
}

template <int NB>
static __device__ void store_rows(const struct tensor &to, const float sum[NB / 8][4], const struct place &p,
                                  int64_t col, int strip) {
    const int lane = threadIdx.x % WARP, c = lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int i = 16 * strip + lane / 4 + 8 * half;
        if (i >= p.n) continue;
        bf16_bits *at = row16(to, p.k.begin + i) + col + c;
#pragma unroll
        for (int j = 0; j < NB / 8; j++) *(uint32_t *)(at + 8 * j) = pack(sum[j][2 * half], sum[j][2 * half + 1]);
    }
}

template <int N, int NB, int Q, bool for_C>
__global__ __launch_bounds__(2 * Q) static void backward_rows(const struct ssd a, const struct scratch w, bool whole) {
    DYNAMIC_SHARED(memory);
    rows_shared<NB, Q> *m = (rows_shared<NB, Q> *)memory;
    const int64_t heads = a.heads / a.groups;
    const struct tensor &Y = for_C ? a.C : a.B, &other = for_C ? a.B : a.C;
    struct place p;
    if (!place_find(a.range, a.pos, a.chunk, a.groups, heads, heads, &p)) return;
    const int strip = strip_of(threadIdx.x / WARP, Q / 16);
    for (int n0 = 0; n0 < N; n0 += NB) {
        float sum[NB / 8][4] = {};
        tile_fetch<NB>(m->Y, row16(Y, p.k.begin) + p.g * N + n0, Y.pitch, Q, p.n, whole);
        tile_fetch<NB>(m->other, row16(other, p.k.begin) + p.g * N + n0, other.pitch, Q, p.n, whole);
        for (int64_t part = 0; part < w.parts; part++) {
            tile_fetch<Q>(m->K, weights_at(a, w, part, p.chunk, p.g), Q, Q, Q, true);
            if (part == 0) rows_fetch<N, NB, Q, for_C>(a, p, p.h0, n0, 0, m, whole);
            cp_commit();
            if (part == 0) step_store<Q>(&m->steps, step_fetch<Q>(a, p, p.h0));
            cp_wait<0>();
            __syncthreads();
            own_tokens<NB, Q, for_C>(sum, m, strip);
            __syncthreads();
        }
        for (int64_t i = 0; i < heads; i++) {
            const int64_t h = p.h0 + i;
            const int now = (int)(i & 1);
            if (i + 1 < heads) rows_fetch<N, NB, Q, for_C>(a, p, h + 1, n0, 1 - now, m, whole);
            cp_commit();
            struct step_on_way next = {0.0f, 0.0f, 0.0f};
            if (i + 1 < heads) next = step_fetch<Q>(a, p, h + 1);
            cp_wait<1>();
            __syncthreads();
            float *to = (for_C ? w.u : w.v) + rows_at(a, p.chunk, h);
            through_state<NB, Q, for_C>(sum, m, now, p, strip, to, n0 == 0);
            if (!for_C) {
                const float part = state_product<NB>(state16(a.states, p.chunk, h) + n0, N, m->head[now].state);
                store_product<NB, Q>(a, w, p, h, n0, part, m);
            }
            __syncthreads();
            step_store<Q>(&m->steps, next);
        }
        store_rows<NB>(for_C ? a.dC : a.dB, sum, p, p.g * N + n0, strip);
        __syncthreads();
    }
}
#endif
