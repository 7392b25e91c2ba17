/* SPDX-License-Identifier: Apache-2.0 */
/* The chunk form of ssd_ref.c, tile by tile.  forward: a block of threads owns 32 rows of a (chunk, head).  backward: a
 * block owns a (chunk, head) for dx and what hangs on the time steps; then a block owns 32 rows of a (chunk, group) for
 * dB or dC, which sum over the group's heads, and makes K again.  T H (3 N + Q (N + P)) FMA forward. */
#include "kernels/ssd/ssd.h"
#include "kernels/ssd/ssd_bf16.h"
#include "kernels/ssd/ssd_sums.cuh"
#include "kernels/ssd_chunk.cuh"
#include "kernels/tiles.cuh"

/* Workspace of backward: (T, H) each; column: the sums over rows so far of K C B^T. */
struct scratch {
    float *u, *v, *column;
    double *sums; /* (chunks, H, N_SUMS) */
};

static __device__ struct mat at_head(const struct ssd &a, const struct tensor &t, int64_t first, int64_t h) {
    return mat_of(t, first, h * a.head_width);
}
static __device__ struct mat at_group(const struct ssd &a, const struct tensor &t, int64_t first, int64_t g) {
    return mat_of(t, first, g * a.state);
}
/* Rows [p, P) of the state of a chunk's head. */
static __device__ struct mat state_rows(const struct ssd &a, const struct tensor &t, int64_t chunk, int64_t h,
                                        int64_t p) {
    return {state_of(t, chunk, h) + p * a.state, a.state};
}
static __device__ int rows_from(const struct device_span &k, int64_t t) { return (int)least(TILE, k.end - t); }

/* Row t sees row s: the token itself and those before it in its document. */
static __device__ bool sees(const struct ssd &a, int64_t t, int64_t s) { return s <= t && long_at(a.pos, t) >= t - s; }
/* Row t continues the document that enters the chunk. */
static __device__ bool enters(const struct ssd &a, const struct device_span &k, int64_t t) {
    return long_at(a.pos, t) > t - k.begin;
}
/* L[t, s] */
static __device__ float decay_between(const struct ssd &a, int64_t t, int64_t s, int64_t h) {
    return sees(a, t, s) ? ssd_exp(row(a.cum, t)[h] - row(a.cum, s)[h]) : 0.0f;
}
/* First tile of columns that a tile of rows from t0 on sees. */
static __device__ int64_t first_tile(const struct ssd &a, const struct device_span &k, int64_t t0) {
    return k.begin + most(0, t0 - long_at(a.pos, t0) - k.begin) / TILE * TILE;
}

/* ---- forward ---- */

/* Own end states become entering states: a thread owns one element of the state of a (range, head). */
__global__ static void enter_ranges(const struct ssd a) {
    const int64_t PN = a.head_width * a.state, R = a.range.shape[0] - 1;
    FOR_CELLS(item, e, R * a.heads, PN) {
        const int64_t r = item / a.heads, h = item % a.heads;
        const int64_t begin = long_at(a.range, r), end = long_at(a.range, r + 1);
        int64_t chunk = spans_before(a.range, r, a.chunk);
        float now = state_of(a.s_in, r, h)[e];
        for (int64_t t = begin; t < end; t += a.chunk, chunk++) {
            const float keep = ssd_chunk_decay(span_at(a.pos, r, t, least(end, t + a.chunk)), a.cum, h);
            float *state = state_of(a.states, chunk, h) + e;
            const float own = *state;
            *state = now;
            now = keep * now + own;
        }
        if (a.s_out.data) state_of(a.s_out, r, h)[e] = now;
    }
}

/* y = e_t S C_t + D x_t: what does not come from the chunk's own tokens. */
static __device__ void forward_entering(const struct ssd &a, const struct device_span &k, int64_t chunk, int64_t h,
                                        int64_t t0) {
    const int64_t P = a.head_width, g = h / (a.heads / a.groups);
    const int n = rows_from(k, t0);
    const float D = ((const float *)a.D.data)[h];
    for (int64_t p0 = 0; p0 < P; p0 += TILE) {
        float own[TILE_OWN];
        tile_dots(own, at_group(a, a.C, t0, g), n, state_rows(a, a.states, chunk, h, p0), (int)least(TILE, P - p0),
                  a.state);
        TILE_EACH(i, j, q) {
            if (i >= n || p0 + j >= P) continue;
            const float e = enters(a, k, t0 + i) ? expf(row(a.cum, t0 + i)[h]) : 0.0f;
            row(a.y, t0 + i)[h * P + p0 + j] = e * own[q] + D * row(a.x, t0 + i)[h * P + p0 + j];
        }
    }
}

