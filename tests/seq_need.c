/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* The seams of whole blocks and of sums, over 1, 2, 3, 4 and 8 ranks and every form of mesh.shard, in integers: weights
 * that arrive in need and gradients that leave in done are each other's transpose, <S x, y> = <x, S' y>, over two
 * passes; total is its own.  need has the next layer's weights on their way, done the layer's own gradients. */
#include <inttypes.h>
#include "tests/small_model.h"

enum { RANKS_MAX = 8, PASSES = 2, NUMBERS = 5 };
static const char *const stages[] = {"none", "optimizer", "gradients", "parameters"};

struct need_case {
    struct mesh_config mesh;
    struct model_config model;
    double sx_y[RANKS_MAX], x_sy[RANKS_MAX];   /* need and done: each rank's share of the two products */
    double sum_y[RANKS_MAX], x_sum[RANKS_MAX]; /* total: the same                                      */
};

/* Integers from -50 to 50: all sums and products below are exact. */
static double draw(uint64_t stream, int64_t i) { return (double)(rng_bits(9, stream, (uint64_t)i) % 101) - 50.0; }
static double y_of(int rank, int pass, int param, int64_t i) {
    return draw(1000 + (uint64_t)(100 * (2 * rank + pass) + param), i);
}

/* x: my part of every parameter, then known to all. */
static enum status write_mine(struct runner *r) {
    for (int i = 0; i < r->model.params.n; i++) {
        const struct sharding_piece *p = &r->shards.piece[i];
        for (int64_t k = 0; k < p->n; k++) ((double *)p->w.data)[k] = draw((uint64_t)i, p->begin + k);
    }
    return sharding_publish(&r->shards);
}

static void multiply(const struct runner *r, const struct sharding_block *b, struct need_case *c, int me, int pass) {
    for (int i = b->first; i < b->end; i++) {
        const struct param *p = &r->model.params.list[i];
        for (int64_t k = 0; k < param_count(p); k++)
            c->sx_y[me] += ((const double *)p->w.data)[k] * y_of(me, pass, i, k);
    }
}

static void add_y(const struct runner *r, const struct sharding_block *b, int me, int pass) {
    for (int i = b->first; i < b->end; i++) {
        const struct param *p = &r->model.params.list[i];
        for (int64_t k = 0; k < param_count(p); k++) ((double *)p->g.data)[k] += y_of(me, pass, i, k);
    }
}

/* Blocks in the order of a training pass: up for the weights, down for weights and gradients. */
static enum status pass(struct runner *r, struct need_case *c, int me, int n) {
    const struct seams *seams = r->step.seams;
    struct sharding *h = &r->shards;
    const int L = r->model.n_layers;
    TRY(sharding_pass_begin(h, &r->step));
    for (int k = -1; k < L; k++) {
        TRY(seams->need(&r->step, k));
        multiply(r, &h->block[k < 0 ? L : k], c, me, n);
        CHECK(k < 0 || k + 1 == L || h->block[k + 1].w, "%s: layer %d is not on its way while %d is at work",
              stages[c->mesh.shard], k + 1, k);
    }
    for (int k = L - 1; k >= 0; k--) {
        TRY(seams->need(&r->step, k));
        CHECK(k == 0 || h->block[k - 1].w, "%s, backward: layer %d is not on its way while %d is at work",
              stages[c->mesh.shard], k - 1, k);
        add_y(r, &h->block[k], me, n);
        TRY(seams->done(&r->step, k));
        CHECK(h->n_ranks == 1 || h->flying[0] == &h->block[k] || h->flying[1] == &h->block[k],
              "%s: gradients of layer %d do not leave when it is done", stages[c->mesh.shard], k);
    }
    add_y(r, &h->block[L], me, n);
    TRY(seams->done(&r->step, -1));
    return sharding_pass_end(h, &r->step);
}

/* Without slices every rank has all of x and of the sum, or all those with the same experts: one of them counts. */
static void multiply_mine(const struct runner *r, struct need_case *c, int me) {
    for (int i = 0; i < r->model.params.n; i++) {
        if (sharding_elsewhere(&r->shards, i, 0)) continue;
        const struct sharding_piece *p = &r->shards.piece[i];
        for (int64_t k = 0; k < p->n; k++) c->x_sy[me] += draw((uint64_t)i, p->begin + k) * ((double *)p->g.data)[k];
    }
}

