/* SPDX-License-Identifier: Apache-2.0 */
/* Mamba-1: in_proj -> [x | z], short convolution of x, x_proj -> [dt | B | C], norms on these three where asked,
 * dt_proj, selective scan with its gate, out_proj.
 *
 * Two carries cross range edges: the last K-1 rows before the convolution, and the scan's state, D heads of width 1 to
 * the affine carry, whose decays are sums of time.  The projection to z stands between begin and end of the first; the
 * local half of the scan walks every token, and what the second's state adds is little, so nothing need hide it.
 * Forward runs left to right, backward right to left. */
#include <string.h>
#include "kernels/conv1d/conv1d.h"
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/selective_scan/selective_scan.h"
#include "kernels/selective_scan_local/selective_scan_local.h"
#include "kernels/tail/tail.h"
#include "model/edges.h"
#include "model/seams.h"

enum norms { NORMS_NONE, NORMS_PLAIN, NORMS_LEARNED };
struct mamba1_config {
    int64_t inner, state, dt_rank, conv, chunk;
    int norms; /* enum norms */
    double norm_eps;
    bool conv_bias, bias;
};
/* W_DT_NORM and S_R_DT have their likes of B and C behind them. */
enum { W_IN, W_IN_BIAS, W_CONV, W_CONV_BIAS, W_X, W_DT_NORM, W_B_NORM, W_C_NORM };
enum { W_DT = W_C_NORM + 1, W_DT_BIAS, W_A_LOG, W_D, W_OUT, W_OUT_BIAS };
/* Slots: kept; boundaries and scratch of forward; scratch of backward. */
enum { S_XZ, S_CONV, S_DT_B_C, S_NORMED, S_R_DT, S_R_B, S_R_C, S_DT, S_STATES, S_TIME, S_OUT };
enum { S_BEFORE = S_OUT + 1, S_S_IN, S_RANGE_TIME, S_TAIL, S_STATE };
enum { S_DOUT = S_STATE + 1, S_DXZ, S_DCONV, S_DDT_B_C, S_DNORMED, S_DDT, S_DSTATES, S_DSTATE, S_DS_OUT };
enum { S_DS_IN = S_DS_OUT + 1, S_DBEFORE, S_DTAIL, S_SHARE };
enum { CARRY_CONV, CARRY_STATE };
enum { PART_DT, PART_B, PART_C, N_PARTS };

#define AT(member) offsetof(struct mamba1_config, member)
static const struct field mamba1_fields[] = {
    {"inner", FIELD_INT, AT(inner), NULL, 1, 1 << 24, NULL, "channels of the scan", false},
    {"state", FIELD_INT, AT(state), "16", 1, 65536, NULL, "state width of one channel", false},
    {"dt_rank", FIELD_INT, AT(dt_rank), "0", 0, 65536, NULL, "width that dt comes from; 0: width / 16, rounded up",
     false},
    {"conv", FIELD_INT, AT(conv), "4", 1, 16, NULL, "taps of the convolution", false},
    {"chunk", FIELD_INT, AT(chunk), "64", 1, 65536, NULL, "tokens from one kept state to the next", false},
    {"norms", FIELD_CHOICE, AT(norms), "none", 0, 0, "none|plain|learned", "norms of dt, B and C before dt_proj",
     false},
    {"norm_eps", FIELD_REAL, AT(norm_eps), "1e-6", 0, 1, NULL, "epsilon of those norms", false},
    {"conv_bias", FIELD_BOOL, AT(conv_bias), "true", 0, 0, NULL, "a bias on the convolution", false},
    {"bias", FIELD_BOOL, AT(bias), "false", 0, 0, NULL, "biases on in_proj and out_proj", false},
    FIELDS_END};

static int64_t rank_of(const struct layer *l) {
    const struct mamba1_config *c = l->config;
    return c->dt_rank > 0 ? c->dt_rank : (l->width + 15) / 16;
}

static enum status check(const void *config, int64_t width) {
    (void)config, (void)width;
    return OK;
}

/* By channels.  dt, B and C come from all of them: they are sums over ranks, alike on all, and so are their norms. */
static enum status split(void *config, const struct split *s) {
    struct mamba1_config *c = config;
    return split_units(s, "inner", c->inner, false, &c->inner);
}

