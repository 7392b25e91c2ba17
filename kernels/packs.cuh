/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_PACKS_CUH
#define BATON_KERNELS_PACKS_CUH
/* packs.cuh - kernels that move bytes, in F32 and BF16: a thread takes a pack of n neighbours of a row at once and
 * computes in F32.  BF16 packs of 8 are one access of 16 bytes, where rows allow it (packs_fit); else n = 1. */
#include "kernels/mma.cuh"

#define PACK 8 /* BF16 in 16 bytes */

template <typename real> static inline __device__ real *row_of(const struct tensor &t, int64_t i) {
    return (real *)t.data + i * t.pitch;
}

template <int n> static inline __device__ void unpack(float to[n], const uint32_t *from) {
    for (int i = 0; i < n / 2; i++) {
        to[2 * i] = low_half(from[i]);
        to[2 * i + 1] = high_half(from[i]);
    }
}

template <int n> static inline __device__ void get(float to[n], const float *from) {
    static_assert(n == 1 || n % 4 == 0, "one, or whole accesses of 16 bytes");
    if constexpr (n == 1) to[0] = *from;
    else
        for (int i = 0; i < n; i += 4) {
            const float4 v = *(const float4 *)(from + i);
            to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
        }
}
template <int n> static inline __device__ void get(float to[n], const bf16_bits *from) {
    static_assert(n == 1 || n == 2 || n == 4 || n == 8, "2, 4, 8 or 16 bytes");
    if constexpr (n == 1) to[0] = bf16_float(*from);
    if constexpr (n == 2) unpack<2>(to, (const uint32_t *)from);
    if constexpr (n == 4) {
        const uint2 v = *(const uint2 *)from;
        const uint32_t u[] = {v.x, v.y};
        unpack<4>(to, u);
    }
    if constexpr (n == 8) {
        const uint4 v = *(const uint4 *)from;
        const uint32_t u[] = {v.x, v.y, v.z, v.w};
        unpack<8>(to, u);
    }
}

/* To memory of the device. */
template <int n> static inline __device__ void put(float *to, const float from[n]) {
    if constexpr (n == 1) *to = from[0];
    else
        for (int i = 0; i < n; i += 4)
            store_whole(to + i, make_uint4(__float_as_uint(from[i]), __float_as_uint(from[i + 1]),
                                           __float_as_uint(from[i + 2]), __float_as_uint(from[i + 3])));
}
template <int n> static inline __device__ void put(bf16_bits *to, const float from[n]) {
    static_assert(n == 1 || n == 2 || n == 4 || n == 8, "2, 4, 8 or 16 bytes");
    if constexpr (n == 1) *to = (bf16_bits)pack(from[0], 0.0f);
    if constexpr (n == 2) *(uint32_t *)to = pack(from[0], from[1]);
    if constexpr (n == 4) store_whole(to, make_uint2(pack(from[0], from[1]), pack(from[2], from[3])));
    if constexpr (n == 8)
        store_whole(to, make_uint4(pack(from[0], from[1]), pack(from[2], from[3]), pack(from[4], from[5]),
                                   pack(from[6], from[7])));
}

/* n BF16 as they lie in memory: half the registers, opened where they are used. */
template <int n> struct alignas(2 * n) folded { uint32_t u[n / 2]; };
template <int n> static inline __device__ struct folded<n> fold(const bf16_bits *from) {
    return *(const struct folded<n> *)from;
} template <int n> static inline __device__ void open(float to[n], const struct folded<n> &v) {
    unpack<n>(to, v.u);
}

/* sigmoid to some 2^-21, for results that become BF16: two instructions of the special function unit. */
static inline __device__ float sigmoid_fast(float x) {
    return reciprocal_fast(1.0f + exp2_fast(-1.4426950408889634f * x));
}

/* One element. */
static inline __device__ float one(const float *p) { return *p; }
static inline __device__ float one(const bf16_bits *p) { return bf16_float(*p); }
static inline __device__ void set(float *p, float v) { *p = v; }
static inline __device__ void set(bf16_bits *p, float v) { *p = (bf16_bits)pack(v, 0.0f); }

/* Rows begin at multiples of 16 bytes, as does an absent tensor; of a vector, its first element. */
static inline bool packs_fit(struct tensor t) {
    const int64_t row_bytes = t.shape[0] > 1 && t.pitch > 1 ? t.pitch * dtype_bytes(t.dtype) : 0;
    return (uintptr_t)t.data % 16 == 0 && row_bytes % 16 == 0;
}

/* ---- elementwise: kernel<real, n>, one pack a thread at a time ---- */

#define FOR_PACKS(t, i, n_rows, width, n)                                                                              \
    NO_UNROLL for (int64_t t = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; t < (n_rows);                           \
                   t += (int64_t)gridDim.y * blockDim.y)                                                               \
        NO_UNROLL for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * (n); i < (width);                \
                       i += (int64_t)gridDim.x * blockDim.x * (n))

/* `fit`: every tensor's packs_fit.  `kernel` may be a template of further arguments behind, (kernel<A, B, x>). */
#define LAUNCH_PACKS(kernel, type, fit, n_rows, width, ...)                                                            \
    do {                                                                                                               \
        if ((type) == F32) LAUNCH_CELLS((kernel<float, 1>), (n_rows), (width), __VA_ARGS__);                           \
        else if ((fit) && (width) % PACK == 0)                                                                         \
            LAUNCH_CELLS((kernel<bf16_bits, PACK>), (n_rows), (width) / PACK, __VA_ARGS__);                            \
        else LAUNCH_CELLS((kernel<bf16_bits, 1>), (n_rows), (width), __VA_ARGS__);                                     \
    } while (0)

