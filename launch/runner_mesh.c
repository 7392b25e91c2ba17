/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/runner.h"

static struct shard_spec shard_of(const struct model *m, const struct runner_spec *s, const struct mesh_config *mesh) {
    return (struct shard_spec){.n_ranks = mesh ? (int)mesh->seq : 1,
                               .layout = mesh ? (enum shard_layout)mesh->layout : SHARD_CONTIGUOUS,
                               .n_sequences = s->n_sequences,
                               .tokens = s->tokens,
                               .grid = s->exact ? model_segment(m, s->tokens) : 1,
                               .segments = s->exact};
}

struct split runner_split(const struct runner *r) {
    const struct mesh *m = r->spec.team ? &r->spec.team->mesh : NULL;
    if (!m) return (struct split){{1, 1}, {0, 0}};
    return (struct split){{mesh_size(m, MESH_TENSOR), mesh_size(m, MESH_EXPERT)},
                          {mesh_index(m, MESH_TENSOR), mesh_index(m, MESH_EXPERT)}};
}

void runner_own_ranges(const struct runner *r, int64_t *range) {
    const struct split s = runner_split(r);
    range[0] = 0;
    for (int64_t i = 0; i < shard_map_ranges(&r->map, r->seq_index); i++)
        range[i + 1] = range[i] + own_share(&r->map, r->seq_index, i, s.n[SPLIT_TENSOR], s.at[SPLIT_TENSOR]).rows;
}

static enum status transfers_of(const struct model *m, const struct runner_spec *spec, int *transfers) {
    const struct shard_spec shard = shard_of(m, spec, spec->mesh);
    struct shard_map map;
    TRY(shard_map_init(&map, &shard));
    *transfers = 0;
    for (int r = 0; r < shard.n_ranks; r++) {
        const int seq = seams_mesh_transfers(&map, r);
        const int tensor = seams_mesh_tensor_transfers(&map, r, spec->mesh ? (int)spec->mesh->tensor : 1);
        const int most = seq > tensor ? seq : tensor;
        if (most > *transfers) *transfers = most;
    }
    shard_map_term(&map);
    return OK;
}

enum status runner_transfers(const struct model_config *c, const struct runner_spec *spec, int *transfers) {
    struct model m;
    enum status st = model_init(&m, c, NULL);
    if (st == OK) st = transfers_of(&m, spec, transfers);
    model_term(&m);
    return st;
}

/* Swap where every attention layer's heads divide, unless the configuration chooses. */
static bool swap_fits(const struct runner *r, int n_ranks) {
    for (int i = 0; i < r->model.n_all; i++) {
        const struct layer *l = &r->model.layers[i];
        if (l->kind->attend_fits && !l->kind->attend_fits(l, n_ranks)) return false;
    }
    return true;
}

enum status runner_mesh_shape(struct runner *r) {
    const struct runner_spec *s = &r->spec;
    const struct mesh_config *mesh = s->team ? s->mesh : NULL;
    if (s->exact) TRY(runner_exact_check(r));
    const struct shard_spec shard = shard_of(&r->model, s, mesh);
    TRY(shard_map_init(&r->map, &shard));
    r->seq_index = mesh ? s->team->seq.index : 0;
    const struct split split = runner_split(r);
    r->guests = experts_guests(&r->map, r->seq_index, split_n(&split, SPLIT_EXPERT), split.at[SPLIT_EXPERT],
                               mesh ? mesh->expert_room : 0.0);
    if (shard.n_ranks == 1 && !s->exact) return OK;
    const int64_t B = s->n_sequences, R = shard_map_ranges(&r->map, r->seq_index);
    const bool swap = !s->exact && (mesh->attention == MESH_ATTENTION_AUTO ? swap_fits(r, shard.n_ranks)
                                                                           : mesh->attention == MESH_ATTENTION_SWAP);
    r->wide = (struct wide){.n_ranks = shard.n_ranks,
                            .index = r->seq_index,
                            .swap = swap,
                            .n_tokens = B * s->tokens,
                            .range = tensor_1d(NULL, I64, B + 1),
                            .pos = tensor_1d(NULL, I64, B * s->tokens),
                            .keys = tensor_2d(NULL, I64, swap ? B : R, 2)};
    return OK;
}

/* Gather is one round and scan two: gather while what a rank receives for a layer is small, or less than the scan's. */
static enum carry_way way_by_size(const struct runner *r) {
    const int64_t P = r->map.spec.n_ranks, n = r->map.n_ranges, small = (int64_t)4 << 20;
    int64_t each = 0;
    for (int i = 0; i < r->act.n_carries; i++) {
        const struct carry_shape *c = &r->act.carry[i];
        if (c->op == CARRY_AFFINE && c->rows * (c->cols + 1) > each) each = c->rows * (c->cols + 1);
    }
    const int64_t gather = (n - n / P) * each, scan = 2 * n / P * (each - each / P);
    return gather * dtype_bytes(dtype_wide(r->ctx.real)) <= small || gather <= scan ? CARRY_GATHER : CARRY_SCAN;
}

