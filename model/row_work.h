/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_ROW_WORK_H
#define BATON_MODEL_ROW_WORK_H
/* row_work.h - work on rows that enter or leave over tensor, done by parts so that one part travels beside the work on
 * another.  rows: on rows [begin, begin + n) of `all`, of enter when they have come, of leave before they go; each row
 * once, in the seam's order.  rest, of leave: once all are on their way, what changes none of them; NULL: nothing. */
#include "model/layer.h"

#ifdef __cplusplus
extern "C" {
#endif

struct row_work {
    enum status (*rows)(struct step *, void *arg, int64_t begin, int64_t n);
    enum status (*rest)(struct step *, void *arg);
    void *arg;
};
/* All of it at once, where nothing travels; work may be NULL. */
enum status row_work_all(struct step *s, struct tensor all, const struct row_work *work);

#ifdef __cplusplus
}
#endif
#endif
