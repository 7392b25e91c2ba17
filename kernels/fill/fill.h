/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_FILL_H
#define BATON_KERNELS_FILL_H
/* fill.h - every element of x becomes value.
 *   shapes     any, rows with a pitch allowed;  types `real`, wide or F64
 *   errors     ERR_ARG: the type is neither */
#include "base/ctx.h"
struct fill {
    struct tensor x; /* out */
    double value;
};
#endif
