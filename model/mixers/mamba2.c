/* SPDX-License-Identifier: Apache-2.0 */
/* Mamba-2: in_proj -> [z | x B C | dt], short convolution, chunked SSD scan, gated norm, out_proj.
 *
 * Two carries cross range edges: the last K-1 rows before the convolution, and the scan's state.  The local half of the
 * scan stands between begin and end of the second; forward runs left to right, backward right to left. */
#include <math.h>
#include "kernels/conv1d/conv1d.h"
#include "kernels/fill/fill.h"
#include "kernels/gated_norm/gated_norm.h"
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
#include "kernels/ssd/ssd.h"
#include "kernels/ssd_local/ssd_local.h"
#include "kernels/tail/tail.h"
#include "model/edges.h"
#include "model/seams.h"

struct mamba2_config {
    int64_t heads, head_width, state, groups, conv, chunk, norm_group;
    double norm_eps, dt_min, dt_max;
    bool conv_bias, bias;
};
enum { W_IN, W_IN_BIAS, W_CONV, W_CONV_BIAS, W_A_LOG, W_D, W_DT_BIAS, W_NORM, W_OUT, W_OUT_BIAS };
/* Slots: kept, boundaries and scratch of forward; scratch of backward; sums of norm groups that lie on several ranks.
 */
enum { S_ZXBCDT, S_CONV, S_DTS, S_CUM, S_STATES, S_Y, S_NORM_R, S_U, S_BEFORE, S_S_IN, S_DECAY, S_TAIL, S_STATE };
enum { S_DU = S_STATE + 1, S_DY, S_DCONV, S_DZXBCDT, S_DSTATES, S_DSTATE, S_DS_OUT, S_DS_IN, S_DBEFORE, S_DTAIL };
enum { S_SQUARE = S_DTAIL + 1, S_PULL };
enum { CARRY_CONV, CARRY_STATE };

#define AT(member) offsetof(struct mamba2_config, member)
static const struct field mamba2_fields[] = {
    {"heads", FIELD_INT, AT(heads), NULL, 1, 65536, NULL, "heads of the scan", false},
    {"head_width", FIELD_INT, AT(head_width), "64", 1, 65536, NULL, "channels of one head", false},
    {"state", FIELD_INT, AT(state), "128", 1, 65536, NULL, "state width of one channel", false},
    {"groups", FIELD_INT, AT(groups), "1", 1, 65536, NULL, "groups that share B and C; divides heads", false},
    {"conv", FIELD_INT, AT(conv), "4", 1, 16, NULL, "taps of the convolution", false},
    {"chunk", FIELD_INT, AT(chunk), "128", 1, 65536, NULL, "tokens of one chunk of the scan", false},
    {"norm_group", FIELD_INT, AT(norm_group), "0", 0, 1e9, NULL, "channels the gated norm averages; 0: one group's",
     false},
    {"norm_eps", FIELD_REAL, AT(norm_eps), "1e-5", 0, 1, NULL, "epsilon of the gated norm", false},
    {"dt_min", FIELD_REAL, AT(dt_min), "0", 0, 1e30, NULL, "lower limit of dt after softplus", false},
    {"dt_max", FIELD_REAL, AT(dt_max), "inf", 0, INFINITY, NULL, "upper limit of dt after softplus", false},
    {"conv_bias", FIELD_BOOL, AT(conv_bias), "true", 0, 0, NULL, "a bias on the convolution", false},
    {"bias", FIELD_BOOL, AT(bias), "false", 0, 0, NULL, "biases on the projections", false},
    FIELDS_END};

static int64_t inner(const struct mamba2_config *c) { return c->heads * c->head_width; }
static int64_t bc_width(const struct mamba2_config *c) { return c->groups * c->state; }
static int64_t conv_width(const struct mamba2_config *c) { return inner(c) + 2 * bc_width(c); }
static int64_t in_width(const struct mamba2_config *c) { return inner(c) + conv_width(c) + c->heads; }
static int64_t norm_group(const struct mamba2_config *c) {
    return c->norm_group > 0 ? c->norm_group : inner(c) / c->groups;
}