/* ---- parameters ---- */

static struct param matrix(const char *name, int64_t rows, int64_t cols, enum init init) {
    struct param p = {.shape = {rows, cols}, .n_dims = 2, .product = true, .init = init, .decay = true};
    memcpy(p.name, name, strlen(name) + 1);
    return p;
}

/* A row for each channel. */
static enum status of_channels(struct layer *l, struct params *ps, int slot, struct param p) {
    p.cut[SPLIT_TENSOR] = (struct cut){.dim = 0, .parts = layer_ranks(l)};
    return layer_param(l, ps, slot, p);
}

static enum status declare_in(struct layer *l, struct params *ps) {
    const struct mamba1_config *c = l->whole;
    struct param w = matrix("in_proj.weight", 2 * c->inner, l->width, INIT_NORMAL);
    struct param b = {.name = "in_proj.bias", .shape = {2 * c->inner}, .n_dims = 1, .init = INIT_ZERO};
    w.n_sections = b.n_sections = 2;
    w.section[0] = b.section[0] = section_cut("x", c->inner, layer_ranks(l));
    w.section[1] = b.section[1] = section_cut("z", c->inner, layer_ranks(l));
    TRY(layer_param(l, ps, W_IN, w));
    return c->bias ? layer_param(l, ps, W_IN_BIAS, b) : OK;
}

static enum status declare_conv(struct layer *l, struct params *ps) {
    const struct mamba1_config *c = l->whole;
    TRY(of_channels(
        l, ps, W_CONV,
        (struct param){
            .name = "conv.weight", .shape = {c->inner, c->conv}, .n_dims = 2, .init = INIT_CONV, .decay = true}));
    if (!c->conv_bias) return OK;
    return of_channels(l, ps, W_CONV_BIAS,
                       (struct param){.name = "conv.bias",
                                      .shape = {c->inner},
                                      .n_dims = 1,
                                      .init = INIT_CONV_BIAS,
                                      .init_scale = (double)c->conv});
}

static enum status declare_steps(struct layer *l, struct params *ps) {
    const struct mamba1_config *c = l->whole;
    const int64_t R = rank_of(l), N = c->state;
    struct param x = matrix("x_proj.weight", R + 2 * N, c->inner, INIT_NORMAL);
    x.cut[SPLIT_TENSOR] = (struct cut){.dim = 1, .parts = layer_ranks(l)};
    x.n_sections = 3;
    x.section[0] = section_cut("dt", R, 1);
    x.section[1] = section_cut("B", N, 1);
    x.section[2] = section_cut("C", N, 1);
    TRY(layer_param(l, ps, W_X, x));
    if (c->norms == NORMS_LEARNED) {
        static const char *const names[N_PARTS] = {"dt_norm.weight", "B_norm.weight", "C_norm.weight"};
        for (int i = 0; i < N_PARTS; i++) {
            struct param norm = {.shape = {i == PART_DT ? R : N}, .n_dims = 1, .alike = true, .init = INIT_ONE};
            memcpy(norm.name, names[i], strlen(names[i]) + 1);
            TRY(layer_param(l, ps, W_DT_NORM + i, norm));
        }
    }
    TRY(of_channels(l, ps, W_DT, matrix("dt_proj.weight", c->inner, R, INIT_FAN_IN)));
    return of_channels(l, ps, W_DT_BIAS,
                       (struct param){.name = "dt_bias", .shape = {c->inner}, .n_dims = 1, .init = INIT_DT_BIAS});
}

static enum status declare(struct layer *l, struct params *ps) {
    const struct mamba1_config *c = l->whole;
    TRY(declare_in(l, ps));
    TRY(declare_conv(l, ps));
    TRY(declare_steps(l, ps));
    TRY(of_channels(
        l, ps, W_A_LOG,
        (struct param){.name = "A_log", .shape = {c->inner, c->state}, .n_dims = 2, .init = INIT_A_LOG_ROW}));
    TRY(of_channels(l, ps, W_D, (struct param){.name = "D", .shape = {c->inner}, .n_dims = 1, .init = INIT_ONE}));
    struct param out = matrix("out_proj.weight", l->width, c->inner, INIT_NORMAL_OUT);
    out.cut[SPLIT_TENSOR] = (struct cut){.dim = 1, .parts = layer_ranks(l)};
    TRY(layer_param(l, ps, W_OUT, out));
    if (!c->bias) return OK;
    return layer_param(
        l, ps, W_OUT_BIAS,
        (struct param){.name = "out_proj.bias", .shape = {l->width}, .n_dims = 1, .alike = true, .init = INIT_ZERO});
}

