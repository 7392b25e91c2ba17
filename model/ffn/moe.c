/* SPDX-License-Identifier: Apache-2.0 */
#include "model/ffn/moe.h"
#include <stdio.h>
#include "kernels/route/route.h"

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

/* Whole experts over the expert axis; over tensor their width, and that of the projections to and from the latent
 * vector; the vector itself is whole, as is the router. */
static enum status split(void *config, const struct split *s) {
    struct moe_config *c = config;
    int64_t mine = 0;
    TRY(split_experts(s, c->experts));
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
    if (slot == W_SHARED_UP && moe_gated(l->config)) {
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
    const int64_t D = l->width, W = moe_width(c, D), F = c->hidden, E = c->experts;
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
    if (moe_gated(c)) TRY(of_experts(l, ps, W_GATE, "gate", F, W, INIT_NORMAL));
    TRY(of_experts(l, ps, W_UP, "up", F, W, INIT_NORMAL));
    TRY(of_experts(l, ps, W_DOWN, "down", W, F, c->latent ? INIT_NORMAL : INIT_NORMAL_OUT));
    if (c->shared) {
        TRY(matrix(l, ps, W_SHARED_UP, "shared.up.weight", moe_up_columns(c, c->shared), D, INIT_NORMAL));
        TRY(matrix(l, ps, W_SHARED_DOWN, "shared.down.weight", D, c->shared, INIT_NORMAL_OUT));
    }
    if (!c->latent) return OK;
    TRY(matrix(l, ps, W_LATENT_IN, "latent.in.weight", W, D, INIT_NORMAL));
    return matrix(l, ps, W_LATENT_OUT, "latent.out.weight", D, W, INIT_NORMAL_OUT);
}

/* 2 a weight of the experts that a token chooses: their weights are no matrices of 2 dims. */
static double flops(const struct layer *l, int64_t tokens_per_sequence) {
    const struct moe_config *c = l->whole;
    (void)tokens_per_sequence;
    return 2.0 * (double)c->top_k * (double)(c->hidden * (moe_gated(c) ? 3 : 2) * moe_width(c, l->width));
}

const struct mixer_kind moe_kind = {.name = "moe",
                                    .fields = moe_fields,
                                    .config_bytes = sizeof(struct moe_config),
                                    .check = check,
                                    .split = split,
                                    .experts = true,
                                    .declare = declare,
                                    .plan = moe_plan,
                                    .forward = moe_forward,
                                    .backward = moe_backward,
                                    .flops = flops};
