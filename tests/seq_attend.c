/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* The seams of attention over ranks: every row arrives where it is read, and nowhere is it changed; gradients come home
 * by the transpose, <S x, y> = <x, S' y>, for swap (all of J/P, 1 of several holders) and keys (with and without a
 * window).  The bytes
 * are those of the rows that are read, and no more. */
#include "model/attend.h"
#include "tests/seams_case.h"

/* Rows of whole sequences: x of the forward pass, and what the seams gave for it. */
struct attend_case {
    struct seat_spec seat;
    bool swap, packed;
    int64_t H, J, P, window;
    int64_t tokens; /* of the micro-batch */
    int64_t *pos;   /* (tokens); documents of about 20 tokens, or one */
    double *q, *k, *v, *dout;
    double *dq, *dk, *dv, *o;                         /* what came home    */
    double *wide_x[CASE_RANKS], *wide_y[CASE_RANKS];  /* (tokens, columns) */
    double *wide_do[CASE_RANKS], *wide_o[CASE_RANKS]; /* swap              */
    int64_t cols[CASE_RANKS], o_cols;
    struct comm_count count[CASE_RANKS][N_COMM_USES];
};

static double draw(uint64_t stream, int64_t i) { return 2.0 * rng_uniform(5, stream, (uint64_t)i) - 1.0; }

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* One rank's attention: own rows, and the wide slots that attend_plan asked for. */
struct seat_attend {
    struct seat seat;
    struct wide wide;
    struct shard shard;
    struct flow flow;
    struct saved saved;
    struct attend a;
    double *mine; /* q, k, v, o, lse, dout, dq, dk, dv of my rows */
    double *wide_mem[N_WIDE];
    int64_t *index; /* range, pos, keys; wide range, pos, keys */
    int64_t work, attend_numbers;
};

static void place_index(struct seat_attend *s, const struct attend_case *c, const struct shard_map *map, int me) {
    const int64_t R = shard_map_ranges(map, me), T = map->tokens[me], B = map->spec.n_sequences, S = map->spec.tokens;
    void *mem = NULL;
    MUST(mem_take((3 * R + 1 + T + 3 * B + 1 + c->tokens + 2 * R) * 8, &mem));
    s->index = mem;
    int64_t *range = mem, *pos = range + R + 1, *keys = pos + T, *wide_range = keys + 2 * R;
    int64_t *wide_pos = wide_range + B + 1, *wide_keys = wide_pos + c->tokens;
    for (int64_t i = 0; i < R; i++) {
        const struct token_range *t = shard_map_range(map, me, i);
        range[i] = keys[2 * i] = t->row;
        keys[2 * i + 1] = t->row + t->end - t->begin;
        for (int64_t k = t->begin; k < t->end; k++) pos[t->row + k - t->begin] = c->pos[t->sequence * S + k];
    }
    range[R] = T;
    for (int64_t b = 0; b < B; b++) {
        wide_range[b] = wide_keys[2 * b] = b * S;
        wide_keys[2 * b + 1] = (b + 1) * S;
    }
    memcpy(wide_pos, c->pos, (size_t)c->tokens * sizeof *c->pos);
    wide_range[B] = B * S;
    s->wide = (struct wide){.n_ranks = map->spec.n_ranks,
                            .index = me,
                            .swap = c->swap,
                            .n_tokens = c->tokens,
                            .range = tensor_1d(wide_range, I64, B + 1),
                            .pos = tensor_1d(wide_pos, I64, c->tokens),
                            .keys = tensor_2d(c->swap ? wide_keys : NULL, I64, c->swap ? B : R, 2)};
    s->shard = (struct shard){.n_tokens = T,
                              .n_ranges = R,
                              .range = tensor_1d(range, I64, R + 1),
                              .pos = tensor_1d(pos, I64, T),
                              .keys = tensor_2d(keys, I64, R, 2),
                              .wide = &s->wide};
    s->flow.shard = &s->shard;
}

static void place_own(struct seat_attend *s, const struct attend_case *c, int64_t T) {
    const int64_t q = c->H * c->P, k = c->J * c->P;
    double *at = s->mine = numbers(T * (4 * q + 4 * k + c->H));
    struct tensor t[9];
    const int64_t cols[9] = {q, k, k, q, c->H, q, q, k, k};
    for (int i = 0; i < 9; i++) {
        t[i] = tensor_2d(at, F64, T, cols[i]);
        at += T * cols[i];
    }
    s->a = (struct attend){.core = {.heads = c->H,
                                    .key_heads = c->J,
                                    .head_width = c->P,
                                    .window = c->window,
                                    .scale = 1.0,
                                    .range = s->shard.range,
                                    .pos = s->shard.pos,
                                    .keys = s->shard.keys,
                                    .q = t[0],
                                    .k = t[1],
                                    .v = t[2],
                                    .o = t[3],
                                    .lse = t[4],
                                    .dout = t[5],
                                    .dq = t[6],
                                    .dk = t[7],
                                    .dv = t[8]}};
}

