/* SPDX-License-Identifier: Apache-2.0 */
/* ssd_local in BF16.  Shapes of ssd_walks: a walk that reads x and B (dy and C) once and leaves a state a chunk,
 * ssd_walk.cuh; for 128 heads of P 64, 8 groups of N 128, 34 KB a token, 8 ns at 4.3 TB/s, 0.52 ms at 65,536 tokens,
 * where an H200 was measured at 0.68 ms forward, 0.63 backward.
 *
 * Others: a block owns a chunk and some heads, then a walk over chunks.  Bytes per token and head of P 64, N 128, Q
 * 128: x 128, states 128, and B 16 (8 groups of 16 heads); flops 2 P N = 16,384: 35 KB a token of 128 heads, 7.3 ns
 * at 4.8 TB/s.  The walk over chunks reads the states again: 16 KB, 3.4 ns. */
#include "kernels/ssd_join.cuh"
#include "kernels/ssd_local/ssd_local.h"
#include "kernels/ssd_local/ssd_local_bf16.h"

/* dts and cum of 32 heads over one chunk, a thread for an eighth of a head's rows: the logarithm in F32, sums in F64.
 * Registers are few, so that many rows are on their way. */
__global__ __launch_bounds__(THREADS, 4) static void time_steps(const struct ssd_local a) {
    constexpr int MOST = 128 / WARPS;
    __shared__ double sums[WARPS][WARP];
    __shared__ bool restarts[WARPS];
    const unsigned blocks = ((unsigned)a.heads + WARP - 1) / WARP;
    const int h = (int)(blockIdx.x % blocks) * WARP + threadIdx.x, each = (int)a.chunk / WARPS;
    struct device_span k;
    if (!span_find(a.range, a.pos, a.chunk, blockIdx.x / blocks, &k)) return;
    const int64_t begin = k.begin + threadIdx.y * each;
    const int rows = (int)least(each, k.end - begin), n = h < a.heads ? rows : 0;
    const bf16_bits *dt = row16(a.dt, begin) + h;
    const unsigned starts = __ballot_sync(~0u, (int)threadIdx.x < rows && long_at(a.pos, begin + threadIdx.x) == 0);
    float dts[MOST];
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        dts[i] = i < n ? bf16_float(*dt) : 0.0f;
        dt += a.dt.pitch;
    }
    const double A = h < a.heads ? -exp((double)((const float *)a.A_log.data)[h]) : 0.0;
    const float bias = h < a.heads ? ((const float *)a.dt_bias.data)[h] : 0.0f;
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        dts[i] = i < n ? ssd_dt_fast(dts[i] + bias, a.dt_min, a.dt_max) : 0.0f;
        sum = A * (double)dts[i] + (starts >> i & 1 ? 0.0 : sum);
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    if (threadIdx.x == 0) restarts[threadIdx.y] = starts != 0;
    __syncthreads();
    sum = 0.0;
    for (int part = 0; part < (int)threadIdx.y; part++) sum = sums[part][threadIdx.x] + (restarts[part] ? 0.0 : sum);
    float *own = row(a.dts, begin) + h, *cum = row(a.cum, begin) + h;
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        sum = A * (double)dts[i] + (starts >> i & 1 ? 0.0 : sum);
        if (i < n) *own = dts[i], *cum = (float)sum;
        own += a.dts.pitch, cum += a.cum.pitch;
    }
}

/* weight_t of every row: what the row adds to its chunk's state (forward: dts and the decay to the chunk's end, over
 * the last document), or asks of the entering one (backward: the decay from its start, over the entering document). */
template <bool forward>
static __device__ float weight_of(const struct ssd_local &a, const struct place &p, int64_t h, int t) {
    if (t >= (forward ? p.n : p.n_enter) || t < (forward ? p.last : 0)) return 0.0f;
    const float cum = row(a.cum, p.k.begin + t)[h];
    return forward ? ssd_exp(row(a.cum, p.k.end - 1)[h] - cum) * row(a.dts, p.k.begin + t)[h] : ssd_exp(cum);
}

/* D (16 rows p from m0, NW columns n from n0) += sum over t of weight_t X_t[p] Y_t[n]. */
template <int N, int NW>
static __device__ void outer_sum(float d[NW / 8][4], const bf16_bits *X, const bf16_bits *Y, const float *weight,
                                 int rows, int m0, int n0) {
    const int c = threadIdx.x % 4 * 2;
    for (int k0 = 0; k0 < rows; k0 += 16) {
        uint32_t A[4];
        const float w0 = weight[k0 + c], w1 = weight[k0 + c + 1], w8 = weight[k0 + c + 8], w9 = weight[k0 + c + 9];
        a_cols<SSD_P>(A, X, m0, k0);
#pragma unroll
        for (int i = 0; i < 4; i++)
            A[i] = pack(low_half(A[i]) * (i < 2 ? w0 : w8), high_half(A[i]) * (i < 2 ? w1 : w9));
#pragma unroll
        for (int j = 0; j < NW / 16; j++) {
            uint32_t b[4];
            b_cols<N>(b, Y, n0 + 16 * j, k0);
            mma(d[2 * j], A, b[0], b[1]);
            mma(d[2 * j + 1], A, b[2], b[3]);
        }
    }
}