/* ---- arguments ---- */

/* Views of a packed (T, 2 inner) tensor, x | z, and of a (T, R + 2 N) one, dt | B | C. */
static struct tensor x_of(struct tensor t) { return tensor_cols(t, 0, t.shape[1] / 2); }
static struct tensor z_of(struct tensor t) { return tensor_cols(t, t.shape[1] / 2, t.shape[1] / 2); }
static struct tensor part_of(const struct layer *l, struct tensor t, int part) {
    const int64_t R = rank_of(l), N = ((const struct mamba1_config *)l->config)->state;
    return part == PART_DT ? tensor_cols(t, 0, R) : tensor_cols(t, R + (part - PART_B) * N, N);
}
/* Where dt_proj and the scan read dt | B | C, and leave its gradient. */
static struct tensor normed(const struct layer *l, const struct saved *v) {
    const bool norms = ((const struct mamba1_config *)l->config)->norms != NORMS_NONE;
    return v->slot[norms ? S_NORMED : S_DT_B_C].t;
}
static struct tensor dnormed(const struct layer *l, const struct saved *v) {
    const bool norms = ((const struct mamba1_config *)l->config)->norms != NORMS_NONE;
    return v->slot[norms ? S_DNORMED : S_DDT_B_C].t;
}

/* The projection onto columns [begin, begin + n) of x | z alone: x is needed first, and of z one half stands in each of
 * forward's exchanges. */
static struct linear in_args(const struct step *s, const struct layer *l, const struct flow *f, const struct saved *v,
                             int64_t begin, int64_t n) {
    struct linear a = {.x = f->h,
                       .w = tensor_rows(layer_w(s, l, W_IN), begin, n),
                       .b = layer_w(s, l, W_IN_BIAS),
                       .y = tensor_cols(v->slot[S_XZ].t, begin, n),
                       .dy = tensor_cols(v->slot[S_DXZ].t, begin, n),
                       .dx = f->dh,
                       .dw = tensor_rows(layer_g(s, l, W_IN), begin, n),
                       .db = layer_g(s, l, W_IN_BIAS),
                       .dx_add = begin == 0};
    if (l->param[W_IN_BIAS] < 0) return a;
    a.b = tensor_rows(a.b, begin, n);
    a.db = tensor_rows(a.db, begin, n);
    return a;
}

static struct tail tail_args(const struct flow *f, const struct saved *v) {
    return (struct tail){.range = f->shard->range,
                         .x = x_of(v->slot[S_XZ].t),
                         .tail = v->slot[S_TAIL].t,
                         .dtail = v->slot[S_DTAIL].t,
                         .dx = x_of(v->slot[S_DXZ].t)};
}

static struct conv1d conv_args(const struct step *s, const struct layer *l, const struct flow *f,
                               const struct saved *v) {
    return (struct conv1d){.range = f->shard->range,
                           .pos = f->shard->pos,
                           .x = x_of(v->slot[S_XZ].t),
                           .w = layer_w(s, l, W_CONV),
                           .b = layer_w(s, l, W_CONV_BIAS),
                           .before = v->slot[S_BEFORE].t,
                           .y = v->slot[S_CONV].t,
                           .dy = v->slot[S_DCONV].t,
                           .dx = x_of(v->slot[S_DXZ].t),
                           .dw = layer_g(s, l, W_CONV),
                           .db = layer_g(s, l, W_CONV_BIAS),
                           .dbefore = v->slot[S_DBEFORE].t,
                           .silu = true};
}

static struct linear x_args(const struct step *s, const struct layer *l, const struct saved *v) {
    return (struct linear){.x = v->slot[S_CONV].t,
                           .w = layer_w(s, l, W_X),
                           .y = v->slot[S_DT_B_C].t,
                           .dy = v->slot[S_DDT_B_C].t,
                           .dx = v->slot[S_DCONV].t,
                           .dw = layer_g(s, l, W_X),
                           .dx_add = true}; /* the scan's own gradient of x is there first */
}

