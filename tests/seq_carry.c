/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* The carries over ranks: what enters each range against a plain fold, <S x, y> = <x, S' y>, and the back-ends against
 * each other, bit for bit: gather, chain and scan fold every number in the same order, each from zero. */
#include "kernels/affine/affine.h"
#include "tests/seams_case.h"

enum numbers_of { INTEGERS, NEAR_ONE, MIXED };

static double draw(uint64_t seed, uint64_t stream, int64_t i) {
    return 2.0 * rng_uniform(seed, stream, (uint64_t)i) - 1.0;
}

/* INTEGERS: decays 0 or 1, so that every sum is exact; NEAR_ONE: every earlier range matters; MIXED: per head, from
 * nearly forgotten to nearly kept.  An empty range changes nothing: decay 1, state 0.  With rates, the same of times: 0
 * or forever, short ones, any. */
static double draw_decay(const struct carry_case *c, enum numbers_of kind, double u, bool empty) {
    if (!c->rates) return empty ? 1.0 : kind == INTEGERS ? (double)(u < 0.7) : kind == NEAR_ONE ? 1.0 - 1e-9 * u : u;
    if (empty) return 0.0;
    if (kind == INTEGERS) return u < 0.7 ? 0.0 : AFFINE_FOREVER;
    return kind == NEAR_ONE ? 1e-9 * u : u < 0.2 ? AFFINE_FOREVER : 3.0 * u;
}
/* What is left of number k behind range i. */
static double keep_of(const struct carry_case *c, int64_t i, int64_t k) {
    const double decay = c->decay[i * c->H + k / (c->P * c->N)];
    if (!c->rates) return decay;
    return decay >= AFFINE_FOREVER ? 0.0 : exp(-exp(c->log_rate[k]) * decay);
}

static void fill_affine(struct carry_case *c, enum numbers_of kind, uint64_t seed) {
    for (int64_t k = 0; k < c->each; k++) c->log_rate[k] = draw(seed, 5, k);
    for (int64_t i = 0; i < c->n_ranges; i++) {
        const bool empty = c->map.range[i].begin == c->map.range[i].end;
        for (int64_t h = 0; h < c->H; h++) {
            const double u = rng_uniform(seed, 1, (uint64_t)(i * c->H + h));
            c->decay[i * c->H + h] = draw_decay(c, kind, u, empty);
        }
        for (int64_t k = i * c->each; k < (i + 1) * c->each; k++) {
            const double x = draw(seed, c->to == CARRY_FORWARD ? 2 : 4, k); /* the decays of both directions are one */
            c->state[k] = empty ? 0.0 : kind == INTEGERS ? floor(100.0 * x) : x;
        }
    }
}

/* A token's row, exactly representable. */
static double token(int64_t sequence, int64_t t, int64_t c) {
    return (double)(sequence * 1000003 + t * 131 + c * 7 + 1);
}

/* Forward: each range's last rows, right-aligned, zero where it is short.  Backward: integers in the rows that exist
 * before the range; what an empty range says of rows counts nothing. */
static void fill_rows(struct carry_case *c, uint64_t seed) {
    for (int64_t i = 0; i < c->n_ranges; i++) {
        const struct token_range *t = &c->map.range[i];
        for (int64_t r = 0; r < c->k; r++)
            for (int64_t col = 0; col < c->C; col++) {
                const int64_t k = i * c->each_rows + r * c->C + col;
                const int64_t at = (c->to == CARRY_FORWARD ? t->end : t->begin) - c->k + r;
                if (c->to == CARRY_FORWARD) c->rows[k] = at < t->begin ? 0.0 : token(t->sequence, at, col);
                else c->rows[k] = at < 0 || t->begin == t->end ? 0.0 : floor(50.0 * draw(seed, 3, k));
            }
    }
}

static const struct token_range *ordered(const struct carry_case *c, int64_t sequence, int64_t i) {
    const int64_t n = c->map.per_sequence;
    return &c->map.range[sequence * n + (c->to == CARRY_FORWARD ? i : n - 1 - i)];
}

