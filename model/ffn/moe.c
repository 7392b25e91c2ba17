/* SPDX-License-Identifier: Apache-2.0 */
/* Mixture of experts: y_t = sum over the chosen j of w_tj expert_j(u_t), and shared experts beside them.
 *
 * An expert is down(act(up(u))), with SwiGLU down(silu(gate(u)) up(u)).  u is h, or with a latent projection a narrower
 * vector, and y then a projection of the sum.  Every choice is a row of its own: T k rows, grouped by expert, none
 * padded and none dropped, so memory is planned for any routing.  Router and shared experts see h whole. */
#include <stdio.h>
#include "kernels/activation/activation.h"
#include "kernels/balance/balance.h"
#include "kernels/combine/combine.h"
#include "kernels/fill/fill.h"
#include "kernels/group/group.h"
#include "kernels/grouped_linear/grouped_linear.h"
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
#include "kernels/route/route.h"
#include "model/seams.h"

enum over { OVER_SEQUENCE, OVER_BATCH };
struct moe_config {
    int64_t experts, top_k, hidden, shared, latent, groups, top_groups;
    int activation, scores, aux_over; /* enum activation_kind, route_scores, over */
    bool renormalise, bias;
    double scale, bias_rate, aux_loss, z_loss;
};
enum { W_ROUTER, W_BIAS, W_GATE, W_UP, W_DOWN, W_SHARED_UP, W_SHARED_DOWN, W_LATENT_IN, W_LATENT_OUT };
/* Slots: of forward, then of backward alone. */
enum { S_LOGITS, S_W, S_IDS, S_ROW, S_OFFSET, S_LOAD, S_LATENT, S_X, S_UP, S_ACT, S_Y, S_SUM, S_SHARED_UP };
enum { S_SHARED_ACT = S_SHARED_UP + 1, S_DLOGITS, S_DW, S_DLATENT, S_DSUM, S_DX, S_DUP, S_DACT, S_DY };
enum { S_SHARED_DUP = S_DY + 1, S_SHARED_DACT, S_SHARE };

#define AT(member) offsetof(struct moe_config, member)
static const struct field moe_fields[] = {
    {"experts", FIELD_INT, AT(experts), NULL, 1, ROUTE_EXPERTS_MAX, NULL, "experts that tokens choose among", false},
    {"top_k", FIELD_INT, AT(top_k), NULL, 1, ROUTE_EXPERTS_MAX, NULL, "experts of one token", false},
    {"hidden", FIELD_INT, AT(hidden), NULL, 1, 1e9, NULL, "channels between up and down of one expert", false},
    {"activation", FIELD_CHOICE, AT(activation), "swiglu", 0, 0, ACTIVATION_CHOICES,
     "what stands between up and down of all experts", false},
    {"shared", FIELD_INT, AT(shared), "0", 0, 1e9, NULL, "hidden channels of the experts all tokens share; 0: none",
     false},
    {"latent", FIELD_INT, AT(latent), "0", 0, 1e9, NULL, "channels that chosen experts see; 0: the model's width",
     false},
    {"scores", FIELD_CHOICE, AT(scores), "softmax", 0, 0, ROUTE_SCORES, "of the router's logits", false},
    {"renormalise", FIELD_BOOL, AT(renormalise), "false", 0, 0, NULL, "weights of a token's experts sum to 1", false},
    {"scale", FIELD_REAL, AT(scale), "1", 0, 1e6, NULL, "factor on the weights", false},
    {"groups", FIELD_INT, AT(groups), "1", 1, ROUTE_EXPERTS_MAX, NULL, "groups of experts; divides experts", false},
    {"top_groups", FIELD_INT, AT(top_groups), "1", 1, ROUTE_EXPERTS_MAX, NULL,
     "groups that one token's experts come from", false},
    {"bias", FIELD_BOOL, AT(bias), "false", 0, 0, NULL, "a bias on the scores, for the choice alone", false},
    {"bias_rate", FIELD_REAL, AT(bias_rate), "1e-3", 0, 1, NULL, "step of that bias towards even load; 0: it stays",
     false},
    {"aux_loss", FIELD_REAL, AT(aux_loss), "0", 0, 1e6, NULL,
     "coefficient of the loss E sum(load's share * mean score)", false},
    {"aux_over", FIELD_CHOICE, AT(aux_over), "sequence", 0, 0, "sequence|batch",
     "load is balanced in each sequence, or over the micro-batch", false},
    {"z_loss", FIELD_REAL, AT(z_loss), "0", 0, 1e6, NULL, "coefficient of the mean squared log of the logits' sum",
     false},
    FIELDS_END};

