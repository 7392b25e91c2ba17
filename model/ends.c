/* SPDX-License-Identifier: Apache-2.0 */
#include "model/ends.h"
#include "kernels/embedding/embedding.h"
#include "kernels/exact.h"
#include "kernels/fill/fill.h"
#include "kernels/head/head.h"
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/token_loss/token_loss.h"
#include "profiling/prof.h"

static struct embedding embed_args(const struct model *m, const struct batch *b, struct tensor x) {
    const struct param *p = &m->params.list[m->embedding];
    return (struct embedding){.ids = b->ids, .w = p->w, .y = x, .dy = x, .dw = p->g};
}

enum status ends_embed(struct step *s, const struct model *m, const struct batch *b, struct tensor x) {
    const struct embedding a = embed_args(m, b, x);
    return s->ctx->ops->embedding_fwd(s->ctx, &a);
}

enum status ends_embed_back(struct step *s, const struct model *m, const struct batch *b, struct tensor dx) {
    const struct embedding a = embed_args(m, b, dx);
    return s->ctx->ops->embedding_bwd(s->ctx, &a);
}

/* One tile: rows [begin, begin + n). */
static enum status tile_loss(struct step *s, const struct model *m, struct activations *a, const struct loss_rows *r,
                             int64_t begin, int64_t n) {
    const struct ops *ops = s->ctx->ops;
    const struct param *w = &m->params.list[m->head];
    const struct saved_slot *v = a->ends.slot;
    const struct head h = {.x = tensor_rows(r->x, begin, n),
                           .w = w->w,
                           .targets = tensor_rows(r->targets, begin, n),
                           .logits = tensor_rows(v[ENDS_LOGITS].t, 0, n),
                           .lse = tensor_rows(v[ENDS_LSE].t, 0, n),
                           .picked = tensor_rows(v[ENDS_PICKED].t, 0, n),
                           .scale = r->scale,
                           .dx = s->forward_only ? (struct tensor){0} : tensor_rows(r->dx, begin, n),
                           .dw = w->g,
                           .logit_scale = 1.0};
    const struct token_loss loss = {.lse = h.lse,
                                    .picked = h.picked,
                                    .targets = h.targets,
                                    .loss = tensor_has(r->per_token) ? tensor_rows(r->per_token, begin, n)
                                                                     : (struct tensor){0},
                                    .total = r->total};
    TRY(ops->head_fwd(s->ctx, &h));
    TRY(s->seams->total(s, h.lse, AXIS_TENSOR));
    TRY(s->seams->total(s, h.picked, AXIS_TENSOR));
    TRY(ops->token_loss_fwd(s->ctx, &loss));
    if (!s->forward_only) TRY(ops->head_bwd(s->ctx, &h));
    return OK;
}

/* Tiles follow each other over all rows; in exact mode each segment is one. */
enum status ends_tiles(struct step *s, const struct model *m, struct activations *a, const struct loss_rows *r) {
    const struct exact *e = s->ctx->exact;
    const int64_t T = r->x.shape[0];
    const int64_t tiles = T > 0 ? (T + a->tile - 1) / a->tile : 0; /* a rank may have no token, and then no tile */
    const int64_t n = e ? e->n_ranges : tiles;
    for (int64_t i = 0; i < n; i++) {
        const int64_t begin = e ? e->range[i] : i * a->tile;
        const int64_t end = e ? e->range[i + 1] : begin + a->tile < T ? begin + a->tile : T;
        TRY(tile_loss(s, m, a, r, begin, end - begin));
    }
    return OK;
}

struct tensor ends_dout(const struct activations *a) {
    return a->ends.slot[a->n_depths > 0 ? ENDS_DOUT : ENDS_DH].t;
}

static struct rmsnorm norm_args(const struct model *m, const struct activations *a) {
    const struct param *norm = &m->params.list[m->final_norm];
    const struct saved_slot *v = a->ends.slot;
    return (struct rmsnorm){.x = v[ENDS_X].t,
                            .w = norm->w,
                            .y = v[ENDS_H].t,
                            .r = v[ENDS_R].t,
                            .dy = ends_dout(a),
                            .dx = v[ENDS_DX].t,
                            .dw = norm->g,
                            .eps = m->config->norm_eps};
}

enum status ends_norm_back(struct step *s, const struct model *m, struct activations *a) {
    const struct rmsnorm n = norm_args(m, a);
    return s->ctx->ops->rmsnorm_bwd(s->ctx, &n);
}

static enum status loss(struct step *s, const struct model *m, struct activations *a, const struct batch *b,
                        const struct loss_out *out) {
    const struct ops *ops = s->ctx->ops;
    const struct rmsnorm n = norm_args(m, a);
    const struct loss_rows rows = {.x = n.y,
                                   .targets = b->targets,
                                   .scale = out->scale,
                                   .dx = n.dy,
                                   .total = out->total,
                                   .per_token = out->per_token};
    ASSERT(s->forward_only || !a->forward_only);
    TRY(ops->rmsnorm_fwd(s->ctx, &n));
    if (tensor_has(out->logits))
        TRY(ops->linear_fwd(s->ctx, &(struct linear){.x = n.y, .w = m->params.list[m->head].w, .y = out->logits}));
    return ends_tiles(s, m, a, &rows);
}

enum status ends_loss(struct step *s, const struct model *m, struct activations *a, const struct batch *b,
                      const struct loss_out *out) {
    prof_begin(PROF_LAYER, "head and loss");
    const enum status st = loss(s, m, a, b, out);
    prof_end();
    return st;
}
