/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* What the carries send, as the communicators count it, against the formulas of parallel/seams_mesh.h: for each rank,
 * every way, layout and direction; and that the scan's bytes depend neither on the length nor, to a bound, on P. */
#include "tests/seams_case.h"

/* What the formulas read off a rank's ranges of one sequence, in the carry's direction. */
struct place {
    int64_t n, z, before_last, crossings;
    bool has_first, has_last;
};

static struct place place_of(const struct carry_case *c, int rank) {
    struct place p = {.n = c->map.per_sequence};
    for (int64_t i = 0; i < p.n; i++) {
        const int64_t step = c->to == CARRY_FORWARD ? -1 : 1, at = c->to == CARRY_FORWARD ? i : p.n - 1 - i;
        const struct token_range *t = &c->map.range[at];
        if (t->rank != rank) continue;
        p.z++;
        p.before_last = i;
        if (i == 0) p.has_first = true;
        else p.crossings += t[step].rank != rank;
        if (i == p.n - 1) p.has_last = true;
    }
    return p;
}

static int64_t block_heads(const struct carry_case *c, int64_t begin, int64_t end) {
    return end > begin ? (end - 1) / c->P - begin / c->P + 1 : 0;
}

/* Numbers received by a rank, for one sequence. */
static int64_t formula(const struct carry_case *c, int rank) {
    const struct place p = place_of(c, rank);
    const int64_t M = c->H * c->P, ranks = c->seat.shard.n_ranks;
    const int64_t begin = rank * M / ranks, end = (rank + 1) * M / ranks, m = end - begin;
    switch (c->seat.way) {
    case CARRY_GATHER:
        return p.z == 0 ? 0 : (p.before_last + 1 - p.z) * (M * c->N + c->H);
    case CARRY_CHAIN:
        return p.crossings * M * c->N;
    case CARRY_SCAN:
        break;
    }
    return (p.n - p.z - !p.has_last) * (m * c->N + block_heads(c, begin, end)) + (p.z - p.has_first) * (M - m) * c->N;
}

/* Rows of last(k) that a rank receives: each token before one of its ranges, within k, that another rank holds.
 * Backward: each of its own rows, once for every range of another rank that reads it. */
static int64_t halo_rows(const struct carry_case *c, int rank) {
    int64_t rows = 0;
    for (int64_t j = 0; j < c->n_ranges; j++)
        for (int64_t i = 0; i < c->n_ranges; i++) {
            const struct token_range *to = &c->map.range[j], *from = &c->map.range[i];
            const int owner = c->to == CARRY_FORWARD ? to->rank : from->rank;
            if (to->sequence != from->sequence || to->rank == from->rank || owner != rank || to->begin == to->end)
                continue;
            for (int64_t t = from->begin; t < from->end; t++) rows += t < to->begin && t >= to->begin - c->k;
        }
    return rows;
}

static void check_counts(const struct carry_case *c, const char *why) {
    const int64_t B = c->seat.shard.n_sequences;
    int64_t sent = 0, received = 0;
    for (int r = 0; r < c->seat.shard.n_ranks; r++) {
        const struct comm_count *count = c->count[r];
        const int64_t want = 8 * B * formula(c, r), halo = 8 * c->C * halo_rows(c, r);
        CHECK(count[COMM_CARRY].bytes_received == want, "%s: %s, rank %d %s: %" PRId64 " bytes of carry, not %" PRId64,
              why, shard_name(&c->seat), r, c->to == CARRY_FORWARD ? "forward" : "backward",
              count[COMM_CARRY].bytes_received, want);
        CHECK(count[COMM_HALO].bytes_received == halo, "%s: %s, rank %d %s: %" PRId64 " bytes of halo, not %" PRId64,
              why, shard_name(&c->seat), r, c->to == CARRY_FORWARD ? "forward" : "backward",
              count[COMM_HALO].bytes_received, halo);
        sent += count[COMM_CARRY].bytes_sent;
        received += count[COMM_CARRY].bytes_received;
        for (int use = 0; use < N_COMM_USES; use++)
            CHECK(use == COMM_CARRY || use == COMM_HALO || count[use].messages == 0, "rank %d: %s", r,
                  comm_use_name(use));
    }
    CHECK(sent == received, "%s: %" PRId64 " bytes sent, %" PRId64 " received", shard_name(&c->seat), sent, received);
}

static void measure(struct carry_case *c, const char *why) {
    carry_case_init(c);
    run_ranks(c->seat.shard.n_ranks, carry_rank, c);
    check_counts(c, why);
    carry_case_term(c);
}

