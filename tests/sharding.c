/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* timeout: 300 */
/* Training over ranks as threads, with nothing, optimizer states, gradients and parameters in slices: the same losses,
 * gradient norms and weights, bit for bit; memory as planned; bytes on the wire as parallel/sharding.h says. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <unistd.h>
#include "base/rng.h"
#include "data/idx.h"
#include "launch/trainer.h"
#include "tests/check.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { STEPS = 2 }; /* ten times slower, and looked at for other things */
#else
enum { STEPS = 5 };
#endif
enum { RANKS = 8, STAGES = 4 };

struct model_case {
    const char *why, *model;
};
/* Blocks of less than 4,096 elements have one owner, or fewer than there are ranks; wider ones are cut inside. */
static const struct model_case models[] = {
    {"small blocks, a head of its own", "{width: 24, vocab: 64, tied: false, pattern: \"M-*-M\", layers: {"
                                        "M: {kind: mamba2, heads: 4, head_width: 12, state: 8, groups: 2, chunk: 8}, "
                                        "\"*\": {kind: attention, heads: 4, kv_heads: 2, head_width: 6}, "
                                        "\"-\": {kind: mlp, hidden: 20, activation: swiglu}}}"},
    {"blocks cut inside, a tied head", "{width: 64, vocab: 300, tied: true, pattern: \"-M*-\", layers: {"
                                       "M: {kind: mamba2, heads: 4, head_width: 32, state: 8, groups: 2, chunk: 8}, "
                                       "\"*\": {kind: attention, heads: 4, kv_heads: 2, head_width: 16}, "
                                       "\"-\": {kind: mlp, hidden: 200, activation: relu2}}}"},
    {"one layer", "{width: 40, vocab: 64, tied: true, pattern: \"-\", layers: {"
                  "\"-\": {kind: mlp, hidden: 600, activation: relu2}}}"},
};
struct mesh_case {
    int data, seq, micro;
    const char *keep, *numerics; /* NULL: all, fast */
};
static const struct mesh_case meshes[] = {
    {1, 1, 2, NULL, NULL},
    {1, 2, 1, NULL, NULL},
    {2, 1, 2, NULL, NULL},
    {1, 3, 2, NULL, NULL},
    {2, 2, 1, NULL, NULL},
    {2, 2, 2, "inputs", NULL},
    {2, 4, 1, NULL, NULL},
    {4, 2, 2, NULL, NULL},
    {2, 2, 2, "inputs, keep_every: 2", NULL},
    {1, 1, 2, NULL, "rank_invariant"},
    {1, 2, 2, NULL, "rank_invariant"},
    {2, 2, 2, "inputs", "rank_invariant"},
};

struct outcome {
    double loss[STEPS], norm[STEPS], valid;
    int64_t grads, params;           /* bytes received, over all steps */
    int64_t want_grads, want_params; /* as the header says             */
    int64_t planned, used, n;
    bool grouped;
    char *weights;
};
struct job {
    struct config config;
    struct outcome out[RANKS];
};

static void write_tokens(const char *prefix) {
    struct token_writer *w = NULL;
    int32_t token[700];
    MUST(token_writer_open(&w, prefix, 64));
    for (uint64_t d = 0; d < 40; d++) {
        const int64_t n = 1 + (int64_t)(rng_bits(7, d, 0) % 700);
        for (int64_t i = 0; i < n; i++) token[i] = (int32_t)((7 * i + (int64_t)d % 3) % 11); /* can be learned */
        MUST(token_writer_add(w, token, n));
    }
    MUST(token_writer_close(w, true));
}

/* Received by a rank in all steps, from the cuts alone. */
static void expect_bytes(const struct sharding *h, enum sharding_stage stage, int64_t M, struct outcome *o) {
    const int64_t unit = dtype_bytes(h->wide), P = h->n_ranks, L = h->spec.n_layers;
    for (int b = 0; b <= L; b++) {
        const int64_t N = h->block[b].n, n = h->block[b].at[h->index + 1] - h->block[b].at[h->index];
        int64_t even[RANKS + 1], times = 1;
        comm_split((int)P, N, even);
        const int64_t mine = even[h->index + 1] - even[h->index];
        const int64_t whole = N * unit <= 4096 ? (P - 1) * N : (P - 1) * mine + N - mine;
        const int leaves = b == L && h->spec.ends_twice ? 2 : 1;
        o->want_grads += STEPS * M * leaves * unit * (stage == SHARDING_NONE ? whole : (P - 1) * n);
        if (stage == SHARDING_PARAMETERS && b < L) times = 1 + M * (b < L - 2) + (M - 1) * (b > 1);
        times *= STEPS;
        if (stage == SHARDING_PARAMETERS && b == 0) times++; /* on its way to the next step */
        if (stage != SHARDING_NONE) o->want_params += times * unit * (N - n);
    }
}

