/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* Exact mode: what a rank keeps of a pass for backward, and the scratch of scans, fall as 1 / mesh.seq within a tenth
 * on every rank; boundaries are listed apart. */
#include <inttypes.h>
#include "tests/small_model.h"

enum { TOKENS = 1024, RANKS_MAX = 8 }; /* 64 segments of 16 */

struct bytes {
    int64_t input, gemm, cheap, boundary, shared, scratch;
};
struct plan_case {
    struct model_config model;
    struct mesh_config mesh;
    enum policy policy;
    struct bytes of[RANKS_MAX];
};

static enum status plan_rank(struct rank *rank, void *arg) {
    struct plan_case *c = arg;
    struct team team;
    struct runner r;
    struct runner_spec spec = {.precision = PRECISION_F32,
                               .threads = 1,
                               .n_sequences = 1,
                               .tokens = TOKENS,
                               .tile = 16,
                               .training = true,
                               .exact = true,
                               .policy = c->policy,
                               .keep_every = 1,
                               .mesh = &c->mesh};
    int transfers = 0;
    TRY(runner_transfers(&c->model, &spec, &transfers));
    TRY(team_open(&team, rank, &c->mesh, transfers, NULL));
    spec.team = &team;
    const enum status st = runner_init(&r, &c->model, &spec, true);
    if (st == OK) {
        const int64_t *keep = r.act.by_keep;
        c->of[rank_index(rank)] = (struct bytes){.input = keep[KEEP_INPUT],
                                                 .gemm = keep[KEEP_GEMM],
                                                 .cheap = keep[KEEP_CHEAP],
                                                 .boundary = keep[KEEP_BOUNDARY],
                                                 .shared = r.act.shared_bytes,
                                                 .scratch = r.act.scratch_bytes};
        runner_term(&r);
    }
    team_close(&team);
    return st;
}

static void plan_over(struct plan_case *c, int n_ranks) {
    struct world *world = NULL;
    c->mesh = (struct mesh_config){.data = 1, .seq = n_ranks, .tensor = 1, .expert = 1, .pipe = 1};
    MUST(world_open(&world, &(struct world_spec){.n_ranks = n_ranks, .deadline_s = 60}));
    MUST(world_run(world, plan_rank, c));
    world_close(world);
}

static void check_share(const char *pattern, const char *what, int n_ranks, int rank, int64_t part, int64_t whole) {
    const double share = (double)part * n_ranks / (double)whole;
    CHECK(whole == 0 ? part == 0 : share > 1.0 / 1.1 && share < 1.1,
          "%s: rank %d of %d has %" PRId64 " bytes of %s, one rank %" PRId64, pattern, rank, n_ranks, part, what,
          whole);
}

/* scans: the model is of scans alone, so that boundaries and scratch fall too; gathered keys are of all tokens. */
static void check_model(const char *pattern, bool scans, enum policy policy) {
    static const char *const symbols[] = {"M=mamba2 heads=4 head_width=16 state=16 groups=2 conv=4 chunk=16",
                                          "*=attention heads=4 kv_heads=2 head_width=16 rope=1",
                                          "-=mlp hidden=128 activation=swiglu", NULL};
    struct plan_case c = {.policy = policy};
    small_model(&c.model, pattern, 64, 256, false, symbols);
    plan_over(&c, 1);
    const struct bytes one = c.of[0];
    CHECK(one.input > 0 && one.boundary > 0 && (policy == POLICY_INPUTS || one.gemm > 0), "%s: nothing is kept",
          pattern);
    for (int n = 2; n <= RANKS_MAX; n *= 2) {
        plan_over(&c, n);
        for (int i = 0; i < n; i++) {
            const struct bytes *b = &c.of[i];
            check_share(pattern, "layer inputs", n, i, b->input, one.input);
            check_share(pattern, "outputs of products", n, i, b->gemm, one.gemm);
            check_share(pattern, "cheap activations", n, i, b->cheap, one.cheap);
            check_share(pattern, "what layers share", n, i, b->shared, one.shared);
            if (scans) check_share(pattern, "scratch", n, i, b->scratch, one.scratch);
            if (scans) check_share(pattern, "boundaries", n, i, b->boundary, one.boundary);
            CHECK(b->boundary <= one.boundary, "%s: boundaries grow with ranks", pattern);
        }
    }
    model_config_term(&c.model);
}

int main(void) {
    for (int policy = POLICY_ALL; policy <= POLICY_INPUTS; policy++) {
        check_model("M-M-", true, policy);
        check_model("M*-M-", false, policy);
    }
    return check_end();
}
