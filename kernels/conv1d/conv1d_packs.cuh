/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_CONV1D_PACKS_CUH
#define BATON_KERNELS_CONV1D_PACKS_CUH
/* conv1d_packs.cuh - four taps in BF16: a thread owns n channels of a run of rows and walks down them, the rows that
 * the taps still need in registers, so every element is read once (and three rows more a run, from the cache).
 * Forward moves 4 T C bytes, backward 6 T C and the lines of dw and db (20 C bytes a run): at 3 TB/s a row of 10,240
 * channels takes 14 ns forward, 21 ns backward. */
#include "kernels/conv1d/conv1d.h"
#include "kernels/packs.cuh"
#include "kernels/ranges.cuh"

#define TAPS        4
#define RUN_THREADS 128
#define AHEAD       4 /* rows whose loads are under way at once */

/* Rows of a run: many runs keep a GPU busy, few make few lines. */
static inline __host__ __device__ int64_t run_rows(int64_t n_rows) { return most(32, ceil_div(n_rows, 512)); }
static inline int64_t run_count(int64_t n_rows) { return ceil_div(n_rows, run_rows(n_rows)); }
static inline int64_t run_bytes(int64_t n_rows, int64_t C) {
    return arena_round(run_count(n_rows) * (TAPS + 1) * C * (int64_t)sizeof(float));
}

/* tap[k][c]: the weight of x_{t-k} of channel i + c. */
template <int n> static inline __device__ void get_taps(float tap[TAPS][n], const struct conv1d &a, int64_t i) {
    for (int c = 0; c < n; c++) {
        float w[TAPS];
        get<TAPS>(w, (const float *)a.w.data + (i + c) * TAPS);
        for (int k = 0; k < TAPS; k++) tap[k][c] = w[TAPS - 1 - k];
    }
}

/* x_{t-k}, in the range r that begins at row `begin`, or before it. */
template <int n>
static inline __device__ void get_x(float x[n], const struct conv1d &a, int64_t r, int64_t begin, int64_t t, int64_t k,
                                    int64_t i) {
    const int64_t C = a.x.shape[1], at = (r + 1) * (TAPS - 1) + t - k - begin;
    if (t - k >= begin) get<n>(x, row_of<bf16_bits>(a.x, t - k) + i);
    else get<n>(x, (const bf16_bits *)a.before.data + at * C + i);
}

/* u_t from the window of x_t, x_{t-1}, ... */
template <int n>
static inline __device__ void pre_activations(float u[n], const float tap[TAPS][n], const float x[TAPS][n],
                                              const float bias[n], int64_t pos) {
    for (int c = 0; c < n; c++) {
        u[c] = bias[c];
        for (int k = TAPS - 1; k >= 0; k--) u[c] = k <= pos ? fmaf(tap[k][c], x[k][c], u[c]) : u[c];
    }
}

template <int n> static inline __device__ void shift(float x[TAPS][n]) {
    for (int k = TAPS - 1; k > 0; k--)
        for (int c = 0; c < n; c++) x[k][c] = x[k - 1][c];
}

template <int n> __global__ __launch_bounds__(RUN_THREADS) static void forward_runs(const struct conv1d a) {
    const int64_t T = a.x.shape[0], C = a.x.shape[1], run = run_rows(T);
    const int64_t i = ((int64_t)blockIdx.x * RUN_THREADS + threadIdx.x) * n;
    if (i >= C) return;
    float tap[TAPS][n], bias[n] = {};
    get_taps<n>(tap, a, i);
    if (a.b.data) get<n>(bias, (const float *)a.b.data + i);
    const int64_t stop = least(T, (blockIdx.y + 1) * run);
    for (int64_t t = blockIdx.y * run; t < stop;) {
        const int64_t r = range_of(a.range, t), begin = long_at(a.range, r), end = least(stop, long_at(a.range, r + 1));
        float x[TAPS][n];
        for (int k = 1; k < TAPS; k++) get_x<n>(x[k - 1], a, r, begin, t, k, i);
        for (; t < end; t += AHEAD) {
            float next[AHEAD][n];
#pragma unroll
            for (int j = 0; j < AHEAD; j++)
                if (t + j < end) get<n>(next[j], row_of<bf16_bits>(a.x, t + j) + i);
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                if (t + j >= end) break;
                float u[n];
                shift<n>(x);
                for (int c = 0; c < n; c++) x[0][c] = next[j][c];
                pre_activations<n>(u, tap, x, bias, long_at(a.pos, t + j));
                if (a.silu)
                    for (int c = 0; c < n; c++) u[c] = silu(u[c]);
                put<n>(row_of<bf16_bits>(a.y, t + j) + i, u);
            }
        }
        t = end;
    }
}

