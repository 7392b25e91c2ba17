/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/check.h"
#include <inttypes.h>
#include <stdio.h>

static const char *print_shape(char out[96], int n_dims, const int64_t *dims) {
    int n = snprintf(out, 96, "(");
    for (int i = 0; i < n_dims; i++) n += snprintf(out + n, (size_t)(96 - n), i ? ", %" PRId64 : "%" PRId64, dims[i]);
    snprintf(out + n, (size_t)(96 - n), ")");
    return out;
}

static bool same_shape(struct tensor t, int n_dims, const int64_t *dims) {
    for (int i = 0; i < 4; i++)
        if (t.shape[i] != (i < n_dims ? dims[i] : 1)) return false;
    return true;
}

/* Dims of a tensor without the trailing ones, but at least as many as expected: what a reader wants to compare. */
static int shown_dims(struct tensor t, int n_dims) {
    int n = 4;
    while (n > n_dims && t.shape[n - 1] == 1) n--;
    return n;
}

enum status check_shape(const struct ctx *c, const char *op, const char *field, struct tensor t, enum dtype type,
                        int n_dims, const int64_t *dims) {
    char found[96], expected[96];
    ASSERT(n_dims >= 1 && n_dims <= 4);
    print_shape(expected, n_dims, dims);
    FAIL_UNLESS(same_shape(t, n_dims, dims), ERR_ARG, "%s: %s has the shape %s, %s is expected", op, field,
                print_shape(found, shown_dims(t, n_dims), t.shape), expected);
    FAIL_UNLESS(t.dtype == type, ERR_ARG, "%s: %s %s is %s, %s is expected", op, field, expected, dtype_name(t.dtype),
                dtype_name(type));
    if (tensor_count(t) == 0) return OK;
    FAIL_UNLESS(tensor_has(t), ERR_ARG, "%s: %s %s is absent, and this pass needs it", op, field, expected);
    FAIL_UNLESS(t.space == c->space, ERR_ARG, "%s: %s %s lies in the %s's memory, and the op runs on the %s", op, field,
                expected, t.space == HOST ? "host" : "device", c->space == HOST ? "host" : "device");
    FAIL_UNLESS(n_dims == 2 ? t.pitch >= t.shape[1] : tensor_packed(t), ERR_ARG,
                "%s: %s %s has the row pitch %" PRId64 ": %s", op, field, expected, t.pitch,
                n_dims == 2 ? "rows would overlap" : "a packed tensor is expected");
    return OK;
}
