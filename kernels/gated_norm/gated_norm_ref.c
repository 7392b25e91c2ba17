/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/gated_norm/gated_norm.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include "kernels/check.h"
#include "kernels/partials.h"
#include "kernels/real_math.h"
#include "kernels/sums.h"

struct gated_job {
    const struct gated_norm *a;
    struct rows cut;
    double *lines; /* partial sums of dw; NULL: not wanted */
};

/* sum: this rank's of all groups; where the halves meet. */
static real inverse_rms(const struct gated_norm *a, const real *u, double *sum) {
    const int64_t n = a->half == GATED_REST ? a->group_all : a->group;
    if (a->half == GATED_SUMS) *sum = sum_products(u, u, n);
    if (a->half == GATED_SUMS) return 0;
    return (real)(1.0 / sqrt((sum ? *sum : sum_products(u, u, n)) / (double)n + a->eps));
}

/* One group of one row. */
static real forward_group(const struct gated_norm *a, const real *restrict y, const real *restrict z,
                          const real *restrict w, real *restrict out, double *sum) {
    const int64_t n = a->group;
    if (a->norm_first) {
        const real r = inverse_rms(a, y, sum);
        for (int64_t i = 0; i < n; i++) out[i] = w[i] * real_silu(z[i]) * (y[i] * r);
        return r;
    }
    for (int64_t i = 0; i < n; i++) out[i] = y[i] * real_silu(z[i]);
    const real r = inverse_rms(a, out, sum);
    for (int64_t i = 0; i < n; i++) out[i] *= w[i] * r;
    return r;
}

static double *sum_of(const struct gated_norm *a, struct tensor t, int64_t row, int64_t g) {
    return a->half == GATED_WHOLE ? NULL : (double *)t.data + row * t.pitch + g;
}

static void forward_rows(void *arg, int64_t item, int worker) {
    const struct gated_job *j = arg;
    const struct gated_norm *a = j->a;
    const real *w = a->w.data;
    (void)worker;
    for (int64_t t = rows_begin(j->cut, item); t < rows_end(j->cut, item); t++)
        for (int64_t g = 0; g < a->r.shape[1]; g++) {
            const int64_t at = g * a->group;
            row(a->r, t)[g] = forward_group(a, row(a->y, t) + at, row(a->z, t) + at, w + at, row(a->out, t) + at,
                                            sum_of(a, a->square, t, g));
        }
}

static real pull_of(const struct gated_norm *a, real r, double sum) {
    const int64_t n = a->half == GATED_REST ? a->group_all : a->group;
    return (real)(sum / (double)n * (double)r * (double)r);
}

/* Gate first: u = y s, s = silu(z), h = u r, out = w h.  As for rmsnorm, du = r (w do - h mean(h w do)); then
 * dy = du s and dz = du y silu'(z).  dz holds the sigmoid and dy holds u until their own values are known. */
static void backward_gate_first(const struct gated_norm *a, real r, const real *restrict y, const real *restrict z,
                                const real *restrict w, const real *restrict dout, real *restrict dy, real *restrict dz,
                                double *restrict line, double *sum) {
    const int64_t n = a->group;
    for (int64_t i = 0; i < n; i++) {
        dz[i] = real_sigmoid(z[i]);
        dy[i] = y[i] * z[i] * dz[i];
    }
    if (a->half == GATED_SUMS) *sum = sum_triples(dy, w, dout, n);
    if (a->half == GATED_SUMS) return;
    const real pull = pull_of(a, r, sum ? *sum : sum_triples(dy, w, dout, n));
    if (line)
        for (int64_t i = 0; i < n; i++) line[i] += (double)(dout[i] * dy[i] * r);
    for (int64_t i = 0; i < n; i++) {
        const real s = dz[i], du = r * (w[i] * dout[i] - dy[i] * pull);
        dy[i] = du * z[i] * s;
        dz[i] = du * y[i] * s * (1 + z[i] * (1 - s));
    }
}

/* Norm first: n = y r, s = silu(z), out = w s n.  With g = do w s:  dy = r (g - n mean(g n)),  dz = do w n silu'(z),
 * dw += do n s.  dz holds the sigmoid and dy holds g until their own values are known. */
