/* SPDX-License-Identifier: Apache-2.0 */
/* Causal softmax attention with grouped keys: q, k, v from one projection, rotary positions where asked, out. */
#include <math.h>
#include "kernels/attention/attention.h"
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
#include "kernels/rope/rope.h"
#include "model/attend.h"
#include "model/edges.h"

struct attention_config {
    int64_t heads, kv_heads, head_width, window;
    double rope, rope_theta, scale;
    bool bias;
};
enum { W_QKV, W_QKV_BIAS, W_OUT, W_OUT_BIAS };
enum { S_QKV, S_O, S_LSE, S_DQKV, S_DO, S_WIDE };

#define AT(member) offsetof(struct attention_config, member)
static const struct field attention_fields[] = {
    {"heads", FIELD_INT, AT(heads), NULL, 1, 65536, NULL, "query heads", false},
    {"kv_heads", FIELD_INT, AT(kv_heads), NULL, 1, 65536, NULL, "key-value heads; divides heads", false},
    {"head_width", FIELD_INT, AT(head_width), NULL, 1, 65536, NULL, "channels of one head", false},
    {"window", FIELD_INT, AT(window), "0", 0, 1e15, NULL, "tokens a query sees, itself included; 0: all", false},
    {"rope", FIELD_REAL, AT(rope), "0", 0, 1, NULL, "share of head_width with rotary positions", false},
    {"rope_theta", FIELD_REAL, AT(rope_theta), "10000", 1, 1e15, NULL, "base of the rotary wavelengths", false},
    {"scale", FIELD_REAL, AT(scale), "0", 0, 1e6, NULL, "factor on scores; 0: head_width^-0.5", false},
    {"bias", FIELD_BOOL, AT(bias), "false", 0, 0, NULL, "biases on the projections", false},
    FIELDS_END};

static int64_t rotated(const struct attention_config *c) { return (int64_t)llround(c->rope * (double)c->head_width); }

static enum status check(const void *config, int64_t width) {
    (void)width;
    const struct attention_config *c = config;
    FAIL_UNLESS(c->heads % c->kv_heads == 0, ERR_CONFIG, "kv_heads %lld does not divide heads %lld",
                (long long)c->kv_heads, (long long)c->heads);
    FAIL_UNLESS(rotated(c) % 2 == 0, ERR_CONFIG, "rope %g of head_width %lld is %lld channels, which is odd", c->rope,
                (long long)c->head_width, (long long)rotated(c));
    return OK;
}

/* By heads; key-value heads that are fewer than the ranks are on several. */
static enum status split(void *config, const struct split *s) {
    struct attention_config *c = config;
    const int64_t groups = c->heads / c->kv_heads, heads = c->heads;
    TRY(split_units(s, "kv_heads", c->kv_heads, true, &c->kv_heads));
    TRY(split_units(s, "heads", heads, false, &c->heads));
    FAIL_UNLESS(c->kv_heads == 1 || c->heads == groups * c->kv_heads, ERR_CONFIG, "heads %lld", (long long)heads);
    return OK;
}

static void qkv_sections(struct param *p, const struct layer *l) {
    const struct attention_config *c = l->whole, *here = l->config;
    const int n = layer_ranks(l), keys = (int)(c->kv_heads / here->kv_heads);
    p->n_sections = 3;
    p->section[0] = section_cut("q", c->heads * c->head_width, n);
    p->section[1] = section_cut("k", c->kv_heads * c->head_width, keys);
    p->section[2] = section_cut("v", c->kv_heads * c->head_width, keys);
}

static int64_t qkv_rows(const struct attention_config *c) { return (c->heads + 2 * c->kv_heads) * c->head_width; }

static enum status declare(struct layer *l, struct params *ps) {
    const struct attention_config *c = l->whole;
    const int64_t D = l->width, HP = c->heads * c->head_width;
    struct param qkv = {.name = "qkv.weight",
                        .shape = {qkv_rows(c), D},
                        .n_dims = 2,
                        .init = INIT_NORMAL,
                        .product = true,
                        .decay = true};
    struct param bias = {.name = "qkv.bias", .shape = {qkv_rows(c)}, .n_dims = 1, .init = INIT_ZERO};
    qkv_sections(&qkv, l);
    qkv_sections(&bias, l);
    TRY(layer_param(l, ps, W_QKV, qkv));
    TRY(layer_param(l, ps, W_OUT,
                    (struct param){.name = "out.weight",
                                   .shape = {D, HP},
                                   .n_dims = 2,
                                   .cut[SPLIT_TENSOR] = {.dim = 1, .parts = layer_ranks(l)},
                                   .init = INIT_NORMAL_OUT,
                                   .product = true,
                                   .decay = true}));
    if (!c->bias) return OK;
    TRY(layer_param(l, ps, W_QKV_BIAS, bias));
    return layer_param(l, ps, W_OUT_BIAS,
                       (struct param){.name = "out.bias", .shape = {D}, .n_dims = 1, .alike = true, .init = INIT_ZERO});
}