static enum status check(const void *config, int64_t width) {
    (void)width;
    const struct mamba2_config *c = config;
    FAIL_UNLESS(c->heads % c->groups == 0, ERR_CONFIG, "groups %lld does not divide heads %lld", (long long)c->groups,
                (long long)c->heads);
    FAIL_UNLESS(inner(c) % norm_group(c) == 0, ERR_CONFIG, "norm_group %lld does not divide heads x head_width = %lld",
                (long long)norm_group(c), (long long)inner(c));
    FAIL_UNLESS(c->dt_min <= c->dt_max, ERR_CONFIG, "dt_min %g is above dt_max %g", c->dt_min, c->dt_max);
    return OK;
}

/* By heads; groups that are fewer than the ranks are on several.  A group of the norm may reach over ranks. */
static enum status split(void *config, const struct split *s) {
    struct mamba2_config *c = config;
    const int64_t norm = norm_group(c);
    TRY(split_units(s, "groups", c->groups, true, &c->groups));
    TRY(split_units(s, "heads", c->heads, false, &c->heads));
    FAIL_UNLESS(
        inner(c) % norm == 0 || norm % inner(c) == 0, ERR_CONFIG,
        "norm_group %lld and the %lld channels of one of the %d ranks of mesh.tensor: neither divides the other",
        (long long)norm, (long long)inner(c), split_n(s, SPLIT_TENSOR));
    c->norm_group = norm < inner(c) ? norm : inner(c);
    return OK;
}

/* Groups of the norm that all ranks have; 0: each lies on one rank. */
static int64_t wide_groups(const struct layer *l) {
    const struct mamba2_config *c = l->whole;
    return norm_group(c) > norm_group(l->config) ? inner(c) / norm_group(c) : 0;
}

static int group_parts(const struct layer *l) {
    const struct mamba2_config *c = l->whole, *here = l->config;
    return (int)(c->groups / here->groups);
}

static void in_sections(struct param *p, const struct layer *l) {
    const struct mamba2_config *c = l->whole;
    const int n = layer_ranks(l), groups = group_parts(l);
    p->n_sections = 5;
    p->section[0] = section_cut("z", inner(c), n);
    p->section[1] = section_cut("x", inner(c), n);
    p->section[2] = section_cut("B", bc_width(c), groups);
    p->section[3] = section_cut("C", bc_width(c), groups);
    p->section[4] = section_cut("dt", c->heads, n);
}

static void conv_sections(struct param *p, const struct layer *l) {
    const struct mamba2_config *c = l->whole;
    const int n = layer_ranks(l), groups = group_parts(l);
    p->n_sections = 3;
    p->section[0] = section_cut("x", inner(c), n);
    p->section[1] = section_cut("B", bc_width(c), groups);
    p->section[2] = section_cut("C", bc_width(c), groups);
}

static enum status declare_matrix(struct layer *l, struct params *ps, int slot, struct param p,
                                  void (*sections)(struct param *, const struct layer *)) {
    if (sections) sections(&p, l);
    return layer_param(l, ps, slot, p);
}

