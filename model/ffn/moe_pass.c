/* SPDX-License-Identifier: Apache-2.0 */
#include "model/ffn/moe.h"
#include "kernels/balance/balance.h"
#include "kernels/combine/combine.h"
#include "kernels/fill/fill.h"
#include "kernels/group/group.h"
#include "kernels/grouped_linear/grouped_linear.h"
#include "kernels/limit/limit.h"
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
#include "kernels/route/route.h"

/* ---- arguments of the ops ---- */

struct moe {
    struct linear router, latent_in, latent_out, shared_up, shared_down;
    struct route route;
    struct balance balance;
    struct group group;
    struct combine spread, gather; /* tokens to rows, by the transpose; weighted rows to tokens */
    struct routed rows;
    struct activation act, shared_act;
};

static struct linear linear_of(const struct step *s, const struct layer *l, int slot, struct tensor x, struct tensor y,
                               struct tensor dy, struct tensor dx) {
    return (struct linear){.x = x, .w = layer_w(s, l, slot), .y = y, .dy = dy, .dx = dx, .dw = layer_g(s, l, slot)};
}

static void router_args(struct moe *m, const struct step *s, const struct layer *l, const struct flow *f,
                        const struct saved *v) {
    const struct moe_config *c = l->config;
    const struct saved_slot *t = v->slot;
    m->router = linear_of(s, l, W_ROUTER, f->h, t[S_LOGITS].t, t[S_DLOGITS].t, f->dh);
    m->router.wide = true;            /* near ties, a rounding would choose */
    m->router.dx_add = c->shared > 0; /* dh begins with the shared experts' */
    m->route = (struct route){.scores = (enum route_scores)c->scores,
                              .groups = c->groups,
                              .top_groups = c->top_groups,
                              .renormalise = c->renormalise,
                              .scale = c->scale,
                              .logits = t[S_LOGITS].t,
                              .bias = layer_w(s, l, W_BIAS),
                              .range = f->shard->range,
                              .ids = t[S_IDS].t,
                              .w = t[S_W].t,
                              .dw = t[S_DW].t,
                              .dlogits = t[S_DLOGITS].t};
    m->balance = (struct balance){.scores = m->route.scores,
                                  .aux = c->aux_loss * s->token_scale,
                                  .z = c->z_loss * s->token_scale,
                                  .logits = t[S_LOGITS].t,
                                  .range = f->shard->range,
                                  .load = t[S_LOAD].t,
                                  .loss = s->aux,
                                  .dlogits = t[S_DLOGITS].t};
    m->group =
        (struct group){.ids = c->capacity ? t[S_TAKEN].t : t[S_IDS].t, .row = t[S_ROW].t, .offset = t[S_OFFSET].t};
    if (s->ctx->exact) m->group.range = f->shard->range;
}

/* Rows of my tokens, and of my experts.  Tokens' rows stay where their gradients will be: a round's are gone when those
 * come (but rows that nobody takes stay, and their gradients are zero).  What the experts say of a round leaves before
 * its gradients come. */
static void rows_args(struct moe *m, const struct moe_config *c, const struct flow *f, const struct saved *v) {
    const struct saved_slot *t = v->slot;
    struct routed *r = &m->rows;
    const struct tensor offset = tensor_cols(t[S_OFFSET].t, 0, c->experts + 1);
    *r = (struct routed){.home = {offset, t[S_X].t, t[S_Y].t, t[S_DY].t, t[S_DX].t}, .n_rounds = 1};
    r->guest = r->home;
    r->rows_most = r->n_rows = t[S_X].t.shape[0];
    if (!f->shard->guests) return;
    r->home.x = c->capacity ? t[S_HOME_X].t : t[S_DX].t;
    r->guest.y = r->guest.dy = t[S_GUEST_DY].t;
    r->guest.dx = t[S_GUEST_DX].t;
    r->offsets = t[S_GUEST_OFFSET].t;
    r->guest.offset = tensor_rows(r->offsets, 0, f->shard->guests->sections);
    r->n_rounds = v->n_rounds;
    r->n_rows = v->n_guests;
}

/* The arguments of the round's experts: as many rows as have come. */
static void narrow(struct moe *m, const struct saved *v) {
    const struct saved_slot *t = v->slot;
    struct routed *r = &m->rows;
    const int64_t n = r->n_rows, S = r->guest.offset.shape[0];
    struct tensor *const rows[] = {&r->guest.x, &r->guest.y, &r->guest.dy, &r->guest.dx};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) rows[i]->shape[0] = n;
    m->act.h = tensor_rows(t[S_UP].t, 0, n);
    m->act.y = tensor_rows(t[S_ACT].t, 0, n);
    m->act.dh = tensor_rows(t[S_DUP].t, 0, n);
    m->act.dy = tensor_rows(t[S_DACT].t, 0, n);
    if (tensor_has(r->offsets)) r->guest.offset = tensor_rows(r->offsets, r->round * S, S);
}