/* q, k or v of a packed (T, (H + 2 J) P) tensor. */
static struct tensor q_of(struct tensor t, const struct attention_config *c) {
    return tensor_cols(t, 0, c->heads * c->head_width);
}
static struct tensor k_of(struct tensor t, const struct attention_config *c) {
    return tensor_cols(t, c->heads * c->head_width, c->kv_heads * c->head_width);
}
static struct tensor v_of(struct tensor t, const struct attention_config *c) {
    return tensor_cols(t, (c->heads + c->kv_heads) * c->head_width, c->kv_heads * c->head_width);
}

static struct linear qkv_args(const struct step *s, const struct layer *l, const struct flow *f,
                              const struct saved *v) {
    return (struct linear){.x = f->h,
                           .w = layer_w(s, l, W_QKV),
                           .b = layer_w(s, l, W_QKV_BIAS),
                           .y = v->slot[S_QKV].t,
                           .dy = v->slot[S_DQKV].t,
                           .dx = f->dh,
                           .dw = layer_g(s, l, W_QKV),
                           .db = layer_g(s, l, W_QKV_BIAS)};
}

static struct linear out_args(const struct step *s, const struct layer *l, const struct flow *f,
                              const struct saved *v) {
    return (struct linear){.x = v->slot[S_O].t,
                           .w = layer_w(s, l, W_OUT),
                           .b = layer_b(s, l, W_OUT_BIAS),
                           .y = f->y,
                           .dy = f->dy,
                           .dx = v->slot[S_DO].t,
                           .dw = layer_g(s, l, W_OUT),
                           .db = layer_g(s, l, W_OUT_BIAS)};
}

static struct attend attend_args(const struct layer *l, const struct flow *f, const struct saved *v) {
    const struct attention_config *c = l->config;
    const struct tensor qkv = v->slot[S_QKV].t, dqkv = v->slot[S_DQKV].t;
    return (struct attend){.core = {.heads = c->heads,
                                    .key_heads = c->kv_heads,
                                    .head_width = c->head_width,
                                    .window = c->window,
                                    .scale = c->scale > 0.0 ? c->scale : 1.0 / sqrt((double)c->head_width),
                                    .range = f->shard->range,
                                    .pos = f->shard->pos,
                                    .keys = f->shard->keys,
                                    .plain = f->shard->plain,
                                    .q = q_of(qkv, c),
                                    .k = k_of(qkv, c),
                                    .v = v_of(qkv, c),
                                    .o = v->slot[S_O].t,
                                    .lse = v->slot[S_LSE].t,
                                    .dout = v->slot[S_DO].t,
                                    .dq = q_of(dqkv, c),
                                    .dk = k_of(dqkv, c),
                                    .dv = v_of(dqkv, c)}};
}

/* Backward then runs on what came over, and reads neither qkv nor lse of its own rows. */
static bool swapped(const struct flow *f) { return f->shard->wide && f->shard->wide->swap; }

static enum status plan(struct plan *p, const struct layer *l) {
    const struct attention_config *c = l->config;
    const int64_t T = p->n_tokens, HP = c->heads * c->head_width;
    plan_slot(p, S_QKV, "qkv", swapped(p->flow) ? KEEP_SCRATCH : KEEP_GEMM, T, qkv_rows(c), 1, 1);
    plan_slot(p, S_O, "o", KEEP_BOUNDARY, T, HP, 1, 1);
    if (!swapped(p->flow)) plan_wide(p, S_LSE, "lse", KEEP_BOUNDARY, T, c->heads, 1, 1);
    plan_slot(p, S_DQKV, "dqkv", KEEP_SCRATCH, T, qkv_rows(c), 1, 1);
    plan_slot(p, S_DO, "do", KEEP_SCRATCH, T, HP, 1, 1);
    const struct linear qkv = qkv_args(p->step, l, p->flow, p->saved), out = out_args(p->step, l, p->flow, p->saved);
    struct attend a = attend_args(l, p->flow, p->saved);
    plan_work(p, p->ctx->ops->linear_work(p->ctx, &qkv));
    plan_work(p, p->ctx->ops->linear_work(p->ctx, &out));
    return attend_plan(p, S_WIDE, &a);
}

