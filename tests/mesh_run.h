/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_MESH_RUN_H
#define BATON_TESTS_MESH_RUN_H
/* mesh_run.h - a few training steps in F64 on a mesh of thread ranks, to be held against the same steps on another. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/rng.h"
#include "data/idx.h"
#include "launch/trainer.h"
#include "tests/check.h"

enum { MESH_STEPS = 5, MESH_RANKS = 8 };

struct mesh_run {
    struct config config;
    int64_t steps;                             /* to take: MESH_STEPS unless set                    */
    const char *from, *to;                     /* a checkpoint to begin from, a run folder to save in */
    enum status (*prepare)(struct trainer *t); /* before the first step; NULL: nothing */
    struct {
        double loss[MESH_STEPS], norm[MESH_STEPS], valid;
        int64_t planned, used;
    } out[MESH_RANKS];
};

/* PREFIX.bin and PREFIX.idx: documents that can be learned, of tokens below 11. */
static inline void mesh_run_tokens(const char *prefix) {
    struct token_writer *w = NULL;
    int32_t token[90];
    MUST(token_writer_open(&w, prefix, 64));
    for (uint64_t d = 0; d < 40; d++) {
        const int64_t n = 1 + (int64_t)(rng_bits(7, d, 0) % 90);
        for (int64_t i = 0; i < n; i++) token[i] = (int32_t)((7 * i + (int64_t)d % 3) % 11);
        MUST(token_writer_add(w, token, n));
    }
    MUST(token_writer_close(w, true));
}

static inline enum status mesh_run_steps(struct trainer *t, struct mesh_run *j, int rank) {
    const int64_t last = t->step + j->steps;
    while (t->step < last) {
        struct step_report r;
        TRY(train_step(t, &r));
        CHECK(!r.skipped, "step %d skipped", (int)r.step);
        j->out[rank].loss[r.step - 1] = r.loss;
        j->out[rank].norm[r.step - 1] = r.grad_norm;
    }
    j->out[rank].planned = t->run.memory.size;
    j->out[rank].used = t->run.memory.used;
    if (j->to) TRY(trainer_save(t));
    return train_validate(t, &j->out[rank].valid);
}

static inline enum status mesh_run_rank(struct rank *rank, void *arg) {
    static const int stop = 0;
    struct mesh_run *j = (struct mesh_run *)arg;
    struct trainer t;
    TRY(trainer_open(&t, &j->config, rank, NULL, &stop));
    const struct report_spec report = {.run_dir = j->to, .first_step = 1, .n_steps = MESH_STEPS};
    if (j->to) t.run_dir = j->to;
    enum status st = j->to && t.team.leader ? report_open(&t.report, &report) : OK;
    if (st == OK && j->from) st = trainer_load(&t, j->from);
    if (st == OK && j->prepare) st = j->prepare(&t);
    if (st == OK) st = mesh_run_steps(&t, j, rank_index(rank));
    trainer_close(&t);
    return st;
}

/* model, mesh, train and numerics are YAML texts. */
static inline void mesh_run_read(struct mesh_run *j, const char *model, const char *mesh, const char *train,
                                 const char *numerics) {
    char text[4000];
    struct text errors = {0};
    const int n = snprintf(text, sizeof text,
                           "model: %s\nmesh: %s\ntrain: {tokens_per_sequence: 24, sequences_per_step: 8, steps: 5, "
                           "precision: f64, head_tile: 7, valid_sequences: 3, threads: 1%s}\n"
                           "optimizer: {kind: adamw, lr: 0.01, schedule: constant, clip_norm: 0.5}\n"
                           "data: {train: [mesh_tokens], valid: [mesh_tokens]}\nrun: {dir: unused, seed: 5}\n"
                           "numerics: %s\n",
                           model, mesh, train, numerics);
    const struct config_source from = {.where = "test", .text = text, .text_bytes = n};
    *j = (struct mesh_run){0};
    j->steps = MESH_STEPS;
    const enum status st = config_read(&j->config, &from, &errors);
    CHECK(st == OK, "%s", errors.s ? errors.s : status_text());
    if (st != OK) exit(1);
    text_term(&errors);
}

