/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SCORES_H
#define BATON_KERNELS_SCORES_H
/* scores.h - what route and balance share: scores of one token's experts, and the rows of a sequence out of ranges. */
#include <stdbool.h>
#include "kernels/ref.h"

/* softmax(l), or sigmoid of each. */
void REF(scores)(real *s, const real *l, int64_t n, bool softmax);

/* Rows [begin, end) of sequence g of n, that is of ranges [g R/n, (g + 1) R/n); range (R + 1). */
struct stretch {
    int64_t begin, end;
};
static inline struct stretch sequence_rows(struct tensor range, int64_t n, int64_t g) {
    const int64_t *at = (const int64_t *)range.data, per = (range.shape[0] - 1) / n;
    return (struct stretch){at[g * per], at[(g + 1) * per]};
}
/* range is there, n divides R, and ranges ascend from 0 to T. */
enum status REF(sequences_check)(const struct ctx *c, const char *op, struct tensor range, int64_t n, int64_t T);
#endif