static bool gated(const struct moe_config *c) { return c->activation == ACT_SWIGLU; }
static int64_t width_of(const struct moe_config *c, int64_t D) { return c->latent ? c->latent : D; }
static int64_t up_columns(const struct moe_config *c, int64_t hidden) { return gated(c) ? 2 * hidden : hidden; }

static enum status check(const void *config, int64_t width) {
    const struct moe_config *c = config;
    (void)width;
    FAIL_UNLESS(c->top_k <= c->experts, ERR_CONFIG, "top_k %lld is more than experts %lld", (long long)c->top_k,
                (long long)c->experts);
    FAIL_UNLESS(c->experts % c->groups == 0, ERR_CONFIG, "groups %lld does not divide experts %lld",
                (long long)c->groups, (long long)c->experts);
    FAIL_UNLESS(c->top_groups <= c->groups, ERR_CONFIG, "top_groups %lld is more than groups %lld",
                (long long)c->top_groups, (long long)c->groups);
    FAIL_UNLESS(c->top_k <= c->experts / c->groups * c->top_groups, ERR_CONFIG,
                "top_k %lld is more than the %lld experts of top_groups %lld", (long long)c->top_k,
                (long long)(c->experts / c->groups * c->top_groups), (long long)c->top_groups);
    return OK;
}

/* By the width of experts, and of the projections to and from the latent vector; the vector itself is whole, as is the
 * router. */
static enum status split(void *config, const struct split *s) {
    struct moe_config *c = config;
    int64_t mine = 0;
    if (c->latent > 0) TRY(split_units(s, "latent", c->latent, false, &mine));
    TRY(split_units(s, "hidden", c->hidden, false, &c->hidden));
    return c->shared > 0 ? split_units(s, "shared", c->shared, false, &c->shared) : OK;
}

static enum status matrix(struct layer *l, struct params *ps, int slot, const char *name, int64_t rows, int64_t cols,
                          enum init init) {
    struct param p = {.shape = {rows, cols}, .n_dims = 2, .init = init, .product = true, .decay = true};
    const int n = layer_ranks(l);
    snprintf(p.name, sizeof p.name, "%s", name);
    if (slot == W_LATENT_IN) p.cut[SPLIT_TENSOR].parts = n;
    if (slot == W_SHARED_DOWN || slot == W_LATENT_OUT) p.cut[SPLIT_TENSOR] = (struct cut){.dim = 1, .parts = n};
    if (slot == W_SHARED_UP && gated(l->config)) {
        p.n_sections = 2;
        p.section[0] = section_cut("gate", rows / 2, n);
        p.section[1] = section_cut("up", rows / 2, n);
    } else if (slot == W_SHARED_UP) p.cut[SPLIT_TENSOR].parts = n;
    return layer_param(l, ps, slot, p);
}

