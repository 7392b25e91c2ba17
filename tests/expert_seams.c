/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* The seam of experts over thread ranks: every row reaches its expert's rank, in the order of the header, in as many
 * rounds as the fullest rank needs, and comes home to its place; <S x, y> = <x, S' y>; the bytes are those of the
 * header.  Numbers are integers: sums are exact. */
#include "kernels/group/group.h"
#include "tests/seams_case.h"

enum routing { RANDOM, TWO_OF_ALL, ALL_TO_ONE, LAST_ONLY };
struct expert_case {
    const char *why;
    int data, seq, expert;
    enum shard_layout layout;
    int64_t sequences, tokens, grid;
    bool segments;
    int64_t E, k, W;
    double room;
    enum routing routing;
};
static const struct expert_case cases[] = {
    {"one rank", 1, 1, 1, SHARD_CONTIGUOUS, 2, 9, 1, false, 4, 2, 3, 1.0, RANDOM},
    {"two ranks", 1, 2, 2, SHARD_CONTIGUOUS, 1, 16, 1, false, 4, 2, 3, 2.0, RANDOM},
    {"two ranks, rounds of one row", 1, 2, 2, SHARD_CONTIGUOUS, 1, 7, 1, false, 4, 2, 3, 1e-9, RANDOM},
    {"all experts of all tokens", 1, 2, 2, SHARD_CONTIGUOUS, 1, 11, 1, false, 6, 6, 2, 1.0, RANDOM},
    {"one expert a rank", 1, 4, 4, SHARD_CONTIGUOUS, 2, 13, 1, false, 4, 3, 2, 1.1, RANDOM},
    {"experts without a token", 1, 4, 4, SHARD_CONTIGUOUS, 1, 40, 1, false, 16, 2, 3, 1.5, TWO_OF_ALL},
    {"all tokens to one expert: the worst", 1, 4, 4, SHARD_CONTIGUOUS, 1, 29, 1, false, 8, 1, 2, 0.7, ALL_TO_ONE},
    {"all tokens to all experts of the last rank", 1, 4, 4, SHARD_CONTIGUOUS, 2, 9, 1, false, 8, 2, 2, 1.0, LAST_ONLY},
    {"part of seq", 1, 8, 2, SHARD_CONTIGUOUS, 1, 61, 1, false, 6, 2, 3, 1.2, RANDOM},
    {"over data and seq, uneven", 2, 3, 6, SHARD_CONTIGUOUS, 2, 17, 1, false, 12, 3, 2, 1.0, RANDOM},
    {"over a part of data and seq", 2, 3, 2, SHARD_CONTIGUOUS, 1, 19, 1, false, 4, 2, 2, 1.0, RANDOM},
    {"data alone", 4, 1, 4, SHARD_CONTIGUOUS, 1, 10, 1, false, 8, 2, 2, 1.0, RANDOM},
    {"zigzag", 1, 4, 4, SHARD_ZIGZAG, 2, 23, 1, false, 8, 2, 3, 0.8, RANDOM},
    {"one token a rank", 1, 4, 4, SHARD_CONTIGUOUS, 1, 4, 1, false, 8, 2, 2, 1.0, RANDOM},
    {"segments, a rank without tokens", 1, 4, 2, SHARD_CONTIGUOUS, 1, 37, 8, true, 4, 2, 3, 1.0, RANDOM},
    {"segments, all to one expert: one round", 1, 4, 4, SHARD_CONTIGUOUS, 1, 64, 8, true, 8, 1, 2, 1.0, ALL_TO_ONE},
};
enum { RANKS = 8 };
struct job {
    const struct expert_case *c;
    double forward[RANKS][2], back[RANKS][2];            /* of x and dy */
    int64_t n_rounds[RANKS], guests[RANKS], most[RANKS]; /* most: guests of one round */
};

/* Tokens are numbered through the sequences of each data rank. */
static int32_t id_of(const struct expert_case *c, int64_t token, int64_t j) {
    const int32_t E = (int32_t)c->E;
    switch (c->routing) {
    case TWO_OF_ALL:
        return (int32_t)(j == 0 ? 5 : 11);
    case ALL_TO_ONE:
        return E / 2;
    case LAST_ONLY:
        return E - 1 - (int32_t)j;
    case RANDOM:
        break;
    }
    return (int32_t)((rng_bits(3, (uint64_t)token, 0) + (uint64_t)j * (E % 5 ? 5 : 3)) % (uint64_t)E);
}

