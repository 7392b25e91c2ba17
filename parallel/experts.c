/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/space.h"
#include "parallel/inside.h"

/* Tokens to their experts and back.  Every rank of the axis knows how many rows of each section of each rank go to each
 * expert, so all of them cut the same rounds and list the same messages, and nothing more is asked. */

static int64_t modulo(int64_t a, int64_t n) { return (a % n + n) % n; }

/* Neighbours on data x seq: which rank of seq member i is. */
static int member_seq(const struct shard_map *map, int seq, int index, int i) {
    return (int)modulo(seq - index + i, map->spec.n_ranks);
}

static int64_t sections_of(const struct shard_map *map, int seq) {
    return map->spec.segments ? shard_map_ranges(map, seq) : 1;
}

struct guests experts_guests(const struct shard_map *map, int seq, int n_ranks, int index, double room) {
    struct guests g = {.n_ranks = n_ranks, .index = index, .room = map->spec.segments ? 0.0 : room};
    for (int i = 0; i < n_ranks; i++) {
        const int member = member_seq(map, seq, index, i);
        g.tokens += map->tokens[member];
        g.sections += sections_of(map, member);
    }
    return g;
}

int experts_transfers(const struct shard_map *map, int seq, const struct guests *g) {
    return (int)(g->n_ranks * sections_of(map, seq) + g->sections);
}

static int64_t member_sections(const struct seams_mesh *m, int i) {
    const struct comm *c = m->spec.expert;
    return sections_of(m->spec.map, member_seq(m->spec.map, m->me, c->index, i));
}

/* ---- tables: a layer's offsets of all ranks, (sections of all, E + 1) ---- */

static int64_t *table_of(const struct seams_mesh *m, const struct layer *l) {
    ASSERT(l->use < m->spec.n_layers);
    return m->table + l->use * m->table_numbers;
}

/* Member i's rows in the table begin at section at[i]. */
static void sections_at(const struct seams_mesh *m, int64_t *at) {
    at[0] = 0;
    for (int i = 0; i < m->spec.expert->size; i++) at[i + 1] = at[i] + member_sections(m, i);
}

/* What one section of member `from` has for the experts of member `to`. */
struct bundle {
    int from, to;
    const int64_t *offset; /* its rows among those of `from`, by the experts of `to` */
    int64_t n, pos;        /* how many; where they stand among all guests of `to`    */
};
struct visit {
    const struct seams_mesh *m;
    const struct layer *l;
    enum status (*fn)(void *arg, const struct bundle *b);
    void *arg;
};

/* All bundles for one rank, in the order of its guests; how many guests it has in all. */
static int64_t visit(const struct visit *v, int to) {
    const int64_t E = v->l->n_experts, here = E / v->m->spec.expert->size;
    const int64_t *row = table_of(v->m, v->l);
    int64_t pos = 0;
    for (int i = 0; i < v->m->spec.expert->size; i++)
        for (int64_t s = 0; s < member_sections(v->m, i); s++, row += E + 1) {
            const int64_t *o = row + to * here;
            const struct bundle b = {.from = i, .to = to, .offset = o, .n = o[here] - o[0], .pos = pos};
            if (v->fn) v->fn(v->arg, &b);
            pos += b.n;
        }
    return pos;
}

/* ---- counts ---- */

/* On paper no token chooses, and a quiet seam does not ask: every expert gets as many of each section as every other.
 */
static void even_counts(const struct seams_mesh *m, const struct layer *l, int64_t top_k) {
    const struct shard_map *map = m->spec.map;
    const int64_t E = l->n_experts;
    int64_t *row = table_of(m, l);
    for (int i = 0; i < m->spec.expert->size; i++) {
        const int seq = member_seq(map, m->me, m->spec.expert->index, i);
        int64_t first = 0;
        for (int64_t k = 0; k < member_sections(m, i); k++, row += E + 1) {
            const struct token_range *t = map->spec.segments ? shard_map_range(map, seq, k) : NULL;
            const int64_t rows = (t ? t->end - t->begin : map->tokens[seq]) * top_k;
            for (int64_t e = 0; e <= E; e++) row[e] = first + rows * e / E;
            first += rows;
        }
    }
}

static enum status counts_begin(struct step *s, const struct layer *l, const struct routed *r) {
    struct seams_mesh *m = mesh_of(s);
    int64_t first = 0;
    const struct tensor from = r->home.offset;
    ASSERT(from.shape[0] == member_sections(m, m->spec.expert->index) && from.shape[1] == l->n_experts + 1);
    if (s->ctx->paper || is_quiet(m->quiet, COMM_EXPERT)) {
        even_counts(m, l, r->home.x.shape[0] / most(1, m->spec.map->tokens[m->me]));
        return OK;
    }
    for (int i = 0; i < m->spec.expert->index; i++) first += member_sections(m, i);
    int64_t *const to = table_of(m, l) + first * from.shape[1];
    for (int64_t i = 0; i < from.shape[0]; i++)
        TRY(space_send(s->ctx, to + i * from.shape[1], tensor_rows(from, i, 1).data, from.shape[1] * 8));
    return space_mark(s->ctx);
}

struct fill_offsets {
    int64_t *out, here, first, most; /* of one round: its first guest; its room */
};