/* exact: every sum has one value; otherwise to 1e-12 of the largest number. */
static void check_affine(const struct carry_case *c, bool exact, const char *why) {
    double *acc = numbers(c->each);
    for (int64_t b = 0; b < c->map.spec.n_sequences; b++) {
        memset(acc, 0, (size_t)c->each * sizeof *acc);
        for (int64_t i = 0; i < c->map.per_sequence; i++) {
            const int64_t number = ordered(c, b, i) - c->map.range;
            for (int64_t k = 0; k < c->each; k++) {
                const double got = c->entering[number * c->each + k];
                CHECK(exact ? got == acc[k] : fabs(got - acc[k]) <= 1e-12 * (double)c->n_ranges,
                      "%s: %s %s: range %" PRId64 ", number %" PRId64 ": %.17g, not %.17g", why, shard_name(&c->seat),
                      c->to == CARRY_FORWARD ? "forward" : "backward", number, k, got, acc[k]);
                acc[k] = keep_of(c, number, k) * acc[k] + c->state[number * c->each + k];
            }
        }
    }
    mem_free(acc);
}

static void check_rows_forward(const struct carry_case *c) {
    for (int64_t i = 0; i < c->n_ranges; i++) {
        const struct token_range *t = &c->map.range[i];
        for (int64_t r = 0; r < c->k && t->begin < t->end; r++)
            for (int64_t col = 0; col < c->C; col++) {
                const int64_t at = t->begin - c->k + r;
                const double got = c->entering_rows[i * c->each_rows + r * c->C + col];
                const double want = at < 0 ? 0.0 : token(t->sequence, at, col);
                CHECK(got == want, "last(%" PRId64 "), %s: range %" PRId64 ", row %" PRId64 ": %g, not %g", c->k,
                      shard_name(&c->seat), i, r, got, want);
            }
    }
}

/* Every gradient goes to the token that it belongs to, summed over the ranges that read this token. */
static void check_rows_backward(const struct carry_case *c) {
    const int64_t S = c->map.spec.tokens;
    double *sum = numbers(c->map.spec.n_sequences * S * c->C);
    for (int64_t i = 0; i < c->n_ranges; i++)
        for (int64_t r = 0; r < c->k; r++)
            for (int64_t col = 0; col < c->C; col++) {
                const struct token_range *t = &c->map.range[i];
                const int64_t at = t->begin - c->k + r;
                if (at >= 0) sum[(t->sequence * S + at) * c->C + col] += c->rows[i * c->each_rows + r * c->C + col];
            }
    for (int64_t i = 0; i < c->n_ranges; i++)
        for (int64_t r = 0; r < c->k; r++)
            for (int64_t col = 0; col < c->C; col++) {
                const struct token_range *t = &c->map.range[i];
                const int64_t at = t->end - c->k + r;
                const double want = at < t->begin ? 0.0 : sum[(t->sequence * S + at) * c->C + col];
                const double got = c->entering_rows[i * c->each_rows + r * c->C + col];
                CHECK(got == want, "last(%" PRId64 ") backward, %s: range %" PRId64 ", row %" PRId64 ": %g, not %g",
                      c->k, shard_name(&c->seat), i, r, got, want);
            }
    mem_free(sum);
}

static double dot(const double *a, const double *b, int64_t n, double *size) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += a[i] * b[i];
        *size += fabs(a[i] * b[i]);
    }
    return sum;
}

/* The same numbers once forward and once backward: <S x, y> = <x, S' y>, for both carries. */
static void check_transpose(const struct carry_case *x, const struct carry_case *y) {
    double size = 0.0;
    const double sx_y = dot(x->entering, y->state, x->n_ranges * x->each, &size);
    const double x_sy = dot(x->state, y->entering, x->n_ranges * x->each, &size);
    CHECK(fabs(sx_y - x_sy) <= 1e-12 * size, "affine, %s: <S x, y> = %.17g, <x, S' y> = %.17g", shard_name(&x->seat),
          sx_y, x_sy);
    size = 0.0;
    double rows_y = 0.0;
    for (int64_t i = 0; i < x->n_ranges; i++)
        if (x->map.range[i].begin < x->map.range[i].end)
            rows_y += dot(x->entering_rows + i * x->each_rows, y->rows + i * x->each_rows, x->each_rows, &size);
    const double x_rows = dot(x->rows, y->entering_rows, x->n_ranges * x->each_rows, &size);
    CHECK(fabs(rows_y - x_rows) <= 1e-12 * size, "last(%" PRId64 "), %s: <S x, y> = %.17g, <x, S' y> = %.17g", x->k,
          shard_name(&x->seat), rows_y, x_rows);
}