/* This rank's columns of a latent tensor. */
static struct tensor mine(const struct layer *l, struct tensor t) {
    const int64_t n = t.shape[1] / layer_ranks(l);
    return t.shape[0] > 0 ? tensor_cols(t, l->split.at[SPLIT_TENSOR] * n, n) : t;
}

static void expert_args(struct moe *m, const struct step *s, const struct layer *l, const struct flow *f,
                        const struct saved *v) {
    const struct moe_config *c = l->config;
    const struct saved_slot *t = v->slot;
    const bool latent = c->latent > 0;
    m->latent_in = linear_of(s, l, W_LATENT_IN, f->h, mine(l, t[S_LATENT].t), mine(l, t[S_DLATENT].t), f->dh);
    m->latent_out = linear_of(s, l, W_LATENT_OUT, mine(l, t[S_SUM].t), f->y, f->dy, mine(l, t[S_DSUM].t));
    m->latent_in.dx_add = true;
    m->latent_out.add = c->shared > 0; /* y begins with the shared experts' */
    rows_args(m, c, f, v);
    m->spread = (struct combine){.x = m->rows.home.dx,
                                 .row = t[S_ROW].t,
                                 .y = latent ? t[S_DLATENT].t : f->dh,
                                 .dy = latent ? t[S_LATENT].t : f->h,
                                 .dx = m->rows.home.x,
                                 .add = !latent};
    m->gather = (struct combine){.x = m->rows.home.y,
                                 .w = t[S_W].t,
                                 .row = t[S_ROW].t,
                                 .y = latent ? t[S_SUM].t : f->y,
                                 .dy = latent ? t[S_DSUM].t : f->dy,
                                 .dx = m->rows.home.dy,
                                 .dw = t[S_DW].t,
                                 .add = !latent && c->shared > 0};
    m->act = (struct activation){.kind = (enum activation_kind)c->activation,
                                 .h = t[S_UP].t,
                                 .y = t[S_ACT].t,
                                 .dy = t[S_DACT].t,
                                 .dh = t[S_DUP].t};
}

static void moe_args(struct moe *m, const struct step *s, const struct layer *l, const struct flow *f,
                     const struct saved *v) {
    const struct moe_config *c = l->config;
    const struct saved_slot *t = v->slot;
    *m = (struct moe){0};
    router_args(m, s, l, f, v);
    expert_args(m, s, l, f, v);
    m->shared_up = linear_of(s, l, W_SHARED_UP, f->h, t[S_SHARED_UP].t, t[S_SHARED_DUP].t, f->dh);
    m->shared_down = linear_of(s, l, W_SHARED_DOWN, t[S_SHARED_ACT].t, f->y, f->dy, t[S_SHARED_DACT].t);
    m->shared_act = (struct activation){.kind = (enum activation_kind)c->activation,
                                        .h = t[S_SHARED_UP].t,
                                        .y = t[S_SHARED_ACT].t,
                                        .dy = t[S_SHARED_DACT].t,
                                        .dh = t[S_SHARED_DUP].t};
}

/* gate and up lie side by side in the rows of S_UP, as the activation wants them; alone, up has them all. */
static struct grouped_linear up_args(const struct step *s, const struct layer *l, const struct moe *m, int slot) {
    const int64_t F = ((const struct moe_config *)l->config)->hidden, at = slot == W_UP ? m->act.h.shape[1] - F : 0;
    return (struct grouped_linear){.x = m->rows.guest.x,
                                   .w = layer_w(s, l, slot),
                                   .offset = m->rows.guest.offset,
                                   .y = tensor_cols(m->act.h, at, F),
                                   .dy = tensor_cols(m->act.dh, at, F),
                                   .dx = m->rows.guest.dx,
                                   .dw = layer_g(s, l, slot),
                                   .dx_add = at > 0};
}

static struct grouped_linear down_args(const struct step *s, const struct layer *l, const struct moe *m) {
    return (struct grouped_linear){.x = m->act.y,
                                   .w = layer_w(s, l, W_DOWN),
                                   .offset = m->rows.guest.offset,
                                   .y = m->rows.guest.y,
                                   .dy = m->rows.guest.dy,
                                   .dx = m->act.dy,
                                   .dw = layer_g(s, l, W_DOWN)};
}