static enum carry_way way_of(const struct runner *r) {
    switch ((enum mesh_carry)r->spec.mesh->carry) {
    case MESH_CARRY_GATHER:
        return CARRY_GATHER;
    case MESH_CARRY_CHAIN:
        return CARRY_CHAIN;
    case MESH_CARRY_SCAN:
        return CARRY_SCAN;
    case MESH_CARRY_AUTO:
        break;
    }
    return way_by_size(r);
}

static int64_t totals(const struct runner *r) {
    const int64_t loads = runner_load_bytes(r) / 8;
    return r->act.total_numbers > loads ? r->act.total_numbers : loads;
}

static struct seams_mesh_spec seams_spec(struct runner *r) {
    return (struct seams_mesh_spec){.seq = &r->spec.team->seq,
                                    .tokens = r->spec.team->totals,
                                    .tensor = &r->spec.team->tensor,
                                    .expert = r->guests.n_ranks > 1 ? &r->expert : NULL,
                                    .counts = r->counts.size > 0 ? &r->counts : &r->expert,
                                    .n_layers = r->model.n_all,
                                    .routed = r->act.routed,
                                    .space = r->ctx.space,
                                    .map = &r->map,
                                    .pos = r->pos,
                                    .way = way_of(r),
                                    .real = r->ctx.real,
                                    .n_carries = r->act.n_carries,
                                    .carry = r->act.carry,
                                    .attend_numbers = r->act.attend_numbers,
                                    .total_numbers = totals(r),
                                    .own_numbers = r->act.own_numbers,
                                    .part_rows = r->spec.mesh->tensor_part,
                                    .swap = r->wide.swap};
}

/* Parameters lie in the list layer by layer, those of the ends last. */
enum status runner_mesh_shards(struct runner *r) {
    const struct runner_spec *s = &r->spec;
    const int L = r->model.n_layers;
    void *mem = NULL;
    TRY(mem_take((L + 2) * (int64_t)sizeof(int), &mem));
    int *first = mem;
    for (int i = 0; i < L; i++) first[i] = r->model.layers[i].norm;
    first[L] = r->model.embedding;
    first[L + 1] = r->model.params.n;
    const struct sharding_spec spec = {
        .ctx = &r->ctx,
        .device = s->team && s->team->device && rank_size(s->team->rank) > 1 ? &s->team->far : NULL,
        .rank = s->team ? s->team->rank : NULL,
        .mesh = s->team ? &s->team->mesh : NULL,
        .stage = s->team && s->training ? (enum sharding_stage)s->mesh->shard : SHARDING_NONE,
        .params = &r->model.params,
        .n_layers = L,
        .first = first,
        .borrowed = s->weights_of != NULL,
        .gradients = s->training || s->gradients,
        .moments = s->training,
        .n_micro = s->n_micro,
        .exact = s->exact,
        .ends_twice = s->exact && r->model.head == r->model.embedding};
    const enum status st = sharding_init(&r->shards, &spec);
    mem_free(first);
    return st;
}

/* Opened once the plan knows what it moves.  Counts are read on the host. */
enum status runner_mesh_experts(struct runner *r) {
    const struct team *t = r->spec.team;
    if (r->guests.n_ranks <= 1) return OK;
    struct comm_limits limits = {.transfers = experts_transfers(&r->map, r->seq_index, &r->guests),
                                 .bytes = r->act.routed.numbers * dtype_bytes(r->ctx.real),
                                 .device = t->device ? &t->far : NULL};
    TRY(comm_init(&r->expert, t->rank, &t->mesh, MESH_EXPERT, &limits));
    return limits.device ? comm_init(&r->counts, t->rank, &t->mesh, MESH_EXPERT, NULL) : OK;
}

struct seams_mesh_bytes runner_mesh_bytes(struct runner *r) {
    struct seams_mesh_bytes bytes = {0};
    if (!r->spec.team) return bytes;
    const struct seams_mesh_spec spec = seams_spec(r);
    bytes = seams_mesh_bytes(&spec);
    bytes.ops += runner_exact_bytes(r);
    return bytes;
}

enum status runner_mesh_seams(struct runner *r) {
    struct seams_mesh_spec spec = seams_spec(r);
    spec.shards = &r->shards;
    TRY(seams_mesh_init(&r->mesh, &spec, &r->memory, runner_host(r)));
    TRY(runner_exact_place(r));
    r->step.seams = &seams_mesh;
    r->step.seams_state = &r->mesh;
    return OK;
}

enum status runner_sum_total(struct runner *r) {
    if (r->spec.exact) return runner_exact_total(r);
    if (r->act.n_depths > 0) TRY(r->step.seams->total(&r->step, r->out.mtp_total, AXIS_DATA | AXIS_SEQ));
    return r->step.seams->total(&r->step, r->sum, AXIS_DATA | AXIS_SEQ);
}
