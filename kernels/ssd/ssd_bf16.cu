/* SPDX-License-Identifier: Apache-2.0 */
/* The forward of ssd.h in BF16.  Shapes of ssd_walks: one pass, ssd_steps.cuh; bytes per token of 128 heads of P 64, 8
 * groups of N 128: x and y 33 KB, states kept 16 KB, B and C 4 KB, 12 ns at 4.3 TB/s.
 *
 * Others: the walk over chunks makes entering states out of own ones, then a block owns a chunk and some heads of a
 * group, a warp 16 rows t of it.  A warp keeps its rows of C B^T in registers for all heads, in
 * F32; times decay and dts, rounded, they are the left operand of the product with x.
 *
 * Bytes per token and head of P 64, N 128, Q 128: x and y 256, states 128, walked once more 256, B and C 32 (8 groups
 * of 16 heads): 86 KB a token of 128 heads, 18 ns at 4.8 TB/s.  Flops (N + Q / 2) 2 P = 24,576.
 *
 * Measured on an H200, both halves, T 65,536, 128 heads of P 64, N 128, G 8, Q 128: forward 39.3 ns a token, forward +
 * backward 145.5 with the backward_heads before the present one; T 8,192: 47.1 and 170.7.  N 256, by the other form:
 * 110.6 and 424.0; by the walk, and heads of 128, not measured yet. */
#include "kernels/ssd/ssd_tiles.cuh"

template <int N, int Q> struct forward_shared {
    bf16_bits C[Q * N], B[Q * N];
    struct {
        bf16_bits x[Q * SSD_P], S[SSD_P * N];
    } head[2];
    head_steps<Q> steps;
    int from[Q];
};

/* Rows t0..t0+15 of C B^T, columns up to their own. */
template <int N, int Q>
static __device__ void products_CB(float cb[Q / 8][4], const forward_shared<N, Q> *m, int strip) {
#pragma unroll
    for (int kb = 0; kb < Q / 16; kb++) {
#pragma unroll
        for (int i = 0; i < 4; i++) cb[2 * kb][i] = cb[2 * kb + 1][i] = 0.0f;
        if (kb > strip) continue;
#pragma unroll
        for (int k0 = 0; k0 < N; k0 += 16) {
            uint32_t A[4], b[4];
            a_rows<N>(A, m->C, 16 * strip, k0);
            b_rows<N>(b, m->B, 16 * kb, k0);
            mma(cb[2 * kb], A, b[0], b[1]);
            mma(cb[2 * kb + 1], A, b[2], b[3]);
        }
    }
}

/* y = e S C^T, then + (L C B^T dts) x. */
template <int N, int Q>
static __device__ void outputs(float y[SSD_P / 8][4], const float cb[Q / 8][4], const forward_shared<N, Q> *m, int now,
                               const struct place &p, int strip, int seen) {
    const int lane = threadIdx.x % WARP, c = lane % 4 * 2, t = 16 * strip + lane / 4;
    const float *cum = m->steps.cum, *dts = m->steps.dts, *reach = m->steps.reach;
    const bf16_bits *x = m->head[now].x, *S = m->head[now].S;
    for (int k0 = 0; k0 < N && 16 * strip < p.n_enter; k0 += 16) {
        uint32_t A[4];
        a_rows<N>(A, m->C, 16 * strip, k0);
#pragma unroll
        for (int j = 0; j < SSD_P / 16; j++) {
            uint32_t b[4];
            b_rows<N>(b, S, 16 * j, k0);
            mma(y[2 * j], A, b[0], b[1]);
            mma(y[2 * j + 1], A, b[2], b[3]);
        }
    }
    const float e0 = decay_in(p, cum, t), e8 = decay_in(p, cum, t + 8);
#pragma unroll
    for (int j = 0; j < SSD_P / 8; j++) y[j][0] *= e0, y[j][1] *= e0, y[j][2] *= e8, y[j][3] *= e8;
#pragma unroll
    for (int kb = 0; kb < Q / 16; kb++) {
        if (kb > strip) continue;
        uint32_t A[4]; /* (rows 0 or 8, columns 0 or 8) of the 16 x 16 block */
        if (kb < strip && seen <= 16 * kb) {
            const float last = cum[16 * kb + 15];
            const float f[2] = {exp2_fast(cum[t] - last), exp2_fast(cum[t + 8] - last)};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *own = cb[2 * kb + i / 2] + i % 2 * 2, *r = reach + 16 * kb + i / 2 * 8 + c;
                A[i] = pack(own[0] * (f[i % 2] * r[0]), own[1] * (f[i % 2] * r[1]));
            }
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = t + i % 2 * 8, s = 16 * kb + i / 2 * 8 + c;
                const float *own = cb[2 * kb + i / 2] + i % 2 * 2;
                A[i] = pack(own[0] * decay_of(cum, m->from, row, s) * dts[s],
                            own[1] * decay_of(cum, m->from, row, s + 1) * dts[s + 1]);
            }
        }
