/* SPDX-License-Identifier: Apache-2.0 */
/* Backward of the first half in BF16: what each chunk's outputs ask of its entering state, in the division of
 * selective_bf16.cuh.  Warps are on their own, each with the chunks of its channels that come its way.
 *
 * Per token and channel: reads z, dt, dout, 6 bytes; 4 N / chunk more for the state; N + 4 special functions, 4 N
 * flops. At D 8,192, N 16, 1.755 GHz the special functions of an H200 need 44 ns a token, the bytes 12 ns of 4.8 TB/s;
 * BY_FMA exponentials of sixteen go to the FMA units. */
#include "kernels/selective_scan_local/selective_scan_local_bf16.h"
#include "kernels/selective_bf16.cuh"

enum { BY_FMA = 2, CREWS = 4 }; /* warps of a block */

/* A segment on its way, as it lies in memory. */
struct stage {
    uint4 dt[SEGMENT][2], z[SEGMENT][2], dout[SEGMENT][2], C[SEGMENT][2];
};
enum { STAGES = 4 };
/* What a warp has in shared memory. */
struct room {
    struct stage stage[STAGES];
    float4 rows[SEGMENT][STATES / 4]; /* C */
    pairs token[SEGMENT];             /* dts, dy */
};
struct strides {
    uint32_t dt, z, dout, C; /* bytes from a row to the next */
};
/* The chunk's first row, n rows that its entering state reaches: what the lane copies, its desk's channels or where
 * rows are whole piece lane % 2 of the warp's, and of C. */
struct place {
    bf16_bits *dt, *z, *dout, *C;
    int n;
    bool live;
};

/* Rows in pieces of 16 bytes. */
static bool is_whole(const struct selective_scan_local &a) {
    return packs_fit(a.z) && packs_fit(a.dt) && packs_fit(a.dout) && packs_fit(a.C) && in_pieces(a.A_log, a.dstates);
}
/* Rows of a segment; past the last they are the last again. */
template <bool whole>
static __device__ void stage_fetch(struct stage *to, const struct strides &by, const struct place &p,
                                   const struct desk &k, int segment, int N) {
    const int lane = threadIdx.x % WARP, t = segment * SEGMENT, last = p.n - 1 - t, half = lane % 2;
    const int i = lane / 2 % SEGMENT, at = t + (i < last ? i : last);
    if constexpr (whole) {
        if (lane < WARP / 2) {
            cp_async16(&to->C[i][half], down(p.C, by.C, at));
            if (p.live) cp_async16(&to->dt[i][half], down(p.dt, by.dt, at));
        } else if (p.live) {
            cp_async16(&to->z[i][half], down(p.z, by.z, at));
            cp_async16(&to->dout[i][half], down(p.dout, by.dout, at));
        }
    } else {
        const bf16_bits *C = down(p.C, by.C, at);
        for (int e = lane / (WARP / 2); e < 8; e += 2)
            ((bf16_bits *)&to->C[i][half])[e] = half * 8 + e < N ? C[e] : (bf16_bits)0;
        for (int j = k.row; j < SEGMENT && p.live; j += ROWS_APART) {
            const int from = t + (j < last ? j : last);
            ((uint32_t *)to->dt[j])[k.pair] = two<false>(down(p.dt, by.dt, from), k);
            ((uint32_t *)to->z[j])[k.pair] = two<false>(down(p.z, by.z, from), k);
            ((uint32_t *)to->dout[j])[k.pair] = two<false>(down(p.dout, by.dout, from), k);
        }
    }
}
/* A segment's dts, dy and C for the walk.  n tokens are there: the others have no time, and nothing is asked of them.
 */
static __device__ void segment_open(struct room *to, const struct stage &from, const struct desk &k, int n) {
    const uint2 row = ((const uint2 *)from.C)[threadIdx.x % WARP];
    uint32_t of_dt[MINE], of_z[MINE], of_dout[MINE];
    stage_get(of_dt, from.dt, k), stage_get(of_z, from.z, k), stage_get(of_dout, from.dout, k);
#pragma unroll
    for (int j = 0; j < MINE; j++) {
        const int t = j * ROWS_APART + k.row;
        float dts[2], dy[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float e;
            const float all = softplus_fast(half_of(of_dt[j], i) + k.bias[i], &e), z = half_of(of_z[j], i);
            const bool is = t < n && k.live[i];
            dts[i] = is ? all : 0.0f, dy[i] = is ? half_of(of_dout[j], i) * z * sigmoid_fast(z) : 0.0f;
        }
        to->token[t][k.pair] = make_float4(dts[0], dy[0], dts[1], dy[1]);
    }
    to->rows[threadIdx.x % WARP / 4][threadIdx.x % 4] =
        make_float4(low_half(row.x), high_half(row.x), low_half(row.y), high_half(row.y));
}

