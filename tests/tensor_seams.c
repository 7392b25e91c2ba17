/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* The seams of the tensor axis over thread ranks: enter and leave bring every row to its place, leave and total add all
 * shares, <S x, y> = <x, S' y>, and the bytes are those of the header, whole and by parts.  Work on a part has its rows
 * there, and stands beside the others' travel.  Numbers are small integers: sums are exact. */
#include <sched.h>
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
    int64_t part_rows; /* 0: whole */
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

/* What the work on rows sees: which rows it has been given, and what has been sent by then. */
struct seen {
    const struct seat *s;
    struct job *j;
    int rank;
    double *all;
    char *done; /* of each row */
    int64_t sent, calls, rests, n_done;
};

static int64_t sent_of(const struct seat *s) { return s->tensor.count[COMM_TENSOR].bytes_sent; }

static void mark(struct seen *w, int64_t begin, int64_t n) {
    for (int64_t i = begin; i < begin + n; i++) {
        CHECK(!w->done[i], "%s, rank %d: row %d is worked on twice", w->j->c->why, w->rank, (int)i);
        w->done[i] = 1;
    }
    w->calls++;
    w->n_done += n;
}

/* Rows that entered are there. */
static enum status read_rows(struct step *step, void *arg, int64_t begin, int64_t n) {
    struct seen *w = arg;
    const int64_t D = w->j->c->channels, base = w->s->me * PLACE;
    (void)step;
    mark(w, begin, n);
    for (int64_t i = begin * D; i < (begin + n) * D; i++)
        CHECK(w->all[i] == x_of(base + i / D, i % D), "%s, rank %d: row %d at work: %g, not %g", w->j->c->why, w->rank,
              (int)(i / D), w->all[i], x_of(base + i / D, i % D));
    return OK;
}

/* Rows that are to leave are made here. */
static enum status write_rows(struct step *step, void *arg, int64_t begin, int64_t n) {
    struct seen *w = arg;
    const int64_t D = w->j->c->channels;
    (void)step;
    mark(w, begin, n);
    for (int64_t i = begin * D; i < (begin + n) * D; i++) w->all[i] = y_of(w->rank, i / D, i % D);
    w->sent = sent_of(w->s);
    return OK;
}

/* All rows have been made and are on their way. */
static enum status rest(struct step *step, void *arg) {
    struct seen *w = arg;
    (void)step;
    w->rests++;
    w->sent = sent_of(w->s);
    return OK;
}

static void check_work(const struct seen *w, const struct seat *s, const char *what) {
    const int n = s->tensor.size;
    int64_t parts = 0;
    for (int64_t r = 0; r < shard_map_ranges(&s->map, s->me); r++)
        for (int k = 0; k < n; k++) parts += own_share(&s->map, s->me, r, n, k).rows > 0;
    const int64_t least = w->j->part_rows * n * shard_map_ranges(&s->map, s->me);
    const bool cut = least > 0 && n > 1 && !w->j->c->segments && s->map.tokens[s->me] >= least;
    CHECK(w->n_done == s->map.tokens[s->me], "%s, rank %d, %s: %d of %d rows were worked on", w->j->c->why, w->rank,
          what, (int)w->n_done, (int)s->map.tokens[s->me]);
    CHECK(cut ? w->calls == parts : w->calls == 1, "%s, rank %d, %s: %d parts, %d are expected", w->j->c->why, w->rank,
          what, (int)w->calls, cut ? (int)parts : 1);
}

struct places {
    double *own, *all, *back, *y;
    char *done;
};

static enum status move(struct seat *s, struct job *j, int rank, const struct places *p, bool with_rest) {
    const int64_t U = own_tokens(s), T = s->map.tokens[s->me], D = j->c->channels;
    const bool one = s->tensor.size == 1; /* the two forms are one memory */
    struct seen in = {.s = s, .j = j, .rank = rank, .all = one ? p->own : p->all, .done = p->done}, out = in;
    const struct row_work read = {.rows = read_rows, .arg = &in};
    const struct row_work write = {.rows = write_rows, .rest = with_rest ? rest : NULL, .arg = &out};
    out.all = p->y, out.done = p->done + T;
    TRY(seams_mesh.enter(&s->step, tensor_2d(p->own, F64, U, D), tensor_2d(in.all, F64, T, D), &read));
    check_work(&in, s, "enter");
    const int64_t before = sent_of(s);
    TRY(seams_mesh.leave(&s->step, tensor_2d(p->y, F64, T, D), tensor_2d(one ? p->y : p->back, F64, U, D), &write));
    if (!with_rest) check_work(&out, s, "leave");
    CHECK(out.rests == with_rest && out.n_done == T, "%s, rank %d: %d rests", j->c->why, rank, (int)out.rests);
    if (out.calls > 1 && U > 0)
        CHECK(out.sent == sent_of(s) && out.sent > before, "%s, rank %d: own rows wait for nothing: %d bytes of %d",
              j->c->why, rank, (int)out.sent, (int)sent_of(s));
    if (with_rest) CHECK(out.sent == sent_of(s), "%s, rank %d: rows leave behind the rest", j->c->why, rank);
    return OK;
}

