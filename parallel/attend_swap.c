/* SPDX-License-Identifier: Apache-2.0 */
#include "parallel/inside.h"

/* Attention with heads for tokens: each rank receives all tokens of its heads, by range straight into the wide rows,
 * and sends outputs home the same way.  Key heads that several ranks hold are sent to each, and their gradients added
 * in the order of ranks. */
/* First column of rank r's key heads among all key heads. */
static int64_t key_col(const struct attend *a, int r, int n_ranks) {
    const int64_t per_key = a->mine.heads / a->mine.key_heads; /* query heads of one key head */
    return (int64_t)r * (a->mine.heads / n_ranks) / per_key * a->core.head_width;
}

static struct tensor rank_cols(struct tensor all, int r, int64_t width) { return tensor_cols(all, r * width, width); }

/* Rows of every range travel between its owner's packed tensor for one peer and the wide tensor of that peer.
 * out: packed -> wide (tokens leave home); else wide -> packed. */
static enum status list_rows(struct step *s, struct tensor wide, char *packed, bool out) {
    struct seams_mesh *m = mesh_of(s);
    const struct shard_map *map = m->spec.map;
    const int64_t cols = wide.shape[1], row = cols * dtype_bytes(wide.dtype);
    const int64_t mine = map->tokens[m->me] * row; /* bytes of one peer's packed tensor */
    list_clear(m);
    for (int64_t i = 0; i < map->n_ranges; i++) {
        const struct token_range *t = &map->range[i];
        const int64_t bytes = (t->end - t->begin) * row;
        char *there = (char *)wide.data + wide_row(map, t) * row;
        if (t->rank != m->me) {
            if (out) list_recv(m, t->rank, there, bytes);
            else list_send(m, t->rank, there, bytes);
            continue;
        }
        for (int r = 0; r < map->spec.n_ranks; r++) {
            char *here = packed + r * mine + t->row * row;
            if (r == m->me) continue;
            if (out) list_send(m, r, here, bytes);
            else list_recv(m, r, here, bytes);
        }
    }
    return list_begin(s, m->spec.seq, COMM_SWAP, &m->attend.pending);
}

/* My own rows need no message: between packed part `me` and the wide rows. */
static enum status own_rows(struct step *s, struct tensor wide, char *packed, bool out) {
    struct seams_mesh *m = mesh_of(s);
    const struct shard_map *map = m->spec.map;
    const int64_t T = map->tokens[m->me], cols = wide.shape[1];
    const struct tensor part = tensor_like(wide, packed + m->me * T * cols * dtype_bytes(wide.dtype), T, cols);
    for (int64_t i = 0; i < shard_map_ranges(map, m->me); i++) {
        const struct token_range *t = shard_map_range(map, m->me, i);
        const struct tensor here = tensor_rows(part, t->row, t->end - t->begin);
        const struct tensor there = tensor_rows(wide, wide_row(map, t), t->end - t->begin);
        TRY(out ? rows_copy(s, here, there) : rows_copy(s, there, here));
    }
    return OK;
}

static struct tensor packed_part(struct step *s, char *packed, int r, int64_t cols) {
    const struct seams_mesh *m = mesh_of(s);
    const int64_t T = m->spec.map->tokens[m->me];
    struct tensor t = tensor_2d(packed + r * T * cols * dtype_bytes(m->spec.real), m->spec.real, T, cols);
    t.space = s->ctx->space;
    return t;
}

static enum status qkv_out(struct step *s, struct attend *a) {
    struct seams_mesh *m = mesh_of(s);
    const int P = m->spec.map->spec.n_ranks;
    const int64_t q = a->core.q.shape[1], k = a->core.k.shape[1];
    for (int r = 0; r < P; r++) {
        const struct tensor to = packed_part(s, m->attend.send, r, q + 2 * k);
        TRY(rows_copy(s, rank_cols(a->mine.q, r, q), tensor_cols(to, 0, q)));
        TRY(rows_copy(s, tensor_cols(a->mine.k, key_col(a, r, P), k), tensor_cols(to, q, k)));
        TRY(rows_copy(s, tensor_cols(a->mine.v, key_col(a, r, P), k), tensor_cols(to, q + k, k)));
    }
    TRY(own_rows(s, a->wide[WIDE_QKV], m->attend.send, true));
    return list_rows(s, a->wide[WIDE_QKV], m->attend.send, true);
}

static enum status dout_out(struct step *s, struct attend *a) {
    struct seams_mesh *m = mesh_of(s);
    const int64_t q = a->core.q.shape[1];
    for (int r = 0; r < m->spec.map->spec.n_ranks; r++)
        TRY(rows_copy(s, rank_cols(a->mine.dout, r, q), packed_part(s, m->attend.send, r, q)));
    TRY(own_rows(s, a->wide[WIDE_DO], m->attend.send, true));
    return list_rows(s, a->wide[WIDE_DO], m->attend.send, true);
}

static enum status o_home(struct step *s, struct attend *a) {
    struct seams_mesh *m = mesh_of(s);
    const int64_t q = a->core.q.shape[1];
    for (int r = 0; r < m->spec.map->spec.n_ranks; r++)
        TRY(rows_copy(s, packed_part(s, m->attend.recv, r, q), rank_cols(a->mine.o, r, q)));
    return OK;
}

static enum status dqkv_home(struct step *s, struct attend *a) {
    struct seams_mesh *m = mesh_of(s);
    const int P = m->spec.map->spec.n_ranks;
    const int64_t q = a->core.q.shape[1], k = a->core.k.shape[1];
    TRY(rows_zero(s, a->mine.dk));
    TRY(rows_zero(s, a->mine.dv));
    for (int r = 0; r < P; r++) {
        const struct tensor from = packed_part(s, m->attend.recv, r, q + 2 * k);
        TRY(rows_copy(s, tensor_cols(from, 0, q), rank_cols(a->mine.dq, r, q)));
        TRY(rows_add(s, tensor_cols(from, q, k), tensor_cols(a->mine.dk, key_col(a, r, P), k)));
        TRY(rows_add(s, tensor_cols(from, q + k, k), tensor_cols(a->mine.dv, key_col(a, r, P), k)));
    }
    return OK;
}

enum status swap_begin(struct step *s, struct flow *f, struct attend *a, enum attend_when when) {
    struct seams_mesh *m = mesh_of(s);
    (void)f;
    switch (when) {
    case ATTEND_QKV:
        return qkv_out(s, a);
    case ATTEND_DO:
        return dout_out(s, a);
    case ATTEND_O:
        TRY(own_rows(s, a->wide[WIDE_O], m->attend.recv, false));
        return list_rows(s, a->wide[WIDE_O], m->attend.recv, false);
    case ATTEND_DQKV:
        TRY(own_rows(s, a->wide[WIDE_DQKV], m->attend.recv, false));
        return list_rows(s, a->wide[WIDE_DQKV], m->attend.recv, false);
    }
    return OK;
}

enum status swap_end(struct step *s, struct flow *f, struct attend *a, enum attend_when when) {
    struct seams_mesh *m = mesh_of(s);
    (void)f;
    TRY(list_end(m->spec.seq, &m->attend.pending));
    if (when == ATTEND_O) return o_home(s, a);
    return when == ATTEND_DQKV ? dqkv_home(s, a) : OK;
}
