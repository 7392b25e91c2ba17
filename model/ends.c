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

static bool ranks_of(const struct model *m) { return split_n(&m->params.split, SPLIT_TENSOR) > 1; }

struct flow ends_flow(const struct model *m, const struct activations *a, const struct shard *shard) {
    const struct saved_slot *v = a->ends.slot;
    const bool ranks = ranks_of(m);
    return (struct flow){.y = v[ENDS_Y].t,
                         .dx = v[ENDS_DX].t,
                         .dy = v[ranks ? ENDS_DY : ENDS_DX].t,
                         .dh = v[ENDS_DH].t,
                         .y_own = v[ranks ? ENDS_Y_OWN : ENDS_Y].t,
                         .dh_own = v[ranks ? ENDS_DH_OWN : ENDS_DH].t,
                         .shard = shard};
}

static struct embedding embed_args(const struct model *m, struct tensor ids, struct tensor y, struct tensor dy) {
    const struct param *p = &m->params.list[m->embedding];
    return (struct embedding){
        .ids = ids, .w = p->w, .y = y, .dy = dy, .dw = p->g, .first = p->cut[SPLIT_TENSOR].begin, .vocab = p->whole[0]};
}

enum status ends_embed(struct step *s, const struct model *m, struct tensor ids, const struct flow *f,
                       struct tensor x) {
    const struct tensor all = ranks_of(m) ? f->y : x;
    const struct embedding a = embed_args(m, ids, all, all);
    TRY(s->ctx->ops->embedding_fwd(s->ctx, &a));
    return s->seams->leave(s, all, x, NULL);
}

enum status ends_embed_back(struct step *s, const struct model *m, struct tensor ids, const struct flow *f,
                            struct tensor dx) {
    const struct tensor all = ranks_of(m) ? f->dy : dx;
    const struct embedding a = embed_args(m, ids, all, all);
    TRY(s->seams->enter(s, dx, all, NULL));
    return s->ctx->ops->embedding_bwd(s->ctx, &a);
}

/* The shards' log-sum-exps side by side, those of other ranks zero until they are added. */
static enum status join_shards(struct step *s, const struct model *m, const struct head *h, struct tensor parts) {
    if (ranks_of(m)) TRY(s->ctx->ops->fill_fwd(s->ctx, &(struct fill){.x = parts, .value = 0.0}));
    TRY(s->ctx->ops->head_fwd(s->ctx, h));
    if (!ranks_of(m)) return OK;
    TRY(s->seams->total(s, parts, AXIS_TENSOR));
    return s->seams->total(s, h->picked, AXIS_TENSOR);
}

/* The start of the slot as the rows of this tile's n tokens, one a shard. */
static struct tensor shard_rows(const struct model *m, struct tensor slot, int64_t n) {
    return ranks_of(m) ? tensor_like(slot, slot.data, slot.shape[0], n) : (struct tensor){0};
}

/* Of one head and loss: the rows of all tokens, and where the gradient of h goes. */
struct tiles {
    const struct loss_rows *r;
    struct tensor h, dh;
};

/* One tile: rows [begin, begin + n). */
static enum status tile_loss(struct step *s, const struct model *m, struct activations *a, const struct tiles *t,
                             int64_t begin, int64_t n) {
    const struct ops *ops = s->ctx->ops;
    const struct param *w = &m->params.list[m->head];
    const struct loss_rows *r = t->r;
    const struct saved_slot *v = a->ends.slot;
    const struct tensor none = {0}, parts = shard_rows(m, v[ENDS_PARTS].t, n);
    struct head h = {.x = tensor_rows(t->h, begin, n),
                     .w = w->w,
                     .targets = tensor_rows(r->targets, begin, n),
                     .logits = tensor_rows(v[ENDS_LOGITS].t, 0, n),
                     .lse = tensor_rows(v[ENDS_LSE].t, 0, n),
                     .picked = tensor_rows(v[ENDS_PICKED].t, 0, n),
                     .scale = r->scale,
                     .dx = s->forward_only ? none : tensor_rows(t->dh, begin, n),
                     .dw = w->g,
                     .logit_scale = 1.0,
                     .first = w->cut[SPLIT_TENSOR].begin,
                     .vocab = w->whole[0]};
    const struct token_loss loss = {.lse = h.lse,
                                    .picked = h.picked,
                                    .targets = h.targets,
                                    .parts = parts,
                                    .loss = tensor_has(r->per_token) ? tensor_rows(r->per_token, begin, n) : none,
                                    .total = r->total};
    struct head here = h;
    if (ranks_of(m)) here.lse = tensor_like(parts, tensor_rows(parts, m->params.split.at[SPLIT_TENSOR], 1).data, n, 1);
    TRY(join_shards(s, m, &here, parts));
    TRY(ops->token_loss_fwd(s->ctx, &loss));
    return s->forward_only ? OK : ops->head_bwd(s->ctx, &h);
}

