/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_OPS_H
#define BATON_KERNELS_OPS_H
/* ops.h - the table of ops made from ops.def.
 *
 * ops_ref and ops_ref64 are one C source compiled with `real` = float and double: the meaning, and the CPU path.
 * ops_cuda holds the CUDA twins.  No slot is NULL: what does not exist is a stub that fails and says so.
 *   <op>_fwd, <op>_bwd   the two passes; each reads the same struct of arguments
 *   <op>_work            bytes of ctx->work that a pass takes for arguments of these shapes (data may be NULL), so
 *                        that memory is planned before it is allocated; -1: there is no kernel of these shapes, and
 *                        status_text says which there are */
#include "base/ctx.h"

#ifdef __cplusplus
extern "C" {
#endif

enum op_flag { BWD = 1, GRAD = 2, INTS = 4, INPLACE = 8 };

#define OP(op, flags) struct op;
#include "kernels/ops.def"
#undef OP

struct ops {
    const char *name; /* "ref", "ref64", "cuda" */
#define OP(op, flags)                                                                                                  \
    enum status (*op##_fwd)(struct ctx *, const struct op *);                                                          \
    enum status (*op##_bwd)(struct ctx *, const struct op *);                                                          \
    int64_t (*op##_work)(const struct ctx *, const struct op *);
#include "kernels/ops.def"
#undef OP
};

extern const struct ops ops_ref, ops_ref64, ops_cuda;

#ifdef __cplusplus
}
#endif
#endif
