/* SPDX-License-Identifier: Apache-2.0 */
#include "parallel/inside.h"

/* last(k): the k tokens before a range, wherever they are.  state is (R, k, C), a range's own last rows right-aligned;
 * entering (R, k, C) holds the rows of tokens begin - k .. begin - 1, zero before the sequence.  Backward the same rows
 * travel home, where those of several later ranges are added in the order of these ranges. */
struct overlap {
    const struct token_range *from, *to;
    int64_t rows, tail_row, enter_row; /* rows; where in from's state, and in to's entering */
};

/* The overlap of range number i, as a source, with what range number j > i of the same sequence needs. */
static bool overlap_of(const struct shard_map *map, int64_t i, int64_t j, int64_t k, struct overlap *o) {
    const struct token_range *from = &map->range[i], *to = &map->range[j];
    const int64_t first = most(most(to->begin - k, 0), from->begin);
    *o = (struct overlap){.from = from, .to = to, .rows = from->end - first};
    o->tail_row = k - (from->end - first);
    o->enter_row = k - (to->begin - first);
    return from->sequence == to->sequence && o->rows > 0 && to->begin < to->end;
}

/* Calls visit for every overlap that this rank has a part in, in the order of destinations, then sources. */
static enum status each_overlap(struct step *s, struct carry *c, int64_t k,
                                enum status (*visit)(struct step *, struct carry *, const struct overlap *)) {
    struct seams_mesh *m = mesh_of(s);
    const struct shard_map *map = m->spec.map;
    for (int64_t j = 0; j < map->n_ranges; j++) {
        for (int64_t i = j - 1; i >= 0 && map->range[i].sequence == map->range[j].sequence; i--) {
            struct overlap o;
            if (map->range[j].begin - map->range[i].end >= k) break;
            if (!overlap_of(map, i, j, k, &o)) continue;
            if (o.from->rank == m->me || o.to->rank == m->me) TRY(visit(s, c, &o));
        }
    }
    return OK;
}

int64_t last_back_rows(const struct shard_map *map, int me, int64_t k) {
    int64_t rows = 0;
    for (int64_t j = 0; j < map->n_ranges; j++)
        for (int64_t i = j - 1; i >= 0 && map->range[i].sequence == map->range[j].sequence; i--) {
            struct overlap o;
            if (map->range[j].begin - map->range[i].end >= k) break;
            if (overlap_of(map, i, j, k, &o) && o.from->rank == me) rows += o.rows;
        }
    return rows;
}

static struct tensor rows_of(struct tensor t, int64_t index, int64_t row, int64_t n) {
    return tensor_rows(range_view(t, index, t.shape[1], t.shape[2]), row, n);
}

static enum status list_forward(struct step *s, struct carry *c, const struct overlap *o) {
    struct seams_mesh *m = mesh_of(s);
    struct tensor tail = {0}, enter = {0};
    if (o->from->rank == m->me) tail = rows_of(c->state, o->from->index, o->tail_row, o->rows);
    if (o->to->rank == m->me) enter = rows_of(c->entering, o->to->index, o->enter_row, o->rows);
    if (tensor_has(tail) && tensor_has(enter)) return rows_copy(s, tail, enter);
    if (tensor_has(tail)) list_send(m, o->to->rank, tail.data, tensor_bytes(tail));
    else list_recv(m, o->from->rank, enter.data, tensor_bytes(enter));
    return OK;
}

/* On the way back state holds the gradients of what entered; they land in recv, in the order of overlaps. */
static enum status list_backward(struct step *s, struct carry *c, const struct overlap *o) {
    struct seams_mesh *m = mesh_of(s);
    struct lane *lane = &m->lane[c->id];
    struct tensor enter = {0}, home = {0};
    if (o->to->rank == m->me) enter = rows_of(c->state, o->to->index, o->enter_row, o->rows);
    if (o->from->rank == m->me) {
        home = tensor_like(c->state, lane->recv + m->home_at, o->rows, c->state.shape[2]);
        m->home_at += tensor_bytes(home);
    }
    if (tensor_has(enter) && tensor_has(home)) return rows_copy(s, enter, home);
    if (tensor_has(enter)) list_send(m, o->from->rank, enter.data, tensor_bytes(enter));
    else list_recv(m, o->to->rank, home.data, tensor_bytes(home));
    return OK;
}

static enum status add_home(struct step *s, struct carry *c, const struct overlap *o) {
    struct seams_mesh *m = mesh_of(s);
    if (o->from->rank != m->me) return OK;
    struct tensor home = tensor_like(c->state, m->lane[c->id].recv + m->home_at, o->rows, c->state.shape[2]);
    m->home_at += tensor_bytes(home);
    return rows_add(s, home, rows_of(c->entering, o->from->index, o->tail_row, o->rows));
}

enum status last_begin(struct step *s, struct carry *c) {
    struct seams_mesh *m = mesh_of(s);
    const int64_t k = c->state.shape[1], R = c->entering.shape[0];
    TRY(rows_zero(s, tensor_like(c->entering, c->entering.data, R * k, c->entering.shape[2])));
    list_clear(m);
    m->home_at = 0;
    TRY(each_overlap(s, c, k, c->to == CARRY_FORWARD ? list_forward : list_backward));
    return comm_begin(m->spec.seq, COMM_HALO, m->list, m->n_list, &m->lane[c->id].pending);
}

enum status last_end(struct step *s, struct carry *c) {
    struct seams_mesh *m = mesh_of(s);
    TRY(comm_end(m->spec.seq, &m->lane[c->id].pending));
    if (c->to == CARRY_FORWARD) return OK;
    m->home_at = 0;
    return each_overlap(s, c, c->state.shape[1], add_home);
}
