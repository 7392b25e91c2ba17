/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_SEAMS_CASE_H
#define BATON_TESTS_SEAMS_CASE_H
/* seams_case.h - the carries of one layer over thread ranks, run on numbers that the test chose for every range, with
 * the bytes that each rank's communicator counted.  The affine carry and last(k) are under way at the same time. */
#include <inttypes.h>
#include "base/rng.h"
#include "kernels/ops.h"
#include "parallel/seams_mesh.h"
#include "tests/check.h"

#define CASE_RANKS 16

/* One rank's seams over a shard map, with the memory that they plan. */
struct seat {
    struct shard_map map;
    struct comm seq, tokens, tensor, expert;
    struct arena memory, work;
    struct ctx ctx;
    struct seams_mesh seams;
    struct step step;
    struct guests guests;
    int me;
};
struct seat_spec {
    struct shard_spec shard;
    enum carry_way way;
    int n_carries;
    struct carry_shape carry[2];
    bool swap;
    const int64_t *pos;
    int64_t attend_numbers, work;
    int tensor; /* ranks of that axis; 0: one.  The world then has seq x tensor */
    int64_t own_numbers, total_numbers, part_rows;
    int data, expert; /* likewise; expert regroups data x seq */
    double room;
    struct routed_most routed; /* of the one layer there is */
};

/* The axes of a spec with zeros for ones. */
static inline int at_least_one(int n) { return n > 0 ? n : 1; }

static inline enum status seat_comms(struct seat *s, struct rank *r, const struct seat_spec *spec) {
    const int tensor = at_least_one(spec->tensor), data = at_least_one(spec->data);
    const struct mesh_sizes sizes = {1, data, rank_size(r) / tensor / data, tensor, at_least_one(spec->expert)};
    struct mesh mesh;
    struct comm_limits limits = {0};
    for (int i = 0; i < sizes.seq; i++) {
        const int n = seams_mesh_transfers(&s->map, i), m = seams_mesh_tensor_transfers(&s->map, i, tensor);
        if (n > limits.transfers) limits.transfers = n;
        if (m > limits.transfers) limits.transfers = m;
    }
    TRY(mesh_place(&mesh, &sizes, rank_size(r), rank_index(r)));
    s->me = mesh_index(&mesh, MESH_SEQ);
    TRY(comm_init(&s->seq, r, &mesh, MESH_SEQ, &limits));
    TRY(comm_init(&s->tensor, r, &mesh, MESH_TENSOR, &limits));
    s->guests = experts_guests(&s->map, s->me, (int)sizes.expert, mesh_index(&mesh, MESH_EXPERT), spec->room);
    limits.transfers = experts_transfers(&s->map, s->me, &s->guests);
    TRY(comm_init(&s->expert, r, &mesh, MESH_EXPERT, &limits));
    return comm_init(&s->tokens, r, &mesh, MESH_TOKENS, NULL);
}

static inline enum status seat_open(struct seat *s, struct rank *r, const struct seat_spec *spec) {
    *s = (struct seat){0};
    TRY(shard_map_init(&s->map, &spec->shard));
    TRY(seat_comms(s, r, spec));
    s->ctx = (struct ctx){.ops = &ops_ref64, .work = &s->work, .real = F64, .space = HOST};
    const struct seams_mesh_spec seams = {.seq = &s->seq,
                                          .tokens = &s->tokens,
                                          .tensor = &s->tensor,
                                          .expert = spec->routed.experts > 0 ? &s->expert : NULL,
                                          .counts = &s->expert,
                                          .map = &s->map,
                                          .pos = spec->pos,
                                          .way = spec->way,
                                          .real = F64,
                                          .n_carries = spec->n_carries,
                                          .carry = spec->carry,
                                          .attend_numbers = spec->attend_numbers,
                                          .total_numbers = spec->total_numbers,
                                          .own_numbers = spec->own_numbers,
                                          .part_rows = spec->part_rows,
                                          .swap = spec->swap,
                                          .n_layers = spec->routed.experts > 0,
                                          .routed = spec->routed};
    const struct seams_mesh_bytes bytes = seams_mesh_bytes(&seams);
    TRY(arena_init(&s->memory, "a seat", bytes.ops + bytes.host));
    TRY(arena_init(&s->work, "a seat's workspace", spec->work));
    TRY(seams_mesh_init(&s->seams, &seams, &s->memory, &s->memory));
    ASSERT(s->memory.used == s->memory.size); /* what was planned, to the byte */
    s->step = (struct step){.ctx = &s->ctx, .seams = &seams_mesh, .seams_state = &s->seams};
    return OK;
}

static inline void seat_close(struct seat *s) {
    comm_term(&s->seq);
    comm_term(&s->tensor);
    comm_term(&s->expert);
    comm_term(&s->tokens);
    arena_term(&s->memory);
    arena_term(&s->work);
    shard_map_term(&s->map);
}

/* Rows of my ranges out of, or into, an array of all ranges in the map's order. */
static inline void seat_rows(const struct seat *s, double *all, double *mine, int64_t each, bool out) {
    for (int64_t i = 0; i < shard_map_ranges(&s->map, s->me); i++) {
        const int64_t number = shard_map_range(&s->map, s->me, i) - s->map.range;
        double *there = all + number * each, *here = mine + i * each;
        memcpy(out ? there : here, out ? here : there, (size_t)each * sizeof(double));
    }
}

