/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads long */
/* timeout: 300 */
/* Experts over the expert axis: five steps agree with those of one rank to 1e-10 in F64, whatever the rounds, the
 * policy and the slices; routers whose scores are all equal send all tokens to one rank, in the memory that was
 * planned; a run has the same bits twice, and with every policy; checkpoints go from any mesh to any; exact mode has
 * the same bits for every mesh.seq. */
#include "tests/mesh_run.h"

#define ENDS "width: 24, vocab: 64, init_std: 0.1, "
#define JAMBA                                                                                                          \
    "{" ENDS "tied: false, pattern: \"E-E\", layers: {E: {kind: moe, experts: 4, top_k: 2, hidden: 12, aux_loss: "     \
    "0.02, z_loss: 0.001}, -: {kind: mlp, hidden: 12}}}"
#define NEMOTRON                                                                                                       \
    "{" ENDS "tied: true, pattern: \"EE\", layers: {E: {kind: moe, experts: 8, top_k: 3, hidden: 12, shared: 8, "      \
    "latent: 10, scores: sigmoid, renormalise: true, scale: 2.5, bias: true, activation: relu2, aux_loss: 0.01, "      \
    "aux_over: sequence}}}"
#define CAPACITY                                                                                                       \
    "{" ENDS "tied: true, pattern: \"EE\", layers: {E: {kind: moe, experts: 8, top_k: 3, hidden: 12, shared: 8, "      \
    "latent: 10, capacity: 7, aux_loss: 0.01}}}"
#define EVERY                                                                                                          \
    "{" ENDS "tied: false, pattern: \"ME*e\", layers: {M: {kind: mamba2, heads: 4, head_width: 8, state: 6, groups: "  \
    "2, chunk: 2}, \"*\": {kind: attention, heads: 4, kv_heads: 2, head_width: 6}, E: {kind: moe, experts: 4, top_k: " \
    "2, hidden: 8, shared: 8}, e: {kind: moe, experts: 8, top_k: 1, hidden: 6, activation: relu2, capacity: 4}}}"

/* All scores are equal: the first top_k experts have all tokens, the others none. */
static enum status equal_scores(struct trainer *t) {
    for (int i = 0; i < t->run.model.params.n; i++) {
        const struct param *p = &t->run.model.params.list[i];
        void *zeros = NULL;
        if (!strstr(p->name, "router.weight")) continue;
        TRY(mem_take(param_count(p) * 8, &zeros));
        const enum status st = sharding_store(&t->run.shards, i, 0, param_count(p), zeros, NULL);
        mem_free(zeros);
        TRY(st);
    }
    return OK;
}

static const struct axis_case {
    const char *why, *model;
    enum status (*prepare)(struct trainer *t);
} models[] = {
    {"Jamba's rule", JAMBA, NULL},
    {"Nemotron's rule, shared and latent", NEMOTRON, NULL},
    {"two layers of other sizes, among other mixers", EVERY, NULL},
    {"a capacity", CAPACITY, NULL},
    {"a capacity, equal scores", CAPACITY, equal_scores},
    {"equal scores", JAMBA, equal_scores},
    {"equal scores, latent", NEMOTRON, equal_scores},
    {"every expert for every token",
     "{" ENDS "tied: true, pattern: \"E\", layers: {E: {kind: moe, experts: 4, top_k: 4, hidden: 10}}}", NULL},
    {"more experts than some rank has tokens for",
     "{" ENDS "tied: true, pattern: \"EE\", layers: {E: {kind: moe, experts: 32, top_k: 1, hidden: 6, scores: sigmoid, "
     "groups: 4, top_groups: 2}}}",
     NULL},
};
static const struct axis_mesh {
    const char *mesh, *train;
} meshes[] = {
    {"{seq: 2, expert: 2}", ""},
    {"{seq: 4, expert: 4, expert_room: 0.3}", ", keep: gemm"},
    {"{seq: 4, expert: 2, expert_room: 0.01}", ", keep: inputs"},
    {"{data: 2, expert: 2, shard: parameters}", ", keep: inputs, keep_every: 2"},
    {"{data: 2, seq: 2, expert: 4, shard: gradients, layout: zigzag, expert_room: 1.2}", ", micro_batch: 2"},
    {"{seq: 2, tensor: 2, expert: 2, expert_room: 0.4}", ", keep: inputs"},
};