#pragma unroll
        for (int j = 0; j < SSD_P / 16; j++) {
            uint32_t b[4];
            b_cols<SSD_P>(b, x, 16 * j, 16 * kb);
            mma(y[2 * j], A, b[0], b[1]);
            mma(y[2 * j + 1], A, b[2], b[3]);
        }
    }
}

/* y + D x to memory. */
template <int N, int Q>
static __device__ void store_outputs(const struct ssd &a, const float y[SSD_P / 8][4], const forward_shared<N, Q> *m,
                                     int now, const struct place &p, int strip, int64_t h) {
    const int lane = threadIdx.x % WARP, c = lane % 4 * 2, t = 16 * strip + lane / 4;
    const float D = ((const float *)a.D.data)[h];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = t + 8 * half;
        if (r >= p.n) continue;
        bf16_bits *to = row16(a.y, p.k.begin + r) + h * SSD_P + c;
#pragma unroll
        for (int j = 0; j < SSD_P / 8; j++) {
            const uint32_t x = tile_pair<SSD_P>(m->head[now].x, r, 8 * j + c);
            *(uint32_t *)(to + 8 * j) = pack(y[j][2 * half] + D * low_half(x), y[j][2 * half + 1] + D * high_half(x));
        }
    }
}

template <int N, int Q>
__global__ __launch_bounds__(2 * Q) static void forward_chunks(const struct ssd a, int64_t heads, bool whole) {
    DYNAMIC_SHARED(memory);
    forward_shared<N, Q> *m = (forward_shared<N, Q> *)memory;
    const int64_t per_group = a.heads / a.groups;
    struct place p;
    if (!place_find(a.range, a.pos, a.chunk, a.groups, per_group, heads, &p)) return;
    const int strip = strip_of(threadIdx.x / WARP, Q / 16);
    tile_fetch<N>(m->C, row16(a.C, p.k.begin) + p.g * N, a.C.pitch, Q, p.n, whole);
    tile_fetch<N>(m->B, row16(a.B, p.k.begin) + p.g * N, a.B.pitch, Q, p.n, whole);
    first_seen(a.pos, p, Q, m->from);
    cp_commit();
    const auto fetch = [&](int64_t h, int at) {
        tile_fetch<SSD_P>(m->head[at].x, row16(a.x, p.k.begin) + h * SSD_P, a.x.pitch, Q, p.n, whole);
        tile_fetch<N>(m->head[at].S, state16(a.states, p.chunk, h), N, SSD_P, SSD_P, true);
    };
    fetch(p.h0, 0);
    cp_commit();
    step_store<Q>(&m->steps, step_fetch<Q>(a, p, p.h0));
    cp_wait<1>();
    __syncthreads();
    float cb[Q / 8][4];
    products_CB<N, Q>(cb, m, strip);
    const int seen = seen_by_all(m->from, strip, p.n);
    for (int64_t i = 0; i < heads; i++) {
        const int now = (int)(i & 1);
        struct step_on_way next = {0.0f, 0.0f, 0.0f};
        if (i + 1 < heads) {
            fetch(p.h0 + i + 1, 1 - now);
            next = step_fetch<Q>(a, p, p.h0 + i + 1);
        }
        cp_commit();
        cp_wait<1>();
        __syncthreads();
        float y[SSD_P / 8][4] = {};
        if (16 * strip < p.n) {
            outputs<N, Q>(y, cb, m, now, p, strip, seen);
            store_outputs<N, Q>(a, y, m, now, p, strip, p.h0 + i);
        }
        __syncthreads();
        step_store<Q>(&m->steps, next);
    }
}

