/* SPDX-License-Identifier: Apache-2.0 */
#include "parallel/carry_fold.h"
#include "kernels/affine/affine.h"

int64_t block_first_head(const struct block *b) { return b->begin / b->per_head; }

int64_t block_heads(const struct block *b) {
    if (b->rows == 0) return 0;
    return (b->begin + b->rows + b->per_head - 1) / b->per_head - block_first_head(b);
}

int64_t block_numbers(const struct block *b) { return block_heads(b) + b->rows * b->N; }

static int levels_of(int64_t n) {
    int levels = 1;
    while (((int64_t)1 << (levels - 1)) < n) levels++;
    return levels;
}

int64_t block_fold_numbers(const struct block *b, int64_t n, bool exact) {
    const int64_t acc = b->rows * b->N + block_heads(b); /* the running state, and zeros for a product of decays */
    return acc + (exact ? (2 * n + levels_of(n)) * block_numbers(b) : 0);
}

static enum status affine(struct step *s, struct tensor decay, struct tensor state, struct tensor in,
                          struct tensor out) {
    return s->ctx->ops->affine_fwd(s->ctx, &(struct affine){.decay = decay, .state = state, .in = in, .out = out});
}

/* Heads of one row each: all at once. */
static enum status fold_rows(struct step *s, const struct block *b, struct tensor one, struct tensor acc,
                             struct tensor log_rate) {
    struct affine a = {.decay = tensor_like(one, one.data, b->rows, 1), .in = acc, .out = acc};
    a.state = tensor_like(one, tensor_cols(one, b->rows, b->rows * b->N).data, b->rows, b->N);
    if (tensor_has(log_rate)) a.log_rate = tensor_rows(log_rate, b->begin, b->rows);
    return s->ctx->ops->affine_fwd(s->ctx, &a);
}

/* acc = decay acc + state: head by head, as many rows as the block has of each. */
static enum status fold(struct step *s, const struct prefixes *p, struct tensor one, struct tensor acc) {
    const struct block *b = &p->block;
    const int64_t heads = block_heads(b), first_head = block_first_head(b);
    ASSERT(b->per_head == 1 || !tensor_has(p->log_rate));
    if (b->per_head == 1) return fold_rows(s, b, one, acc, p->log_rate);
    for (int64_t h = 0; h < heads; h++) {
        const int64_t first = most((first_head + h) * b->per_head - b->begin, 0);
        const int64_t end = least((first_head + h + 1) * b->per_head - b->begin, b->rows);
        const int64_t n = (end - first) * b->N;
        const struct tensor to = tensor_like(acc, tensor_rows(acc, first, end - first).data, 1, n);
        const struct tensor decay = tensor_like(acc, tensor_cols(one, h, 1).data, 1, 1);
        TRY(affine(s, decay, tensor_cols(one, heads + first * b->N, n), to, to));
    }
    return OK;
}

struct folding {
    struct step *s;
    const struct prefixes *p;
    struct tensor acc, zeros;
    char *nodes; /* exact: level 0, 1, ... of one sequence */
};

static struct tensor message_of(const struct folding *f, const struct token_range *t) {
    const struct shard_map *map = mesh_of(f->s)->spec.map;
    return tensor_rows(f->p->all, map->mine[t->rank] + t->index, 1);
}

static enum status deliver(struct folding *f, const struct token_range *t) {
    const struct tensor to = f->p->place(f->p->arg, t);
    return tensor_has(to) ? rows_copy(f->s, f->acc, to) : OK;
}

/* Ranges of sequence b up to the last one that anybody wants the prefix of: what stands behind it is not read. */
static int64_t wanted(const struct folding *f, int64_t b) {
    const struct shard_map *map = mesh_of(f->s)->spec.map;
    int64_t n = map->per_sequence;
    while (n > 0 && !tensor_has(f->p->place(f->p->arg, map_next(map, b, n - 1, f->p->to)))) n--;
    return n;
}