static enum status of_experts(struct layer *l, struct params *ps, int slot, const char *name, int64_t rows,
                              int64_t cols, enum init init) {
    struct param p = {.shape = {((const struct moe_config *)l->whole)->experts, rows, cols},
                      .n_dims = 3,
                      .cut = {[SPLIT_TENSOR] = {.dim = slot == W_DOWN ? 2 : 1, .parts = layer_ranks(l)},
                              [SPLIT_EXPERT] = {.dim = 0, .parts = split_n(&l->split, SPLIT_EXPERT)}},
                      .init = init,
                      .product = true,
                      .decay = true};
    snprintf(p.name, sizeof p.name, "experts.%s.weight", name);
    return layer_param(l, ps, slot, p);
}

static enum status declare(struct layer *l, struct params *ps) {
    const struct moe_config *c = l->whole;
    const int64_t D = l->width, W = width_of(c, D), F = c->hidden, E = c->experts;
    l->n_experts = E;
    TRY(matrix(l, ps, W_ROUTER, "router.weight", E, D, INIT_NORMAL));
    if (c->bias)
        TRY(layer_param(l, ps, W_BIAS,
                        (struct param){.name = "router.bias",
                                       .shape = {E},
                                       .n_dims = 1,
                                       .alike = true,
                                       .init = INIT_ZERO,
                                       .kind = PARAM_STATE,
                                       .layer = l->index,
                                       .rate = c->bias_rate}));
    if (gated(c)) TRY(of_experts(l, ps, W_GATE, "gate", F, W, INIT_NORMAL));
    TRY(of_experts(l, ps, W_UP, "up", F, W, INIT_NORMAL));
    TRY(of_experts(l, ps, W_DOWN, "down", W, F, c->latent ? INIT_NORMAL : INIT_NORMAL_OUT));
    if (c->shared) {
        TRY(matrix(l, ps, W_SHARED_UP, "shared.up.weight", up_columns(c, c->shared), D, INIT_NORMAL));
        TRY(matrix(l, ps, W_SHARED_DOWN, "shared.down.weight", D, c->shared, INIT_NORMAL_OUT));
    }
    if (!c->latent) return OK;
    TRY(matrix(l, ps, W_LATENT_IN, "latent.in.weight", W, D, INIT_NORMAL));
    return matrix(l, ps, W_LATENT_OUT, "latent.out.weight", D, W, INIT_NORMAL_OUT);
}

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

static bool balances(const struct moe_config *c) { return c->aux_loss > 0.0 || c->z_loss > 0.0; }

static struct linear linear_of(const struct step *s, const struct layer *l, int slot, struct tensor x, struct tensor y,
                               struct tensor dy, struct tensor dx) {
    return (struct linear){.x = x, .w = layer_w(s, l, slot), .y = y, .dy = dy, .dx = dx, .dw = layer_g(s, l, slot)};
}

static void router_args(struct moe *m, const struct step *s, const struct layer *l, const struct flow *f,
                        const struct saved *v) {
    const struct moe_config *c = l->config;
    const struct saved_slot *t = v->slot;
    m->router = linear_of(s, l, W_ROUTER, f->h, t[S_LOGITS].t, t[S_DLOGITS].t, f->dh);
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
    m->group = (struct group){.ids = t[S_IDS].t, .row = t[S_ROW].t, .offset = t[S_OFFSET].t};
    if (s->ctx->exact) m->group.range = f->shard->range;
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
    m->spread = (struct combine){.x = t[S_DX].t,
                                 .row = t[S_ROW].t,
                                 .y = latent ? t[S_DLATENT].t : f->dh,
                                 .dy = latent ? t[S_LATENT].t : f->h,
                                 .dx = t[S_X].t,
                                 .add = !latent};
    m->gather = (struct combine){.x = t[S_Y].t,
                                 .w = t[S_W].t,
                                 .row = t[S_ROW].t,
                                 .y = latent ? t[S_SUM].t : f->y,
                                 .dy = latent ? t[S_DSUM].t : f->dy,
                                 .dx = t[S_DY].t,
                                 .dw = t[S_DW].t,
                                 .add = !latent && c->shared > 0};
    m->rows = (struct routed){.offset = t[S_OFFSET].t, .x = t[S_X].t, .y = t[S_Y].t, .dy = t[S_DY].t, .dx = t[S_DX].t};
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
    return (struct grouped_linear){.x = m->rows.x,
                                   .w = layer_w(s, l, slot),
                                   .offset = m->rows.offset,
                                   .y = tensor_cols(m->act.h, at, F),
                                   .dy = tensor_cols(m->act.dh, at, F),
                                   .dx = m->rows.dx,
                                   .dw = layer_g(s, l, slot),
                                   .dx_add = at > 0};
}