static enum status check_total(struct runner *r, struct need_case *c, int me) {
    double x[NUMBERS], y[NUMBERS];
    for (int i = 0; i < NUMBERS; i++) x[i] = draw(500 + (uint64_t)me, i), y[i] = draw(600 + (uint64_t)me, i);
    TRY(r->step.seams->total(&r->step, tensor_1d(x, F64, NUMBERS), AXIS_DATA | AXIS_SEQ));
    TRY(r->step.seams->total(&r->step, tensor_1d(y, F64, NUMBERS), AXIS_DATA | AXIS_SEQ));
    for (int i = 0; i < NUMBERS; i++) {
        double want = 0.0;
        for (int k = 0; k < r->shards.n_ranks; k++) want += draw(500 + (uint64_t)k, i);
        CHECK(x[i] == want, "total over %d ranks, number %d: %g, not %g", r->shards.n_ranks, i, x[i], want);
        c->sum_y[me] += x[i] * draw(600 + (uint64_t)me, i);
        c->x_sum[me] += draw(500 + (uint64_t)me, i) * y[i];
    }
    return OK;
}

static enum status both(struct runner *r, struct need_case *c, int me) {
    TRY(write_mine(r));
    TRY(sharding_step_begin(&r->shards, &r->step));
    for (int n = 0; n < PASSES; n++) TRY(pass(r, c, me, n));
    multiply_mine(r, c, me);
    return check_total(r, c, me);
}

static enum status one_rank(struct rank *rank, void *arg) {
    struct need_case *c = arg;
    struct team team;
    struct runner r;
    struct runner_spec spec = {.precision = PRECISION_F64,
                               .threads = 1,
                               .n_sequences = 1,
                               .tokens = 16,
                               .tile = 16,
                               .training = true,
                               .n_micro = PASSES,
                               .mesh = &c->mesh};
    int transfers = 0;
    TRY(runner_transfers(&c->model, &spec, &transfers));
    TRY(team_open(&team, rank, &c->mesh, transfers, NULL));
    spec.team = &team;
    enum status st = runner_init(&r, &c->model, &spec, false);
    const bool begun = st == OK;
    if (begun) st = both(&r, c, rank_index(rank));
    team_close(&team);
    if (begun) runner_term(&r);
    return st;
}

static double sum_of(const double *x) {
    double sum = 0.0;
    for (int i = 0; i < RANKS_MAX; i++) sum += x[i];
    return sum;
}

static void run_case(struct need_case *c) {
    struct world *world = NULL;
    const int n = (int)(c->mesh.data * c->mesh.seq);
    MUST(world_open(&world, &(struct world_spec){.n_ranks = n, .deadline_s = 60}));
    MUST(world_run(world, one_rank, c));
    world_close(world);
    const double a = sum_of(c->sx_y), b = sum_of(c->x_sy), s = sum_of(c->sum_y), t = sum_of(c->x_sum);
    CHECK(a == b && a != 0.0, "%s, %d ranks: need and done: <S x, y> = %.17g, <x, S' y> = %.17g", stages[c->mesh.shard],
          n, a, b);
    CHECK(s == t && s != 0.0, "%d ranks: total: <S x, y> = %.17g, <x, S' y> = %.17g", n, s, t);
}

int main(void) {
    /* Blocks of one owner, and blocks that are cut inside. */
    static const char *const symbols[] = {"M=mamba2 heads=4 head_width=16 state=8 groups=2 conv=4 chunk=8",
                                          "*=attention heads=4 kv_heads=2 head_width=8", "-=mlp hidden=300",
                                          "E=moe experts=8 top_k=1 hidden=70", NULL};
    static const int meshes[][3] = {{1, 1, 1}, {1, 2, 1}, {2, 1, 1}, {1, 3, 1}, {2, 2, 1}, {1, 4, 1},
                                    {1, 8, 1}, {2, 4, 1}, {1, 2, 2}, {2, 2, 2}, {2, 2, 4}, {2, 4, 4}};
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i++)
        for (int stage = SHARDING_NONE; stage <= SHARDING_PARAMETERS; stage++) {
            struct need_case c = {
                .mesh = {.data = meshes[i][0], .seq = meshes[i][1], .tensor = 1, .expert = meshes[i][2]}};
            c.mesh.pipe = 1;
            c.mesh.shard = stage;
            small_model(&c.model, "M-*-EM", 32, 300, stage % 2, symbols);
            run_case(&c);
            model_config_term(&c.model);
        }
    return check_end();
}
