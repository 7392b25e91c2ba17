/* SPDX-License-Identifier: Apache-2.0 */
#include "parallel/sharding.h"
#include "kernels/fill/fill.h"
#include "kernels/space.h"
#include "parallel/inside.h"

static int64_t unit_bytes(const struct sharding *h) { return dtype_bytes(h->wide); }
static struct sharding_block *ends_of(struct sharding *h) { return &h->block[h->n_blocks - 1]; }
static struct tensor row_of(const struct sharding *h, void *at, int64_t n) {
    struct tensor t = tensor_2d(at, h->wide, 1, n);
    t.space = h->spec.ctx->space;
    return t;
}

void sharding_bind_w(struct sharding *h, const struct sharding_block *b) {
    for (int i = b->first; i < b->end; i++)
        if (sharding_has(h, i)) h->spec.params->list[i].w.data = b->w ? b->w + h->w_at[i] : NULL;
}

void sharding_bind_g(struct sharding *h, const struct sharding_block *b, char *row) {
    for (int i = b->first; i < b->end; i++)
        if (sharding_has(h, i)) h->spec.params->list[i].g.data = row + h->offset[i] * unit_bytes(h);
}

/* ---- weights ---- */

static enum status arrive(struct sharding *h, struct sharding_block *b) {
    return b->gather.flight ? comm_end(&h->comm, &b->gather) : OK;
}

/* My numbers of a block in this type, of parameter i if I have any of it. */
static struct tensor mine_like(const struct sharding *h, const struct sharding_block *b, int i, enum dtype type) {
    struct tensor found = {0};
    for (int k = b->first; k < b->end; k++) {
        const struct sharding_piece *mine = &h->piece[k];
        const struct tensor t = tensor_has(mine->out) ? mine->out : mine->w;
        if (mine->n > 0 && t.dtype == type && (k == i || !tensor_has(found))) found = t;
    }
    return found;
}

/* The row of a quiet ring: copies of my own part of the block, or small numbers where I have none of a type. */
static enum status invent(struct sharding *h, const struct sharding_block *b) {
    struct step s = {.ctx = h->spec.ctx};
    for (int i = b->first; i < b->end; i++) {
        const struct param *p = &h->spec.params->list[i];
        const int64_t n = param_count(p), size = dtype_bytes(p->w.dtype);
        if (!sharding_has(h, i)) continue;
        const struct tensor own = mine_like(h, b, i, p->w.dtype);
        struct tensor row = tensor_2d(b->w + h->w_at[i], p->w.dtype, 1, n);
        row.space = s.ctx->space;
        if (!tensor_has(own)) TRY(s.ctx->ops->fill_fwd(s.ctx, &(struct fill){.x = row, .value = 0.01}));
        for (int64_t at = 0, k; tensor_has(own) && at < n; at += k) {
            k = least(n - at, own.shape[0]);
            TRY(rows_copy(&s, tensor_like(row, own.data, 1, k), tensor_like(row, (char *)row.data + at * size, 1, k)));
        }
    }
    return OK;
}

static enum status gather(struct sharding *h, struct sharding_block *b) {
    if (is_quiet(h->quiet, COMM_PARAMS)) return h->ring_w && b != ends_of(h) ? invent(h, b) : OK;
    return all_gather_begin(&h->comm, COMM_PARAMS, b->w_mine, b->w, b->bytes_at, &b->gather);
}

static enum status empty_slot(struct sharding *h, int k) {
    struct sharding_block *b = h->in_slot[k];
    if (!b) return OK;
    TRY(arrive(h, b));
    b->w = NULL;
    sharding_bind_w(h, b);
    h->in_slot[k] = NULL;
    return OK;
}

/* A layer's weights are on their way, into a slot that the layer at hand does not use. */
static enum status fetch(struct sharding *h, int i) {
    if (i < 0 || i >= h->spec.n_layers || h->block[i].w) return OK;
    const int k = h->last >= 0 && h->in_slot[0] == &h->block[h->last];
    TRY(empty_slot(h, k));
    h->in_slot[k] = &h->block[i];
    h->block[i].w = h->slot_w[k];
    return gather(h, &h->block[i]);
}