static double x_of(int64_t token, int64_t j, int64_t col) { return (double)((token * 8 + j) * 4 + col); }
static double y_of(int64_t rank, int64_t row, int64_t col) {
    return (double)((rank * 17 + row * 13 + col * 5) % 53 - 26);
}

/* The token that stands in a row of rank t of data x seq. */
static int64_t token_of(const struct seat *s, int t, int64_t row) {
    const struct shard_spec *shard = &s->map.spec;
    const int seq = t % shard->n_ranks, data = t / shard->n_ranks;
    for (int64_t i = 0; i < shard_map_ranges(&s->map, seq); i++) {
        const struct token_range *r = shard_map_range(&s->map, seq, i);
        if (row < r->row + r->end - r->begin)
            return (data * shard->n_sequences + r->sequence) * shard->tokens + r->begin + row - r->row;
    }
    return -1;
}

struct guest {
    int64_t token, j, section, expert; /* expert: among those of its rank */
};

/* What one section of rank t has for my experts: its rows [begin, end). */
static int64_t add_section(const struct seat *s, const struct expert_case *c, int t, int64_t begin, int64_t end,
                           int64_t section, struct guest *out) {
    const int64_t here = c->E / c->expert;
    int64_t n = 0;
    for (int64_t e = 0; e < here; e++)
        for (int64_t row = begin; row < end; row++)
            for (int64_t j = 0; j < c->k; j++) {
                const int64_t token = token_of(s, t, row);
                if (id_of(c, token, j) == s->expert.index * here + e) out[n++] = (struct guest){token, j, section, e};
            }
    return n;
}

/* All guests of a rank, as the header orders them. */
static int64_t expected(const struct seat *s, const struct expert_case *c, int me, struct guest *out) {
    int64_t n = 0, section = 0;
    const int first = me - s->expert.index;
    for (int t = first; t < first + c->expert; t++) {
        const int seq = t % c->seq;
        if (!c->segments) {
            n += add_section(s, c, t, 0, s->map.tokens[seq], section++, out + n);
            continue;
        }
        for (int64_t i = 0; i < shard_map_ranges(&s->map, seq); i++) {
            const struct token_range *r = shard_map_range(&s->map, seq, i);
            n += add_section(s, c, t, r->row, r->row + r->end - r->begin, section++, out + n);
        }
    }
    return n;
}

struct table { /* what a rank has */
    int64_t T, N, M, rounds;
    double *rows; /* x, y, dy, dx at home, then of guests */
    void *index;
    struct routed r;
    struct tensor ids, row;
    struct layer layer;
    struct shard shard;
    struct flow flow;
};

static void open_table(struct table *t, const struct seat *s, const struct expert_case *c) {
    const int64_t T = t->T = s->map.tokens[s->me], N = t->N = T * c->k, W = c->W, here = c->E / c->expert;
    const int64_t M = t->M = routed_rows(&s->guests, c->E, c->k);
    const int64_t S = c->segments ? shard_map_ranges(&s->map, s->me) : 1;
    t->rounds = routed_rounds(&s->guests, c->E, c->k);
    t->layer = (struct layer){.n_experts = c->E};
    t->shard = (struct shard){.guests = &s->guests};
    t->flow.shard = &t->shard;
    t->rows = numbers(4 * (N + M) * W);
    const int64_t offsets = t->rounds * s->guests.sections;
    MUST(mem_take((S * (c->E + 1) + offsets * (here + 1) + 2 * N + S + 2) * 8, &t->index));
    int64_t *at = (int64_t *)t->index;
    t->r = (struct routed){.rows_most = M, .home.offset = tensor_2d(at, I64, S, c->E + 1)};
    t->r.offsets = tensor_2d(at += S * (c->E + 1), I64, offsets, here + 1);
    t->r.guest.offset = tensor_rows(t->r.offsets, 0, s->guests.sections);
    t->row = tensor_2d(at += offsets * (here + 1), I64, T, c->k);
    t->ids = tensor_2d(at += N, I32, T, c->k);
    t->shard.range = tensor_1d(at + N, I64, S + 1);
    double *x = t->rows;
    struct tensor *const sides[] = {&t->r.home.x,  &t->r.home.y,  &t->r.home.dy,  &t->r.home.dx,
                                    &t->r.guest.x, &t->r.guest.y, &t->r.guest.dy, &t->r.guest.dx};
    for (int i = 0; i < 8; i++, x += (i <= 4 ? N : M) * W) *sides[i] = tensor_2d(x, F64, i < 4 ? N : M, W);
    for (int64_t i = 0; i < 4 * (N + M) * W; i++) t->rows[i] = NAN;
}