static void test_formulas(void) {
    static const struct {
        const char *why;
        int64_t H, P, N, k, C;
    } sizes[] = {{"heads that nothing divides", 3, 5, 4, 3, 7}, {"fewer rows than ranks", 1, 3, 2, 1, 2}};
    for (int ranks = 1; ranks <= 8; ranks++)
        for (int way = 0; way < 24; way++)
            for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++) {
                struct carry_case c = {.seat = {.shard = {.n_ranks = ranks,
                                                          .layout = way & 1 ? SHARD_ZIGZAG : SHARD_CONTIGUOUS,
                                                          .n_sequences = way & 4 ? 2 : 1,
                                                          .tokens = 61,
                                                          .grid = 1},
                                                .way = (enum carry_way)(way / 8)},
                                       .to = way & 2 ? CARRY_BACKWARD : CARRY_FORWARD,
                                       .H = sizes[z].H,
                                       .P = sizes[z].P,
                                       .N = sizes[z].N,
                                       .k = sizes[z].k,
                                       .C = sizes[z].C};
                measure(&c, sizes[z].why);
                c.seat.shard.tokens = ranks + 1;
                measure(&c, "ranges of a token or none");
                c.seat.shard.tokens = 70, c.seat.shard.grid = 8, c.seat.shard.segments = true;
                if (c.seat.way != CARRY_CHAIN) measure(&c, "segments");
            }
}

/* The layouts' own closed forms, written out once more by hand: 4 ranks, a state of 60 numbers, 3 decays. */
static void test_by_hand(void) {
    static const struct {
        enum carry_way way;
        enum shard_layout layout;
        int64_t numbers[4];
    } rows[] = {
        {CARRY_GATHER, SHARD_CONTIGUOUS, {0, 63, 126, 189}},
        {CARRY_GATHER, SHARD_ZIGZAG, {378, 315, 252, 189}},
        {CARRY_CHAIN, SHARD_CONTIGUOUS, {0, 60, 60, 60}},
        {CARRY_CHAIN, SHARD_ZIGZAG, {60, 120, 120, 60}},
        /* rows 3 4 4 4 of 1 2 2 1 heads: n - z - e = 2, 2, 2, 3 summaries; z - a = 0, 1, 1, 1 states */
        {CARRY_SCAN, SHARD_CONTIGUOUS, {2 * 13, 2 * 18 + 44, 2 * 18 + 44, 3 * 17 + 44}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct carry_case c = {.seat = {.shard = {.n_ranks = 4, .layout = rows[i].layout, .n_sequences = 1, .grid = 1}},
                               .H = 3,
                               .P = 5,
                               .N = 4,
                               .k = 1,
                               .C = 1};
        c.seat.way = rows[i].way;
        c.seat.shard.tokens = 40;
        carry_case_init(&c);
        run_ranks(4, carry_rank, &c);
        for (int r = 0; r < 4; r++)
            CHECK(c.count[r][COMM_CARRY].bytes_received == 8 * rows[i].numbers[r],
                  "%s, rank %d: %" PRId64 " numbers, not %" PRId64, shard_name(&c.seat), r,
                  c.count[r][COMM_CARRY].bytes_received / 8, rows[i].numbers[r]);
        carry_case_term(&c);
    }
}

/* The scan: the same bytes for any length, and below 3 z M (N + 1) numbers for P up to M. */
static void test_bounded(void) {
    for (int layout = SHARD_CONTIGUOUS; layout <= SHARD_ZIGZAG; layout++)
        for (int ranks = 2; ranks <= CASE_RANKS; ranks += 2) {
            int64_t short_one[CASE_RANKS];
            for (int64_t tokens = 64; tokens <= 64000; tokens *= 1000) {
                struct carry_case c = {.seat = {.shard = {.n_ranks = ranks,
                                                          .layout = (enum shard_layout)layout,
                                                          .n_sequences = 1,
                                                          .tokens = tokens,
                                                          .grid = 1},
                                                .way = CARRY_SCAN},
                                       .H = 4,
                                       .P = 4,
                                       .N = 8,
                                       .k = 3,
                                       .C = 5};
                const int64_t bound = 8 * 3 * (layout == SHARD_ZIGZAG ? 2 : 1) * 16 * 9;
                carry_case_init(&c);
                run_ranks(ranks, carry_rank, &c);
                for (int r = 0; r < ranks; r++) {
                    const int64_t got = c.count[r][COMM_CARRY].bytes_received;
                    CHECK(got < bound, "%s, rank %d: %" PRId64 " bytes, not below %" PRId64, shard_name(&c.seat), r,
                          got, bound);
                    CHECK(tokens == 64 || got == short_one[r], "%s, rank %d: %" PRId64 " bytes, not %" PRId64,
                          shard_name(&c.seat), r, got, short_one[r]);
                    short_one[r] = got;
                }
                carry_case_term(&c);
            }
        }
}

int main(void) {
    test_formulas();
    test_by_hand();
    test_bounded();
    return check_end();
}