static struct rmsnorm norm_args(const struct step *s, const struct layer *l, const struct saved *v, int part) {
    return (struct rmsnorm){.x = part_of(l, v->slot[S_DT_B_C].t, part),
                            .w = layer_w(s, l, W_DT_NORM + part),
                            .y = part_of(l, v->slot[S_NORMED].t, part),
                            .r = v->slot[S_R_DT + part].t,
                            .dy = part_of(l, v->slot[S_DNORMED].t, part),
                            .dx = part_of(l, v->slot[S_DDT_B_C].t, part),
                            .dw = layer_g(s, l, W_DT_NORM + part),
                            .eps = ((const struct mamba1_config *)l->config)->norm_eps};
}

/* Its bias is added by the scan, in front of the softplus. */
static struct linear dt_args(const struct step *s, const struct layer *l, const struct saved *v) {
    return (struct linear){.x = part_of(l, normed(l, v), PART_DT),
                           .w = layer_w(s, l, W_DT),
                           .y = v->slot[S_DT].t,
                           .dy = v->slot[S_DDT].t,
                           .dx = part_of(l, dnormed(l, v), PART_DT),
                           .dw = layer_g(s, l, W_DT)};
}

static struct selective_scan_local local_args(const struct step *s, const struct layer *l, const struct flow *f,
                                              const struct saved *v) {
    const struct mamba1_config *c = l->config;
    return (struct selective_scan_local){.state = c->state,
                                         .chunk = c->chunk,
                                         .range = f->shard->range,
                                         .pos = f->shard->pos,
                                         .x = v->slot[S_CONV].t,
                                         .dt = v->slot[S_DT].t,
                                         .B = part_of(l, normed(l, v), PART_B),
                                         .A_log = layer_w(s, l, W_A_LOG),
                                         .dt_bias = layer_w(s, l, W_DT_BIAS),
                                         .D = layer_w(s, l, W_D),
                                         .out = v->slot[S_OUT].t,
                                         .states = v->slot[S_STATES].t,
                                         .chunk_time = v->slot[S_TIME].t,
                                         .range_time = v->slot[S_RANGE_TIME].t,
                                         .range_state = v->slot[S_STATE].t,
                                         .z = z_of(v->slot[S_XZ].t),
                                         .dout = v->slot[S_DOUT].t,
                                         .C = part_of(l, normed(l, v), PART_C),
                                         .dstates = v->slot[S_DSTATES].t,
                                         .range_dstate = v->slot[S_DSTATE].t};
}

static struct selective_scan scan_args(const struct step *s, const struct layer *l, const struct flow *f,
                                       const struct saved *v) {
    const struct mamba1_config *c = l->config;
    return (struct selective_scan){.state = c->state,
                                   .chunk = c->chunk,
                                   .range = f->shard->range,
                                   .pos = f->shard->pos,
                                   .x = v->slot[S_CONV].t,
                                   .z = z_of(v->slot[S_XZ].t),
                                   .dt = v->slot[S_DT].t,
                                   .B = part_of(l, normed(l, v), PART_B),
                                   .C = part_of(l, normed(l, v), PART_C),
                                   .A_log = layer_w(s, l, W_A_LOG),
                                   .dt_bias = layer_w(s, l, W_DT_BIAS),
                                   .D = layer_w(s, l, W_D),
                                   .states = v->slot[S_STATES].t,
                                   .chunk_time = v->slot[S_TIME].t,
                                   .s_in = v->slot[S_S_IN].t,
                                   .out = v->slot[S_OUT].t,
                                   .dout = v->slot[S_DOUT].t,
                                   .ds_out = v->slot[S_DS_OUT].t,
                                   .dstates = v->slot[S_DSTATES].t,
                                   .dx = v->slot[S_DCONV].t,
                                   .dz = z_of(v->slot[S_DXZ].t),
                                   .ddt = v->slot[S_DDT].t,
                                   .dB = part_of(l, dnormed(l, v), PART_B),
                                   .dC = part_of(l, dnormed(l, v), PART_C),
                                   .ds_in = v->slot[S_DS_IN].t,
                                   .dA_log = layer_g(s, l, W_A_LOG),
                                   .ddt_bias = layer_g(s, l, W_DT_BIAS),
                                   .dD = layer_g(s, l, W_D)};
}

