/* SPDX-License-Identifier: Apache-2.0 */
#include "parallel/seams_mesh.h"
#include <string.h>
#include "kernels/add/add.h"
#include "kernels/copy/copy.h"
#include "kernels/fill/fill.h"
#include "parallel/carry_fold.h"

void list_clear(struct seams_mesh *m) { m->n_list = 0; }

void list_send(struct seams_mesh *m, int peer, const void *data, int64_t bytes) {
    if (bytes == 0) return;
    ASSERT(m->n_list < m->room);
    m->list[m->n_list++] = (struct transfer){.peer = peer, .send = data, .send_bytes = bytes};
}

void list_recv(struct seams_mesh *m, int peer, void *data, int64_t bytes) {
    if (bytes == 0) return;
    ASSERT(m->n_list < m->room);
    m->list[m->n_list++] = (struct transfer){.peer = peer, .recv = data, .recv_bytes = bytes};
}

void list_own(struct seams_mesh *m, const void *from, void *to, int64_t bytes) {
    if (bytes == 0) return;
    ASSERT(m->n_list < m->room);
    m->list[m->n_list++] = (struct transfer){
        .peer = m->spec.expert->index, .send = from, .send_bytes = bytes, .recv = to, .recv_bytes = bytes};
}

void list_trip(struct seams_mesh *m, const struct trip *trip) {
    const struct shard_map *map = m->spec.map;
    const int64_t R = shard_map_ranges(map, trip->owner);
    const int reader = trip->send ? trip->peer : m->me;
    for (int64_t i = 0, end; i < R; i = end + 1) {
        for (end = i; end < R; end++)
            if (!trip->travels(map, shard_map_range(map, trip->owner, end), reader, trip->to)) break;
        char *at = trip->base + i * trip->bytes;
        if (trip->send) list_send(m, trip->peer, at, (end - i) * trip->bytes);
        else list_recv(m, trip->peer, at, (end - i) * trip->bytes);
    }
}

bool has_behind(const struct shard_map *map, const struct token_range *t, enum carry_to to) {
    return (t - map->range) % map->per_sequence != (to == CARRY_FORWARD ? map->per_sequence - 1 : 0);
}

bool has_before(const struct shard_map *map, const struct token_range *t, enum carry_to to) {
    return has_behind(map, t, to == CARRY_FORWARD ? CARRY_BACKWARD : CARRY_FORWARD);
}

const struct token_range *map_next(const struct shard_map *map, int64_t b, int64_t i, enum carry_to to) {
    const int64_t n = map->per_sequence;
    if (i >= n) return NULL;
    return &map->range[b * n + (to == CARRY_FORWARD ? i : n - 1 - i)];
}

enum status rows_copy(struct step *s, struct tensor x, struct tensor y) {
    return s->ctx->ops->copy_fwd(s->ctx, &(struct copy){.x = x, .y = y});
}

enum status rows_add(struct step *s, struct tensor x, struct tensor y) {
    return s->ctx->ops->add_fwd(s->ctx, &(struct add){.x = y, .y = x, .out = y, .scale = 1.0});
}

enum status rows_zero(struct step *s, struct tensor x) {
    return s->ctx->ops->fill_fwd(s->ctx, &(struct fill){.x = x, .value = 0.0});
}

struct tensor range_view(struct tensor t, int64_t index, int64_t rows, int64_t cols) {
    ASSERT(tensor_packed(t) && t.pitch == rows * cols);
    return tensor_like(t, tensor_rows(t, index, 1).data, rows, cols);
}

static bool quiet_carry(struct step *s, const struct carry *c) {
    return is_quiet(mesh_of(s)->quiet, c->op == CARRY_LAST ? COMM_HALO : COMM_CARRY);
}

static enum status carry_begin(struct step *s, const struct layer *l, struct flow *f, struct carry *c) {
    (void)l, (void)f;
    ASSERT(c->id < LANES);
    if (quiet_carry(s, c)) return OK;
    if (c->op == CARRY_LAST) return last_begin(s, c);
    switch (mesh_of(s)->spec.way) {
    case CARRY_GATHER:
        return gather_begin(s, c);
    case CARRY_SCAN:
        return scan_begin(s, c);
    case CARRY_CHAIN:
        break; /* nothing can leave before what enters has come */
    }
    return OK;
}

static enum status carry_end(struct step *s, const struct layer *l, struct flow *f, struct carry *c) {
    (void)l, (void)f;
    if (quiet_carry(s, c)) return rows_zero(s, c->entering);
    if (c->op == CARRY_LAST) return last_end(s, c);
    switch (mesh_of(s)->spec.way) {
    case CARRY_GATHER:
        return gather_end(s, c);
    case CARRY_SCAN:
        return scan_end(s, c);
    case CARRY_CHAIN:
        break;
    }
    return chain_end(s, c);
}

static enum status attend_begin(struct step *s, const struct layer *l, struct flow *f, struct attend *a,
                                enum attend_when when) {
    (void)l;
    if (!f->shard->wide) return OK;
    return f->shard->wide->swap ? swap_begin(s, f, a, when) : keys_begin(s, f, a, when);
}

