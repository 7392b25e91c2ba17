/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include "kernels/affine/affine.h"
#include "kernels/copy/copy.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/space.h"
#include "model/seams_cached.h"

/* Generation: one sequence, a few tokens a pass.  What earlier passes left is kept here, per layer, in the ops' memory;
 * the mixers run unchanged. */
#define CARRIES_MAX 4

struct kept {
    void *data; /* grown on first use, at start-up */
    int64_t bytes;
};
struct layer_cache {
    struct kept carry[CARRIES_MAX], k, v, span; /* span: the (1, 2) row that attention reads */
    int64_t n_keys;                             /* tokens whose keys are kept                */
};
struct seams_cache {
    int n_layers;
    int64_t tokens_max;
    enum space space;
    struct layer_cache layer[];
};

enum status seams_cache_init(struct seams_cache **out, int n_layers, int64_t tokens_max, enum space space) {
    void *mem = NULL;
    *out = NULL;
    TRY(mem_take((int64_t)sizeof **out + n_layers * (int64_t)sizeof(struct layer_cache), &mem));
    *out = mem;
    (*out)->n_layers = n_layers;
    (*out)->tokens_max = tokens_max;
    (*out)->space = space;
    return OK;
}

enum status seams_cache_clear(struct seams_cache *c, struct ctx *ctx) {
    for (int i = 0; i < c->n_layers; i++) {
        for (int j = 0; j < CARRIES_MAX; j++)
            if (c->layer[i].carry[j].data) TRY(space_zero(ctx, c->layer[i].carry[j].data, c->layer[i].carry[j].bytes));
        c->layer[i].n_keys = 0;
    }
    return OK;
}

static void drop(const struct seams_cache *c, struct kept *k) {
    if (c->space == DEVICE) device_free(k->data);
    else mem_free(k->data);
}

void seams_cache_term(struct seams_cache *c) {
    if (!c) return;
    for (int i = 0; i < c->n_layers; i++) {
        for (int j = 0; j < CARRIES_MAX; j++) drop(c, &c->layer[i].carry[j]);
        drop(c, &c->layer[i].k);
        drop(c, &c->layer[i].v);
        drop(c, &c->layer[i].span);
    }
    mem_free(c);
}

static enum status keep(struct step *s, struct kept *k, int64_t bytes) {
    if (k->data) {
        ASSERT(k->bytes == bytes);
        return OK;
    }
    TRY(s->ctx->space == DEVICE ? device_take(bytes, &k->data) : mem_take(bytes, &k->data));
    k->bytes = bytes;
    return space_zero(s->ctx, k->data, bytes);
}

static struct layer_cache *cache_of(struct step *s, const struct layer *l) {
    struct seams_cache *c = s->seams_state;
    ASSERT(l->index < c->n_layers && s->ctx->space == c->space);
    return &c->layer[l->index];
}

static enum status carry_begin(struct step *s, const struct layer *l, struct flow *f, struct carry *c) {
    FAIL_UNLESS(c->to == CARRY_FORWARD, ERR_ARG, "generation with kept state has no backward pass");
    ASSERT(f->shard->n_ranges == 1 && c->id < CARRIES_MAX);
    return keep(s, &cache_of(s, l)->carry[c->id], tensor_bytes(c->entering));
}

static enum status rows_copy(struct step *s, struct tensor x, struct tensor y) {
    return s->ctx->ops->copy_fwd(s->ctx, &(struct copy){.x = x, .y = y});
}

/* kept (k, C) followed by the n newest rows, of which the last k stay: moved one by one, for they may overlap. */
static enum status shift_in(struct step *s, struct kept *kept, struct tensor tail, int64_t n_tokens) {
    const int64_t k = tail.shape[1], n = n_tokens < k ? n_tokens : k;
    const struct tensor all = tensor_like(tail, kept->data, k, tail.shape[2]);
    const struct tensor new = tensor_like(tail, tail.data, k, tail.shape[2]);
    for (int64_t i = 0; i < k - n; i++) TRY(rows_copy(s, tensor_rows(all, i + n, 1), tensor_rows(all, i, 1)));
    return rows_copy(s, tensor_rows(new, k - n, n), tensor_rows(all, k - n, n));
}