static struct linear out_args(const struct step *s, const struct layer *l, const struct flow *f,
                              const struct saved *v) {
    return (struct linear){.x = v->slot[S_OUT].t,
                           .w = layer_w(s, l, W_OUT),
                           .b = layer_b(s, l, W_OUT_BIAS),
                           .y = f->y,
                           .dy = f->dy,
                           .dx = v->slot[S_DOUT].t,
                           .dw = layer_g(s, l, W_OUT),
                           .db = layer_g(s, l, W_OUT_BIAS)};
}

/* ---- plan ---- */

static void plan_norms(struct plan *p, const struct layer *l) {
    const struct mamba1_config *c = l->config;
    const int64_t T = p->n_tokens, all = rank_of(l) + 2 * c->state;
    if (c->norms == NORMS_NONE) return;
    plan_slot(p, S_NORMED, "normed", KEEP_CHEAP, T, all, 1, 1);
    plan_wide(p, S_R_DT, "r_dt", KEEP_CHEAP, T, 1, 1, 1);
    plan_wide(p, S_R_B, "r_b", KEEP_CHEAP, T, 1, 1, 1);
    plan_wide(p, S_R_C, "r_c", KEEP_CHEAP, T, 1, 1, 1);
    plan_slot(p, S_DNORMED, "dnormed", KEEP_SCRATCH, T, all, 1, 1);
    for (int i = 0; i < N_PARTS; i++) {
        const struct rmsnorm norm = norm_args(p->step, l, p->saved, i);
        plan_work(p, p->ctx->ops->rmsnorm_work(p->ctx, &norm));
    }
}

static void plan_slots(struct plan *p, const struct layer *l) {
    const struct mamba1_config *c = l->config;
    const int64_t T = p->n_tokens, R = p->n_ranges, D = c->inner, N = c->state, K1 = c->conv - 1;
    const int64_t chunks = plan_chunks(p, c->chunk), all = rank_of(l) + 2 * N;
    plan_slot(p, S_XZ, "xz", KEEP_GEMM, T, 2 * D, 1, 1);
    plan_slot(p, S_CONV, "conv", KEEP_CHEAP, T, D, 1, 1);
    const bool summed = layer_ranks(l) > 1; /* over ranks */
    plan_slot(p, S_DT_B_C, "dtBC", summed ? KEEP_BOUNDARY : KEEP_GEMM, T, all, 1, 1);
    plan_sum(p, l, S_SHARE, all);
    plan_slot(p, S_DT, "dt", KEEP_GEMM, T, D, 1, 1);
    plan_wide(p, S_STATES, "states", KEEP_CHEAP, chunks, D, 1, N);
    plan_wide(p, S_TIME, "time", KEEP_CHEAP, chunks, D, 1, 1);
    plan_slot(p, S_OUT, "out", KEEP_CHEAP, T, D, 1, 1);
    plan_slot(p, S_BEFORE, "before", KEEP_BOUNDARY, R, K1, D, 1);
    plan_wide(p, S_S_IN, "s_in", KEEP_BOUNDARY, R, D, 1, N);
    plan_wide(p, S_RANGE_TIME, "range_time", KEEP_BOUNDARY, R, D, 1, 1);
    plan_slot(p, S_TAIL, "tail", KEEP_SCRATCH, R, K1, D, 1);
    plan_wide(p, S_STATE, "state", KEEP_SCRATCH, R, D, 1, N);
    plan_slot(p, S_DOUT, "dout", KEEP_SCRATCH, T, D, 1, 1);
    plan_slot(p, S_DXZ, "dxz", KEEP_SCRATCH, T, 2 * D, 1, 1);
    plan_slot(p, S_DCONV, "dconv", KEEP_SCRATCH, T, D, 1, 1);
    plan_slot(p, S_DDT_B_C, "ddtBC", KEEP_SCRATCH, T, all, 1, 1);
    plan_slot(p, S_DDT, "ddt", KEEP_SCRATCH, T, D, 1, 1);
    plan_wide(p, S_DSTATES, "dstates", KEEP_SCRATCH, chunks, D, 1, N);
    plan_wide(p, S_DSTATE, "dstate", KEEP_SCRATCH, R, D, 1, N);
    plan_wide(p, S_DS_OUT, "ds_out", KEEP_SCRATCH, R, D, 1, N);
    plan_wide(p, S_DS_IN, "ds_in", KEEP_SCRATCH, R, D, 1, N);
    plan_slot(p, S_DBEFORE, "dbefore", KEEP_SCRATCH, R, K1, D, 1);
    plan_slot(p, S_DTAIL, "dtail", KEEP_SCRATCH, R, K1, D, 1);
}

