/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* Every split of a sequence over ranks: each token exactly once, ranges in order on the grid, rows numbered as the
 * owners hold them, pieces even to one cell, and the owners that the layout promises. */
#include <inttypes.h>
#include "base/arena.h"
#include "parallel/shard_map.h"
#include "tests/check.h"

static char about[160]; /* the case at hand */

static void name_case(const struct shard_spec *s) {
    snprintf(about, sizeof about, "%s, %d ranks, %" PRId64 " x %" PRId64 " tokens, grid %" PRId64 "%s",
             s->layout == SHARD_ZIGZAG ? "zigzag" : "contiguous", s->n_ranks, s->n_sequences, s->tokens, s->grid,
             s->segments ? ", segments" : "");
}

static int64_t cells_of(const struct shard_spec *s) { return (s->tokens + s->grid - 1) / s->grid; }

/* The piece that a cell belongs to, and the piece's owner: the definition read cell by cell, not from the code. */
static int64_t piece_of(const struct shard_spec *s, int64_t cell, int64_t pieces) {
    int64_t subtree = 1; /* with segments: cells of a piece, the least power of two that is enough */
    while (s->segments && subtree * pieces < cells_of(s)) subtree *= 2;
    if (s->segments) return cell / subtree;
    for (int64_t k = 0; k < pieces; k++)
        if (cell >= k * cells_of(s) / pieces && cell < (k + 1) * cells_of(s) / pieces) return k;
    return -1;
}

static int owner_of(const struct shard_spec *s, int64_t cell) {
    const int P = s->n_ranks;
    const int64_t piece = piece_of(s, cell, s->layout == SHARD_ZIGZAG && P > 1 ? 2 * P : P);
    for (int r = 0; r < P; r++)
        if (piece == r || (s->layout == SHARD_ZIGZAG && piece == 2 * P - 1 - r)) return r;
    return -1;
}

/* Ranges by sequence, then by begin; each begins where the one before ends, and the last ends the sequence. */
static void check_cover(const struct shard_map *m) {
    const struct shard_spec *s = &m->spec;
    CHECK(m->n_ranges == m->per_sequence * s->n_sequences, "%s: %" PRId64 " ranges", about, m->n_ranges);
    for (int64_t i = 0; i < m->n_ranges; i++) {
        const struct token_range *t = &m->range[i];
        const bool first = i % m->per_sequence == 0, last = (i + 1) % m->per_sequence == 0;
        CHECK(t->sequence == i / m->per_sequence, "%s: range %" PRId64 " is of sequence %" PRId64, about, i,
              t->sequence);
        CHECK(t->begin == (first ? 0 : m->range[i - 1].end), "%s: range %" PRId64 " begins at %" PRId64, about, i,
              t->begin);
        CHECK(s->n_ranks > 1 || s->segments || (first && last), "%s: one rank, several ranges", about);
        CHECK(t->end >= t->begin && (!last || t->end == s->tokens), "%s: range %" PRId64 " ends at %" PRId64, about, i,
              t->end);
        CHECK(t->begin % s->grid == 0 || t->begin == s->tokens, "%s: range %" PRId64 " begins at %" PRId64, about, i,
              t->begin);
        CHECK(!s->segments || t->begin / s->grid == i % m->per_sequence, "%s: range %" PRId64 " is no cell", about, i);
        for (int64_t cell = t->begin / s->grid; cell * s->grid < t->end; cell++)
            CHECK(t->rank == owner_of(s, cell), "%s: cell %" PRId64 " is rank %d's, not %d's", about, cell, t->rank,
                  owner_of(s, cell));
    }
}

/* Every rank's rows are its ranges one behind the other, in the order of sequence and place. */
static void check_rows(const struct shard_map *m) {
    int64_t ranges = 0, tokens = 0, most = 0, least = INT64_MAX;
    for (int r = 0; r < m->spec.n_ranks; r++) {
        int64_t row = 0, key = -1;
        for (int64_t i = 0; i < shard_map_ranges(m, r); i++) {
            const struct token_range *t = shard_map_range(m, r, i);
            const int64_t number = t - m->range;
            CHECK(t->rank == r && t->index == i, "%s: range %" PRId64 " of rank %d says rank %d, index %d", about, i, r,
                  t->rank, t->index);
            CHECK(number > key && number < m->n_ranges, "%s: rank %d: range %" PRId64 " is out of order", about, r, i);
            CHECK(t->row == row, "%s: rank %d: range %" PRId64 " stands at row %" PRId64 ", not %" PRId64, about, r, i,
                  t->row, row);
            key = number;
            row += t->end - t->begin;
        }
        CHECK(m->tokens[r] == row, "%s: rank %d holds %" PRId64 " rows, not %" PRId64, about, r, m->tokens[r], row);
        ranges += shard_map_ranges(m, r);
        tokens += row;
        if (row > most) most = row;
        if (row < least) least = row;
    }
    CHECK(ranges == m->n_ranges, "%s: ranks have %" PRId64 " of %" PRId64 " ranges", about, ranges, m->n_ranges);
    CHECK(tokens == m->spec.n_sequences * m->spec.tokens, "%s: ranks hold %" PRId64 " tokens", about, tokens);
    const int64_t pieces =
        m->spec.layout == SHARD_ZIGZAG ? 2 : 1; /* each a cell more or less, and the last cell ragged */
    const int64_t bound = m->spec.n_sequences * (pieces * m->spec.grid + m->spec.grid - 1);
    CHECK(m->spec.segments || most - least <= bound, "%s: from %" PRId64 " to %" PRId64 " rows a rank", about, least,
          most);
    CHECK(m->spec.segments || m->spec.grid > 1 || m->spec.tokens < pieces * m->spec.n_ranks || least > 0,
          "%s: a rank without a token", about);
}