static enum status declare(struct layer *l, struct params *ps) {
    const struct mamba2_config *c = l->whole;
    const int64_t D = l->width, H = c->heads;
    const struct cut rows = {.dim = 0, .parts = layer_ranks(l)}, columns = {.dim = 1, .parts = layer_ranks(l)};
    TRY(declare_matrix(l, ps, W_IN,
                       (struct param){.name = "in_proj.weight",
                                      .shape = {in_width(c), D},
                                      .n_dims = 2,
                                      .init = INIT_NORMAL,
                                      .product = true,
                                      .decay = true},
                       in_sections));
    TRY(declare_matrix(
        l, ps, W_CONV,
        (struct param){
            .name = "conv.weight", .shape = {conv_width(c), c->conv}, .n_dims = 2, .init = INIT_CONV, .decay = true},
        conv_sections));
    if (c->conv_bias)
        TRY(declare_matrix(l, ps, W_CONV_BIAS,
                           (struct param){.name = "conv.bias",
                                          .shape = {conv_width(c)},
                                          .n_dims = 1,
                                          .init = INIT_CONV_BIAS,
                                          .init_scale = (double)c->conv},
                           conv_sections));
    TRY(layer_param(l, ps, W_A_LOG,
                    (struct param){.name = "A_log", .shape = {H}, .n_dims = 1, .cut = {rows}, .init = INIT_A_LOG}));
    TRY(layer_param(l, ps, W_D,
                    (struct param){.name = "D", .shape = {H}, .n_dims = 1, .cut = {rows}, .init = INIT_ONE}));
    TRY(layer_param(l, ps, W_DT_BIAS,
                    (struct param){.name = "dt_bias", .shape = {H}, .n_dims = 1, .cut = {rows}, .init = INIT_DT_BIAS}));
    TRY(layer_param(
        l, ps, W_NORM,
        (struct param){
            .name = "gated_norm.weight", .shape = {inner(c)}, .n_dims = 1, .cut = {rows}, .init = INIT_ONE}));
    TRY(layer_param(l, ps, W_OUT,
                    (struct param){.name = "out_proj.weight",
                                   .shape = {D, inner(c)},
                                   .n_dims = 2,
                                   .cut = {columns},
                                   .init = INIT_NORMAL_OUT,
                                   .product = true,
                                   .decay = true}));
    if (!c->bias) return OK;
    TRY(declare_matrix(l, ps, W_IN_BIAS,
                       (struct param){.name = "in_proj.bias", .shape = {in_width(c)}, .n_dims = 1, .init = INIT_ZERO},
                       in_sections));
    return layer_param(
        l, ps, W_OUT_BIAS,
        (struct param){.name = "out_proj.bias", .shape = {D}, .n_dims = 1, .alike = true, .init = INIT_ZERO});
}

/* Views of a packed (T, in_width) tensor: z | xBC | dt, and of (T, conv_width): x | B | C. */
static struct tensor z_of(struct tensor t, const struct mamba2_config *c) { return tensor_cols(t, 0, inner(c)); }
static struct tensor xbc_of(struct tensor t, const struct mamba2_config *c) {
    return tensor_cols(t, inner(c), conv_width(c));
}
static struct tensor dt_of(struct tensor t, const struct mamba2_config *c) {
    return tensor_cols(t, inner(c) + conv_width(c), c->heads);
}
static struct tensor x_of(struct tensor t, const struct mamba2_config *c) { return tensor_cols(t, 0, inner(c)); }
static struct tensor b_of(struct tensor t, const struct mamba2_config *c) {
    return tensor_cols(t, inner(c), bc_width(c));
}
static struct tensor c_of(struct tensor t, const struct mamba2_config *c) {
    return tensor_cols(t, inner(c) + bc_width(c), bc_width(c));
}

static struct linear in_args(const struct step *s, const struct layer *l, const struct flow *f, const struct saved *v) {
    return (struct linear){.x = f->h,
                           .w = layer_w(s, l, W_IN),
                           .b = layer_w(s, l, W_IN_BIAS),
                           .y = v->slot[S_ZXBCDT].t,
                           .dy = v->slot[S_DZXBCDT].t,
                           .dx = f->dh,
                           .dw = layer_g(s, l, W_IN),
                           .db = layer_g(s, l, W_IN_BIAS)};
}

static struct tail tail_args(const struct layer *l, const struct flow *f, const struct saved *v) {
    return (struct tail){.range = f->shard->range,
                         .x = xbc_of(v->slot[S_ZXBCDT].t, l->config),
                         .tail = v->slot[S_TAIL].t,
                         .dtail = v->slot[S_DTAIL].t,
                         .dx = xbc_of(v->slot[S_DZXBCDT].t, l->config)};
}

static struct conv1d conv_args(const struct step *s, const struct layer *l, const struct flow *f,
                               const struct saved *v) {
    return (struct conv1d){.range = f->shard->range,
                           .pos = f->shard->pos,
                           .x = xbc_of(v->slot[S_ZXBCDT].t, l->config),
                           .w = layer_w(s, l, W_CONV),
                           .b = layer_w(s, l, W_CONV_BIAS),
                           .before = v->slot[S_BEFORE].t,
                           .y = v->slot[S_CONV].t,
                           .dy = v->slot[S_DCONV].t,
                           .dx = xbc_of(v->slot[S_DZXBCDT].t, l->config),
                           .dw = layer_g(s, l, W_CONV),
                           .db = layer_g(s, l, W_CONV_BIAS),
                           .dbefore = v->slot[S_DBEFORE].t,
                           .silu = true};
}