static enum status attend_end(struct step *s, const struct layer *l, struct flow *f, struct attend *a,
                              enum attend_when when) {
    (void)l;
    if (!f->shard->wide) return OK;
    return f->shard->wide->swap ? swap_end(s, f, a, when) : keys_end(s, f, a, when);
}

static enum status routed_begin(struct step *s, const struct layer *l, struct flow *f, struct routed *r,
                                enum routed_when when) {
    return f->shard->guests ? experts_begin(s, l, r, when) : OK;
}

static enum status routed_end(struct step *s, const struct layer *l, struct flow *f, struct routed *r,
                              enum routed_when when) {
    return f->shard->guests ? experts_end(s, l, r, when) : OK;
}

static struct comm *comm_over(const struct seams_mesh *m, unsigned axes) {
    if (axes == AXIS_TENSOR) return m->spec.tensor;
    ASSERT(axes == AXIS_SEQ || axes == (AXIS_DATA | AXIS_SEQ));
    return axes & AXIS_DATA ? m->spec.tokens : m->spec.seq;
}

/* Sums of numbers that the plan knows. */
static enum status total(struct step *s, struct tensor t, unsigned axes) {
    struct seams_mesh *m = mesh_of(s);
    struct comm *over = comm_over(m, axes);
    const enum comm_use use = axes == AXIS_TENSOR ? COMM_TENSOR : COMM_CONTROL;
    if (over->size == 1 || is_quiet(m->quiet, use)) return OK;
    ASSERT(tensor_packed(t));
    ASSERT(all_reduce_scratch(over, t.dtype, tensor_count(t)) <= m->scratch_bytes);
    struct reduction r = {.use = use,
                          .dtype = t.dtype,
                          .in = t.data,
                          .out = t.data,
                          .n = tensor_count(t),
                          .tree = m->spec.map->spec.segments && axes != AXIS_TENSOR,
                          .scratch = m->scratch};
    TRY(all_reduce_begin(over, &r));
    return all_reduce_end(over, &r);
}

static enum status need(struct step *s, int block) { return sharding_need(mesh_of(s)->spec.shards, block); }
static enum status done(struct step *s, int block) { return sharding_done(mesh_of(s)->spec.shards, s, block); }

const struct seams seams_mesh = {
    .name = "mesh",
    .carry_begin = carry_begin,
    .carry_end = carry_end,
    .attend_begin = attend_begin,
    .attend_end = attend_end,
    .routed_begin = routed_begin,
    .routed_end = routed_end,
    .enter = tensor_enter,
    .leave = tensor_leave,
    .total = total,
    .need = need,
    .done = done,
};

/* ---- memory ---- */

int seams_mesh_transfers(const struct shard_map *map, int me) {
    const int64_t R = shard_map_ranges(map, me), P = map->spec.n_ranks;
    return (int)(R * P + map->n_ranges + 32 * R + 2 * P); /* 32: a halo out of ranges of one token, both ways */
}

int seams_mesh_tensor_transfers(const struct shard_map *map, int me, int n) {
    return n > 1 ? (int)(2 * (n - 1) * shard_map_ranges(map, me)) : 0;
}

static void size_lanes(struct seams_mesh *m) {
    const struct seams_mesh_spec *spec = &m->spec;
    const struct shard_map *map = spec->map;
    const int64_t R = shard_map_ranges(map, m->me), n = map->n_ranges, P = map->spec.n_ranks;
    for (int i = 0; i < spec->n_carries; i++) {
        const int64_t real = dtype_bytes(spec->carry[i].op == CARRY_LAST ? spec->real : dtype_wide(spec->real));
        const int64_t rows = spec->carry[i].rows, cols = spec->carry[i].cols, block = (rows + P - 1) / P;
        if (spec->carry[i].op == CARRY_LAST) {
            m->lane_recv = most(m->lane_recv, last_back_rows(map, m->me, rows) * cols * real);
            continue;
        }
        /* A message has at most a decay a row; a block of the scan one row more than its share. */
        const struct block all = {.rows = rows, .per_head = 1, .N = cols},
                           part = {.rows = block, .per_head = 1, .N = cols};
        const bool gather = spec->way == CARRY_GATHER, exact = map->spec.segments;
        const int64_t per = map->per_sequence;
        if (spec->way == CARRY_SCAN) m->lane_send = most(m->lane_send, R * block_numbers(&all) * real);
        if (spec->way == CARRY_CHAIN) m->lane_fold = most(m->lane_fold, rows * cols * real);
        else m->lane_recv = most(m->lane_recv, n * block_numbers(gather ? &all : &part) * real);
        if (gather) m->lane_fold = most(m->lane_fold, block_fold_numbers(&all, per, exact) * real);
        if (spec->way == CARRY_SCAN)
            m->lane_fold = most(m->lane_fold, (n * block * cols + block_fold_numbers(&part, per, exact)) * real);
    }
    /* swap: packed tensors both ways.  keys: gradients from every rank that reads mine. */
    const int64_t token = spec->attend_numbers * dtype_bytes(spec->real);
    m->attend_send = spec->swap ? map->tokens[m->me] * token : 0;
    m->attend_recv = spec->swap ? m->attend_send : keys_back_rows(map, m->me) * token;
}