static double *row_of(struct tensor t, int64_t row) { return (double *)t.data + row * t.pitch; }

/* Rows by expert, as the layer's op groups them; home.x and home.dy. */
static enum status fill(struct table *t, struct seat *s, const struct expert_case *c, int me) {
    int64_t *const range = (int64_t *)t->shard.range.data;
    for (int64_t i = 0; c->segments && i < t->shard.range.shape[0] - 1; i++)
        range[i] = shard_map_range(&s->map, s->me, i)->row;
    if (c->segments) range[t->shard.range.shape[0] - 1] = t->T;
    for (int64_t i = 0; i < t->N; i++) ((int32_t *)t->ids.data)[i] = id_of(c, token_of(s, me, i / c->k), i % c->k);
    struct group g = {.ids = t->ids, .row = t->row, .offset = t->r.home.offset};
    if (c->segments) g.range = t->shard.range;
    TRY(s->ctx.ops->group_fwd(&s->ctx, &g));
    for (int64_t i = 0; i < t->N; i++)
        for (int64_t col = 0; col < c->W; col++) {
            const int64_t row = ((const int64_t *)t->row.data)[i];
            row_of(t->r.home.x, row)[col] = x_of(token_of(s, me, i / c->k), i % c->k, col);
            row_of(t->r.home.dy, row)[col] = -2.0 * x_of(token_of(s, me, i / c->k), i % c->k, col);
        }
    return OK;
}

static enum status travel(struct seat *s, struct table *t, enum routed_when when) {
    TRY(seams_mesh.routed_begin(&s->step, &t->layer, &t->flow, &t->r, when));
    return seams_mesh.routed_end(&s->step, &t->layer, &t->flow, &t->r, when);
}

/* Guest `row` of the round is who it should be, and among the rows of its section and expert. */
static void check_guest(const struct table *t, const struct expert_case *c, int me, int64_t row,
                        const struct guest *g) {
    const int64_t *o = (const int64_t *)t->r.guest.offset.data + g->section * t->r.guest.offset.pitch + g->expert;
    CHECK(o[0] <= row && row < o[1], "%s, rank %d, round %d: guest %d is not in [%d, %d) of its expert", c->why, me,
          (int)t->r.round, (int)row, (int)o[0], (int)o[1]);
    for (int64_t col = 0; col < c->W; col++) {
        const double want = x_of(g->token, g->j, col), x = row_of(t->r.guest.x, row)[col];
        CHECK(x == want && row_of(t->r.guest.dy, row)[col] == -2.0 * want, "%s, rank %d: guest %d: %g, not %g", c->why,
              me, (int)row, x, want);
    }
}

/* y and dx answer what came; dx also the transpose's y, at the end. */
static enum status one_round(struct seat *s, struct table *t, struct job *j, int me, const struct guest *g, int64_t n) {
    const struct expert_case *c = j->c;
    TRY(travel(s, t, DISPATCH_X));
    TRY(travel(s, t, DISPATCH_DY));
    const int64_t first = t->r.round * t->M, left = n - first > 0 ? n - first : 0, want = left < t->M ? left : t->M;
    CHECK(t->r.n_rows == want, "%s, rank %d: %d guests, not %d", c->why, me, (int)t->r.n_rows, (int)want);
    for (int64_t row = 0; row < want; row++) {
        check_guest(t, c, me, row, &g[first + row]);
        for (int64_t col = 0; col < c->W; col++) {
            const double y = y_of(me, first + row, col), dx = y_of(me + 3, first + row, col);
            row_of(t->r.guest.y, row)[col] = y;
            row_of(t->r.guest.dx, row)[col] = dx;
            j->forward[me][0] += row_of(t->r.guest.x, row)[col] * dx;
            j->forward[me][1] += row_of(t->r.guest.dy, row)[col] * y;
        }
    }
    TRY(travel(s, t, COMBINE_Y));
    return travel(s, t, COMBINE_DX);
}