static enum status carry_end(struct step *s, const struct layer *l, struct flow *f, struct carry *c) {
    struct kept *kept = &cache_of(s, l)->carry[c->id];
    const int64_t n = tensor_count(c->entering);
    TRY(rows_copy(s, tensor_like(c->entering, kept->data, 1, n), tensor_like(c->entering, c->entering.data, 1, n)));
    if (c->op == CARRY_LAST) return shift_in(s, kept, c->state, f->shard->n_tokens);
    const int64_t rows = tensor_count(c->decay), cols = tensor_count(c->state) / rows;
    const struct tensor old = tensor_like(c->state, kept->data, rows, cols);
    return s->ctx->ops->affine_fwd(s->ctx, &(struct affine){.decay = tensor_like(c->decay, c->decay.data, rows, 1),
                                                            .state = tensor_like(c->state, c->state.data, rows, cols),
                                                            .log_rate = c->log_rate,
                                                            .in = old,
                                                            .out = old});
}

/* Rows of k or v behind those kept. */
static struct tensor kept_rows(const struct kept *kept, struct tensor like, int64_t n) {
    return tensor_like(like, kept->data, n, like.shape[1]);
}

static enum status attend_begin(struct step *s, const struct layer *l, struct flow *f, struct attend *a,
                                enum attend_when when) {
    (void)f;
    if (when == ATTEND_O) return OK;
    FAIL_UNLESS(when == ATTEND_QKV, ERR_ARG, "generation with kept state has no backward pass");
    struct layer_cache *c = cache_of(s, l);
    const struct tensor k = a->mine.k, v = a->mine.v;
    const int64_t max = ((struct seams_cache *)s->seams_state)->tokens_max, n = k.shape[0];
    FAIL_UNLESS(c->n_keys + n <= max, ERR_ARG,
                "the sequence is longer than the %" PRId64 " tokens that memory was kept for", max);
    TRY(keep(s, &c->k, max * k.shape[1] * dtype_bytes(k.dtype)));
    TRY(keep(s, &c->v, max * v.shape[1] * dtype_bytes(v.dtype)));
    TRY(keep(s, &c->span, 2 * (int64_t)sizeof(int64_t)));
    TRY(rows_copy(s, k, tensor_rows(kept_rows(&c->k, k, max), c->n_keys, n)));
    TRY(rows_copy(s, v, tensor_rows(kept_rows(&c->v, v, max), c->n_keys, n)));
    c->n_keys += n;
    return OK;
}

static enum status attend_end(struct step *s, const struct layer *l, struct flow *f, struct attend *a,
                              enum attend_when when) {
    (void)f;
    if (when != ATTEND_QKV) return OK;
    struct layer_cache *c = cache_of(s, l);
    const int64_t span[2] = {0, c->n_keys};
    TRY(space_copy(s->ctx, c->span.data, span, sizeof span));
    a->core.k = kept_rows(&c->k, a->mine.k, c->n_keys);
    a->core.v = kept_rows(&c->v, a->mine.v, c->n_keys);
    a->core.keys = tensor_2d(c->span.data, I64, 1, 2);
    a->core.plain = false;
    a->core.keys.space = s->ctx->space;
    return OK;
}

static enum status enter_here(struct step *s, struct tensor own, struct tensor all, const struct row_work *work) {
    ASSERT(own.data == all.data);
    return row_work_all(s, all, work);
}

static enum status leave_here(struct step *s, struct tensor all, struct tensor own, const struct row_work *work) {
    return enter_here(s, own, all, work);
}

static enum status total(struct step *s, struct tensor t, unsigned axes) {
    (void)s, (void)t, (void)axes;
    return OK;
}

static enum status block_here(struct step *s, int block) {
    (void)s, (void)block;
    return OK;
}

const struct seams seams_cached = {
    .name = "cached",
    .carry_begin = carry_begin,
    .carry_end = carry_end,
    .attend_begin = attend_begin,
    .attend_end = attend_end,
    .routed_begin = routed_here,
    .routed_end = routed_here,
    .enter = enter_here,
    .leave = leave_here,
    .total = total,
    .need = block_here,
    .done = block_here,
};
