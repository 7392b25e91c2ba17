/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/space.h"
#include "parallel/inside.h"

/* Attention with the keys gathered: a rank keeps its queries and receives the keys and values of earlier tokens that
 * they may see, straight into the wide rows.  Backward their gradients go home, where they are added to the owner's own
 * in the order of ranks. */

/* The first token that range t sees: within the window, and of the document that its first token belongs to. */
static int64_t first_seen(const struct shard_map *map, const int64_t *pos, const struct token_range *t,
                          int64_t window) {
    const int64_t first = window > 0 ? most(0, t->begin - window + 1) : 0;
    return pos && t->begin < t->end ? most(first, t->begin - pos[wide_row(map, t)]) : first;
}

/* Rows [first, end) of a source range that rank `to` needs, by its earliest range behind it; false: none.  In exact
 * mode whole ranges travel, so that every rank's part of a gradient has the same rows. */
static bool needed(const struct shard_map *map, const int64_t *pos, const struct token_range *from, int to,
                   int64_t window, int64_t *first) {
    *first = from->end;
    for (int64_t i = 0; i < shard_map_ranges(map, to); i++) {
        const struct token_range *t = shard_map_range(map, to, i);
        if (t->sequence != from->sequence || t->begin < from->end || t->begin == t->end) continue;
        const int64_t seen = map->spec.segments ? 0 : first_seen(map, pos, t, window);
        *first = least(*first, most(from->begin, seen));
    }
    return *first < from->end;
}

int64_t keys_back_rows(const struct shard_map *map, int me) {
    int64_t rows = 0, first;
    for (int64_t i = 0; i < shard_map_ranges(map, me); i++) {
        const struct token_range *t = shard_map_range(map, me, i);
        for (int r = 0; r < map->spec.n_ranks; r++)
            if (r != me && needed(map, NULL, t, r, 0, &first)) rows += t->end - first;
    }
    return rows;
}

static struct tensor wide_rows(const struct shard_map *map, struct tensor wide, const struct token_range *t,
                               int64_t first) {
    return tensor_rows(wide, wide_row(map, t) + (first - t->begin), t->end - first);
}

/* My own k | v rows at their places among all. */
static enum status place_own(struct step *s, struct attend *a) {
    const struct seams_mesh *m = mesh_of(s);
    const struct shard_map *map = m->spec.map;
    const int64_t k = a->mine.k.shape[1];
    for (int64_t i = 0; i < shard_map_ranges(map, m->me); i++) {
        const struct token_range *t = shard_map_range(map, m->me, i);
        const int64_t n = t->end - t->begin;
        const struct tensor to = wide_rows(map, a->wide[WIDE_QKV], t, t->begin);
        TRY(rows_copy(s, tensor_rows(a->mine.k, t->row, n), tensor_cols(to, 0, k)));
        TRY(rows_copy(s, tensor_rows(a->mine.v, t->row, n), tensor_cols(to, k, k)));
    }
    return OK;
}

/* The keys that each of my ranges sees: up to its own last one. */
static void list_keys(const struct seams_mesh *m, int64_t window, int64_t *keys) {
    const struct shard_map *map = m->spec.map;
    const int64_t R = shard_map_ranges(map, m->me), *pos = map->spec.segments ? NULL : m->spec.pos;
    for (int64_t i = 0; i < R; i++) {
        const struct token_range *t = shard_map_range(map, m->me, i);
        keys[2 * i] = t->sequence * map->spec.tokens + first_seen(map, pos, t, window);
        keys[2 * i + 1] = t->sequence * map->spec.tokens + t->end;
    }
}

/* Listed once a pass for each window, where the ops read them. */
static enum status fill_keys(struct step *s, struct attend *a) {
    struct seams_mesh *m = mesh_of(s);
    const int64_t R = shard_map_ranges(m->spec.map, m->me);
    int i = 0;
    while (i < m->n_windows && m->window[i] != a->core.window) i++;
    FAIL_UNLESS(
        i < WINDOWS_MAX, ERR_CONFIG,
        "attention layers have more than %d different windows, which mesh.seq with keys gathered has no room for",
        WINDOWS_MAX);
    int64_t *keys = m->keys + 2 * R * i;
    if (i == m->n_windows) {
        const bool apart = m->keys_host != m->keys;
        int64_t *host = m->keys_host + 2 * R * (i + (apart ? WINDOWS_MAX * (int)(m->n_passes % 2) : 0));
        list_keys(m, a->core.window, host);
        TRY(space_send(s->ctx, keys, host, R * 16));
        m->window[m->n_windows++] = a->core.window;
    }
    a->core.keys = tensor_2d(keys, I64, R, 2);
    a->core.keys.space = s->ctx->space;
    return OK;
}

static enum status send_keys(struct step *s, struct attend *a) {
    struct seams_mesh *m = mesh_of(s);
    const struct shard_map *map = m->spec.map;
    if (m->spec.real == BF16) TRY(rows_zero(s, a->wide[WIDE_QKV])); /* tiles hold rows that nobody sends me, too */
    TRY(place_own(s, a));
    list_clear(m);
    for (int64_t i = 0; i < map->n_ranges; i++) {
        const struct token_range *from = &map->range[i];
        int64_t first;
        if (from->rank != m->me) {
            if (!needed(map, m->spec.pos, from, m->me, a->core.window, &first)) continue;
            const struct tensor to = wide_rows(map, a->wide[WIDE_QKV], from, first);
            list_recv(m, from->rank, to.data, tensor_bytes(to));
            continue;
        }
        for (int r = 0; r < map->spec.n_ranks; r++) {
            if (r == m->me || !needed(map, m->spec.pos, from, r, a->core.window, &first)) continue;
            const struct tensor mine = wide_rows(map, a->wide[WIDE_QKV], from, first);
            list_send(m, r, mine.data, tensor_bytes(mine));
        }
    }
    return list_begin(s, m->spec.seq, COMM_KEYS, &m->attend.pending);
}

