/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/activation/activation.h"
#include "kernels/check.h"
#include "kernels/real_math.h"
#include "kernels/rows.h"

/* The tanh form of GELU is h sigmoid(2 u), u = sqrt(2/pi) (h + 0.044715 h^3): no tanh, no cancellation at u < 0. */
#define GELU_SLOPE ((real)1.5957691216057307118) /* 2 sqrt(2/pi) */
#define GELU_CUBE  ((real)0.044715)

/* 2 max(h, 0), exactly, NaN kept, and without a branch: the comparison keeps gcc from vectorising. */
static inline real twice_positive(real h) {
#ifdef BATON_REAL64
    return h + fabs(h);
#else
    return h + fabsf(h);
#endif
}

static void relu2(real *restrict y, const real *restrict h, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const real up = twice_positive(h[i]) / 2;
        y[i] = up * up;
    }
}
static void swiglu(real *restrict y, const real *restrict gate, const real *restrict up, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = real_silu(gate[i]) * up[i];
}
static void gelu(real *restrict y, const real *restrict h, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = h[i] * real_normal_below(h[i]);
}
static void gelu_tanh(real *restrict y, const real *restrict h, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = h[i] * real_sigmoid(GELU_SLOPE * (h[i] + GELU_CUBE * h[i] * h[i] * h[i]));
}

static void relu2_back(real *restrict dh, const real *restrict h, const real *restrict dy, int64_t n) {
    for (int64_t i = 0; i < n; i++) dh[i] = twice_positive(h[i]) * dy[i];
}
/* d(silu(gate) up) = silu'(gate) up dgate + silu(gate) dup */
static void swiglu_back(real *restrict dgate, real *restrict dup, const real *restrict gate, const real *restrict up,
                        const real *restrict dy, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const real s = real_sigmoid(gate[i]);
        dgate[i] = dy[i] * up[i] * s * (1 + gate[i] * (1 - s));
        dup[i] = dy[i] * gate[i] * s;
    }
}
/* d(h Phi(h)) = Phi(h) + h phi(h), phi the density */
static void gelu_back(real *restrict dh, const real *restrict h, const real *restrict dy, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const real density = (real)0.39894228040143267794 * real_exp((real)-0.5 * h[i] * h[i]);
        dh[i] = dy[i] * (real_normal_below(h[i]) + h[i] * density);
    }
}
/* d(h s(a)) = s + h s (1 - s) a', a the argument of the sigmoid */
static void gelu_tanh_back(real *restrict dh, const real *restrict h, const real *restrict dy, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const real s = real_sigmoid(GELU_SLOPE * (h[i] + GELU_CUBE * h[i] * h[i] * h[i]));
        const real slope = GELU_SLOPE * (1 + 3 * GELU_CUBE * h[i] * h[i]);
        dh[i] = dy[i] * (s + h[i] * s * (1 - s) * slope);
    }
}

struct activation_job {
    const struct activation *a;
    struct blocks cut;
    int64_t F;
};

static void forward_block(void *arg, int64_t item, int worker) {
    const struct activation_job *j = arg;
    const struct block b = block_at(j->cut, item);
    (void)worker;
    for (int64_t t = b.row; t < b.row_end; t++) {
        const real *h = row(j->a->h, t) + b.col;
        real *y = row(j->a->y, t) + b.col;
        switch (j->a->kind) {
        case ACT_RELU2:
            relu2(y, h, b.cols);
            break;
        case ACT_SWIGLU:
            swiglu(y, h, h + j->F, b.cols);
            break;
        case ACT_GELU:
            gelu(y, h, b.cols);
            break;
        case ACT_GELU_TANH:
            gelu_tanh(y, h, b.cols);
            break;
        }
    }
}

static void backward_block(void *arg, int64_t item, int worker) {
    const struct activation_job *j = arg;
    const struct block b = block_at(j->cut, item);
    (void)worker;
    for (int64_t t = b.row; t < b.row_end; t++) {
        const real *h = row(j->a->h, t) + b.col, *dy = row(j->a->dy, t) + b.col;
        real *dh = row(j->a->dh, t) + b.col;
        switch (j->a->kind) {
        case ACT_RELU2:
            relu2_back(dh, h, dy, b.cols);
            break;
        case ACT_SWIGLU:
            swiglu_back(dh, dh + j->F, h, h + j->F, dy, b.cols);
            break;
        case ACT_GELU:
            gelu_back(dh, h, dy, b.cols);
            break;
        case ACT_GELU_TANH:
            gelu_tanh_back(dh, h, dy, b.cols);
            break;
        }
    }
}

enum status REF(activation_fwd)(struct ctx *c, const struct activation *a) {
    CHECK_THAT(activation, (unsigned)a->kind <= ACT_GELU_TANH, "the kind %d is none of " ACTIVATION_CHOICES,
               (int)a->kind);
    const int64_t T = a->y.shape[0], F = a->y.shape[1];
    CHECK_SHAPE(activation, y, REAL, T, F);
    CHECK_SHAPE(activation, h, REAL, T, a->kind == ACT_SWIGLU ? 2 * F : F);
    struct activation_job j = {.a = a, .cut = blocks_cut(T, F), .F = F};
    pool_run(c->pool, j.cut.items, forward_block, &j);
    return OK;
}

enum status REF(activation_bwd)(struct ctx *c, const struct activation *a) {
    CHECK_THAT(activation, (unsigned)a->kind <= ACT_GELU_TANH, "the kind %d is none of " ACTIVATION_CHOICES,
               (int)a->kind);
    const int64_t T = a->dy.shape[0], F = a->dy.shape[1], width = a->kind == ACT_SWIGLU ? 2 * F : F;
    CHECK_SHAPE(activation, dy, REAL, T, F);
    CHECK_SHAPE(activation, h, REAL, T, width);
    CHECK_SHAPE(activation, dh, REAL, T, width);
    struct activation_job j = {.a = a, .cut = blocks_cut(T, F), .F = F};
    pool_run(c->pool, j.cut.items, backward_block, &j);
    return OK;
}
NO_WORK(activation)
