/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include "kernels/embedding/embedding.h"
#include "kernels/head/head.h"
#include "kernels/ops.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/token_loss/token_loss.h"
#include "model/block.h"
#include "model/ends.h"
#include "model/mtp.h"

static void plan_ends(struct plan *p, const struct model *m, const struct activations *a) {
    const int64_t T = p->n_tokens, U = p->n_own, D = m->config->width, rows = a->tile;
    const int64_t V = m->params.list[m->head].shape[0], n = split_n(&m->params.split, SPLIT_TENSOR);
    plan_slot(p, ENDS_X, "x", KEEP_INPUT, U, D, 1, 1);
    plan_slot(p, ENDS_H, "h", KEEP_CHEAP, U, D, 1, 1);
    plan_wide(p, ENDS_R, "r", KEEP_CHEAP, U, 1, 1, 1);
    plan_slot(p, ENDS_Y, "y", KEEP_CHEAP, T, D, 1, 1);
    if (n > 1) plan_slot(p, ENDS_H_ALL, "h of all", KEEP_CHEAP, T, D, 1, 1);
    if (n > 1) plan_slot(p, ENDS_Y_OWN, "own y", KEEP_CHEAP, U, D, 1, 1);
    if (n > 1) plan_wide(p, ENDS_PARTS, "lse of shards", KEEP_SCRATCH, n, rows, 1, 1);
    if (n > 1) plan_total(p, rows * n);
    if (!a->forward_only) {
        plan_slot(p, ENDS_DX, "dx", KEEP_CHEAP, U, D, 1, 1);
        plan_slot(p, ENDS_DH, "dh", KEEP_CHEAP, T, D, 1, 1);
        if (a->n_depths > 0) plan_slot(p, ENDS_DOUT, "dout", KEEP_CHEAP, U, D, 1, 1);
        if (n > 1) plan_slot(p, ENDS_DY, "dy", KEEP_CHEAP, T, D, 1, 1);
        if (n > 1) plan_slot(p, ENDS_DH_OWN, "own dh", KEEP_CHEAP, U, D, 1, 1);
    }
    plan_slot(p, ENDS_LOGITS, "logits", KEEP_SCRATCH, rows, V, 1, 1);
    plan_wide(p, ENDS_LSE, "lse", KEEP_SCRATCH, rows, 1, 1, 1);
    plan_wide(p, ENDS_PICKED, "picked", KEEP_SCRATCH, rows, 1, 1, 1);
}