template <int N, int Q> constexpr int64_t states_shared() {
    return 2 * ((int64_t)Q * N + 2 * Q * SSD_P) + 2 * Q * (int64_t)sizeof(float);
}

/* A block owns a chunk and some heads of a group; of its eight warps four share the rows of the state, two its columns.
 */
template <int N, int Q, bool forward>
__global__ __launch_bounds__(THREADS) static void chunk_states(const struct ssd_local a, int64_t heads, bool whole) {
    DYNAMIC_SHARED(memory);
    bf16_bits *Y = (bf16_bits *)memory, *X = Y + Q * N;
    float *weight = (float *)(X + 2 * Q * SSD_P);
    const int64_t per_group = a.heads / a.groups;
    struct place p;
    if (!place_find(a.range, a.pos, a.chunk, a.groups, per_group, heads, &p)) return;
    const struct tensor &x = forward ? a.x : a.dy, &y = forward ? a.B : a.C, &out = forward ? a.states : a.dstates;
    const int rows = (p.n + 15) / 16 * 16, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int m0 = warp % 4 * 16, n0 = warp / 4 * (N / 2);
    tile_fetch<N>(Y, row16(y, p.k.begin) + p.g * N, y.pitch, rows, p.n, whole);
    tile_fetch<SSD_P>(X, row16(x, p.k.begin) + p.h0 * SSD_P, x.pitch, rows, p.n, whole);
    cp_commit();
    const int t = threadIdx.x; /* the row whose weight this thread makes, a head ahead */
    if (t < rows) weight[t] = weight_of<forward>(a, p, p.h0, t);
    for (int64_t i = 0; i < heads; i++) {
        const int64_t h = p.h0 + i;
        const int now = (int)(i & 1);
        if (i + 1 < heads)
            tile_fetch<SSD_P>(X + (1 - now) * Q * SSD_P, row16(x, p.k.begin) + (h + 1) * SSD_P, x.pitch, rows, p.n,
                              whole);
        cp_commit();
        const float next = i + 1 < heads && t < rows ? weight_of<forward>(a, p, h + 1, t) : 0.0f;
        cp_wait<1>();
        __syncthreads();
        float d[N / 16][4] = {};
        outer_sum<N, N / 2>(d, X + now * Q * SSD_P, Y, weight + now * Q, rows, m0, n0);
        bf16_bits *to = state16(out, p.chunk, h) + (m0 + lane / 4) * N + n0 + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < N / 16; j++) {
            *(uint32_t *)(to + 8 * j) = pack(d[j][0], d[j][1]);
            *(uint32_t *)(to + 8 * N + 8 * j) = pack(d[j][2], d[j][3]);
        }
        if (t < rows) weight[(1 - now) * Q + t] = next;
        __syncthreads();
    }
}

/* What a range keeps of the state that enters it: its chunks' decays, multiplied. */
__global__ static void range_decays(const struct ssd_local a, const float *decays) {
    FOR_CELLS(r, h, a.range.shape[0] - 1, a.heads) {
        const int64_t n = ceil_div(long_at(a.range, r + 1) - long_at(a.range, r), a.chunk);
        const float *decay = decays + spans_before(a.range, r, a.chunk) * a.heads + h;
        double keep = 1.0;
        for (int64_t i = 0; i < n; i++) keep *= (double)decay[i * a.heads];
        row(a.range_decay, r)[h] = (float)keep;
    }
}

enum status ssd_local_shape_bf16(const struct ssd_local *a) {
    const int64_t H = a->heads, P = a->head_width, N = a->state, G = a->groups;
    CHECK_THAT(ssd_local, H > 0 && G > 0 && H % G == 0 && ssd_has_shape(P, N, a->chunk),
               "heads %" PRId64 ", groups %" PRId64 ", head_width %" PRId64 ", state %" PRId64 ", chunk %" PRId64
               ": in bf16 expected groups dividing heads, " SSD_SHAPES,
               H, G, P, N, a->chunk);
    return OK;
}

