/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* Training layers of experts over ranks: losses, gradient norms, loads, auxiliary losses and selection biases of five
 * steps agree with those of one rank, for any mesh of data x seq, experts here or spread over them, any micro-batch and
 * any sharding; and the bias takes one step towards even load after each step of the optimizer. */
#define _DEFAULT_SOURCE /* mkdtemp */
#include <pthread.h>
#include "tests/small_run.h"

enum { STEPS = 5, E = 6, LAYER = 1 };
static const char yaml[] =
    "model:\n"
    "  width: 12\n"
    "  vocab: 31\n"
    "  pattern: \"*nMb\"\n"
    "  layers:\n"
    "    M: {kind: mamba2, heads: 4, head_width: 4, state: 5, groups: 2, conv: 4, chunk: 2}\n"
    "    \"*\": {kind: attention, heads: 4, kv_heads: 2, head_width: 4, rope: 1}\n"
    "    n: {kind: moe, experts: 6, top_k: 2, hidden: 7, activation: relu2, scores: sigmoid, renormalise: true,\n"
    "        scale: 2.5, shared: 5, bias: true, bias_rate: 0.01, aux_loss: 0.3, z_loss: 0.01}\n"
    "    b: {kind: moe, experts: 4, top_k: 2, hidden: 6, latent: 5, aux_loss: 0.2, aux_over: batch}\n"
    "train: {tokens_per_sequence: 41, sequences_per_step: 4, steps: 5, valid_sequences: 2, threads: 1,\n"
    "        precision: f64}\n"
    "optimizer: {kind: adamw, lr: 1.0e-2, schedule: constant, weight_decay: 0.1, clip_norm: 0.5}\n"
    "data: {train: [tokens], valid: [tokens]}\n"
    "checkpoint: {every: 0, keep: 1}\n"
    "mesh: {deadline: 60}\n"
    "run: {dir: run, seed: 3}\n";

struct outcome {
    struct config *config;
    pthread_mutex_t lock;
    double loss[STEPS], norm[STEPS], load[STEPS], aux[STEPS], dropped[STEPS], bias[STEPS][E], valid;
};

/* The bias lies with one rank. */
static void take_bias(struct outcome *o, const struct trainer *t, int step) {
    const int i = param_find(&t->run.model.params, "layers.1.router.bias");
    const struct sharding_piece *mine = &t->run.shards.piece[i];
    for (int64_t e = 0; e < mine->n; e++) o->bias[step][mine->begin + e] = ((const double *)mine->w.data)[e];
}

/* What the step did to the bias follows from the load that every rank sees. */
static void check_bias(const struct outcome *o, const struct trainer *t, int step) {
    const double *load = (const double *)t->run.load.data + LAYER * t->run.load.pitch;
    double sum = 0.0, most = 0.0;
    for (int e = 0; e < E; e++) {
        sum += load[e];
        most = fmax(most, load[e]);
    }
    CHECK(sum == 4 * 41 * 2, "step %d: %g choices were counted, not %d", step, sum, 4 * 41 * 2);
    for (int e = 0; e < E; e++) {
        const double moved = o->bias[step][e] - (step ? o->bias[step - 1][e] : 0.0);
        const double wanted = load[e] * E < sum ? 0.01 : load[e] * E > sum ? -0.01 : 0.0;
        CHECK(fabs(moved - wanted) < 1e-15, "step %d: expert %d got %g of %g and its bias moved by %g", step, e,
              load[e], sum, moved);
    }
    CHECK(o->load[step] >= most * E / sum, "step %d: load %g", step, o->load[step]);
}

static enum status run_rank(struct rank *rank, void *arg) {
    static const int never = 0;
    struct outcome *o = arg;
    struct trainer t;
    struct step_report r;
    double valid = 0.0;
    enum status st = OK;
    TRY(trainer_open(&t, o->config, rank, NULL, &never));
    for (int i = 0; st == OK && i < STEPS; i++) {
        st = train_step(&t, &r);
        pthread_mutex_lock(&o->lock);
        take_bias(o, &t, i);
        CHECK(r.experts && !r.skipped, "step %d", i);
        o->loss[i] = r.loss, o->norm[i] = r.grad_norm, o->load[i] = r.expert_load, o->aux[i] = r.aux_loss;
        o->dropped[i] = r.drops ? r.dropped : -1.0;
        if (rank_size(rank) == 1) check_bias(o, &t, i);
        pthread_mutex_unlock(&o->lock);
    }
    if (st == OK) st = train_validate(&t, &valid);
    if (t.team.leader) o->valid = valid;
    trainer_close(&t);
    return st;
}