__global__ __launch_bounds__(THREADS) static void forward_tiles(const struct ssd a, int64_t n_chunks) {
    __shared__ tile M;
    const int64_t tiles = ceil_div(a.chunk, TILE), P = a.head_width;
    for (int64_t item = blockIdx.x; item < n_chunks * tiles * a.heads; item += gridDim.x) {
        const int64_t h = item % a.heads, chunk = item / a.heads / tiles, g = h / (a.heads / a.groups);
        struct device_span k;
        if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
        const int64_t t0 = k.begin + item / a.heads % tiles * TILE;
        if (t0 >= k.end) continue;
        const int n = rows_from(k, t0);
        forward_entering(a, k, chunk, h, t0);
        for (int64_t s0 = first_tile(a, k, t0); s0 <= t0; s0 += TILE) {
            const int m = rows_from(k, s0);
            float own[TILE_OWN];
            tile_dots(own, at_group(a, a.C, t0, g), n, at_group(a, a.B, s0, g), m, a.state);
            TILE_EACH(i, j, q)
            M[i][j] = i < n && j < m ? decay_between(a, t0 + i, s0 + j, h) * own[q] * row(a.dts, s0 + j)[h] : 0.0f;
            tile_add<false>(at_head(a, a.y, t0, h), n, M, at_head(a, a.x, s0, h), m, P, NULL);
        }
    }
}

/* ---- backward ---- */

/* What a chunk's own rows ask of its entering state becomes what all later rows ask of its end state. */
__global__ static void leave_ranges(const struct ssd a) {
    const int64_t PN = a.head_width * a.state, R = a.range.shape[0] - 1;
    FOR_CELLS(item, e, R * a.heads, PN) {
        const int64_t r = item / a.heads, h = item % a.heads, first = spans_before(a.range, r, a.chunk);
        const int64_t begin = long_at(a.range, r), end = long_at(a.range, r + 1);
        float now = a.ds_out.data ? state_of(a.ds_out, r, h)[e] : 0.0f;
        for (int64_t i = ceil_div(end - begin, a.chunk) - 1; i >= 0; i--) {
            const int64_t t = begin + i * a.chunk;
            const float keep = ssd_chunk_decay(span_at(a.pos, r, t, least(end, t + a.chunk)), a.cum, h);
            float *dstate = state_of(a.dstates, first + i, h) + e;
            const float own = *dstate;
            *dstate = now;
            now = keep * now + own;
        }
        if (a.ds_in.data) state_of(a.ds_in, r, h)[e] = now;
    }
}

/* w_s: the decay from row s to the chunk's end, for rows of the last document. */
static __device__ float leaves(const struct ssd &a, const struct device_span &k, int64_t s, int64_t h) {
    return s >= k.last ? ssd_exp(row(a.cum, k.end - 1)[h] - row(a.cum, s)[h]) : 0.0f;
}

/* 32 rows: u_t = e_t dy_t^T S C_t;  q = w_s G B_s, which dx holds;  v_s = dts_s x_s^T q.  A warp owns a row. */
static __device__ void backward_states(const struct ssd &a, const struct device_span &k, int64_t chunk, int64_t h,
                                       int64_t t0, struct scratch s) {
    const int64_t P = a.head_width, g = h / (a.heads / a.groups);
    const int n = rows_from(k, t0);
    double u[TILE_OWN] = {}, v[TILE_OWN] = {};
    for (int64_t p0 = 0; p0 < P; p0 += TILE) {
        const int m = (int)least(TILE, P - p0);
        float sc[TILE_OWN], gb[TILE_OWN];
        tile_dots(sc, at_group(a, a.C, t0, g), n, state_rows(a, a.states, chunk, h, p0), m, a.state);
        tile_dots(gb, at_group(a, a.B, t0, g), n, state_rows(a, a.dstates, chunk, h, p0), m, a.state);
        TILE_EACH(i, j, q) {
            if (i >= n || j >= m) continue;
            const int64_t at = h * P + p0 + j;
            const float own = leaves(a, k, t0 + i, h) * gb[q];
            row(a.dx, t0 + i)[at] = own;
            u[q] += (double)row(a.dy, t0 + i)[at] * (double)sc[q];
            v[q] += (double)row(a.x, t0 + i)[at] * (double)own;
        }
    }
    TILE_EACH(i, j, q) {
        const double u_i = warp_sum(u[q]), v_i = warp_sum(v[q]);
        if (j > 0 || i >= n) continue;
        const int64_t at = (t0 + i) * a.heads + h;
        s.u[at] = enters(a, k, t0 + i) ? (float)(exp((double)row(a.cum, t0 + i)[h]) * u_i) : 0.0f;
        s.v[at] = (float)((double)row(a.dts, t0 + i)[h] * v_i);
        s.column[at] = 0.0f;
    }
}

