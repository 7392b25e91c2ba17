/* SPDX-License-Identifier: Apache-2.0 */
/* The backward of ssd.h in BF16; the derivation and the letters are ssd_ref.c's.  After G of every chunk, by segments
 * (ssd_join.cuh) or by the walk over chunks:
 *
 *   backward_heads   a block owns a chunk and some heads of a group, a warp 16 rows s of it and all t >= s: dx, the
 *                    rows' x . q and x . dy, the double sum of da, and K summed over the block's heads
 *   backward_rows    a block owns a chunk and a group, once for dC and u, once for dB, v and <S, G>
 *   backward_steps   a block owns a chunk and 32 heads: da, ddt, and what sums over tokens
 *
 * Chunks of 128 tokens have both by warpgroups: ssd_wide.cuh, ssd_wide_rows.cuh.
 *
 * The double sum of da_j = sum over s < j <= t of W[t, s], in blocks of 16 x 16: rows of later blocks or j's own, up to
 * its block's columns (earlier[J][t] summed over t >= j), columns of its own block (later[s] summed over s < j), and
 * the block on the diagonal.  All terms are added, none subtracted.
 *
 * Bytes per token and head of P 64, N 128, Q 128: 512 (x, dy, G, dx), then 640 (x, dy, S twice, G): 147 KB a token of
 * 128 heads, 31 ns at 4.8 TB/s.  Flops (6 N + 2 Q) P = 65,536, 8.5 ns at 989 TFLOP/s. */
#include "kernels/ssd/ssd_bf16_heads.cuh"
#include "kernels/ssd/ssd_bf16_rows.cuh"
#include "kernels/ssd/ssd_sums.cuh"
#include "kernels/ssd/ssd_wide_rows.cuh"

/* ---- time steps ---- */

/* In an order that is always the same: the sums over a thread's rows, then over the eight threads of a head. */
static __device__ double parts_sum(double (*room)[WARP], double own, int first, int end) {
    __syncthreads();
    room[threadIdx.y][threadIdx.x] = own;
    __syncthreads();
    double sum = 0.0;
    for (int part = first; part < end; part++) sum += room[part][threadIdx.x];
    return sum;
}

/* What a head's halves left, and of N 256 those of its columns, `next` behind each other: summed. */
template <int halves, int parts> static __device__ float halves_sum(const float *x, int64_t i, int64_t next) {
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < halves * parts; k++) {
        const float own = x[k / halves * next + i * halves + k % halves];
        sum = k ? sum + own : own;
    }
    return sum;
}

/* What a row's gradients are made of, on its way. */
struct row_sums {
    float da, xq, xdy, dts, dt;
};
enum { AT_ONCE = 4 }; /* rows */
template <int halves>
static __device__ void rows_fetch(struct row_sums (&to)[AT_ONCE], const struct ssd &a, const struct scratch &w,
                                  int64_t t0, int64_t n, int64_t h) {
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
        const int64_t t = t0 + i, at = t * a.heads + h;
        if (i >= n) continue;
        to[i] = {halves_sum<halves, 1>(w.da, at, 0), halves_sum<halves, 1>(w.xq, at, 0),
                 halves_sum<halves, 1>(w.xdy, at, 0), row(a.dts, t)[h], bf16_float(row16(a.dt, t)[h])};
    }
}

/* 32 heads of one chunk, a thread for an eighth of a head's rows, AT_ONCE of them on their way at a time. */
template <int halves, int parts>
__global__ __launch_bounds__(THREADS, 2) static void backward_steps(const struct ssd a, const struct scratch w) {
    constexpr int MOST = 128 / WARPS;
    __shared__ double room[WARPS][WARP];
    const int64_t H = a.heads, blocks = ceil_div(H, WARP), chunk = blockIdx.x / blocks, each = a.chunk / WARPS;
    const int64_t own_h = blockIdx.x % blocks * WARP + threadIdx.x, h = least(own_h, H - 1);
    struct device_span k;
    if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
    const int64_t begin = k.begin + threadIdx.y * each, n = own_h < H ? least(each, k.end - begin) : 0;
    const double A = -exp((double)((const float *)a.A_log.data)[h]);
    const float bias = ((const float *)a.dt_bias.data)[h];
    float u[MOST], v[MOST];
    double sums[N_SUMS] = {}, own_u = 0.0, own_v = 0.0;
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        u[i] = i < n ? halves_sum<halves, parts>(w.u, (begin + i) * H + h, a.pos.shape[0] * H * halves) : 0.0f;
        v[i] = i < n ? halves_sum<halves, 1>(w.v, (begin + i) * H + h, 0) : 0.0f;
    }
    struct row_sums next[AT_ONCE];
    rows_fetch<halves>(next, a, w, begin, n, h);
#pragma unroll
    for (int i = 0; i < MOST; i++) own_u += (double)u[i], own_v += (double)v[i];
    const float product = halves_sum<halves, parts>(w.products, chunk * H + h, w.n_chunks * H * halves);
    double after = (double)product * (double)w.decays[chunk * H + h];
    after += parts_sum(room, own_u, (int)threadIdx.y + 1, WARPS);
    double before = parts_sum(room, own_v, 0, (int)threadIdx.y);