/* The plan, as a layer makes it: sizes of the wide slots and of what travels. */
static enum status plan_attend(struct seat_attend *s, const struct attend_case *c, const struct shard_map *map,
                               int me) {
    struct ctx ctx = {.ops = &ops_ref64, .real = F64, .space = HOST};
    struct plan p = {.ctx = &ctx, .flow = &s->flow, .saved = &s->saved};
    place_index(s, c, map, me);
    place_own(s, c, map->tokens[me]);
    const struct attend own = s->a;
    TRY(attend_plan(&p, 0, &s->a));
    s->a = own;
    s->work = p.work;
    s->attend_numbers = p.attend_numbers;
    return OK;
}

/* Rows of my tokens out of, or into, rows of all. */
static void own_rows(const struct seat_attend *s, double *all, struct tensor mine, bool out) {
    const struct shard_map *map = &s->seat.map;
    const int64_t cols = mine.shape[1];
    for (int64_t i = 0; i < shard_map_ranges(map, s->seat.me); i++) {
        const struct token_range *t = shard_map_range(map, s->seat.me, i);
        double *there = all + (t->sequence * map->spec.tokens + t->begin) * cols;
        double *here = (double *)mine.data + t->row * cols;
        memcpy(out ? there : here, out ? here : there, (size_t)((t->end - t->begin) * cols) * sizeof *all);
    }
}

/* Does some range of rank r see row `row` of sequence b? */
static bool visible(const struct attend_case *c, const struct shard_map *map, int r, int64_t b, int64_t row) {
    if (c->swap) return true;
    for (int64_t i = 0; i < shard_map_ranges(map, r); i++) {
        const struct token_range *t = shard_map_range(map, r, i);
        int64_t first = c->window > 0 && !map->spec.segments ? most(0, t->begin - c->window + 1) : 0;
        if (t->begin < t->end && !map->spec.segments)
            first = most(first, t->begin - c->pos[b * map->spec.tokens + t->begin]);
        if (t->sequence == b && t->begin < t->end && row >= first && row < t->end) return true;
    }
    return false;
}

static void copy_out(double **to, struct tensor t) {
    *to = numbers(tensor_count(t));
    memcpy(*to, t.data, (size_t)tensor_bytes(t));
}

/* Random gradients of what is seen, zero elsewhere, as the op leaves them. */
static void draw_wide(const struct attend_case *c, const struct seat_attend *s, struct tensor t, uint64_t stream) {
    const int64_t S = s->seat.map.spec.tokens;
    for (int64_t row = 0; row < t.shape[0]; row++)
        for (int64_t k = 0; k < t.shape[1]; k++)
            ((double *)t.data)[row * t.shape[1] + k] = visible(c, &s->seat.map, s->seat.me, row / S, row % S)
                                                           ? draw(stream + (uint64_t)s->seat.me, row * t.shape[1] + k)
                                                           : 0.0;
}

static enum status pass(struct seat_attend *s, enum attend_when when) {
    TRY(seams_mesh.attend_begin(&s->seat.step, NULL, &s->flow, &s->a, when));
    return seams_mesh.attend_end(&s->seat.step, NULL, &s->flow, &s->a, when);
}

static enum status move_all(struct attend_case *c, struct seat_attend *s) {
    const int me = s->seat.me;
    struct tensor wide[N_WIDE];
    for (int i = 0; i < N_WIDE; i++) {
        wide[i] = s->saved.slot[i].t;
        if (!s->saved.slot[i].name) continue;
        s->wide_mem[i] = numbers(tensor_count(wide[i]));
        s->saved.slot[i].t.data = wide[i].data = s->wide_mem[i];
        for (int64_t k = 0; k < tensor_count(wide[i]); k++) s->wide_mem[i][k] = NAN;
    }
    attend_fill(&s->a, &s->saved, 0, &s->shard);
    own_rows(s, c->q, s->a.mine.q, false);
    own_rows(s, c->k, s->a.mine.k, false);
    own_rows(s, c->v, s->a.mine.v, false);
    own_rows(s, c->dout, s->a.mine.dout, false);
    TRY(pass(s, ATTEND_QKV));
    c->cols[me] = wide[WIDE_QKV].shape[1];
    copy_out(&c->wide_x[me], wide[WIDE_QKV]);
    if (c->swap) draw_wide(c, s, wide[WIDE_O], 100);
    if (c->swap) copy_out(&c->wide_o[me], wide[WIDE_O]);
    TRY(pass(s, ATTEND_O));
    TRY(pass(s, ATTEND_DO));
    if (c->swap) copy_out(&c->wide_do[me], wide[WIDE_DO]);
    draw_wide(c, s, wide[WIDE_DQKV], 200);
    copy_out(&c->wide_y[me], wide[WIDE_DQKV]);
    TRY(pass(s, ATTEND_DQKV));
    own_rows(s, c->dq, s->a.mine.dq, true);
    own_rows(s, c->dk, s->a.mine.dk, true);
    own_rows(s, c->dv, s->a.mine.dv, true);
    own_rows(s, c->o, s->a.mine.o, true);
    return OK;
}

