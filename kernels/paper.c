/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/paper.h"
#include <stdio.h>

static int64_t refuse(struct paper *p) {
    if (!p->refused[0]) snprintf(p->refused, sizeof p->refused, "%s", status_text());
    status_clear();
    return 0;
}

#define OP(op, flags)                                                                                                  \
    static enum status op##_paper(struct ctx *c, const struct op *a) {                                                 \
        (void)c, (void)a;                                                                                              \
        return OK;                                                                                                     \
    }                                                                                                                  \
    static int64_t op##_work_paper(const struct ctx *c, const struct op *a) {                                          \
        const int64_t bytes = c->paper->base->op##_work(c, a);                                                         \
        if (bytes >= 0) return bytes;                                                                                  \
        return refuse(c->paper);                                                                                       \
    }
#include "kernels/ops.def"
#undef OP

void paper_init(struct paper *p, const struct ops *base) {
    *p = (struct paper){.base = base, .table.name = base->name};
#define OP(op, flags)                                                                                                  \
    p->table.op##_fwd = p->table.op##_bwd = op##_paper;                                                                \
    p->table.op##_work = op##_work_paper;
#include "kernels/ops.def"
#undef OP
}

void paper_keep_products(struct paper *p) {
#define KEEP(op) p->table.op##_fwd = p->base->op##_fwd, p->table.op##_bwd = p->base->op##_bwd
    KEEP(linear);
    KEEP(head);
#undef KEEP
}