/* The weights as every rank sees them when they are needed. */
static enum status see_weights(struct runner *r, struct outcome *o) {
    void *mem = NULL;
    for (int b = 0; b <= r->model.n_layers; b++) o->n += r->shards.block[b].n * dtype_bytes(r->ctx.real);
    TRY(mem_take(o->n, &mem));
    char *at = o->weights = mem;
    for (int k = -1; k < r->model.n_layers; k++) {
        const struct sharding_block *b = &r->shards.block[k < 0 ? r->model.n_layers : k];
        TRY(sharding_need(&r->shards, k));
        for (int i = b->first; i < b->end; i++) {
            const struct tensor w = r->model.params.list[i].w;
            memcpy(at, w.data, (size_t)tensor_bytes(w));
            at += tensor_bytes(w);
        }
    }
    return sharding_settle(&r->shards);
}

static enum status train(struct trainer *t, struct outcome *o) {
    const struct comm_count *count = t->run.shards.comm.count;
    for (int i = 0; i < STEPS; i++) {
        struct step_report r;
        TRY(train_step(t, &r));
        o->loss[i] = r.loss;
        o->norm[i] = r.grad_norm;
        CHECK(!r.skipped, "step %d skipped", i);
    }
    o->grads = count[COMM_GRADS].bytes_received;
    o->params = count[COMM_PARAMS].bytes_received;
    expect_bytes(&t->run.shards, (enum sharding_stage)t->config->mesh.shard, t->n_micro, o);
    o->grouped = t->config->train.keep_every > 1 && t->config->mesh.shard == SHARDING_PARAMETERS;
    o->planned = t->run.memory.size;
    o->used = t->run.memory.used;
    TRY(train_validate(t, &o->valid));
    return see_weights(&t->run, o);
}

static enum status run_rank(struct rank *rank, void *arg) {
    static const int stop;
    struct job *j = arg;
    struct trainer t;
    TRY(trainer_open(&t, &j->config, rank, NULL, &stop));
    const enum status st = train(&t, &j->out[rank_index(rank)]);
    trainer_close(&t);
    return st;
}

static void run_job(struct job *j, const struct model_case *m, const struct mesh_case *mesh, int stage) {
    static const char *const names[STAGES] = {"none", "optimizer", "gradients", "parameters"};
    char text[2000];
    struct world *w = NULL;
    const int n = snprintf(
        text, sizeof text,
        "model: %s\nmesh: {data: %d, seq: %d, shard: %s, deadline: 100}\n"
        "train: {tokens_per_sequence: 48, sequences_per_step: %d, steps: %d, precision: f32, "
        "head_tile: 16, valid_sequences: 3, threads: 1, keep: %s}\n"
        "optimizer: {kind: adamw, lr: 0.01, schedule: constant, clip_norm: 0.5}\n"
        "data: {train: [sharding_tokens], valid: [sharding_tokens]}\nrun: {dir: unused, seed: 5}\nnumerics: %s\n",
        m->model, mesh->data, mesh->seq, names[stage], mesh->data * mesh->micro, STEPS, mesh->keep ? mesh->keep : "all",
        mesh->numerics ? mesh->numerics : "fast");
    *j = (struct job){0};
    struct text errors = {0};
    const struct config_source from = {.where = "test", .text = text, .text_bytes = n};
    MUST(config_read(&j->config, &from, &errors));
    text_term(&errors);
    MUST(world_open(&w, &(struct world_spec){.n_ranks = mesh->data * mesh->seq, .deadline_s = 100}));
    MUST(world_run(w, run_rank, j));
    world_close(w);
    config_term(&j->config);
}