static void check_bytes(const struct seat *s, const struct table *t, const struct expert_case *c, int me, int64_t n) {
    int64_t own = 0;
    const int64_t here = c->E / c->expert, begin = s->expert.index * here;
    for (int64_t i = 0; i < t->N; i++) {
        const int64_t id = ((const int32_t *)t->ids.data)[i];
        own += id >= begin && id < begin + here;
    }
    const int64_t want = 8 * c->W * 2 * (n - own + t->N - own), got = s->expert.count[COMM_EXPERT].bytes_received;
    const int64_t S = t->r.home.offset.shape[0], counts = 8 * (c->E + 1) * (s->guests.sections - S);
    CHECK(got == want, "%s, rank %d: %d bytes received, the header says %d", c->why, me, (int)got, (int)want);
    CHECK(s->expert.count[COMM_CONTROL].bytes_received == counts, "%s, rank %d: %d bytes of counts, not %d", c->why, me,
          (int)s->expert.count[COMM_CONTROL].bytes_received, (int)counts);
}

static enum status move_all(struct seat *s, struct table *t, struct job *j, int me) {
    const struct expert_case *c = j->c;
    struct guest g[1024];
    const int64_t n = j->guests[me] = expected(s, c, me, g);
    TRY(fill(t, s, c, me));
    TRY(travel(s, t, ROUTED_COUNTS));
    j->n_rounds[me] = t->r.n_rounds;
    j->most[me] = t->M;
    for (t->r.round = 0; t->r.round < t->r.n_rounds; t->r.round++) {
        const int64_t S = s->guests.sections;
        t->r.guest.offset = tensor_rows(t->r.offsets, t->r.round * S, S);
        TRY(one_round(s, t, j, me, g, n));
    }
    for (int64_t i = 0; i < t->N * c->W; i++) {
        j->back[me][0] += ((const double *)t->r.home.x.data)[i] * ((const double *)t->r.home.dx.data)[i];
        j->back[me][1] += ((const double *)t->r.home.dy.data)[i] * ((const double *)t->r.home.y.data)[i];
    }
    check_bytes(s, t, c, me, n);
    return OK;
}

static enum status run(struct rank *r, void *arg) {
    struct job *j = arg;
    const struct expert_case *c = j->c;
    struct seat s;
    struct table t = {.T = 0};
    const struct seat_spec spec = {.shard = {.n_ranks = c->seq,
                                             .layout = c->layout,
                                             .n_sequences = c->sequences,
                                             .tokens = c->tokens,
                                             .grid = c->grid,
                                             .segments = c->segments},
                                   .data = c->data,
                                   .expert = c->expert,
                                   .room = c->room,
                                   .routed = {.experts = c->E}};
    enum status st = seat_open(&s, r, &spec);
    if (st == OK) open_table(&t, &s, c);
    if (st == OK) st = move_all(&s, &t, j, rank_index(r));
    seat_close(&s);
    mem_free(t.rows);
    mem_free(t.index);
    return st;
}

/* As many rounds as the fullest rank of a group needs; every choice is somebody's guest. */
static int check_case(const struct job *j) {
    const struct expert_case *c = j->c;
    const int n = c->data * c->seq;
    int64_t all = 0;
    int several = 0;
    for (int i = 0; i < 2; i++) {
        double forward = 0.0, back = 0.0;
        for (int r = 0; r < n; r++) forward += j->forward[r][i], back += j->back[r][i];
        CHECK(forward == back, "%s: <S x, y> = %.17g, <x, S' y> = %.17g", c->why, forward, back);
    }
    for (int r = 0; r < n; r++) {
        int64_t want = 1;
        for (int k = r / c->expert * c->expert, end = k + c->expert; k < end; k++)
            want = (j->guests[k] - 1) / j->most[k] + 1 > want ? (j->guests[k] - 1) / j->most[k] + 1 : want;
        all += j->guests[r];
        CHECK(j->n_rounds[r] == want, "%s: rank %d has %d rounds, not %d", c->why, r, (int)j->n_rounds[r], (int)want);
        several += want > 1;
    }
    CHECK(all == c->data * c->sequences * c->tokens * c->k, "%s: %d guests", c->why, (int)all);
    CHECK(!c->segments || j->n_rounds[0] == 1, "%s: %d rounds", c->why, (int)j->n_rounds[0]);
    return several > 0;
}

int main(void) {
    int several = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job j = {.c = &cases[i]};
        run_ranks(cases[i].data * cases[i].seq, run, &j);
        several += check_case(&j);
    }
    CHECK(several >= 5, "%d cases take several rounds", several);
    return check_end();
}