/* One tile of rows and columns: M = L C B^T, W = K C B^T. */
static __device__ void backward_weights(const struct ssd &a, int64_t h, int64_t t0, int n, int64_t s0, int m, tile M,
                                        tile W) {
    const int64_t g = h / (a.heads / a.groups);
    float cb[TILE_OWN], dyx[TILE_OWN];
    tile_dots(cb, at_group(a, a.C, t0, g), n, at_group(a, a.B, s0, g), m, a.state);
    tile_dots(dyx, at_head(a, a.dy, t0, h), n, at_head(a, a.x, s0, h), m, a.head_width);
    TILE_EACH(i, j, q) {
        const float decay = i < n && j < m ? decay_between(a, t0 + i, s0 + j, h) : 0.0f;
        M[i][j] = decay * cb[q];
        W[i][j] = i < n && j < m ? decay * dyx[q] * row(a.dts, s0 + j)[h] * cb[q] : 0.0f;
    }
    __syncthreads();
}

/* The double sum of da over 32 rows: columns from the last row up, then every row's sum left of its token.  dx += L C
 * B^T dy on the way. */
static __device__ void backward_rows(const struct ssd &a, const struct device_span &k, int64_t h, int64_t t0,
                                     struct scratch s, tile M, tile W) {
    const int n = rows_from(k, t0);
    double da[TILE_OWN] = {};
    for (int64_t s0 = first_tile(a, k, t0); s0 <= t0; s0 += TILE) {
        const int m = rows_from(k, s0);
        backward_weights(a, h, t0, n, s0, m, M, W);
        if (threadIdx.x < m) {
            float *column = s.column + (s0 + threadIdx.x) * a.heads + h, sum = *column;
            for (int i = n - 1; i >= 0; i--) W[i][threadIdx.x] = sum += W[i][threadIdx.x];
            *column = sum;
        }
        __syncthreads();
        TILE_EACH(i, j, q) {
            const bool counts = i < n && j < m && s0 + j < t0 + i && sees(a, t0 + i, s0 + j);
            da[q] += warp_sum(counts ? (double)W[i][j] : 0.0);
        }
        tile_add<true>(at_head(a, a.dx, s0, h), m, M, at_head(a, a.dy, t0, h), n, a.head_width, NULL);
    }
    TILE_EACH(i, j, q) if (j == 0 && i < n) row(a.ddt, t0 + i)[h] = (float)da[q];
}

/* The rest of da, in ddt: the suffix sums of u, then the prefix sums of v; one thread.  Returns the sum of da A dts. */
static __device__ double finish_da(const struct ssd &a, const struct device_span &k, int64_t h, double A, double after,
                                   struct scratch s) {
    double before = 0.0, sum = 0.0;
    for (int64_t t = k.end - 1; t >= k.begin; t--) {
        after += (double)s.u[t * a.heads + h];
        row(a.ddt, t)[h] += (float)after;
    }
    for (int64_t t = k.begin; t < k.end; t++) {
        const double da = (double)row(a.ddt, t)[h] + before;
        before += (double)s.v[t * a.heads + h];
        row(a.ddt, t)[h] = (float)da;
        sum += da * A * (double)row(a.dts, t)[h];
    }
    return sum;
}

