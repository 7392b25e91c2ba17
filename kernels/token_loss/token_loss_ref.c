/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/token_loss/token_loss.h"
#include <math.h>
#include "kernels/check.h"
#include "kernels/ref.h"

/* In F64, ascending. */
static real log_sum_exp(const struct token_loss *a, int64_t t, int64_t n) {
    const real *x = (const real *)a->parts.data + t;
    const int64_t pitch = a->parts.pitch;
    double top = (double)x[0], sum = 0.0;
    for (int64_t i = 1; i < n; i++) top = fmax(top, (double)x[i * pitch]);
    for (int64_t i = 0; i < n; i++) sum += exp((double)x[i * pitch] - top);
    return (real)(top + log(sum));
}

enum status REF(token_loss_fwd)(struct ctx *c, const struct token_loss *a) {
    const int64_t T = a->lse.shape[0];
    CHECK_SHAPE(token_loss, lse, WIDE, T);
    CHECK_SHAPE(token_loss, picked, WIDE, T);
    CHECK_SHAPE(token_loss, targets, I32, T);
    CHECK_SHAPE(token_loss, total, F64, 1);
    CHECK_OPTIONAL(token_loss, loss, WIDE, T);
    const int64_t n = a->parts.shape[0];
    if (n > 0) CHECK_SHAPE(token_loss, parts, WIDE, n, T);
    real *lse = a->lse.data;
    const real *picked = a->picked.data;
    const int32_t *targets = a->targets.data;
    real *loss = a->loss.data;
    double sum = 0.0;
    for (int64_t t = 0; t < T; t++) {
        if (n > 0) lse[t] = log_sum_exp(a, t, n);
        const real l = targets[t] < 0 ? 0 : lse[t] - picked[t];
        if (loss) loss[t] = l;
        sum += (double)l;
    }
    *(double *)a->total.data += sum;
    return OK;
}
NO_BACKWARD(token_loss)
NO_WORK(token_loss)
