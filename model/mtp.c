/* SPDX-License-Identifier: Apache-2.0 */
#include "model/mtp.h"
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "model/block.h"
#include "model/ends.h"
#include "profiling/prof.h"

/* Slots of activations.mtp[depth]. */
enum { MTP_E, MTP_RE, MTP_RH, MTP_C, MTP_X, MTP_R, MTP_H, MTP_DH, MTP_DE, MTP_DC };

/* ---- parameters ---- */

static enum status declare_norm(struct model *m, const struct layer *l, const char *name, int *index) {
    struct param p = {.shape = {m->config->width}, .n_dims = 1, .init = INIT_ONE};
    layer_name(l, name, p.name);
    return param_add(&m->params, &p, index);
}

static enum status declare_depth(struct model *m, struct layer *layers, struct mtp_params *out) {
    const int64_t D = m->config->width;
    struct param project = {.shape = {D, 2 * D}, .n_dims = 2, .init = INIT_NORMAL, .product = true, .decay = true};
    for (int k = 0; k < m->mtp.per; k++) TRY(block_declare(&layers[k], &m->params));
    layer_name(&layers[0], "eh_proj.weight", project.name);
    TRY(param_add(&m->params, &project, &out->project));
    TRY(declare_norm(m, &layers[0], "enorm.weight", &out->enorm));
    TRY(declare_norm(m, &layers[0], "hnorm.weight", &out->hnorm));
    return declare_norm(m, &layers[m->mtp.per - 1], "final_layernorm.weight", &out->norm);
}

enum status mtp_declare(struct model *m) {
    struct mtp *t = &m->mtp;
    t->first = m->params.n;
    for (int j = 0; j < t->depths; j++) {
        struct layer *layers = &m->layers[m->n_layers + j * t->per];
        if (j > 0 && m->config->mtp.shared) {
            for (int k = 0; k < t->per; k++) {
                const int use = layers[k].use;
                layers[k] = m->layers[m->n_layers + k];
                layers[k].use = use;
            }
            t->param[j] = t->param[0];
            continue;
        }
        TRY(declare_depth(m, layers, &t->param[j]));
    }
    for (int i = t->first; i < m->params.n && m->config->mtp.shared; i++) m->params.list[i].n_uses = t->depths;
    return OK;
}

/* ---- one depth ---- */

struct depth {
    const struct model *m;
    struct activations *a;
    int at;
    const struct mtp_params *param;
    const struct saved_slot *v;
    const struct layer *layers;
    struct saved *saved;
    struct flow f;
};

static struct depth depth_of(const struct model *m, struct activations *a, const struct flow *f, int at) {
    const int first = m->n_layers + at * m->mtp.per;
    return (struct depth){.m = m,
                          .a = a,
                          .at = at,
                          .param = &m->mtp.param[at],
                          .v = a->mtp[at].slot,
                          .layers = &m->layers[first],
                          .saved = &a->layers[first],
                          .f = *f};
}

/* h of the depth before, and where its gradient is added up. */
static struct tensor before(const struct depth *d) {
    return d->at > 0 ? d->a->mtp[d->at - 1].slot[MTP_H].t : d->a->ends.slot[ENDS_H].t;
}
static struct tensor dbefore(const struct depth *d) {
    return d->at > 0 ? d->a->mtp[d->at - 1].slot[MTP_DH].t : ends_dout(d->a, &d->f);
}

static struct rmsnorm norm_args(const struct depth *d, int param, struct tensor x, struct tensor y, int r) {
    const struct param *w = &d->m->params.list[param];
    return (struct rmsnorm){.x = x, .w = w->w, .y = y, .r = d->v[r].t, .dw = w->g, .eps = d->m->config->norm_eps};
}

/* Half of [embedding | h], and of its gradient. */
static struct tensor half(struct tensor both, int which) {
    const int64_t D = both.shape[1] / 2;
    return tensor_cols(both, which * D, D);
}

static struct rmsnorm enorm_args(const struct depth *d) {
    struct rmsnorm n = norm_args(d, d->param->enorm, d->v[MTP_E].t, half(d->v[MTP_C].t, 0), MTP_RE);
    n.dy = half(d->v[MTP_DC].t, 0);
    n.dx = d->v[MTP_DE].t;
    return n;
}

static struct rmsnorm hnorm_args(const struct depth *d) {
    struct rmsnorm n = norm_args(d, d->param->hnorm, before(d), half(d->v[MTP_C].t, 1), MTP_RH);
    n.dy = half(d->v[MTP_DC].t, 1);
    n.dx = dbefore(d);
    n.dx_add = true;
    return n;
}

static struct rmsnorm out_args(const struct depth *d) {
    struct rmsnorm n = norm_args(d, d->param->norm, d->v[MTP_X].t, d->v[MTP_H].t, MTP_R);
    n.dy = d->v[MTP_DH].t;
    n.dx = d->f.dx;
    return n;
}

static struct linear project_args(const struct depth *d) {
    const struct param *p = &d->m->params.list[d->param->project];
    return (struct linear){.x = d->v[MTP_C].t,
                           .w = p->w,
                           .y = d->saved[0].slot[FRAME_X].t,
                           .dy = d->f.dx,
                           .dx = d->v[MTP_DC].t,
                           .dw = p->g};
}