/* What hangs on a and dts; q becomes dx.  A warp owns a row. */
static __device__ void backward_steps(const struct ssd &a, const struct device_span &k, int64_t chunk, int64_t h,
                                      struct scratch s) {
    __shared__ double room[WARPS];
    const int64_t P = a.head_width, PN = P * a.state;
    const double A = -exp((double)((const float *)a.A_log.data)[h]), bias = (double)((const float *)a.dt_bias.data)[h];
    const float D = ((const float *)a.D.data)[h], *S = state_of(a.states, chunk, h), *G = state_of(a.dstates, chunk, h);
    double product = 0.0, sum_bias = 0.0, sum_D = 0.0, sum_A = 0.0;
    for (int64_t e = threadIdx.x; e < PN; e += THREADS) product += (double)S[e] * (double)G[e];
    product = block_sum(product, room) * (double)ssd_chunk_decay(k, a.cum, h);
    if (threadIdx.x == 0) sum_A = finish_da(a, k, h, A, product, s);
    __syncthreads();
    for (int64_t t = k.begin + threadIdx.x / WARP; t < k.end; t += WARPS) {
        const float *x = row(a.x, t) + h * P, *dy = row(a.dy, t) + h * P, dts = row(a.dts, t)[h];
        float *q = row(a.dx, t) + h * P;
        double xq = 0.0, xdy = 0.0;
        for (int64_t p = threadIdx.x % WARP; p < P; p += WARP) {
            xq += (double)x[p] * (double)q[p];
            xdy += (double)x[p] * (double)dy[p];
            q[p] = dts * q[p] + D * dy[p];
        }
        const double slope = ssd_dt_slope((double)row(a.dt, t)[h] + bias, a.dt_min, a.dt_max);
        const double ddt = (A * (double)row(a.ddt, t)[h] + warp_sum(xq)) * slope;
        xdy = warp_sum(xdy);
        if (threadIdx.x % WARP > 0) continue;
        row(a.ddt, t)[h] = (float)ddt;
        sum_bias += ddt;
        sum_D += xdy;
    }
    sum_bias = block_sum(sum_bias, room);
    sum_D = block_sum(sum_D, room);
    if (threadIdx.x > 0) return;
    double *sums = s.sums + (chunk * a.heads + h) * N_SUMS;
    sums[SUM_A_LOG] = sum_A;
    sums[SUM_DT_BIAS] = sum_bias;
    sums[SUM_D] = sum_D;
}

__global__ __launch_bounds__(THREADS) static void backward_heads(const struct ssd a, int64_t n_chunks,
                                                                 struct scratch s) {
    __shared__ tile M, W;
    for (int64_t item = blockIdx.x; item < n_chunks * a.heads; item += gridDim.x) {
        const int64_t chunk = item / a.heads, h = item % a.heads;
        struct device_span k;
        if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
        const int64_t last = k.begin + (k.end - 1 - k.begin) / TILE * TILE;
        for (int64_t t0 = k.begin; t0 < k.end; t0 += TILE) backward_states(a, k, chunk, h, t0, s);
        __syncthreads();
        for (int64_t t0 = last; t0 >= k.begin; t0 -= TILE) backward_rows(a, k, h, t0, s, M, W);
        __syncthreads();
        backward_steps(a, k, chunk, h, s);
        __syncthreads();
    }
}

/* M = K summed over the heads of a group, for rows from t0 and columns from s0 on. */
static __device__ void group_weights(const struct ssd &a, int64_t g, int64_t t0, int n, int64_t s0, int m, tile M) {
    const int64_t per_group = a.heads / a.groups;
    float sum[TILE_OWN] = {}, dyx[TILE_OWN];
    for (int64_t h = g * per_group; h < (g + 1) * per_group; h++) {
        tile_dots(dyx, at_head(a, a.dy, t0, h), n, at_head(a, a.x, s0, h), m, a.head_width);
        TILE_EACH(i, j, q)
        if (i < n && j < m) sum[q] += decay_between(a, t0 + i, s0 + j, h) * dyx[q] * row(a.dts, s0 + j)[h];
    }
    TILE_EACH(i, j, q) M[i][j] = sum[q];
}

