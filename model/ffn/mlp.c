/* SPDX-License-Identifier: Apache-2.0 */
/* Feed-forward layer: y = down(act(up(h))).  With SwiGLU `up` packs gate and up: sections gate | up of F rows each. */
#include "kernels/activation/activation.h"
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
#include "model/edges.h"

struct mlp_config {
    int64_t hidden;
    int activation; /* enum activation_kind */
    bool bias;
};
enum { W_UP, W_UP_BIAS, W_DOWN, W_DOWN_BIAS }; /* parameters */
enum { S_UP, S_ACT, S_DUP, S_DACT };           /* saved      */

static const struct field mlp_fields[] = {
    {"hidden", FIELD_INT, offsetof(struct mlp_config, hidden), NULL, 1, 1e9, NULL, "channels between up and down",
     false},
    {"activation", FIELD_CHOICE, offsetof(struct mlp_config, activation), "relu2", 0, 0, ACTIVATION_CHOICES,
     "what stands between up and down", false},
    {"bias", FIELD_BOOL, offsetof(struct mlp_config, bias), "false", 0, 0, NULL, "biases on up and down", false},
    FIELDS_END};

static int64_t up_rows(const struct mlp_config *c) { return c->activation == ACT_SWIGLU ? 2 * c->hidden : c->hidden; }

static enum status check(const void *config, int64_t width) {
    (void)config, (void)width;
    return OK;
}

static enum status split(void *config, const struct split *s) {
    struct mlp_config *c = config;
    return split_units(s, "hidden", c->hidden, false, &c->hidden);
}

static enum status declare(struct layer *l, struct params *ps) {
    const struct mlp_config *c = l->whole;
    const int n = layer_ranks(l);
    const int64_t F = c->hidden, D = l->width;
    struct param up = {.name = "up.weight",
                       .shape = {up_rows(c), D},
                       .n_dims = 2,
                       .init = INIT_NORMAL,
                       .product = true,
                       .decay = true};
    struct param bias = {.name = "up.bias", .shape = {up_rows(c)}, .n_dims = 1, .init = INIT_ZERO};
    if (c->activation == ACT_SWIGLU) {
        up.n_sections = bias.n_sections = 2;
        up.section[0] = bias.section[0] = section_cut("gate", F, n);
        up.section[1] = bias.section[1] = section_cut("up", F, n);
    } else up.cut[SPLIT_TENSOR].parts = bias.cut[SPLIT_TENSOR].parts = n;
    TRY(layer_param(l, ps, W_UP, up));
    if (c->bias) TRY(layer_param(l, ps, W_UP_BIAS, bias));
    TRY(layer_param(l, ps, W_DOWN,
                    (struct param){.name = "down.weight",
                                   .shape = {D, F},
                                   .n_dims = 2,
                                   .cut[SPLIT_TENSOR] = {.dim = 1, .parts = n},
                                   .init = INIT_NORMAL_OUT,
                                   .product = true,
                                   .decay = true}));
    if (c->bias)
        TRY(layer_param(
            l, ps, W_DOWN_BIAS,
            (struct param){.name = "down.bias", .shape = {D}, .n_dims = 1, .alike = true, .init = INIT_ZERO}));
    return OK;
}

static struct linear up_args(const struct step *s, const struct layer *l, const struct flow *f, const struct saved *v) {
    return (struct linear){.x = f->h,
                           .w = layer_w(s, l, W_UP),
                           .b = layer_w(s, l, W_UP_BIAS),
                           .y = v->slot[S_UP].t,
                           .dy = v->slot[S_DUP].t,
                           .dx = f->dh,
                           .dw = layer_g(s, l, W_UP),
                           .db = layer_g(s, l, W_UP_BIAS)};
}

static struct activation act_args(const struct mlp_config *c, const struct saved *v) {
    return (struct activation){.kind = (enum activation_kind)c->activation,
                               .h = v->slot[S_UP].t,
                               .y = v->slot[S_ACT].t,
                               .dy = v->slot[S_DACT].t,
                               .dh = v->slot[S_DUP].t};
}

static struct linear down_args(const struct step *s, const struct layer *l, const struct flow *f,
                               const struct saved *v) {
    return (struct linear){.x = v->slot[S_ACT].t,
                           .w = layer_w(s, l, W_DOWN),
                           .b = layer_b(s, l, W_DOWN_BIAS),
                           .y = f->y,
                           .dy = f->dy,
                           .dx = v->slot[S_DACT].t,
                           .dw = layer_g(s, l, W_DOWN),
                           .db = layer_g(s, l, W_DOWN_BIAS)};
}

static enum status plan(struct plan *p, const struct layer *l) {
    const struct mlp_config *c = l->config;
    const int64_t T = p->n_tokens, F = c->hidden, U = up_rows(c);
    plan_slot(p, S_UP, "up", KEEP_GEMM, T, U, 1, 1);
    plan_slot(p, S_ACT, "act", KEEP_CHEAP, T, F, 1, 1);
    plan_reuse(p, S_DUP, "dup", S_ACT, S_ACT, T, U, 1, 1);
    plan_slot(p, S_DACT, "dact", KEEP_SCRATCH, T, F, 1, 1);
    const struct linear up = up_args(p->step, l, p->flow, p->saved), down = down_args(p->step, l, p->flow, p->saved);
    const struct activation act = act_args(c, p->saved);
    plan_work(p, p->ctx->ops->linear_work(p->ctx, &up));
    plan_work(p, p->ctx->ops->linear_work(p->ctx, &down));
    plan_work(p, p->ctx->ops->activation_work(p->ctx, &act));
    return OK;
}

static enum status forward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    const struct linear up = up_args(s, l, f, v), down = down_args(s, l, f, v);
    const struct activation act = act_args(l->config, v);
    TRY(edge_h(s, f, &up, !layer_has(s, v, S_UP)));
    TRY(s->ctx->ops->activation_fwd(s->ctx, &act));
    return edge_y(s, f, &down);
}

static enum status backward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    const struct linear up = up_args(s, l, f, v), down = down_args(s, l, f, v);
    const struct activation act = act_args(l->config, v);
    struct linear down_w = down;
    down_w.dx = (struct tensor){0};
    TRY(edge_dy(s, f, &down));
    TRY(s->ctx->ops->linear_bwd(s->ctx, &down_w));
    TRY(s->ctx->ops->activation_bwd(s->ctx, &act));
    return edge_dh(s, f, &up);
}

static double flops(const struct layer *l, int64_t tokens_per_sequence) {
    (void)l, (void)tokens_per_sequence;
    return 0.0;
}

const struct mixer_kind mlp_kind = {.name = "mlp",
                                    .fields = mlp_fields,
                                    .config_bytes = sizeof(struct mlp_config),
                                    .check = check,
                                    .split = split,
                                    .edges = true,
                                    .declare = declare,
                                    .plan = plan,
                                    .forward = forward,
                                    .backward = backward,
                                    .flops = flops};