static enum status attend_rank(struct rank *r, void *arg) {
    struct attend_case *c = arg;
    struct seat_attend s = {.work = 0};
    struct shard_map map;
    struct seat_spec spec = c->seat;
    TRY(shard_map_init(&map, &c->seat.shard));
    enum status st = plan_attend(&s, c, &map, rank_index(r));
    spec.work = s.work;
    spec.swap = c->swap;
    spec.pos = c->pos;
    spec.attend_numbers = s.attend_numbers;
    if (st == OK) st = seat_open(&s.seat, r, &spec);
    if (st == OK) st = move_all(c, &s);
    if (st == OK) memcpy(c->count[s.seat.me], s.seat.seq.count, sizeof s.seat.seq.count);
    seat_close(&s.seat);
    shard_map_term(&map);
    for (int i = 0; i < N_WIDE; i++) mem_free(s.wide_mem[i]);
    mem_free(s.mine);
    mem_free(s.index);
    return st;
}

/* Rank r's wide q | k | v (keys: k | v) are the columns of its heads. */
static void check_arrived(const struct attend_case *c, const struct shard_map *map, int r) {
    const int n = c->seat.shard.n_ranks;
    const int64_t q = c->swap ? c->H / n * c->P : 0, k = (c->cols[r] - q) / 2, S = map->spec.tokens;
    const int64_t key = c->swap ? r * (c->H / n) / (c->H / c->J) * c->P : 0;
    for (int64_t row = 0; row < c->tokens; row++)
        for (int64_t col = 0; col < c->cols[r]; col++) {
            const double got = c->wide_x[r][row * c->cols[r] + col];
            const double want = col < q       ? c->q[row * c->H * c->P + r * q + col]
                                : col < q + k ? c->k[row * c->J * c->P + key + col - q]
                                              : c->v[row * c->J * c->P + key + col - q - k];
            if (visible(c, map, r, row / S, row % S))
                CHECK(got == want, "%s, rank %d: row %" PRId64 ", column %" PRId64 ": %g, not %g", shard_name(&c->seat),
                      r, row, col, got, want);
        }
}

/* swap: all others' tokens of my heads, and my tokens of all other heads, q | k | v and o, each way once.  keys: k | v
 * of the rows that my ranges see and another rank holds; on the way back my rows, once for each rank that saw them. */
static void check_counts(const struct attend_case *c, const struct shard_map *map, int r) {
    const int n = c->seat.shard.n_ranks;
    const int64_t T = map->tokens[r], S = map->spec.tokens;
    int64_t want = 0;
    for (int64_t i = 0; i < map->n_ranges && !c->swap; i++)
        for (int64_t row = map->range[i].begin; row < map->range[i].end; row++) {
            const int owner = map->range[i].rank;
            want += owner != r && visible(c, map, r, map->range[i].sequence, row);
            for (int other = 0; other < n && owner == r; other++)
                want += other != r && visible(c, map, other, map->range[i].sequence, row);
        }
    if (c->swap) want = map->spec.n_sequences * S - T + T * (n - 1);
    want *= 8 * (c->cols[r] + (c->swap ? c->H / n * c->P : 0));
    const int64_t got = c->count[r][c->swap ? COMM_SWAP : COMM_KEYS].bytes_received;
    CHECK(got == want, "%s, window %" PRId64 ", rank %d: %" PRId64 " bytes, not %" PRId64, shard_name(&c->seat),
          c->window, r, got, want);
}

static void add_dot(const double *a, const double *b, int64_t n, double *sum, double *size) {
    for (int64_t i = 0; i < n; i++) {
        if (b[i] == 0.0) continue; /* rows that nobody sees hold anything */
        *sum += a[i] * b[i];
        *size += fabs(a[i] * b[i]);
    }
}

