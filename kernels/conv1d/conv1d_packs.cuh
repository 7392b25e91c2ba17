/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_CONV1D_PACKS_CUH
#define BATON_KERNELS_CONV1D_PACKS_CUH
/* conv1d_packs.cuh - four taps in BF16: a thread owns n channels of a run of rows and walks down them, the rows that
 * the taps still need in a ring of registers, `ahead` rows under way, so every element is read once (and three rows
 * more a run).  Forward moves 4 T C bytes, backward 6 T C and the lines of dw and db, 20 C bytes a block of runs.
 * A row whose document began less than three rows before, and those at the ends of a run, take the careful way:
 * `plain` says that a whole group of `ahead` rows has none of them. */
#include "kernels/conv1d/conv1d.h"
#include "kernels/packs.cuh"
#include "kernels/ranges.cuh"

#define TAPS 4
#define RUNS 4 /* of a block: a warp each, side by side in time */

/* Rows of a run: runs enough for five rounds of a GPU of 132 multiprocessors with 16 warps each, but few lines. */
static inline int64_t run_rows(int64_t n_rows, int64_t C, int n) {
    const int64_t rows = n_rows * ceil_div(C, WARP * n) / (132 * 16 * 5);
    return least(256, most(32, rows / 8 * 8));
}
static inline dim3 run_grid(int64_t n_rows, int64_t C, int n) {
    return dim3((unsigned)ceil_div(C, WARP * n), (unsigned)ceil_div(n_rows, RUNS * run_rows(n_rows, C, n)));
}
static inline int64_t run_bytes(int64_t n_rows, int64_t C, int n) {
    return arena_round(run_grid(n_rows, C, n).y * (TAPS + 1) * C * (int64_t)sizeof(float));
}

/* tap[k][c]: the weight of x_{t-k} of channel i + c. */
template <int n>
static inline __device__ void get_taps(float tap[TAPS][n], float bias[n], const struct conv1d &a, int64_t i) {
    for (int c = 0; c < n; c++) {
        float w[TAPS];
        get<TAPS>(w, (const float *)a.w.data + (i + c) * TAPS);
        for (int k = 0; k < TAPS; k++) tap[k][c] = w[TAPS - 1 - k];
        bias[c] = a.b.data ? ((const float *)a.b.data)[i + c] : 0.0f;
    }
}

/* Where row t - k lies in a ring, t being row j of its group; groups begin at multiples of TAPS. */
static constexpr __device__ int ring(int j, int k) { return (j - k + TAPS) % TAPS; }

/* The three rows before row t, in the range r that begins at row `begin`, or before it. */
template <int n>
static inline __device__ void get_window(float x[TAPS][n], const struct conv1d &a, int64_t r, int64_t begin, int64_t t,
                                         int64_t i) {
    for (int k = 1; k < TAPS; k++) {
        const int64_t C = a.x.shape[1], at = (r + 1) * (TAPS - 1) + t - k - begin;
        if (t - k >= begin) get<n>(x[ring(0, k)], row_of<bf16_bits>(a.x, t - k) + i);
        else get<n>(x[ring(0, k)], (const bf16_bits *)a.before.data + at * C + i);
    }
}

/* u of row j of a group from the ring of its x. */
template <bool plain, int n>
static inline __device__ void pre_activations(float u[n], const float tap[TAPS][n], const float x[TAPS][n],
                                              const float bias[n], int j, int64_t pos) {
    for (int c = 0; c < n; c++) u[c] = bias[c];
    for (int k = TAPS - 1; k >= 0; k--)
        if (plain || k <= pos)
            for (int c = 0; c < n; c++) u[c] = fmaf(tap[k][c], x[ring(j, k)][c], u[c]);
}

/* Rows [t, end) of range r, as many as a group has. */
template <bool plain, int n, int ahead>
static inline __device__ void forward_group(const struct conv1d &a, struct folded<n> next[ahead], float x[TAPS][n],
                                            const float tap[TAPS][n], const float bias[n], int64_t t, int64_t end,
                                            int64_t i) {
#pragma unroll
    for (int j = 0; j < ahead; j++) {
        if (!plain && t + j >= end) break;
        float u[n];
        open<n>(x[ring(j, 0)], next[j]);
        if (t + j + ahead < end) next[j] = fold<n>(row_of<bf16_bits>(a.x, t + j + ahead) + i);
        pre_activations<plain, n>(u, tap, x, bias, j, plain ? 0 : long_at(a.pos, t + j));
        if (a.silu)
            for (int c = 0; c < n; c++) u[c] *= sigmoid_fast(u[c]);
        put<n>(row_of<bf16_bits>(a.y, t + j) + i, u);
    }
}