static enum status enter_leave(struct seat *s, struct job *j, int rank, bool with_rest) {
    const int64_t U = own_tokens(s), T = s->map.tokens[s->me], D = j->c->channels, base = s->me * PLACE;
    double *own = numbers(2 * U * D), *all = numbers(2 * T * D + (2 * T + 7) / 8), *back = own + U * D,
           *y = all + T * D;
    const struct places p = {own, all, back, y, (char *)(y + T * D)};
    const int64_t before = s->tensor.count[COMM_TENSOR].bytes_received;
    memset(p.done, 0, (size_t)(2 * T));
    for (int64_t i = 0; i < U * D; i++) own[i] = x_of(base + place_of(s, i / D), i % D);
    for (int64_t i = 0; i < T * D; i++) y[i] = NAN;
    TRY(move(s, j, rank, &p, with_rest));
    if (s->tensor.size == 1)
        memcpy(all, own, (size_t)(T * D) * sizeof *all), memcpy(back, y, (size_t)(T * D) * sizeof *y);
    for (int64_t i = 0; i < T * D; i++) j->enter[rank].forward += all[i] * y_of(rank, i / D, i % D);
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
                                   .total_numbers = 5 * c->channels,
                                   .part_rows = j->part_rows};
    enum status st = seat_open(&s, r, &spec);
    if (st == OK) st = enter_leave(&s, j, rank_index(r), false);
    if (st == OK) st = enter_leave(&s, j, rank_index(r), true);
    if (st == OK) st = total(&s, j, rank_index(r));
    seat_close(&s);
    return st;
}

static void check_sums(const struct sums *s, int n, const char *what, const char *why) {
    double forward = 0.0, back = 0.0;
    for (int r = 0; r < n; r++) forward += s[r].forward, back += s[r].back;
    CHECK(forward == back, "%s, %s: <S x, y> = %.17g, <x, S' y> = %.17g", why, what, forward, back);
}

/* One rank works on its own rows before the other has begun: it would wait for ever if it waited first. */
static int worked;

static enum status first_rows(struct step *s, void *arg, int64_t begin, int64_t n) {
    (void)s, (void)begin, (void)n;
    *(bool *)arg = true;
    __atomic_store_n(&worked, 1, __ATOMIC_RELEASE);
    return OK;
}

static enum status early_late(struct rank *r, void *arg) {
    enum { T = 8, D = 2 };
    struct seat s;
    double own[T / 2 * D] = {0}, all[T * D];
    bool called = false;
    (void)arg;
    const struct seat_spec spec = {.shard = {.n_ranks = 1, .n_sequences = 1, .tokens = T, .grid = 1},
                                   .tensor = 2,
                                   .own_numbers = T * D,
                                   .total_numbers = 1,
                                   .part_rows = 1};
    const struct row_work work = {.rows = first_rows, .arg = &called};
    enum status st = seat_open(&s, r, &spec);
    while (st == OK && rank_index(r) == 1 && !__atomic_load_n(&worked, __ATOMIC_ACQUIRE)) sched_yield();
    if (st == OK) st = seams_mesh.enter(&s.step, tensor_2d(own, F64, T / 2, D), tensor_2d(all, F64, T, D), &work);
    CHECK(st != OK || called, "no rows were worked on");
    seat_close(&s);
    return st;
}

static void check_case(const struct tensor_case *c, int64_t part_rows) {
    struct job j = {.c = c, .part_rows = part_rows};
    const int n = c->seq * c->tensor;
    run_ranks(n, run, &j);
    check_sums(j.enter, n, "enter and leave", c->why);
    check_sums(j.total, n, "total", c->why);
}

int main(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int64_t part_rows = 0; part_rows <= 2; part_rows++) check_case(&cases[i], part_rows);
    run_ranks(2, early_late, NULL);
    return check_end();
}