static enum status plan(struct plan *p, const struct layer *l) {
    const struct mamba1_config *c = l->config;
    const struct ops *ops = p->ctx->ops;
    plan_slots(p, l);
    plan_norms(p, l);
    const struct linear gemms[] = {in_args(p->step, l, p->flow, p->saved, 0, c->inner), x_args(p->step, l, p->saved),
                                   dt_args(p->step, l, p->saved), out_args(p->step, l, p->flow, p->saved)};
    for (size_t i = 0; i < sizeof gemms / sizeof *gemms; i++) plan_work(p, ops->linear_work(p->ctx, &gemms[i]));
    const struct tail tail = tail_args(p->flow, p->saved);
    const struct conv1d conv = conv_args(p->step, l, p->flow, p->saved);
    const struct selective_scan_local local = local_args(p->step, l, p->flow, p->saved);
    const struct selective_scan scan = scan_args(p->step, l, p->flow, p->saved);
    plan_carry(p, CARRY_LAST, c->conv - 1, c->inner);
    plan_carry(p, CARRY_AFFINE, c->inner, c->state);
    plan_work(p, ops->tail_work(p->ctx, &tail));
    plan_work(p, ops->conv1d_work(p->ctx, &conv));
    plan_work(p, ops->selective_scan_local_work(p->ctx, &local));
    plan_work(p, ops->selective_scan_work(p->ctx, &scan));
    return OK;
}

/* ---- passes ---- */

/* conv -> dt | B | C, normed, and dt of every channel. */
static enum status steps_forward(struct step *s, const struct layer *l, struct saved *v) {
    const struct ops *ops = s->ctx->ops;
    const struct linear x = x_args(s, l, v), dt = dt_args(s, l, v);
    const bool norms = ((const struct mamba1_config *)l->config)->norms != NORMS_NONE;
    if (!layer_has(s, v, S_DT_B_C)) {
        TRY(ops->linear_fwd(s->ctx, &x));
        TRY(layer_sum(s, l, x.y, v->slot[S_SHARE].t)); /* every rank has the share of its channels */
    }
    for (int i = 0; norms && i < N_PARTS; i++) {
        const struct rmsnorm norm = norm_args(s, l, v, i);
        TRY(ops->rmsnorm_fwd(s->ctx, &norm));
    }
    return layer_has(s, v, S_DT) ? OK : ops->linear_fwd(s->ctx, &dt);
}

static enum status steps_backward(struct step *s, const struct layer *l, struct saved *v) {
    const struct ops *ops = s->ctx->ops;
    const struct linear x = x_args(s, l, v), dt = dt_args(s, l, v);
    const bool norms = ((const struct mamba1_config *)l->config)->norms != NORMS_NONE;
    TRY(ops->linear_bwd(s->ctx, &dt));
    TRY(layer_sum(s, l, dnormed(l, v), v->slot[S_SHARE].t));
    for (int i = 0; norms && i < N_PARTS; i++) {
        const struct rmsnorm norm = norm_args(s, l, v, i);
        TRY(ops->rmsnorm_bwd(s->ctx, &norm));
    }
    return ops->linear_bwd(s->ctx, &x);
}

