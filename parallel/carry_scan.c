/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/affine/affine.h"
#include "parallel/inside.h"

/* The affine carry by two all-to-alls: the M = H P rows of a state are cut into P blocks; rank k folds block k of every
 * range, and sends each range what enters it.  A block travels as [decays of its heads | rows]; a block may begin or
 * end inside a head. */
struct scan {
    struct seams_mesh *m;
    struct lane *lane;
    int64_t H, M, N, R, mine; /* mine: rows of my block */
};

static struct scan scan_of(struct step *s, const struct carry *c) {
    struct scan x = {.m = mesh_of(s), .H = c->decay.shape[1], .N = c->state.shape[3]};
    x.lane = &x.m->lane[c->id];
    x.M = c->state.shape[1] * c->state.shape[2];
    x.R = shard_map_ranges(x.m->spec.map, x.m->me);
    return x;
}

/* Rows of block k begin here. */
static int64_t block_at(const struct scan *x, int k) { return k * x->M / x->m->spec.map->spec.n_ranks; }
static int64_t block_rows(const struct scan *x, int k) { return block_at(x, k + 1) - block_at(x, k); }

static int64_t per_head(const struct scan *x) { return x->M / x->H; }
static int64_t head_at(const struct scan *x, int k) { return block_at(x, k) / per_head(x); }
static int64_t block_heads(const struct scan *x, int k) {
    return (block_at(x, k + 1) + per_head(x) - 1) / per_head(x) - head_at(x, k);
}
/* Numbers of one range's message to rank k. */
static int64_t message(const struct scan *x, int k) {
    return block_rows(x, k) > 0 ? block_heads(x, k) + block_rows(x, k) * x->N : 0;
}

/* Block k of all my ranges. */
static enum status pack(struct step *s, const struct carry *c, const struct scan *x, int k, void *to) {
    const int64_t heads = block_heads(x, k), rows = block_rows(x, k);
    const enum dtype real = x->m->spec.real;
    const struct tensor all = tensor_2d(to, real, x->R, message(x, k));
    const struct tensor decay = tensor_2d(c->decay.data, real, x->R, x->H);
    const struct tensor state = tensor_2d(c->state.data, real, x->R, x->M * x->N);
    if (rows == 0) return OK;
    TRY(rows_copy(s, tensor_cols(decay, head_at(x, k), heads), tensor_cols(all, 0, heads)));
    return rows_copy(s, tensor_cols(state, block_at(x, k) * x->N, rows * x->N), tensor_cols(all, heads, rows * x->N));
}

enum status scan_begin(struct step *s, struct carry *c) {
    struct scan x = scan_of(s, c);
    const struct shard_map *map = x.m->spec.map;
    const int P = map->spec.n_ranks, me = x.m->me;
    const int64_t real = dtype_bytes(x.m->spec.real);
    int64_t *send_at = x.m->at, *recv_at = x.m->at + P + 1;
    send_at[0] = recv_at[0] = 0;
    for (int k = 0; k < P; k++) {
        TRY(pack(s, c, &x, k, x.lane->send + send_at[k]));
        send_at[k + 1] = send_at[k] + x.R * message(&x, k) * real;
        recv_at[k + 1] = recv_at[k] + shard_map_ranges(map, k) * message(&x, me) * real;
    }
    return all_to_all_begin(x.m->spec.seq, COMM_CARRY, x.lane->send, send_at, x.lane->recv, recv_at, &x.lane->pending);
}

/* acc = decay acc + state for my block: head by head, as many rows as the block has of each. */
static enum status fold_message(struct step *s, const struct scan *x, struct tensor one, struct tensor acc) {
    const int me = x->m->me;
    const int64_t heads = block_heads(x, me), begin = block_at(x, me), rows = block_rows(x, me);
    for (int64_t h = 0; h < heads; h++) {
        const int64_t first = most((head_at(x, me) + h) * per_head(x), begin) - begin;
        const int64_t end = least((head_at(x, me) + h + 1) * per_head(x) - begin, rows);
        const int64_t n = (end - first) * x->N;
        struct tensor to = tensor_rows(acc, first, end - first);
        to = tensor_2d(to.data, to.dtype, 1, n);
        const struct affine a = {.decay = tensor_1d(tensor_cols(one, h, 1).data, to.dtype, 1),
                                 .state = tensor_cols(one, heads + first * x->N, n),
                                 .in = to,
                                 .out = to};
        TRY(s->ctx->ops->affine_fwd(s->ctx, &a));
    }
    return OK;
}

/* Block `me` of all ranges: what enters each goes into its owner's part of fold, behind the running state. */
static enum status fold_block(struct step *s, const struct carry *c, const struct scan *x, struct tensor acc,
                              struct tensor entering) {
    const struct shard_map *map = x->m->spec.map;
    const int64_t rows = acc.shape[0];
    const struct tensor all = tensor_2d(x->lane->recv, x->m->spec.real, map->n_ranges, message(x, x->m->me));
    const struct token_range *t;
    for (int64_t b = 0; b < map->spec.n_sequences; b++) {
        TRY(rows_zero(s, acc));
        for (int64_t i = 0; (t = map_next(map, b, i, c->to)) != NULL; i++) {
            const int64_t at = map->mine[t->rank] + t->index;
            TRY(rows_copy(s, acc, tensor_rows(entering, at * rows, rows)));
            TRY(fold_message(s, x, tensor_rows(all, at, 1), acc));
        }
    }
    return OK;
}

enum status scan_end(struct step *s, struct carry *c) {
    struct scan x = scan_of(s, c);
    const struct shard_map *map = x.m->spec.map;
    const int P = map->spec.n_ranks, me = x.m->me;
    const int64_t rows = block_rows(&x, me), real = dtype_bytes(x.m->spec.real);
    TRY(comm_end(x.m->spec.seq, &x.lane->pending));
    const struct tensor acc = tensor_2d(x.lane->fold, x.m->spec.real, rows, x.N);
    const struct tensor entering =
        tensor_2d(x.lane->fold + tensor_bytes(acc), x.m->spec.real, map->n_ranges * rows, x.N);
    if (rows > 0) TRY(fold_block(s, c, &x, acc, entering));
    int64_t *send_at = x.m->at, *recv_at = x.m->at + P + 1;
    for (int k = 0; k <= P; k++) {
        send_at[k] = map->mine[k] * rows * x.N * real;
        recv_at[k] = block_at(&x, k) * x.R * x.N * real;
    }
    TRY(all_to_all_begin(x.m->spec.seq, COMM_CARRY, entering.data, send_at, x.lane->send, recv_at, &x.lane->pending));
    TRY(comm_end(x.m->spec.seq, &x.lane->pending));
    for (int k = 0; k < P; k++) {
        const int64_t n = block_rows(&x, k);
        const struct tensor from = tensor_2d(x.lane->send + recv_at[k], x.m->spec.real, x.R * n, x.N);
        for (int64_t r = 0; r < x.R; r++) {
            const struct tensor to = tensor_rows(range_view(c->entering, r, x.M, x.N), block_at(&x, k), n);
            TRY(rows_copy(s, tensor_rows(from, r * n, n), to));
        }
    }
    return OK;
}
