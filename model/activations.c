/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include "kernels/embedding/embedding.h"
#include "kernels/head/head.h"
#include "kernels/ops.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/token_loss/token_loss.h"
#include "model/block.h"
#include "model/ends.h"

static void plan_ends(struct plan *p, const struct model *m, const struct activations *a) {
    const int64_t T = p->n_tokens, D = m->config->width, V = m->config->vocab, rows = a->tile;
    plan_slot(p, ENDS_X, "x", KEEP_INPUT, T, D, 1, 1);
    plan_slot(p, ENDS_H, "h", KEEP_CHEAP, T, D, 1, 1);
    plan_slot(p, ENDS_R, "r", KEEP_CHEAP, T, 1, 1, 1);
    plan_slot(p, ENDS_Y, "y", KEEP_CHEAP, T, D, 1, 1);
    if (!a->forward_only) {
        plan_slot(p, ENDS_DX, "dx", KEEP_CHEAP, T, D, 1, 1);
        plan_slot(p, ENDS_DH, "dh", KEEP_CHEAP, T, D, 1, 1);
    }
    plan_slot(p, ENDS_LOGITS, "logits", KEEP_SCRATCH, rows, V, 1, 1);
    plan_slot(p, ENDS_LSE, "lse", KEEP_SCRATCH, rows, 1, 1, 1);
    plan_slot(p, ENDS_PICKED, "picked", KEEP_SCRATCH, rows, 1, 1, 1);
}

static void plan_ends_work(struct plan *p, const struct model *m) {
    const struct ops *ops = p->ctx->ops;
    const struct params *ps = &m->params;
    const struct saved_slot *v = p->saved->slot;
    const struct tensor ids = tensor_1d(NULL, I32, p->n_tokens);
    const struct param *e = &ps->list[m->embedding], *n = &ps->list[m->final_norm], *w = &ps->list[m->head];
    const struct tensor x = v[ENDS_X].t, tile = tensor_rows(x, 0, v[ENDS_LOGITS].t.shape[0]);
    const struct embedding embed = {.ids = ids, .w = e->w, .y = x, .dy = x, .dw = e->g};
    const struct rmsnorm norm = {.x = x, .w = n->w, .y = x, .r = v[ENDS_R].t, .dy = x, .dx = x, .dw = n->g};
    const struct head head = {.x = tile,
                              .w = w->w,
                              .targets = tensor_rows(ids, 0, tile.shape[0]),
                              .logits = v[ENDS_LOGITS].t,
                              .lse = v[ENDS_LSE].t,
                              .picked = v[ENDS_PICKED].t,
                              .dx = tile,
                              .dw = w->g,
                              .logit_scale = 1.0};
    const struct token_loss loss = {.lse = v[ENDS_LSE].t, .picked = v[ENDS_PICKED].t, .targets = head.targets};
    plan_work(p, ops->embedding_work(p->ctx, &embed));
    plan_work(p, ops->rmsnorm_work(p->ctx, &norm));
    plan_work(p, ops->head_work(p->ctx, &head));
    plan_work(p, ops->token_loss_work(p->ctx, &loss));
}

static int64_t kept_bytes(const struct saved *v) {
    int64_t sum = 0;
    for (int k = 0; k < N_KEEPS; k++)
        if (k != KEEP_SCRATCH) sum += v->bytes[k];
    return sum;
}

/* Add a region to the totals; with forward_only all layers share one region, the largest. */
static void count(struct activations *a, const struct saved *v, bool shared) {
    const int64_t kept = kept_bytes(v);
    if (v->bytes[KEEP_SCRATCH] > a->scratch_bytes) a->scratch_bytes = v->bytes[KEEP_SCRATCH];
    if (shared) {
        if (kept > a->layer_bytes) a->layer_bytes = kept;
        return;
    }
    for (int k = 0; k < N_KEEPS; k++)
        if (k != KEEP_SCRATCH) a->by_keep[k] += v->bytes[k];
    a->bytes += kept;
}

enum status activations_plan(struct activations *a, struct model *m, struct ctx *c, const struct plan_size *size) {
    void *mem = NULL;
    *a = (struct activations){.forward_only = size->forward_only, .n_layers = m->n_layers};
    a->tile = size->tile < size->n_tokens ? size->tile : size->n_tokens;
    TRY(mem_take((m->n_layers + 1) * (int64_t)sizeof *a->layers, &mem));
    a->layers = mem;
    if (m->params.n > 0 && m->params.list[0].w.shape[0] == 0) params_shape(&m->params, c->real, c->space);
    const int64_t T = size->n_tokens, R = size->n_ranges, D = m->config->width;
    const struct shard shard = {.n_tokens = T,
                                .n_ranges = R,
                                .range = tensor_1d(NULL, I64, R + 1),
                                .pos = tensor_1d(NULL, I64, T),
                                .keys = tensor_2d(NULL, I64, R, 2),
                                .wide = size->wide};
    const struct tensor x = tensor_2d(NULL, c->real, T, D);
    const struct flow flow = {.x = x, .h = x, .y = x, .dx = x, .dy = x, .dh = x, .shard = &shard};
    const struct step step = {.ctx = c, .params = &m->params, .forward_only = size->forward_only};
    struct plan p = {.ctx = c, .step = &step, .flow = &flow, .n_tokens = T, .n_ranges = R, .range = size->range};
    for (int i = 0; i < m->n_layers; i++) {
        p.saved = &a->layers[i];
        TRY(block_plan(&p, &m->layers[i]));
        count(a, p.saved, size->forward_only);
    }
    p.saved = &a->ends;
    plan_ends(&p, m, a);
    plan_ends_work(&p, m);
    count(a, p.saved, false);
    a->bytes += a->layer_bytes;
    a->work_bytes = p.work;
    a->n_carries = p.n_carries;
    memcpy(a->carry, p.carry, sizeof a->carry);
    a->attend_numbers = p.attend_numbers;
    return OK;
}

static void place(struct saved *v, char *kept, char *scratch) {
    for (int i = 0; i < SAVED_MAX; i++) {
        struct saved_slot *s = &v->slot[i];
        if (s->name) s->t.data = (s->tag == KEEP_SCRATCH ? scratch : kept) + s->offset;
    }
}

enum status activations_place(struct activations *a, struct arena *arena) {
    void *kept = NULL, *scratch = NULL;
    TRY(arena_take(arena, a->bytes, &kept));
    TRY(arena_take(arena, a->scratch_bytes, &scratch));
    char *at = kept;
    place(&a->ends, at, scratch);
    at += kept_bytes(&a->ends);
    for (int i = 0; i < a->n_layers; i++) {
        place(&a->layers[i], at, scratch);
        if (!a->forward_only) at += kept_bytes(&a->layers[i]);
    }
    return OK;
}

void activations_term(struct activations *a) {
    mem_free(a->layers);
    *a = (struct activations){0};
}