#pragma unroll
    for (int i = MOST - 1; i >= 0; i--) u[i] = (float)(after += (double)u[i]);
#pragma unroll
    for (int i0 = 0; i0 < MOST; i0 += AT_ONCE) {
        struct row_sums own[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) own[i] = next[i];
        if (i0 + AT_ONCE < MOST) rows_fetch<halves>(next, a, w, begin + i0 + AT_ONCE, n - i0 - AT_ONCE, h);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (i0 + i >= n) continue;
            const double da = (double)(own[i].da + u[i0 + i]) + before;
            before += (double)v[i0 + i];
            const float slope = ssd_dt_slope_fast(own[i].dt + bias, a.dt_min, a.dt_max);
            const double ddt = (A * da + (double)own[i].xq) * (double)slope;
            row16(a.ddt, begin + i0 + i)[h] = bf16_of((float)ddt);
            sums[SUM_A_LOG] += da * A * (double)own[i].dts;
            sums[SUM_DT_BIAS] += ddt;
            sums[SUM_D] += (double)own[i].xdy;
        }
    }
    for (int i = 0; i < N_SUMS; i++) {
        const double sum = parts_sum(room, sums[i], 0, WARPS);
        if (threadIdx.y == 0 && own_h < H) w.sums[(chunk * H + h) * N_SUMS + i] = sum;
    }
}

/* ---- launches ---- */

static enum status check(struct ctx *c, const struct ssd *a) {
    const int64_t T = a->pos.shape[0], H = a->heads, P = a->head_width, N = a->state, G = a->groups;
    const int64_t R = a->range.shape[0] - 1, n = a->states.shape[0];
    TRY(ssd_check_bf16(c, a));
    CHECK_SHAPE(ssd, dy, BF16, T, H * P);
    CHECK_SHAPE(ssd, dstates, BF16, n, H, P, N);
    CHECK_OPTIONAL(ssd, ds_out, F32, R, H, P, N);
    CHECK_OPTIONAL(ssd, ds_in, F32, R, H, P, N);
    CHECK_SHAPE(ssd, dx, BF16, T, H * P);
    CHECK_SHAPE(ssd, ddt, BF16, T, H);
    CHECK_SHAPE(ssd, dB, BF16, T, G * N);
    CHECK_SHAPE(ssd, dC, BF16, T, G * N);
    CHECK_SHAPE(ssd, dA_log, F32, H);
    CHECK_SHAPE(ssd, ddt_bias, F32, H);
    CHECK_SHAPE(ssd, dD, F32, H);
    CHECK_THAT(ssd, rows_pair(a->dx) && rows_pair(a->dB) && rows_pair(a->dC),
               "rows of dx, dB, dC must begin at multiples of 4 bytes");
    return OK;
}

static int64_t chunks_of(const struct ssd *a) { return spans_max(a->pos.shape[0], a->range.shape[0] - 1, a->chunk); }
static int64_t heads_of(const struct ssd *a) { return heads_of_block(a->heads / a->groups, 16); }
static bool by_warpgroups(const struct ssd *a) { return a->chunk == WIDE_ROWS; }
static int64_t column_parts(const struct ssd *a) { return by_warpgroups(a) && a->state > 128 ? 2 : 1; }

/* Bytes of each member of the scratch, in its order. */
enum { N_SCRATCH = 9 };
static void scratch_bytes(const struct ssd *a, int64_t bytes[N_SCRATCH]) {
    const struct ssd k = ssd_by_halves(a);
    const int64_t n = chunks_of(a), rows = a->pos.shape[0] * k.heads * (int64_t)sizeof(float), cols = column_parts(a);
    const int64_t K = k.heads / k.groups / heads_of(&k) * n * a->groups * a->chunk * a->chunk * 2;
    const int64_t each[N_SCRATCH] = {rows,
                                     rows * cols,
                                     rows,
                                     rows,
                                     rows,
                                     n * a->heads * 4,
                                     n * k.heads * cols * 4,
                                     K,
                                     n * a->heads * N_SUMS * (int64_t)sizeof(double)};
    for (int i = 0; i < N_SCRATCH; i++) bytes[i] = each[i];
}

template <int N> static enum status backward_chunks(struct ctx *c, const struct ssd *a, const struct scratch *w) {
    constexpr int Q = 64, NB = N > 128 ? 128 : N, STAGES = 2;
    const int64_t heads = heads_of(a), items = w->n_chunks * a->groups;
    const bool whole = rows_whole(a->x) && rows_whole(a->B) && rows_whole(a->C) && rows_whole(a->dy);
    static_assert(sizeof(heads_shared<N, Q, STAGES>) <= 227 * 1024 && sizeof(rows_shared<NB, Q>) <= 227 * 1024,
                  "the tiles fit into a processor's shared memory");
    LAUNCH_SHARED((backward_heads<N, Q, STAGES>), w->n_chunks * (a->heads / heads), 2 * Q,
                  sizeof(heads_shared<N, Q, STAGES>), *a, *w, heads, whole);
    LAUNCH_SHARED((backward_rows<N, NB, Q, true>), items, 2 * Q, sizeof(rows_shared<NB, Q>), *a, *w, whole);
    LAUNCH_SHARED((backward_rows<N, NB, Q, false>), items, 2 * Q, sizeof(rows_shared<NB, Q>), *a, *w, whole);
    return OK;
}