static void backward_norm_first(const struct gated_norm *a, real r, const real *restrict y, const real *restrict z,
                                const real *restrict w, const real *restrict dout, real *restrict dy, real *restrict dz,
                                double *restrict line, double *sum) {
    const int64_t n = a->group;
    for (int64_t i = 0; i < n; i++) {
        dz[i] = real_sigmoid(z[i]);
        dy[i] = dout[i] * w[i] * z[i] * dz[i];
    }
    if (a->half == GATED_SUMS) *sum = sum_products(dy, y, n);
    if (a->half == GATED_SUMS) return;
    const real pull = pull_of(a, r, sum ? *sum : sum_products(dy, y, n));
    if (line)
        for (int64_t i = 0; i < n; i++) line[i] += (double)(dout[i] * y[i] * r * z[i] * dz[i]);
    for (int64_t i = 0; i < n; i++) {
        const real s = dz[i];
        dy[i] = r * (dy[i] - y[i] * pull);
        dz[i] = dout[i] * w[i] * y[i] * r * s * (1 + z[i] * (1 - s));
    }
}

static void backward_rows(void *arg, int64_t item, int worker) {
    const struct gated_job *j = arg;
    const struct gated_norm *a = j->a;
    const int64_t C = a->y.shape[1];
    const real *w = a->w.data;
    double *line = j->lines ? j->lines + item * C : NULL;
    (void)worker;
    if (line) memset(line, 0, (size_t)C * sizeof(double));
    for (int64_t t = rows_begin(j->cut, item); t < rows_end(j->cut, item); t++)
        for (int64_t g = 0; g < a->r.shape[1]; g++) {
            const int64_t at = g * a->group;
            (a->norm_first ? backward_norm_first : backward_gate_first)(
                a, row(a->r, t)[g], row(a->y, t) + at, row(a->z, t) + at, w + at, row(a->dout, t) + at,
                row(a->dy, t) + at, row(a->dz, t) + at, line ? line + at : NULL, sum_of(a, a->pull, t, g));
        }
}

static enum status check_inputs(struct ctx *c, const struct gated_norm *a) {
    const int64_t T = a->y.shape[0], C = a->y.shape[1];
    CHECK_THAT(gated_norm, a->group > 0 && C % a->group == 0,
               "groups of %" PRId64 " channels do not divide the %" PRId64 " channels of y", a->group, C);
    CHECK_SHAPE(gated_norm, y, REAL, T, C);
    CHECK_SHAPE(gated_norm, z, REAL, T, C);
    CHECK_SHAPE(gated_norm, w, WIDE, C);
    CHECK_SHAPE(gated_norm, r, WIDE, T, C / a->group);
    return OK;
}

enum status REF(gated_norm_fwd)(struct ctx *c, const struct gated_norm *a) {
    const int64_t T = a->y.shape[0], C = a->y.shape[1];
    TRY(check_inputs(c, a));
    CHECK_SHAPE(gated_norm, out, REAL, T, C);
    if (a->half != GATED_WHOLE) CHECK_SHAPE(gated_norm, square, F64, T, C / a->group);
    struct gated_job j = {.a = a, .cut = rows_cut(T, C)};
    pool_run(c->pool, j.cut.items, forward_rows, &j);
    return OK;
}

enum status REF(gated_norm_bwd)(struct ctx *c, const struct gated_norm *a) {
    const int64_t T = a->y.shape[0], C = a->y.shape[1];
    enum status st = OK;
    TRY(check_inputs(c, a));
    CHECK_SHAPE(gated_norm, dout, REAL, T, C);
    CHECK_SHAPE(gated_norm, dy, REAL, T, C);
    CHECK_SHAPE(gated_norm, dz, REAL, T, C);
    CHECK_OPTIONAL(gated_norm, dw, WIDE, C);
    if (a->half != GATED_WHOLE) CHECK_SHAPE(gated_norm, pull, F64, T, C / a->group);
    struct gated_job j = {.a = a, .cut = rows_cut_partials(T, C)};
    void *lines = NULL;
    const int64_t mark = arena_mark(c->work);
    if (tensor_has(a->dw) && a->half != GATED_SUMS) TRY_OUT(arena_take(c->work, partials_bytes(j.cut, C), &lines));
    j.lines = lines;
    pool_run(c->pool, j.cut.items, backward_rows, &j);
    if (lines) REF(partials_add)(c, lines, j.cut.items, C, a->dw.data);
out:
    arena_release(c->work, mark);
    return st;
}

int64_t REF(gated_norm_work)(const struct ctx *c, const struct gated_norm *a) {
    (void)c;
    return partials_bytes(rows_cut_partials(a->y.shape[0], a->y.shape[1]), a->dw.shape[0]);
}