/* g = exp(dts A) (g + dy C) over the tokens of the entering document, from the last. */
template <bool whole>
static __device__ void chunk_back(const struct strides &by, const struct place &p, const struct own &o,
                                  const struct desk &k, struct room *room, int N, float *g) {
    const int n = (int)ceil_div(p.n, SEGMENT);
    __syncwarp();
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < n) stage_fetch<whole>(&room->stage[i], by, p, k, n - 1 - i, N);
        cp_commit();
    }
    cp_wait<STAGES - 2>();
    __syncwarp();
    segment_open(room, room->stage[0], k, p.n - (n - 1) * SEGMENT);
    NO_UNROLL for (int i = 0; i < n; i++) {
        const int ahead = i + STAGES - 1;
        __syncwarp();
        if (ahead < n) stage_fetch<whole>(&room->stage[ahead % STAGES], by, p, k, n - 1 - ahead, N);
        cp_commit();
#pragma unroll
        for (int j = SEGMENT - 1; j >= 0; j--) {
            const float2 t = ((const float2 *)room->token[j])[threadIdx.x % ABREAST];
            float C[OWN];
            eight(C, &room->rows[j][OWN / 4 * o.q]);
#pragma unroll
            for (int s = 0; s < OWN; s++)
                g[s] = decay_of<BY_FMA>(j % 2 * OWN + s, t.x * o.A[s]) * fmaf(t.y, C[s], g[s]);
        }
        cp_wait<STAGES - 2>();
        __syncwarp();
        segment_open(room, room->stage[(i + 1) % STAGES], k, SEGMENT);
    }
    cp_wait<0>();
}

/* Rows of the document that enters the span. */
static __device__ int entering(const struct tensor &pos, const struct device_span &k) {
    int64_t end = k.begin;
    if (k.through) return (int)(k.end - k.begin);
    while (end < k.end && long_at(pos, end) > end - k.begin) end++;
    return (int)(end - k.begin);
}

template <bool whole>
__global__ static void __launch_bounds__(CREWS *WARP, 4)
    backward_chunks(const struct selective_scan_local a, const struct strides by, int64_t n_chunks) {
    __shared__ struct room rooms[CREWS];
    const int64_t D = a.A_log.shape[0], d = ((int64_t)blockIdx.x * CREWS + threadIdx.x / WARP) * ABREAST;
    if (d >= D) return;
    const struct own o = own_open<whole>(a.A_log, d);
    const struct desk desk = desk_open(d, D, a.dt_bias, NULL);
    struct device_span k;
    for (int64_t chunk = blockIdx.y; chunk < n_chunks; chunk += gridDim.y) {
        if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
        const int64_t at = whole ? d + threadIdx.x % 2 * 8 : desk.d;
        const struct place p = {row16(a.dt, k.begin) + at,   row16(a.z, k.begin) + at,
                                row16(a.dout, k.begin) + at, row16(a.C, k.begin) + threadIdx.x % 2 * 8,
                                entering(a.pos, k),          at < D};
        float g[OWN] = {};
        chunk_back<whole>(by, p, o, desk, &rooms[threadIdx.x / WARP], (int)a.state, g);
        states_put(row(a.dstates, chunk), o, g, D, a.state);
    }
}

enum status selective_scan_local_bwd_bf16(struct ctx *c, const struct selective_scan_local *a, int64_t n_chunks) {
    const int64_t strips = ceil_div(a->A_log.shape[0], CREWS * ABREAST);
    const dim3 grid((unsigned)strips, (unsigned)least(n_chunks, ceil_div(4224, strips)));
    const struct strides by = {row_bytes_of(a->dt), row_bytes_of(a->z), row_bytes_of(a->dout), row_bytes_of(a->C)};
    if (is_whole(*a)) LAUNCH(backward_chunks<true>, grid, CREWS * WARP, *a, by, n_chunks);
    else LAUNCH(backward_chunks<false>, grid, CREWS * WARP, *a, by, n_chunks);
    return OK;
}
