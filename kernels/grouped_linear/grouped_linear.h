/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_GROUPED_LINEAR_H
#define BATON_KERNELS_GROUPED_LINEAR_H
/* grouped_linear.h - one product an expert, over rows grouped by expert (group.h), none padded.
 *
 *   forward    y_i = w_e x_i                 for the rows i of expert e
 *   backward   dx_i = w_e^T dy_i  (+= when dx_add);   dw_e += sum over the rows i of expert e of dy_i x_i^T
 *   rows       section s has those of expert e at [offset_s,e, offset_s,e+1); rows of no section are left alone
 *   shapes     N rows, I inputs, O outputs, E experts, S sections; x, y, dx, dy may have a pitch
 *   types      offset I64; dw wide; the rest `real`
 *   errors     ERR_ARG: shapes or types disagree, offsets that descend or leave [0, N]
 *   absent     dx, dw: that gradient is not wanted
 *   CPU        OpenBLAS on one thread, over tiles of 256 rows by 512 (dw: 512 by 512) fixed by the rows of an expert:
 *              bits do not depend on the pool; sections of one expert are summed in their order */
#include <stdbool.h>
#include "base/ctx.h"
struct grouped_linear {
    struct tensor x, w, offset, y; /* (N, I) (E, O, I) (S, E + 1) in;  (N, O) out  */
    struct tensor dy, dx, dw;      /* (N, O) in;  (N, I) out;  (E, O, I) +=        */
    bool dx_add;
};
#endif