/* ---- plan ---- */

#define WORK(op, args) plan_work(p, p->ctx->ops->op##_work(p->ctx, (args)))
enum status moe_plan(struct plan *p, const struct layer *l) {
    const struct moe_config *c = l->config;
    struct moe m;
    moe_plan_slots(p, l);
    moe_args(&m, p->step, l, p->flow, p->saved);
    const struct grouped_linear gate = up_args(p->step, l, &m, W_GATE), up = up_args(p->step, l, &m, W_UP),
                                down = down_args(p->step, l, &m);
    WORK(linear, &m.router);
    WORK(route, &m.route);
    WORK(group, &m.group);
    WORK(combine, &m.spread);
    WORK(combine, &m.gather);
    if (moe_gated(c)) WORK(grouped_linear, &gate);
    WORK(grouped_linear, &up);
    WORK(grouped_linear, &down);
    WORK(activation, &m.act);
    if (moe_balances(c)) WORK(balance, &m.balance);
    if (c->latent) {
        WORK(linear, &m.latent_in);
        WORK(linear, &m.latent_out);
    }
    if (!c->shared) return OK;
    WORK(linear, &m.shared_up);
    WORK(linear, &m.shared_down);
    WORK(activation, &m.shared_act);
    return OK;
}

/* ---- forward ---- */

static struct tensor load_row(const struct step *s, const struct layer *l) {
    struct tensor t = s->load;
    if (s->again || s->forward_only || !tensor_has(t)) return (struct tensor){0};
    return tensor_1d((double *)t.data + l->index * t.pitch, F64, ((const struct moe_config *)l->config)->experts);
}

/* Of this layer's counts: the experts', or the number of dropped choices behind them. */
static struct tensor dropped_here(const struct step *s, const struct layer *l) {
    struct tensor t = s->load;
    if (s->again || s->forward_only || !tensor_has(t)) return (struct tensor){0};
    t.data = (double *)t.data + l->index * t.pitch + t.shape[1] - 1;
    return tensor_like(t, t.data, 1, 1);
}

/* Experts take the first tokens of a sequence: what they got in the ranges before this one is a sum, carried on. */
static enum status limit(struct step *s, const struct layer *l, struct flow *f, const struct saved *v) {
    const struct ops *ops = s->ctx->ops;
    const struct saved_slot *t = v->slot;
    const int64_t R = t[S_COUNT].t.shape[0], E = t[S_COUNT].t.shape[3];
    struct limit a = {.capacity = ((const struct moe_config *)l->config)->capacity,
                      .ids = t[S_IDS].t,
                      .range = f->shard->range,
                      .count = tensor_like(t[S_COUNT].t, t[S_COUNT].t.data, R, E)};
    struct carry c = {.op = CARRY_AFFINE,
                      .to = CARRY_FORWARD,
                      .decay = tensor_like(t[S_DECAY].t, t[S_DECAY].t.data, R, 1),
                      .state = t[S_COUNT].t,
                      .entering = t[S_BEFORE].t};
    if (!s->again) {
        TRY(ops->limit_fwd(s->ctx, &a));
        TRY(ops->fill_fwd(s->ctx, &(struct fill){.x = c.decay, .value = 1.0}));
        TRY(s->seams->carry_begin(s, l, f, &c));
        TRY(s->seams->carry_end(s, l, f, &c));
    }
    a.entering = tensor_like(t[S_BEFORE].t, t[S_BEFORE].t.data, R, E);
    a.taken = t[S_TAKEN].t;
    a.dropped = dropped_here(s, l);
    return ops->limit_fwd(s->ctx, &a);
}

/* Choices, and their rows.  The counts of whole sequences are what other ranks add: they are kept, not counted again.
 */
static enum status choose(struct step *s, const struct layer *l, struct flow *f, const struct saved *v, struct moe *m) {
    const struct ops *ops = s->ctx->ops;
    const bool count = moe_balances(l->config) && !s->forward_only && !s->again;
    if (!layer_has(s, v, S_LOGITS)) TRY(ops->linear_fwd(s->ctx, &m->router));
    m->route.load = load_row(s, l);
    m->route.load.space = s->ctx->space;
    if (count) m->route.count = m->balance.load;
    TRY(ops->route_fwd(s->ctx, &m->route));
    if (((const struct moe_config *)l->config)->capacity) TRY(limit(s, l, f, v));
    TRY(ops->group_fwd(s->ctx, &m->group));
    if (!count) return OK;
    TRY(s->seams->total(s, m->balance.load, AXIS_SEQ));
    return tensor_has(s->aux) ? ops->balance_fwd(s->ctx, &m->balance) : OK;
}