/* dC_t = sum_s K[t, s] B_s + e_t S^T dy_t over 32 rows t. */
static __device__ void backward_C(const struct ssd &a, const struct device_span &k, int64_t chunk, int64_t g,
                                  int64_t t0, tile M, float *scale) {
    const int64_t per_group = a.heads / a.groups, P = a.head_width, N = a.state;
    const int n = rows_from(k, t0);
    const struct mat dC = at_group(a, a.dC, t0, g);
    tile_clear(dC, n, N);
    for (int64_t h = g * per_group; h < (g + 1) * per_group; h++) {
        if (threadIdx.x < n)
            scale[threadIdx.x] = enters(a, k, t0 + threadIdx.x) ? expf(row(a.cum, t0 + threadIdx.x)[h]) : 0.0f;
        for (int64_t p0 = 0; p0 < P; p0 += TILE) {
            tile_load(M, at_head(a, a.dy, t0, h), n, p0, P, scale);
            tile_add<false>(dC, n, M, state_rows(a, a.states, chunk, h, p0), (int)least(TILE, P - p0), N, NULL);
        }
    }
    for (int64_t s0 = first_tile(a, k, t0); s0 <= t0; s0 += TILE) {
        const int m = rows_from(k, s0);
        group_weights(a, g, t0, n, s0, m, M);
        tile_add<false>(dC, n, M, at_group(a, a.B, s0, g), m, N, NULL);
    }
}

/* dB_s = sum_t K[t, s] C_t + w_s dts_s G^T x_s over 32 rows s. */
static __device__ void backward_B(const struct ssd &a, const struct device_span &k, int64_t chunk, int64_t g,
                                  int64_t s0, tile M, float *scale) {
    const int64_t per_group = a.heads / a.groups, P = a.head_width, N = a.state;
    const int m = rows_from(k, s0);
    const struct mat dB = at_group(a, a.dB, s0, g);
    tile_clear(dB, m, N);
    for (int64_t h = g * per_group; h < (g + 1) * per_group; h++) {
        if (threadIdx.x < m) scale[threadIdx.x] = leaves(a, k, s0 + threadIdx.x, h) * row(a.dts, s0 + threadIdx.x)[h];
        for (int64_t p0 = 0; p0 < P; p0 += TILE) {
            tile_load(M, at_head(a, a.x, s0, h), m, p0, P, scale);
            tile_add<false>(dB, m, M, state_rows(a, a.dstates, chunk, h, p0), (int)least(TILE, P - p0), N, NULL);
        }
    }
    for (int64_t t0 = s0; t0 < k.end; t0 += TILE) {
        const int n = rows_from(k, t0);
        group_weights(a, g, t0, n, s0, m, M);
        tile_add<true>(dB, m, M, at_group(a, a.C, t0, g), n, N, NULL);
    }
}

__global__ __launch_bounds__(THREADS) static void backward_groups(const struct ssd a, int64_t n_chunks) {
    __shared__ tile M;
    __shared__ float scale[TILE];
    const int64_t tiles = ceil_div(a.chunk, TILE);
    for (int64_t item = blockIdx.x; item < n_chunks * tiles * a.groups; item += gridDim.x) {
        const int64_t g = item % a.groups, chunk = item / a.groups / tiles;
        struct device_span k;
        if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
        const int64_t t0 = k.begin + item / a.groups % tiles * TILE;
        if (t0 >= k.end) continue;
        backward_C(a, k, chunk, g, t0, M, scale);
        backward_B(a, k, chunk, g, t0, M, scale);
    }
}

/* ---- both ---- */

static enum status check_backward(struct ctx *c, const struct ssd *a) {
    const int64_t T = a->pos.shape[0], H = a->heads, P = a->head_width, N = a->state, G = a->groups;
    const int64_t R = a->range.shape[0] - 1, n = a->states.shape[0];
    CHECK_SHAPE(ssd, dy, F32, T, H * P);
    CHECK_SHAPE(ssd, dstates, F32, n, H, P, N);
    CHECK_OPTIONAL(ssd, ds_out, F32, R, H, P, N);
    CHECK_OPTIONAL(ssd, ds_in, F32, R, H, P, N);
    CHECK_SHAPE(ssd, dx, F32, T, H * P);
    CHECK_SHAPE(ssd, ddt, F32, T, H);
    CHECK_SHAPE(ssd, dB, F32, T, G * N);
    CHECK_SHAPE(ssd, dC, F32, T, G * N);
    CHECK_SHAPE(ssd, dA_log, F32, H);
    CHECK_SHAPE(ssd, ddt_bias, F32, H);
    CHECK_SHAPE(ssd, dD, F32, H);
    return OK;
}

