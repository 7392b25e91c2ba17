/* SPDX-License-Identifier: Apache-2.0 */
/* The chunk form, for one head and one chunk that state S enters and that leaves gradient G asked of its end state.
 * L[t, s] = exp(cum_t - cum_s) where s <= t are of one document, else 0;   e_t = exp(cum_t) for tokens of the entering
 * document, w_s = exp(cum_end - cum_s) for tokens of the last one, keep = exp(cum_end) if no document starts, else 0.
 *
 *   forward    y_t = sum_s L[t, s] (C_t . B_s) dts_s x_s + e_t S C_t + D x_t
 *   backward   K[t, s] = L[t, s] dts_s (dy_t . x_s)                the part of dC_t along B_s and of dB_s along C_t
 *              dC_t = sum_s K[t, s] B_s + e_t S^T dy_t             both summed over the heads of a group: K is summed
 *              dB_s = sum_t K[t, s] C_t + w_s dts_s G^T x_s        first, so that a group costs one product
 *              q_s  = sum_t L[t, s] (C_t . B_s) dy_t + w_s G B_s   the gradient of dts_s x_s
 *              dx_s = dts_s q_s + D dy_s
 *   decays     every exponent is a sum of a over tokens, so a_j collects the terms whose sum holds token j:
 *              da_j = sum_{s < j <= t} K[t, s] (C_t . B_s) + sum_{t >= j} u_t + sum_{s < j} v_s + keep <S, G>
 *              u_t = e_t dy_t^T S C_t      v_s = w_s dts_s x_s^T G B_s
 *              The double sum goes over rows t downwards: column sums of the rows so far, then those left of j.  All
 *              terms are added, none subtracted.
 *   steps      ddts_j = A da_j + x_j . q_j      dA_log = sum_j da_j a_j      ddt_j = ddts_j slope of clamp(softplus)
 *
 * Rows t go in tiles of TILE; a tile's columns run from the first document's first row to its last row. */
#include "kernels/ssd/ssd.h"
#include <inttypes.h>
#include <string.h>
#include "kernels/check.h"
#include "kernels/gemm.h"
#include "kernels/ranges.h"
#include "kernels/real_math.h"
#include "kernels/rows.h"
#include "kernels/ssd_chunk.h"
#include "kernels/sums.h"

#define TILE 64

/* Gradients of a chunk's head that sum over all chunks. */
enum { SUM_A_LOG, SUM_DT_BIAS, SUM_D, N_SUMS };

/* One worker's memory. */
struct scratch {
    real *cb, *dyx, *k; /* (TILE, Q) C B^T; dy x^T, then L C B^T; K summed over heads */
    real *state_part;   /* (Q, max(N, P))                                            */
    real *head;         /* (heads of a group, N_VECTORS, Q)                          */
};
/* Per head and token of a chunk; column: the sums over rows so far of K C B^T. */
enum { CUM, DTS, U, V, DA, COLUMN, N_VECTORS };

struct job {
    const struct ssd *a;
    struct span *chunk;
    int64_t *first; /* (R + 1) each range's first chunk */
    double *sums;   /* (c, H, N_SUMS) of backward       */
    real *memory;
    int64_t memory_each;
};

/* Chunk rows, heads and columns that an item works on. */
struct item {
    const struct ssd *a;
    const struct span *k;
    int64_t chunk, g, n, per_group;
    struct scratch s;
};

static int64_t scratch_count(const struct ssd *a) {
    const int64_t Q = a->chunk, per_group = a->heads / a->groups;
    return 3 * TILE * Q + Q * most(a->state, a->head_width) + per_group * N_VECTORS * Q;
}

static struct item item_open(const struct job *j, int64_t item, int worker) {
    const struct ssd *a = j->a;
    const int64_t Q = a->chunk;
    struct item it = {.a = a, .chunk = item / a->groups, .g = item % a->groups};
    it.k = &j->chunk[it.chunk];
    it.n = it.k->end - it.k->begin;
    it.per_group = a->heads / a->groups;
    it.s.cb = j->memory + worker * j->memory_each;
    it.s.dyx = it.s.cb + TILE * Q;
    it.s.k = it.s.dyx + TILE * Q;
    it.s.state_part = it.s.k + TILE * Q;
    it.s.head = it.s.state_part + Q * most(a->state, a->head_width);
    return it;
}

