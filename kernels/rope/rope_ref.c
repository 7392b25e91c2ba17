/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/rope/rope.h"
#include <inttypes.h>
#include <math.h>
#include "kernels/check.h"
#include "kernels/rows.h"

/* An item of the pool is a block of tokens.  A token's sines serve all its heads. */
struct job {
    const struct rope *a;
    struct tensor x;
    struct rows cut;
    double direction;  /* 1 forward, -1 backward               */
    double *frequency; /* (rot / 2) theta^(-2i/rot)            */
    real *turns;       /* (workers, rot) cosines, then sines   */
};

static enum status check(struct ctx *c, const struct rope *a, bool backward) {
    const struct tensor x = backward ? a->dx : a->x;
    const int64_t T = x.shape[0], channels = x.shape[1];
    CHECK_THAT(rope, a->heads > 0 && channels % a->heads == 0,
               "%s has %" PRId64 " channels: expected a multiple of heads, %" PRId64, backward ? "dx" : "x", channels,
               a->heads);
    CHECK_THAT(rope, a->rot >= 0 && a->rot % 2 == 0 && a->rot <= channels / a->heads,
               "rot is %" PRId64 ": expected an even number up to the head's width, %" PRId64, a->rot,
               channels / a->heads);
    CHECK_THAT(rope, a->theta > 0, "theta is %g: expected more than 0", a->theta);
    CHECK_SHAPE(rope, pos, I64, T);
    if (backward) CHECK_SHAPE(rope, dx, REAL, T, channels);
    else CHECK_SHAPE(rope, x, REAL, T, channels);
    return OK;
}

int64_t REF(rope_work)(const struct ctx *c, const struct rope *a) {
    return arena_round(a->rot / 2 * (int64_t)sizeof(double)) +
           arena_round(pool_size(c->pool) * a->rot * (int64_t)sizeof(real));
}

static void turn_head(real *restrict x, const real *restrict cosine, const real *restrict sine, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        const real x0 = x[i], x1 = x[i + half];
        x[i] = x0 * cosine[i] - x1 * sine[i];
        x[i + half] = x1 * cosine[i] + x0 * sine[i];
    }
}

static void turn_rows(void *arg, int64_t item, int worker) {
    const struct job *j = arg;
    const int64_t rot = j->a->rot, half = rot / 2, heads = j->a->heads, P = j->x.shape[1] / heads;
    real *cosine = j->turns + worker * rot, *sine = cosine + half;
    for (int64_t t = rows_begin(j->cut, item); t < rows_end(j->cut, item); t++) {
        const double pos = (double)((int64_t *)j->a->pos.data)[t];
        for (int64_t i = 0; i < half; i++) {
            const double angle = pos * j->frequency[i];
            cosine[i] = (real)cos(angle);
            sine[i] = (real)(j->direction * sin(angle));
        }
        for (int64_t h = 0; h < heads; h++) turn_head(row(j->x, t) + h * P, cosine, sine, half);
    }
}

static enum status turn(struct ctx *c, const struct rope *a, struct tensor x, double direction) {
    enum status st = OK;
    void *frequency, *turns;
    struct job j = {.a = a, .x = x, .direction = direction, .cut = rows_cut(x.shape[0], x.shape[1])};
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(arena_take(c->work, a->rot / 2 * (int64_t)sizeof(double), &frequency));
    TRY_OUT(arena_take(c->work, pool_size(c->pool) * a->rot * (int64_t)sizeof(real), &turns));
    j.frequency = frequency;
    j.turns = turns;
    for (int64_t i = 0; i < a->rot / 2; i++) j.frequency[i] = pow(a->theta, -2.0 * (double)i / (double)a->rot);
    pool_run(c->pool, j.cut.items, turn_rows, &j);
out:
    arena_release(c->work, mark);
    return st;
}

enum status REF(rope_fwd)(struct ctx *c, const struct rope *a) {
    TRY(check(c, a, false));
    return turn(c, a, a->x, 1);
}

enum status REF(rope_bwd)(struct ctx *c, const struct rope *a) {
    TRY(check(c, a, true));
    return turn(c, a, a->dx, -1);
}
