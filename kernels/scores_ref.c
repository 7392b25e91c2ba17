/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/scores.h"
#include <inttypes.h>
#include "kernels/check.h"
#include "kernels/real_math.h"
#include "kernels/sums.h"

void REF(scores)(real *s, const real *l, int64_t n, bool softmax) {
    if (!softmax) {
        for (int64_t i = 0; i < n; i++) s[i] = real_sigmoid(l[i]);
        return;
    }
    real top = l[0];
    for (int64_t i = 1; i < n; i++) top = l[i] > top ? l[i] : top;
    for (int64_t i = 0; i < n; i++) s[i] = real_exp(l[i] - top);
    const real by = (real)(1.0 / sum_plain(s, n));
    for (int64_t i = 0; i < n; i++) s[i] *= by;
}

enum status REF(sequences_check)(const struct ctx *c, const char *op, struct tensor range, int64_t n, int64_t T) {
    const int64_t R = range.shape[0] - 1, dims[] = {R + 1}, *at = range.data;
    TRY(check_shape(c, op, "range", range, I64, 1, dims));
    FAIL_UNLESS(n >= 1 && R >= 0 && R % n == 0, ERR_ARG,
                "%s: range: %" PRId64 " ranges do not make %" PRId64 " sequences of as many each", op, R, n);
    FAIL_UNLESS(at[0] == 0 && at[R] == T, ERR_ARG,
                "%s: range: from %" PRId64 " to %" PRId64 ", 0 to %" PRId64 " is expected", op, at[0], at[R], T);
    for (int64_t r = 0; r < R; r++)
        FAIL_UNLESS(at[r] <= at[r + 1], ERR_ARG, "%s: range %" PRId64 " ends before it begins", op, r);
    return OK;
}
