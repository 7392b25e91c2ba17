/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_STEPS_CUH
#define BATON_KERNELS_SSD_STEPS_CUH
/* ssd_steps.cuh - the kernel of ssd_walk.cuh, and a step's outputs: rows t, s of a step, M[t, s] = exp(cum_t - cum_s)
 * (C_t . B_s) dts_s,  y_t = exp(cum_t - cum_before) S C_t + sum_s M[t, s] x_s + D x_t. */
#include "kernels/ssd_walk.cuh"

/* Rows of C B^T, and of C S^T, on their way. */
template <int N>
static __device__ void products_of_C(float (&cb)[32], float (&cs)[32], const walk_stage<N, true> *s,
                                     const bf16_bits (*S)[PANEL]) {
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < N / 16; k++)
        wgmma<false, false>(cb, panel_rows(s->Z[k / 4], 0, k % 4 * 16), panel_rows(s->Y[k / 4], 0, k % 4 * 16), k > 0);
    wgmma_commit();
#pragma unroll
    for (int k = 0; k < N / 16; k++)
        wgmma<false, false>(cs, panel_rows(s->Z[k / 4], 0, k % 4 * 16), panel_rows(S[k / 4], 0, k % 4 * 16), k > 0);
    wgmma_commit();
}

/* M of a warp's 16 rows: zero above the diagonal.  A block left of it that all rows see costs an exponential a row. */
static __device__ void step_weights(uint32_t (&M)[4][4], const float (&cb)[32], const struct step_raw *raw,
                                    const struct step_made *made, bool through) {
    const int lane = threadIdx.x % WARP, strip = threadIdx.x % WARPGROUP / WARP, c = lane % 4 * 2;
    const int t = 16 * strip + lane / 4;
    const float cum[2] = {raw->cum[t], raw->cum[t + 8]};
#pragma unroll
    for (int kb = 0; kb < 4; kb++) {
        if (kb > strip) {
            M[kb][0] = M[kb][1] = M[kb][2] = M[kb][3] = 0;
            continue;
        }
        const bool plain = kb < strip && through;
        float f[2];
#pragma unroll
        for (int half = 0; half < 2; half++) f[half] = plain ? step_exp(cum[half] - raw->cum[16 * kb + 15]) : 0.0f;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *own = &cb[(2 * kb + i / 2) * 4 + i % 2 * 2];
            const int s = 16 * kb + i / 2 * 8 + c, half = i % 2;
            float w[2];
            if (plain) {
                w[0] = f[half] * made->reach[s], w[1] = f[half] * made->reach[s + 1];
            } else {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const bool sees = s + e <= t + 8 * half && s + e >= made->from[t + 8 * half];
                    w[e] = sees ? step_exp(cum[half] - raw->cum[s + e]) * raw->dts[s + e] : 0.0f;
                }
            }
            M[kb][i] = pack(own[0] * w[0], own[1] * w[1]);
        }
    }
}

/* y of a warp's 16 rows, through shared memory into whole rows. */
static __device__ void step_outputs(const struct walk &a, int64_t b, int n, int64_t h, const float (&own)[32],
                                    const float (&entered)[32], const bf16_bits *x, const float *in, bf16_bits *out) {
    const int lane = threadIdx.x % WARP, r0 = threadIdx.x % WARPGROUP / WARP * 16, c = lane % 4 * 2;
    const float D = ((const float *)a.x_D.data)[h];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = r0 + lane / 4 + 8 * half;
        const float e = in[r];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const uint32_t xs = tile_pair<64>(x, r, 8 * j + c);
            const float y0 = fmaf(e, entered[4 * j + 2 * half], own[4 * j + 2 * half]);
            const float y1 = fmaf(e, entered[4 * j + 2 * half + 1], own[4 * j + 2 * half + 1]);
            *(uint32_t *)(tile_piece<64>(out, r, 8 * j) + c) = pack(y0 + D * low_half(xs), y1 + D * high_half(xs));
        }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int r = r0 + 4 * i + lane / 8, col = lane % 8 * 8;
        const bf16_bits *piece = tile_piece<64>(out, r, col);
        bf16_bits *to = row16(a.y, b + r) + h * SSD_P + col;
        if (r >= n) continue;
        if (a.whole_y) *(uint4 *)to = *(const uint4 *)piece;
        else
            for (int e = 0; e < 8; e++) to[e] = piece[e];
    }
}

template <int N, bool outputs, bool up>
__global__ __launch_bounds__(WALK_THREADS) static void walk_segments(const struct walk a) {
    DYNAMIC_SHARED(memory);
    walk_shared<N, outputs> *m = (walk_shared<N, outputs> *)memory;
    constexpr int STAGES = walk_shared<N, outputs>::STAGES;
    struct walk_place p;
    if (!walk_find(a, &p)) return;
    const int w = warpgroup_of();
    struct state<N> s = {};
    for (int i = 0; i < STAGES - 1; i++) {
        step_fetch<N, outputs, up>(a, p, i, m);
        cp_commit();
    }
    if (a.begin) state_move<N, false>(&s, (float *)a.begin + (p.segment * a.heads + p.h0 + w) * SSD_P * N);
    if (outputs) state_round<N>(&s, m->S[w]);
    for (int i = 0; i < p.steps; i++) {
        const int step = step_at<up>(p, i);
        const int64_t b = step_begin(p, step);
        const int n = step_rows(p, b);
        const walk_stage<N, outputs> *stage = &m->stage[i % STAGES];
        const struct step_raw *raw = &m->raw[i % STAGES][w];
        struct step_made *made = &m->made[w];
        cp_wait<STAGES - 2>();
        wgmma_see();
        __syncthreads();
        step_fetch<N, outputs, up>(a, p, i + STAGES - 1, m);
        cp_commit();
        const int64_t pos_last = m->pos[i % STAGES];
        const bool through = pos_last >= n;
        walk_keep<N, outputs, up>(a, p, step, &s, m);
        const float keep = through ? step_exp(raw->cum[STEP - 1] - raw->before) : 0.0f;
#pragma unroll
        for (int k = 0; k < N / 64; k++)
#pragma unroll
            for (int e = 0; e < 32; e++) s.d[k][e] *= keep;
        float cb[32], entered[32], own[32];
        if constexpr (outputs) products_of_C<N>(cb, entered, stage, m->S[w]);
        step_make<up, outputs>(a, raw, b, n, pos_last, made);
        barrier_of(1 + w, WARPGROUP);
        state_add<N>(&s, stage->X[w], stage->Y, made->weight);
        if constexpr (outputs) {
            uint32_t M[4][4];
            wgmma_wait<2>();
            wgmma_ended(cb);
            step_weights(M, cb, raw, made, through);
            wgmma_begin();
#pragma unroll
            for (int k = 0; k < 4; k++) wgmma<true>(own, M[k], panel_cols(stage->X[w], 16 * k), k > 0);
            wgmma_commit();
            wgmma_wait<1>();
            barrier_of(1 + w, WARPGROUP);
        } else {
            wgmma_wait<0>();
        }
#pragma unroll
        for (int k = 0; k < N / 64; k++) wgmma_ended(s.d[k]);
        if constexpr (outputs) {
            wgmma_ended(entered);
            state_round<N>(&s, m->S[w]);
            wgmma_wait<0>();
            wgmma_ended(own);
            step_outputs(a, b, n, p.h0 + w, own, entered, stage->X[w], made->in, m->out[w]);
        }
    }
    walk_end<N, outputs, up>(a, p, &s);
}
#endif