/* The next layer is guessed from the direction so far, which turns where layers end or are done; a leap starts a group
 * of layers that run once more.  A wrong guess costs its bytes alone. */
static enum status need_ring(struct sharding *h, int i) {
    struct sharding_block *b = &h->block[i];
    if (b == ends_of(h)) {
        h->last = -1;
        h->done_at = h->spec.n_layers;
        TRY(arrive(h, b));
        return fetch(h, 0);
    }
    if (i != h->last) h->up = i != h->last - 1;
    if (i + 1 >= h->done_at) h->up = false;
    TRY(fetch(h, i));
    TRY(arrive(h, b));
    sharding_bind_w(h, b);
    h->last = i;
    return fetch(h, h->up ? i + 1 : i - 1);
}

enum status sharding_need(struct sharding *h, int block) {
    const int i = block < 0 ? h->spec.n_layers : block;
    for (; h; h = h->experts) TRY(h->ring_w ? need_ring(h, i) : arrive(h, &h->block[i]));
    return OK;
}

enum status sharding_settle(struct sharding *h) {
    for (; h; h = h->experts)
        for (int k = 0; k < h->n_blocks; k++) TRY(arrive(h, &h->block[k]));
    return OK;
}

/* In the order of their first use. */
static enum status publish(struct sharding *h) {
    if (!h->sliced) return OK;
    for (int k = 0; k < h->n_blocks; k++) TRY(arrive(h, &h->block[k]));
    TRY(gather(h, ends_of(h)));
    for (int k = 0; !h->ring_w && k < h->spec.n_layers; k++) TRY(gather(h, &h->block[k]));
    if (!h->ring_w) return OK;
    for (int k = 0; k < SLOTS_W; k++) TRY(empty_slot(h, k));
    h->last = -1;
    return fetch(h, 0);
}

enum status sharding_publish(struct sharding *h) {
    for (; h; h = h->experts) TRY(publish(h));
    return OK;
}

static const struct sharding *owner(const struct sharding *h, int param) {
    return sharding_has(h, param) ? h : h->experts;
}

/* Is the row of this block's weights somewhere else than in its place, in parts or in passing? */
static bool in_ring(const struct sharding *h, int param) {
    return h->ring_w && param < h->block[h->n_blocks - 1].first;
}

void sharding_kept(const struct sharding *h, int param, int64_t *first, int64_t *n) {
    h = owner(h, param);
    const bool part = in_ring(h, param);
    *first = part ? h->piece[param].begin : 0;
    *n = part ? h->piece[param].n : param_count(&h->spec.params->list[param]);
}

enum status sharding_store(struct sharding *all, int param, int64_t first, int64_t n, const void *numbers,
                           const void *rounded) {
    const struct sharding *h = owner(all, param);
    const struct param *p = &h->spec.params->list[param];
    const struct sharding_piece *mine = &h->piece[param];
    const int64_t from = most(first, mine->begin), to = least(first + n, mine->begin + mine->n);
    const char *part = (const char *)numbers + (from - first) * unit_bytes(h);
    const void *part_rounded = rounded ? (const uint16_t *)rounded + (from - first) : NULL;
    if (!in_ring(h, param)) TRY(space_store(h->spec.ctx, p->w, first, n, numbers, rounded));
    if (from >= to) return OK;
    if (in_ring(h, param) && tensor_has(mine->out))
        TRY(space_store(h->spec.ctx, mine->out, from - mine->begin, to - from, part, part_rounded));
    if (!in_ring(h, param) && !tensor_has(mine->out)) return OK; /* done with the row */
    return space_store(h->spec.ctx, mine->w, from - mine->begin, to - from, part, part_rounded);
}

/* ---- gradients ---- */

/* A place for the gradient of a block in this pass.  A slot comes round after the exchange of its last user has ended:
 * one of the three is being filled, and two are under way. */
static enum status open_gradient(struct sharding *h, struct step *s, struct sharding_block *b) {
    if (h->ring_g && b != ends_of(h)) {
        b->g = h->slot_g[(ends_of(h) - b - 1) % SLOTS_G];
    }
    sharding_bind_g(h, b, b->g);
    return rows_zero(s, row_of(h, b->g, b->n));
}

