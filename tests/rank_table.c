/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads long */
/* timeout: 300 */
/* Training over ranks is training on one: ten optimizer steps on packed documents over every mesh of {1, 2, 3, 4, 8}
 * ranks of seq and {1, 2} of data, every carry, both forms of attention, both layouts, with the activation policies
 * and stages of sharding going round, against the one-rank run. */
#define _DEFAULT_SOURCE
#include <inttypes.h>
#include <unistd.h>
#include "base/file.h"
#include "base/rng.h"
#include "data/idx.h"
#include "launch/trainer.h"
#include "tests/check.h"

enum { STEPS = 10, VOCAB = 29 };
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { EVERY = 7 }; /* under a sanitizer a part of the table: all values of all columns */
#else
enum { EVERY = 1 };
#endif
/* 53 tokens divide by no number of ranks.  24 heads can be spread over 2, 3, 4 and 8, with one key head or with 24. */
static const char yaml[] =
    "model:\n"
    "  width: 24\n"
    "  vocab: 29\n"
    "  pattern: \"M*-MW-M\"\n"
    "  layers:\n"
    "    M: {kind: mamba2, heads: 6, head_width: 4, state: 5, groups: 2, conv: 4, chunk: 8}\n"
    "    \"*\": {kind: attention, heads: 24, kv_heads: 1, head_width: 2, rope: 1}\n"
    "    W: {kind: attention, heads: 24, kv_heads: 24, head_width: 2, window: 17}\n"
    "    \"-\": {kind: mlp, hidden: 32, activation: swiglu}\n"
    "train: {tokens_per_sequence: 53, sequences_per_step: 4, micro_batch: 2, steps: 10, threads: 1, head_tile: 16}\n"
    "optimizer: {kind: adamw, lr: 1.0e-2, schedule: cosine, warmup_steps: 2, weight_decay: 0.1, clip_norm: 0.5}\n"
    "data: {train: [tokens]}\n"
    "run: {dir: run, seed: 3}\n";

struct setting {
    int seq, data, tokens;
    const char *carry, *attention, *layout, *keep, *shard, *precision;
};
struct run {
    const struct setting *setting;
    const char *config; /* path */
    double loss[STEPS], norm[STEPS];
};

static const char *name_of(const struct setting *s) {
    static char text[200];
    snprintf(text, sizeof text, "%d tokens, seq %d, data %d, %s, %s, %s, %s, %s, %s", s->tokens, s->seq, s->data,
             s->carry, s->attention, s->layout, s->keep, s->shard, s->precision);
    return text;
}

static void read_config(struct config *c, const struct run *run) {
    const struct setting *s = run->setting;
    const bool every = !strncmp(s->keep, "every", 5);
    char text[10][48];
    const char *overrides[10];
    struct text errors = {0};
    snprintf(text[0], sizeof text[0], "mesh.seq=%d", s->seq);
    snprintf(text[1], sizeof text[1], "mesh.data=%d", s->data);
    snprintf(text[2], sizeof text[2], "mesh.carry=%s", s->carry);
    snprintf(text[3], sizeof text[3], "mesh.attention=%s", s->attention);
    snprintf(text[4], sizeof text[4], "mesh.layout=%s", s->layout);
    snprintf(text[5], sizeof text[5], "train.keep=%s", every ? "inputs" : s->keep);
    snprintf(text[6], sizeof text[6], "train.precision=%s", s->precision);
    snprintf(text[7], sizeof text[7], "train.tokens_per_sequence=%d", s->tokens);
    snprintf(text[8], sizeof text[8], "mesh.shard=%s", s->shard);
    snprintf(text[9], sizeof text[9], "train.keep_every=%d", every ? 3 : 1);
    for (int i = 0; i < 10; i++) overrides[i] = text[i];
    const struct config_source from = {.path = run->config, .n_overrides = 10, .overrides = overrides};
    const enum status st = config_read(c, &from, &errors);
    CHECK(st == OK, "%s: %s", name_of(s), errors.s ? errors.s : status_text());
    text_term(&errors);
    MUST(config_check_runnable(c));
}

struct task {
    struct config config;
    struct run *run;
};

static enum status train_rank(struct rank *rank, void *arg) {
    static const int never = 0;
    struct task *task = arg;
    struct trainer t;
    TRY(trainer_open(&t, &task->config, rank, NULL, &never));
    enum status st = OK;
    for (int i = 0; i < STEPS && st == OK; i++) {
        struct step_report r;
        st = train_step(&t, &r);
        if (st != OK || rank_index(rank) > 0) continue;
        task->run->loss[i] = r.loss;
        task->run->norm[i] = r.grad_norm;
    }
    trainer_close(&t);
    return st;
}

static void train(struct run *run) {
    struct task task = {.run = run};
    struct world *world = NULL;
    read_config(&task.config, run);
    MUST(
        world_open(&world, &(struct world_spec){.n_ranks = run->setting->seq * run->setting->data, .deadline_s = 120}));
    MUST(world_run(world, train_rank, &task));
    world_close(world);
    config_term(&task.config);
}

/* Worst relative difference of the table, for whoever changes an order of sums. */
static double worst[2][3];