static real *vector(const struct item *it, int64_t i, int which) {
    return it->s.head + (i * N_VECTORS + which) * it->a->chunk;
}

static real *state_of(struct tensor states, int64_t chunk, int64_t head) {
    return (real *)states.data + (chunk * states.shape[1] + head) * states.shape[2] * states.shape[3];
}

/* Row i of the chunk, at the first column of head i_head of the group, or of the group. */
static real *at_head(const struct item *it, struct tensor t, int64_t i, int64_t i_head) {
    return row(t, it->k->begin + i) + (it->g * it->per_group + i_head) * it->a->head_width;
}
static real *at_group(const struct item *it, struct tensor t, int64_t i) {
    return row(t, it->k->begin + i) + it->g * it->a->state;
}

/* First row of the chunk that row i sees. */
static int64_t sees_from(const struct item *it, int64_t i) {
    return most(0, i - ((int64_t *)it->a->pos.data)[it->k->begin + i]);
}

static void gather_steps(const struct item *it) {
    for (int64_t i = 0; i < it->per_group; i++) {
        real *cum = vector(it, i, CUM), *dts = vector(it, i, DTS);
        for (int64_t t = 0; t < it->n; t++) {
            cum[t] = row(it->a->cum, it->k->begin + t)[it->g * it->per_group + i];
            dts[t] = row(it->a->dts, it->k->begin + t)[it->g * it->per_group + i];
        }
    }
}

/* ---- forward ---- */

/* Own end states become entering states. */
static void fwd_range(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct ssd *a = j->a;
    const int64_t r = item / a->heads, h = item % a->heads, PN = a->head_width * a->state;
    real *now = j->memory + worker * j->memory_each;
    memcpy(now, state_of(a->s_in, r, h), (size_t)PN * sizeof(real));
    for (int64_t i = j->first[r]; i < j->first[r + 1]; i++) {
        const real keep = ssd_chunk_decay(&j->chunk[i], a->cum, h);
        real *state = state_of(a->states, i, h);
        for (int64_t p = 0; p < PN; p++) {
            const real own = state[p];
            state[p] = now[p];
            now[p] = keep * now[p] + own;
        }
    }
    if (tensor_has(a->s_out)) memcpy(state_of(a->s_out, r, h), now, (size_t)PN * sizeof(real));
}

/* y = e_t S C_t + D x_t: what does not come from the chunk's own tokens. */
static void fwd_entering(const struct item *it, int64_t i) {
    const struct ssd *a = it->a;
    const int64_t P = a->head_width, N = a->state, h = it->g * it->per_group + i;
    const real D = ((real *)a->D.data)[h];
    REF(gemm)
    (false, true, it->k->enter, P, N, 1, at_group(it, a->C, 0), a->C.pitch, state_of(a->states, it->chunk, h), N, 0,
     at_head(it, a->y, 0, i), a->y.pitch);
    for (int64_t t = 0; t < it->n; t++) {
        const real *x = at_head(it, a->x, t, i);
        real *y = at_head(it, a->y, t, i);
        if (t < it->k->enter) {
            const real e = real_exp(vector(it, i, CUM)[t]);
            for (int64_t p = 0; p < P; p++) y[p] = e * y[p] + D * x[p];
        } else {
            for (int64_t p = 0; p < P; p++) y[p] = D * x[p];
        }
    }
}

/* m = L cb dts over the n columns that row `now` sees. */
static void weights(real *restrict m, const real *restrict cb, const real *restrict cum, const real *restrict dts,
                    real now, int64_t n) {
    for (int64_t s = 0; s < n; s++) {
        const real sum = now - cum[s];
        m[s] = real_exp(sum < 0 ? sum : 0) * cb[s] * dts[s];
    }
}

/* y += rows [t0, t1), columns [s0, t1) of (L C B^T) times dts x. */
static void fwd_tile(const struct item *it, int64_t i, int64_t s0, int64_t t0, int64_t t1) {
    const struct ssd *a = it->a;
    const int64_t Q = a->chunk, P = a->head_width;
    const real *cum = vector(it, i, CUM), *dts = vector(it, i, DTS);
    for (int64_t t = t0; t < t1; t++) {
        const int64_t from = sees_from(it, t), skip = from - s0;
        real *m = it->s.dyx + (t - t0) * Q;
        for (int64_t s = 0; s < skip; s++) m[s] = 0;
        weights(m + skip, it->s.cb + (t - t0) * Q + skip, cum + from, dts + from, cum[t], t + 1 - from);
        for (int64_t s = t + 1 - s0; s < t1 - s0; s++) m[s] = 0;
    }
    REF(gemm)
    (false, false, t1 - t0, P, t1 - s0, 1, it->s.dyx, Q, at_head(it, a->x, s0, i), a->x.pitch, 1,
     at_head(it, a->y, t0, i), a->y.pitch);
}