static inline double *numbers(int64_t n) {
    void *mem = NULL;
    MUST(mem_take((n > 0 ? n : 1) * (int64_t)sizeof(double), &mem));
    return (double *)mem;
}

/* state, entering: (n, H, P, N) of all n ranges; decay (n, H); rows, entering_rows: (n, k, C). */
struct carry_case {
    struct seat_spec seat;
    enum carry_to to;
    int64_t H, P, N, k, C;
    int64_t n_ranges, each, each_rows; /* numbers of one range's state and rows */
    struct shard_map map;
    bool rates; /* decay counts time; log_rate (H P, N) */
    double *log_rate;
    double *decay, *state, *entering, *rows, *entering_rows;
    struct comm_count count[CASE_RANKS][N_COMM_USES];
};

static inline void carry_case_init(struct carry_case *c) {
    MUST(shard_map_init(&c->map, &c->seat.shard));
    c->n_ranges = c->map.n_ranges;
    c->each = c->H * c->P * c->N;
    c->each_rows = c->k * c->C;
    c->decay = numbers(c->n_ranges * c->H);
    c->state = numbers(c->n_ranges * c->each);
    c->entering = numbers(c->n_ranges * c->each);
    c->rows = numbers(c->n_ranges * c->each_rows);
    c->entering_rows = numbers(c->n_ranges * c->each_rows);
    c->log_rate = numbers(c->each);
    c->seat.n_carries = 2;
    c->seat.carry[0] = (struct carry_shape){CARRY_LAST, c->k, c->C};
    c->seat.carry[1] = (struct carry_shape){CARRY_AFFINE, c->H * c->P, c->N};
}

static inline void carry_case_term(struct carry_case *c) {
    mem_free(c->decay);
    mem_free(c->log_rate);
    mem_free(c->state);
    mem_free(c->entering);
    mem_free(c->rows);
    mem_free(c->entering_rows);
    shard_map_term(&c->map);
}

static inline enum status carry_move(struct carry_case *c, struct seat *s, double *mine) {
    const int64_t R = shard_map_ranges(&s->map, s->me);
    const int64_t shape[4] = {R, c->H, c->P, c->N}, rows_shape[4] = {R, c->k, c->C, 1};
    double *decay = mine, *state = decay + R * c->H, *entering = state + R * c->each;
    double *rows = entering + R * c->each, *entering_rows = rows + R * c->each_rows;
    struct carry affine = {.op = CARRY_AFFINE,
                           .to = c->to,
                           .id = 1,
                           .decay = tensor_2d(decay, F64, R, c->H),
                           .state = tensor_4d(state, F64, shape),
                           .entering = tensor_4d(entering, F64, shape)};
    struct carry last = {.op = CARRY_LAST,
                         .to = c->to,
                         .id = 0,
                         .state = tensor_4d(rows, F64, rows_shape),
                         .entering = tensor_4d(entering_rows, F64, rows_shape)};
    if (c->rates) affine.log_rate = tensor_2d(c->log_rate, F64, c->H * c->P, c->N);
    seat_rows(s, c->decay, decay, c->H, false);
    seat_rows(s, c->state, state, c->each, false);
    seat_rows(s, c->rows, rows, c->each_rows, false);
    for (int64_t i = 0; i < R * c->each; i++) entering[i] = NAN;
    for (int64_t i = 0; i < R * c->each_rows; i++) entering_rows[i] = NAN;
    TRY(seams_mesh.carry_begin(&s->step, NULL, NULL, &last));
    TRY(seams_mesh.carry_begin(&s->step, NULL, NULL, &affine));
    TRY(seams_mesh.carry_end(&s->step, NULL, NULL, &affine));
    TRY(seams_mesh.carry_end(&s->step, NULL, NULL, &last));
    seat_rows(s, c->entering, entering, c->each, true);
    seat_rows(s, c->entering_rows, entering_rows, c->each_rows, true);
    return OK;
}

static inline enum status carry_rank(struct rank *r, void *arg) {
    struct carry_case *c = (struct carry_case *)arg;
    struct seat s;
    enum status st = seat_open(&s, r, &c->seat);
    double *mine = numbers(shard_map_ranges(&c->map, rank_index(r)) * (c->H + 2 * c->each + 2 * c->each_rows));
    if (st == OK) st = carry_move(c, &s, mine);
    if (st == OK) memcpy(c->count[s.me], s.seq.count, sizeof s.seq.count);
    seat_close(&s);
    mem_free(mine);
    return st;
}

static inline void run_ranks(int n_ranks, world_fn *fn, void *arg) {
    const struct world_spec spec = {.n_ranks = n_ranks, .deadline_s = 60};
    struct world *w = NULL;
    MUST(world_open(&w, &spec));
    MUST(world_run(w, fn, arg));
    world_close(w);
}

static inline const char *shard_name(const struct seat_spec *s) {
    static const char *const ways[] = {"gather", "chain", "scan"};
    static char text[160];
    snprintf(text, sizeof text, "%s, %s, %d ranks, %" PRId64 " x %" PRId64 " tokens, grid %" PRId64 "%s", ways[s->way],
             s->shard.layout == SHARD_ZIGZAG ? "zigzag" : "contiguous", s->shard.n_ranks, s->shard.n_sequences,
             s->shard.tokens, s->shard.grid, s->shard.segments ? ", segments" : "");
    return text;
}

#endif
