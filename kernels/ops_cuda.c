/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ops.h"

/* No op has its CUDA twin yet: every slot fails and says so. */
#define OP(op, flags)                                                                                                  \
    static enum status op##_none(struct ctx *c, const struct op *a) {                                                  \
        (void)c, (void)a;                                                                                              \
        FAIL(ERR_CUDA, "the op " #op " has no CUDA kernel yet: run with --device cpu");                                \
    }                                                                                                                  \
    static int64_t op##_no_work(const struct ctx *c, const struct op *a) {                                             \
        (void)c, (void)a;                                                                                              \
        return 0;                                                                                                      \
    }
#include "kernels/ops.def"
#undef OP

const struct ops ops_cuda = {
    .name = "cuda",
#define OP(op, flags) .op##_fwd = op##_none, .op##_bwd = op##_none, .op##_work = op##_no_work,
#include "kernels/ops.def"
#undef OP
};