/* pos of the last row of the group at t, which tells of all its rows; -1: the group is not whole. */
template <int ahead> static inline __device__ int64_t last_pos(const struct conv1d &a, int64_t t, int64_t end) {
    return t + ahead <= end ? long_at(a.pos, t + ahead - 1) : -1;
}

template <int n, int ahead>
__global__ __launch_bounds__(WARP *RUNS) static void forward_runs(const struct conv1d a, int64_t run) {
    static_assert(ahead % TAPS == 0, "the ring turns whole in a group");
    const int64_t i = ((int64_t)blockIdx.x * WARP + threadIdx.x) * n;
    if (i >= a.x.shape[1]) return;
    float tap[TAPS][n], bias[n], x[TAPS][n];
    get_taps<n>(tap, bias, a, i);
    const int64_t at = (int64_t)blockIdx.y * RUNS + threadIdx.y, stop = least(a.x.shape[0], (at + 1) * run);
    for (int64_t t = at * run; t < stop;) {
        const int64_t r = range_of(a.range, t), end = least(stop, long_at(a.range, r + 1));
        struct folded<n> next[ahead];
        get_window<n>(x, a, r, long_at(a.range, r), t, i);
#pragma unroll
        for (int j = 0; j < ahead; j++)
            if (t + j < end) next[j] = fold<n>(row_of<bf16_bits>(a.x, t + j) + i);
        int64_t pos = last_pos<ahead>(a, t, end);
        for (; t < end; t += ahead) {
            const bool plain = pos >= ahead + TAPS - 2;
            pos = last_pos<ahead>(a, t + ahead, end);
            if (plain) forward_group<true, n, ahead>(a, next, x, tap, bias, t, end, i);
            else forward_group<false, n, ahead>(a, next, x, tap, bias, t, end, i);
        }
        t = end;
    }
}

template <int n> struct sums { float dx[TAPS][n], dw[TAPS][n], db[n]; };
/* Rows [first, end) of a run, all of one range, and up to `last`: three rows more, whose du reaches back into them. */
struct stretch {
    int64_t first, end, last;
};

/* du of row j of a group goes into the gradients of x of it and three rows before, of which the oldest is done then,
 * and into dw and db where the row is of the stretch itself. */
template <bool plain, int n>
static inline __device__ void backward_row(const struct conv1d &a, struct sums<n> &s, const float tap[TAPS][n],
                                           const float bias[n], const float x[TAPS][n], const struct folded<n> &dy,
                                           const struct stretch &w, int j, int64_t t, int64_t i) {
    const int64_t pos = plain ? 0 : long_at(a.pos, t);
    const bool mine = plain || t < w.end;
    float u[n], du[n];
    pre_activations<plain, n>(u, tap, x, bias, j, pos);
    open<n>(du, dy);
    for (int c = 0; c < n && a.silu; c++) {
        const float g = sigmoid_fast(u[c]);
        du[c] *= fmaf(u[c] * g, 1.0f - g, g);
    }
    for (int c = 0; c < n; c++) s.dx[ring(j, 0)][c] = 0.0f;
    for (int k = 0; k < TAPS; k++) {
        if (!plain && k > pos) continue;
        for (int c = 0; c < n; c++) s.dx[ring(j, k)][c] = fmaf(tap[k][c], du[c], s.dx[ring(j, k)][c]);
        for (int c = 0; c < n && mine; c++) s.dw[k][c] = fmaf(du[c], x[ring(j, k)][c], s.dw[k][c]);
    }
    for (int c = 0; c < n && mine; c++) s.db[c] += du[c];
    if (plain || t - (TAPS - 1) >= w.first)
        put<n>(row_of<bf16_bits>(a.dx, t - (TAPS - 1)) + i, s.dx[ring(j, TAPS - 1)]);
}

template <int n, int ahead> struct window {
    float x[TAPS][n];
    struct folded<n> next[ahead], dy[ahead];
};