static void plan_ends_work(struct plan *p, const struct model *m) {
    const struct ops *ops = p->ctx->ops;
    const struct params *ps = &m->params;
    const struct saved_slot *v = p->saved->slot;
    const struct tensor ids = tensor_1d(NULL, I32, p->n_tokens);
    const struct param *e = &ps->list[m->embedding], *n = &ps->list[m->final_norm], *w = &ps->list[m->head];
    const struct tensor x = v[ENDS_X].t, all = v[ENDS_Y].t, tile = tensor_rows(all, 0, v[ENDS_LOGITS].t.shape[0]);
    const struct embedding embed = {.ids = ids, .w = e->w, .y = all, .dy = all, .dw = e->g};
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

/* The tags that layer i keeps.  A pass without backward keeps nothing: all layers lie over each other. */
static unsigned kept_tags(const struct plan_size *size, const struct model *m, int i) {
    if (size->forward_only) return 0;
    unsigned tags = 1u << KEEP_BOUNDARY;
    if (size->keep_every <= 1 || i % size->keep_every == 0 || i >= m->n_layers) tags |= 1u << KEEP_INPUT;
    if (size->policy != POLICY_INPUTS) tags |= 1u << KEEP_GEMM;
    if (size->policy == POLICY_ALL) tags |= 1u << KEEP_CHEAP;
    return tags;
}

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Add a layer to the totals; layers of one group lie behind each other in the shared region, groups over each other. */
static void count(struct activations *a, struct saved *v, int64_t shared_at) {
    v->shared_at = shared_at;
    a->shared_bytes = most(a->shared_bytes, shared_at + saved_bytes(v, HOME_SHARED));
    a->scratch_bytes = most(a->scratch_bytes, saved_bytes(v, HOME_SCRATCH));
    a->bytes += saved_bytes(v, HOME_OWN);
    for (int k = 0; k < N_KEEPS; k++)
        if (saved_home(v, (enum keep)k) == HOME_OWN) a->by_keep[k] += v->bytes[k];
}

/* What takes turns counts as the window that it takes turns in. */
static enum status count_away(struct activations *a, const struct model *m, const struct plan_size *size) {
    if (size->forward_only) return OK;
    TRY(away_plan(&a->away, a->layers, m->n_layers, a->group, size->offload));
    for (int i = 0; i < m->n_layers; i++) {
        const struct saved *v = &a->layers[i];
        if (away_turn_of(&a->away, i) < 0) continue;
        a->bytes -= saved_bytes(v, HOME_OWN);
        for (int k = 0; k < N_KEEPS; k++)
            if (saved_home(v, (enum keep)k) == HOME_OWN) a->by_keep[k] -= v->bytes[k];
    }
    a->bytes += a->away.window_bytes;
    return OK;
}

static enum status refuse(const struct ctx *c, const struct layer *l) {
    char why[512];
    snprintf(why, sizeof why, "%s", status_text());
    FAIL(ERR_CONFIG, "layer %d, %c (%s): %s%s", l->index, l->symbol, l->kind->name, why,
         c->real == BF16 ? "; or set train.precision=f32, or kernels.plain=allow, which is slow" : "");
}

static void plan_mtp(struct plan *p, const struct model *m, struct activations *a) {
    for (int j = 0; j < a->n_depths; j++) {
        p->saved = &a->mtp[j];
        p->saved->kept = ~0u;
        mtp_plan(p, m, a, j);
        count(a, p->saved, 0);
    }
}

enum status activations_plan(struct activations *a, struct model *m, struct ctx *c, const struct plan_size *size) {
    void *mem = NULL;
    *a = (struct activations){.forward_only = size->forward_only,
                              .n_layers = size->forward_only ? m->n_layers : m->n_all,
                              .n_depths = size->forward_only ? 0 : m->mtp.depths,
                              .group = size->keep_every > 1 && !size->forward_only ? (int)size->keep_every : 1};
    FAIL_UNLESS(a->group == 1 || size->policy == POLICY_INPUTS, ERR_CONFIG,
                "train.keep_every %d wants train.keep inputs, which computes layers again from their inputs", a->group);
    a->tile = size->tile < size->n_tokens ? size->tile : size->n_tokens;
    TRY(mem_take((m->n_all + 1) * (int64_t)sizeof *a->layers, &mem));
    a->layers = mem;
    if (m->params.n > 0 && m->params.list[0].w.shape[0] == 0) params_shape(&m->params, c->real, c->space);
    const int64_t T = size->n_tokens, R = size->n_ranges, D = m->config->width;
    const struct shard shard = {.n_tokens = T,
                                .n_ranges = R,
                                .range = tensor_1d(NULL, I64, R + 1),
                                .pos = tensor_1d(NULL, I64, T),
                                .keys = tensor_2d(NULL, I64, R, 2),
                                .wide = size->wide,
                                .guests = size->guests};
    const struct tensor x = tensor_2d(NULL, c->real, size->n_own, D), all = tensor_2d(NULL, c->real, T, D);
    const struct flow flow = {
        .x = x, .h = all, .y = all, .dx = x, .dy = all, .dh = all, .y_own = x, .dh_own = x, .shard = &shard};
    const struct step step = {.ctx = c, .params = &m->params, .forward_only = size->forward_only};
    struct plan p = {.ctx = c, .step = &step, .flow = &flow, .n_tokens = T, .n_ranges = R, .range = size->range};
    p.n_own = size->n_own;
    for (int i = 0; i < a->n_layers; i++) {
        const struct saved *before = i % a->group == 0 || i >= m->n_layers ? NULL : &a->layers[i - 1];
        p.saved = &a->layers[i];
        p.saved->kept = kept_tags(size, m, i);
        TRY(block_plan(&p, &m->layers[i]));
        if (p.refused) return refuse(c, &m->layers[i]);
        count(a, p.saved, before ? before->shared_at + saved_bytes(before, HOME_SHARED) : 0);
    }
    p.saved = &a->ends;
    p.saved->kept = ~0u;
    plan_ends(&p, m, a);
    plan_ends_work(&p, m);
    count(a, p.saved, 0);
    plan_mtp(&p, m, a);
    TRY(count_away(a, m, size));
    a->work_bytes = p.work;
    a->n_carries = p.n_carries;
    memcpy(a->carry, p.carry, sizeof a->carry);
    a->attend_numbers = p.attend_numbers;
    a->total_numbers = p.total_numbers;
    a->own_numbers = size->n_own * most(D, p.own_columns);
    a->routed = p.routed;
    return OK;
}

static void place(struct saved *v, char *const homes[N_HOMES]) {
    for (int i = 0; i < SAVED_MAX; i++) {
        struct saved_slot *s = &v->slot[i];
        const enum home home = saved_home(v, s->at);
        if (s->name) s->t.data = homes[home] + s->offset + (home == HOME_SHARED ? v->shared_at : 0);
    }
}

/* Layers that take turns lie in the window, those of a unit behind each other; the others from `own` on. */
static void place_layers(struct activations *a, char *homes[N_HOMES]) {
    char *own = homes[HOME_OWN];
    for (int i = 0; i < a->n_layers; i++) {
        const int turn = away_turn_of(&a->away, i);
        if (turn < 0) homes[HOME_OWN] = own;
        else if (i % a->group == 0) homes[HOME_OWN] = a->away.window + a->away.turn[turn].at;
        place(&a->layers[i], homes);
        homes[HOME_OWN] += saved_bytes(&a->layers[i], HOME_OWN);
        if (turn < 0) own = homes[HOME_OWN];
    }
}

enum status activations_place(struct activations *a, const struct ctx *c, struct arena *arena, struct arena *store) {
    void *own = NULL, *shared = NULL, *scratch = NULL, *away = NULL;
    TRY(arena_take(arena, a->bytes, &own));
    TRY(arena_take(arena, a->shared_bytes, &shared));
    TRY(arena_take(arena, a->scratch_bytes, &scratch));
    a->region = own;
    a->region_bytes = a->bytes + a->shared_bytes + a->scratch_bytes;
    if (a->away.n_away > 0) TRY(arena_take(store, a->away.store_bytes, &away));
    TRY(away_place(&a->away, c, (char *)own + a->bytes - a->away.window_bytes, away));
    char *homes[N_HOMES] = {[HOME_OWN] = own, [HOME_SHARED] = shared, [HOME_SCRATCH] = scratch};
    place(&a->ends, homes);
    homes[HOME_OWN] += saved_bytes(&a->ends, HOME_OWN);
    for (int j = 0; j < a->n_depths; j++) {
        place(&a->mtp[j], homes);
        homes[HOME_OWN] += saved_bytes(&a->mtp[j], HOME_OWN);
    }
    place_layers(a, homes);
    return OK;
}

void activations_term(struct activations *a) {
    away_term(&a->away);
    mem_free(a->layers);
    *a = (struct activations){0};
}