/* What one row adds: du_t into the gradients of x_t to x_{t-3}, and into dw and db where the row is `mine`. */
template <int n> struct sums { float dx[TAPS][n], dw[TAPS][n], db[n]; };
template <int n>
static inline __device__ void add_row(struct sums<n> &s, const float du[n], const float tap[TAPS][n],
                                      const float x[TAPS][n], int64_t pos, bool mine) {
    for (int c = 0; c < n; c++) {
        if (mine) s.db[c] += du[c];
        for (int k = 0; k < TAPS; k++) {
            if (k > pos) continue;
            s.dx[k][c] = fmaf(tap[k][c], du[c], s.dx[k][c]);
            if (mine) s.dw[k][c] = fmaf(du[c], x[k][c], s.dw[k][c]);
        }
    }
}

/* Rows [t, end) of the run, all of range r, and up to three rows behind them, whose du reaches back into them. */
template <int n>
static __device__ void backward_stretch(const struct conv1d &a, struct sums<n> &s, const float tap[TAPS][n],
                                        const float bias[n], int64_t r, int64_t first, int64_t end, int64_t i) {
    const int64_t begin = long_at(a.range, r), last = least(long_at(a.range, r + 1), end + TAPS - 1);
    float x[TAPS][n];
    for (int k = 1; k < TAPS; k++) get_x<n>(x[k - 1], a, r, begin, first, k, i);
    for (int k = 0; k < TAPS; k++)
        for (int c = 0; c < n; c++) s.dx[k][c] = 0.0f;
    for (int64_t t = first; t < last; t += AHEAD) {
        float next[AHEAD][n], dy[AHEAD][n];
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            if (t + j >= last) break;
            get<n>(next[j], row_of<bf16_bits>(a.x, t + j) + i);
            get<n>(dy[j], row_of<bf16_bits>(a.dy, t + j) + i);
        }
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            if (t + j >= last) break;
            const int64_t pos = long_at(a.pos, t + j), done = t + j - (TAPS - 1);
            float u[n];
            shift<n>(x);
            for (int c = 0; c < n; c++) x[0][c] = next[j][c];
            pre_activations<n>(u, tap, x, bias, pos);
            for (int c = 0; c < n; c++) u[c] = a.silu ? dy[j][c] * dsilu(u[c]) : dy[j][c];
            add_row<n>(s, u, tap, x, pos, t + j < end);
            if (done >= first) put<n>(row_of<bf16_bits>(a.dx, done) + i, s.dx[TAPS - 1]);
            shift<n>(s.dx);
            for (int c = 0; c < n; c++) s.dx[0][c] = 0.0f;
        }
    }
    for (int k = TAPS - 1; k > 0; k--) /* row last - k waits at k: the range ends before du could reach it again */
        if (last - k >= first && last - k < end) put<n>(row_of<bf16_bits>(a.dx, last - k) + i, s.dx[k]);
}

/* Lines of dw by tap, then db: (runs, TAPS + 1, C). */
template <int n>
__global__ __launch_bounds__(RUN_THREADS) static void backward_runs(const struct conv1d a, float *lines) {
    const int64_t T = a.x.shape[0], C = a.x.shape[1], run = run_rows(T);
    const int64_t i = ((int64_t)blockIdx.x * RUN_THREADS + threadIdx.x) * n;
    if (i >= C) return;
    float tap[TAPS][n], bias[n] = {};
    struct sums<n> s = {};
    get_taps<n>(tap, a, i);
    if (a.b.data) get<n>(bias, (const float *)a.b.data + i);
    const int64_t stop = least(T, (blockIdx.y + 1) * run);
    for (int64_t t = blockIdx.y * run; t < stop;) {
        const int64_t r = range_of(a.range, t), end = least(stop, long_at(a.range, r + 1));
        backward_stretch<n>(a, s, tap, bias, r, t, end, i);
        t = end;
    }
    float *line = lines + (int64_t)blockIdx.y * (TAPS + 1) * C + i;
    for (int k = 0; k < TAPS; k++) put<n>(line + k * C, s.dw[k]);
    put<n>(line + TAPS * C, s.db);
}

/* Column at of a line: tap at / C of channel at % C, or its bias. */
static inline __device__ void add_line(const struct conv1d &a, int64_t at, float sum) {
    const int64_t C = a.x.shape[1], k = at / C, i = at % C;
    if (k < TAPS) ((float *)a.dw.data)[i * TAPS + TAPS - 1 - k] += sum;
    else if (a.db.data) ((float *)a.db.data)[i] += sum;
}
#endif