template <int N> static enum status backward_wide(struct ctx *c, const struct ssd *a, const struct scratch *w) {
    constexpr int cols = N > 128 ? 128 : N, parts = N / cols;
    const int64_t heads = heads_of(a), items = w->n_chunks * a->groups * parts;
    const bool whole = rows_whole(a->x) && rows_whole(a->B) && rows_whole(a->C) && rows_whole(a->dy);
    constexpr int for_C = sizeof(wide_rows_shared<cols, true>), for_B = sizeof(wide_rows_shared<cols, false>);
    static_assert(sizeof(wide_shared<N>) <= 227 * 1024 && for_C <= 113 * 1024 && for_B <= 113 * 1024,
                  "the tiles fit into a processor's shared memory, those of wide_rows twice");
    LAUNCH_SHARED((wide_heads<N>), w->n_chunks * (a->heads / heads), WIDE_THREADS, sizeof(wide_shared<N>), *a, *w,
                  heads, whole, rows_whole(a->dx));
    LAUNCH_SHARED((wide_rows<cols, parts>), 2 * items, ROWS_THREADS, for_C > for_B ? for_C : for_B, *a, *w, whole);
    return OK;
}

template <int N> static enum status backward_state(struct ctx *c, const struct ssd *a, const struct scratch *w) {
    return by_warpgroups(a) ? backward_wide<N>(c, a, w) : backward_chunks<N>(c, a, w);
}

/* da, ddt and sums of them: `a` with its own heads. */
static enum status backward_times(struct ctx *c, const struct ssd *a, const struct scratch *w) {
    const dim3 grid((unsigned)(w->n_chunks * ceil_div(a->heads, WARP))), block(WARP, WARPS);
    if (w->shift && column_parts(a) > 1) LAUNCH((backward_steps<2, 2>), grid, block, *a, *w);
    else if (w->shift) LAUNCH((backward_steps<2, 1>), grid, block, *a, *w);
    else if (column_parts(a) > 1) LAUNCH((backward_steps<1, 2>), grid, block, *a, *w);
    else LAUNCH((backward_steps<1, 1>), grid, block, *a, *w);
    LAUNCH_WARPS(backward_sums, N_SUMS * a->heads, *a, w->sums);
    return OK;
}

static enum status backward(struct ctx *c, const struct ssd *a) {
    const struct ssd k = ssd_by_halves(a);
    int64_t bytes[N_SCRATCH];
    void *at[N_SCRATCH];
    scratch_bytes(a, bytes);
    for (int i = 0; i < N_SCRATCH; i++) TRY(arena_take(c->work, bytes[i], &at[i]));
    const struct scratch w = {(float *)at[0],
                              (float *)at[1],
                              (float *)at[2],
                              (float *)at[3],
                              (float *)at[4],
                              (float *)at[5],
                              (float *)at[6],
                              (bf16_bits *)at[7],
                              (double *)at[8],
                              least(chunks_of(a), a->states.shape[0]),
                              k.heads / k.groups / heads_of(&k),
                              ssd_shift(a->head_width)};
    LAUNCH_CELLS(chunk_decays, w.n_chunks, a->heads, a->range, a->pos, a->cum, a->chunk, w.n_chunks, w.decays);
    if (ssd_walks(a->heads, a->groups, a->head_width))
        TRY((states_enter<true>(c, walk_of(a, a->dy, a->C), a->dstates, a->ds_out, a->ds_in)));
    else
        LAUNCH_CELLS((walk_chunks<true, true>), (a->range.shape[0] - 1) * a->heads, SSD_P * a->state / 8, a->range,
                     a->chunk, a->dstates, w.decays, a->ds_out, a->ds_in);
    if (a->state == 64) TRY(backward_state<64>(c, &k, &w));
    else if (a->state == 128) TRY(backward_state<128>(c, &k, &w));
    else TRY(backward_state<256>(c, &k, &w));
    return backward_times(c, a, &w);
}

enum status ssd_bwd_bf16(struct ctx *c, const struct ssd *a) {
    TRY(check(c, a));
    const int64_t mark = arena_mark(c->work);
    const enum status st = backward(c, a);
    arena_release(c->work, mark);
    return st;
}

int64_t ssd_work_bf16(const struct ssd *a) {
    int64_t bytes[N_SCRATCH], sum = 0;
    scratch_bytes(a, bytes);
    for (int i = 0; i < N_SCRATCH; i++) sum += arena_round(bytes[i]);
    if (ssd_walks(a->heads, a->groups, a->head_width)) sum += walk_work(a);
    return sum;
}