static struct ssd_local local_args(const struct step *s, const struct layer *l, const struct flow *f,
                                   const struct saved *v) {
    const struct mamba2_config *c = l->config;
    const struct tensor conv = v->slot[S_CONV].t;
    return (struct ssd_local){.heads = c->heads,
                              .head_width = c->head_width,
                              .state = c->state,
                              .groups = c->groups,
                              .chunk = c->chunk,
                              .dt_min = c->dt_min,
                              .dt_max = c->dt_max,
                              .range = f->shard->range,
                              .pos = f->shard->pos,
                              .x = x_of(conv, c),
                              .dt = dt_of(v->slot[S_ZXBCDT].t, c),
                              .B = b_of(conv, c),
                              .C = c_of(conv, c),
                              .A_log = layer_w(s, l, W_A_LOG),
                              .dt_bias = layer_w(s, l, W_DT_BIAS),
                              .dts = v->slot[S_DTS].t,
                              .cum = v->slot[S_CUM].t,
                              .states = v->slot[S_STATES].t,
                              .range_decay = v->slot[S_DECAY].t,
                              .range_state = v->slot[S_STATE].t,
                              .dy = v->slot[S_DY].t,
                              .dstates = v->slot[S_DSTATES].t,
                              .range_dstate = v->slot[S_DSTATE].t};
}

static struct ssd scan_args(const struct step *s, const struct layer *l, const struct flow *f, const struct saved *v) {
    const struct mamba2_config *c = l->config;
    const struct tensor conv = v->slot[S_CONV].t, dconv = v->slot[S_DCONV].t;
    return (struct ssd){.heads = c->heads,
                        .head_width = c->head_width,
                        .state = c->state,
                        .groups = c->groups,
                        .chunk = c->chunk,
                        .dt_min = c->dt_min,
                        .dt_max = c->dt_max,
                        .range = f->shard->range,
                        .pos = f->shard->pos,
                        .x = x_of(conv, c),
                        .dt = dt_of(v->slot[S_ZXBCDT].t, c),
                        .B = b_of(conv, c),
                        .C = c_of(conv, c),
                        .A_log = layer_w(s, l, W_A_LOG),
                        .dt_bias = layer_w(s, l, W_DT_BIAS),
                        .D = layer_w(s, l, W_D),
                        .dts = v->slot[S_DTS].t,
                        .cum = v->slot[S_CUM].t,
                        .states = v->slot[S_STATES].t,
                        .s_in = v->slot[S_S_IN].t,
                        .y = v->slot[S_Y].t,
                        .dy = v->slot[S_DY].t,
                        .ds_out = v->slot[S_DS_OUT].t,
                        .dstates = v->slot[S_DSTATES].t,
                        .dx = x_of(dconv, c),
                        .ddt = dt_of(v->slot[S_DZXBCDT].t, c),
                        .dB = b_of(dconv, c),
                        .dC = c_of(dconv, c),
                        .ds_in = v->slot[S_DS_IN].t,
                        .dA_log = layer_g(s, l, W_A_LOG),
                        .ddt_bias = layer_g(s, l, W_DT_BIAS),
                        .dD = layer_g(s, l, W_D)};
}

static struct gated_norm norm_args(const struct step *s, const struct layer *l, const struct saved *v) {
    const struct mamba2_config *c = l->config;
    return (struct gated_norm){.y = v->slot[S_Y].t,
                               .z = z_of(v->slot[S_ZXBCDT].t, c),
                               .w = layer_w(s, l, W_NORM),
                               .out = v->slot[S_U].t,
                               .r = v->slot[S_NORM_R].t,
                               .dout = v->slot[S_DU].t,
                               .dy = v->slot[S_DY].t,
                               .dz = z_of(v->slot[S_DZXBCDT].t, c),
                               .dw = layer_g(s, l, W_NORM),
                               .group = norm_group(c),
                               .eps = c->norm_eps};
}

