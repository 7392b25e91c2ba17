/* SPDX-License-Identifier: Apache-2.0 */
#include "parallel/inside.h"

/* Rows that the tensor axis moves between its two forms: all rows of a rank of seq, and each rank's own, which are its
 * share of every range.  Own rows of all ranks together are all rows, once. */

struct own own_share(const struct shard_map *map, int seq, int64_t range, int n, int at) {
    const struct token_range *t = shard_map_range(map, seq, range);
    const int64_t rows = t->end - t->begin, each = rows / n, more = rows % n;
    return (struct own){.row = t->row + at * each + least(at, more), .rows = each + (at < more)};
}

static struct own rows_of(const struct seams_mesh *m, int64_t range, int at) {
    return own_share(m->spec.map, m->me, range, m->spec.tensor->size, at);
}

/* Member k steps after mine. */
static int after(const struct comm *c, int k) { return (c->index + k) % c->size; }

static char *at_row(struct tensor t, int64_t row) { return (char *)t.data + row * t.pitch * dtype_bytes(t.dtype); }

static int64_t row_bytes(struct tensor t, int64_t rows) { return rows * t.pitch * dtype_bytes(t.dtype); }

/* Own rows go to all others, theirs come into their places. */
enum status tensor_enter(struct step *s, struct tensor own, struct tensor all) {
    struct seams_mesh *m = mesh_of(s);
    struct comm *c = m->spec.tensor;
    struct pending p = {0};
    int64_t at = 0;
    if (c->size == 1) return OK;
    ASSERT(tensor_packed(own) && tensor_packed(all));
    list_clear(m);
    for (int64_t r = 0; r < shard_map_ranges(m->spec.map, m->me); r++) {
        const struct own mine = rows_of(m, r, c->index);
        for (int k = 1; k < c->size; k++) {
            const int peer = after(c, k), from = after(c, c->size - k);
            const struct own theirs = rows_of(m, r, from);
            list_send(m, peer, at_row(own, at), row_bytes(own, mine.rows));
            list_recv(m, from, at_row(all, theirs.row), row_bytes(all, theirs.rows));
        }
        TRY(rows_copy(s, tensor_rows(own, at, mine.rows), tensor_rows(all, mine.row, mine.rows)));
        at += mine.rows;
    }
    TRY(list_begin(s, c, COMM_TENSOR, &p));
    return list_end(c, &p);
}

/* What rank `from` has of my own rows, as they come. */
static struct tensor came(const struct seams_mesh *m, struct tensor own, int from) {
    const int slot = from - (from > m->spec.tensor->index);
    return tensor_like(own, m->own + slot * tensor_bytes(own), own.shape[0], own.shape[1]);
}

/* ((x0 + x1) + x2) + ...: the same on whichever rank. */
static enum status add_up(struct step *s, struct tensor all, struct tensor own) {
    struct seams_mesh *m = mesh_of(s);
    for (int k = 0; k < m->spec.tensor->size; k++) {
        int64_t at = 0;
        if (k != m->spec.tensor->index) {
            TRY(k ? rows_add(s, came(m, own, k), own) : rows_copy(s, came(m, own, k), own));
            continue;
        }
        for (int64_t r = 0; r < shard_map_ranges(m->spec.map, m->me); r++) {
            const struct own mine = rows_of(m, r, k);
            const struct tensor x = tensor_rows(all, mine.row, mine.rows), y = tensor_rows(own, at, mine.rows);
            TRY(k ? rows_add(s, x, y) : rows_copy(s, x, y));
            at += mine.rows;
        }
    }
    return OK;
}

enum status tensor_leave(struct step *s, struct tensor all, struct tensor own) {
    struct seams_mesh *m = mesh_of(s);
    struct comm *c = m->spec.tensor;
    struct pending p = {0};
    int64_t at = 0;
    if (c->size == 1) return OK;
    ASSERT(tensor_packed(own) && tensor_packed(all));
    ASSERT(m->own_bytes >= (c->size - 1) * tensor_bytes(own));
    list_clear(m);
    for (int64_t r = 0; r < shard_map_ranges(m->spec.map, m->me); r++) {
        const struct own mine = rows_of(m, r, c->index);
        for (int k = 1; k < c->size; k++) {
            const int peer = after(c, k), from = after(c, c->size - k);
            const struct own theirs = rows_of(m, r, peer);
            list_send(m, peer, at_row(all, theirs.row), row_bytes(all, theirs.rows));
            list_recv(m, from, at_row(came(m, own, from), at), row_bytes(own, mine.rows));
        }
        at += mine.rows;
    }
    TRY(list_begin(s, c, COMM_TENSOR, &p));
    TRY(list_end(c, &p));
    return add_up(s, all, own);
}
