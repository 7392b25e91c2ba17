/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_SMALL_RUN_H
#define BATON_TESTS_SMALL_RUN_H
/* small_run.h - a trainer over random tokens in a folder of its own, for tests that drive its steps. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* mkdtemp */
#endif
#include <unistd.h>
#include "base/file.h"
#include "base/rng.h"
#include "data/idx.h"
#include "launch/trainer.h"
#include "tests/check.h"

static const char small_run_yaml[] =
    "model:\n"
    "  width: 16\n"
    "  vocab: 31\n"
    "  pattern: \"M-*-\"\n"
    "  layers:\n"
    "    M: {kind: mamba2, heads: 4, head_width: 8, state: 6, groups: 2, conv: 4, chunk: 8}\n"
    "    \"*\": {kind: attention, heads: 4, kv_heads: 2, head_width: 4, rope: 1}\n"
    "    \"-\": {kind: mlp, hidden: 24, activation: swiglu}\n"
    "train: {tokens_per_sequence: 40, sequences_per_step: 4, steps: 8, precision: f64, valid_every: 1,\n"
    "        valid_sequences: 3, threads: 2, head_tile: 16}\n"
    "optimizer: {kind: adamw, lr: 1.0e-2, schedule: cosine, warmup_steps: 2, weight_decay: 0.1, clip_norm: 0.5}\n"
    "data: {train: [tokens], valid: [tokens]}\n"
    "checkpoint: {every: 0, keep: 1}\n"
    "run: {dir: run, seed: 3}\n";

/* Documents of 1 to 60 tokens below 31: PREFIX.bin and PREFIX.idx. */
static inline void small_run_tokens(const char *prefix) {
    struct token_writer *w = NULL;
    MUST(token_writer_open(&w, prefix, 31));
    for (uint64_t d = 0; d < 40; d++) {
        int32_t ids[60];
        const int64_t n = 1 + (int64_t)(rng_bits(1, 1, d) % 60);
        for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)(rng_bits(2, d, (uint64_t)i) % 31);
        MUST(token_writer_add(w, ids, n));
    }
    MUST(token_writer_close(w, true));
}

static const int small_run_never = 0;

/* folder holds tokens; overrides replace keys of the YAML above. */
static inline void small_run_config(struct config *c, const char *folder, int n_overrides,
                                    const char *const *overrides) {
    char path[PATH_BYTES];
    struct text errors = {0};
    MUST(path_print(path, "%s/config.yaml", folder));
    MUST(file_replace(path, small_run_yaml, (int64_t)sizeof small_run_yaml - 1));
    const struct config_source from = {.path = path, .n_overrides = n_overrides, .overrides = overrides};
    const enum status st = config_read(c, &from, &errors);
    CHECK(st == OK, "%s", errors.s ? errors.s : status_text());
    text_term(&errors);
}

/* device: NULL, the cpu. */
static inline void small_run_open_on(struct trainer *t, struct config *c, struct rank *rank,
                                     const struct device_choice *device, const char *folder, int n_overrides,
                                     const char *const *overrides) {
    small_run_config(c, folder, n_overrides, overrides);
    MUST(trainer_open(t, c, rank, device, &small_run_never));
}

static inline void small_run_open(struct trainer *t, struct config *c, struct rank *rank, const char *folder,
                                  int n_overrides, const char *const *overrides) {
    small_run_open_on(t, c, rank, NULL, folder, n_overrides, overrides);
}

/* fn runs as the only rank of a world, with a folder that holds tokens and goes afterwards. */
static inline int small_run_main(enum status (*fn)(struct rank *rank, void *folder)) {
    char folder[] = "/tmp/baton_small_run_XXXXXX", prefix[PATH_BYTES];
    struct world *world = NULL;
    const struct world_spec one = {.n_ranks = 1};
    if (!mkdtemp(folder)) SKIP("no temporary folder can be made");
    MUST(path_print(prefix, "%s/tokens", folder));
    small_run_tokens(prefix);
    MUST(world_open(&world, &one));
    MUST(world_run(world, fn, folder));
    world_close(world);
    MUST(file_remove_tree(folder));
    return check_end();
}

#endif