static struct grouped_linear down_args(const struct step *s, const struct layer *l, const struct moe *m) {
    return (struct grouped_linear){.x = m->act.y,
                                   .w = layer_w(s, l, W_DOWN),
                                   .offset = m->rows.offset,
                                   .y = m->rows.y,
                                   .dy = m->rows.dy,
                                   .dx = m->act.dy,
                                   .dw = layer_g(s, l, W_DOWN)};
}

/* ---- plan ---- */

static int64_t n_sequences(const struct plan *p) {
    const struct wide *w = p->flow->shard->wide;
    return w ? w->range.shape[0] - 1 : p->n_ranges;
}

static void plan_router(struct plan *p, const struct moe_config *c) {
    const int64_t T = p->n_tokens, E = c->experts, k = c->top_k;
    const int64_t sections = p->ctx->exact ? p->n_ranges : 1;
    const int64_t G = c->aux_over == OVER_SEQUENCE ? n_sequences(p) : 1;
    plan_slot(p, S_LOGITS, "logits", KEEP_GEMM, T, E, 1, 1);
    plan_slot(p, S_W, "w", KEEP_CHEAP, T, k, 1, 1);
    plan_typed(p, S_IDS, "ids", KEEP_CHEAP, I32, T, k);
    plan_typed(p, S_ROW, "row", KEEP_CHEAP, I64, T, k);
    plan_typed(p, S_OFFSET, "offset", KEEP_CHEAP, I64, sections, E + 1);
    plan_slot(p, S_DLOGITS, "dlogits", KEEP_SCRATCH, T, E, 1, 1);
    plan_slot(p, S_DW, "dw", KEEP_SCRATCH, T, k, 1, 1);
    if (!balances(c)) return;
    plan_typed(p, S_LOAD, "load", KEEP_BOUNDARY, F64, G, E);
    plan_total(p, G * E);
}

static void plan_experts(struct plan *p, const struct layer *l) {
    const struct moe_config *c = l->config;
    const int64_t T = p->n_tokens, N = T * c->top_k, W = width_of(c, l->width), F = c->hidden, S = c->shared;
    const bool ranks = layer_ranks(l) > 1;
    if (c->latent) {
        plan_slot(p, S_LATENT, "latent", ranks ? KEEP_BOUNDARY : KEEP_GEMM, T, W, 1, 1);
        plan_slot(p, S_SUM, "sum", ranks ? KEEP_BOUNDARY : KEEP_CHEAP, T, W, 1, 1);
        plan_sum(p, l, S_SHARE, W);
        plan_slot(p, S_DLATENT, "dlatent", KEEP_SCRATCH, T, W, 1, 1);
        plan_slot(p, S_DSUM, "dsum", KEEP_SCRATCH, T, W, 1, 1);
    }
    plan_slot(p, S_X, "rows", KEEP_CHEAP, N, W, 1, 1);
    plan_slot(p, S_UP, "up", KEEP_GEMM, N, up_columns(c, F), 1, 1);
    plan_slot(p, S_ACT, "act", KEEP_CHEAP, N, F, 1, 1);
    plan_slot(p, S_Y, "down", KEEP_GEMM, N, W, 1, 1);
    plan_slot(p, S_DY, "ddown", KEEP_SCRATCH, N, W, 1, 1);
    plan_slot(p, S_DACT, "dact", KEEP_SCRATCH, N, F, 1, 1);
    plan_slot(p, S_DUP, "dup", KEEP_SCRATCH, N, up_columns(c, F), 1, 1);
    plan_slot(p, S_DX, "drows", KEEP_SCRATCH, N, W, 1, 1);
    if (!S) return;
    plan_slot(p, S_SHARED_UP, "shared up", KEEP_GEMM, T, up_columns(c, S), 1, 1);
    plan_slot(p, S_SHARED_ACT, "shared act", KEEP_CHEAP, T, S, 1, 1);
    plan_slot(p, S_SHARED_DUP, "shared dup", KEEP_SCRATCH, T, up_columns(c, S), 1, 1);
    plan_slot(p, S_SHARED_DACT, "shared dact", KEEP_SCRATCH, T, S, 1, 1);
}