enum { SCRATCH_NUMBERS = 64 };

/* The list; exchanges under way over tensor; keys as the host lists them, and where ops read them; scratch of sums;
 * tables of experts. */
enum { LIST, CROSSING, KEYS_HOST, KEYS, SCRATCH, TABLE, OFFSETS, SECTIONS, N_OTHERS };
static void other_bytes(const struct seams_mesh *m, int64_t bytes[N_OTHERS]) {
    const int64_t keys = WINDOWS_MAX * shard_map_ranges(m->spec.map, m->me) * 16;
    const bool apart = m->spec.space == DEVICE;
    bytes[LIST] = m->room * (int64_t)sizeof *m->list;
    bytes[CROSSING] = m->spec.tensor->size * (int64_t)sizeof *m->crossing;
    bytes[KEYS_HOST] = apart ? 2 * keys : 0;
    bytes[KEYS] = keys;
    bytes[SCRATCH] =
        most(SCRATCH_NUMBERS, m->spec.total_numbers) * 8 * 2 * most(m->spec.tokens->size, m->spec.tensor->size);
    bytes[TABLE] = m->spec.n_layers * m->table_numbers * 8;
    bytes[OFFSETS] = apart ? m->spec.n_layers * m->spec.routed.offsets * 8 : 0;
    bytes[SECTIONS] = m->spec.expert ? (m->spec.expert->size + 1) * 8 : 0;
}

static void sizes(struct seams_mesh *m, const struct seams_mesh_spec *spec) {
    *m = (struct seams_mesh){.spec = *spec, .me = spec->seq->index};
    m->room = (int)most(seams_mesh_transfers(spec->map, m->me),
                        seams_mesh_tensor_transfers(spec->map, m->me, spec->tensor->size));
    if (spec->expert) {
        const struct guests g = experts_guests(spec->map, m->me, spec->expert->size, spec->expert->index, 0.0);
        m->room = (int)most(m->room, experts_transfers(spec->map, m->me, &g));
        m->table_numbers = g.sections * (spec->routed.experts + 1);
    }
    m->own_bytes = (spec->tensor->size - 1) * spec->own_numbers * dtype_bytes(spec->real);
    size_lanes(m);
}

struct seams_mesh_bytes seams_mesh_bytes(const struct seams_mesh_spec *spec) {
    struct seams_mesh m;
    int64_t bytes[N_OTHERS];
    sizes(&m, spec);
    other_bytes(&m, bytes);
    int64_t host = 0;
    for (int i = 0; i < N_OTHERS; i++)
        if (i != KEYS && i != SCRATCH) host += arena_round(bytes[i]);
    const int64_t lanes = LANES * (arena_round(m.lane_send) + arena_round(m.lane_recv) + arena_round(m.lane_fold));
    return (struct seams_mesh_bytes){.ops = lanes + arena_round(m.attend_send) + arena_round(m.attend_recv) +
                                            arena_round(m.own_bytes) + arena_round(bytes[KEYS]) +
                                            arena_round(bytes[SCRATCH]),
                                     .host = host};
}

static enum status take(struct arena *arena, int64_t bytes, void *out) {
    void *mem = NULL;
    TRY(arena_take(arena, bytes, &mem));
    memcpy(out, &mem, sizeof mem);
    return OK;
}

enum status seams_mesh_init(struct seams_mesh *m, const struct seams_mesh_spec *spec, struct arena *arena,
                            struct arena *host) {
    int64_t bytes[N_OTHERS];
    sizes(m, spec);
    other_bytes(m, bytes);
    m->scratch_bytes = bytes[SCRATCH];
    for (int i = 0; i < LANES; i++) {
        TRY(take(arena, m->lane_send, &m->lane[i].send));
        TRY(take(arena, m->lane_recv, &m->lane[i].recv));
        TRY(take(arena, m->lane_fold, &m->lane[i].fold));
    }
    TRY(take(arena, m->attend_send, &m->attend.send));
    TRY(take(arena, m->attend_recv, &m->attend.recv));
    TRY(take(arena, m->own_bytes, &m->own));
    TRY(take(arena, bytes[KEYS], &m->keys));
    TRY(take(arena, bytes[SCRATCH], &m->scratch));
    TRY(take(host, bytes[LIST], &m->list));
    TRY(take(host, bytes[CROSSING], &m->crossing));
    memset(m->crossing, 0, (size_t)bytes[CROSSING]);
    TRY(take(host, bytes[TABLE], &m->table));
    TRY(take(host, bytes[OFFSETS], &m->offsets));
    TRY(take(host, bytes[SECTIONS], &m->sections));
    m->keys_host = m->keys;
    return bytes[KEYS_HOST] > 0 ? take(host, bytes[KEYS_HOST], &m->keys_host) : OK;
}

void seams_mesh_pass(struct seams_mesh *m) {
    m->n_windows = 0;
    m->n_passes++;
}