template <bool plain, int n, int ahead>
static inline __device__ void backward_group(const struct conv1d &a, struct sums<n> &s, const float tap[TAPS][n],
                                             const float bias[n], struct window<n, ahead> &v, const struct stretch &w,
                                             int64_t t, int64_t i) {
#pragma unroll
    for (int j = 0; j < ahead; j++) {
        if (!plain && t + j >= w.last) break;
        const struct folded<n> dy = v.dy[j];
        open<n>(v.x[ring(j, 0)], v.next[j]);
        if (t + j + ahead < w.last) {
            v.next[j] = fold<n>(row_of<bf16_bits>(a.x, t + j + ahead) + i);
            v.dy[j] = fold<n>(row_of<bf16_bits>(a.dy, t + j + ahead) + i);
        }
        backward_row<plain, n>(a, s, tap, bias, v.x, dy, w, j, t + j, i);
    }
}

template <int n, int ahead>
static inline __device__ void backward_stretch(const struct conv1d &a, struct sums<n> &s, const float tap[TAPS][n],
                                               const float bias[n], int64_t r, const struct stretch &w, int64_t i) {
    struct window<n, ahead> v;
    get_window<n>(v.x, a, r, long_at(a.range, r), w.first, i);
#pragma unroll
    for (int j = 0; j < ahead; j++)
        if (w.first + j < w.last) {
            v.next[j] = fold<n>(row_of<bf16_bits>(a.x, w.first + j) + i);
            v.dy[j] = fold<n>(row_of<bf16_bits>(a.dy, w.first + j) + i);
        }
    for (int k = 0; k < TAPS; k++)
        for (int c = 0; c < n; c++) s.dx[k][c] = 0.0f;
    int64_t pos = -1; /* the first rows finish none of the stretch's */
    for (int64_t t = w.first; t < w.last; t += ahead) {
        const bool plain = pos >= ahead + TAPS - 2;
        pos = last_pos<ahead>(a, t + ahead, w.end);
        if (plain) backward_group<true, n, ahead>(a, s, tap, bias, v, w, t, i);
        else backward_group<false, n, ahead>(a, s, tap, bias, v, w, t, i);
    }
    for (int k = 0; k < TAPS; k++) { /* the range ends before du could reach its last rows again */
        const int64_t t = w.last - 1 - ((w.last - 1 - w.first - k) & (TAPS - 1));
        if (t >= w.first && t < w.end && t > w.last - TAPS) put<n>(row_of<bf16_bits>(a.dx, t) + i, s.dx[k]);
    }
}

/* Lines of dw by tap, then db, of a block's runs together: (blocks, TAPS + 1, C). */
template <int n> static inline __device__ void put_lines(const struct sums<n> &s, float *lines, int64_t C, int64_t i) {
    __shared__ float room[RUNS][(TAPS + 1) * n][WARP];
    for (int k = 0; k <= TAPS; k++)
        for (int c = 0; c < n; c++) room[threadIdx.y][k * n + c][threadIdx.x] = k < TAPS ? s.dw[k][c] : s.db[c];
    __syncthreads();
    for (int q = threadIdx.y; q < (TAPS + 1) * n && i < C; q += RUNS) {
        float sum = room[0][q][threadIdx.x];
        for (int w = 1; w < RUNS; w++) sum += room[w][q][threadIdx.x];
        lines[((int64_t)blockIdx.y * (TAPS + 1) + q / n) * C + i + q % n] = sum;
    }
}

template <int n, int ahead>
__global__ __launch_bounds__(WARP *RUNS) static void backward_runs(const struct conv1d a, float *lines, int64_t run) {
    static_assert(ahead % TAPS == 0, "the ring turns whole in a group");
    const int64_t C = a.x.shape[1], i = ((int64_t)blockIdx.x * WARP + threadIdx.x) * n;
    const int64_t at = (int64_t)blockIdx.y * RUNS + threadIdx.y, stop = least(a.x.shape[0], (at + 1) * run);
    struct sums<n> s = {};
    float tap[TAPS][n], bias[n];
    if (i < C) get_taps<n>(tap, bias, a, i);
    for (int64_t t = at * run; t < stop && i < C;) {
        const int64_t r = range_of(a.range, t), after = long_at(a.range, r + 1), end = least(stop, after);
        const struct stretch w = {t, end, least(after, end + TAPS - 1)};
        backward_stretch<n, ahead>(a, s, tap, bias, r, w, i);
        t = end;
    }
    put_lines<n>(s, lines, C, i);
}

/* Column at of a line: tap at / C of channel at % C, or its bias. */
static inline __device__ void add_line(const struct conv1d &a, int64_t at, float sum) {
    const int64_t C = a.x.shape[1], k = at / C, i = at % C;
    if (k < TAPS) ((float *)a.dw.data)[i * TAPS + TAPS - 1 - k] += sum;
    else if (a.db.data) ((float *)a.db.data)[i] += sum;
}
#endif
