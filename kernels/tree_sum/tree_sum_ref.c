/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/tree_sum/tree_sum.h"
#include "kernels/check.h"
#include "kernels/ref.h"

static double tree(double *x, int64_t n) {
    if (n == 0) return 0.0;
    for (; n > 1; n = (n + 1) / 2)
        for (int64_t i = 0; i < n; i += 2) x[i / 2] = i + 1 < n ? x[i] + x[i + 1] : x[i];
    return x[0];
}

enum status REF(tree_sum_fwd)(struct ctx *c, const struct tree_sum *a) {
    const int64_t n = a->x.shape[0], m = a->roots.shape[0];
    CHECK_SHAPE(tree_sum, x, F64, n);
    CHECK_SHAPE(tree_sum, roots, F64, m);
    CHECK_OPTIONAL(tree_sum, at, I64, m + 1);
    CHECK_THAT(tree_sum, tensor_has(a->at) || m == 1, "at is absent, and that means one root");
    double *x = a->x.data, *roots = a->roots.data;
    const int64_t whole[2] = {0, n}, *at = tensor_has(a->at) ? a->at.data : whole;
    CHECK_THAT(tree_sum, m == 0 || (at[0] >= 0 && at[m] <= n), "at ends outside of x");
    for (int64_t i = 0; i < m; i++) {
        CHECK_THAT(tree_sum, at[i] <= at[i + 1], "at falls");
        roots[i] = tree(x + at[i], at[i + 1] - at[i]);
    }
    return OK;
}
NO_BACKWARD(tree_sum)
NO_WORK(tree_sum)