/* Tiles follow each other over all rows; in exact mode each segment is one. */
static enum status all_tiles(struct step *s, const struct model *m, struct activations *a, const struct tiles *t) {
    const struct exact *e = s->ctx->exact;
    const int64_t T = t->h.shape[0];
    const int64_t tiles = T > 0 ? (T + a->tile - 1) / a->tile : 0; /* a rank may have no token, and then no tile */
    const int64_t n = e ? e->n_ranges : tiles;
    for (int64_t i = 0; i < n; i++) {
        const int64_t begin = e ? e->range[i] : i * a->tile;
        const int64_t end = e ? e->range[i + 1] : begin + a->tile < T ? begin + a->tile : T;
        TRY(tile_loss(s, m, a, t, begin, end - begin));
    }
    return OK;
}

enum status ends_head(struct step *s, const struct model *m, struct activations *a, const struct flow *f,
                      const struct loss_rows *r) {
    const struct tiles t = {
        .r = r, .h = ranks_of(m) ? a->ends.slot[ENDS_H_ALL].t : r->h, .dh = ranks_of(m) ? f->dh : r->dh};
    const struct linear whole = {.x = t.h, .w = m->params.list[m->head].w, .y = r->logits};
    TRY(s->seams->enter(s, r->h, t.h, NULL));
    if (tensor_has(r->logits)) TRY(s->ctx->ops->linear_fwd(s->ctx, &whole));
    TRY(all_tiles(s, m, a, &t));
    return s->forward_only ? OK : s->seams->leave(s, t.dh, r->dh, NULL);
}

struct tensor ends_dout(const struct activations *a, const struct flow *f) {
    return a->n_depths > 0 ? a->ends.slot[ENDS_DOUT].t : f->dh_own;
}

static struct rmsnorm norm_args(const struct model *m, const struct activations *a, const struct flow *f) {
    const struct param *norm = &m->params.list[m->final_norm];
    const struct saved_slot *v = a->ends.slot;
    return (struct rmsnorm){.x = v[ENDS_X].t,
                            .w = norm->w,
                            .y = v[ENDS_H].t,
                            .r = v[ENDS_R].t,
                            .dy = ends_dout(a, f),
                            .dx = f->dx,
                            .dw = norm->g,
                            .eps = m->config->norm_eps};
}

enum status ends_norm_back(struct step *s, const struct model *m, struct activations *a, const struct flow *f) {
    const struct rmsnorm n = norm_args(m, a, f);
    return s->ctx->ops->rmsnorm_bwd(s->ctx, &n);
}

static enum status loss(struct step *s, const struct model *m, struct activations *a, const struct batch *b,
                        const struct flow *f, const struct loss_out *out) {
    const struct rmsnorm n = norm_args(m, a, f);
    const struct loss_rows rows = {.h = n.y,
                                   .dh = n.dy,
                                   .targets = b->targets,
                                   .scale = out->scale,
                                   .total = out->total,
                                   .per_token = out->per_token,
                                   .logits = out->logits};
    ASSERT(s->forward_only || !a->forward_only);
    TRY(s->ctx->ops->rmsnorm_fwd(s->ctx, &n));
    return ends_head(s, m, a, f, &rows);
}

enum status ends_loss(struct step *s, const struct model *m, struct activations *a, const struct batch *b,
                      const struct loss_out *out) {
    prof_begin(PROF_LAYER, "head and loss");
    const struct flow f = ends_flow(m, a, &b->shard);
    const enum status st = loss(s, m, a, b, &f, out);
    prof_end();
    return st;
}