static enum status forward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    const struct ops *ops = s->ctx->ops;
    const int64_t D = ((const struct mamba1_config *)l->config)->inner;
    const struct linear x = in_args(s, l, f, v, 0, D), z = in_args(s, l, f, v, D, D), out = out_args(s, l, f, v);
    const struct tail tail = tail_args(f, v);
    const struct conv1d conv = conv_args(s, l, f, v);
    const struct selective_scan_local local = local_args(s, l, f, v);
    const struct selective_scan scan = scan_args(s, l, f, v);
    struct carry before = {
        .op = CARRY_LAST, .to = CARRY_FORWARD, .id = CARRY_CONV, .state = tail.tail, .entering = conv.before};
    struct carry state = {.op = CARRY_AFFINE,
                          .to = CARRY_FORWARD,
                          .id = CARRY_STATE,
                          .decay = local.range_time,
                          .state = local.range_state,
                          .entering = scan.s_in,
                          .log_rate = local.A_log};
    const bool project = !layer_has(s, v, S_XZ);
    TRY(edge_h(s, f, &x, project));
    TRY(ops->tail_fwd(s->ctx, &tail));
    TRY(s->seams->carry_begin(s, l, f, &before));
    if (project) TRY(ops->linear_fwd(s->ctx, &z));
    TRY(s->seams->carry_end(s, l, f, &before));
    TRY(ops->conv1d_fwd(s->ctx, &conv));
    TRY(steps_forward(s, l, v));
    TRY(ops->selective_scan_local_fwd(s->ctx, &local));
    TRY(s->seams->carry_begin(s, l, f, &state));
    TRY(s->seams->carry_end(s, l, f, &state));
    TRY(ops->selective_scan_fwd(s->ctx, &scan));
    return edge_y(s, f, &out);
}

static enum status backward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    const struct ops *ops = s->ctx->ops;
    const int64_t D = ((const struct mamba1_config *)l->config)->inner;
    const struct linear x = in_args(s, l, f, v, 0, D), z = in_args(s, l, f, v, D, D), out = out_args(s, l, f, v);
    const struct tail tail = tail_args(f, v);
    const struct conv1d conv = conv_args(s, l, f, v);
    const struct selective_scan_local local = local_args(s, l, f, v);
    const struct selective_scan scan = scan_args(s, l, f, v);
    struct carry state = {.op = CARRY_AFFINE,
                          .to = CARRY_BACKWARD,
                          .id = CARRY_STATE,
                          .decay = local.range_time,
                          .state = local.range_dstate,
                          .entering = scan.ds_out,
                          .log_rate = local.A_log};
    struct carry before = {
        .op = CARRY_LAST, .to = CARRY_BACKWARD, .id = CARRY_CONV, .state = conv.dbefore, .entering = tail.dtail};
    struct linear out_w = out; /* can wait */
    out_w.dx = (struct tensor){0};
    TRY(edge_dy(s, f, &out));
    TRY(ops->selective_scan_local_bwd(s->ctx, &local));
    TRY(s->seams->carry_begin(s, l, f, &state));
    TRY(ops->linear_bwd(s->ctx, &out_w));
    TRY(s->seams->carry_end(s, l, f, &state));
    TRY(ops->selective_scan_bwd(s->ctx, &scan));
    TRY(steps_backward(s, l, v));
    TRY(ops->conv1d_bwd(s->ctx, &conv));
    TRY(s->seams->carry_begin(s, l, f, &before));
    TRY(ops->linear_bwd(s->ctx, &z));
    TRY(s->seams->carry_end(s, l, f, &before));
    TRY(ops->tail_bwd(s->ctx, &tail));
    return edge_dh(s, f, &x);
}

/* The scan's share, 7 inner N flops a token forward, counted as for Mamba-2. */
static double flops(const struct layer *l, int64_t tokens_per_sequence) {
    (void)tokens_per_sequence;
    const struct mamba1_config *c = l->whole;
    return 7.0 * (double)c->inner * (double)c->state;
}

static int64_t chunk_of(const struct layer *l) { return ((const struct mamba1_config *)l->config)->chunk; }

const struct mixer_kind mamba1_kind = {.name = "mamba1",
                                       .fields = mamba1_fields,
                                       .config_bytes = sizeof(struct mamba1_config),
                                       .check = check,
                                       .split = split,
                                       .edges = true,
                                       .declare = declare,
                                       .plan = plan,
                                       .forward = forward,
                                       .backward = backward,
                                       .chunk = chunk_of,
                                       .flops = flops};
