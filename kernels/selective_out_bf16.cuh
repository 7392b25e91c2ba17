/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SELECTIVE_OUT_BF16_CUH
#define BATON_KERNELS_SELECTIVE_OUT_BF16_CUH
/* selective_out_bf16.cuh - forward of both halves of the selective scan in BF16, in the division of selective_bf16.cuh:
 * a walk that writes out, of many chunks from a zero state or of one from the state that enters it.  Warps are on their
 * own.  args: either half's.
 *
 * Per token and channel: reads x, z, dt, writes out, 8 bytes, and 4 N / chunk of states; N + 4 special functions, 6 N
 * flops, some 155 instructions.  At D 8,192, N 16, 1.755 GHz the special functions of an H200 need 44 ns a token. */
#include "kernels/selective_out.cuh"
#include "kernels/selective_bf16.cuh"

enum { OUT_CREWS = 4, OUT_BLOCK = OUT_CREWS * ABREAST }; /* warps of a block, channels */

/* A segment on its way, as it lies in memory. */
struct stage {
    uint4 dt[SEGMENT][2], x[SEGMENT][2], z[SEGMENT][2], row[SEGMENT][BC / 8]; /* B | C */
    int64_t pos[SEGMENT];
};
enum { STAGES = 4 };
/* A segment begins at t, its chunk ends at `end`; both count the walk's tokens. */
struct cursor {
    int t, end;
};
static __device__ struct cursor cursor_next(struct cursor c, int n, int chunk) {
    c.t = c.t + SEGMENT < c.end ? c.t + SEGMENT : c.end;
    if (c.t == c.end) c.end = c.end + chunk < n ? c.end + chunk : n;
    return c;
}
static __device__ int cursor_tokens(struct cursor c) { return c.end - c.t < SEGMENT ? c.end - c.t : SEGMENT; }

/* What a warp has in shared memory. */
struct room {
    struct stage stage[STAGES];
    float rows[SEGMENT][BC];     /* B | C */
    pairs token[SEGMENT];        /* dts, dts x */
    float2 y[SEGMENT][WARP / 2]; /* sums of C h over a lane's states, two lanes side by side */
};
struct strides {
    uint32_t dt, x, z, out, B, C; /* bytes from a row to the next */
};
template <typename args> static struct strides strides_of(const args &a) {
    return (struct strides){row_bytes_of(a.dt),  row_bytes_of(a.x), row_bytes_of(a.z),
                            row_bytes_of(a.out), row_bytes_of(a.B), row_bytes_of(a.C)};
}
/* Rows in pieces of 16 bytes. */
template <typename args> static bool is_whole(const args &a) {
    return packs_fit(a.x) && packs_fit(a.z) && packs_fit(a.dt) && packs_fit(a.B) && packs_fit(a.C) &&
           rows_in_pairs(a.out) && in_pieces(a.A_log, a.states);
}

/* The first row, n rows: the desk's channels of out; of the rest what the lane copies, its desk's channels or where
 * rows are whole piece lane % 2 of the warp's; part lane % 4 of B | C. */
struct place {
    bf16_bits *dt, *x, *z, *out, *row;
    const int64_t *pos;
    int n;
    bool live;
};
template <bool whole, typename args>
static __device__ struct place place_open(const args &a, const struct desk &k, int64_t d0, int64_t begin, int n) {
    const int lane = threadIdx.x % WARP, part = lane % 4;
    const int64_t piece = d0 + lane % 2 * 8, d = whole ? piece : k.d;
    const bool live = d < a.A_log.shape[0];
    bf16_bits *row = part < 2 ? row16(a.B, begin) + part * 8 : row16(a.C, begin) + (part - 2) * 8;
    return (struct place){row16(a.dt, begin) + d,
                          row16(a.x, begin) + d,
                          row16(a.z, begin) + d,
                          desk_at(a.out, begin, k),
                          row,
                          (const int64_t *)a.pos.data + begin,
                          n,
                          live};
}

