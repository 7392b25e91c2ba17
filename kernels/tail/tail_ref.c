/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/tail/tail.h"
#include <inttypes.h>
#include <string.h>
#include "kernels/check.h"
#include "kernels/ref.h"

static enum status check(struct ctx *c, const struct tail *a, bool backward) {
    const struct tensor t = backward ? a->dtail : a->tail, x = backward ? a->dx : a->x;
    const int64_t R = a->range.shape[0] - 1, k = t.shape[1], T = x.shape[0], C = x.shape[1];
    CHECK_SHAPE(tail, range, I64, R + 1);
    if (backward) {
        CHECK_SHAPE(tail, dtail, REAL, R, k, C);
        CHECK_SHAPE(tail, dx, REAL, T, C);
    } else {
        CHECK_SHAPE(tail, tail, REAL, R, k, C);
        CHECK_SHAPE(tail, x, REAL, T, C);
    }
    const int64_t *at = a->range.data;
    CHECK_THAT(tail, R >= 0 && at[0] == 0 && at[R] == T,
               "range has %" PRId64 " entries: expected the rows where ranges begin, from 0 to %" PRId64, R + 1, T);
    for (int64_t r = 0; r < R; r++)
        CHECK_THAT(tail, at[r] <= at[r + 1],
                   "range[%" PRId64 "] is %" PRId64 ", after %" PRId64 ": expected rows in ascending order", r + 1,
                   at[r + 1], at[r]);
    return OK;
}

enum status REF(tail_fwd)(struct ctx *c, const struct tail *a) {
    TRY(check(c, a, false));
    const int64_t *at = a->range.data, R = a->range.shape[0] - 1, k = a->tail.shape[1], C = a->x.shape[1];
    for (int64_t i = 0; i < R * k; i++) {
        const int64_t r = i / k, t = at[r + 1] - k + i % k;
        real *to = (real *)a->tail.data + i * C;
        if (t >= at[r]) memcpy(to, row(a->x, t), (size_t)C * sizeof(real));
        else memset(to, 0, (size_t)C * sizeof(real));
    }
    return OK;
}

enum status REF(tail_bwd)(struct ctx *c, const struct tail *a) {
    TRY(check(c, a, true));
    const int64_t *at = a->range.data, R = a->range.shape[0] - 1, k = a->dtail.shape[1], C = a->dx.shape[1];
    for (int64_t i = 0; i < R * k; i++) {
        const int64_t r = i / k, t = at[r + 1] - k + i % k;
        if (t < at[r]) continue;
        const real *from = (const real *)a->dtail.data + i * C;
        real *to = row(a->dx, t);
        for (int64_t n = 0; n < C; n++) to[n] += from[n];
    }
    return OK;
}

NO_WORK(tail)
