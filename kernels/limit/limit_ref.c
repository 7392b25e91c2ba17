/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/limit/limit.h"
#include <inttypes.h>
#include <string.h>
#include "kernels/check.h"
#include "kernels/scores.h"

static enum status check(struct ctx *c, const struct limit *a) {
    const int64_t T = a->ids.shape[0], k = a->ids.shape[1], R = a->count.shape[0], E = a->count.shape[1];
    CHECK_SHAPE(limit, ids, I32, T, k);
    CHECK_SHAPE(limit, range, I64, R + 1);
    CHECK_SHAPE(limit, count, REAL, R, E);
    CHECK_OPTIONAL(limit, taken, I32, T, k);
    CHECK_OPTIONAL(limit, dropped, F64, 1);
    if (tensor_has(a->taken)) CHECK_SHAPE(limit, entering, REAL, R, E);
    CHECK_THAT(limit, a->capacity >= 1 && a->capacity <= LIMIT_MOST, "capacity %" PRId64 " lies outside [1, 2^24]",
               a->capacity);
    TRY(REF(sequences_check)(c, "limit", a->range, R > 0 ? R : 1, T));
    const int32_t *ids = a->ids.data;
    for (int64_t i = 0; i < T * k; i++)
        FAIL_UNLESS(ids[i] >= 0 && ids[i] < E, ERR_DATA,
                    "limit: ids[%" PRId64 "] = %" PRId32 " lies outside the experts [0, %" PRId64 ")", i, ids[i], E);
    return OK;
}

enum status REF(limit_fwd)(struct ctx *c, const struct limit *a) {
    TRY(check(c, a));
    const int64_t k = a->ids.shape[1], R = a->count.shape[0], E = a->count.shape[1];
    const int64_t *at = a->range.data;
    const int32_t *ids = a->ids.data;
    double dropped = 0.0;
    for (int64_t r = 0; r < R; r++) {
        real *n = (real *)a->count.data + r * E;
        memset(n, 0, (size_t)E * sizeof *n);
        for (int64_t i = at[r] * k; i < at[r + 1] * k; i++) {
            const int32_t e = ids[i];
            if (tensor_has(a->taken)) {
                const bool in = ((const real *)a->entering.data)[r * E + e] + n[e] < (real)a->capacity;
                ((int32_t *)a->taken.data)[i] = in ? e : (int32_t)E;
                dropped += !in;
            }
            n[e] += 1;
        }
    }
    if (tensor_has(a->taken) && tensor_has(a->dropped)) *(double *)a->dropped.data += dropped;
    return OK;
}
NO_BACKWARD(limit)
NO_WORK(limit)
