/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* mesh.carry auto: small states are gathered in one round, large ones scanned where that moves less; what is chosen is
 * what travels, and no other way moves less but a small gather. */
#include <inttypes.h>
#include "tests/small_model.h"

enum { RANKS_MAX = 8, SMALL = 4 << 20 };

struct auto_case {
    struct mesh_config mesh;
    struct model_config model;
    enum carry_way way[RANKS_MAX];
    int64_t received[RANKS_MAX]; /* of carries, in one forward pass */
};

static enum status pass(struct runner *r, struct team *team, struct auto_case *c, int me) {
    small_params(r, 3);
    small_batch(r, 4);
    TRY(sharding_step_begin(&r->shards, &r->step));
    comm_count_reset(&team->seq);
    TRY(runner_pass(r, false));
    c->way[me] = r->mesh.spec.way;
    c->received[me] = team->seq.count[COMM_CARRY].bytes_received;
    return OK;
}

static enum status one_rank(struct rank *rank, void *arg) {
    struct auto_case *c = arg;
    struct team team;
    struct runner r;
    struct runner_spec spec = {.precision = PRECISION_F32,
                               .threads = 1,
                               .n_sequences = 1,
                               .tokens = 16,
                               .tile = 16,
                               .gradients = true,
                               .mesh = &c->mesh};
    int transfers = 0;
    TRY(runner_transfers(&c->model, &spec, &transfers));
    TRY(team_open(&team, rank, &c->mesh, transfers, NULL));
    spec.team = &team;
    enum status st = runner_init(&r, &c->model, &spec, false);
    const bool begun = st == OK;
    if (begun) st = pass(&r, &team, c, rank_index(rank));
    team_close(&team);
    if (begun) runner_term(&r);
    return st;
}

/* The most that a rank receives. */
static int64_t run(struct auto_case *c, int n_ranks, int layout, int carry) {
    struct world *world = NULL;
    int64_t most = 0;
    c->mesh = (struct mesh_config){.data = 1, .seq = n_ranks, .tensor = 1, .expert = 1, .pipe = 1};
    c->mesh.layout = layout;
    c->mesh.carry = carry;
    MUST(world_open(&world, &(struct world_spec){.n_ranks = n_ranks, .deadline_s = 60}));
    MUST(world_run(world, one_rank, c));
    world_close(world);
    for (int i = 0; i < n_ranks; i++) {
        CHECK(c->way[i] == c->way[0], "ranks carry in different ways");
        if (c->received[i] > most) most = c->received[i];
    }
    return most;
}

int main(void) {
    static const struct {
        const char *why, *layer;
        int ranks;
        enum shard_layout layout;
        enum carry_way want;
    } rows[] = {
        {"a small state", "M=mamba2 heads=4 head_width=8 state=8 groups=1 conv=4 chunk=8", 8, SHARD_ZIGZAG,
         CARRY_GATHER},
        {"2 MiB, over two ranks", "M=mamba2 heads=64 head_width=64 state=128 groups=1 conv=4 chunk=8", 2,
         SHARD_CONTIGUOUS, CARRY_GATHER},
        {"4 MiB over two ranks: a scan moves as much", "M=mamba2 heads=128 head_width=64 state=128 groups=1 chunk=8", 2,
         SHARD_CONTIGUOUS, CARRY_GATHER},
        {"2 MiB, over four ranks", "M=mamba2 heads=64 head_width=64 state=128 groups=1 conv=4 chunk=8", 4,
         SHARD_CONTIGUOUS, CARRY_SCAN},
        {"1 MiB, two ranges a rank", "M=mamba2 heads=32 head_width=64 state=128 groups=1 conv=4 chunk=8", 4,
         SHARD_ZIGZAG, CARRY_SCAN},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *const symbols[] = {rows[i].layer, NULL};
        struct auto_case c = {.way = {CARRY_CHAIN}};
        small_model(&c.model, "M", 8, 16, true, symbols);
        const int64_t gather = run(&c, rows[i].ranks, rows[i].layout, MESH_CARRY_GATHER);
        const int64_t scan = run(&c, rows[i].ranks, rows[i].layout, MESH_CARRY_SCAN);
        const int64_t chosen = run(&c, rows[i].ranks, rows[i].layout, MESH_CARRY_AUTO);
        CHECK(c.way[0] == rows[i].want, "%s: way %d, not %d", rows[i].why, (int)c.way[0], (int)rows[i].want);
        CHECK(chosen == (rows[i].want == CARRY_GATHER ? gather : scan), "%s: %" PRId64 " bytes", rows[i].why, chosen);
        /* A thousandth: decays, of which a scan sends fewer. */
        CHECK(chosen <= gather && (chosen <= scan + scan / 1000 || chosen <= SMALL),
              "%s: %" PRId64 " bytes travel, a gather takes %" PRId64 " and a scan %" PRId64, rows[i].why, chosen,
              gather, scan);
        model_config_term(&c.model);
    }
    return check_end();
}