static void fwd_chunk(void *arg, int64_t item, int worker) {
    const struct item it = item_open(arg, item, worker);
    const struct ssd *a = it.a;
    gather_steps(&it);
    for (int64_t i = 0; i < it.per_group; i++) fwd_entering(&it, i);
    for (int64_t t0 = 0; t0 < it.n; t0 += TILE) {
        const int64_t t1 = least(t0 + TILE, it.n), s0 = sees_from(&it, t0);
        REF(gemm)
        (false, true, t1 - t0, t1 - s0, a->state, 1, at_group(&it, a->C, t0), a->C.pitch, at_group(&it, a->B, s0),
         a->B.pitch, 0, it.s.cb, a->chunk);
        for (int64_t i = 0; i < it.per_group; i++) fwd_tile(&it, i, s0, t0, t1);
    }
}

/* ---- backward ---- */

/* What a chunk's own rows ask of its entering state becomes what all later rows ask of its end state. */
static void bwd_range(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct ssd *a = j->a;
    const int64_t r = item / a->heads, h = item % a->heads, PN = a->head_width * a->state;
    const size_t bytes = (size_t)PN * sizeof(real);
    real *now = j->memory + worker * j->memory_each;
    if (tensor_has(a->ds_out)) memcpy(now, state_of(a->ds_out, r, h), bytes);
    else memset(now, 0, bytes);
    for (int64_t i = j->first[r + 1] - 1; i >= j->first[r]; i--) {
        const real keep = ssd_chunk_decay(&j->chunk[i], a->cum, h);
        real *dstate = state_of(a->dstates, i, h);
        for (int64_t p = 0; p < PN; p++) {
            const real own = dstate[p];
            dstate[p] = now[p];
            now[p] = keep * now[p] + own;
        }
    }
    if (tensor_has(a->ds_in)) memcpy(state_of(a->ds_in, r, h), now, bytes);
}

static void bwd_clear(const struct item *it) {
    const size_t bytes = (size_t)it->a->state * sizeof(real);
    for (int64_t t = 0; t < it->n; t++) {
        memset(at_group(it, it->a->dB, t), 0, bytes);
        memset(at_group(it, it->a->dC, t), 0, bytes);
    }
    for (int64_t i = 0; i < it->per_group; i++)
        memset(vector(it, i, U), 0, (size_t)((N_VECTORS - U) * it->a->chunk) * sizeof(real));
}

/* Terms of the entering state S: dC += e_t S^T dy_t, and u_t. */
static void bwd_entering(const struct item *it, int64_t i) {
    const struct ssd *a = it->a;
    const int64_t P = a->head_width, N = a->state;
    real *z = it->s.state_part;
    REF(gemm)
    (false, false, it->k->enter, N, P, 1, at_head(it, a->dy, 0, i), a->dy.pitch,
     state_of(a->states, it->chunk, it->g * it->per_group + i), N, 0, z, N);
    for (int64_t t = 0; t < it->k->enter; t++, z += N) {
        const real e = real_exp(vector(it, i, CUM)[t]);
        real *dC = at_group(it, a->dC, t);
        for (int64_t n = 0; n < N; n++) z[n] *= e;
        for (int64_t n = 0; n < N; n++) dC[n] += z[n];
        vector(it, i, U)[t] = (real)sum_products(z, at_group(it, a->C, t), N);
    }
}

