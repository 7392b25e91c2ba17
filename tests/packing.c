/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* Documents packed into one sequence know nothing of each other: changing tokens of one, lengths kept, changes no bit
 * of another's losses nor of the gradients at its embedded tokens, over 1 to 4 ranks, for 200 random layouts each, with
 * cuts at, right before and right behind the edges of ranges.  On one mesh this holds bit for bit, in exact mode too.
 */
#include "tests/small_model.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { LAYOUTS = 50 }; /* ten times slower, and looked at for other things */
#else
enum { LAYOUTS = 200 };
#endif
enum { TOKENS = 41 };

/* One mesh, and how many of its layouts' tokens were compared. */
struct mesh_case {
    struct mesh_config mesh;
    int precision;
    bool exact;
    int first, n; /* of the layouts */
    int64_t same, changed;
    struct model_config model;
};

/* Every token has an id of its own, so that its row of the embedding's gradient is the gradient at that token; ids of
 * changed tokens come from a second set.  Documents begin where pos is 0. */
static void cut_documents(struct runner *r, uint64_t seed) {
    const struct shard_map *map = &r->map;
    bool cut[TOKENS + 2] = {true};
    for (int64_t i = 0; i < map->n_ranges; i++) {
        const int64_t edge = map->range[i].begin;
        const uint64_t at = rng_bits(seed, 1, (uint64_t)i) % 6; /* before, at, behind, or none of these */
        if (at < 3 && edge + (int64_t)at > 0) cut[edge + (int64_t)at - 1] = true;
    }
    for (int64_t t = 0; t < TOKENS; t++) {
        if (rng_uniform(seed, 2, (uint64_t)t) < 0.06) cut[t] = true;
        r->pos[t] = cut[t] ? 0 : r->pos[t - 1] + 1;
    }
}

static int64_t document_of(const struct runner *r, int64_t t) { return t - r->pos[t]; }

static void fill_tokens(struct runner *r, int64_t changed, uint64_t seed) {
    int64_t valid = 0;
    for (int64_t t = 0; t < TOKENS; t++) {
        const bool other = changed >= 0 && document_of(r, t) == document_of(r, changed) &&
                           (t == changed || rng_uniform(seed, 3, (uint64_t)t) < 0.3);
        r->ids[t] = (int32_t)(t + (other ? TOKENS : 0));
    }
    for (int64_t t = 0; t < TOKENS; t++) {
        r->targets[t] = t + 1 < TOKENS && r->pos[t + 1] > 0 ? r->ids[t + 1] : -1;
        valid += r->targets[t] >= 0;
    }
    r->scale = valid > 0 ? 1.0 / (double)valid : 0.0;
}

/* Losses of my tokens, by place in the sequence, and the gradient's rows of all tokens. */
static enum status pass(struct runner *r, char *losses, char *gradients) {
    const struct tensor g = r->model.params.list[r->model.embedding].g;
    const size_t real = (size_t)dtype_bytes(r->ctx.real), row = (size_t)g.shape[1] * real;
    r->total = 0.0;
    TRY(sharding_step_begin(&r->shards, &r->step));
    TRY(runner_pass(r, true));
    for (int64_t i = 0; i < shard_map_ranges(&r->map, r->seq_index); i++) {
        const struct token_range *t = shard_map_range(&r->map, r->seq_index, i);
        memcpy(losses + (size_t)t->begin * real, (char *)r->out.per_token.data + (size_t)t->row * real,
               (size_t)(t->end - t->begin) * real);
    }
    for (int64_t t = 0; t < TOKENS; t++)
        memcpy(gradients + (size_t)t * row, (char *)g.data + (size_t)r->ids[t] * row, row);
    return OK;
}

/* Compare my tokens of the two passes: same where the document was not touched. */
static void compare(const struct runner *r, struct mesh_case *c, int layout, int64_t changed, char *const losses[2],
                    char *const gradients[2]) {
    const size_t real = (size_t)dtype_bytes(r->ctx.real), row = (size_t)r->model.config->width * real;
    for (int64_t i = 0; i < shard_map_ranges(&r->map, r->seq_index); i++) {
        const struct token_range *range = shard_map_range(&r->map, r->seq_index, i);
        for (int64_t t = range->begin; t < range->end; t++) {
            const size_t at = (size_t)t * real, at_row = (size_t)t * row;
            const bool loss = !memcmp(losses[0] + at, losses[1] + at, real);
            const bool gradient = !memcmp(gradients[0] + at_row, gradients[1] + at_row, row);
            if (document_of(r, t) == document_of(r, changed)) {
                __atomic_fetch_add(&c->changed, !loss || !gradient, __ATOMIC_RELAXED);
                continue;
            }
            __atomic_fetch_add(&c->same, 1, __ATOMIC_RELAXED);
            CHECK(loss && gradient,
                  "layout %d over %d ranks, %s, attention %d, carry %d%s: token %d of the document at %d sees a change "
                  "of the one at %d (%s)",
                  layout, r->map.spec.n_ranks, c->mesh.layout == SHARD_ZIGZAG ? "zigzag" : "contiguous",
                  c->mesh.attention, c->mesh.carry, c->exact ? ", exact" : "", (int)t, (int)document_of(r, t),
                  (int)document_of(r, changed), loss ? "gradient" : "loss");
        }
    }
}

