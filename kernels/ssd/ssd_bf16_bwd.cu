/* SPDX-License-Identifier: Apache-2.0 */
/* The backward of ssd.h in BF16; the derivation and the letters are ssd_ref.c's.  After G of every chunk, by segments
 * (ssd_join.cuh) or by the walk over chunks:
 *
 *   backward_heads   a block owns a chunk and some heads of a group, a warp 16 rows s of it and all t >= s: dx, the
 *                    rows' x . q and x . dy, the double sum of da, and K summed over the block's heads
 *   backward_rows    a block owns a chunk and a group, once for dC and u, once for dB, v and <S, G>
 *   backward_steps   a block owns a chunk and 32 heads: da, ddt, and what sums over tokens
 *
 * Chunks of 128 tokens have both by warpgroups, dC and dB of a chunk and a group by one block: ssd_wide.cuh,
 * ssd_wide_rows.cuh.
 *
 * The double sum of da_j = sum over s < j <= t of W[t, s], in blocks of 16 x 16: rows of later blocks or j's own, up to
 * its block's columns (earlier[J][t] summed over t >= j), columns of its own block (later[s] summed over s < j), and
 * the block on the diagonal.  All terms are added, none subtracted.
 *
 * Bytes per token and head of P 64, N 128, Q 128: 512 (x, dy, G, dx), then 512 (x, dy, S, G): 131 KB a token of 128
 * heads, 27 ns at 4.8 TB/s.  Flops (6 N + 2 Q) P = 65,536, 8.5 ns at 989 TFLOP/s. */
#include "kernels/ssd/ssd_bf16_heads.cuh"
#include "kernels/ssd/ssd_bf16_rows.cuh"
#include "kernels/ssd/ssd_sums.cuh"
#include "kernels/ssd/ssd_wide_rows.cuh"

/* ---- time steps ---- */

/* What comes to a lane's rows of a chunk: of `n` of them that exist; the others become zero. */
template <int R> static __device__ void rows_take(float (&to)[R], const float *from, int n) {
    if (n >= R) {
        if constexpr (R == 4) {
            const float4 x = *(const float4 *)from;
            to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
        } else {
            const float2 x = *(const float2 *)from;
            to[0] = x.x, to[1] = x.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < R; i++) to[i] = i < n ? from[i] : 0.0f;
    }
}
/* Summed over what a head's halves left, and of N 256 those of its columns, `next` behind each other. */
template <int R, int Q, int halves, int parts>
static __device__ void rows_sum(float (&to)[R], const float *from, int64_t next, int n) {
    rows_take<R>(to, from, n);
#pragma unroll
    for (int k = 1; k < halves * parts; k++) {
        float more[R];
        rows_take<R>(more, from + k / halves * next + k % halves * Q, n);
#pragma unroll
        for (int i = 0; i < R; i++) to[i] += more[i];
    }
}
template <int R> struct row_sums { float u[R], v[R], da[R], xq[R], xdy[R], product; };
template <int Q, int halves, int parts>
static __device__ void head_take(struct row_sums<Q / WARP> *to, const struct ssd &a, const struct scratch &w,
                                 int64_t chunk, int64_t h, int n) {
    constexpr int R = Q / WARP;
    const int lane = threadIdx.x, left = n - lane * R;
    const int64_t first = chunk * a.heads + h, at = first * halves * Q + lane * R, all = w.n_chunks * a.heads * halves;
    rows_sum<R, Q, halves, parts>(to->u, w.u + at, all * Q, left);
    rows_sum<R, Q, halves, 1>(to->v, w.v + at, 0, left);
    rows_sum<R, Q, halves, 1>(to->da, w.da + at, 0, left);
    rows_sum<R, Q, halves, 1>(to->xq, w.xq + at, 0, left);
    rows_sum<R, Q, halves, 1>(to->xdy, w.xdy + at, 0, left);
    float product = w.products[first * halves];
#pragma unroll
    for (int k = 1; k < halves * parts; k++) product += w.products[first * halves + k / halves * all + k % halves];
    to->product = product * w.decays[first];
}