#define WORK(op, args) plan_work(p, p->ctx->ops->op##_work(p->ctx, (args)))
static enum status plan(struct plan *p, const struct layer *l) {
    const struct moe_config *c = l->config;
    struct moe m;
    plan_router(p, c);
    plan_experts(p, l);
    moe_args(&m, p->step, l, p->flow, p->saved);
    const struct grouped_linear gate = up_args(p->step, l, &m, W_GATE), up = up_args(p->step, l, &m, W_UP),
                                down = down_args(p->step, l, &m);
    WORK(linear, &m.router);
    WORK(route, &m.route);
    WORK(group, &m.group);
    WORK(combine, &m.spread);
    WORK(combine, &m.gather);
    if (gated(c)) WORK(grouped_linear, &gate);
    WORK(grouped_linear, &up);
    WORK(grouped_linear, &down);
    WORK(activation, &m.act);
    if (balances(c)) WORK(balance, &m.balance);
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

/* Choices, and their rows.  The counts of whole sequences are what other ranks add: they are kept, not counted again.
 */
static enum status choose(struct step *s, const struct layer *l, const struct saved *v, struct moe *m) {
    const struct ops *ops = s->ctx->ops;
    const bool count = balances(l->config) && !s->forward_only && !s->again;
    if (!layer_has(s, v, S_LOGITS)) TRY(ops->linear_fwd(s->ctx, &m->router));
    m->route.load = load_row(s, l);
    m->route.load.space = s->ctx->space;
    if (count) m->route.count = m->balance.load;
    TRY(ops->route_fwd(s->ctx, &m->route));
    TRY(ops->group_fwd(s->ctx, &m->group));
    if (!count) return OK;
    TRY(s->seams->total(s, m->balance.load, AXIS_SEQ));
    return tensor_has(s->aux) ? ops->balance_fwd(s->ctx, &m->balance) : OK;
}

/* A latent tensor is made of the ranks' columns. */
static enum status latent_op(struct step *s, const struct layer *l, const struct saved *v, struct tensor t,
                             const struct linear *a, enum status (*op)(struct ctx *, const struct linear *)) {
    if (layer_ranks(l) > 1) TRY(s->ctx->ops->fill_fwd(s->ctx, &(struct fill){.x = t, .value = 0.0}));
    TRY(op(s->ctx, a));
    return layer_sum(s, l, t, v->slot[S_SHARE].t);
}

static enum status experts(struct step *s, const struct layer *l, const struct saved *v, const struct moe *m) {
    const struct ops *ops = s->ctx->ops;
    const struct grouped_linear gate = up_args(s, l, m, W_GATE), up = up_args(s, l, m, W_UP), down = down_args(s, l, m);
    if (!layer_has(s, v, S_UP)) {
        if (gated(l->config)) TRY(ops->grouped_linear_fwd(s->ctx, &gate));
        TRY(ops->grouped_linear_fwd(s->ctx, &up));
    }
    TRY(ops->activation_fwd(s->ctx, &m->act));
    return layer_has(s, v, S_Y) ? OK : ops->grouped_linear_fwd(s->ctx, &down);
}

static enum status shared_inner(struct step *s, const struct layer *l, const struct saved *v, const struct moe *m) {
    if (!((const struct moe_config *)l->config)->shared) return OK;
    if (!layer_has(s, v, S_SHARED_UP)) TRY(s->ctx->ops->linear_fwd(s->ctx, &m->shared_up));
    return s->ctx->ops->activation_fwd(s->ctx, &m->shared_act);
}

static enum status forward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    const struct moe_config *c = l->config;
    const struct ops *ops = s->ctx->ops;
    struct moe m;
    moe_args(&m, s, l, f, v);
    TRY(choose(s, l, v, &m));
    if (c->latent && !layer_has(s, v, S_LATENT))
        TRY(latent_op(s, l, v, v->slot[S_LATENT].t, &m.latent_in, ops->linear_fwd));
    TRY(ops->combine_bwd(s->ctx, &m.spread));
    TRY(s->seams->routed_begin(s, l, f, &m.rows, DISPATCH_X));
    TRY(shared_inner(s, l, v, &m));
    TRY(s->seams->routed_end(s, l, f, &m.rows, DISPATCH_X));
    TRY(experts(s, l, v, &m));
    TRY(s->seams->routed_begin(s, l, f, &m.rows, COMBINE_Y));
    if (c->shared && !s->y_unused) TRY(ops->linear_fwd(s->ctx, &m.shared_down));
    TRY(s->seams->routed_end(s, l, f, &m.rows, COMBINE_Y));
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
    if (gated(l->config)) TRY(ops->grouped_linear_bwd(s->ctx, &gate));
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
    if (balances(l->config) && l->split.at[SPLIT_TENSOR] == 0) /* what each has whole counts once in the sum */
        TRY(s->ctx->ops->balance_bwd(s->ctx, &m->balance));
    return s->ctx->ops->linear_bwd(s->ctx, &m->router);
}

