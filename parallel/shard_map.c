/* SPDX-License-Identifier: Apache-2.0 */
#include "parallel/shard_map.h"
#include <inttypes.h>
#include "base/arena.h"

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t n_cells(const struct shard_spec *s) { return (s->tokens + s->grid - 1) / s->grid; }
static int64_t n_pieces(const struct shard_spec *s) {
    return (s->layout == SHARD_ZIGZAG && s->n_ranks > 1 ? 2 : 1) * (int64_t)s->n_ranks;
}

static int owner(const struct shard_spec *s, int64_t piece) {
    return (int)(piece < s->n_ranks ? piece : 2 * (int64_t)s->n_ranks - 1 - piece);
}

static void add_range(struct shard_map *m, int64_t sequence, int64_t piece, int64_t first_cell, int64_t last_cell) {
    const struct shard_spec *s = &m->spec;
    m->range[m->n_ranges++] = (struct token_range){.sequence = sequence,
                                                   .begin = least(first_cell * s->grid, s->tokens),
                                                   .end = least(last_cell * s->grid, s->tokens),
                                                   .rank = owner(s, piece)};
}

/* First cell of piece k: an even cut, or with segments whole subtrees of the binary tree over them. */
static int64_t piece_begin(const struct shard_spec *s, int64_t k) {
    const int64_t cells = n_cells(s), pieces = n_pieces(s);
    if (!s->segments) return k * cells / pieces;
    int64_t subtree = 1;
    while (subtree * pieces < cells) subtree *= 2;
    return least(k * subtree, cells);
}

static void cut_sequence(struct shard_map *m, int64_t sequence) {
    for (int64_t k = 0; k < n_pieces(&m->spec); k++) {
        const int64_t first = piece_begin(&m->spec, k), last = piece_begin(&m->spec, k + 1);
        if (!m->spec.segments) add_range(m, sequence, k, first, last);
        for (int64_t cell = first; m->spec.segments && cell < last; cell++) add_range(m, sequence, k, cell, cell + 1);
    }
}

/* Rows and indices at the owners, in the order of sequence and place. */
static void number_ranges(struct shard_map *m) {
    const int P = m->spec.n_ranks;
    int64_t *at = m->mine + P + 1;
    for (int r = 0; r < P; r++) {
        m->mine[r] = at - (m->mine + P + 1);
        int64_t row = 0;
        int index = 0;
        for (int64_t i = 0; i < m->n_ranges; i++) {
            if (m->range[i].rank != r) continue;
            m->range[i].row = row;
            m->range[i].index = index++;
            row += m->range[i].end - m->range[i].begin;
            *at++ = i;
        }
        m->tokens[r] = row;
    }
    m->mine[P] = m->n_ranges;
}

enum status shard_map_init(struct shard_map *m, const struct shard_spec *spec) {
    enum status st = OK;
    void *mem[3] = {0};
    *m = (struct shard_map){.spec = *spec};
    ASSERT(spec->n_ranks >= 1 && spec->grid >= 1 && spec->n_sequences >= 1);
    FAIL_UNLESS(spec->tokens >= spec->n_ranks, ERR_CONFIG,
                "a sequence of %" PRId64
                " tokens cannot be split over %d ranks: make train.tokens_per_sequence larger or "
                "mesh.seq smaller",
                spec->tokens, spec->n_ranks);
    m->per_sequence = spec->segments ? n_cells(spec) : n_pieces(spec);
    const int64_t n = m->per_sequence * spec->n_sequences;
    TRY_OUT(mem_take(n * (int64_t)sizeof *m->range, &mem[0]));
    TRY_OUT(mem_take((n + spec->n_ranks + 1) * (int64_t)sizeof *m->mine, &mem[1]));
    TRY_OUT(mem_take(spec->n_ranks * (int64_t)sizeof *m->tokens, &mem[2]));
    m->range = mem[0], m->mine = mem[1], m->tokens = mem[2];
    for (int64_t b = 0; b < spec->n_sequences; b++) cut_sequence(m, b);
    ASSERT(m->n_ranges == n);
    number_ranges(m);
    return OK;
out:
    for (int i = 0; i < 3; i++) mem_free(mem[i]);
    *m = (struct shard_map){0};
    return st;
}

void shard_map_term(struct shard_map *m) {
    mem_free(m->range);
    mem_free(m->mine);
    mem_free(m->tokens);
    *m = (struct shard_map){0};
}

int64_t shard_map_ranges(const struct shard_map *m, int rank) { return m->mine[rank + 1] - m->mine[rank]; }

const struct token_range *shard_map_range(const struct shard_map *m, int rank, int64_t index) {
    ASSERT(index >= 0 && index < shard_map_ranges(m, rank));
    return &m->range[m->mine[m->spec.n_ranks + 1 + m->mine[rank] + index]];
}
