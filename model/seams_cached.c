/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <string.h>
#include "kernels/affine/affine.h"
#include "kernels/ops.h"
#include "model/seams.h"

/* Generation: one sequence, a few tokens a pass.  What earlier passes left is kept here, per layer; the mixers run
 * unchanged.  Host memory only. */
#define CARRIES_MAX 4

struct kept {
    void *data; /* grown on first use, at start-up */
    int64_t bytes;
};
struct layer_cache {
    struct kept carry[CARRIES_MAX], k, v;
    int64_t n_keys;  /* tokens whose keys are kept          */
    int64_t span[2]; /* the (1, 2) row that attention reads */
};
struct seams_cache {
    int n_layers;
    int64_t tokens_max;
    struct layer_cache layer[];
};

enum status seams_cache_init(struct seams_cache **out, int n_layers, int64_t tokens_max) {
    void *mem = NULL;
    *out = NULL;
    TRY(mem_take((int64_t)sizeof **out + n_layers * (int64_t)sizeof(struct layer_cache), &mem));
    *out = mem;
    (*out)->n_layers = n_layers;
    (*out)->tokens_max = tokens_max;
    return OK;
}

static void clear(struct kept *k) {
    if (k->data) memset(k->data, 0, (size_t)k->bytes);
}

void seams_cache_clear(struct seams_cache *c) {
    for (int i = 0; i < c->n_layers; i++) {
        for (int j = 0; j < CARRIES_MAX; j++) clear(&c->layer[i].carry[j]);
        c->layer[i].n_keys = 0;
    }
}

void seams_cache_term(struct seams_cache *c) {
    if (!c) return;
    for (int i = 0; i < c->n_layers; i++) {
        for (int j = 0; j < CARRIES_MAX; j++) mem_free(c->layer[i].carry[j].data);
        mem_free(c->layer[i].k.data);
        mem_free(c->layer[i].v.data);
    }
    mem_free(c);
}

static enum status keep(struct kept *k, int64_t bytes) {
    if (k->data) {
        ASSERT(k->bytes == bytes);
        return OK;
    }
    TRY(mem_take(bytes, &k->data));
    k->bytes = bytes;
    return OK;
}

static struct layer_cache *cache_of(struct step *s, const struct layer *l) {
    struct seams_cache *c = s->seams_state;
    ASSERT(l->index < c->n_layers && s->ctx->space == HOST);
    return &c->layer[l->index];
}

static enum status carry_begin(struct step *s, const struct layer *l, struct flow *f, struct carry *c) {
    FAIL_UNLESS(c->to == CARRY_FORWARD, ERR_ARG, "generation with kept state has no backward pass");
    ASSERT(f->shard->n_ranges == 1 && c->id < CARRIES_MAX);
    return keep(&cache_of(s, l)->carry[c->id], tensor_bytes(c->entering));
}

/* kept (k, C) followed by the n newest rows, of which the last k stay. */
static void shift_in(struct kept *kept, struct tensor tail, int64_t n_tokens) {
    const int64_t k = tail.shape[1], row = tail.shape[2] * dtype_bytes(tail.dtype);
    const int64_t n = n_tokens < k ? n_tokens : k;
    char *to = kept->data;
    memmove(to, to + n * row, (size_t)((k - n) * row));
    memcpy(to + (k - n) * row, (const char *)tail.data + (k - n) * row, (size_t)(n * row));
}

static enum status carry_end(struct step *s, const struct layer *l, struct flow *f, struct carry *c) {
    struct kept *kept = &cache_of(s, l)->carry[c->id];
    memcpy(c->entering.data, kept->data, (size_t)kept->bytes);
    if (c->op == CARRY_LAST) {
        shift_in(kept, c->state, f->shard->n_tokens);
        return OK;
    }
    const int64_t rows = tensor_count(c->decay), cols = tensor_count(c->state) / rows;
    struct tensor old = tensor_2d(kept->data, c->state.dtype, rows, cols);
    return s->ctx->ops->affine_fwd(s->ctx,
                                   &(struct affine){.decay = tensor_1d(c->decay.data, c->decay.dtype, rows),
                                                    .state = tensor_2d(c->state.data, c->state.dtype, rows, cols),
                                                    .log_rate = c->log_rate,
                                                    .in = old,
                                                    .out = old});
}

static void append(struct kept *kept, struct tensor rows, int64_t at) {
    const int64_t bytes = rows.shape[1] * dtype_bytes(rows.dtype);
    for (int64_t i = 0; i < rows.shape[0]; i++)
        memcpy((char *)kept->data + (at + i) * bytes, tensor_rows(rows, i, 1).data, (size_t)bytes);
}

static enum status attend_begin(struct step *s, const struct layer *l, struct flow *f, struct attend *a,
                                enum attend_when when) {
    (void)f;
    if (when == ATTEND_O) return OK;
    FAIL_UNLESS(when == ATTEND_QKV, ERR_ARG, "generation with kept state has no backward pass");
    struct layer_cache *c = cache_of(s, l);
    const struct tensor k = a->mine.k, v = a->mine.v;
    const int64_t max = ((struct seams_cache *)s->seams_state)->tokens_max, width = k.shape[1];
    FAIL_UNLESS(c->n_keys + k.shape[0] <= max, ERR_ARG,
                "the sequence is longer than the %" PRId64 " tokens that memory was kept for", max);
    TRY(keep(&c->k, max * width * dtype_bytes(k.dtype)));
    TRY(keep(&c->v, max * width * dtype_bytes(v.dtype)));
    append(&c->k, k, c->n_keys);
    append(&c->v, v, c->n_keys);
    c->n_keys += k.shape[0];
    return OK;
}

static enum status attend_end(struct step *s, const struct layer *l, struct flow *f, struct attend *a,
                              enum attend_when when) {
    (void)f;
    if (when != ATTEND_QKV) return OK;
    struct layer_cache *c = cache_of(s, l);
    c->span[0] = 0;
    c->span[1] = c->n_keys;
    a->core.k = tensor_2d(c->k.data, a->mine.k.dtype, c->n_keys, a->mine.k.shape[1]);
    a->core.v = tensor_2d(c->v.data, a->mine.v.dtype, c->n_keys, a->mine.v.shape[1]);
    a->core.keys = tensor_2d(c->span, I64, 1, 2);
    return OK;
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
    .total = total,
    .need = block_here,
    .done = block_here,
};