static void check_transpose(const struct attend_case *c) {
    const int64_t q = c->tokens * c->H * c->P, k = c->tokens * c->J * c->P;
    double sx_y = 0.0, x_sy = 0.0, size = 0.0;
    for (int r = 0; r < c->seat.shard.n_ranks; r++)
        add_dot(c->wide_x[r], c->wide_y[r], c->tokens * c->cols[r], &sx_y, &size);
    if (c->swap) add_dot(c->dq, c->q, q, &x_sy, &size);
    add_dot(c->dk, c->k, k, &x_sy, &size);
    add_dot(c->dv, c->v, k, &x_sy, &size);
    CHECK(fabs(sx_y - x_sy) <= 1e-12 * size, "%s, H %" PRId64 " J %" PRId64 " window %" PRId64 ": %.17g, not %.17g",
          shard_name(&c->seat), c->H, c->J, c->window, x_sy, sx_y);
    if (!c->swap) return;
    sx_y = x_sy = size = 0.0;
    for (int r = 0; r < c->seat.shard.n_ranks; r++)
        add_dot(c->wide_do[r], c->wide_o[r], c->tokens * c->H / c->seat.shard.n_ranks * c->P, &sx_y, &size);
    add_dot(c->o, c->dout, q, &x_sy, &size);
    CHECK(fabs(sx_y - x_sy) <= 1e-12 * size, "%s: outputs: %.17g, not %.17g", shard_name(&c->seat), x_sy, sx_y);
}

static void run_case(struct attend_case *c) {
    struct shard_map map;
    double **x[] = {&c->q, &c->k, &c->v, &c->dout, &c->dq, &c->dk, &c->dv, &c->o};
    const int64_t q = c->H * c->P, k = c->J * c->P, cols[] = {q, k, k, q, q, k, k, q};
    c->tokens = c->seat.shard.n_sequences * c->seat.shard.tokens;
    void *pos = NULL;
    MUST(mem_take(c->tokens * 8, &pos));
    c->pos = pos;
    for (int64_t t = 0; t < c->tokens; t++) {
        const bool starts = t % c->seat.shard.tokens == 0 || (c->packed && rng_uniform(5, 9, (uint64_t)t) < 0.05);
        c->pos[t] = starts ? 0 : c->pos[t - 1] + 1;
    }
    for (int i = 0; i < 8; i++) {
        *x[i] = numbers(c->tokens * cols[i]);
        for (int64_t at = 0; i < 4 && at < c->tokens * cols[i]; at++) (*x[i])[at] = draw((uint64_t)i + 1, at);
    }
    run_ranks(c->seat.shard.n_ranks, attend_rank, c);
    MUST(shard_map_init(&map, &c->seat.shard));
    for (int r = 0; r < c->seat.shard.n_ranks; r++) {
        check_arrived(c, &map, r);
        check_counts(c, &map, r);
    }
    check_transpose(c);
    shard_map_term(&map);
    mem_free(c->pos);
    for (int i = 0; i < 8; i++) mem_free(*x[i]);
    for (int r = 0; r < c->seat.shard.n_ranks; r++) {
        mem_free(c->wide_x[r]);
        mem_free(c->wide_y[r]);
        mem_free(c->wide_do[r]);
        mem_free(c->wide_o[r]);
    }
}

int main(void) {
    static const struct {
        const char *why;
        bool swap;
        int64_t H, J, P, window;
        int ranks[6];
    } rows[] = {
        {"a key head a query head", true, 8, 8, 2, 0, {1, 2, 4, 8}},
        {"several key heads a rank, or several ranks a key head", true, 8, 2, 3, 0, {1, 2, 4, 8}},
        {"three", true, 6, 3, 2, 0, {1, 3}},
        {"one key head for all", true, 24, 1, 1, 9, {2, 3, 4, 8}},
        {"gathered", false, 3, 1, 2, 0, {1, 2, 3, 4, 8}},
        {"gathered, a window over several ranges", false, 4, 2, 3, 30, {2, 3, 4, 8}},
        {"gathered, a window shorter than a range", false, 4, 2, 3, 3, {2, 3, 4, 8}},
        {"gathered, a window of the query alone", false, 4, 2, 3, 1, {2, 3, 8}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (const int *n = rows[i].ranks; *n; n++)
            for (int way = 0; way < 32; way++) {
                const int64_t tokens[] = {57, *n + 1};
                const bool exact = way & 16;
                if (exact && (rows[i].swap || (*n & (*n - 1)) || way & 1)) continue;
                struct attend_case c = {.seat.shard = {.n_ranks = *n,
                                                       .layout = way & 1 ? SHARD_ZIGZAG : SHARD_CONTIGUOUS,
                                                       .n_sequences = way & 2 ? 2 : 1,
                                                       .tokens = tokens[(way & 4) > 0],
                                                       .grid = exact ? 4 : 1,
                                                       .segments = exact},
                                        .swap = rows[i].swap,
                                        .packed = way & 8,
                                        .H = rows[i].H,
                                        .J = rows[i].J,
                                        .P = rows[i].P,
                                        .window = rows[i].window};
                run_case(&c);
            }
    return check_end();
}