static enum status check(struct ctx *c, const struct ssd *a, bool backward) {
    const int64_t T = a->pos.shape[0], H = a->heads, P = a->head_width, N = a->state, G = a->groups;
    const int64_t R = a->range.shape[0] - 1, n = a->states.shape[0];
    CHECK_THAT(ssd, H > 0 && P > 0 && N > 0 && G > 0 && H % G == 0 && a->chunk > 0,
               "heads %" PRId64 ", head_width %" PRId64 ", state %" PRId64 ", groups %" PRId64 ", chunk %" PRId64
               ": expected all above 0, and groups dividing heads",
               H, P, N, G, a->chunk);
    CHECK_THAT(ssd, R >= 0, "range is empty: expected the rows where ranges begin");
    CHECK_SHAPE(ssd, range, I64, R + 1);
    CHECK_SHAPE(ssd, pos, I64, T);
    CHECK_SHAPE(ssd, x, F32, T, H * P);
    CHECK_SHAPE(ssd, B, F32, T, G * N);
    CHECK_SHAPE(ssd, C, F32, T, G * N);
    CHECK_SHAPE(ssd, dt, F32, T, H);
    CHECK_SHAPE(ssd, A_log, F32, H);
    CHECK_SHAPE(ssd, dt_bias, F32, H);
    CHECK_SHAPE(ssd, D, F32, H);
    CHECK_SHAPE(ssd, dts, F32, T, H);
    CHECK_SHAPE(ssd, cum, F32, T, H);
    CHECK_SHAPE(ssd, states, F32, n, H, P, N);
    if (backward) return check_backward(c, a);
    CHECK_SHAPE(ssd, s_in, F32, R, H, P, N);
    CHECK_SHAPE(ssd, y, F32, T, H * P);
    CHECK_OPTIONAL(ssd, s_out, F32, R, H, P, N);
    return OK;
}

/* Chunks that the ranges can make. */
static int64_t chunks_of(const struct ssd *a) { return spans_max(a->pos.shape[0], a->range.shape[0] - 1, a->chunk); }
static dim3 grid_of(int64_t items) { return dim3((unsigned)least(items, 1 << 20)); }

extern "C" enum status ssd_fwd_cuda(struct ctx *c, const struct ssd *a) {
    if (c->real == BF16) return ssd_fwd_bf16(c, a);
    TRY(check(c, a, false));
    const int64_t n = least(chunks_of(a), a->states.shape[0]), H = a->heads;
    LAUNCH_CELLS(enter_ranges, (a->range.shape[0] - 1) * H, a->head_width * a->state, *a);
    LAUNCH(forward_tiles, grid_of(n * ceil_div(a->chunk, TILE) * H), THREADS, *a, n);
    return OK;
}

static enum status backward(struct ctx *c, const struct ssd *a) {
    const int64_t n = least(chunks_of(a), a->states.shape[0]), H = a->heads, T = a->pos.shape[0];
    void *at[4];
    for (int i = 0; i < 3; i++) TRY(arena_take(c->work, T * H * (int64_t)sizeof(float), &at[i]));
    TRY(arena_take(c->work, n * H * N_SUMS * (int64_t)sizeof(double), &at[3]));
    const struct scratch s = {(float *)at[0], (float *)at[1], (float *)at[2], (double *)at[3]};
    LAUNCH_CELLS(leave_ranges, (a->range.shape[0] - 1) * H, a->head_width * a->state, *a);
    LAUNCH(backward_heads, grid_of(n * H), THREADS, *a, n, s);
    LAUNCH(backward_groups, grid_of(n * ceil_div(a->chunk, TILE) * a->groups), THREADS, *a, n);
    LAUNCH_WARPS(backward_sums, N_SUMS * H, *a, s.sums);
    return OK;
}

extern "C" enum status ssd_bwd_cuda(struct ctx *c, const struct ssd *a) {
    if (c->real == BF16) return ssd_bwd_bf16(c, a);
    TRY(check(c, a, true));
    const int64_t mark = arena_mark(c->work);
    const enum status st = backward(c, a);
    arena_release(c->work, mark);
    return st;
}

extern "C" int64_t ssd_work_cuda(const struct ctx *c, const struct ssd *a) {
    if (c->real == BF16) return ssd_shape_bf16(a) == OK ? ssd_work_bf16(a) : -1;
    const int64_t rows = a->pos.shape[0] * a->heads * (int64_t)sizeof(float);
    return 3 * arena_round(rows) + arena_round(chunks_of(a) * a->heads * N_SUMS * (int64_t)sizeof(double));
}
