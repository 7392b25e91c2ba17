/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_TRAINER_H
#define BATON_LAUNCH_TRAINER_H
/* trainer.h - owns everything of a training run; lives in main. */
#include "checkpoints/checkpoint.h"
#include "data/stream.h"
#include "kernels/adamw/adamw.h"
#include "launch/report.h"
#include "launch/run_folder.h"
#include "launch/runner.h"
#include "launch/startup.h"
#include "profiling/gauge.h"

struct trainer {
    const struct config *config;
    const char *run_dir; /* where checkpoints go: run.dir, or a fork of it */
    struct team team;
    const int *stop; /* not 0: a signal came */
    struct runner run;
    struct stream *train, *valid;
    struct arena tokens; /* of one whole step, so that its valid targets are known before it; on paper there are none */
    int32_t *ids, *targets;
    int64_t *pos;
    int64_t n_micro;            /* micro-batches of one step                                     */
    int64_t step;               /* finished optimizer steps                                      */
    int64_t saved_step;         /* the newest on disk; -1: none                                  */
    double flops;               /* of one trained token                                          */
    struct state_tensor *state; /* what a checkpoint holds                                       */
    int64_t n_state;
    struct state_place *place;  /* of each: where its numbers go                                 */
    struct state_memory memory; /* how, where the host cannot read them                          */
    struct text identity_diff;  /* of the checkpoint that was restored, where it may differ */
    struct report *report;
    struct startup startup; /* up to the first update of this start */
    bool told_memory;
    struct gauge *gauge; /* of the leader's GPU; or NULL */
};

/* A tensor of the state: rows of a parameter from element `first` on, or of its moments (param -1). */
struct state_place {
    int param;
    int64_t first;
};

/* One training step that reads on one screen (step.c).  On ERR_STOPPED nothing of the state has changed. */
enum status train_step(struct trainer *t, struct step_report *r);
/* All sequences of the step behind `step`, and with them the number of its valid targets. */
enum status train_load(struct trainer *t, int64_t step);
/* The part of a step between the data and the report, which is all that ranks exchange.  Without its update the state
 * stays as it is (exposed.h). */
enum status train_passes(struct trainer *t, struct step_report *r, bool with_update);
/* What this rank has moved so far, by use, over all its communicators. */
void trainer_moved(const struct trainer *t, struct comm_count out[N_COMM_USES]);
/* Mean loss over the validation sequences. */
enum status train_validate(struct trainer *t, double *loss);

/* ERR_STOPPED on all ranks alike where a signal has reached any of them. */
enum status train_agree_stop(struct trainer *t);

/* The checkpoint's view of the state (trainer_state.c). */
enum status trainer_list_state(struct trainer *t);
enum status trainer_save(struct trainer *t);
/* The newest valid checkpoint of run_dir; for the leader.  ERR_MISSING: there is none.  ERR_CONFIG: its identity
 * differs, with the keys that do; for a fork it may. */
enum status trainer_find(struct trainer *t, const char *run_dir, bool may_differ, char path[PATH_BYTES]);
/* Its content becomes the state; for every rank. */
enum status trainer_load(struct trainer *t, const char *path);

/* The run folder is ours and the state is what its newest valid checkpoint holds, if there is one (settle.c). */
enum status trainer_settle(struct trainer *t, struct run_folder *f, bool fork, char dir[PATH_BYTES]);

/* The ranks of a run of this configuration; device NULL: the cpu. */
enum status trainer_team(struct team *team, const struct config *c, struct rank *rank,
                         const struct device_choice *device);
struct runner_spec trainer_spec(const struct config *c, struct team *team);
enum status trainer_open(struct trainer *t, const struct config *c, struct rank *rank,
                         const struct device_choice *device, const int *stop);
/* For plans, by one rank of a world on paper: without data, memory or a GPU. */
enum status trainer_open_paper(struct trainer *t, const struct config *c, struct rank *rank);
/* BF16 on a GPU: the algorithms of products, of an earlier start or by measurement (products.c); all ranks together,
 * before the first step. */
enum status trainer_choose_products(struct trainer *t);
/* Steps until config.train.steps or a stop; reports, validates and saves on the way. */
enum status trainer_run(struct trainer *t);
void trainer_close(struct trainer *t);

#endif