static enum status zero(struct step *s, struct tensor x) {
    return s->ctx->ops->fill_fwd(s->ctx, &(struct fill){.x = x, .value = 0.0});
}

/* A latent tensor is made of the ranks' columns. */
static enum status latent_op(struct step *s, const struct layer *l, const struct saved *v, struct tensor t,
                             const struct linear *a, enum status (*op)(struct ctx *, const struct linear *)) {
    if (layer_ranks(l) > 1) TRY(zero(s, t));
    TRY(op(s->ctx, a));
    return layer_sum(s, l, t, v->slot[S_SHARE].t);
}

/* Section by section where the expert that does not exist stands between them. */
static enum status grouped_fwd(struct step *s, const struct grouped_linear *a) {
    struct grouped_linear one = *a;
    if (tensor_packed(a->offset)) return s->ctx->ops->grouped_linear_fwd(s->ctx, a);
    for (int64_t i = 0; i < a->offset.shape[0]; i++) {
        one.offset = tensor_rows(a->offset, i, 1);
        TRY(s->ctx->ops->grouped_linear_fwd(s->ctx, &one));
    }
    return OK;
}

static enum status experts_inner(struct step *s, const struct layer *l, const struct saved *v, const struct moe *m) {
    const struct ops *ops = s->ctx->ops;
    const struct grouped_linear gate = up_args(s, l, m, W_GATE), up = up_args(s, l, m, W_UP);
    if (!layer_has(s, v, S_UP)) {
        if (moe_gated(l->config)) TRY(grouped_fwd(s, &gate));
        TRY(grouped_fwd(s, &up));
    }
    return ops->activation_fwd(s->ctx, &m->act);
}

static enum status experts(struct step *s, const struct layer *l, const struct saved *v, const struct moe *m) {
    const struct grouped_linear down = down_args(s, l, m);
    TRY(experts_inner(s, l, v, m));
    return layer_has(s, v, S_Y) ? OK : grouped_fwd(s, &down);
}

static enum status shared_inner(struct step *s, const struct layer *l, const struct saved *v, const struct moe *m) {
    if (!((const struct moe_config *)l->config)->shared) return OK;
    if (!layer_has(s, v, S_SHARED_UP)) TRY(s->ctx->ops->linear_fwd(s->ctx, &m->shared_up));
    return s->ctx->ops->activation_fwd(s->ctx, &m->shared_act);
}

static enum status shared_out(struct step *s, const struct layer *l, const struct moe *m) {
    if (!((const struct moe_config *)l->config)->shared || s->y_unused) return OK;
    return s->ctx->ops->linear_fwd(s->ctx, &m->shared_down);
}

static enum status travel(struct step *s, const struct layer *l, struct flow *f, struct moe *m, enum routed_when when) {
    TRY(s->seams->routed_begin(s, l, f, &m->rows, when));
    return s->seams->routed_end(s, l, f, &m->rows, when);
}

/* Of several rounds only the last one's rows are still there when the layer is computed again: backward has them all
 * come, and what the experts said of them is kept. */
static enum status rounds(struct step *s, const struct layer *l, struct flow *f, const struct saved *v, struct moe *m) {
    struct routed *r = &m->rows;
    const bool gone = s->again && r->n_rounds > 1;
    for (r->round = 0; r->round < r->n_rounds; r->round++) {
        TRY(s->seams->routed_begin(s, l, f, r, DISPATCH_X));
        if (r->round == 0) TRY(shared_inner(s, l, v, m));
        TRY(s->seams->routed_end(s, l, f, r, DISPATCH_X));
        narrow(m, v);
        if (!gone) TRY(experts(s, l, v, m));
        TRY(s->seams->routed_begin(s, l, f, r, COMBINE_Y));
        if (r->round == 0) TRY(shared_out(s, l, m));
        TRY(s->seams->routed_end(s, l, f, r, COMBINE_Y));
    }
    return OK;
}