static enum status backward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    const struct moe_config *c = l->config;
    const struct ops *ops = s->ctx->ops;
    struct moe m;
    moe_args(&m, s, l, f, v);
    if (c->latent) TRY(latent_op(s, l, v, v->slot[S_DSUM].t, &m.latent_out, ops->linear_bwd));
    TRY(ops->combine_bwd(s->ctx, &m.gather));
    TRY(s->seams->routed_begin(s, l, f, &m.rows, DISPATCH_DY));
    TRY(shared_back(s, l, &m));
    TRY(s->seams->routed_end(s, l, f, &m.rows, DISPATCH_DY));
    TRY(experts_back(s, l, &m));
    TRY(s->seams->routed_begin(s, l, f, &m.rows, COMBINE_DX));
    TRY(router_back(s, l, &m));
    TRY(s->seams->routed_end(s, l, f, &m.rows, COMBINE_DX));
    TRY(ops->combine_fwd(s->ctx, &m.spread));
    if (!c->latent) return OK;
    TRY(layer_sum(s, l, v->slot[S_DLATENT].t, v->slot[S_SHARE].t));
    return ops->linear_bwd(s->ctx, &m.latent_in);
}

/* 2 a weight of the experts that a token chooses: their weights are no matrices of 2 dims. */
static double flops(const struct layer *l, int64_t tokens_per_sequence) {
    const struct moe_config *c = l->whole;
    (void)tokens_per_sequence;
    return 2.0 * (double)c->top_k * (double)(c->hidden * (gated(c) ? 3 : 2) * width_of(c, l->width));
}

const struct mixer_kind moe_kind = {.name = "moe",
                                    .fields = moe_fields,
                                    .config_bytes = sizeof(struct moe_config),
                                    .check = check,
                                    .split = split,
                                    .declare = declare,
                                    .plan = plan,
                                    .forward = forward,
                                    .backward = backward,
                                    .flops = flops};
