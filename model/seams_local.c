/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/fill/fill.h"
#include "kernels/ops.h"
#include "model/seams.h"

/* One rank holds whole sequences: every range begins one, so nothing enters it and nothing is asked of what leaves. */

static enum status carry_begin(struct step *s, const struct layer *l, struct flow *f, struct carry *c) {
    (void)s, (void)l, (void)f, (void)c;
    return OK;
}

static enum status carry_end(struct step *s, const struct layer *l, struct flow *f, struct carry *c) {
    (void)l, (void)f;
    return s->ctx->ops->fill_fwd(s->ctx, &(struct fill){.x = c->entering, .value = 0.0});
}

static enum status attend_here(struct step *s, const struct layer *l, struct flow *f, struct attend *a,
                               enum attend_when when) {
    (void)s, (void)l, (void)f, (void)a, (void)when;
    return OK;
}

static enum status enter_here(struct step *s, struct tensor own, struct tensor all, const struct row_work *work) {
    ASSERT(own.data == all.data);
    return row_work_all(s, all, work);
}

static enum status leave_here(struct step *s, struct tensor all, struct tensor own, const struct row_work *work) {
    return enter_here(s, own, all, work);
}

static enum status total(struct step *s, struct tensor t, unsigned axes) {
    (void)s, (void)t, (void)axes;
    return OK;
}

static enum status block_here(struct step *s, int block) {
    (void)s, (void)block;
    return OK;
}

const struct seams seams_local = {
    .name = "local",
    .carry_begin = carry_begin,
    .carry_end = carry_end,
    .attend_begin = attend_here,
    .attend_end = attend_here,
    .routed_begin = routed_here,
    .routed_end = routed_here,
    .enter = enter_here,
    .leave = leave_here,
    .total = total,
    .need = block_here,
    .done = block_here,
};