static enum status all_layouts(struct runner *r, struct mesh_case *c) {
    const int64_t real = dtype_bytes(r->ctx.real), row = r->model.config->width * real;
    void *mem = NULL;
    TRY(mem_take(2 * TOKENS * (real + row), &mem));
    char *const losses[2] = {mem, (char *)mem + TOKENS * real};
    char *const gradients[2] = {losses[1] + TOKENS * real, losses[1] + TOKENS * (real + row)};
    enum status st = OK;
    for (int layout = c->first; layout < c->first + c->n && st == OK; layout++) {
        const uint64_t seed = 1000 + (uint64_t)layout;
        const int64_t changed = (int64_t)(rng_bits(seed, 4, 0) % TOKENS);
        cut_documents(r, seed);
        fill_tokens(r, -1, seed);
        st = pass(r, losses[0], gradients[0]);
        fill_tokens(r, changed, seed);
        if (st == OK) st = pass(r, losses[1], gradients[1]);
        if (st == OK) compare(r, c, layout, changed, losses, gradients);
    }
    mem_free(mem);
    return st;
}

static enum status mesh_rank(struct rank *rank, void *arg) {
    struct mesh_case *c = arg;
    struct team team;
    struct runner r;
    struct runner_spec spec = {.precision = c->precision,
                               .threads = 1,
                               .n_sequences = 1,
                               .tokens = TOKENS,
                               .tile = 16,
                               .gradients = true,
                               .exact = c->exact,
                               .mesh = &c->mesh};
    int transfers = 0;
    TRY(runner_transfers(&c->model, &spec, &transfers));
    TRY(team_open(&team, rank, &c->mesh, transfers, NULL));
    spec.team = &team;
    enum status st = runner_init(&r, &c->model, &spec, false);
    const bool begun = st == OK;
    if (begun) small_params(&r, 3);
    if (begun) st = all_layouts(&r, c);
    team_close(&team);
    if (begun) runner_term(&r);
    return st;
}

static void run_mesh(struct mesh_case *c) {
    struct world *world = NULL;
    MUST(world_open(&world, &(struct world_spec){.n_ranks = (int)c->mesh.seq, .deadline_s = 60}));
    MUST(world_run(world, mesh_rank, c));
    world_close(world);
    CHECK(c->same > 10 * c->n && c->changed > c->n, "%d layouts: %d tokens the same, %d changed", c->n, (int)c->same,
          (int)c->changed);
}

int main(void) {
    /* 12 heads: over 2, 3 and 4 ranks both forms of attention are possible. */
    static const char *const symbols[] = {"M=mamba2 heads=4 head_width=4 state=5 groups=2 conv=4 chunk=4",
                                          "*=attention heads=12 kv_heads=1 head_width=2 rope=1",
                                          "W=attention heads=12 kv_heads=12 head_width=2 window=9",
                                          "-=mlp hidden=20 activation=swiglu", NULL};
    static const int seqs[] = {1, 2, 3, 4};
    enum { MESHES = 10, EACH = LAYOUTS / MESHES };
    struct mesh_case c = {.precision = PRECISION_F32};
    small_model(&c.model, "M*-MW-M", 16, 2 * TOKENS, false, symbols);
    for (int i = 0; i < 4 * MESHES; i++) {
        const int k = i % MESHES;
        c.mesh = (struct mesh_config){.data = 1, .seq = seqs[i / MESHES], .tensor = 1, .expert = 1, .pipe = 1};
        c.exact = k == 9 && c.mesh.seq != 3; /* powers of two, contiguous, keys */
        c.mesh.layout = k % 2 && !c.exact ? SHARD_ZIGZAG : SHARD_CONTIGUOUS;
        c.mesh.carry = c.exact ? (k % 2 ? MESH_CARRY_GATHER : MESH_CARRY_SCAN) : MESH_CARRY_GATHER + k % 3;
        c.mesh.attention = c.exact || k / 2 % 2 ? MESH_ATTENTION_KEYS : MESH_ATTENTION_SWAP;
        c.precision = k == 6 ? PRECISION_F64 : PRECISION_F32;
        c.first = k * EACH, c.n = EACH;
        c.same = c.changed = 0;
        run_mesh(&c);
    }
    /* Exact mode, every layout. */
    for (int i = 0; i < 4; i++) {
        if (seqs[i] == 3) continue;
        c.mesh = (struct mesh_config){.data = 1, .seq = seqs[i], .tensor = 1, .expert = 1, .pipe = 1};
        c.mesh.attention = MESH_ATTENTION_KEYS;
        c.mesh.carry = i % 2 ? MESH_CARRY_GATHER : MESH_CARRY_SCAN;
        c.exact = true;
        c.precision = PRECISION_F32;
        c.first = 0, c.n = LAYOUTS;
        c.same = c.changed = 0;
        run_mesh(&c);
    }
    model_config_term(&c.model);
    return check_end();
}
