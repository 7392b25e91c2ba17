/* SPDX-License-Identifier: Apache-2.0 */
#include "model/attend.h"
#include <inttypes.h>
#include "kernels/ops.h"

bool attend_heads(int n_ranks, int64_t heads, int64_t key_heads, int64_t *my_heads, int64_t *my_key_heads) {
    if (heads % n_ranks != 0 || (key_heads % n_ranks != 0 && n_ranks % key_heads != 0)) return false;
    *my_heads = heads / n_ranks;
    *my_key_heads = key_heads >= n_ranks ? key_heads / n_ranks : 1;
    return true;
}

static void widen_swap(struct attend *a, const struct wide *w) {
    struct attention *c = &a->core;
    ASSERT(attend_heads(w->n_ranks, a->mine.heads, a->mine.key_heads, &c->heads, &c->key_heads));
    const int64_t q = c->heads * c->head_width, k = c->key_heads * c->head_width;
    c->range = w->range;
    c->pos = w->pos;
    c->keys = w->keys;
    c->plain = w->plain;
    c->q = tensor_cols(a->wide[WIDE_QKV], 0, q);
    c->k = tensor_cols(a->wide[WIDE_QKV], q, k);
    c->v = tensor_cols(a->wide[WIDE_QKV], q + k, k);
    c->o = a->wide[WIDE_O];
    c->lse = a->wide[WIDE_LSE];
    c->dout = a->wide[WIDE_DO];
    c->dq = tensor_cols(a->wide[WIDE_DQKV], 0, q);
    c->dk = tensor_cols(a->wide[WIDE_DQKV], q, k);
    c->dv = tensor_cols(a->wide[WIDE_DQKV], q + k, k);
}

static void widen_keys(struct attend *a, const struct wide *w) {
    struct attention *c = &a->core;
    const int64_t k = c->key_heads * c->head_width;
    c->keys = w->keys;
    c->plain = false;
    c->k = tensor_cols(a->wide[WIDE_QKV], 0, k);
    c->v = tensor_cols(a->wide[WIDE_QKV], k, k);
    c->dk = tensor_cols(a->wide[WIDE_DQKV], 0, k);
    c->dv = tensor_cols(a->wide[WIDE_DQKV], k, k);
}

void attend_fill(struct attend *a, const struct saved *v, int first, const struct shard *shard) {
    a->mine = a->core;
    if (!shard->wide) return;
    for (int i = 0; i < N_WIDE; i++) a->wide[i] = v->slot[first + i].t;
    if (shard->wide->swap) widen_swap(a, shard->wide);
    else widen_keys(a, shard->wide);
}

static void plan_attend_numbers(struct plan *p, int64_t numbers) {
    if (numbers > p->attend_numbers) p->attend_numbers = numbers;
}

enum status attend_plan(struct plan *p, int first, struct attend *a) {
    const struct wide *w = p->flow->shard->wide;
    const struct attention *c = &a->core;
    if (w && w->swap) {
        int64_t H = 0, J = 0;
        FAIL_UNLESS(attend_heads(w->n_ranks, c->heads, c->key_heads, &H, &J), ERR_CONFIG,
                    "mesh.attention swap: %" PRId64 " heads and %" PRId64
                    " kv_heads cannot be spread over %d ranks; choose "
                    "mesh.attention keys",
                    c->heads, c->key_heads, w->n_ranks);
        const int64_t cols = (H + 2 * J) * c->head_width;
        plan_slot(p, first + WIDE_QKV, "wide_qkv", KEEP_BOUNDARY, w->n_tokens, cols, 1, 1);
        plan_slot(p, first + WIDE_O, "wide_o", KEEP_BOUNDARY, w->n_tokens, H * c->head_width, 1, 1);
        plan_wide(p, first + WIDE_LSE, "wide_lse", KEEP_BOUNDARY, w->n_tokens, H, 1, 1);
        plan_slot(p, first + WIDE_DQKV, "wide_dqkv", KEEP_SCRATCH, w->n_tokens, cols, 1, 1);
        plan_slot(p, first + WIDE_DO, "wide_do", KEEP_SCRATCH, w->n_tokens, H * c->head_width, 1, 1);
        plan_attend_numbers(p, w->n_ranks * cols);
    } else if (w) {
        const int64_t cols = 2 * c->key_heads * c->head_width;
        plan_slot(p, first + WIDE_QKV, "wide_kv", KEEP_BOUNDARY, w->n_tokens, cols, 1, 1);
        plan_slot(p, first + WIDE_DQKV, "wide_dkv", KEEP_SCRATCH, w->n_tokens, cols, 1, 1);
        plan_attend_numbers(p, cols);
    }
    attend_fill(a, p->saved, first, p->flow->shard);
    plan_work(p, p->ctx->ops->attention_work(p->ctx, &a->core));
    return OK;
}