enum status moe_forward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    const struct moe_config *c = l->config;
    const struct ops *ops = s->ctx->ops;
    struct moe m;
    moe_args(&m, s, l, f, v);
    TRY(choose(s, l, f, v, &m));
    TRY(s->seams->routed_begin(s, l, f, &m.rows, ROUTED_COUNTS));
    if (c->latent && !layer_has(s, v, S_LATENT))
        TRY(latent_op(s, l, v, v->slot[S_LATENT].t, &m.latent_in, ops->linear_fwd));
    if (!s->again || !f->shard->guests) TRY(ops->combine_bwd(s->ctx, &m.spread));
    TRY(s->seams->routed_end(s, l, f, &m.rows, ROUTED_COUNTS));
    if (c->capacity && !layer_has(s, v, S_Y)) TRY(zero(s, m.rows.home.y));
    TRY(rounds(s, l, f, v, &m));
    v->n_rounds = m.rows.n_rounds;
    v->n_guests = m.rows.n_rows;
    if (c->latent ? !layer_has(s, v, S_SUM) : !s->y_unused) {
        TRY(ops->combine_fwd(s->ctx, &m.gather));
        if (c->latent) TRY(layer_sum(s, l, v->slot[S_SUM].t, v->slot[S_SHARE].t));
    }
    return c->latent && !s->y_unused ? ops->linear_fwd(s->ctx, &m.latent_out) : OK;
}

/* ---- backward ---- */

static enum status experts_back(struct step *s, const struct layer *l, const struct moe *m) {
    const struct ops *ops = s->ctx->ops;
    const struct grouped_linear gate = up_args(s, l, m, W_GATE), up = up_args(s, l, m, W_UP), down = down_args(s, l, m);
    TRY(ops->grouped_linear_bwd(s->ctx, &down));
    TRY(ops->activation_bwd(s->ctx, &m->act));
    if (moe_gated(l->config)) TRY(ops->grouped_linear_bwd(s->ctx, &gate));
    return ops->grouped_linear_bwd(s->ctx, &up);
}

static enum status shared_back(struct step *s, const struct layer *l, const struct moe *m) {
    if (!((const struct moe_config *)l->config)->shared) return OK;
    TRY(s->ctx->ops->linear_bwd(s->ctx, &m->shared_down));
    TRY(s->ctx->ops->activation_bwd(s->ctx, &m->shared_act));
    return s->ctx->ops->linear_bwd(s->ctx, &m->shared_up);
}

static enum status router_back(struct step *s, const struct layer *l, const struct moe *m) {
    TRY(s->ctx->ops->route_bwd(s->ctx, &m->route));
    if (moe_balances(l->config) && l->split.at[SPLIT_TENSOR] == 0) /* what each has whole counts once in the sum */
        TRY(s->ctx->ops->balance_bwd(s->ctx, &m->balance));
    return s->ctx->ops->linear_bwd(s->ctx, &m->router);
}

/* A round's tokens once more: its rows, and what is inside the experts. */
static enum status come_again(struct step *s, const struct layer *l, struct flow *f, const struct saved *v,
                              struct moe *m) {
    TRY(travel(s, l, f, m, DISPATCH_X));
    narrow(m, v);
    return experts_inner(s, l, v, m);
}

static enum status rounds_back(struct step *s, const struct layer *l, struct flow *f, const struct saved *v,
                               struct moe *m) {
    struct routed *r = &m->rows;
    const bool again = r->n_rounds > 1;
    if (again) TRY(s->ctx->ops->combine_bwd(s->ctx, &m->spread));
    for (r->round = 0; r->round < r->n_rounds; r->round++) {
        if (again) TRY(come_again(s, l, f, v, m));
        TRY(s->seams->routed_begin(s, l, f, r, DISPATCH_DY));
        if (r->round == 0) TRY(shared_back(s, l, m));
        TRY(s->seams->routed_end(s, l, f, r, DISPATCH_DY));
        narrow(m, v);
        TRY(experts_back(s, l, m));
        TRY(s->seams->routed_begin(s, l, f, r, COMBINE_DX));
        if (r->round == 0) TRY(router_back(s, l, m));
        TRY(s->seams->routed_end(s, l, f, r, COMBINE_DX));
    }
    return OK;
}

enum status moe_backward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    const struct moe_config *c = l->config;
    const struct ops *ops = s->ctx->ops;
    struct moe m;
    moe_args(&m, s, l, f, v);
    if (c->latent) TRY(latent_op(s, l, v, v->slot[S_DSUM].t, &m.latent_out, ops->linear_bwd));
    TRY(ops->combine_bwd(s->ctx, &m.gather));
    if (c->capacity) TRY(zero(s, m.rows.home.dx));
    TRY(rounds_back(s, l, f, v, &m));
    TRY(ops->combine_fwd(s->ctx, &m.spread));
    if (!c->latent) return OK;
    TRY(layer_sum(s, l, v->slot[S_DLATENT].t, v->slot[S_SHARE].t));
    return ops->linear_bwd(s->ctx, &m.latent_in);
}
