/* SPDX-License-Identifier: Apache-2.0 */
#include "model/row_work.h"

enum status row_work_all(struct step *s, struct tensor all, const struct row_work *work) {
    if (!work) return OK;
    TRY(work->rows(s, work->arg, 0, all.shape[0]));
    return work->rest ? work->rest(s, work->arg) : OK;
}