/* Gradients of others' keys go home; those of mine arrive in attend.recv, by range, then by rank. */
static enum status send_gradients(struct step *s, struct attend *a) {
    struct seams_mesh *m = mesh_of(s);
    const struct shard_map *map = m->spec.map;
    char *at = m->attend.recv;
    list_clear(m);
    for (int64_t i = 0; i < map->n_ranges; i++) {
        const struct token_range *from = &map->range[i];
        int64_t first;
        if (from->rank != m->me) {
            if (!needed(map, m->spec.pos, from, m->me, a->core.window, &first)) continue;
            const struct tensor mine = wide_rows(map, a->wide[WIDE_DQKV], from, first);
            list_send(m, from->rank, mine.data, tensor_bytes(mine));
            continue;
        }
        for (int r = 0; r < map->spec.n_ranks; r++) {
            if (r == m->me || !needed(map, m->spec.pos, from, r, a->core.window, &first)) continue;
            const int64_t bytes = tensor_bytes(wide_rows(map, a->wide[WIDE_DQKV], from, first));
            list_recv(m, r, at, bytes);
            at += bytes;
        }
    }
    return list_begin(s, m->spec.seq, COMM_KEYS, &m->attend.pending);
}

/* Parts of the gradient of my range t, by rank: mine lies in the wide rows, the others' behind each other at *at. */
static enum status add_parts(struct step *s, struct attend *a, const struct token_range *t, char **at) {
    struct seams_mesh *m = mesh_of(s);
    const struct shard_map *map = m->spec.map;
    int64_t first;
    for (int r = 0; r < map->spec.n_ranks; r++) {
        if (r == m->me || !needed(map, m->spec.pos, t, r, a->core.window, &first)) continue;
        const struct tensor home = wide_rows(map, a->wide[WIDE_DQKV], t, first);
        TRY(rows_add(s, tensor_like(home, *at, home.shape[0], home.shape[1]), home));
        *at += tensor_bytes(home);
    }
    return OK;
}

/* The same in the binary tree of ranks; ranks before mine have no part. */
static enum status add_parts_by_tree(struct step *s, struct attend *a, const struct token_range *t, char **at) {
    enum { RANKS_MAX = 4096 };
    struct seams_mesh *m = mesh_of(s);
    const struct shard_map *map = m->spec.map;
    const int P = map->spec.n_ranks;
    const struct tensor own = wide_rows(map, a->wide[WIDE_DQKV], t, t->begin);
    char *part[RANKS_MAX] = {0};
    int64_t first;
    ASSERT(P <= RANKS_MAX);
    part[m->me] = own.data;
    for (int r = 0; r < P; r++) {
        if (r == m->me || !needed(map, m->spec.pos, t, r, a->core.window, &first)) continue;
        part[r] = *at;
        *at += tensor_bytes(own);
    }
    for (int step = 1; step < P; step *= 2)
        for (int i = 0; i + step < P; i += 2 * step) {
            struct tensor left = own, right = own;
            left.data = part[i], right.data = part[i + step];
            if (left.data && right.data) TRY(rows_add(s, right, left));
            else if (right.data) part[i] = right.data;
        }
    if (part[0] == own.data) return OK;
    struct tensor root = own;
    root.data = part[0];
    return rows_copy(s, root, own);
}

static enum status add_gradients(struct step *s, struct attend *a) {
    struct seams_mesh *m = mesh_of(s);
    const struct shard_map *map = m->spec.map;
    const int64_t k = a->mine.k.shape[1];
    char *at = m->attend.recv;
    for (int64_t i = 0; i < shard_map_ranges(map, m->me); i++) {
        const struct token_range *t = shard_map_range(map, m->me, i);
        const struct tensor own = wide_rows(map, a->wide[WIDE_DQKV], t, t->begin);
        TRY(map->spec.segments ? add_parts_by_tree(s, a, t, &at) : add_parts(s, a, t, &at));
        TRY(rows_copy(s, tensor_cols(own, 0, k), tensor_rows(a->mine.dk, t->row, t->end - t->begin)));
        TRY(rows_copy(s, tensor_cols(own, k, k), tensor_rows(a->mine.dv, t->row, t->end - t->begin)));
    }
    return OK;
}

enum status keys_begin(struct step *s, struct flow *f, struct attend *a, enum attend_when when) {
    (void)f;
    if (when == ATTEND_QKV) return send_keys(s, a);
    return when == ATTEND_DQKV ? send_gradients(s, a) : OK;
}

enum status keys_end(struct step *s, struct flow *f, struct attend *a, enum attend_when when) {
    struct seams_mesh *m = mesh_of(s);
    (void)f;
    if (when == ATTEND_QKV || when == ATTEND_DQKV) TRY(list_end(m->spec.seq, &m->attend.pending));
    if (when == ATTEND_QKV || when == ATTEND_DO) TRY(fill_keys(s, a));
    return when == ATTEND_DQKV ? add_gradients(s, a) : OK;
}
