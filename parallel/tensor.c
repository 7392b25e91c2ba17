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

/* ---- by parts: the rows of each owner, while those of another travel ---- */

/* Lists of an exchange: one for each other member, or one for all of them. */
struct lists {
    bool parts;
    int n, each; /* list i has the members i each + 1 to (i + 1) each steps after mine, or before */
};
static struct lists lists_of(const struct seams_mesh *m, const struct row_work *work) {
    const int others = m->spec.tensor->size - 1;
    const int64_t rows = m->spec.map->tokens[m->me], parts = (others + 1) * shard_map_ranges(m->spec.map, m->me);
    const bool large = m->spec.part_rows > 0 && rows >= m->spec.part_rows * parts;
    if (!work || work->rest || !large || m->spec.map->spec.segments) return (struct lists){false, 1, others};
    return (struct lists){true, others, 1};
}

/* The work on the rows that member `at` owns. */
static enum status work_on(struct step *s, const struct row_work *work, int at) {
    const struct seams_mesh *m = mesh_of(s);
    for (int64_t r = 0; r < shard_map_ranges(m->spec.map, m->me); r++) {
        const struct own own = rows_of(m, r, at);
        if (own.rows > 0) TRY(work->rows(s, work->arg, own.row, own.rows));
    }
    return OK;
}

static enum status end_list(struct seams_mesh *m, int i) { return list_end(m->spec.tensor, &m->crossing[i]); }

/* Own rows go to the members of list i, theirs come into their places. */
static enum status enter_begin(struct step *s, struct lists l, int i, struct tensor own, struct tensor all) {
    struct seams_mesh *m = mesh_of(s);
    struct comm *c = m->spec.tensor;
    int64_t at = 0;
    list_clear(m);
    for (int64_t r = 0; r < shard_map_ranges(m->spec.map, m->me); r++) {
        const struct own mine = rows_of(m, r, c->index);
        for (int k = i * l.each + 1; k <= (i + 1) * l.each; k++) {
            const int peer = after(c, k), from = after(c, c->size - k);
            const struct own theirs = rows_of(m, r, from);
            list_send(m, peer, at_row(own, at), row_bytes(own, mine.rows));
            list_recv(m, from, at_row(all, theirs.row), row_bytes(all, theirs.rows));
        }
        at += mine.rows;
    }
    return list_begin(s, c, COMM_TENSOR, &m->crossing[i]);
}

static enum status copy_own(struct step *s, struct tensor own, struct tensor all) {
    const struct seams_mesh *m = mesh_of(s);
    int64_t at = 0;
    for (int64_t r = 0; r < shard_map_ranges(m->spec.map, m->me); r++) {
        const struct own mine = rows_of(m, r, m->spec.tensor->index);
        TRY(rows_copy(s, tensor_rows(own, at, mine.rows), tensor_rows(all, mine.row, mine.rows)));
        at += mine.rows;
    }
    return OK;
}

enum status tensor_enter(struct step *s, struct tensor own, struct tensor all, const struct row_work *work) {
    struct seams_mesh *m = mesh_of(s);
    const struct comm *c = m->spec.tensor;
    if (c->size == 1) return row_work_all(s, all, work);
    ASSERT(tensor_packed(own) && tensor_packed(all));
    const struct lists l = lists_of(m, work);
    for (int i = 0; i < l.n; i++) TRY(enter_begin(s, l, i, own, all));
    TRY(copy_own(s, own, all));
    if (!l.parts) {
        TRY(end_list(m, 0));
        return row_work_all(s, all, work);
    }
    TRY(work_on(s, work, c->index));
    for (int i = 0; i < l.n; i++) {
        TRY(end_list(m, i));
        TRY(work_on(s, work, after(c, c->size - i - 1)));
    }
    return OK;
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

/* Rows go to the members of list i, who own them; what those have of mine comes. */
static enum status leave_begin(struct step *s, struct lists l, int i, struct tensor all, struct tensor own) {
    struct seams_mesh *m = mesh_of(s);
    struct comm *c = m->spec.tensor;
    int64_t at = 0;
    list_clear(m);
    for (int64_t r = 0; r < shard_map_ranges(m->spec.map, m->me); r++) {
        const struct own mine = rows_of(m, r, c->index);
        for (int k = i * l.each + 1; k <= (i + 1) * l.each; k++) {
            const int peer = after(c, k), from = after(c, c->size - k);
            const struct own theirs = rows_of(m, r, peer);
            list_send(m, peer, at_row(all, theirs.row), row_bytes(all, theirs.rows));
            list_recv(m, from, at_row(came(m, own, from), at), row_bytes(own, mine.rows));
        }
        at += mine.rows;
    }
    return list_begin(s, c, COMM_TENSOR, &m->crossing[i]);
}

/* Others' rows first, own rows while the last of them travel. */
enum status tensor_leave(struct step *s, struct tensor all, struct tensor own, const struct row_work *work) {
    struct seams_mesh *m = mesh_of(s);
    const struct comm *c = m->spec.tensor;
    if (c->size == 1) return row_work_all(s, all, work);
    ASSERT(tensor_packed(own) && tensor_packed(all));
    ASSERT(m->own_bytes >= (c->size - 1) * tensor_bytes(own));
    const struct lists l = lists_of(m, work);
    if (work && !l.parts) TRY(work->rows(s, work->arg, 0, all.shape[0]));
    for (int i = 0; i < l.n; i++) {
        if (l.parts) TRY(work_on(s, work, after(c, i + 1)));
        TRY(leave_begin(s, l, i, all, own));
    }
    if (l.parts) TRY(work_on(s, work, c->index));
    if (work && work->rest) TRY(work->rest(s, work->arg));
    for (int i = 0; i < l.n; i++) TRY(end_list(m, i));
    return add_up(s, all, own);
}