/* The sum over the lanes before this one (later: after it). */
template <bool later> static __device__ double lanes_sum(double own) {
    const int lane = threadIdx.x;
    double sum = own;
#pragma unroll
    for (int by = 1; by < WARP; by *= 2) {
        const double other = later ? __shfl_down_sync(0xffffffffu, sum, by) : __shfl_up_sync(0xffffffffu, sum, by);
        if (later ? lane + by < WARP : lane >= by) sum += other;
    }
    const double next = later ? __shfl_down_sync(0xffffffffu, sum, 1) : __shfl_up_sync(0xffffffffu, sum, 1);
    return (later ? lane + 1 < WARP : lane > 0) ? next : 0.0;
}

/* Of one head by a warp, a lane for Q / WARP rows; slope becomes ddt. */
template <int Q>
static __device__ void head_steps_back(const struct row_sums<Q / WARP> &s, double A, const float *dts, float *slope,
                                       double *sums) {
    constexpr int R = Q / WARP;
    const int lane = threadIdx.x;
    double own_u = 0.0, own_v = 0.0, after[R], sum[N_SUMS] = {};
#pragma unroll
    for (int i = 0; i < R; i++) own_u += (double)s.u[i], own_v += (double)s.v[i];
    double last = (double)s.product + lanes_sum<true>(own_u), before = lanes_sum<false>(own_v);
#pragma unroll
    for (int i = R - 1; i >= 0; i--) after[i] = last += (double)s.u[i];
#pragma unroll
    for (int i = 0; i < R; i++) {
        const int t = lane * R + i;
        const double da = (double)s.da[i] + after[i] + before;
        before += (double)s.v[i];
        const double ddt = (A * da + (double)s.xq[i]) * (double)slope[t];
        slope[t] = (float)ddt;
        sum[SUM_A_LOG] += da * A * (double)dts[t];
        sum[SUM_DT_BIAS] += ddt;
        sum[SUM_D] += (double)s.xdy[i];
    }
    for (int i = 0; i < N_SUMS; i++) {
        const double x = warp_sum(sum[i]);
        if (lane == 0) sums[i] = x;
    }
}

/* Time steps of a head and slopes of dt, by the threads of a lane; zero in rows that do not exist.  AT_ONCE rows of a
 * thread are on their way at a time. */
enum { AT_ONCE = 8 };
template <int Q>
static __device__ void steps_take(const struct ssd &a, int64_t begin, int n, int64_t h, float *dts, float *slope) {
    const bool there = h < a.heads;
    const int64_t col = there ? h : a.heads - 1;
    const float bias = ((const float *)a.dt_bias.data)[col];
    for (int t0 = threadIdx.y; t0 < Q; t0 += AT_ONCE * WARPS) {
        float s[AT_ONCE];
        bf16_bits raw[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int t = t0 + i * WARPS, r = t < n ? t : n - 1;
            s[i] = row(a.dts, begin + r)[col], raw[i] = row16(a.dt, begin + r)[col];
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int t = t0 + i * WARPS;
            const float k = ssd_dt_slope_fast(bf16_float(raw[i]) + bias, a.dt_min, a.dt_max);
            dts[t] = t < n && there ? s[i] : 0.0f;
            slope[t] = t < n && there ? k : 0.0f;
        }
    }
}

/* 32 heads of one chunk, a warp for four of them one after another, whose rows come a head ahead.  Time steps lie
 * (T, H), all else (c, H, Q): they go through shared memory. */