/* Terms of the end state's gradient G: dB += w_s dts_s G^T x_s, v_s, and the first part of q, which dx holds. */
static void bwd_leaving(const struct item *it, int64_t i) {
    const struct ssd *a = it->a;
    const int64_t P = a->head_width, N = a->state, last = it->k->last, n = it->n - last;
    const real *G = state_of(a->dstates, it->chunk, it->g * it->per_group + i);
    const real *cum = vector(it, i, CUM), end = cum[it->n - 1];
    real *z = it->s.state_part;
    for (int64_t s = 0; s < last; s++) memset(at_head(it, a->dx, s, i), 0, (size_t)P * sizeof(real));
    REF(gemm)
    (false, true, n, P, N, 1, at_group(it, a->B, last), a->B.pitch, G, N, 0, at_head(it, a->dx, last, i), a->dx.pitch);
    REF(gemm)(false, false, n, N, P, 1, at_head(it, a->x, last, i), a->x.pitch, G, N, 0, z, N);
    for (int64_t s = last; s < it->n; s++, z += N) {
        const real sum = end - cum[s], w = real_exp(sum < 0 ? sum : 0), wd = w * vector(it, i, DTS)[s];
        real *q = at_head(it, a->dx, s, i), *dB = at_group(it, a->dB, s);
        for (int64_t p = 0; p < P; p++) q[p] *= w;
        for (int64_t m = 0; m < N; m++) z[m] *= wd;
        for (int64_t m = 0; m < N; m++) dB[m] += z[m];
        vector(it, i, V)[s] = (real)sum_products(z, at_group(it, a->B, s), N);
    }
}

/* One row over the n columns that it sees: m = dy x^T becomes L C B^T, K joins the group's sum k, K C B^T column. */
static void weights_back(real *restrict m, real *restrict k, real *restrict column, const real *restrict cb,
                         const real *restrict cum, const real *restrict dts, real now, int64_t n) {
    for (int64_t s = 0; s < n; s++) {
        const real sum = now - cum[s], decay = real_exp(sum < 0 ? sum : 0), own = decay * m[s] * dts[s];
        m[s] = decay * cb[s];
        k[s] += own;
        column[s] += own * cb[s];
    }
}

/* One head's rows [t0, t1), from the last up, with the double sum of da. */
static void bwd_weights(const struct item *it, int64_t i, int64_t s0, int64_t t0, int64_t t1) {
    const real *cum = vector(it, i, CUM), *dts = vector(it, i, DTS);
    real *column = vector(it, i, COLUMN);
    for (int64_t t = t1 - 1; t >= t0; t--) {
        const int64_t from = sees_from(it, t), skip = from - s0, at = (t - t0) * it->a->chunk;
        real *m = it->s.dyx + at;
        for (int64_t s = 0; s < skip; s++) m[s] = 0;
        weights_back(m + skip, it->s.k + at + skip, column + from, it->s.cb + at + skip, cum + from, dts + from, cum[t],
                     t + 1 - from);
        for (int64_t s = t + 1 - s0; s < t1 - s0; s++) m[s] = 0;
        vector(it, i, DA)[t] = (real)sum_plain(column + from, t - from);
    }
}

static void bwd_tile(const struct item *it, int64_t s0, int64_t t0, int64_t t1) {
    const struct ssd *a = it->a;
    const int64_t Q = a->chunk, P = a->head_width, N = a->state, n = t1 - t0, m = t1 - s0;
    REF(gemm)
    (false, true, n, m, N, 1, at_group(it, a->C, t0), a->C.pitch, at_group(it, a->B, s0), a->B.pitch, 0, it->s.cb, Q);
    memset(it->s.k, 0, (size_t)(n * Q) * sizeof(real));
    for (int64_t i = 0; i < it->per_group; i++) {
        const real *dy = at_head(it, a->dy, t0, i);
        REF(gemm)(false, true, n, m, P, 1, dy, a->dy.pitch, at_head(it, a->x, s0, i), a->x.pitch, 0, it->s.dyx, Q);
        bwd_weights(it, i, s0, t0, t1);
        REF(gemm)(true, false, m, P, n, 1, it->s.dyx, Q, dy, a->dy.pitch, 1, at_head(it, a->dx, s0, i), a->dx.pitch);
    }
    REF(gemm)
    (false, false, n, N, m, 1, it->s.k, Q, at_group(it, a->B, s0), a->B.pitch, 1, at_group(it, a->dC, t0), a->dC.pitch);
    REF(gemm)
    (true, false, m, N, n, 1, it->s.k, Q, at_group(it, a->C, t0), a->C.pitch, 1, at_group(it, a->dB, s0), a->dB.pitch);
}

