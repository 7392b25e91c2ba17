/* SPDX-License-Identifier: Apache-2.0 */
#include "model/ffn/moe.h"
#include <stdio.h>
#include "kernels/limit/limit.h"
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
    {"capacity", FIELD_INT, AT(capacity), "0", 0, LIMIT_MOST, NULL,
     "tokens of one sequence that an expert takes, the first ones, the others are dropped; 0: all", false},
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
    FAIL_UNLESS(c->capacity == 0 || c->experts < ROUTE_EXPERTS_MAX, ERR_CONFIG,
                "with a capacity, experts %lld must be below %d", (long long)c->experts, ROUTE_EXPERTS_MAX);
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
    l->drops = c->capacity > 0;
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

/* ---- plan ---- */

static int64_t n_sequences(const struct plan *p) {
    const struct wide *w = p->flow->shard->wide;
    return w ? w->range.shape[0] - 1 : p->n_ranges;
}

static void plan_router(struct plan *p, const struct moe_config *c) {
    const int64_t T = p->n_tokens, E = c->experts, k = c->top_k;
    const int64_t sections = p->ctx->exact ? p->n_ranges : 1;
    const int64_t G = c->aux_over == OVER_SEQUENCE ? n_sequences(p) : 1;
    plan_wide(p, S_LOGITS, "logits", KEEP_GEMM, T, E, 1, 1);
    plan_wide(p, S_W, "w", KEEP_CHEAP, T, k, 1, 1);
    plan_typed(p, S_IDS, "ids", KEEP_CHEAP, I32, T, k);
    plan_typed(p, S_ROW, "row", KEEP_CHEAP, I64, T, k);
    plan_typed(p, S_OFFSET, "offset", KEEP_CHEAP, I64, sections, E + 1 + (c->capacity > 0));
    plan_wide(p, S_DLOGITS, "dlogits", KEEP_SCRATCH, T, E, 1, 1);
    plan_wide(p, S_DW, "dw", KEEP_SCRATCH, T, k, 1, 1);
    if (!moe_balances(c)) return;
    plan_typed(p, S_LOAD, "load", KEEP_BOUNDARY, F64, G, E);
    plan_total(p, G * E);
}

static void plan_guests(struct plan *p, const struct moe_config *c, int64_t rows, int64_t W) {
    const struct guests *g = p->flow->shard->guests;
    const int64_t n = routed_rounds(g, c->experts, c->top_k) * g->sections, cols = c->experts / g->n_ranks + 1;
    const int64_t home = p->n_tokens * c->top_k;
    plan_slot(p, S_GUEST_DY, "guests' ddown", KEEP_SCRATCH, rows, W, 1, 1);
    plan_slot(p, S_GUEST_DX, "guests' drows", KEEP_SCRATCH, rows, W, 1, 1);
    plan_typed(p, S_GUEST_OFFSET, "guests' offset", KEEP_BOUNDARY, I64, n, cols);
    plan_routed(p, (struct routed_most){c->experts, n * cols, (rows > home ? rows : home) * W});
}

static void plan_limit(struct plan *p, const struct moe_config *c, int64_t W) {
    const int64_t T = p->n_tokens, R = p->n_ranges, E = c->experts;
    plan_typed(p, S_TAKEN, "taken", KEEP_CHEAP, I32, T, c->top_k);
    plan_wide(p, S_BEFORE, "before", KEEP_BOUNDARY, R, 1, 1, E);
    plan_wide(p, S_COUNT, "count", KEEP_SCRATCH, R, 1, 1, E);
    plan_wide(p, S_DECAY, "decay", KEEP_SCRATCH, R, 1, 1, 1);
    if (p->flow->shard->guests) plan_slot(p, S_HOME_X, "rows at home", KEEP_SCRATCH, T * c->top_k, W, 1, 1);
    plan_carry(p, CARRY_AFFINE, 1, E);
}

static void plan_experts(struct plan *p, const struct layer *l) {
    const struct moe_config *c = l->config;
    const struct guests *g = p->flow->shard->guests;
    const bool ranks = layer_ranks(l) > 1;
    const int64_t T = p->n_tokens, N = T * c->top_k, W = moe_width(c, l->width), F = c->hidden, S = c->shared;
    const int64_t M = g ? routed_rows(g, c->experts, c->top_k) : N;
    if (c->latent) {
        plan_slot(p, S_LATENT, "latent", ranks ? KEEP_BOUNDARY : KEEP_GEMM, T, W, 1, 1);
        plan_slot(p, S_SUM, "sum", ranks ? KEEP_BOUNDARY : KEEP_CHEAP, T, W, 1, 1);
        plan_sum(p, l, S_SHARE, W);
        plan_slot(p, S_DLATENT, "dlatent", KEEP_SCRATCH, T, W, 1, 1);
        plan_slot(p, S_DSUM, "dsum", KEEP_SCRATCH, T, W, 1, 1);
    }
    plan_slot(p, S_X, "rows", g ? KEEP_BOUNDARY : KEEP_CHEAP, M, W, 1, 1);
    plan_slot(p, S_UP, "up", KEEP_GEMM, M, moe_up_columns(c, F), 1, 1);
    plan_slot(p, S_ACT, "act", KEEP_CHEAP, M, F, 1, 1);
    plan_slot(p, S_Y, "down", g ? KEEP_BOUNDARY : KEEP_GEMM, N, W, 1, 1);
    plan_slot(p, S_DY, "ddown", KEEP_SCRATCH, N, W, 1, 1);
    plan_slot(p, S_DACT, "dact", KEEP_SCRATCH, M, F, 1, 1);
    plan_slot(p, S_DUP, "dup", KEEP_SCRATCH, M, moe_up_columns(c, F), 1, 1);
    plan_slot(p, S_DX, "drows", KEEP_SCRATCH, N, W, 1, 1);
    if (g) plan_guests(p, c, M, W);
    if (c->capacity) plan_limit(p, c, W);
    if (!S) return;
    plan_slot(p, S_SHARED_UP, "shared up", KEEP_GEMM, T, moe_up_columns(c, S), 1, 1);
    plan_slot(p, S_SHARED_ACT, "shared act", KEEP_CHEAP, T, S, 1, 1);
    plan_slot(p, S_SHARED_DUP, "shared dup", KEEP_SCRATCH, T, moe_up_columns(c, S), 1, 1);
    plan_slot(p, S_SHARED_DACT, "shared dact", KEEP_SCRATCH, T, S, 1, 1);
}

void moe_plan_slots(struct plan *p, const struct layer *l) {
    plan_router(p, l->config);
    plan_experts(p, l);
}

/* 2 a weight of the experts that a token chooses: their weights are no matrices of 2 dims. */
static double flops(const struct layer *l, int64_t tokens_per_sequence) {
    const struct moe_config *c = l->whole;
    (void)tokens_per_sequence;
    return 2.0 * (double)c->top_k * (double)(c->hidden * (moe_gated(c) ? 3 : 2) * moe_width(c, l->width));
}

/* The experts that a token does not choose. */
static int64_t idle(const struct layer *l) {
    const struct moe_config *c = l->whole;
    return (c->experts - c->top_k) * c->hidden * (moe_gated(c) ? 3 : 2) * moe_width(c, l->width);
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
                                    .flops = flops,
                                    .idle = idle};