static enum status launch(struct sharding *h, struct step *s, struct sharding_block *b, int k) {
    char *mine = b->g + b->begin * unit_bytes(h);
    struct reduction *r = &h->flight[k];
    *r = (struct reduction){
        .use = COMM_GRADS, .dtype = h->wide, .in = b->g, .out = mine, .tree = h->spec.exact, .scratch = h->scratch[k]};
    h->flying[k] = b;
    if (h->n_ranks == 1) return OK; /* the sum is there */
    const bool quiet = is_quiet(h->quiet, COMM_GRADS);
    if (!h->sliced && quiet) return OK;
    if (!h->sliced) {
        r->n = b->n;
        return all_reduce_begin(&h->comm, r);
    }
    r->at = b->at;
    if (b->n_arrived == 0) r->out = b->sum;
    if (quiet)
        return r->out == mine || b->mine == 0 ? OK : rows_copy(s, row_of(h, mine, b->mine), row_of(h, r->out, b->mine));
    return reduce_scatter_begin(&h->comm, r);
}

static enum status land(struct sharding *h, struct step *s, int k) {
    struct sharding_block *b = h->flying[k];
    struct reduction *r = &h->flight[k];
    if (!b) return OK;
    h->flying[k] = NULL;
    if (h->n_ranks > 1 && !is_quiet(h->quiet, COMM_GRADS))
        TRY(h->sliced ? reduce_scatter_end(&h->comm, r) : all_reduce_end(&h->comm, r));
    const bool first = b->n_arrived++ == 0;
    if (r->out == b->sum || b->mine == 0) return OK;
    const struct tensor x = row_of(h, r->out, b->mine), sum = row_of(h, b->sum, b->mine);
    return first ? rows_copy(s, x, sum) : rows_add(s, x, sum);
}

static enum status done(struct sharding *h, struct step *s, int block) {
    if (!h->fresh) return OK;
    struct sharding_block *b = block < 0 ? ends_of(h) : &h->block[block];
    const int k = block < 0 ? 0 : h->n_flown++ % FLIGHTS_G;
    if (block >= 0) h->done_at = block;
    TRY(land(h, s, k));
    TRY(launch(h, s, b, k));
    return block > 0 ? open_gradient(h, s, &h->block[block - 1]) : OK;
}

enum status sharding_done(struct sharding *h, struct step *s, int block) {
    for (; h; h = h->experts) TRY(done(h, s, block));
    return OK;
}

enum status sharding_step_begin(struct sharding *h, struct step *s) {
    for (; h; h = h->experts) {
        h->n_passes = 0;
        for (int k = 0; k < h->n_blocks; k++) h->block[k].n_arrived = 0;
        if (!h->fresh) TRY(rows_zero(s, h->grads));
    }
    return OK;
}

static enum status pass_begin(struct sharding *h, struct step *s) {
    if (!h->fresh) return OK;
    ASSERT(h->n_passes < most(1, h->spec.n_micro));
    h->n_flown = 0;
    TRY(open_gradient(h, s, ends_of(h)));
    return h->spec.n_layers > 0 ? open_gradient(h, s, ends_of(h) - 1) : OK;
}

enum status sharding_pass_begin(struct sharding *h, struct step *s) {
    for (; h; h = h->experts) TRY(pass_begin(h, s));
    return OK;
}

enum status sharding_pass_turns(struct sharding *h, struct step *s) {
    struct sharding_block *b = ends_of(h);
    if (!h->spec.ends_twice) return OK;
    TRY(launch(h, s, b, 0));
    TRY(land(h, s, 0));
    return rows_zero(s, row_of(h, b->g, b->n));
}

static enum status pass_end(struct sharding *h, struct step *s) {
    for (int k = 0; k < FLIGHTS_G; k++) TRY(land(h, s, k));
    for (struct sharding_block *b = h->block; b <= ends_of(h) && !h->sliced; b++) sharding_bind_g(h, b, b->sum);
    h->n_passes++;
    return h->n_passes == most(1, h->spec.n_micro) ? sharding_add_copies(h, s) : OK;
}

/* Nothing is under way behind it: what follows may change weights. */
enum status sharding_pass_end(struct sharding *h, struct step *s) {
    for (struct sharding *k = h; k; k = k->experts) TRY(pass_end(k, s));
    return sharding_settle(h);
}