static struct linear out_args(const struct step *s, const struct layer *l, const struct flow *f,
                              const struct saved *v) {
    return (struct linear){.x = v->slot[S_U].t,
                           .w = layer_w(s, l, W_OUT),
                           .b = layer_b(s, l, W_OUT_BIAS),
                           .y = f->y,
                           .dy = f->dy,
                           .dx = v->slot[S_DU].t,
                           .dw = layer_g(s, l, W_OUT),
                           .db = layer_g(s, l, W_OUT_BIAS)};
}

static enum status plan(struct plan *p, const struct layer *l) {
    const struct mamba2_config *c = l->config;
    const struct ops *ops = p->ctx->ops;
    const int64_t T = p->n_tokens, R = p->n_ranges, H = c->heads, P = c->head_width, N = c->state;
    const int64_t chunks = plan_chunks(p, c->chunk), C = conv_width(c), K1 = c->conv - 1;
    plan_slot(p, S_ZXBCDT, "zxBCdt", KEEP_GEMM, T, in_width(c), 1, 1);
    plan_slot(p, S_CONV, "conv", KEEP_CHEAP, T, C, 1, 1);
    plan_wide(p, S_DTS, "dts", KEEP_CHEAP, T, H, 1, 1);
    plan_wide(p, S_CUM, "cum", KEEP_CHEAP, T, H, 1, 1);
    plan_slot(p, S_STATES, "states", KEEP_CHEAP, chunks, H, P, N);
    if (wide_groups(l) > 0) {
        plan_typed(p, S_SQUARE, "square", KEEP_BOUNDARY, F64, T, wide_groups(l));
        plan_typed(p, S_PULL, "pull", KEEP_SCRATCH, F64, T, wide_groups(l));
        plan_total(p, T * wide_groups(l));
    }
    plan_slot(p, S_Y, "y", KEEP_CHEAP, T, inner(c), 1, 1);
    plan_wide(p, S_NORM_R, "norm_r", KEEP_CHEAP, T, inner(c) / norm_group(c), 1, 1);
    plan_slot(p, S_U, "u", KEEP_CHEAP, T, inner(c), 1, 1);
    plan_slot(p, S_BEFORE, "before", KEEP_BOUNDARY, R, K1, C, 1);
    plan_wide(p, S_S_IN, "s_in", KEEP_BOUNDARY, R, H, P, N);
    plan_wide(p, S_DECAY, "decay", KEEP_BOUNDARY, R, H, 1, 1);
    plan_slot(p, S_TAIL, "tail", KEEP_SCRATCH, R, K1, C, 1);
    plan_wide(p, S_STATE, "state", KEEP_SCRATCH, R, H, P, N);
    plan_slot(p, S_DU, "du", KEEP_SCRATCH, T, inner(c), 1, 1);
    plan_slot(p, S_DY, "dy", KEEP_SCRATCH, T, inner(c), 1, 1);
    plan_reuse(p, S_DCONV, "dconv", S_Y, S_U, T, C, 1, 1);
    plan_slot(p, S_DZXBCDT, "dzxBCdt", KEEP_SCRATCH, T, in_width(c), 1, 1);
    plan_reuse(p, S_DSTATES, "dstates", S_DU, S_DU, chunks, H, P, N);
    plan_wide(p, S_DSTATE, "dstate", KEEP_SCRATCH, R, H, P, N);
    plan_wide(p, S_DS_OUT, "ds_out", KEEP_SCRATCH, R, H, P, N);
    plan_wide(p, S_DS_IN, "ds_in", KEEP_SCRATCH, R, H, P, N);
    plan_slot(p, S_DBEFORE, "dbefore", KEEP_SCRATCH, R, K1, C, 1);
    plan_slot(p, S_DTAIL, "dtail", KEEP_SCRATCH, R, K1, C, 1);
    const struct linear in = in_args(p->step, l, p->flow, p->saved), out = out_args(p->step, l, p->flow, p->saved);
    const struct tail tail = tail_args(l, p->flow, p->saved);
    const struct conv1d conv = conv_args(p->step, l, p->flow, p->saved);
    const struct ssd_local local = local_args(p->step, l, p->flow, p->saved);
    const struct ssd scan = scan_args(p->step, l, p->flow, p->saved);
    const struct gated_norm norm = norm_args(p->step, l, p->saved);
    plan_carry(p, CARRY_LAST, K1, C);
    plan_carry(p, CARRY_AFFINE, H * P, N);
    plan_work(p, ops->linear_work(p->ctx, &in));
    plan_work(p, ops->linear_work(p->ctx, &out));
    plan_work(p, ops->tail_work(p->ctx, &tail));
    plan_work(p, ops->conv1d_work(p->ctx, &conv));
    plan_work(p, ops->ssd_local_work(p->ctx, &local));
    plan_work(p, ops->ssd_work(p->ctx, &scan));
    plan_work(p, ops->gated_norm_work(p->ctx, &norm));
    return OK;
}

