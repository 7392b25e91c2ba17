/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_CHECK_H
#define BATON_KERNELS_CHECK_H
/* check.h - what every op does first: its tensors are there, in the context's space, of the type and shape expected.
 * Shapes are compared whole (dims not named are 1).  1-D, 3-D and 4-D tensors must be packed, rows of a 2-D one must
 * not overlap.  A tensor without elements may lack data.  Macros expect `c` (struct ctx *) and `a` (the arguments) in
 * scope. */
#include "base/ctx.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ERR_ARG with a text that names the op, the field, what was found and what was expected. */
enum status check_shape(const struct ctx *c, const char *op, const char *field, struct tensor t, enum dtype type,
                        int n_dims, const int64_t *dims);

/* a->field of the op must be `type` and have the dims that follow: CHECK_SHAPE(rmsnorm, x, REAL, T, D) */
#ifdef __cplusplus /* has no compound literals */
#define CHECK_SHAPE(op, field, type, ...)                                                                              \
    do {                                                                                                               \
        const int64_t dims_[] = {__VA_ARGS__};                                                                         \
        TRY(check_shape(c, #op, #field, a->field, (type), (int)(sizeof dims_ / sizeof *dims_), dims_));                \
    } while (0)
#else
#define CHECK_SHAPE(op, field, type, ...)                                                                              \
    TRY(check_shape(c, #op, #field, a->field, (type), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),       \
                    (const int64_t[]){__VA_ARGS__}))
#endif
/* The same, where the field may be absent. */
#define CHECK_OPTIONAL(op, field, type, ...)                                                                           \
    do {                                                                                                               \
        if (tensor_has(a->field)) CHECK_SHAPE(op, field, type, __VA_ARGS__);                                           \
    } while (0)
/* A count or option of the op: CHECK_THAT(rope, a->rot % 2 == 0, "rot is %" PRId64 ", an even number is expected", n)
 */
#define CHECK_THAT(op, cond, ...)                                                                                      \
    do {                                                                                                               \
        if (!(cond)) FAIL(ERR_ARG, #op ": " __VA_ARGS__);                                                              \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