/* Neighbours: what stands before the first row of a range is the last row of the range before it. */
static void check_neighbours(const struct shard_map *m) {
    for (int64_t i = 0; i + 1 < m->n_ranges; i++) {
        const struct token_range *a = &m->range[i], *b = a + 1;
        if (a->sequence != b->sequence) continue;
        CHECK(a->end == b->begin, "%s: ranges %" PRId64 " and the next leave a gap", about, i);
        if (m->spec.segments) continue;
        const int P = m->spec.n_ranks;
        const int next = m->spec.layout == SHARD_CONTIGUOUS ? a->rank + 1
                         : i % m->per_sequence < P - 1      ? a->rank + 1
                         : i % m->per_sequence == P - 1     ? P - 1
                                                            : a->rank - 1;
        CHECK(b->rank == next, "%s: behind rank %d comes rank %d, not %d", about, a->rank, b->rank, next);
    }
}

static void check_map(const struct shard_spec *spec) {
    struct shard_map m;
    name_case(spec);
    MUST(shard_map_init(&m, spec));
    check_cover(&m);
    check_rows(&m);
    check_neighbours(&m);
    shard_map_term(&m);
}

static void test_all(void) {
    static const int64_t lengths[] = {1, 2, 3, 5, 7, 8, 9, 16, 17, 31, 48, 97, 1000, 4099};
    static const int64_t grids[] = {1, 2, 3, 16, 64, 5000};
    for (int ranks = 1; ranks <= 9; ranks++)
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
            for (size_t g = 0; g < sizeof grids / sizeof *grids; g++)
                for (int way = 0; way < 8; way++)
                    if (lengths[l] >= ranks)
                        check_map(&(struct shard_spec){.n_ranks = ranks,
                                                       .layout = way & 1 ? SHARD_ZIGZAG : SHARD_CONTIGUOUS,
                                                       .n_sequences = way & 2 ? 3 : 1,
                                                       .tokens = lengths[l],
                                                       .grid = grids[g],
                                                       .segments = way & 4});
}

/* Lengths that do not fit in 32 bits. */
static void test_large(void) {
    const int64_t tokens = ((int64_t)5 << 40) + 3;
    struct shard_map m;
    MUST(shard_map_init(
        &m, &(struct shard_spec){.n_ranks = 7, .layout = SHARD_ZIGZAG, .n_sequences = 2, .tokens = tokens, .grid = 1}));
    snprintf(about, sizeof about, "large");
    check_rows(&m);
    check_neighbours(&m);
    CHECK(m.range[27].end == tokens, "the last range ends at %" PRId64, m.range[27].end);
    shard_map_term(&m);
}

static void test_mistakes(void) {
    const struct shard_spec few = {.n_ranks = 5, .n_sequences = 1, .tokens = 4, .grid = 1};
    struct shard_map m;
    CHECK(shard_map_init(&m, &few) == ERR_CONFIG, "4 tokens over 5 ranks must be refused");
    CHECK(strstr(status_text(), "4 tokens cannot be split over 5 ranks") && strstr(status_text(), "mesh.seq"),
          "the text is: %s", status_text());
    const struct shard_spec good = {.n_ranks = 5, .n_sequences = 1, .tokens = 40, .grid = 1};
    for (int64_t k = 1;; k++) { /* every allocation fails once */
        mem_fail_at(k);
        const enum status st = shard_map_init(&m, &good);
        mem_fail_at(0);
        if (st == OK) break;
        CHECK(st == ERR_OOM && !m.range, "allocation %" PRId64 " failing gives %s", k, status_name(st));
        CHECK(k < 10, "allocation %" PRId64 " fails still", k);
    }
    check_rows(&m);
    shard_map_term(&m);
}

int main(void) {
    test_all();
    test_large();
    test_mistakes();
    return check_end();
}