/* Rows [t, t + SEGMENT); past the last they are the last again. */
template <bool whole>
static __device__ void stage_fetch(struct stage *to, const struct strides &by, const struct place &p,
                                   const struct desk &k, int t, int N) {
    const int lane = threadIdx.x % WARP, last = p.n - 1 - t, four = lane / 4 < last ? lane / 4 : last, half = lane % 2;
    const bf16_bits *row = down(p.row, lane % 4 < 2 ? by.B : by.C, t + four);
    if constexpr (whole) {
        const int i = lane / 2 % SEGMENT, at = t + (i < last ? i : last);
        cp_async16(&to->row[lane / 4][lane % 4], row);
        if (lane < WARP / 2) {
            if (p.live) cp_async16(&to->dt[i][half], down(p.dt, by.dt, at));
            if (p.live) cp_async16(&to->z[i][half], down(p.z, by.z, at));
        } else {
            if (p.live) cp_async16(&to->x[i][half], down(p.x, by.x, at));
            cp_async4((uint32_t *)&to->pos[i] + half, (const uint32_t *)&p.pos[at] + half);
        }
    } else {
        bf16_bits *into = (bf16_bits *)&to->row[lane / 4][lane % 4];
        for (int e = 0; e < 8; e++) into[e] = lane % 2 * 8 + e < N ? row[e] : (bf16_bits)0;
        if (lane < SEGMENT) to->pos[lane] = p.pos[t + (lane < last ? lane : last)];
        for (int i = k.row; i < SEGMENT && p.live; i += ROWS_APART) {
            const int at = t + (i < last ? i : last);
            ((uint32_t *)to->dt[i])[k.pair] = two<false>(down(p.dt, by.dt, at), k);
            ((uint32_t *)to->x[i])[k.pair] = two<false>(down(p.x, by.x, at), k);
            ((uint32_t *)to->z[i])[k.pair] = two<false>(down(p.z, by.z, at), k);
        }
    }
}
/* A segment's dts, dts x and B | C for the walk; n tokens are there; time += dts. */
static __device__ void segment_open(struct room *room, const struct stage &from, const struct desk &k, int n,
                                    float *time) {
    uint32_t dt[MINE], x[MINE];
    float v[8];
    const uint4 row = from.row[threadIdx.x % WARP / 4][threadIdx.x % 4];
    const uint32_t words[4] = {row.x, row.y, row.z, row.w};
    float4 *at = (float4 *)&room->rows[threadIdx.x % WARP / 4][threadIdx.x % 4 * 8];
    stage_get(dt, from.dt, k);
    stage_get(x, from.x, k);
    pairs_open(room->token, dt, x, k, n, time);
    unpack<8>(v, words);
    at[0] = make_float4(v[0], v[1], v[2], v[3]);
    at[1] = make_float4(v[4], v[5], v[6], v[7]);
}

/* A segment: h goes from before it to behind it.  Bit i of fresh: a document starts with token i. */
template <bool resets>
static __device__ void segment(struct room *room, const struct own &o, uint32_t fresh, float *h) {
    float y = 0.0f;
#pragma unroll
    for (int i = 0; i < SEGMENT; i++) {
        const float2 k = ((const float2 *)room->token[i])[threadIdx.x % ABREAST];
        float B[OWN], C[OWN];
        eight(B, (const float4 *)&room->rows[i][OWN * o.q]);
        eight(C, (const float4 *)&room->rows[i][STATES + OWN * o.q]);
        if (i > 0) ((float *)room->y[i - 1])[threadIdx.x % WARP] = y;
        y = 0.0f;
#pragma unroll
        for (int s = 0; s < OWN; s++) {
            const float a = exp2_fast(k.x * o.A[s]);
            h[s] = fmaf(k.y, B[s], resets && fresh >> i & 1 ? 0.0f : a * h[s]);
            y = fmaf(C[s], h[s], y);
        }
    }
    ((float *)room->y[SEGMENT - 1])[threadIdx.x % WARP] = y;
}
/* out of the desk's tokens, of which n are there. */
template <bool whole>
static __device__ void segment_out(const struct strides &by, const struct place &p, const struct desk &k,
                                   const struct room *room, const struct stage &from, int t, int n) {
    uint32_t of_x[MINE], of_z[MINE];
    stage_get(of_x, from.x, k);
    stage_get(of_z, from.z, k);
#pragma unroll
    for (int j = 0; j < MINE; j++) {
        const int at = j * ROWS_APART + k.row;
        const float2 low = room->y[at][k.pair], high = room->y[at][DESKS + k.pair];
        const float y[2] = {low.x + high.x, low.y + high.y};
        float out[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float z = half_of(of_z[j], i);
            out[i] = fmaf(k.D[i], half_of(of_x[j], i), y[i]) * z * sigmoid_fast(z);
        }
        if (at < n && k.live[0]) two_put<whole>(down(p.out, by.out, t + at), k, out);
    }
}

/* The chunk's time; a pair's lanes have parts of it. */
template <typename args>
static __device__ void chunk_close(const args &a, const struct desk &k, int64_t chunk, bool starts, float *time,
                                   double *all) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        double sum = (double)time[i];
        for (int half = WARP / 2; half >= DESKS; half /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, half);
        const float whole = starts ? (float)AFFINE_FOREVER : (float)sum;
        if (k.row == 0 && k.live[i]) row(a.chunk_time, chunk)[k.d + i] = whole;
        all[i] += (double)whole;
        time[i] = 0.0f;
    }
}

/* Bit i: a document starts with token i of the n. */
static __device__ uint32_t fresh_of(const struct stage &s, int n) {
    const int i = threadIdx.x % SEGMENT;
    return __ballot_sync(0xffffffffu, i < n && s.pos[i] == 0);
}

/* The tokens of chunks from `chunk` on; h goes from before to behind them.  leaves: states and times of the chunks too,
 * the sum of these in all.  A stage is filled again when all lanes are through with it. */