/* ---- a team of threads for a stretch of up to team x packs x PACK channels, all kept in registers between a sum over
 * them and what needs it.  Lane l of the team has the packs l, l + team, ... ---- */

#define TEAM_MOST (THREADS * 4 * PACK)

static constexpr __host__ __device__ int team_block(int team) { return team == WARP ? 4 * WARP : team; }
#define FOR_TEAM_PACKS(p, i, width)                                                                                    \
    _Pragma("unroll") for (int p = 0; p < packs; p++) if (const int64_t i = ((int64_t)p * team + lane) * PACK;         \
                                                          i < (width))

/* Every thread of the team gets the same bits.  `turn` counts the rows of a block: the rooms alternate, so that one
 * barrier a row will do. */
template <int team> static inline __device__ double team_sum(float x, int64_t turn) {
    const double sum = warp_sum((double)x);
    if constexpr (team == WARP) return sum;
    __shared__ double room[2][team / WARP];
    room[turn % 2][threadIdx.x / WARP] = sum;
    __syncthreads();
    double all = 0.0;
    for (int i = 0; i < team / WARP; i++) all += room[turn % 2][i];
    return all;
}

template <int packs> struct row_packs { struct folded<PACK> at[packs]; };
template <int team, int packs>
static inline __device__ void fetch(struct row_packs<packs> &to, const bf16_bits *from, int lane, int64_t width) {
    FOR_TEAM_PACKS(p, i, width) to.at[p] = fold<PACK>(from + i);
}

/* f<team, packs>(...) with what fits the width. */
#define FOR_TEAM(f, width, ...)                                                                                        \
    do {                                                                                                               \
        const int64_t width_ = (width);                                                                                \
        if (width_ <= WARP * PACK) TRY((f<WARP, 1>(__VA_ARGS__)));                                                     \
        else if (width_ <= WARP * PACK * 2) TRY((f<WARP, 2>(__VA_ARGS__)));                                            \
        else if (width_ <= WARP * PACK * 4) TRY((f<WARP * 2, 2>(__VA_ARGS__)));                                        \
        else if (width_ <= WARP * PACK * 8) TRY((f<WARP * 4, 2>(__VA_ARGS__)));                                        \
        else if (width_ <= THREADS * PACK * 2) TRY((f<THREADS, 2>(__VA_ARGS__)));                                      \
        else TRY((f<THREADS, 4>(__VA_ARGS__)));                                                                        \
    } while (0)

/* Where teams keep sums over rows, they walk down the rows in step, each with its next row under way: as many blocks
 * as the registers of 132 multiprocessors hold at once, a multiple of `groups`; block b works on stretch b mod groups.
 * This is one stretch's share of them. */
static inline int64_t team_parts(int64_t n_rows, int64_t width, int64_t groups) {
    const int64_t teams = width <= WARP * PACK * 2 ? 4 : 1; /* of a block */
    const int64_t blocks = width <= WARP * PACK ? 6 : width <= WARP * PACK * 2 ? 4 : most(1, 8192 / width);
    return least(ceil_div(n_rows, teams), most(1, 132 * least(8, blocks) / groups));
}
static inline int64_t team_lines_bytes(int64_t n_rows, int64_t width, int64_t groups) {
    return arena_round(team_parts(n_rows, width, groups) * groups * width * (int64_t)sizeof(float));
}

/* The sums that a block's threads hold, by channel, into its line. */
template <int team, int packs>
static inline __device__ void put_team_line(const float sum[packs][PACK], float *line, int lane, int64_t width) {
    if constexpr (team > WARP) {
        FOR_TEAM_PACKS(p, i, width) put<PACK>(line + i, sum[p]);
    } else {
        __shared__ float room[4][packs * WARP * PACK];
        for (int p = 0; p < packs; p++)
            for (int k = 0; k < PACK; k++) room[threadIdx.x / WARP][(p * WARP + lane) * PACK + k] = sum[p][k];
        __syncthreads();
        for (int i = threadIdx.x; i < width; i += 4 * WARP) line[i] = room[0][i] + room[1][i] + room[2][i] + room[3][i];
    }
}

/* ---- the sum of F32 lines: in F64, every eighth line by one warp, the warps' sums ascending ---- */

/* add(a, i, sum): what becomes of column i's sum. */
template <typename args, void (*add)(const args &, int64_t, float)>
__global__ static void line_sums(const args a, const float *lines, int64_t n_lines, int64_t width) {
    __shared__ double part[WARPS][WARP + 1];
    const int64_t i = (int64_t)blockIdx.x * WARP + threadIdx.x;
    double sum = 0.0;
    for (int64_t l = threadIdx.y; l < n_lines && i < width; l += WARPS) sum += (double)lines[l * width + i];
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || i >= width) return;
    for (int w = 1; w < WARPS; w++) sum += part[w][threadIdx.x];
    add(a, i, (float)sum);
}
#define LAUNCH_LINE_SUMS(args, add, a, lines, n_lines, width)                                                          \
    LAUNCH((line_sums<args, add>), dim3((unsigned)ceil_div((width), WARP)), dim3(WARP, WARPS), (a), (lines),           \
           (n_lines), (width))
#endif