static enum status fill_one(void *arg, const struct bundle *b) {
    struct fill_offsets *f = arg;
    for (int64_t e = 0; e <= f->here; e++)
        *f->out++ = most(0, least(f->most, b->pos + b->offset[e] - b->offset[0] - f->first));
    return OK;
}

/* My guests' offsets, round by round. */
static enum status send_offsets(struct step *s, const struct layer *l, struct routed *r) {
    struct seams_mesh *m = mesh_of(s);
    const int64_t here = l->n_experts / m->spec.expert->size, each = r->guest.offset.shape[0] * (here + 1);
    const bool apart = m->spec.space == DEVICE;
    int64_t *const out = apart ? m->offsets + l->use * m->spec.routed.offsets : r->offsets.data;
    ASSERT(r->n_rounds * each <= tensor_count(r->offsets));
    for (int64_t i = 0; i < r->n_rounds; i++) {
        struct fill_offsets f = {out + i * each, here, i * r->rows_most, r->rows_most};
        visit(&(struct visit){m, l, fill_one, &f}, m->spec.expert->index);
    }
    return space_send(s->ctx, r->offsets.data, out, r->n_rounds * each * 8);
}

/* Rounds: as many as the rank with the most guests needs. */
static enum status counts_end(struct step *s, const struct layer *l, struct routed *r) {
    struct seams_mesh *m = mesh_of(s);
    struct comm *c = m->spec.counts;
    const int64_t row = (l->n_experts + 1) * 8;
    struct pending p = {0};
    sections_at(m, m->sections);
    for (int i = 0; i <= c->size; i++) m->sections[i] *= row;
    if (!is_quiet(m->quiet, COMM_EXPERT)) {
        char *const table = (char *)table_of(m, l);
        TRY(space_reach(s->ctx));
        TRY(all_gather_begin(c, COMM_CONTROL, table + m->sections[c->index], table, m->sections, &p));
        TRY(comm_end(c, &p));
    }
    r->n_rounds = 1;
    for (int to = 0; to < c->size; to++) {
        const int64_t n = visit(&(struct visit){.m = m, .l = l}, to);
        r->n_rounds = most(r->n_rounds, (n + r->rows_most - 1) / r->rows_most);
    }
    return send_offsets(s, l, r);
}

/* ---- rows ---- */

struct listing {
    struct seams_mesh *m;
    const struct routed *r;
    struct tensor home, guest;
    bool out; /* from home to guests; else back */
};

/* What of a bundle travels in this round. */
static enum status list_bundle(void *arg, const struct bundle *b) {
    const struct listing *j = arg;
    struct seams_mesh *m = j->m;
    const int me = m->spec.expert->index;
    const int64_t pos = b->pos - j->r->round * j->r->rows_most;
    const int64_t from = most(0, pos), to = least(j->r->rows_most, pos + b->n);
    if (from >= to || (b->from != me && b->to != me)) return OK;
    const int64_t row = j->home.pitch * dtype_bytes(j->home.dtype), bytes = (to - from) * row;
    char *const home = (char *)j->home.data + (b->offset[0] + from - pos) * row;
    char *const guest = (char *)j->guest.data + from * row;
    if (b->from == b->to) list_own(m, j->out ? home : guest, j->out ? guest : home, bytes);
    else if ((b->from == me) == j->out) list_send(m, j->out ? b->to : b->from, j->out ? home : guest, bytes);
    else list_recv(m, j->out ? b->from : b->to, j->out ? guest : home, bytes);
    return OK;
}

static enum status rows_begin(struct step *s, const struct layer *l, struct routed *r, struct listing *j) {
    struct seams_mesh *m = mesh_of(s);
    struct comm *c = m->spec.expert;
    const struct visit v = {m, l, list_bundle, j};
    ASSERT(tensor_packed(j->home) && tensor_packed(j->guest) && j->home.pitch == j->guest.pitch);
    j->m = m;
    j->r = r;
    list_clear(m);
    for (int k = 0; k < c->size; k++) {
        const int to = (c->index + k) % c->size;
        const int64_t n = visit(&v, to) - r->round * r->rows_most;
        if (to == c->index) r->n_rows = most(0, least(r->rows_most, n));
    }
    return list_begin(s, c, COMM_EXPERT, &m->routed);
}

enum status experts_begin(struct step *s, const struct layer *l, struct routed *r, enum routed_when when) {
    const struct routed_side *h = &r->home, *g = &r->guest;
    switch (when) {
    case ROUTED_COUNTS:
        return counts_begin(s, l, r);
    case DISPATCH_X:
        return rows_begin(s, l, r, &(struct listing){.home = h->x, .guest = g->x, .out = true});
    case COMBINE_Y:
        return rows_begin(s, l, r, &(struct listing){.home = h->y, .guest = g->y});
    case DISPATCH_DY:
        return rows_begin(s, l, r, &(struct listing){.home = h->dy, .guest = g->dy, .out = true});
    case COMBINE_DX:
        return rows_begin(s, l, r, &(struct listing){.home = h->dx, .guest = g->dx});
    }
    return OK;
}

enum status experts_end(struct step *s, const struct layer *l, struct routed *r, enum routed_when when) {
    if (when == ROUTED_COUNTS) return counts_end(s, l, r);
    return list_end(mesh_of(s)->spec.expert, &mesh_of(s)->routed);
}
