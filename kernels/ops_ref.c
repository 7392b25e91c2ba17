/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref.h"

const struct ops REF(ops) = {
#ifdef BATON_REAL64
    .name = "ref64",
#else
    .name = "ref",
#endif
#define OP(op, flags) .op##_fwd = REF(op##_fwd), .op##_bwd = REF(op##_bwd), .op##_work = REF(op##_work),
#include "kernels/ops.def"
#undef OP
};
