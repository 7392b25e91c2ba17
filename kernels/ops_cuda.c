/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ops.h"

/* A stub fails and says so; without CUDA every op is one. */
#define NONE(op)                                                                                                       \
    static enum status op##_none(struct ctx *c, const struct op *a) {                                                  \
        (void)c, (void)a;                                                                                              \
        FAIL(ERR_CUDA, "the op " #op " has no CUDA kernel in this program: run with --device cpu");                    \
    }                                                                                                                  \
    static int64_t op##_no_work(const struct ctx *c, const struct op *a) {                                             \
        return op##_none((struct ctx *)c, a) == OK ? 0 : -1;                                                           \
    }
#define TWIN_OF(op)                                                                                                    \
    enum status op##_fwd_cuda(struct ctx *, const struct op *);                                                        \
    enum status op##_bwd_cuda(struct ctx *, const struct op *);                                                        \
    int64_t op##_work_cuda(const struct ctx *, const struct op *);

#define STUB(op) NONE(op)
#ifdef BATON_CUDA
#define TWIN(op) TWIN_OF(op)
#else
#define TWIN(op) NONE(op)
#endif
#define TWIN_F32(op) TWIN(op)
#include "kernels/ops_cuda.def"
#undef STUB
#undef TWIN

#define NONE_ROW(op) .op##_fwd = op##_none, .op##_bwd = op##_none, .op##_work = op##_no_work,
#define TWIN_ROW(op) .op##_fwd = op##_fwd_cuda, .op##_bwd = op##_bwd_cuda, .op##_work = op##_work_cuda,
const struct ops ops_cuda = {
    .name = "cuda",
#define STUB(op) NONE_ROW(op)
#ifdef BATON_CUDA
#define TWIN(op) TWIN_ROW(op)
#else
#define TWIN(op) NONE_ROW(op)
#endif
#include "kernels/ops_cuda.def"
#undef STUB
#undef TWIN
#undef TWIN_F32
};

/* No slot is NULL: each op of ops.def has a row here, and none has two (a slot set twice does not compile). */
#define OP(op, flags) +1
#define STUB(op)      -1
#define TWIN(op)      -1
#define TWIN_F32(op)  -1
_Static_assert(0
#include "kernels/ops.def"
#include "kernels/ops_cuda.def"
                   == 0,
               "kernels/ops_cuda.def needs one row for every op of kernels/ops.def");