/* The projection onto columns [begin, begin + n) alone: parts are computed apart, so that what a carry waits for comes
 * first and the rest stands between its begin and end. */
static struct linear part(struct linear a, int64_t begin, int64_t n, bool dx_add) {
    a.w = tensor_rows(a.w, begin, n);
    a.dw = tensor_rows(a.dw, begin, n);
    if (tensor_has(a.b)) a.b = tensor_rows(a.b, begin, n);
    if (tensor_has(a.db)) a.db = tensor_rows(a.db, begin, n);
    a.y = tensor_cols(a.y, begin, n);
    a.dy = tensor_cols(a.dy, begin, n);
    a.dx_add = dx_add;
    return a;
}
static struct linear z_part(struct linear in, const struct mamba2_config *c) { return part(in, 0, inner(c), false); }
static struct linear xbc_part(struct linear in, const struct mamba2_config *c) {
    return part(in, inner(c), conv_width(c), true);
}
static struct linear dt_part(struct linear in, const struct mamba2_config *c) {
    return part(in, inner(c) + conv_width(c), c->heads, true);
}

/* My column of the sums of groups on several ranks. */
static struct tensor my_group(const struct layer *l, struct tensor sums) {
    const struct mamba2_config *c = l->whole;
    const int64_t first = l->split.at[SPLIT_TENSOR] * inner(l->config);
    return tensor_cols(sums, first / norm_group(c), 1);
}

/* One half of the norm's pass, sums over ranks, the other half; or all at once where groups are whole here. */
static enum status norm_pass(struct step *s, const struct layer *l, const struct saved *v, bool backward) {
    struct gated_norm a = norm_args(s, l, v);
    enum status (*const pass)(struct ctx *, const struct gated_norm *) =
        backward ? s->ctx->ops->gated_norm_bwd : s->ctx->ops->gated_norm_fwd;
    const struct tensor sums = v->slot[backward ? S_PULL : S_SQUARE].t;
    if (wide_groups(l) == 0) return pass(s->ctx, &a);
    a.group_all = norm_group(l->whole);
    a.square = my_group(l, v->slot[S_SQUARE].t);
    a.pull = my_group(l, v->slot[S_PULL].t);
    if (backward || !layer_has(s, v, S_SQUARE)) {
        a.half = GATED_SUMS;
        TRY(s->ctx->ops->fill_fwd(s->ctx, &(struct fill){.x = sums, .value = 0.0}));
        TRY(pass(s->ctx, &a));
        TRY(s->seams->total(s, sums, AXIS_TENSOR));
    }
    a.half = GATED_REST;
    return pass(s->ctx, &a);
}