static void compare(const struct run *run, const struct run *one) {
    const bool f32 = !strcmp(run->setting->precision, "f32");
    for (int i = 0; i < STEPS; i++) {
        const double loss = fabs(run->loss[i] - one->loss[i]) / fabs(one->loss[i]);
        const double norm = fabs(run->norm[i] - one->norm[i]) / fabs(one->norm[i]);
        CHECK(loss <= (f32 ? 1e-5 : 1e-10), "%s: loss of step %d: %.17g, on one rank %.17g", name_of(run->setting),
              i + 1, run->loss[i], one->loss[i]);
        CHECK(norm <= (!f32     ? 1e-10
                       : i == 0 ? 1e-5
                                : 1e-4),
              "%s: gradient norm of step %d: %.17g, on one rank %.17g", name_of(run->setting), i + 1, run->norm[i],
              one->norm[i]);
        if (loss > worst[f32][0]) worst[f32][0] = loss;
        if (norm > worst[f32][i == 0 ? 1 : 2]) worst[f32][i == 0 ? 1 : 2] = norm;
    }
}

static void write_tokens(const char *folder) {
    char path[PATH_BYTES];
    struct token_writer *w = NULL;
    MUST(path_print(path, "%s/tokens", folder));
    MUST(token_writer_open(&w, path, VOCAB));
    for (uint64_t d = 0; d < 200; d++) { /* most documents are shorter than a sequence; a word follows its neighbour */
        int32_t ids[90];
        const int64_t n = 1 + (int64_t)(rng_bits(1, 1, d) % (d % 5 == 0 ? 90 : 25));
        for (int64_t i = 0; i < n; i++)
            ids[i] = i > 0 && rng_uniform(2, d, (uint64_t)i) < 0.5 ? (ids[i - 1] * 5 + 3) % VOCAB
                                                                   : (int32_t)(rng_bits(3, d, (uint64_t)i) % VOCAB);
        MUST(token_writer_add(w, ids, n));
    }
    MUST(token_writer_close(w, true));
    MUST(path_print(path, "%s/config.yaml", folder));
    MUST(file_replace(path, yaml, (int64_t)sizeof yaml - 1));
}

/* All settings of one precision; policies and stages of sharding go round. */
static int run_table(const char *config, const char *precision) {
    static const int seqs[] = {1, 2, 3, 4, 8};
    static const char *const carries[] = {"gather", "chain", "scan"}, *const forms[] = {"swap", "keys"},
                             *const layouts[] = {"contiguous", "zigzag"},
                             *const keeps[] = {"all", "gemm", "inputs", "every third input"},
                             *const shards[] = {"none", "optimizer", "gradients", "parameters"};
    const struct setting alone = {1, 1, 53, "auto", "auto", "contiguous", "all", "optimizer", precision};
    struct run one = {.setting = &alone, .config = config};
    int n = 0;
    train(&one);
    CHECK(one.loss[STEPS - 1] < 0.9 * one.loss[0], "nothing is learnt: %g to %g", one.loss[0], one.loss[STEPS - 1]);
    for (int i = 0; i < 5 * 2 * 3 * 2 * 2; i += EVERY) {
        const struct setting s = {.seq = seqs[i / 24],
                                  .data = 1 + i / 12 % 2,
                                  .tokens = 53,
                                  .carry = carries[i / 4 % 3],
                                  .attention = forms[i / 2 % 2],
                                  .layout = layouts[i % 2],
                                  .keep = keeps[(i + i / 4) % 4], /* each two columns have all pairs of values */
                                  .shard = shards[(i / 3 + i / 5) % 4],
                                  .precision = precision};
        struct run run = {.setting = &s, .config = config};
        if (s.seq == 1 && i / 2 % 2 == 1) continue; /* no form */
        train(&run);
        compare(&run, &one);
        n++;
    }
    return n;
}

/* Sequences of about as many tokens as ranks: ranges of one token or none, and ranks without any. */
static int run_short(const char *config) {
    static const struct setting rows[] = {
        {8, 1, 9, "gather", "swap", "zigzag", "all", "gradients", "f64"},
        {8, 1, 9, "scan", "keys", "zigzag", "inputs", "parameters", "f64"},
        {8, 1, 9, "chain", "keys", "contiguous", "all", "optimizer", "f64"},
        {8, 2, 8, "scan", "swap", "contiguous", "gemm", "optimizer", "f64"},
        {4, 1, 5, "chain", "swap", "zigzag", "inputs", "gradients", "f64"},
        {4, 2, 5, "gather", "keys", "zigzag", "all", "parameters", "f64"},
        {3, 1, 3, "scan", "swap", "zigzag", "all", "optimizer", "f64"},
        {2, 1, 2, "gather", "keys", "contiguous", "gemm", "gradients", "f64"},
    };
    const int n = sizeof rows / sizeof *rows;
    for (int i = 0; i < n; i++) {
        const struct setting alone = {1, 1, rows[i].tokens, "auto", "auto", "contiguous", "all", "optimizer", "f64"};
        struct run one = {.setting = &alone, .config = config}, run = {.setting = &rows[i], .config = config};
        train(&one);
        train(&run);
        compare(&run, &one);
    }
    return n;
}

int main(void) {
    char folder[] = "/tmp/baton_rank_table_XXXXXX", config[PATH_BYTES];
    if (!mkdtemp(folder)) SKIP("no temporary folder can be made");
    write_tokens(folder);
    MUST(path_print(config, "%s/config.yaml", folder));
    const int n = run_table(config, "f64") + run_table(config, "f32") + run_short(config);
    CHECK(n * EVERY >= 120, "%d settings", n);
    MUST(file_remove_tree(folder));
    if (getenv("BATON_VERBOSE"))
        for (int i = 0; i < 2; i++)
            printf("%s: loss %.2g, gradient norm %.2g at step 1, %.2g later; %d settings\n", i ? "f32" : "f64",
                   worst[i][0], worst[i][1], worst[i][2], n);
    return check_end();
}