/* Exact mode knows no ranks of seq: what the first such mesh of a model had, all have. */
static void compare_exact(const struct outcome *o, const struct mesh_case *mesh, const struct model_case *m) {
    static struct outcome first;
    const char *why = m->why;
    if (!mesh->numerics || mesh->data > 1) return;
    if (mesh->seq == 1) first = *o;
    for (int i = 0; i < STEPS; i++)
        CHECK(o->loss[i] == first.loss[i] && o->norm[i] == first.norm[i],
              "%s, exact, seq %d, step %d: loss %.17g, %.17g", why, mesh->seq, i, o->loss[i], first.loss[i]);
    CHECK(o->valid == first.valid, "%s, exact, seq %d: validation", why, mesh->seq);
}

/* All sequences of a step one after the other on one rank: the same but for the order of sums. */
static void compare_alone(const struct outcome *o, const struct model_case *m, const struct mesh_case *mesh) {
    static struct job alone;
    struct mesh_case one = *mesh;
    one.data = one.seq = 1;
    one.micro = mesh->data * mesh->micro;
    run_job(&alone, m, &one, 0);
    for (int i = 0; i < STEPS; i++) {
        const double loss = fabs(o->loss[i] / alone.out[0].loss[i] - 1.0);
        const double norm = fabs(o->norm[i] / alone.out[0].norm[i] - 1.0);
        CHECK(loss <= 1e-5 && norm <= (i ? 1e-4 : 1e-5), "%s, data %d seq %d micro %d, step %d: off by %g and %g",
              m->why, mesh->data, mesh->seq, mesh->micro, i, loss, norm);
    }
    mem_free(alone.out[0].weights);
}

static void free_job(struct job *j) {
    for (int r = 0; r < RANKS; r++) mem_free(j->out[r].weights);
}

/* Rank r against rank 0 of the run without slices. */
static void compare(const struct outcome *o, const struct outcome *ref, const char *what) {
    for (int i = 0; i < STEPS; i++) {
        CHECK(o->loss[i] == ref->loss[i], "%s, step %d: loss %.17g is not %.17g", what, i, o->loss[i], ref->loss[i]);
        CHECK(o->norm[i] == ref->norm[i], "%s, step %d: norm %.17g is not %.17g", what, i, o->norm[i], ref->norm[i]);
    }
    CHECK(o->valid == ref->valid, "%s: validation %.17g is not %.17g", what, o->valid, ref->valid);
    CHECK(o->n == ref->n && memcmp(o->weights, ref->weights, (size_t)o->n) == 0, "%s: weights differ", what);
    CHECK(o->grads == o->want_grads, "%s: %lld bytes of gradients, the formula says %lld", what, (long long)o->grads,
          (long long)o->want_grads);
    /* Groups of layers that run again are gathered again. */
    CHECK(o->params == o->want_params || (o->grouped && o->params > o->want_params),
          "%s: %lld bytes of parameters, the formula says %lld", what, (long long)o->params, (long long)o->want_params);
    CHECK(o->used == o->planned, "%s: %lld bytes used of %lld planned", what, (long long)o->used,
          (long long)o->planned);
}

int main(void) {
    char dir[] = "/tmp/sharding-XXXXXX", what[300];
    if (!mkdtemp(dir) || chdir(dir) != 0) {
        perror(dir);
        return 1;
    }
    write_tokens("sharding_tokens");
    for (size_t m = 0; m < sizeof models / sizeof *models; m++)
        for (size_t k = 0; k < sizeof meshes / sizeof *meshes; k++) {
            static struct job ref, now;
            const int P = meshes[k].data * meshes[k].seq;
            for (int stage = 0; stage < STAGES; stage++) {
                struct job *j = stage == 0 ? &ref : &now;
                run_job(j, &models[m], &meshes[k], stage);
                for (int r = 0; r < P; r++) {
                    snprintf(what, sizeof what, "%s, data %d seq %d micro %d, keep %s, %s, stage %d, rank %d",
                             models[m].why, meshes[k].data, meshes[k].seq, meshes[k].micro,
                             meshes[k].keep ? meshes[k].keep : "all", meshes[k].numerics ? meshes[k].numerics : "fast",
                             stage, r);
                    compare(&j->out[r], &ref.out[0], what);
                }
                if (stage > 0) free_job(j);
            }
            compare_alone(&ref.out[0], &models[m], &meshes[k]);
            compare_exact(&ref.out[0], &meshes[k], &models[m]);
            CHECK(ref.out[0].loss[STEPS - 1] < ref.out[0].loss[0], "%s: nothing is learned", models[m].why);
            free_job(&ref);
        }
    remove("sharding_tokens.bin");
    remove("sharding_tokens.idx");
    if (chdir("/") == 0) rmdir(dir);
    return check_end();
}
