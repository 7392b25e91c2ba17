/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/affine/affine.h"
#include "parallel/carry_fold.h"

/* The affine carry: out = decay in + state, a row of decay for each head.  state is (R, H, P, N), decay (R, H),
 * log_rate (H, P N) or absent. */
struct sizes {
    int64_t H, PN, each; /* each: numbers of one summary as gathered, decays first */
};

static struct sizes sizes_of(const struct carry *c) {
    struct sizes z = {.H = c->decay.shape[1]};
    z.PN = c->state.shape[1] * c->state.shape[2] * c->state.shape[3] / z.H;
    z.each = z.H + z.H * z.PN;
    return z;
}

/* ---- gather: every rank has the summaries that stand before its ranges, and folds them itself ---- */

/* Has rank `reader` a range behind t? */
static bool serves(const struct shard_map *map, const struct token_range *t, int reader, enum carry_to to) {
    const int64_t z = shard_map_ranges(map, reader) / map->spec.n_sequences;
    if (z == 0) return false;
    const struct token_range *last = shard_map_range(map, reader, t->sequence * z + (to == CARRY_FORWARD ? z - 1 : 0));
    return to == CARRY_FORWARD ? last > t : last < t;
}

enum status gather_begin(struct step *s, struct carry *c) {
    struct seams_mesh *m = mesh_of(s);
    const struct sizes z = sizes_of(c);
    const struct shard_map *map = m->spec.map;
    const int P = map->spec.n_ranks;
    const int64_t R = shard_map_ranges(map, m->me), bytes = z.each * dtype_bytes(c->state.dtype);
    struct lane *lane = &m->lane[c->id];
    const struct tensor mine = tensor_like(c->state, lane->recv + map->mine[m->me] * bytes, R, z.each);
    TRY(rows_copy(s, tensor_like(c->decay, c->decay.data, R, z.H), tensor_cols(mine, 0, z.H)));
    TRY(rows_copy(s, tensor_like(c->state, c->state.data, R, z.H * z.PN), tensor_cols(mine, z.H, z.H * z.PN)));
    list_clear(m);
    for (int k = 1; k < P; k++) {
        const int r = (m->me + k) % P;
        struct trip trip = {.bytes = bytes, .to = c->to, .travels = serves};
        trip.owner = m->me, trip.peer = r, trip.send = true, trip.base = mine.data;
        list_trip(m, &trip);
        trip.owner = r, trip.send = false, trip.base = lane->recv + map->mine[r] * bytes;
        list_trip(m, &trip);
    }
    return comm_begin(m->spec.seq, COMM_CARRY, m->list, m->n_list, &lane->pending);
}

struct gathered {
    const struct seams_mesh *m;
    const struct carry *c;
    int64_t rows, N;
};

/* Only my own ranges are wanted. */
static struct tensor mine_alone(void *arg, const struct token_range *t) {
    const struct gathered *g = arg;
    return t->rank == g->m->me ? range_view(g->c->entering, t->index, g->rows, g->N) : (struct tensor){0};
}

enum status gather_end(struct step *s, struct carry *c) {
    struct seams_mesh *m = mesh_of(s);
    const struct sizes z = sizes_of(c);
    struct lane *lane = &m->lane[c->id];
    TRY(comm_end(m->spec.seq, &lane->pending));
    struct gathered g = {.m = m, .c = c, .rows = c->state.shape[1] * c->state.shape[2], .N = c->state.shape[3]};
    const struct prefixes p = {.block = {.rows = g.rows, .per_head = g.rows / z.H, .N = g.N},
                               .to = c->to,
                               .all = tensor_like(c->state, lane->recv, m->spec.map->n_ranges, z.each),
                               .memory = lane->fold,
                               .log_rate = c->log_rate,
                               .place = mine_alone,
                               .arg = &g};
    return block_prefixes(s, &p);
}

/* ---- chain: each range waits for the one before, folds, and sends on ---- */

static enum status move_one(struct seams_mesh *m, struct lane *lane, struct transfer t) {
    TRY(comm_begin(m->spec.seq, COMM_CARRY, &t, 1, &lane->pending));
    return comm_end(m->spec.seq, &lane->pending);
}

static enum status chain_range(struct step *s, struct carry *c, const struct token_range *before,
                               const struct token_range *t, const struct token_range *behind) {
    struct seams_mesh *m = mesh_of(s);
    const struct sizes z = sizes_of(c);
    struct lane *lane = &m->lane[c->id];
    const struct tensor acc = tensor_like(c->state, lane->fold, z.H, z.PN);
    const struct tensor in = range_view(c->entering, t->index, z.H, z.PN);
    const int64_t bytes = tensor_bytes(in);
    if (!before) TRY(rows_zero(s, in));
    else if (before->rank == m->me) TRY(rows_copy(s, acc, in)); /* its range came right before this one */
    else TRY(move_one(m, lane, (struct transfer){.peer = before->rank, .recv = in.data, .recv_bytes = bytes}));
    if (!behind) return OK;
    const struct tensor decay = range_view(c->decay, t->index, 1, z.H);
    TRY(s->ctx->ops->affine_fwd(s->ctx, &(struct affine){.decay = tensor_like(decay, decay.data, z.H, 1),
                                                         .state = range_view(c->state, t->index, z.H, z.PN),
                                                         .in = in,
                                                         .out = acc,
                                                         .log_rate = c->log_rate}));
    if (behind->rank == m->me) return OK;
    return move_one(m, lane, (struct transfer){.peer = behind->rank, .send = acc.data, .send_bytes = bytes});
}

/* Ranges in one order on all ranks, so that the first unfinished one never waits for a later one. */
enum status chain_end(struct step *s, struct carry *c) {
    struct seams_mesh *m = mesh_of(s);
    const struct shard_map *map = m->spec.map;
    for (int64_t b = 0; b < map->spec.n_sequences; b++) {
        const struct token_range *before = NULL, *t = map_next(map, b, 0, c->to);
        for (int64_t i = 1; t; i++) {
            const struct token_range *behind = map_next(map, b, i, c->to);
            if (t->rank == m->me) TRY(chain_range(s, c, before, t, behind));
            before = t;
            t = behind;
        }
    }
    return OK;
}