static enum status in_turn(struct folding *f, int64_t b) {
    const struct shard_map *map = mesh_of(f->s)->spec.map;
    const int64_t n = wanted(f, b);
    TRY(rows_zero(f->s, f->acc));
    for (int64_t i = 0; i < n; i++) {
        const struct token_range *t = map_next(map, b, i, f->p->to);
        TRY(deliver(f, t));
        if (i + 1 < n) TRY(fold(f->s, f->p, message_of(f, t), f->acc));
    }
    return OK;
}

/* Node i of level l, of a sequence of n leaves. */
static struct tensor node(const struct folding *f, int64_t n, int l, int64_t i) {
    const int64_t numbers = block_numbers(&f->p->block);
    int64_t at = 0;
    for (int k = 0; k < l; k++) at += (n + ((int64_t)1 << k) - 1) >> k;
    return tensor_like(f->acc, f->nodes + (at + i) * numbers * dtype_bytes(f->acc.dtype), 1, numbers);
}

/* out = left, then right. */
static enum status join(struct folding *f, struct tensor left, struct tensor right, struct tensor out) {
    const struct block *b = &f->p->block;
    const int64_t heads = block_heads(b), rest = b->rows * b->N;
    struct tensor state = tensor_cols(out, heads, rest);
    TRY(rows_copy(f->s, tensor_cols(left, heads, rest), state));
    TRY(fold(f->s, f->p, right, tensor_like(out, state.data, b->rows, b->N)));
    if (tensor_has(f->p->log_rate)) { /* times add up, factors multiply */
        TRY(rows_copy(f->s, tensor_cols(left, 0, heads), tensor_cols(out, 0, heads)));
        return rows_add(f->s, tensor_cols(right, 0, heads), tensor_cols(out, 0, heads));
    }
    return affine(f->s, tensor_like(out, right.data, heads, 1), tensor_like(out, f->zeros.data, heads, 1),
                  tensor_like(out, left.data, heads, 1), tensor_like(out, out.data, heads, 1));
}

static enum status make_nodes(struct folding *f, int64_t b, int64_t n) {
    const struct shard_map *map = mesh_of(f->s)->spec.map;
    for (int64_t i = 0; i < n; i++)
        TRY(rows_copy(f->s, message_of(f, map_next(map, b, i, f->p->to)), node(f, n, 0, i)));
    for (int l = 1; l < levels_of(n); l++) {
        const int64_t below = (n + ((int64_t)1 << (l - 1)) - 1) >> (l - 1);
        for (int64_t i = 0; 2 * i < below; i++) {
            const struct tensor left = node(f, n, l - 1, 2 * i), out = node(f, n, l, i);
            if (2 * i + 1 < below) TRY(join(f, left, node(f, n, l - 1, 2 * i + 1), out));
            else TRY(rows_copy(f->s, left, out));
        }
    }
    return OK;
}

static enum status by_tree(struct folding *f, int64_t b) {
    const struct shard_map *map = mesh_of(f->s)->spec.map;
    const int64_t leaves = wanted(f, b), n = leaves > 0 ? leaves - 1 : 0;
    TRY(make_nodes(f, b, n));
    for (int64_t j = 0; j < leaves; j++) {
        const struct token_range *t = map_next(map, b, j, f->p->to);
        if (!tensor_has(f->p->place(f->p->arg, t))) continue;
        TRY(rows_zero(f->s, f->acc));
        for (int l = levels_of(n) - 1; l >= 0; l--)
            if (j >> l & 1) TRY(fold(f->s, f->p, node(f, n, l, (j >> l) - 1), f->acc));
        TRY(deliver(f, t));
    }
    return OK;
}

enum status block_prefixes(struct step *s, const struct prefixes *p) {
    const struct shard_map *map = mesh_of(s)->spec.map;
    const struct block *b = &p->block;
    if (b->rows == 0) return OK;
    struct folding f = {.s = s, .p = p, .acc = tensor_like(p->all, p->memory, b->rows, b->N)};
    f.zeros = tensor_like(p->all, p->memory + tensor_bytes(f.acc), 1, block_heads(b));
    f.nodes = (char *)f.zeros.data + tensor_bytes(f.zeros);
    TRY(rows_zero(s, f.zeros));
    for (int64_t i = 0; i < map->spec.n_sequences; i++) TRY(map->spec.segments ? by_tree(&f, i) : in_turn(&f, i));
    return OK;
}
