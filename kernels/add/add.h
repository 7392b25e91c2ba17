/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ADD_H
#define BATON_KERNELS_ADD_H
/* add.h - out = x + scale y, elementwise: the residual sum.
 *   shapes     (T, C) each, pitches allowed; out may be x or y;  types all `real`, all wide, or all F64 (totals)
 *   errors     ERR_ARG: shapes or types disagree */
#include "base/ctx.h"
struct add {
    struct tensor x, y, out;
    double scale;
};
#endif
