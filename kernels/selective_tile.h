/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SELECTIVE_TILE_H
#define BATON_KERNELS_SELECTIVE_TILE_H
/* selective_tile.h - what both halves of the selective scan share on the CPU.
 *
 * Work goes in tiles of TILE channels, side by side in memory: loops over a tile vectorise, and none is a reduction.
 * A tensor of the tile is [n][TILE], a state, or [t][TILE], a token; channels past the last one are zero. */
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include "kernels/affine/affine.h"
#include "kernels/check.h"
#include "kernels/ranges.h"
#include "kernels/real_math.h"
#include "kernels/rows.h"

enum { TILE = 16 };

/* Channels [d, d + wide) of a tile. */
struct tile {
    int64_t d, wide;
};
static inline int64_t tiles_of(int64_t D) { return ceil_div(D, TILE); }
static inline struct tile tile_at(int64_t D, int64_t i) {
    return (struct tile){.d = i * TILE, .wide = least(TILE, D - i * TILE)};
}

/* Row t of a (T, D) tensor. */
static inline void tile_load(struct tensor from, int64_t t, struct tile k, real *__restrict to) {
    const real *x = row(from, t) + k.d;
    if (k.wide == TILE) {
        memcpy(to, x, TILE * sizeof(real));
        return;
    }
    for (int w = 0; w < TILE; w++) to[w] = w < k.wide ? x[w] : 0;
}
static inline void tile_store(struct tensor to, int64_t t, struct tile k, const real *from) {
    memcpy(row(to, t) + k.d, from, (size_t)k.wide * sizeof(real));
}

/* Entry i of (., D, 1, N), or the whole (D, N). */
static inline void tile_load_state(const real *from, int64_t N, struct tile k, real *__restrict to) {
    for (int64_t n = 0; n < N; n++)
        for (int w = 0; w < TILE; w++) to[n * TILE + w] = w < k.wide ? from[(k.d + w) * N + n] : 0;
}
static inline void tile_store_state(real *to, int64_t N, struct tile k, const real *__restrict from) {
    for (int64_t w = 0; w < k.wide; w++)
        for (int64_t n = 0; n < N; n++) to[(k.d + w) * N + n] = from[n * TILE + w];
}
static inline real *state_of(struct tensor states, int64_t i) { return (real *)states.data + i * states.pitch; }

/* A = -exp(A_log) of the tile, [n][TILE]. */
static inline void tile_rates(struct tensor A_log, int64_t N, struct tile k, real *A) {
    tile_load_state((const real *)A_log.data, N, k, A);
    for (int64_t i = 0; i < N * TILE; i++) A[i] = -real_exp(A[i]);
}

/* dts = softplus(dt + bias) of one token. */
static inline void tile_steps(struct tensor dt, int64_t t, struct tile k, const real *__restrict bias,
                              real *__restrict dts) {
    tile_load(dt, t, k, dts);
    for (int w = 0; w < TILE; w++) dts[w] = real_softplus(dts[w] + bias[w]);
}

/* One token: h = exp(dts A) h + dts x B. */
static inline void tile_step(real *__restrict h, const real *__restrict A, const real *__restrict dts,
                             const real *__restrict x, const real *__restrict B, int64_t N) {
    real dtx[TILE];
    for (int w = 0; w < TILE; w++) dtx[w] = dts[w] * x[w];
    for (int64_t n = 0; n < N; n++)
        for (int w = 0; w < TILE; w++)
            h[n * TILE + w] = real_exp(dts[w] * A[n * TILE + w]) * h[n * TILE + w] + dtx[w] * B[n];
}

/* y += sum_n C h */
static inline void tile_read(real *__restrict y, const real *__restrict h, const real *__restrict C, int64_t N) {
    for (int64_t n = 0; n < N; n++)
        for (int w = 0; w < TILE; w++) y[w] += C[n] * h[n * TILE + w];
}

/* Tokens [begin, end) of a tile from the state h on, which becomes the one behind them; time += their dts. */
struct tile_walk {
    struct tensor x, z, dt, B, C, out, pos;
    int64_t N;
    struct tile k;
    const real *A, *bias, *D;
};
static inline void tile_tokens(const struct tile_walk *w, int64_t begin, int64_t end, real *h, double *time) {
    real x[TILE], z[TILE], dts[TILE], y[TILE];
    for (int64_t t = begin; t < end; t++) {
        if (((const int64_t *)w->pos.data)[t] == 0) memset(h, 0, (size_t)(w->N * TILE) * sizeof(real));
        tile_load(w->x, t, w->k, x);
        tile_load(w->z, t, w->k, z);
        tile_steps(w->dt, t, w->k, w->bias, dts);
        tile_step(h, w->A, dts, x, row(w->B, t), w->N);
        for (int i = 0; i < TILE; i++) y[i] = w->D[i] * x[i], time[i] += (double)dts[i];
        tile_read(y, h, row(w->C, t), w->N);
        for (int i = 0; i < TILE; i++) y[i] *= real_silu(z[i]);
        tile_store(w->out, t, w->k, y);
    }
}

/* acc = exp(A time) acc + own: a whole chunk or range at once; all but time [N][TILE]. */
static inline void tile_fold(real *__restrict acc, const real *__restrict A, const real *__restrict time,
                             const real *__restrict own, int64_t N) {
    for (int64_t n = 0; n < N; n++)
        for (int w = 0; w < TILE; w++) {
            const real keep = time[w] >= (real)AFFINE_FOREVER ? 0 : real_exp(A[n * TILE + w] * time[w]);
            acc[n * TILE + w] = keep * acc[n * TILE + w] + own[n * TILE + w];
        }
}
#endif
