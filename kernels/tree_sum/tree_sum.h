/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_TREE_SUM_H
#define BATON_KERNELS_TREE_SUM_H
/* tree_sum.h - sums whose order is a binary tree over their terms: of a gradient's blocks, of a loss's segments.
 *
 *   roots_i = the tree over x[at_i, at_(i+1)): pairs of neighbours, level by level, an odd one passes up; 0 where empty
 *   shapes     n numbers in m segments, which follow each other;  types x and roots F64, at I64
 *   errors     ERR_ARG: shapes or types disagree
 *   absent     at: one segment, all of x
 * x is scratch afterwards. */
#include "base/ctx.h"
struct tree_sum {
    struct tensor x, at; /* (n) in, scratch;  (m + 1) in */
    struct tensor roots; /* (m) out                      */
};
#endif
