/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/traced.h"
#include "model/seams.h"

/* The seams of a run under a trace: each is a stretch, with the ops inside it. */

#define STRETCH(name, call)                                                                                            \
    do {                                                                                                               \
        int stretch = -1;                                                                                              \
        TRY(traced_begin(s->ctx, PROF_SEAM, name, &stretch));                                                          \
        const enum status st = (call);                                                                                 \
        const enum status ended = traced_end(s->ctx, stretch);                                                         \
        return st != OK ? st : ended;                                                                                  \
    } while (0)

static enum status carry_begin(struct step *s, const struct layer *l, struct flow *f, struct carry *c) {
    STRETCH("seam carry_begin", s->traced->carry_begin(s, l, f, c));
}
static enum status carry_end(struct step *s, const struct layer *l, struct flow *f, struct carry *c) {
    STRETCH("seam carry_end", s->traced->carry_end(s, l, f, c));
}
static enum status attend_begin(struct step *s, const struct layer *l, struct flow *f, struct attend *a,
                                enum attend_when when) {
    STRETCH("seam attend_begin", s->traced->attend_begin(s, l, f, a, when));
}
static enum status attend_end(struct step *s, const struct layer *l, struct flow *f, struct attend *a,
                              enum attend_when when) {
    STRETCH("seam attend_end", s->traced->attend_end(s, l, f, a, when));
}
static enum status routed_begin(struct step *s, const struct layer *l, struct flow *f, struct routed *r,
                                enum routed_when when) {
    STRETCH("seam routed_begin", s->traced->routed_begin(s, l, f, r, when));
}
static enum status routed_end(struct step *s, const struct layer *l, struct flow *f, struct routed *r,
                              enum routed_when when) {
    STRETCH("seam routed_end", s->traced->routed_end(s, l, f, r, when));
}
static enum status enter(struct step *s, struct tensor own, struct tensor all, const struct row_work *work) {
    STRETCH("seam enter", s->traced->enter(s, own, all, work));
}
static enum status leave(struct step *s, struct tensor all, struct tensor own, const struct row_work *work) {
    STRETCH("seam leave", s->traced->leave(s, all, own, work));
}
static enum status total(struct step *s, struct tensor t, unsigned axes) {
    STRETCH("seam total", s->traced->total(s, t, axes));
}
static enum status need(struct step *s, int block) { STRETCH("seam need", s->traced->need(s, block)); }
static enum status done(struct step *s, int block) { STRETCH("seam done", s->traced->done(s, block)); }

const struct seams seams_traced = {
    .name = "traced",
    .carry_begin = carry_begin,
    .carry_end = carry_end,
    .attend_begin = attend_begin,
    .attend_end = attend_end,
    .routed_begin = routed_begin,
    .routed_end = routed_end,
    .enter = enter,
    .leave = leave,
    .total = total,
    .need = need,
    .done = done,
};
