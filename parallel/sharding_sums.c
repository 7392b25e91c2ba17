/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/sum_squares/sum_squares.h"
#include "kernels/tree_sum/tree_sum.h"
#include "model/param_parts.h"
#include "parallel/inside.h"
#include "parallel/sharding.h"

bool sharding_part(const struct sharding *h, int param, int part, int64_t *begin, int64_t *n) {
    const struct param *p = &h->spec.params->list[param];
    const struct sharding_piece *mine = &h->piece[param];
    const int64_t row = param_count(p) / p->shape[0];
    struct param_part t;
    param_part(p, part, &t);
    const int64_t first = t.row_begin * row, end = first + t.rows * row;
    const int64_t from = most(first, mine->begin), to = least(end, mine->begin + mine->n);
    *begin = from - first;
    *n = to - from;
    return from < to;
}

bool sharding_elsewhere(const struct sharding *h, int param, int part) {
    struct param_part t;
    param_part(&h->spec.params->list[param], part, &t);
    if (t.copy > 0) return true;
    if (!sharding_has(h, param)) h = h->experts;
    return !h->sliced && h->index > 0;
}

/* ---- copies ---- */

enum { COPIES_MAX = 128 };

static bool added(const struct param *p, int part, struct param_part *t) {
    param_part(p, part, t);
    return t->copies > 1 && !p->alike && p->kind == PARAM_TRAINED;
}

int64_t sharding_copies(const struct sharding *h, const struct sharding_block *b) {
    int64_t numbers = 0, begin = 0, n = 0;
    struct param_part t;
    for (int i = b->first; i < b->end; i++)
        for (int k = 0; sharding_has(h, i) && k < param_parts(&h->spec.params->list[i]); k++) {
            const bool mine = added(&h->spec.params->list[i], k, &t) && sharding_part(h, i, k, &begin, &n);
            if (mine) numbers += (t.copies - 1) * n;
        }
    return numbers;
}

/* A part of mine, and what the ranks with the other copies have of it, one after the other. */
struct copies {
    struct param_part part;
    struct tensor mine;
    char *theirs;
};

static enum status each_part(struct sharding *h, struct step *s, const struct sharding_block *b,
                             enum status (*visit)(struct sharding *, struct step *, const struct copies *)) {
    struct copies c = {.theirs = h->copies};
    for (int i = b->first; i < b->end; i++)
        for (int k = 0; sharding_has(h, i) && k < param_parts(&h->spec.params->list[i]); k++) {
            int64_t begin = 0, n = 0;
            const struct param *p = &h->spec.params->list[i];
            if (!added(p, k, &c.part) || !sharding_part(h, i, k, &begin, &n)) continue;
            begin += c.part.row_begin * (param_count(p) / p->shape[0]) - h->piece[i].begin;
            c.mine = tensor_like(h->piece[i].g, (char *)h->piece[i].g.data + begin * dtype_bytes(h->wide), 1, n);
            TRY(visit(h, s, &c));
            c.theirs += (c.part.copies - 1) * n * dtype_bytes(h->wide);
        }
    return OK;
}

static int peer_of(const struct sharding *h, const struct copies *c, int copy) {
    return h->tensor.index - c->part.copy + copy;
}

static char *place_of(const struct copies *c, int copy) {
    return c->theirs + (copy - (copy > c->part.copy)) * tensor_bytes(c->mine);
}

static enum status swap_part(struct sharding *h, struct step *s, const struct copies *c) {
    struct transfer list[COPIES_MAX];
    int n = 0;
    for (int i = 0; i < c->part.copies; i++) {
        if (i == c->part.copy) continue;
        ASSERT(n < COPIES_MAX);
        list[n++] = (struct transfer){.peer = peer_of(h, c, i),
                                      .send = c->mine.data,
                                      .send_bytes = tensor_bytes(c->mine),
                                      .recv = place_of(c, i),
                                      .recv_bytes = tensor_bytes(c->mine)};
    }
    struct pending p = {0};
    if (is_quiet(h->quiet, COMM_GRADS)) return quiet_list(s, h->wide, list, n);
    TRY(comm_begin(&h->tensor, COMM_GRADS, list, n, &p));
    return comm_end(&h->tensor, &p);
}