/* A depth's row of (depths, T). */
static struct tensor row_of(const struct depth *d, struct tensor all) {
    struct tensor t = tensor_1d(tensor_rows(all, d->at, 1).data, all.dtype, all.shape[1]);
    t.space = all.space;
    return t;
}

void mtp_plan(struct plan *p, const struct model *m, struct activations *a, int depth) {
    const struct ops *ops = p->ctx->ops;
    const int64_t U = p->n_own, D = m->config->width;
    plan_slot(p, MTP_E, "e", KEEP_CHEAP, U, D, 1, 1);
    plan_wide(p, MTP_RE, "re", KEEP_CHEAP, U, 1, 1, 1);
    plan_wide(p, MTP_RH, "rh", KEEP_CHEAP, U, 1, 1, 1);
    plan_slot(p, MTP_C, "c", KEEP_CHEAP, U, 2 * D, 1, 1);
    plan_slot(p, MTP_X, "x", KEEP_INPUT, U, D, 1, 1);
    plan_wide(p, MTP_R, "r", KEEP_CHEAP, U, 1, 1, 1);
    plan_slot(p, MTP_H, "h", KEEP_CHEAP, U, D, 1, 1);
    plan_slot(p, MTP_DH, "dh", KEEP_CHEAP, U, D, 1, 1);
    plan_slot(p, MTP_DE, "de", KEEP_SCRATCH, U, D, 1, 1);
    plan_slot(p, MTP_DC, "dc", KEEP_SCRATCH, U, 2 * D, 1, 1);
    const struct depth d = depth_of(m, a, p->flow, depth);
    const struct rmsnorm norms[] = {enorm_args(&d), hnorm_args(&d), out_args(&d)};
    const struct linear project = project_args(&d);
    for (int i = 0; i < 3; i++) plan_work(p, ops->rmsnorm_work(p->ctx, &norms[i]));
    plan_work(p, ops->linear_work(p->ctx, &project));
}

static enum status forward(struct step *s, struct depth *d, const struct batch *b, const struct loss_out *out) {
    const struct ops *ops = s->ctx->ops;
    const int per = d->m->mtp.per;
    const struct rmsnorm enorm = enorm_args(d), hnorm = hnorm_args(d), norm = out_args(d);
    const struct linear project = project_args(d);
    TRY(ends_embed(s, d->m, row_of(d, b->mtp_ids), &d->f, enorm.x));
    TRY(ops->rmsnorm_fwd(s->ctx, &enorm));
    TRY(ops->rmsnorm_fwd(s->ctx, &hnorm));
    TRY(ops->linear_fwd(s->ctx, &project));
    for (int k = 0; k < per; k++) {
        d->f.x = d->saved[k].slot[FRAME_X].t;
        TRY(block_forward(s, &d->layers[k], &d->f, &d->saved[k],
                          k + 1 < per ? d->saved[k + 1].slot[FRAME_X].t : norm.x));
    }
    TRY(ops->rmsnorm_fwd(s->ctx, &norm));
    const struct loss_rows rows = {.h = norm.y,
                                   .dh = norm.dy,
                                   .targets = row_of(d, b->mtp_targets),
                                   .scale = tensor_rows(out->mtp_scale, d->at, 1),
                                   .total = tensor_rows(out->mtp_total, d->at, 1)};
    return ends_head(s, d->m, d->a, &d->f, &rows);
}

static enum status backward(struct step *s, struct depth *d, const struct batch *b) {
    const struct ops *ops = s->ctx->ops;
    const struct rmsnorm enorm = enorm_args(d), hnorm = hnorm_args(d), norm = out_args(d);
    const struct linear project = project_args(d);
    const struct tensor none = {0};
    TRY(ops->rmsnorm_bwd(s->ctx, &norm));
    for (int k = d->m->mtp.per - 1; k >= 0; k--) {
        if (d->a->shared_bytes > 0) TRY(block_again(s, &d->layers[k], &d->f, &d->saved[k], none));
        TRY(block_backward(s, &d->layers[k], &d->f, &d->saved[k]));
    }
    TRY(ops->linear_bwd(s->ctx, &project));
    TRY(ops->rmsnorm_bwd(s->ctx, &enorm));
    TRY(ends_embed_back(s, d->m, row_of(d, b->mtp_ids), &d->f, enorm.dx));
    return ops->rmsnorm_bwd(s->ctx, &hnorm);
}

enum status mtp_forward(struct step *s, const struct model *m, struct activations *a, const struct batch *b,
                        const struct loss_out *out) {
    const struct flow f = ends_flow(m, a, &b->shard);
    enum status st = OK;
    if (a->n_depths == 0) return OK;
    prof_begin(PROF_LAYER, "prediction heads");
    for (int j = 0; j < a->n_depths && st == OK; j++) {
        struct depth d = depth_of(m, a, &f, j);
        st = forward(s, &d, b, out);
    }
    prof_end();
    return st;
}

enum status mtp_backward(struct step *s, const struct model *m, struct activations *a, const struct batch *b,
                         const struct flow *f) {
    enum status st = OK;
    if (a->n_depths == 0) return OK;
    prof_begin(PROF_LAYER, "prediction heads");
    for (int j = a->n_depths - 1; j >= 0 && st == OK; j--) {
        struct depth d = depth_of(m, a, f, j);
        st = backward(s, &d, b);
    }
    prof_end();
    return st;
}
