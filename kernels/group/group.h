/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_GROUP_H
#define BATON_KERNELS_GROUP_H
/* group.h - choices of experts as rows grouped by expert, without padding.
 *
 * The T k choices become T k rows: section by section, in a section expert by expert, of one expert in the order of the
 * tokens (of one token's equal choices: in the order of its columns).  A section is a stretch of tokens, so section s
 * has the rows [k range_s, k range_{s+1}).
 *
 *   row        (T, k) the row of each choice: every row once
 *   offset     (S, E + 1) the first row of each expert; at E the end of the section
 *   shapes     T tokens, k choices of each, E experts, S sections
 *   types      ids I32; the rest I64
 *   errors     ERR_ARG: shapes, types or ranges disagree.  ERR_DATA: an id outside [0, E), named with its position
 *   absent     range: one section of all tokens
 *   CPU        one thread counts and places: 8 bytes a choice are written */
#include "base/ctx.h"
struct group {
    struct tensor ids, range;  /* (T, k) (S + 1) in      */
    struct tensor row, offset; /* (T, k) (S, E + 1) out  */
};
#endif