/* The rest of da, then what hangs on a and dts; q becomes dx. */
static void bwd_steps(const struct item *it, int64_t i, double sums[N_SUMS]) {
    const struct ssd *a = it->a;
    const int64_t P = a->head_width, h = it->g * it->per_group + i, PN = P * a->state;
    const double A = -exp((double)((real *)a->A_log.data)[h]), bias = ((real *)a->dt_bias.data)[h];
    const real D = ((real *)a->D.data)[h], *dts = vector(it, i, DTS), *u = vector(it, i, U), *v = vector(it, i, V);
    real *da = vector(it, i, DA);
    const real keep = ssd_chunk_decay(it->k, a->cum, h);
    double after =
        (double)keep * sum_products(state_of(a->states, it->chunk, h), state_of(a->dstates, it->chunk, h), PN);
    double before = 0;
    for (int64_t t = it->n - 1; t >= 0; t--) da[t] += (real)(after += (double)u[t]);
    for (int64_t t = 0; t < it->n; t++) {
        const real *x = at_head(it, a->x, t, i), *dy = at_head(it, a->dy, t, i);
        real *q = at_head(it, a->dx, t, i);
        const double da_t = (double)da[t] + before;
        const double slope = ssd_dt_slope((double)row(a->dt, it->k->begin + t)[h] + bias, a->dt_min, a->dt_max);
        const double ddt = (A * da_t + sum_products(x, q, P)) * slope;
        before += (double)v[t];
        row(a->ddt, it->k->begin + t)[h] = (real)ddt;
        sums[SUM_A_LOG] += da_t * A * (double)dts[t];
        sums[SUM_DT_BIAS] += ddt;
        sums[SUM_D] += sum_products(x, dy, P);
        for (int64_t p = 0; p < P; p++) q[p] = dts[t] * q[p] + D * dy[p];
    }
}

static void bwd_chunk(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const struct item it = item_open(j, item, worker);
    gather_steps(&it);
    bwd_clear(&it);
    for (int64_t i = 0; i < it.per_group; i++) {
        bwd_entering(&it, i);
        bwd_leaving(&it, i);
    }
    for (int64_t t0 = (it.n - 1) / TILE * TILE; t0 >= 0; t0 -= TILE)
        bwd_tile(&it, sees_from(&it, t0), t0, least(t0 + TILE, it.n));
    for (int64_t i = 0; i < it.per_group; i++) {
        double *sums = j->sums + (it.chunk * it.a->heads + it.g * it.per_group + i) * N_SUMS;
        memset(sums, 0, N_SUMS * sizeof(double));
        bwd_steps(&it, i, sums);
    }
}

static void bwd_sums(const struct job *j, int64_t n_chunks) {
    const struct ssd *a = j->a;
    real *out[N_SUMS] = {a->dA_log.data, a->ddt_bias.data, a->dD.data};
    for (int which = 0; which < N_SUMS; which++)
        for (int64_t h = 0; h < a->heads; h++) {
            double sum = 0;
            for (int64_t i = 0; i < n_chunks; i++) sum += j->sums[(i * a->heads + h) * N_SUMS + which];
            out[which][h] += (real)sum;
        }
}

/* ---- both ---- */