template <int Q, int halves, int parts>
__global__ __launch_bounds__(THREADS, 3) static void backward_steps(const struct ssd a, const struct scratch w) {
    constexpr int EACH = WARP / WARPS;
    __shared__ float dts[WARP][Q + 1], slope[WARP][Q + 1];
    const int64_t H = a.heads, blocks = ceil_div(H, WARP), chunk = blockIdx.x / blocks, h0 = blockIdx.x % blocks * WARP;
    const int64_t own = h0 + threadIdx.x;
    const int lane = threadIdx.x, warp = threadIdx.y;
    struct device_span k;
    if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
    const int n = (int)(k.end - k.begin);
    struct row_sums<Q / WARP> next;
    int64_t h = h0 + warp * EACH;
    if (h < H) head_take<Q, halves, parts>(&next, a, w, chunk, h, n);
    steps_take<Q>(a, k.begin, n, own, dts[lane], slope[lane]);
    __syncthreads();
    for (int i = 0; i < EACH && h < H; i++, h++) {
        const struct row_sums<Q / WARP> s = next;
        if (i + 1 < EACH && h + 1 < H) head_take<Q, halves, parts>(&next, a, w, chunk, h + 1, n);
        const double A = -exp((double)((const float *)a.A_log.data)[h]);
        head_steps_back<Q>(s, A, dts[h - h0], slope[h - h0], w.sums + (chunk * H + h) * N_SUMS);
    }
    __syncthreads();
    for (int t = warp; t < n; t += WARPS)
        if (own < H) row16(a.ddt, k.begin + t)[own] = bf16_of(slope[lane][t]);
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
    const int64_t n = chunks_of(a), rows = n * k.heads * a->chunk * (int64_t)sizeof(float), cols = column_parts(a);
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
    constexpr int Q = 64, NB = N > 128 ? 128 : N;
    const int64_t heads = heads_of(a), items = w->n_chunks * a->groups;
    const bool whole = rows_whole(a->x) && rows_whole(a->B) && rows_whole(a->C) && rows_whole(a->dy);
    static_assert(sizeof(heads_shared<N, Q>) <= 227 * 1024 && sizeof(rows_shared<NB, Q>) <= 227 * 1024,
                  "the tiles fit into a processor's shared memory");
    LAUNCH_SHARED((backward_heads<N, Q>), w->n_chunks * (a->heads / heads), 2 * Q, sizeof(heads_shared<N, Q>), *a, *w,
                  heads, whole);
    LAUNCH_SHARED((backward_rows<N, NB, Q, true>), items, 2 * Q, sizeof(rows_shared<NB, Q>), *a, *w, whole);
    LAUNCH_SHARED((backward_rows<N, NB, Q, false>), items, 2 * Q, sizeof(rows_shared<NB, Q>), *a, *w, whole);
    return OK;
}

template <int N> static enum status backward_wide(struct ctx *c, const struct ssd *a, const struct scratch *w) {
    constexpr int cols = N > 128 ? 128 : N, parts = N / cols;
    const int64_t heads = heads_of(a), items = w->n_chunks * a->groups * parts;
    const bool whole = rows_whole(a->x) && rows_whole(a->B) && rows_whole(a->C) && rows_whole(a->dy);
    static_assert(sizeof(wide_shared<N>) <= 227 * 1024 && sizeof(wide_rows_shared<cols>) <= 227 * 1024,
                  "the tiles fit into a processor's shared memory");
    LAUNCH_SHARED((wide_heads<N>), w->n_chunks * (a->heads / heads), WIDE_THREADS, sizeof(wide_shared<N>), *a, *w,
                  heads, whole, rows_whole(a->dx));
    LAUNCH_SHARED((wide_rows<cols, parts>), items, ROWS_THREADS, sizeof(wide_rows_shared<cols>), *a, *w, whole);
    return OK;
}

template <int N> static enum status backward_state(struct ctx *c, const struct ssd *a, const struct scratch *w) {
    return by_warpgroups(a) ? backward_wide<N>(c, a, w) : backward_chunks<N>(c, a, w);
}

/* da, ddt and sums of them: `a` with its own heads. */
static enum status backward_times(struct ctx *c, const struct ssd *a, const struct scratch *w) {
    const dim3 grid((unsigned)(w->n_chunks * ceil_div(a->heads, WARP))), block(WARP, WARPS);
    const bool wide = by_warpgroups(a), halves = w->shift > 0, parts = column_parts(a) > 1;
    if (!wide) LAUNCH((backward_steps<64, 1, 1>), grid, block, *a, *w);
    else if (halves && parts) LAUNCH((backward_steps<WIDE_ROWS, 2, 2>), grid, block, *a, *w);
    else if (halves) LAUNCH((backward_steps<WIDE_ROWS, 2, 1>), grid, block, *a, *w);
    else if (parts) LAUNCH((backward_steps<WIDE_ROWS, 1, 2>), grid, block, *a, *w);
    else LAUNCH((backward_steps<WIDE_ROWS, 1, 1>), grid, block, *a, *w);
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
