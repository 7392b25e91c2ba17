/* SPDX-License-Identifier: Apache-2.0 */
#include "model/block.h"
#include "kernels/add/add.h"
#include "kernels/ops.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "model/edges.h"
#include "model/seams.h"
#include "profiling/prof.h"

enum status block_declare(struct layer *l, struct params *ps) {
    struct param norm = {.shape = {l->width}, .n_dims = 1, .init = INIT_ONE};
    layer_name(l, "norm.weight", norm.name);
    for (int i = 0; i < LAYER_PARAMS; i++) l->param[i] = -1;
    TRY(param_add(ps, &norm, &l->norm));
    return l->kind->declare(l, ps);
}

/* The weights of prediction heads come and go with the ends: depths may share them. */
static enum status need(struct step *s, const struct layer *l) { return l->trunk ? OK : s->seams->need(s, l->index); }
static enum status done(struct step *s, const struct layer *l) { return l->trunk ? OK : s->seams->done(s, l->index); }

static struct rmsnorm norm_args(const struct step *s, const struct layer *l, const struct flow *f,
                                const struct saved *v) {
    return (struct rmsnorm){.x = f->x,
                            .w = s->params->list[l->norm].w,
                            .y = v->slot[FRAME_H].t,
                            .r = v->slot[FRAME_R].t,
                            .dy = f->dh_own,
                            .dx = f->dx,
                            .dw = s->params->list[l->norm].g,
                            .eps = l->norm_eps,
                            .dx_add = true};
}

/* The frame comes first, so that FRAME_X has one offset in all layers: forward-only passes lay them over each other. */
enum status block_plan(struct plan *p, const struct layer *l) {
    const bool ranks = layer_ranks(l) > 1;
    plan_slot(p, FRAME_X, "x", KEEP_INPUT, p->n_own, l->width, 1, 1);
    plan_slot(p, FRAME_H, "h", ranks ? KEEP_SCRATCH : KEEP_CHEAP, p->n_own, l->width, 1, 1);
    plan_wide(p, FRAME_R, "r", KEEP_CHEAP, p->n_own, 1, 1, 1);
    if (ranks) plan_slot(p, FRAME_ALL, "h of all", KEEP_CHEAP, p->n_tokens, l->width, 1, 1);
    const struct rmsnorm a = norm_args(p->step, l, p->flow, p->saved);
    plan_work(p, p->ctx->ops->rmsnorm_work(p->ctx, &a));
    return l->kind->plan(p, l);
}

struct tensor block_h(const struct layer *l, const struct saved *v) {
    return v->slot[layer_ranks(l) > 1 ? FRAME_ALL : FRAME_H].t;
}

/* Own rows enter and leave also where a layer runs again, unless it kept all that entered, or nobody reads what would
 * leave. */
static enum status forward(struct step *s, const struct layer *l, struct flow *f, struct saved *v,
                           struct tensor x_next) {
    const struct rmsnorm a = norm_args(s, l, f, v);
    const bool enters = layer_ranks(l) == 1 || !layer_has(s, v, FRAME_ALL), edges = l->kind->edges;
    TRY(s->ctx->ops->rmsnorm_fwd(s->ctx, &a));
    f->h = block_h(l, v);
    f->h_own = a.y;
    f->edges = edges ? (enters ? EDGE_H : 0u) | (s->y_unused ? 0u : EDGE_Y) : 0u;
    if (enters && !edges) TRY(edge_seams(s)->enter(s, f->h_own, f->h, NULL));
    TRY(l->kind->forward(s, l, f, v));
    ASSERT(f->edges == 0);
    if (s->y_unused) return OK;
    if (!edges) TRY(edge_seams(s)->leave(s, f->y, f->y_own, NULL));
    return s->ctx->ops->add_fwd(s->ctx, &(struct add){.x = f->x, .y = f->y_own, .out = x_next, .scale = 1.0});
}

enum status block_forward(struct step *s, const struct layer *l, struct flow *f, struct saved *v,
                          struct tensor x_next) {
    prof_begin(PROF_LAYER, l->kind->name);
    enum status st = need(s, l);
    if (st == OK) st = forward(s, l, f, v, x_next);
    prof_end();
    return st;
}

enum status block_again(struct step *s, const struct layer *l, struct flow *f, struct saved *v, struct tensor x_next) {
    struct step again = *s;
    again.seams = &seams_replay;
    again.frame = s->seams;
    again.again = true;
    again.y_unused = !tensor_has(x_next);
    prof_begin(PROF_LAYER, "again");
    f->x = v->slot[FRAME_X].t;
    enum status st = need(s, l);
    if (st == OK) st = forward(&again, l, f, v, x_next);
    prof_end();
    return st;
}

static enum status backward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    TRY(need(s, l));
    f->x = v->slot[FRAME_X].t;
    f->h = block_h(l, v);
    f->edges = l->kind->edges ? EDGE_DY | EDGE_DH : 0u;
    if (!l->kind->edges) TRY(s->seams->enter(s, f->dx, f->dy, NULL));
    TRY(l->kind->backward(s, l, f, v));
    ASSERT(f->edges == 0);
    if (!l->kind->edges) TRY(s->seams->leave(s, f->dh, f->dh_own, NULL));
    const struct rmsnorm a = norm_args(s, l, f, v);
    TRY(s->ctx->ops->rmsnorm_bwd(s->ctx, &a));
    return done(s, l);
}

enum status block_backward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    prof_begin(PROF_LAYER, l->kind->name);
    const enum status st = backward(s, l, f, v);
    prof_end();
    return st;
}