static enum status forward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    const struct ops *ops = s->ctx->ops;
    const struct linear in = in_args(s, l, f, v), out = out_args(s, l, f, v);
    const struct tail tail = tail_args(l, f, v);
    const struct conv1d conv = conv_args(s, l, f, v);
    const struct ssd_local local = local_args(s, l, f, v);
    const struct ssd scan = scan_args(s, l, f, v);
    struct carry before = {
        .op = CARRY_LAST, .to = CARRY_FORWARD, .id = CARRY_CONV, .state = tail.tail, .entering = conv.before};
    struct carry state = {.op = CARRY_AFFINE,
                          .to = CARRY_FORWARD,
                          .id = CARRY_STATE,
                          .decay = local.range_decay,
                          .state = local.range_state,
                          .entering = scan.s_in};
    const struct linear xbc = xbc_part(in, l->config), dt = dt_part(in, l->config), z = z_part(in, l->config);
    const bool project = !layer_has(s, v, S_ZXBCDT);
    TRY(edge_h(s, f, &xbc, project));
    TRY(ops->tail_fwd(s->ctx, &tail));
    TRY(s->seams->carry_begin(s, l, f, &before));
    if (project) TRY(ops->linear_fwd(s->ctx, &dt));
    TRY(s->seams->carry_end(s, l, f, &before));
    TRY(ops->conv1d_fwd(s->ctx, &conv));
    TRY(ops->ssd_local_fwd(s->ctx, &local));
    TRY(s->seams->carry_begin(s, l, f, &state));
    if (project) TRY(ops->linear_fwd(s->ctx, &z));
    TRY(s->seams->carry_end(s, l, f, &state));
    TRY(ops->ssd_fwd(s->ctx, &scan));
    TRY(norm_pass(s, l, v, false));
    return edge_y(s, f, &out);
}

static enum status backward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    const struct ops *ops = s->ctx->ops;
    const struct linear in = in_args(s, l, f, v), out = out_args(s, l, f, v);
    const struct tail tail = tail_args(l, f, v);
    const struct conv1d conv = conv_args(s, l, f, v);
    const struct ssd_local local = local_args(s, l, f, v);
    const struct ssd scan = scan_args(s, l, f, v);
    struct carry state = {.op = CARRY_AFFINE,
                          .to = CARRY_BACKWARD,
                          .id = CARRY_STATE,
                          .decay = local.range_decay,
                          .state = local.range_dstate,
                          .entering = scan.ds_out};
    struct carry before = {
        .op = CARRY_LAST, .to = CARRY_BACKWARD, .id = CARRY_CONV, .state = conv.dbefore, .entering = tail.dtail};
    struct linear out_w = out; /* can wait */
    out_w.dx = (struct tensor){0};
    const struct linear xbc = xbc_part(in, l->config), dt = dt_part(in, l->config), z = z_part(in, l->config);
    TRY(edge_dy(s, f, &out));
    TRY(norm_pass(s, l, v, true));
    TRY(ops->ssd_local_bwd(s->ctx, &local));
    TRY(s->seams->carry_begin(s, l, f, &state));
    TRY(ops->linear_bwd(s->ctx, &out_w));
    TRY(s->seams->carry_end(s, l, f, &state));
    TRY(ops->ssd_bwd(s->ctx, &scan));
    TRY(ops->conv1d_bwd(s->ctx, &conv));
    TRY(s->seams->carry_begin(s, l, f, &before));
    TRY(ops->linear_bwd(s->ctx, &z));
    TRY(ops->linear_bwd(s->ctx, &dt));
    TRY(s->seams->carry_end(s, l, f, &before));
    TRY(ops->tail_bwd(s->ctx, &tail));
    return edge_dh(s, f, &xbc);
}

/* The scan's share, 7 inner N flops a token forward: Megatron-LM's counting for hybrids. */
static double flops(const struct layer *l, int64_t tokens_per_sequence) {
    (void)tokens_per_sequence;
    const struct mamba2_config *c = l->whole;
    return 7.0 * (double)inner(c) * (double)c->state;
}

static int64_t chunk_of(const struct layer *l) { return ((const struct mamba2_config *)l->config)->chunk; }

const struct mixer_kind mamba2_kind = {.name = "mamba2",
                                       .fields = mamba2_fields,
                                       .config_bytes = sizeof(struct mamba2_config),
                                       .check = check,
                                       .split = split,
                                       .edges = true,
                                       .declare = declare,
                                       .plan = plan,
                                       .forward = forward,
                                       .backward = backward,
                                       .chunk = chunk_of,
                                       .flops = flops};
