/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_CAST_H
#define BATON_KERNELS_CAST_H
/* cast.h - rows in another type: `real` made wide, exactly, or wide rounded to nearest `real`, ties to even.
 *   shapes     (T, C) each, pitches allowed, no overlap;  types one `real`, the other wide (on the CPU: a copy)
 *   errors     ERR_ARG: shapes or types disagree */
#include "base/ctx.h"
struct cast {
    struct tensor x, y; /* in; out */
};
#endif