static void against_one_rank(const struct axis_case *c) {
    static struct mesh_run one, now;
    char why[300];
    mesh_run_read(&one, c->model, "{data: 1}", "", "fast");
    one.prepare = c->prepare;
    mesh_run(&one, c->why);
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i++) {
        snprintf(why, sizeof why, "%s, %s%s", c->why, meshes[i].mesh, meshes[i].train);
        mesh_run_read(&now, c->model, meshes[i].mesh, meshes[i].train, "fast");
        now.prepare = c->prepare;
        mesh_run(&now, why);
        mesh_run_compare(&now, &one, 0, MESH_STEPS, 1e-10, why);
        mesh_run_term(&now);
    }
    mesh_run_term(&one);
}

/* ---- the same bits ---- */

static void same_bits(const struct mesh_run *now, const struct mesh_run *first, const char *why) {
    for (int i = 0; i < MESH_STEPS; i++)
        CHECK(now->out[0].loss[i] == first->out[0].loss[i] && now->out[0].norm[i] == first->out[0].norm[i],
              "%s, step %d: loss %.17g, %.17g, norm %.17g, %.17g", why, i, now->out[0].loss[i], first->out[0].loss[i],
              now->out[0].norm[i], first->out[0].norm[i]);
    CHECK(now->out[0].valid == first->out[0].valid, "%s: validation", why);
}

/* Twice, and whatever is computed again; in one round and in several. */
static void repeats(const char *mesh) {
    static const char *const keep[] = {"", "", ", keep: gemm", ", keep: inputs", ", keep: inputs, keep_every: 2"};
    static struct mesh_run first, now;
    char why[200];
    for (size_t i = 0; i < sizeof keep / sizeof *keep; i++) {
        snprintf(why, sizeof why, "%s%s", mesh, keep[i]);
        mesh_run_read(&now, EVERY, mesh, keep[i], "fast");
        mesh_run(&now, why);
        if (i == 0) first = now;
        same_bits(&now, &first, why);
        if (i > 0) mesh_run_term(&now);
    }
    mesh_run_term(&first);
}

static void exact_bits(const char *fixed, int expert) {
    static struct mesh_run first, now;
    char mesh[100];
    for (int seq = expert, n = 0; seq <= 8; seq *= 2, n++) {
        snprintf(mesh, sizeof mesh, "{seq: %d, expert: %d%s}", seq, expert, fixed);
        mesh_run_read(&now, EVERY, mesh, n == 1 ? ", keep: inputs" : "", "rank_invariant");
        if (mesh_run_ranks(&now) > MESH_RANKS) {
            mesh_run_term(&now);
            break;
        }
        mesh_run(&now, mesh);
        if (n == 0) first = now;
        same_bits(&now, &first, mesh);
        if (n > 0) mesh_run_term(&now);
    }
    mesh_run_term(&first);
}

/* ---- checkpoints ---- */

static const char *const places[] = {"{data: 1}", "{seq: 2, expert: 2}",
                                     "{data: 2, seq: 2, expert: 4, shard: gradients, expert_room: 0.5}",
                                     "{seq: 2, tensor: 2, expert: 2, shard: parameters}"};

int main(void) {
    char dir[] = "/tmp/expert_axis-XXXXXX";
    if (!mkdtemp(dir) || chdir(dir) != 0) {
        perror(dir);
        return 1;
    }
    mesh_run_tokens("mesh_tokens");
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) against_one_rank(&models[i]);
    repeats("{seq: 4, expert: 4}");
    repeats("{data: 2, seq: 2, expert: 4, expert_room: 0.2}");
    exact_bits("", 2);
    exact_bits("", 4);
    exact_bits(", data: 2", 2);
    exact_bits(", tensor: 2", 2);
    mesh_run_places(NEMOTRON, places, sizeof places / sizeof *places, "");
    MUST(file_remove_tree(dir));
    return check_end();
}
