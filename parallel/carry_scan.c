/* SPDX-License-Identifier: Apache-2.0 */
#include "parallel/carry_fold.h"

/* The affine carry by two all-to-alls: the M = H P rows of a state are cut into P blocks; rank k folds block k of every
 * range, and sends each range what enters it.  The last range's summary and the first one's zeros stay at home. */
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
static enum status pack(struct step *s, const struct carry *c, const struct scan *x, const struct block *b, char *to) {
    const int64_t heads = block_heads(b);
    const struct tensor all = tensor_like(c->state, to, x->R, block_numbers(b));
    const struct tensor decay = tensor_like(c->decay, c->decay.data, x->R, x->H);
    const struct tensor state = tensor_like(c->state, c->state.data, x->R, x->M * x->N);
    if (b->rows == 0) return OK;
    TRY(rows_copy(s, tensor_cols(decay, block_first_head(b), heads), tensor_cols(all, 0, heads)));
    return rows_copy(s, tensor_cols(state, b->begin * x->N, b->rows * x->N), tensor_cols(all, heads, b->rows * x->N));
}

static bool summary_travels(const struct shard_map *map, const struct token_range *t, int reader, enum carry_to to) {
    (void)reader;
    return has_behind(map, t, to);
}

static bool entering_travels(const struct shard_map *map, const struct token_range *t, int reader, enum carry_to to) {
    (void)reader;
    return has_before(map, t, to);
}

enum status scan_begin(struct step *s, struct carry *c) {
    struct scan x = scan_of(s, c);
    struct seams_mesh *m = x.m;
    const struct shard_map *map = m->spec.map;
    const int P = map->spec.n_ranks;
    const int64_t real = dtype_bytes(c->state.dtype);
    const struct block mine = block_of(&x, m->me);
    const int64_t bytes = block_numbers(&mine) * real;
    char *at = x.lane->send;
    TRY(pack(s, c, &x, &mine, x.lane->recv + map->mine[m->me] * bytes));
    list_clear(m);
    for (int i = 1; i < P; i++) {
        const int k = (m->me + i) % P;
        const struct block b = block_of(&x, k);
        struct trip trip = {.peer = k, .to = c->to, .travels = summary_travels};
        TRY(pack(s, c, &x, &b, at));
        trip.owner = m->me, trip.send = true, trip.base = at, trip.bytes = block_numbers(&b) * real;
        list_trip(m, &trip);
        at += x.R * trip.bytes;
        trip.owner = k, trip.send = false, trip.base = x.lane->recv + map->mine[k] * bytes, trip.bytes = bytes;
        list_trip(m, &trip);
    }
    return comm_begin(m->spec.seq, COMM_CARRY, m->list, m->n_list, &x.lane->pending);
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

/* Blocks of what enters my ranges come back into lane.send, by rank. */
static enum status send_home(const struct carry *c, struct scan *x, struct tensor entering, int64_t rows) {
    struct seams_mesh *m = x->m;
    const struct shard_map *map = m->spec.map;
    const int P = map->spec.n_ranks;
    const int64_t row = x->N * dtype_bytes(c->state.dtype);
    list_clear(m);
    for (int i = 1; i < P; i++) {
        const int k = (m->me + i) % P;
        const struct block b = block_of(x, k);
        struct trip trip = {.peer = k, .to = c->to, .travels = entering_travels};
        trip.owner = k, trip.send = true, trip.bytes = rows * row;
        trip.base = (char *)entering.data + map->mine[k] * trip.bytes;
        list_trip(m, &trip);
        trip.owner = m->me, trip.send = false, trip.bytes = b.rows * row;
        trip.base = x->lane->send + b.begin * x->R * row;
        list_trip(m, &trip);
    }
    TRY(comm_begin(m->spec.seq, COMM_CARRY, m->list, m->n_list, &x->lane->pending));
    return comm_end(m->spec.seq, &x->lane->pending);
}

static enum status unpack(struct step *s, struct carry *c, struct scan *x, struct tensor entering) {
    const struct shard_map *map = x->m->spec.map;
    for (int k = 0; k < map->spec.n_ranks; k++) {
        const struct block b = block_of(x, k);
        struct tensor from = tensor_like(entering, x->lane->send + b.begin * x->R * x->N * dtype_bytes(entering.dtype),
                                         x->R * b.rows, x->N);
        if (k == x->m->me) from = tensor_rows(entering, map->mine[k] * b.rows, x->R * b.rows);
        for (int64_t r = 0; r < x->R; r++) {
            const struct tensor to = tensor_rows(range_view(c->entering, r, x->M, x->N), b.begin, b.rows);
            if (!has_before(map, shard_map_range(map, x->m->me, r), c->to)) TRY(rows_zero(s, to));
            else TRY(rows_copy(s, tensor_rows(from, r * b.rows, b.rows), to));
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
    out.entering = tensor_like(c->state, x.lane->fold, map->n_ranges * mine.rows, x.N);
    const struct prefixes p = {.block = mine,
                               .to = c->to,
                               .all = tensor_like(c->state, x.lane->recv, map->n_ranges, block_numbers(&mine)),
                               .memory = x.lane->fold + tensor_bytes(out.entering),
                               .log_rate = c->log_rate,
                               .place = everyone,
                               .arg = &out};
    TRY(block_prefixes(s, &p));
    TRY(send_home(c, &x, out.entering, mine.rows));
    return unpack(s, c, &x, out.entering);
}