static void run_case(struct carry_case *c, enum numbers_of kind, uint64_t seed) {
    carry_case_init(c);
    fill_affine(c, kind, seed);
    fill_rows(c, seed);
    run_ranks(c->seat.shard.n_ranks, carry_rank, c);
    check_affine(c, kind == INTEGERS, kind == INTEGERS ? "integers" : kind == NEAR_ONE ? "near one" : "mixed");
    if (c->to == CARRY_FORWARD) check_rows_forward(c);
    else check_rows_backward(c);
}

static void same_bits(const struct carry_case *a, const struct carry_case *b) {
    for (int64_t i = 0; i < a->n_ranges * a->each; i++)
        CHECK(!memcmp(&a->entering[i], &b->entering[i], sizeof(double)), "%s: number %" PRId64 ": %.17g, not %.17g",
              shard_name(&b->seat), i, b->entering[i], a->entering[i]);
}

struct sizes {
    const char *why;
    int64_t H, P, N, k, C;
    bool rates;
};
static const struct sizes sizes[] = {
    {"heads that no number of ranks divides", 3, 5, 4, 3, 7, false},
    {"fewer rows than ranks, one tap", 1, 3, 2, 1, 2, false},
    {"more taps than many ranges have tokens", 4, 2, 3, 15, 3, false},
    {"channels whose numbers have rates of their own", 9, 1, 4, 1, 2, true},
};

static void run_ways(const struct shard_spec *shard, const struct sizes *z, enum numbers_of kind) {
    struct carry_case c[3][2];
    for (int way = CARRY_GATHER; way <= CARRY_SCAN; way++) {
        for (int to = CARRY_FORWARD; to <= CARRY_BACKWARD; to++) {
            c[way][to] = (struct carry_case){.seat = {.shard = *shard, .way = way},
                                             .to = to,
                                             .H = z->H,
                                             .P = z->P,
                                             .N = z->N,
                                             .k = z->k,
                                             .C = z->C,
                                             .rates = z->rates};
            run_case(&c[way][to], kind, 11);
            /* the chain folds from segment to segment, the others over their tree */
            if (!shard->segments || way != CARRY_CHAIN || kind == INTEGERS)
                same_bits(&c[CARRY_GATHER][to], &c[way][to]);
        }
        check_transpose(&c[way][CARRY_FORWARD], &c[way][CARRY_BACKWARD]);
    }
    for (int way = 0; way < 3; way++)
        for (int to = 0; to < 2; to++) carry_case_term(&c[way][to]);
}

/* Segments: what enters each has the same bits for any number of ranks. */
static void run_segments(enum carry_way way, enum carry_to to, bool rates) {
    static const int ranks[] = {1, 2, 4, 8};
    struct carry_case c[4];
    for (int i = 0; i < 4; i++) {
        c[i] = (struct carry_case){
            .seat = {.shard = {.n_ranks = ranks[i], .n_sequences = 2, .tokens = 150, .grid = 8, .segments = true},
                     .way = way},
            .to = to,
            .rates = rates,
            .H = rates ? 15 : 3,
            .P = rates ? 1 : 5,
            .N = 4,
            .k = 3,
            .C = 2};
        run_case(&c[i], MIXED, 12);
        same_bits(&c[0], &c[i]);
    }
    for (int i = 0; i < 4; i++) carry_case_term(&c[i]);
}

int main(void) {
    static const int ranks[] = {1, 2, 3, 4, 8};
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++)
        for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++)
            for (int layout = SHARD_CONTIGUOUS; layout <= SHARD_ZIGZAG; layout++) {
                struct shard_spec s = {
                    .n_ranks = ranks[i], .layout = layout, .n_sequences = 1 + (int64_t)z % 2, .tokens = 67, .grid = 1};
                run_ways(&s, &sizes[z], MIXED);
                s.tokens = ranks[i] + 1; /* ranges of one token, some empty in zigzag */
                run_ways(&s, &sizes[z], INTEGERS);
                run_ways(&s, &sizes[z], NEAR_ONE);
                s.tokens = 50, s.grid = 8, s.segments = true; /* seven cells: some of eight ranks have none */
                run_ways(&s, &sizes[z], INTEGERS);
                run_ways(&s, &sizes[z], MIXED);
                s.segments = false;
                run_ways(&s, &sizes[z], NEAR_ONE);
            }
    for (int to = CARRY_FORWARD; to <= CARRY_BACKWARD; to++) {
        for (int rates = 0; rates < 2; rates++) {
            run_segments(CARRY_GATHER, to, rates);
            run_segments(CARRY_SCAN, to, rates);
        }
    }
    return check_end();
}
