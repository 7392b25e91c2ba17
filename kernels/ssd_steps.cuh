/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_STEPS_CUH
#define BATON_KERNELS_SSD_STEPS_CUH
/* ssd_steps.cuh - the walk of ssd_walk.cuh with outputs: rows t, s of a step, M[t, s] = exp(cum_t - cum_s) (C_t . B_s)
 * dts_s,  y_t = exp(cum_t - cum_before) S C_t + sum_s M[t, s] x_s + D x_t.  A head has two warpgroups: one loads, makes
 * what hangs on decays and carries the state, one makes outputs with the copy of it, rounded, from the step before.  Of
 * N 256 two carry a half of the columns each. */
#include "kernels/ssd_walk.cuh"

/* Warpgroups of a head, and threads of a block. */
template <int N> constexpr int walk_sharers = 1 + N / walk_cols<N>;
template <int N> constexpr int walk_threads = walk_heads<N, true> *walk_sharers<N> *GROUP;

/* Rows of C B^T, and of C S^T, on their way. */
template <int N>
static __device__ void products_of_C(float (&cb)[32], float (&cs)[32], const walk_stage<N, true> *s,
                                     const bf16_bits (*S)[PANEL]) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < N / 16; k++)
        product<false, false>(cb, panel_rows(s->Z[k / 4], 0, k % 4 * 16), panel_rows(s->Y[k / 4], 0, k % 4 * 16),
                              k > 0);
    wgmma_commit();
#pragma unroll
    for (int k = 0; k < N / 16; k++)
        product<false, false>(cs, panel_rows(s->Z[k / 4], 0, k % 4 * 16), panel_rows(S[k / 4], 0, k % 4 * 16), k > 0);
    wgmma_commit();
}

/* Of the warpgroup's thread 64 + t: reach (ssd_tiles.cuh), the decay from what enters, the first row that row t sees.
 */
template <int N>
static __device__ void outputs_make(const struct walk &a, const struct step_raw *raw, int64_t b, int n, bool through,
                                    int w, walk_shared<N, true> *m) {
    const int t = (int)(threadIdx.x % GROUP) - STEP;
    if (t < 0) return;
    const int64_t pos = step_pos(a, b, n, t, through);
    const float cum = raw->cum[t];
    m->reach[w][t] = t < n ? step_exp(raw->cum[t | 15] - cum) * raw->dts[t] : 0.0f;
    m->in[w][t] = t < n && pos > t ? step_exp(cum - raw->before) : 0.0f;
    m->from[w][t] = pos >= t ? 0 : (int)(t - pos);
}

/* M of a warp's 16 rows: zero above the diagonal.  A block left of it that all rows see costs an exponential a row. */
static __device__ void step_weights(uint32_t (&M)[4][4], const float (&cb)[32], const struct step_raw *raw,
                                    const float *reach, const int *from, bool through) {
    const int lane = threadIdx.x % WARP, strip = warp_of() % 4, c = lane % 4 * 2;
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
                w[0] = f[half] * reach[s], w[1] = f[half] * reach[s + 1];
            } else {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const bool sees = s + e <= t + 8 * half && s + e >= from[t + 8 * half];
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
    const int lane = threadIdx.x % WARP, r0 = threadIdx.x % GROUP / WARP * 16, c = lane % 4 * 2;
    const float D = ((const float *)a.x_D.data)[h >> a.shift];
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

template <int N>
static __device__ void outputs_of(const struct walk &a, const struct walk_place &p, int i, int w,
                                  walk_shared<N, true> *m) {
    const int at = i % STAGES;
    const int64_t b = step_begin(p, i);
    const int n = step_rows(p, b);
    const bool through = m->pos[at] >= n;
    const struct step_raw *raw = &m->raw[at][w];
    float cb[32], entered[32], own[32];
    uint32_t M[4][4];
    products_of_C<N>(cb, entered, &m->stage[at], m->S[i % 2][w]);
    barrier_of(2 + w, walk_sharers<N> * GROUP);
    wgmma_wait<1>();
    sums_ended(cb);
    step_weights(M, cb, raw, m->reach[w], m->from[w], through);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++) product<true>(own, M[k], panel_cols(m->stage[at].X[w], 16 * k), k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    sums_ended(entered);
    sums_ended(own);
    step_outputs(a, b, n, p.h0 + w, own, entered, m->stage[at].X[w], m->in[w], m->out[w]);
}

/* w: of the warpgroups that carry states. */
template <int N>
static __device__ void carry_state(const struct walk &a, const struct walk_place &p, int w, walk_shared<N, true> *m) {
    constexpr int heads = walk_heads<N, true>, cols = walk_cols<N>;
    const int head = heads == 1 ? 0 : w, part = heads == 1 ? w : 0, panel = part * (cols / 64);
    const int64_t h = p.h0 + head;
    struct state<cols> s = {};
    step_fetch<N, true, false>(a, p, 0, m);
    cp_commit();
    walk_begin<cols>(a, p, h, part * cols, &s);
    state_round<cols>(&s, m->S[0][head] + panel);
    for (int i = 0; i < p.steps; i++) {
        const int at = i % STAGES;
        const int64_t b = step_begin(p, i);
        const int n = step_rows(p, b);
        const struct step_raw *raw = &m->raw[at][head];
        cp_wait<0>();
        shared_fence();
        barrier_of(0, walk_threads<N>);
        if (part == 0) {
            step_make<false>(a, raw, b, n, m->pos[at], m->weight[head]);
            outputs_make<N>(a, raw, b, n, m->pos[at] >= n, head, m);
        }
        barrier_of(2 + head, walk_sharers<N> * GROUP);
        step_fetch<N, true, false>(a, p, i + 1, m);
        cp_commit();
        if (walk_keeps<false>(a, p, i)) walk_keep<cols>(a, p, i, h, part * cols, m->S[i % 2][head] + panel);
        walk_step<cols>(raw, m->pos[at] >= n, m->stage[at].X[head], m->stage[at].Y + panel, m->weight[head], &s);
        state_round<cols>(&s, m->S[(i + 1) % 2][head] + panel);
    }
    walk_end<cols, false>(a, p, h, part * cols, &s);
}

template <int N> __global__ __launch_bounds__(walk_threads<N>) static void walk_outputs(const struct walk a) {
    DYNAMIC_PANELS(tiles);
    walk_shared<N, true> *m = (walk_shared<N, true> *)tiles;
    struct walk_place p;
    if (!walk_find<walk_heads<N, true>, 1>(a, &p)) return;
    const int w = warpgroup_of();
    if (w >= walk_heads<N, true>) {
        carry_state<N>(a, p, w - walk_heads<N, true>, m);
        return;
    }
    for (int i = 0; i < p.steps; i++) {
        barrier_of(0, walk_threads<N>);
        outputs_of<N>(a, p, i, w, m);
    }
}
#endif