static enum status check(struct ctx *c, const struct ssd *a, bool backward) {
    const int64_t T = a->pos.shape[0], H = a->heads, P = a->head_width, N = a->state, G = a->groups;
    const int64_t R = a->range.shape[0] - 1, n = a->states.shape[0];
    CHECK_THAT(ssd, H > 0 && P > 0 && N > 0 && G > 0 && H % G == 0 && a->chunk > 0,
               "heads %" PRId64 ", head_width %" PRId64 ", state %" PRId64 ", groups %" PRId64 ", chunk %" PRId64
               ": expected all above 0, and groups dividing heads",
               H, P, N, G, a->chunk);
    CHECK_SHAPE(ssd, range, I64, R + 1);
    CHECK_SHAPE(ssd, pos, I64, T);
    CHECK_SHAPE(ssd, x, REAL, T, H * P);
    CHECK_SHAPE(ssd, B, REAL, T, G * N);
    CHECK_SHAPE(ssd, C, REAL, T, G * N);
    CHECK_SHAPE(ssd, dt, REAL, T, H);
    CHECK_SHAPE(ssd, A_log, REAL, H);
    CHECK_SHAPE(ssd, dt_bias, REAL, H);
    CHECK_SHAPE(ssd, D, REAL, H);
    CHECK_SHAPE(ssd, dts, REAL, T, H);
    CHECK_SHAPE(ssd, cum, REAL, T, H);
    CHECK_SHAPE(ssd, states, REAL, n, H, P, N);
    TRY(ranges_check("ssd", a->range, a->pos));
    const int64_t found = spans_cut(a->range, a->pos, a->chunk, NULL, NULL);
    CHECK_THAT(ssd, found <= n, "states holds %" PRId64 " chunks, the ranges have %" PRId64, n, found);
    if (!backward) {
        CHECK_SHAPE(ssd, s_in, REAL, R, H, P, N);
        CHECK_SHAPE(ssd, y, REAL, T, H * P);
        CHECK_OPTIONAL(ssd, s_out, REAL, R, H, P, N);
        return OK;
    }
    CHECK_SHAPE(ssd, dy, REAL, T, H * P);
    CHECK_SHAPE(ssd, dstates, REAL, n, H, P, N);
    CHECK_OPTIONAL(ssd, ds_out, REAL, R, H, P, N);
    CHECK_OPTIONAL(ssd, ds_in, REAL, R, H, P, N);
    CHECK_SHAPE(ssd, dx, REAL, T, H * P);
    CHECK_SHAPE(ssd, ddt, REAL, T, H);
    CHECK_SHAPE(ssd, dB, REAL, T, G * N);
    CHECK_SHAPE(ssd, dC, REAL, T, G * N);
    CHECK_SHAPE(ssd, dA_log, REAL, H);
    CHECK_SHAPE(ssd, ddt_bias, REAL, H);
    CHECK_SHAPE(ssd, dD, REAL, H);
    return OK;
}

/* Bytes of the spans, the ranges' first spans, the sums and the workers' memory. */
static void sizes(const struct ctx *c, const struct ssd *a, int64_t bytes[4]) {
    const int64_t R = a->range.shape[0] - 1, n = spans_max(a->pos.shape[0], R, a->chunk);
    const int64_t each = most(scratch_count(a), a->head_width * a->state);
    bytes[0] = n * (int64_t)sizeof(struct span);
    bytes[1] = (R + 1) * (int64_t)sizeof(int64_t);
    bytes[2] = n * a->heads * N_SUMS * (int64_t)sizeof(double);
    bytes[3] = pool_size(c->pool) * each * (int64_t)sizeof(real);
}

int64_t REF(ssd_work)(const struct ctx *c, const struct ssd *a) {
    int64_t bytes[4];
    sizes(c, a, bytes);
    return arena_round(bytes[0]) + arena_round(bytes[1]) + arena_round(bytes[2]) + arena_round(bytes[3]);
}

/* Memory of one call; the caller has marked the arena. */
static enum status job_open(struct job *j, struct ctx *c, const struct ssd *a, int64_t *n_chunks) {
    int64_t bytes[4];
    void *at[4];
    sizes(c, a, bytes);
    for (int i = 0; i < 4; i++) TRY(arena_take(c->work, bytes[i], &at[i]));
    *j = (struct job){.a = a, .chunk = at[0], .first = at[1], .sums = at[2], .memory = at[3]};
    j->memory_each = bytes[3] / (int64_t)sizeof(real) / pool_size(c->pool);
    *n_chunks = spans_cut(a->range, a->pos, a->chunk, j->chunk, j->first);
    return OK;
}

enum status REF(ssd_fwd)(struct ctx *c, const struct ssd *a) {
    enum status st = OK;
    struct job j;
    int64_t n_chunks;
    TRY(check(c, a, false));
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(job_open(&j, c, a, &n_chunks));
    pool_run(c->pool, (a->range.shape[0] - 1) * a->heads, fwd_range, &j);
    pool_run(c->pool, n_chunks * a->groups, fwd_chunk, &j);
out:
    arena_release(c->work, mark);
    return st;
}

enum status REF(ssd_bwd)(struct ctx *c, const struct ssd *a) {
    enum status st = OK;
    struct job j;
    int64_t n_chunks;
    TRY(check(c, a, true));
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(job_open(&j, c, a, &n_chunks));
    pool_run(c->pool, (a->range.shape[0] - 1) * a->heads, bwd_range, &j);
    pool_run(c->pool, n_chunks * a->groups, bwd_chunk, &j);
    bwd_sums(&j, n_chunks);
out:
    arena_release(c->work, mark);
    return st;
}
