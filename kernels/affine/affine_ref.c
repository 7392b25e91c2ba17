/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/affine/affine.h"
#include "kernels/check.h"
#include "kernels/real_math.h"
#include "kernels/rows.h"

struct affine_job {
    const struct affine *a;
    struct blocks cut;
};

/* out may be in: the same element, never a neighbour. */
static void by_factor(real *out, const real *in, const real *state, real decay, int64_t n) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) out[i] = decay * in[i] + state[i];
}
static void by_rate(real *out, const real *in, const real *state, const real *log_rate, real time, int64_t n) {
    const real some = time < (real)AFFINE_FOREVER ? 1 : 0;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) out[i] = some * real_exp(-real_exp(log_rate[i]) * time) * in[i] + state[i];
}

static void affine_block(void *arg, int64_t item, int worker) {
    const struct affine_job *j = arg;
    const struct block b = block_at(j->cut, item);
    (void)worker;
    for (int64_t n = b.row; n < b.row_end; n++) {
        const real decay = *row(j->a->decay, n);
        const real *in = row(j->a->in, n) + b.col, *state = row(j->a->state, n) + b.col;
        real *out = row(j->a->out, n) + b.col;
        if (!tensor_has(j->a->log_rate)) by_factor(out, in, state, decay, b.cols);
        else by_rate(out, in, state, row(j->a->log_rate, n) + b.col, decay, b.cols);
    }
}

enum status REF(affine_fwd)(struct ctx *c, const struct affine *a) {
    const int64_t n = a->in.shape[0], M = a->in.shape[1];
    CHECK_SHAPE(affine, in, WIDE, n, M);
    CHECK_SHAPE(affine, decay, WIDE, n);
    CHECK_SHAPE(affine, state, WIDE, n, M);
    CHECK_SHAPE(affine, out, WIDE, n, M);
    CHECK_OPTIONAL(affine, log_rate, WIDE, n, M);
    struct affine_job j = {.a = a, .cut = blocks_cut(n, M)};
    pool_run(c->pool, j.cut.items, affine_block, &j);
    return OK;
}
NO_BACKWARD(affine)
NO_WORK(affine)