/* ((x0 + x1) + x2) + ..., made where x0 is, so that all copies get the same bits. */
static enum status add_part(struct sharding *h, struct step *s, const struct copies *c) {
    (void)h;
    const struct tensor sum = c->part.copy == 0 ? c->mine : tensor_like(c->mine, place_of(c, 0), 1, c->mine.shape[1]);
    for (int i = 1; i < c->part.copies; i++) {
        struct tensor x = c->mine;
        if (i != c->part.copy) x = tensor_like(c->mine, place_of(c, i), 1, c->mine.shape[1]);
        TRY(rows_add(s, x, sum));
    }
    return c->part.copy == 0 ? OK : rows_copy(s, sum, c->mine);
}

enum status sharding_add_copies(struct sharding *h, struct step *s) {
    if (h->tensor.size <= 1) return OK;
    for (int k = 0; k < h->n_blocks; k++) {
        TRY(each_part(h, s, &h->block[k], swap_part));
        TRY(each_part(h, s, &h->block[k], add_part));
    }
    return OK;
}

/* ---- squares ---- */

static enum status sum_over(struct sharding *h, struct comm *over, struct tensor x) {
    struct reduction r = {.use = COMM_CONTROL,
                          .dtype = F64,
                          .in = x.data,
                          .out = x.data,
                          .n = tensor_count(x),
                          .scratch = h->sum_scratch};
    if (over->size <= 1 || is_quiet(h->quiet, COMM_CONTROL)) return OK;
    TRY(all_reduce_begin(over, &r));
    return all_reduce_end(over, &r);
}

/* Every block's sum is made by one rank: adding the zeros of the others changes nothing. */
static enum status squares(struct sharding *h, struct step *s, struct tensor roots) {
    const struct params *ps = h->spec.params;
    int64_t at = 0, begin = 0, n = 0;
    TRY(rows_zero(s, h->sums));
    for (int i = 0; i < ps->n; i++)
        for (int k = 0; k < param_parts(&ps->list[i]); k++, at++) {
            struct param_part t;
            param_part(&ps->list[i], k, &t);
            if (!sharding_has(h, i) || t.copy > 0 || !sharding_part(h, i, k, &begin, &n)) continue;
            const int64_t from = begin + t.row_begin * (param_count(&ps->list[i]) / ps->list[i].shape[0]);
            const struct sum_squares a = {.x = tensor_rows(h->piece[i].g, from - h->piece[i].begin, n),
                                          .sums = tensor_rows(h->sums, h->sums_at[at] + begin / SUM_SQUARES_BLOCK,
                                                              (n + SUM_SQUARES_BLOCK - 1) / SUM_SQUARES_BLOCK)};
            TRY(s->ctx->ops->sum_squares_fwd(s->ctx, &a));
        }
    if (h->sliced) TRY(sum_over(h, &h->comm, h->sums));
    return s->ctx->ops->tree_sum_fwd(s->ctx, &(struct tree_sum){.x = h->sums, .at = h->sums_at_ops, .roots = roots});
}

enum status sharding_squares(struct sharding *h, struct step *s, struct tensor roots) {
    struct sharding *e = h->experts;
    TRY(squares(h, s, roots));
    if (e) {
        TRY(squares(e, s, e->roots));
        TRY(sum_over(e, &e->expert, e->roots));
        const struct tensor x = tensor_like(roots, e->roots.data, 1, tensor_count(roots));
        TRY(rows_add(s, x, tensor_like(roots, roots.data, 1, tensor_count(roots))));
    }
    return sum_over(h, &h->tensor, roots);
}
