/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_EVAL_H
#define BATON_LAUNCH_EVAL_H
/* eval.h - the evaluations of a trained model: one file and one row of the table in command_eval.c each.
 *
 * On the command line a key with a dot overrides the model's configuration (train.precision=f64), one without is the
 * task's own (tokens=200), typed by the task's field table. */
#include "checkpoints/checkpoint.h"
#include "checkpoints/hf.h"
#include "launch/config.h"
#include "launch/runner.h"

/* A model on disk: a run folder (its newest valid checkpoint), one checkpoint, or a Hugging Face folder. */
struct eval_model {
    const char *path; /* as given */
    struct config config;
    struct checkpoint *checkpoint; /* one of the two */
    struct hf_folder *hf;
    int64_t trained_tokens; /* of one sequence in training; 0: the folder does not say */
    struct device *device;  /* where it runs, its GPU; NULL: the cpu                   */
};
enum status eval_model_open(struct eval_model *m, const char *path, const char *const *overrides, int n_overrides);
enum status eval_model_read(const struct eval_model *m, struct runner *r); /* every parameter becomes r's */
void eval_model_close(struct eval_model *m);                               /* accepts the empty one; the GPU, too */

struct eval_files {
    const char *json;                 /* where to write the results, or NULL */
    const char *prompt, *prompt_file; /* or NULL                             */
};
struct eval_task {
    const char *name;
    const struct field *fields;
    size_t options_bytes; /* of the struct that the fields fill */
    enum status (*run)(struct eval_model *m, const void *options, const struct eval_files *files);
};
extern const struct eval_task eval_perplexity, eval_sample;

/* The comma-separated texts of every entry, one by one: "a,b" is two. */
enum status eval_split(const struct field *f, void *options, const char *text);

/* Choosing a token (eval_sample.c): the place of a draw u in [0, 1) among the top_k (0: all) largest of n logits, each
 * weighing exp(logit / temperature); temperature 0: the largest, the first of equal ones.  order has room for n. */
struct eval_choice {
    double temperature;
    int64_t top_k;
};
struct eval_logit {
    double value;
    int32_t id;
};
int32_t eval_choose(const struct eval_choice *how, struct eval_logit *order, int64_t n, double u);

#endif