static enum status check(struct ctx *c, const struct ssd_local *a, bool backward) {
    const int64_t T = a->pos.shape[0], H = a->heads, P = a->head_width, N = a->state, G = a->groups;
    const int64_t R = a->range.shape[0] - 1, n = (backward ? a->dstates : a->states).shape[0];
    TRY(ssd_local_shape_bf16(a));
    CHECK_THAT(ssd_local, R >= 0, "range is empty: expected the rows where ranges begin");
    CHECK_SHAPE(ssd_local, range, I64, R + 1);
    CHECK_SHAPE(ssd_local, pos, I64, T);
    CHECK_SHAPE(ssd_local, cum, F32, T, H);
    if (backward) {
        CHECK_SHAPE(ssd_local, C, BF16, T, G * N);
        CHECK_SHAPE(ssd_local, dy, BF16, T, H * P);
        CHECK_SHAPE(ssd_local, dstates, BF16, n, H, P, N);
        CHECK_SHAPE(ssd_local, range_dstate, F32, R, H, P, N);
    } else {
        CHECK_SHAPE(ssd_local, x, BF16, T, H * P);
        CHECK_SHAPE(ssd_local, dt, BF16, T, H);
        CHECK_SHAPE(ssd_local, B, BF16, T, G * N);
        CHECK_SHAPE(ssd_local, A_log, F32, H);
        CHECK_SHAPE(ssd_local, dt_bias, F32, H);
        CHECK_SHAPE(ssd_local, dts, F32, T, H);
        CHECK_SHAPE(ssd_local, states, BF16, n, H, P, N);
        CHECK_SHAPE(ssd_local, range_decay, F32, R, H);
        CHECK_SHAPE(ssd_local, range_state, F32, R, H, P, N);
    }
    return OK;
}

static int64_t chunks_of(const struct ssd_local *a) {
    return spans_max(a->pos.shape[0], a->range.shape[0] - 1, a->chunk);
}

template <int N, int Q> static enum status forward_states(struct ctx *c, const struct ssd_local *a, int64_t n) {
    const int64_t per_group = a->heads / a->groups, heads = heads_of_block(per_group, 8);
    LAUNCH_SHARED((chunk_states<N, Q, true>), n * (a->heads / heads), THREADS, (states_shared<N, Q>()), *a, heads,
                  rows_whole(a->x) && rows_whole(a->B));
    return OK;
}
template <int N, int Q> static enum status backward_states(struct ctx *c, const struct ssd_local *a, int64_t n) {
    const int64_t per_group = a->heads / a->groups, heads = heads_of_block(per_group, 8);
    LAUNCH_SHARED((chunk_states<N, Q, false>), n * (a->heads / heads), THREADS, (states_shared<N, Q>()), *a, heads,
                  rows_whole(a->dy) && rows_whole(a->C));
    return OK;
}

static bool walks(const struct ssd_local *a) { return ssd_walks(a->heads, a->groups, a->head_width); }

static enum status forward(struct ctx *c, const struct ssd_local *a, float *decays) {
    const int64_t n = least(a->states.shape[0], chunks_of(a)), H = a->heads, R = a->range.shape[0] - 1;
    const struct tensor none = {};
    LAUNCH(time_steps, dim3((unsigned)(n * ceil_div(H, WARP))), dim3(WARP, WARPS), *a);
    if (walks(a)) return walk_from_zero<false>(c, walk_of(a, a->x, a->B), a->states, a->range_decay, a->range_state);
    SSD_FOR_SHAPE(a->state, a->chunk, forward_states, c, a, n);
    LAUNCH_CELLS(chunk_decays, n, H, a->range, a->pos, a->cum, a->chunk, n, decays);
    LAUNCH_CELLS((walk_chunks<false, false>), R * H, SSD_P * a->state / 8, a->range, a->chunk, a->states, decays, none,
                 a->range_state);
    LAUNCH_CELLS(range_decays, R, H, *a, decays);
    return OK;
}

static enum status backward(struct ctx *c, const struct ssd_local *a, float *decays) {
    const int64_t n = least(a->dstates.shape[0], chunks_of(a)), H = a->heads, R = a->range.shape[0] - 1;
    const struct tensor none = {};
    if (walks(a)) return walk_from_zero<true>(c, walk_of(a, a->dy, a->C), a->dstates, none, a->range_dstate);
    SSD_FOR_SHAPE(a->state, a->chunk, backward_states, c, a, n);
    LAUNCH_CELLS(chunk_decays, n, H, a->range, a->pos, a->cum, a->chunk, n, decays);
    LAUNCH_CELLS((walk_chunks<false, true>), R * H, SSD_P * a->state / 8, a->range, a->chunk, a->dstates, decays, none,
                 a->range_dstate);
    return OK;
}

static enum status with_decays(struct ctx *c, const struct ssd_local *a,
                               enum status (*pass)(struct ctx *, const struct ssd_local *, float *)) {
    const int64_t mark = arena_mark(c->work);
    void *decays = NULL;
    enum status st = arena_take(c->work, decays_bytes(chunks_of(a), a->heads), &decays);
    if (st == OK) st = pass(c, a, (float *)decays);
    arena_release(c->work, mark);
    return st;
}

enum status ssd_local_fwd_bf16(struct ctx *c, const struct ssd_local *a) {
    TRY(check(c, a, false));
    return with_decays(c, a, forward);
}

enum status ssd_local_bwd_bf16(struct ctx *c, const struct ssd_local *a) {
    TRY(check(c, a, true));
    return with_decays(c, a, backward);
}

int64_t ssd_local_work_bf16(const struct ssd_local *a) {
    const int64_t walk = walks(a) ? walk_work(a) : 0;
    return decays_bytes(chunks_of(a), a->heads) + walk;
}
