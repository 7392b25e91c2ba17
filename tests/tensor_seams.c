/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* The seams of the tensor axis over thread ranks: enter and leave bring every row to its place, leave and total add all
 * shares, <S x, y> = <x, S' y>, and the bytes are those of the header.  Numbers are small integers: sums are exact. */
#include "tests/seams_case.h"

struct tensor_case {
    const char *why;
    int seq, tensor;
    enum shard_layout layout;
    int64_t sequences, tokens, grid, channels;
    bool segments;
};
static const struct tensor_case cases[] = {
    {"one rank", 1, 1, SHARD_CONTIGUOUS, 2, 9, 1, 3, false},
    {"two ranks, even", 1, 2, SHARD_CONTIGUOUS, 1, 8, 1, 4, false},
    {"rows that do not divide", 1, 3, SHARD_CONTIGUOUS, 2, 11, 1, 5, false},
    {"fewer rows than ranks", 1, 4, SHARD_CONTIGUOUS, 1, 3, 1, 2, false},
    {"one token on each rank of seq", 3, 2, SHARD_CONTIGUOUS, 1, 3, 1, 7, false},
    {"with seq, uneven", 2, 2, SHARD_CONTIGUOUS, 3, 13, 1, 3, false},
    {"zigzag", 2, 3, SHARD_ZIGZAG, 2, 17, 1, 2, false},
    {"segments of exact mode", 2, 2, SHARD_CONTIGUOUS, 1, 37, 5, 3, true},
    {"eight ranks", 2, 4, SHARD_CONTIGUOUS, 2, 30, 1, 1, false},
};
enum { RANKS = 8, PLACE = 1 << 10 };

struct sums {
    double forward, back; /* <S x, y>, <x, S' y> of a rank */
};
struct job {
    const struct tensor_case *c;
    struct sums enter[RANKS], total[RANKS];
};

static double x_of(int64_t row, int64_t col) { return (double)((row * 31 + col * 7) % 61 - 30); }
static double y_of(int rank, int64_t row, int64_t col) { return (double)((rank * 17 + row * 13 + col * 5) % 53 - 26); }

static int64_t own_tokens(const struct seat *s) {
    int64_t n = 0;
    for (int64_t r = 0; r < shard_map_ranges(&s->map, s->me); r++)
        n += own_share(&s->map, s->me, r, s->tensor.size, s->tensor.index).rows;
    return n;
}

/* The row among all of this rank of seq that own row i is. */
static int64_t place_of(const struct seat *s, int64_t i) {
    for (int64_t r = 0;; r++) {
        const struct own own = own_share(&s->map, s->me, r, s->tensor.size, s->tensor.index);
        if (i < own.rows) return own.row + i;
        i -= own.rows;
    }
}

static enum status enter_leave(struct seat *s, struct job *j, int rank) {
    const int64_t U = own_tokens(s), T = s->map.tokens[s->me], D = j->c->channels, base = s->me * PLACE;
    double *own = numbers(2 * U * D), *all = numbers(2 * T * D), *back = own + U * D, *y = all + T * D;
    const int64_t before = s->tensor.count[COMM_TENSOR].bytes_received;
    for (int64_t i = 0; i < U * D; i++) own[i] = x_of(base + place_of(s, i / D), i % D);
    for (int64_t i = 0; i < T * D; i++) y[i] = y_of(rank, i / D, i % D);
    const bool one = s->tensor.size == 1; /* the two forms are one memory */
    TRY(seams_mesh.enter(&s->step, tensor_2d(own, F64, U, D), tensor_2d(one ? own : all, F64, T, D)));
    TRY(seams_mesh.leave(&s->step, tensor_2d(y, F64, T, D), tensor_2d(one ? y : back, F64, U, D)));
    if (one) memcpy(all, own, (size_t)(T * D) * sizeof *all), memcpy(back, y, (size_t)(T * D) * sizeof *y);
    for (int64_t i = 0; i < T * D; i++) {
        CHECK(all[i] == x_of(base + i / D, i % D), "%s, rank %d: row %d of all: %g, not %g", j->c->why, rank,
              (int)(i / D), all[i], x_of(base + i / D, i % D));
        j->enter[rank].forward += all[i] * y_of(rank, i / D, i % D);
    }
    for (int64_t i = 0; i < U * D; i++) {
        double want = 0.0;
        for (int k = 0; k < s->tensor.size; k++) want += y_of(rank - s->tensor.index + k, place_of(s, i / D), i % D);
        CHECK(back[i] == want, "%s, rank %d: own row %d: %g, not %g", j->c->why, rank, (int)(i / D), back[i], want);
        j->enter[rank].back += own[i] * back[i];
    }
    const int64_t got = s->tensor.count[COMM_TENSOR].bytes_received - before;
    const int64_t bytes = 8 * D * (T - U + (s->tensor.size - 1) * U);
    CHECK(got == bytes, "%s, rank %d: %d bytes received, the header says %d", j->c->why, rank, (int)got, (int)bytes);
    mem_free(own);
    mem_free(all);
    return OK;
}

/* A sum over the axis is its own transpose. */
static enum status total(struct seat *s, struct job *j, int rank) {
    const int64_t n = j->c->channels * 5;
    double *x = numbers(2 * n), *y = x + n;
    for (int64_t i = 0; i < n; i++) x[i] = y_of(rank, i, 3), y[i] = y_of(rank, i, 8);
    TRY(seams_mesh.total(&s->step, tensor_1d(x, F64, n), AXIS_TENSOR));
    TRY(seams_mesh.total(&s->step, tensor_1d(y, F64, n), AXIS_TENSOR));
    for (int64_t i = 0; i < n; i++) {
        double want = 0.0;
        for (int k = 0; k < s->tensor.size; k++) want += y_of(rank - s->tensor.index + k, i, 3);
        CHECK(x[i] == want, "%s, rank %d: total %d is %g, not %g", j->c->why, rank, (int)i, x[i], want);
        j->total[rank].forward += x[i] * y_of(rank, i, 8);
        j->total[rank].back += y_of(rank, i, 3) * y[i];
    }
    mem_free(x);
    return OK;
}

static enum status run(struct rank *r, void *arg) {
    struct job *j = arg;
    const struct tensor_case *c = j->c;
    struct seat s;
    const struct seat_spec spec = {.shard = {.n_ranks = c->seq,
                                             .layout = c->layout,
                                             .n_sequences = c->sequences,
                                             .tokens = c->tokens,
                                             .grid = c->grid,
                                             .segments = c->segments},
                                   .tensor = c->tensor,
                                   .own_numbers = c->sequences * c->tokens * c->channels,
                                   .total_numbers = 5 * c->channels};
    enum status st = seat_open(&s, r, &spec);
    if (st == OK) st = enter_leave(&s, j, rank_index(r));
    if (st == OK) st = total(&s, j, rank_index(r));
    seat_close(&s);
    return st;
}

static void check_sums(const struct sums *s, int n, const char *what, const char *why) {
    double forward = 0.0, back = 0.0;
    for (int r = 0; r < n; r++) forward += s[r].forward, back += s[r].back;
    CHECK(forward == back, "%s, %s: <S x, y> = %.17g, <x, S' y> = %.17g", why, what, forward, back);
}

int main(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job j = {.c = &cases[i]};
        const int n = cases[i].seq * cases[i].tensor;
        run_ranks(n, run, &j);
        check_sums(j.enter, n, "enter and leave", cases[i].why);
        check_sums(j.total, n, "total", cases[i].why);
    }
    return check_end();
}