template <int N, int Q> static enum status forward(struct ctx *c, const struct ssd *a, int64_t n) {
    const int64_t heads = heads_of_block(a->heads / a->groups, 8);
    static_assert(sizeof(forward_shared<N, Q>) <= 227 * 1024, "the tiles fit into a processor's shared memory");
    LAUNCH_SHARED((forward_chunks<N, Q>), n * (a->heads / heads), 2 * Q, sizeof(forward_shared<N, Q>), *a, heads,
                  rows_whole(a->x) && rows_whole(a->B) && rows_whole(a->C));
    return OK;
}

enum status ssd_shape_bf16(const struct ssd *a) {
    const int64_t H = a->heads, P = a->head_width, N = a->state, G = a->groups;
    CHECK_THAT(ssd, H > 0 && G > 0 && H % G == 0 && ssd_has_shape(P, N, a->chunk),
               "heads %" PRId64 ", groups %" PRId64 ", head_width %" PRId64 ", state %" PRId64 ", chunk %" PRId64
               ": in bf16 expected groups dividing heads, " SSD_SHAPES,
               H, G, P, N, a->chunk);
    return OK;
}

enum status ssd_check_bf16(struct ctx *c, const struct ssd *a) {
    const int64_t T = a->pos.shape[0], H = a->heads, P = a->head_width, N = a->state, G = a->groups;
    const int64_t R = a->range.shape[0] - 1, n = a->states.shape[0];
    TRY(ssd_shape_bf16(a));
    CHECK_THAT(ssd, R >= 0, "range is empty: expected the rows where ranges begin");
    CHECK_SHAPE(ssd, range, I64, R + 1);
    CHECK_SHAPE(ssd, pos, I64, T);
    CHECK_SHAPE(ssd, x, BF16, T, H * P);
    CHECK_SHAPE(ssd, B, BF16, T, G * N);
    CHECK_SHAPE(ssd, C, BF16, T, G * N);
    CHECK_SHAPE(ssd, dt, BF16, T, H);
    CHECK_SHAPE(ssd, A_log, F32, H);
    CHECK_SHAPE(ssd, dt_bias, F32, H);
    CHECK_SHAPE(ssd, D, F32, H);
    CHECK_SHAPE(ssd, dts, F32, T, H);
    CHECK_SHAPE(ssd, cum, F32, T, H);
    CHECK_SHAPE(ssd, states, BF16, n, H, P, N);
    return OK;
}

static enum status check(struct ctx *c, const struct ssd *a) {
    const int64_t T = a->pos.shape[0], H = a->heads, P = a->head_width, N = a->state, R = a->range.shape[0] - 1;
    TRY(ssd_check_bf16(c, a));
    CHECK_SHAPE(ssd, s_in, F32, R, H, P, N);
    CHECK_SHAPE(ssd, y, BF16, T, H * P);
    CHECK_OPTIONAL(ssd, s_out, F32, R, H, P, N);
    CHECK_THAT(ssd, rows_pair(a->y), "rows of y must begin at multiples of 4 bytes");
    return OK;
}

static enum status walk_and_chunks(struct ctx *c, const struct ssd *a, int64_t n, float *decays) {
    if (ssd_walks(a->heads, a->groups, a->head_width)) {
        struct walk w = walk_of(a, a->x, a->B);
        w.Z = a->C, w.y = a->y, w.x_D = a->D;
        w.whole = w.whole && rows_whole(a->C);
        w.whole_y = rows_whole(a->y);
        return walk_through<true, false>(c, w, a->states, a->s_in, a->s_out);
    }
    LAUNCH_CELLS(chunk_decays, n, a->heads, a->range, a->pos, a->cum, a->chunk, n, decays);
    LAUNCH_CELLS((walk_chunks<true, false>), (a->range.shape[0] - 1) * a->heads, SSD_P * a->state / 8, a->range,
                 a->chunk, a->states, decays, a->s_in, a->s_out);
    SSD_FOR_SHAPE(a->state, a->chunk, forward, c, a, n);
    return OK;
}

enum status ssd_fwd_bf16(struct ctx *c, const struct ssd *a) {
    TRY(check(c, a));
    const int64_t n = spans_max(a->pos.shape[0], a->range.shape[0] - 1, a->chunk), mark = arena_mark(c->work);
    void *decays = NULL;
    enum status st = arena_take(c->work, decays_bytes(n, a->heads), &decays);
    if (st == OK) st = walk_and_chunks(c, a, least(n, a->states.shape[0]), (float *)decays);
    arena_release(c->work, mark);
    return st;
}
