/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_COPY_H
#define BATON_KERNELS_COPY_H
/* copy.h - rows from one view to another: packing before a message, unpacking behind it.
 *   shapes     (T, C) each, pitches allowed, no overlap;  types all `real`, or both wide
 *   errors     ERR_ARG: shapes or types disagree */
#include "base/ctx.h"
struct copy {
    struct tensor x, y; /* in; out */
};
#endif