static struct rope rope_args(const struct attention_config *c, const struct flow *f, struct tensor t, int64_t heads) {
    return (struct rope){
        .pos = f->shard->pos, .x = t, .dx = t, .heads = heads, .rot = rotated(c), .theta = c->rope_theta};
}

/* The projection with its rotation, which works in place; or h alone, where they are there. */
static enum status project(struct step *s, const struct layer *l, struct flow *f, struct saved *v,
                           const struct attend *a, bool needed) {
    const struct attention_config *c = l->config;
    const struct ops *ops = s->ctx->ops;
    const struct linear qkv = qkv_args(s, l, f, v);
    const struct rope rq = rope_args(c, f, a->mine.q, c->heads), rk = rope_args(c, f, a->mine.k, c->kv_heads);
    TRY(edge_h(s, f, &qkv, needed));
    if (!needed) return OK;
    if (rq.rot > 0) TRY(ops->rope_fwd(s->ctx, &rq));
    if (rk.rot > 0) TRY(ops->rope_fwd(s->ctx, &rk));
    return OK;
}

static enum status core(struct step *s, const struct layer *l, struct flow *f, struct attend *a) {
    TRY(s->seams->attend_begin(s, l, f, a, ATTEND_QKV));
    TRY(s->seams->attend_end(s, l, f, a, ATTEND_QKV));
    TRY(s->ctx->ops->attention_fwd(s->ctx, &a->core));
    TRY(s->seams->attend_begin(s, l, f, a, ATTEND_O));
    return s->seams->attend_end(s, l, f, a, ATTEND_O);
}

static enum status forward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    const struct linear out = out_args(s, l, f, v);
    struct attend a = attend_args(l, f, v);
    attend_fill(&a, v, S_WIDE, f->shard);
    TRY(project(s, l, f, v, &a, !layer_has(s, v, swapped(f) ? S_WIDE + WIDE_QKV : S_QKV)));
    if (!layer_has(s, v, S_O)) TRY(core(s, l, f, &a));
    return edge_y(s, f, &out);
}

static enum status backward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    const struct attention_config *c = l->config;
    const struct ops *ops = s->ctx->ops;
    const struct linear qkv = qkv_args(s, l, f, v), out = out_args(s, l, f, v);
    struct attend a = attend_args(l, f, v);
    attend_fill(&a, v, S_WIDE, f->shard);
    const struct rope rq = rope_args(c, f, a.mine.dq, c->heads), rk = rope_args(c, f, a.mine.dk, c->kv_heads);
    struct linear out_w = out; /* stands behind what travels first */
    out_w.dx = (struct tensor){0};
    TRY(edge_dy(s, f, &out));
    TRY(s->seams->attend_begin(s, l, f, &a, ATTEND_DO));
    TRY(ops->linear_bwd(s->ctx, &out_w));
    TRY(s->seams->attend_end(s, l, f, &a, ATTEND_DO));
    TRY(ops->attention_bwd(s->ctx, &a.core));
    TRY(s->seams->attend_begin(s, l, f, &a, ATTEND_DQKV));
    TRY(s->seams->attend_end(s, l, f, &a, ATTEND_DQKV));
    if (rq.rot > 0) TRY(ops->rope_bwd(s->ctx, &rq));
    if (rk.rot > 0) TRY(ops->rope_bwd(s->ctx, &rk));
    return edge_dh(s, f, &qkv);
}

/* Scores and weighted values: 2 products of 2 P flops a visible key; half the sequence is visible on average. */
static double flops(const struct layer *l, int64_t tokens_per_sequence) {
    const struct attention_config *c = l->whole;
    double visible = (double)tokens_per_sequence / 2.0;
    if (c->window > 0 && (double)c->window < visible) visible = (double)c->window;
    return 4.0 * (double)(c->heads * c->head_width) * visible;
}

static bool attend_fits(const struct layer *l, int n_ranks) {
    const struct attention_config *c = l->config;
    int64_t H = 0, J = 0;
    return attend_heads(n_ranks, c->heads, c->kv_heads, &H, &J);
}

const struct mixer_kind attention_kind = {.name = "attention",
                                          .fields = attention_fields,
                                          .config_bytes = sizeof(struct attention_config),
                                          .check = check,
                                          .split = split,
                                          .edges = true,
                                          .declare = declare,
                                          .plan = plan,
                                          .forward = forward,
                                          .backward = backward,
                                          .attend_fits = attend_fits,
                                          .flops = flops};
