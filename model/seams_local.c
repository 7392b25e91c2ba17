/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/fill/fill.h"
#include "kernels/ops.h"
#include "model/seams.h"

/* One rank holds whole sequences: every range begins one, so nothing enters it and nothing is asked of what leaves. */

static enum status carry_begin(struct step *s, const struct layer *l, struct flow *f, struct carry *c) {
    (void)s, (void)l, (void)f, (void)c;
    return OK;
}

static enum status carry_end(struct step *s, const struct layer *l, struct flow *f, struct carry *c) {
    (void)l, (void)f;
    return s->ctx->ops->fill_fwd(s->ctx, &(struct fill){.x = c->entering, .value = 0.0});
}

static enum status keys_begin(struct step *s, const struct layer *l, struct flow *f, struct visible *k) {
    (void)s, (void)l;
    k->all_k = k->k;
    k->all_v = k->v;
    k->keys = f->shard->keys;
    return OK;
}

static enum status keys_end(struct step *s, const struct layer *l, struct flow *f, struct visible *k) {
    (void)s, (void)l, (void)f, (void)k;
    return OK;
}

static enum status keys_back_begin(struct step *s, const struct layer *l, struct flow *f, struct visible *k) {
    (void)s, (void)l;
    k->all_k = k->k;
    k->all_v = k->v;
    k->keys = f->shard->keys;
    k->dall_k = k->dk;
    k->dall_v = k->dv;
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

const struct seams seams_local = {
    .name = "local",
    .carry_begin = carry_begin,
    .carry_end = carry_end,
    .keys_begin = keys_begin,
    .keys_end = keys_end,
    .keys_back_begin = keys_back_begin,
    .keys_back_end = keys_end,
    .total = total,
    .need = block_here,
    .done = block_here,
};
