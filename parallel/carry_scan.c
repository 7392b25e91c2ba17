/* SPDX-License-Identifier: Apache-2.0 */
#include "parallel/carry_fold.h"

/* The affine carry by two all-to-alls: the M = H P rows of a state are cut into P blocks; rank k folds block k of every
 * range, and sends each range what enters it. */
struct scan {
    struct seams_mesh *m;
    struct lane *lane;
    int64_t H, M, N, R;
};

static struct scan scan_of(struct step *s, const struct carry *c) {
    struct scan x = {.m = mesh_of(s), .H = c->decay.shape[1], .N = c->state.shape[3]};
    x.lane = &x.m->lane[c->id];
    x.M = c->state.shape[1] * c->state.shape[2];
    x.R = shard_map_ranges(x.m->spec.map, x.m->me);
    return x;
}

static struct block block_of(const struct scan *x, int k) {
    const int64_t P = x->m->spec.map->spec.n_ranks, begin = k * x->M / P;
    return (struct block){.begin = begin, .rows = (k + 1) * x->M / P - begin, .per_head = x->M / x->H, .N = x->N};
}

/* Block k of all my ranges. */
static enum status pack(struct step *s, const struct carry *c, const struct scan *x, int k, void *to) {
    const struct block b = block_of(x, k);
    const int64_t heads = block_heads(&b);
    const enum dtype real = x->m->spec.real;
    const struct tensor all = tensor_2d(to, real, x->R, block_numbers(&b));
    const struct tensor decay = tensor_2d(c->decay.data, real, x->R, x->H);
    const struct tensor state = tensor_2d(c->state.data, real, x->R, x->M * x->N);
    if (b.rows == 0) return OK;
    TRY(rows_copy(s, tensor_cols(decay, block_first_head(&b), heads), tensor_cols(all, 0, heads)));
    return rows_copy(s, tensor_cols(state, b.begin * x->N, b.rows * x->N), tensor_cols(all, heads, b.rows * x->N));
}

enum status scan_begin(struct step *s, struct carry *c) {
    struct scan x = scan_of(s, c);
    const struct shard_map *map = x.m->spec.map;
    const int P = map->spec.n_ranks;
    const int64_t real = dtype_bytes(x.m->spec.real);
    const struct block mine = block_of(&x, x.m->me);
    int64_t *send_at = x.m->at, *recv_at = x.m->at + P + 1;
    send_at[0] = recv_at[0] = 0;
    for (int k = 0; k < P; k++) {
        const struct block b = block_of(&x, k);
        TRY(pack(s, c, &x, k, x.lane->send + send_at[k]));
        send_at[k + 1] = send_at[k] + x.R * block_numbers(&b) * real;
        recv_at[k + 1] = recv_at[k] + shard_map_ranges(map, k) * block_numbers(&mine) * real;
    }
    return all_to_all_begin(x.m->spec.seq, COMM_CARRY, x.lane->send, send_at, x.lane->recv, recv_at, &x.lane->pending);
}

struct scattered {
    const struct shard_map *map;
    struct tensor entering; /* of all ranges, by owner: rows of my block */
    int64_t rows;
};

static struct tensor everyone(void *arg, const struct token_range *t) {
    const struct scattered *x = arg;
    return tensor_rows(x->entering, (x->map->mine[t->rank] + t->index) * x->rows, x->rows);
}

static enum status send_home(struct step *s, struct carry *c, struct scan *x, struct tensor entering, int64_t rows) {
    const struct shard_map *map = x->m->spec.map;
    const int P = map->spec.n_ranks;
    const int64_t real = dtype_bytes(x->m->spec.real);
    int64_t *send_at = x->m->at, *recv_at = x->m->at + P + 1;
    for (int k = 0; k <= P; k++) {
        send_at[k] = map->mine[k] * rows * x->N * real;
        recv_at[k] = k * x->M / P * x->R * x->N * real;
    }
    TRY(all_to_all_begin(x->m->spec.seq, COMM_CARRY, entering.data, send_at, x->lane->send, recv_at,
                         &x->lane->pending));
    TRY(comm_end(x->m->spec.seq, &x->lane->pending));
    for (int k = 0; k < P; k++) {
        const struct block b = block_of(x, k);
        const struct tensor from = tensor_2d(x->lane->send + recv_at[k], x->m->spec.real, x->R * b.rows, x->N);
        for (int64_t r = 0; r < x->R; r++) {
            const struct tensor to = tensor_rows(range_view(c->entering, r, x->M, x->N), b.begin, b.rows);
            TRY(rows_copy(s, tensor_rows(from, r * b.rows, b.rows), to));
        }
    }
    return OK;
}

enum status scan_end(struct step *s, struct carry *c) {
    struct scan x = scan_of(s, c);
    const struct shard_map *map = x.m->spec.map;
    const struct block mine = block_of(&x, x.m->me);
    TRY(comm_end(x.m->spec.seq, &x.lane->pending));
    struct scattered out = {.map = map, .rows = mine.rows};
    out.entering = tensor_2d(x.lane->fold, x.m->spec.real, map->n_ranges * mine.rows, x.N);
    const struct prefixes p = {.block = mine,
                               .to = c->to,
                               .all = tensor_2d(x.lane->recv, x.m->spec.real, map->n_ranges, block_numbers(&mine)),
                               .memory = x.lane->fold + tensor_bytes(out.entering),
                               .place = everyone,
                               .arg = &out};
    TRY(block_prefixes(s, &p));
    return send_home(s, c, &x, out.entering, mine.rows);
}
