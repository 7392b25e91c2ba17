/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/affine/affine.h"
#include "parallel/inside.h"

/* The affine carry by two all-to-alls: the M = H P rows of a state are cut into P blocks; rank k folds block k of every
 * range, and sends each range what enters it.  A row travels as [decay | N numbers]. */
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

/* Row block k of one of my ranges into its place of the message to rank k. */
static enum status pack(struct step *s, const struct carry *c, const struct scan *x, int k, int64_t range,
                        struct tensor to) {
    const int64_t begin = block_at(x, k), rows = block_rows(x, k), per_head = x->M / x->H;
    const struct tensor state = range_view(c->state, range, x->M, x->N);
    TRY(rows_copy(s, tensor_rows(state, begin, rows), tensor_cols(to, 1, x->N)));
    for (int64_t row = begin; row < begin + rows;) {
        const int64_t head = row / per_head, end = least((head + 1) * per_head, begin + rows);
        struct tensor decay = tensor_cols(range_view(c->decay, range, 1, x->H), head, 1);
        decay.shape[0] = end - row;
        decay.pitch = 0; /* one number for all rows of the head */
        TRY(rows_copy(s, decay, tensor_cols(tensor_rows(to, row - begin, end - row), 0, 1)));
        row = end;
    }
    return OK;
}

enum status scan_begin(struct step *s, struct carry *c) {
    struct scan x = scan_of(s, c);
    const struct shard_map *map = x.m->spec.map;
    const int P = map->spec.n_ranks, me = x.m->me;
    const int64_t real = dtype_bytes(x.m->spec.real);
    int64_t *send_at = x.m->at, *recv_at = x.m->at + P + 1;
    send_at[0] = recv_at[0] = 0;
    for (int k = 0; k < P; k++) {
        const int64_t rows = block_rows(&x, k);
        struct tensor to = tensor_2d(x.lane->send + send_at[k], x.m->spec.real, x.R * rows, x.N + 1);
        for (int64_t r = 0; r < x.R; r++) TRY(pack(s, c, &x, k, r, tensor_rows(to, r * rows, rows)));
        send_at[k + 1] = send_at[k] + x.R * rows * (x.N + 1) * real;
        recv_at[k + 1] = recv_at[k] + shard_map_ranges(map, k) * block_rows(&x, me) * (x.N + 1) * real;
    }
    return all_to_all_begin(x.m->spec.seq, COMM_CARRY, x.lane->send, send_at, x.lane->recv, recv_at, &x.lane->pending);
}

/* Block `me` of all ranges: what enters each goes into its owner's part of fold, behind the running state. */
static enum status fold_block(struct step *s, const struct carry *c, const struct scan *x, struct tensor acc,
                              struct tensor entering) {
    const struct shard_map *map = x->m->spec.map;
    const int64_t rows = acc.shape[0];
    const struct tensor all = tensor_2d(x->lane->recv, x->m->spec.real, map->n_ranges * rows, x->N + 1);
    const struct token_range *t;
    for (int64_t b = 0; b < map->spec.n_sequences; b++) {
        TRY(rows_zero(s, acc));
        for (int64_t i = 0; (t = map_next(map, b, i, c->to)) != NULL; i++) {
            const int64_t at = (map->mine[t->rank] + t->index) * rows;
            const struct tensor one = tensor_rows(all, at, rows);
            TRY(rows_copy(s, acc, tensor_rows(entering, at, rows)));
            struct tensor decay = tensor_cols(one, 0, 1);
            const struct affine a = {.decay = decay, .state = tensor_cols(one, 1, x->N), .in = acc, .out = acc};
            TRY(s->ctx->ops->affine_fwd(s->ctx, &a));
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
