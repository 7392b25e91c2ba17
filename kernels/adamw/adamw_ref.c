/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/adamw/adamw.h"
#include <math.h>
#include <string.h>
#include "kernels/check.h"
#include "kernels/rows.h"

struct adamw_job {
    real *w, *m, *v, *out;
    const real *g;
    struct blocks cut;
    real clip, beta1, beta2, rest1, rest2, fix1, fix2, eps, rate, decay;
};

static void adamw_block(void *arg, int64_t item, int worker) {
    const struct adamw_job *j = arg;
    const struct block b = block_at(j->cut, item);
    const struct adamw_job k = *j; /* a copy, so that the stores below cannot be thought to change it */
    real *w = j->w + b.col, *m = j->m + b.col, *v = j->v + b.col;
    const real *g = j->g + b.col;
    (void)worker;
#pragma GCC ivdep /* four different tensors */
    for (int64_t i = 0; i < b.cols; i++) {
        const real gi = g[i] * k.clip;
        const real mi = k.beta1 * m[i] + k.rest1 * gi;
        const real vi = k.beta2 * v[i] + k.rest2 * gi * gi;
        m[i] = mi;
        v[i] = vi;
#ifdef BATON_REAL64
        w[i] -= k.rate * (mi * k.fix1 / (sqrt(vi * k.fix2) + k.eps) + k.decay * w[i]);
#else
        w[i] -= k.rate * (mi * k.fix1 / (sqrtf(vi * k.fix2) + k.eps) + k.decay * w[i]);
#endif
    }
    if (j->out) memcpy(j->out + b.col, w, (size_t)b.cols * sizeof(real));
}

enum status REF(adamw_fwd)(struct ctx *c, const struct adamw *a) {
    const int64_t n = a->w.shape[0];
    CHECK_SHAPE(adamw, w, WIDE, n);
    CHECK_SHAPE(adamw, m, WIDE, n);
    CHECK_SHAPE(adamw, v, WIDE, n);
    CHECK_SHAPE(adamw, g, WIDE, n);
    CHECK_OPTIONAL(adamw, out, REAL, n);
    CHECK_SHAPE(adamw, knobs, F64, N_KNOBS);
    const double *knob = a->knobs.data;
    if (knob[KNOB_SKIP] != 0.0) return OK;
    struct adamw_job j = {.w = a->w.data,
                          .m = a->m.data,
                          .v = a->v.data,
                          .g = a->g.data,
                          .out = a->out.data,
                          .cut = blocks_cut(1, n),
                          .clip = (real)knob[KNOB_CLIP],
                          .beta1 = (real)a->beta1,
                          .beta2 = (real)a->beta2,
                          .rest1 = (real)(1.0 - a->beta1),
                          .rest2 = (real)(1.0 - a->beta2),
                          .fix1 = (real)knob[KNOB_FIX1],
                          .fix2 = (real)knob[KNOB_FIX2],
                          .eps = (real)a->eps,
                          .rate = (real)(knob[KNOB_LR] * a->lr_scale),
                          .decay = (real)a->decay};
    pool_run(c->pool, j.cut.items, adamw_block, &j);
    return OK;
}
NO_BACKWARD(adamw)
NO_WORK(adamw)