static void run_case(struct outcome *o, const char *words) {
    char text[240];
    const char *overrides[16];
    int n = 0;
    struct config c;
    struct text errors = {0};
    struct world *world = NULL;
    snprintf(text, sizeof text, "%s", words);
    for (char *item = strtok(text, " "); item; item = strtok(NULL, " ")) overrides[n++] = item;
    const struct config_source from = {.path = "config.yaml", .n_overrides = n, .overrides = overrides};
    const enum status st = config_read(&c, &from, &errors);
    CHECK(st == OK, "%s: %s", words, errors.s ? errors.s : status_text());
    MUST(st);
    text_term(&errors);
    *o = (struct outcome){.config = &c, .lock = PTHREAD_MUTEX_INITIALIZER};
    MUST(world_open(&world, &(struct world_spec){.n_ranks = (int)(c.mesh.data * c.mesh.seq), .deadline_s = 60}));
    MUST(world_run(world, run_rank, o));
    world_close(world);
    config_term(&c);
}

static void close_to(const char *words, const char *what, int step, double a, double b) {
    CHECK(fabs(a - b) <= 1e-10 * fabs(b), "%s: step %d: %s %.15g, on one rank %.15g", words, step, what, a, b);
}

static void compare(const char *words, const struct outcome *one) {
    struct outcome o;
    run_case(&o, words);
    for (int i = 0; i < STEPS; i++) {
        close_to(words, "loss", i, o.loss[i], one->loss[i]);
        close_to(words, "gradient norm", i, o.norm[i], one->norm[i]);
        close_to(words, "auxiliary loss", i, o.aux[i], one->aux[i]);
        CHECK(o.load[i] == one->load[i], "%s: step %d: load %g and %g", words, i, o.load[i], one->load[i]);
        CHECK(o.dropped[i] == one->dropped[i], "%s: step %d: %g dropped, %g on one rank", words, i, o.dropped[i],
              one->dropped[i]);
        CHECK(!memcmp(o.bias[i], one->bias[i], sizeof o.bias[i]), "%s: step %d: other biases", words, i);
    }
    close_to(words, "validation", STEPS, o.valid, one->valid);
}

int main(void) {
    static const char *const micro_1[] = {"mesh.seq=2",
                                          "mesh.seq=3 mesh.layout=zigzag",
                                          "mesh.seq=5",
                                          "mesh.data=2 mesh.seq=2",
                                          "mesh.data=4 mesh.shard=parameters",
                                          "mesh.seq=3 mesh.shard=gradients train.keep=inputs train.threads=2",
                                          "mesh.data=2 train.keep=gemm mesh.shard=none",
                                          "mesh.seq=2 mesh.expert=2",
                                          "mesh.data=2 mesh.seq=2 mesh.expert=2 mesh.expert_room=0.3",
                                          "mesh.data=2 mesh.expert=2 mesh.shard=parameters train.keep=inputs"};
    static const char *const by_sequence[] = {"train.micro_batch=4", "train.micro_batch=2 mesh.seq=3",
                                              "train.micro_batch=2 mesh.data=2 mesh.layout=zigzag mesh.seq=2 "
                                              "mesh.expert=2"};
    char folder[] = "/tmp/baton_moe_ranks_XXXXXX", words[240];
    struct outcome one, all;
    if (!mkdtemp(folder) || chdir(folder) != 0) SKIP("no temporary folder can be made");
    MUST(file_replace("config.yaml", yaml, (int64_t)sizeof yaml - 1));
    small_run_tokens("tokens");
    run_case(&one, "mesh.seq=1");
    CHECK(one.aux[0] > 0.1 && one.load[0] > 1.0, "auxiliary loss %g, load %g", one.aux[0], one.load[0]);
    for (size_t i = 0; i < sizeof micro_1 / sizeof *micro_1; i++) compare(micro_1[i], &one);
    run_case(&one, "model.layers.b.aux_over=sequence");
    for (size_t i = 0; i < sizeof by_sequence / sizeof *by_sequence; i++) {
        snprintf(words, sizeof words, "model.layers.b.aux_over=sequence %s", by_sequence[i]);
        compare(words, &one);
    }
    CHECK(one.dropped[0] == -1.0, "%g dropped where nobody drops", one.dropped[0]);
    run_case(&one, "model.layers.n.capacity=9");
    CHECK(one.dropped[0] > 100.0, "%g dropped", one.dropped[0]);
    for (size_t i = 0; i < sizeof micro_1 / sizeof *micro_1; i++) {
        snprintf(words, sizeof words, "model.layers.n.capacity=9 %s", micro_1[i]);
        compare(words, &one);
    }
    run_case(&all, "train.micro_batch=4");
    CHECK(all.aux[0] != one.aux[0], "balance over the batch is balance in each sequence");
    MUST(file_remove_tree(folder));
    return check_end();
}
