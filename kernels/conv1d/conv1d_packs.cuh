/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_CONV1D_PACKS_CUH
#define BATON_KERNELS_CONV1D_PACKS_CUH
/* conv1d_packs.cuh - four taps in BF16: a thread owns n channels of a run of rows and walks down them, the rows that
 * the taps still need in a ring of registers, `ahead` rows under way, so every element is read once (and three rows
 * more a run, six of x and three of dy in backward).  Forward moves 4 T C bytes, backward 6 T C and the lines of dw and
 * db, 20 C bytes a run.  A row whose document began less than three rows before, and those at the ends of a run, take
 * the careful way: `plain` says that a whole group of `ahead` rows has none of them. */
#include "kernels/conv1d/conv1d.h"
#include "kernels/packs.cuh"
#include "kernels/ranges.cuh"

#define TAPS      4
#define RUN_BLOCK 64 /* threads, side by side along a row */

/* How a pass is cut: blocks of a multiprocessor say how many registers a thread may have. */
#define N               4
#define AHEAD_FORWARD   8
#define BLOCKS_FORWARD  10
#define AHEAD_BACKWARD  4
#define BLOCKS_BACKWARD 8

/* Rows of a run: so long that 132 multiprocessors have two rounds of them, but no longer than F32 adds up well. */
static inline int64_t run_rows(int64_t n_rows, int64_t C, int blocks) {
    const int64_t parts = most(1, 2 * 132 * blocks / most(1, ceil_div(C, RUN_BLOCK * N)));
    return least(1024, most(16, ceil_div(ceil_div(n_rows, parts), TAPS) * TAPS));
}
static inline dim3 run_grid(int64_t n_rows, int64_t C, int blocks) {
    return dim3((unsigned)ceil_div(C, RUN_BLOCK * N), (unsigned)ceil_div(n_rows, run_rows(n_rows, C, blocks)));
}
static inline int64_t run_bytes(int64_t n_rows, int64_t C) {
    return arena_round(run_grid(n_rows, C, BLOCKS_BACKWARD).y * (TAPS + 1) * C * (int64_t)sizeof(float));
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

template <int n> struct weights { float tap[TAPS][n], bias[n]; };

/* With SiLU, weights carry the factor of the exponential, 1 / c, c = -ln 2, so that u / c = v comes out of the taps:
 * sigmoid(u) = 1 / (1 + 2^v). */
#define SCALE     (-0.693147180559945309f)
#define PER_SCALE (-1.442695040888963407f)
/* c sigmoid(u) */
static inline __device__ float scaled_sigmoid(float v) {
    return reciprocal_fast(fmaf(exp2_fast(v), PER_SCALE, PER_SCALE));
}

/* tap[k][c]: the weight of x_{t-k} of channel i + c. */
template <bool silu, int n>
static inline __device__ void get_weights(struct weights<n> &w, const struct conv1d &a, int64_t i) {
    for (int c = 0; c < n; c++) {
        float of_channel[TAPS];
        get<TAPS>(of_channel, (const float *)a.w.data + (i + c) * TAPS);
        for (int k = 0; k < TAPS; k++) w.tap[k][c] = of_channel[TAPS - 1 - k] * (silu ? PER_SCALE : 1.0f);
        w.bias[c] = a.b.data ? ((const float *)a.b.data)[i + c] * (silu ? PER_SCALE : 1.0f) : 0.0f;
    }
}

/* u, or v, of row j of a group from the ring of its x. */
template <bool plain, int n>
static inline __device__ void pre_activations(float u[n], const struct weights<n> &w, const float x[TAPS][n], int j,
                                              int64_t pos) {
    for (int c = 0; c < n; c++) u[c] = w.bias[c];
    for (int k = TAPS - 1; k >= 0; k--)
        if (plain || k <= pos)
            for (int c = 0; c < n; c++) u[c] = fmaf(w.tap[k][c], x[ring(j, k)][c], u[c]);
}

/* Rows read one after another, `ahead` of them under way. */
template <int n, int ahead> struct rows {
    struct folded<n> next[ahead];
    const bf16_bits *at; /* the row behind those under way */
    int64_t pitch;
};
template <int n, int ahead>
static inline __device__ void rows_begin(struct rows<n, ahead> &r, const struct tensor &x, int64_t t, int64_t i,
                                         int n_rows) {
    r.at = row_of<bf16_bits>(x, t) + i, r.pitch = x.pitch;
#pragma unroll
    for (int j = 0; j < ahead; j++, r.at += r.pitch)
        if (j < n_rows) r.next[j] = fold<n>(r.at);
}
template <int n, int ahead>
static inline __device__ void rows_take(struct rows<n, ahead> &r, float to[n], int j, bool more) {
    open<n>(to, r.next[j]);
    if (more) r.next[j] = fold<n>(r.at);
    r.at += r.pitch;
}

/* Of a stretch of rows, all of one range: `pos` of its first row, how many there are, and where the results go. */
struct walk {
    const int64_t *pos;
    int n_rows;
    bf16_bits *to;
    int64_t pitch;
};
/* pos of the last row of the group at t, which tells of all its rows; -1: the group is not whole. */
template <int ahead> static inline __device__ int64_t last_pos(const struct walk &v, int t) {
    return t + ahead <= v.n_rows ? v.pos[t + ahead - 1] : -1;
}

template <bool plain, bool silu, int n, int ahead>
static inline __device__ void forward_group(struct walk &v, struct rows<n, ahead> &in, float x[TAPS][n],
                                            const struct weights<n> &w, int t) {
#pragma unroll
    for (int j = 0; j < ahead; j++) {
        if (!plain && t + j >= v.n_rows) break;
        float u[n];
        rows_take<n, ahead>(in, x[ring(j, 0)], j, t + j + ahead < v.n_rows);
        pre_activations<plain, n>(u, w, x, j, plain ? 0 : v.pos[t + j]);
        for (int c = 0; c < n && silu; c++) u[c] *= scaled_sigmoid(u[c]);
        put<n>(v.to, u);
        v.to += v.pitch;
    }
}

template <bool silu, int n, int ahead>
__global__ __launch_bounds__(RUN_BLOCK, BLOCKS_FORWARD) static void forward_runs(const struct conv1d a, int64_t run) {
    static_assert(ahead % TAPS == 0, "the ring turns whole in a group");
    const int64_t i = ((int64_t)blockIdx.x * RUN_BLOCK + threadIdx.x) * n;
    if (i >= a.x.shape[1]) return;
    struct weights<n> w;
    get_weights<silu, n>(w, a, i);
    const int64_t stop = least(a.x.shape[0], (blockIdx.y + 1) * run);
    for (int64_t t = blockIdx.y * run; t < stop;) {
        const int64_t r = range_of(a.range, t), end = least(stop, long_at(a.range, r + 1));
        struct walk v = {(const int64_t *)a.pos.data + t, (int)(end - t), row_of<bf16_bits>(a.y, t) + i, a.y.pitch};
        struct rows<n, ahead> in;
        float x[TAPS][n];
        get_window<n>(x, a, r, long_at(a.range, r), t, i);
        rows_begin<n, ahead>(in, a.x, t, i, v.n_rows);
        int64_t pos = last_pos<ahead>(v, 0);
        for (int k = 0; k < v.n_rows; k += ahead) {
            const bool plain = pos >= ahead + TAPS - 2;
            pos = last_pos<ahead>(v, k + ahead);
            if (plain) forward_group<true, silu, n, ahead>(v, in, x, w, k);
            else forward_group<false, silu, n, ahead>(v, in, x, w, k);
        }
        t = end;
    }
}

template <int n> struct sums { float dx[TAPS][n], dw[TAPS][n], db[n]; };

/* du, or c du, of row j of a group goes into the gradients of x of it and three rows before, of which the oldest is
 * done then, and into dw and db where the row is of the stretch itself, t < n_rows. */
template <bool plain, bool silu, int n>
static inline __device__ void backward_row(const struct walk &v, struct sums<n> &s, const struct weights<n> &w,
                                           const float x[TAPS][n], float du[n], int j, int t) {
    const int64_t pos = plain ? 0 : v.pos[t];
    const bool mine = plain || t < v.n_rows;
    float u[n];
    pre_activations<plain, n>(u, w, x, j, pos);
    for (int c = 0; c < n && silu; c++) { /* c du = c dy sigmoid (1 + u (1 - sigmoid)) */
        const float g = scaled_sigmoid(u[c]);
        du[c] *= fmaf(u[c] * g, SCALE - g, g);
    }
    for (int c = 0; c < n; c++) s.dx[ring(j, 0)][c] = w.tap[0][c] * du[c];
    for (int c = 0; c < n && mine; c++) s.dw[0][c] = fmaf(du[c], x[ring(j, 0)][c], s.dw[0][c]);
    for (int k = 1; k < TAPS; k++) {
        if (!plain && k > pos) continue;
        for (int c = 0; c < n; c++) s.dx[ring(j, k)][c] = fmaf(w.tap[k][c], du[c], s.dx[ring(j, k)][c]);
        for (int c = 0; c < n && mine; c++) s.dw[k][c] = fmaf(du[c], x[ring(j, k)][c], s.dw[k][c]);
    }
    for (int c = 0; c < n && mine; c++) s.db[c] += du[c];
    if (plain || t >= TAPS - 1) put<n>(v.to, s.dx[ring(j, TAPS - 1)]);
}

/* v.to follows three rows behind.  `n_all`: three rows more than n_rows, whose du reaches back, where there are any. */
template <bool plain, bool silu, int n, int ahead>
static inline __device__ void backward_group(struct walk &v, struct sums<n> &s, const struct weights<n> &w,
                                             struct rows<n, ahead> &in, struct rows<n, ahead> &dy, float x[TAPS][n],
                                             int t, int n_all) {
#pragma unroll
    for (int j = 0; j < ahead; j++) {
        if (!plain && t + j >= n_all) break;
        const bool more = t + j + ahead < n_all;
        float du[n];
        rows_take<n, ahead>(in, x[ring(j, 0)], j, more);
        rows_take<n, ahead>(dy, du, j, more);
        backward_row<plain, silu, n>(v, s, w, x, du, j, t + j);
        v.to += v.pitch;
    }
}

/* Rows [t, end) of a run, all of range r. */
template <bool silu, int n, int ahead>
static inline __device__ void backward_stretch(const struct conv1d &a, struct sums<n> &s, const struct weights<n> &w,
                                               int64_t r, int64_t t, int64_t end, int64_t i) {
    bf16_bits *const dx = row_of<bf16_bits>(a.dx, t) + i;
    struct walk v = {(const int64_t *)a.pos.data + t, (int)(end - t), dx - (TAPS - 1) * a.dx.pitch, a.dx.pitch};
    const int n_all = (int)(least(long_at(a.range, r + 1), end + TAPS - 1) - t);
    struct rows<n, ahead> in, dy;
    float x[TAPS][n];
    get_window<n>(x, a, r, long_at(a.range, r), t, i);
    rows_begin<n, ahead>(in, a.x, t, i, n_all);
    rows_begin<n, ahead>(dy, a.dy, t, i, n_all);
    for (int k = 0; k < TAPS; k++)
        for (int c = 0; c < n; c++) s.dx[k][c] = 0.0f;
    int64_t pos = -1; /* the first rows finish none of the stretch's */
    for (int k = 0; k < n_all; k += ahead) {
        const bool plain = pos >= ahead + TAPS - 2;
        pos = last_pos<ahead>(v, k + ahead);
        if (plain) backward_group<true, silu, n, ahead>(v, s, w, in, dy, x, k, n_all);
        else backward_group<false, silu, n, ahead>(v, s, w, in, dy, x, k, n_all);
    }
    for (int k = 0; k < TAPS; k++) { /* the range ends before du could reach its last rows again */
        const int row = n_all - 1 - ((n_all - 1 - k) & (TAPS - 1));
        if (row >= 0 && row < v.n_rows && row > n_all - TAPS) put<n>(dx + row * a.dx.pitch, s.dx[k]);
    }
}

/* Lines of dw by tap, then db: (runs, TAPS + 1, C). */
template <bool silu, int n, int ahead>
__global__ __launch_bounds__(RUN_BLOCK, BLOCKS_BACKWARD) static void backward_runs(const struct conv1d a, float *lines,
                                                                                   int64_t run) {
    static_assert(ahead % TAPS == 0, "the ring turns whole in a group");
    const int64_t C = a.x.shape[1], i = ((int64_t)blockIdx.x * RUN_BLOCK + threadIdx.x) * n;
    if (i >= C) return;
    struct sums<n> s = {};
    struct weights<n> w;
    get_weights<silu, n>(w, a, i);
    const int64_t stop = least(a.x.shape[0], (blockIdx.y + 1) * run);
    for (int64_t t = blockIdx.y * run; t < stop;) {
        const int64_t r = range_of(a.range, t), end = least(stop, long_at(a.range, r + 1));
        backward_stretch<silu, n, ahead>(a, s, w, r, t, end, i);
        t = end;
    }
    for (int c = 0; c < n && silu; c++) {
        for (int k = 0; k < TAPS; k++) s.dw[k][c] *= PER_SCALE;
        s.db[c] *= PER_SCALE;
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