static inline int mesh_run_ranks(const struct mesh_run *j) {
    const struct mesh_config *m = &j->config.mesh;
    return (int)(m->data * m->seq * m->tensor * m->pipe);
}

/* The steps on all ranks, which end with the same numbers, in the memory that was planned. */
static inline void mesh_run(struct mesh_run *j, const char *why) {
    struct world *w = NULL;
    const int n = mesh_run_ranks(j);
    const struct world_spec spec = {.n_ranks = n, .deadline_s = 100};
    MUST(config_check_runnable(&j->config));
    if (j->to) CHECK(mkdir(j->to, 0700) == 0, "%s: no folder %s", why, j->to);
    MUST(world_open(&w, &spec));
    MUST(world_run(w, mesh_run_rank, j));
    world_close(w);
    for (int r = 0; r < n; r++) {
        CHECK(!memcmp(j->out[r].loss, j->out[0].loss, sizeof j->out[0].loss) &&
                  !memcmp(j->out[r].norm, j->out[0].norm, sizeof j->out[0].norm),
              "%s: ranks 0 and %d have other losses or norms", why, r);
        CHECK(j->out[r].used == j->out[r].planned, "%s: rank %d used %lld bytes of %lld planned", why, r,
              (long long)j->out[r].used, (long long)j->out[r].planned);
    }
}

/* Steps [first, last) agree to a relative bound. */
static inline void mesh_run_compare(const struct mesh_run *j, const struct mesh_run *ref, int first, int last,
                                    double bound, const char *why) {
    for (int i = first; i < last; i++) {
        const double loss = fabs(j->out[0].loss[i] / ref->out[0].loss[i] - 1.0);
        const double norm = fabs(j->out[0].norm[i] / ref->out[0].norm[i] - 1.0);
        CHECK(loss <= bound && norm <= bound, "%s, step %d: loss %.17g, %.17g, norm %.17g, %.17g: off by %g and %g",
              why, i, j->out[0].loss[i], ref->out[0].loss[i], j->out[0].norm[i], ref->out[0].norm[i], loss, norm);
    }
    CHECK(last < MESH_STEPS || fabs(j->out[0].valid / ref->out[0].valid - 1.0) <= bound, "%s: validation %.17g, %.17g",
          why, j->out[0].valid, ref->out[0].valid);
}

static inline void mesh_run_term(struct mesh_run *j) { config_term(&j->config); }

/* Two steps on each of the meshes, saved, and three more on each of them from there are as five on one rank. */
static inline void mesh_run_places(const char *model, const char *const *places, size_t n, const char *about) {
    static struct mesh_run one, first, second;
    char why[300], dir[] = "saved", path[PATH_BYTES];
    mesh_run_read(&one, model, "{data: 1}", "", "fast");
    mesh_run(&one, "one rank");
    for (size_t a = 0; a < n; a++) {
        mesh_run_read(&first, model, places[a], "", "fast");
        first.steps = 2;
        first.to = dir;
        mesh_run(&first, places[a]);
        MUST(checkpoint_find(dir, path, NULL));
        for (size_t b = 0; b < n; b++) {
            snprintf(why, sizeof why, "%ssaved on %s, loaded on %s", about, places[a], places[b]);
            mesh_run_read(&second, model, places[b], "", "fast");
            second.steps = 3;
            second.from = path;
            mesh_run(&second, why);
            mesh_run_compare(&second, &one, 2, MESH_STEPS, 1e-10, why);
            mesh_run_term(&second);
        }
        mesh_run_term(&first);
        MUST(file_remove_tree(dir));
    }
    mesh_run_term(&one);
}

#endif
