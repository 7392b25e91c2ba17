/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_RANGES_H
#define BATON_KERNELS_RANGES_H
/* ranges.h - a rank's token ranges, cut into pieces of work for the CPU path.
 *
 * Rows [range_r, range_{r+1}) are consecutive tokens of one sequence.  pos counts tokens since the document's start, so
 * inside a range it is 0 or one more than the row before. */
#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

struct span {
    int64_t range, begin, end; /* rows [begin, end), all of one range                                      */
    int64_t enter;             /* rows from begin on that continue the document of the row before begin    */
    int64_t last;              /* first row, counted from begin, of the document that the last row is of   */
};

/* ERR_ARG, naming the op: range must ascend from 0 to the T rows of pos, and pos must count as said above. */
enum status ranges_check(const char *op, struct tensor range, struct tensor pos);
/* Most spans of `step` rows that T tokens in R ranges can make. */
int64_t spans_max(int64_t n_tokens, int64_t n_ranges, int64_t step);
/* Cut every range into spans of `step` rows from its start, the last one shorter.  out: room for the spans; first: (R +
 * 1), the number of each range's first span.  Either may be NULL.  Returns the number of spans. */
int64_t spans_cut(struct tensor range, struct tensor pos, int64_t step, struct span *out, int64_t *first);

#ifdef __cplusplus
}
#endif
#endif
