/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/token_loss/token_loss.h"
#include "kernels/check.h"
#include "kernels/ref.h"

enum status REF(token_loss_fwd)(struct ctx *c, const struct token_loss *a) {
    const int64_t T = a->lse.shape[0];
    CHECK_SHAPE(token_loss, lse, WIDE, T);
    CHECK_SHAPE(token_loss, picked, WIDE, T);
    CHECK_SHAPE(token_loss, targets, I32, T);
    CHECK_SHAPE(token_loss, total, F64, 1);
    CHECK_OPTIONAL(token_loss, loss, WIDE, T);
    const real *lse = a->lse.data, *picked = a->picked.data;
    const int32_t *targets = a->targets.data;
    real *loss = a->loss.data;
    double sum = 0.0;
    for (int64_t t = 0; t < T; t++) {
        const real l = targets[t] < 0 ? 0 : lse[t] - picked[t];
        if (loss) loss[t] = l;
        sum += (double)l;
    }
    *(double *)a->total.data += sum;
    return OK;
}
NO_BACKWARD(token_loss)
NO_WORK(token_loss)