template <bool whole, bool leaves, typename args>
static __device__ void walk(const args &a, const struct strides &by, const struct device_span &span, int64_t chunk,
                            const struct own &o, const struct desk &k, struct room *room, float *h, double *all) {
    const int n = (int)(span.end - span.begin), Q = (int)least(a.chunk, n), N = (int)a.state;
    const struct place p = place_open<whole>(a, k, o.d - threadIdx.x % ABREAST, span.begin, n);
    struct cursor now = {0, Q}, then = cursor_next(now, n, Q), ahead = now;
    float time[2] = {};
    bool starts = false, opens = leaves;
    __syncwarp();
    for (int i = 0; i < STAGES - 1; i++, ahead = cursor_next(ahead, n, Q)) {
        if (ahead.t < n) stage_fetch<whole>(&room->stage[i], by, p, k, ahead.t, N);
        cp_commit();
    }
    cp_wait<STAGES - 2>();
    __syncwarp();
    segment_open(room, room->stage[0], k, cursor_tokens(now), time);
    NO_UNROLL for (int i = 0; now.t < n; i++) {
        const struct stage &here = room->stage[i % STAGES], &next = room->stage[(i + 1) % STAGES];
        if (opens) states_put(row(a.states, chunk), o, h, a.A_log.shape[0], a.state);
        __syncwarp();
        if (ahead.t < n) stage_fetch<whole>(&room->stage[(i + STAGES - 1) % STAGES], by, p, k, ahead.t, N);
        cp_commit();
        ahead = cursor_next(ahead, n, Q);
        const uint32_t fresh = fresh_of(here, cursor_tokens(now));
        starts = starts || fresh;
        if (fresh) segment<true>(room, o, fresh, h);
        else segment<false>(room, o, 0, h);
        cp_wait<STAGES - 2>();
        __syncwarp();
        opens = leaves && then.t == now.end;
        if (opens) chunk_close(a, k, chunk++, starts, time, all), starts = false;
        segment_out<whole>(by, p, k, room, here, now.t, cursor_tokens(now));
        segment_open(room, next, k, cursor_tokens(then), time);
        now = then;
        then = cursor_next(then, n, Q);
    }
    cp_wait<0>();
}

/* ---- chunks again whose entering states have changed ---- */

/* The first chunk from `chunk` on, `step` apart, that the warp's channels d are reached in. */
static __device__ int64_t reached_from(const struct reached &to, int64_t chunk, int64_t step, int64_t n, int64_t d) {
    for (; chunk < n; chunk += WARP * step) {
        const int64_t mine = chunk + threadIdx.x % WARP * step;
        const uint32_t is = __ballot_sync(0xffffffffu, mine < n && to.mark[mine * to.strips + d / CHANNELS]);
        if (is) return chunk + (__ffs((int)is) - 1) * step;
    }
    return n;
}

/* s_out: absent, or what leaves the ranges. */
template <bool whole, typename args>
__global__ static void __launch_bounds__(OUT_CREWS *WARP, 4)
    out_chunks_bf16(const args a, const struct strides by, const struct reached reached, const struct tensor s_out,
                    int64_t n_chunks) {
    __shared__ struct room rooms[OUT_CREWS];
    const int64_t D = a.A_log.shape[0], d = ((int64_t)blockIdx.x * OUT_CREWS + threadIdx.x / WARP) * ABREAST;
    struct room *room = &rooms[threadIdx.x / WARP];
    if (d >= D) return;
    int64_t chunk = reached_from(reached, blockIdx.y, gridDim.y, n_chunks, d); /* most warps have nothing to do */
    if (chunk >= n_chunks) return;
    const struct own o = own_open<whole>(a.A_log, d);
    const struct desk desk = desk_open(d, D, a.dt_bias, &a.D);
    for (; chunk < n_chunks; chunk = reached_from(reached, chunk + gridDim.y, gridDim.y, n_chunks, d)) {
        struct device_span k;
        float h[OWN];
        if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
        states_get<whole>(h, a.states, chunk, o);
        walk<whole, false>(a, by, k, chunk, o, desk, room, h, NULL);
        if (s_out.data && k.end == long_at(a.range, k.range + 1)) states_put(row(s_out, k.range), o, h, D, a.state);
    }
}

/* Blocks to a strip of channels: enough for four to a multiprocessor where there are 132, eight times over. */
static inline dim3 out_grid(int64_t n_chunks, int64_t D) {
    const int64_t strips = ceil_div(D, OUT_BLOCK);
    return dim3((unsigned)strips, (unsigned)least(n_chunks, ceil_div(4224, strips)));
}

template <typename args>
static enum status out_again(struct ctx *c, const args *a, const struct reached &reached, struct tensor s_out,
                             int64_t n_chunks) {
    const dim3 grid = out_grid(n_chunks, a->A_log.shape[0]);
    const struct strides by = strides_of(*a);
    if (is_whole(*a)) LAUNCH((out_chunks_bf16<true, args>), grid, OUT_CREWS * WARP, *a, by, reached, s_out, n_chunks);
    else LAUNCH((out_chunks_bf16<false, args>), grid, OUT_CREWS * WARP, *a, by, reached, s_out, n_chunks);
    return OK;
}
#endif
