/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/json.h"
#include "base/log.h"
#include "launch/command.h"
#include "launch/device.h"
#include "launch/run_folder.h"
#include "launch/signals.h"
#include "launch/trainer.h"

struct train_options {
    const char *device, *ranks;
    int dry_run, fork;
};

static enum status read_config(struct config *c, const struct command_line *line, const struct train_options *o) {
    struct text errors = {0};
    FAIL_UNLESS(line->n_words == 1, ERR_CONFIG, "wants one CONFIG, a YAML file, and has %d: baton train --help",
                line->n_words);
    TRY(device_choose(o->device));
    TRY(ranks_check(o->ranks));
    const struct config_source from = {
        .path = line->words[0], .n_overrides = line->n_overrides, .overrides = line->overrides};
    enum status st = config_read(c, &from, &errors);
    if (st == ERR_CONFIG && errors.n > 0) { /* every mistake, not the first alone */
        fprintf(stderr, "%s%s", errors.s, errors.s[errors.n - 1] == '\n' ? "" : "\n");
        status_clear();
    }
    text_term(&errors);
    return st != OK ? st : config_check_runnable(c);
}

static enum status print_plan(const struct config *c, const struct runner *r) {
    struct text out = {0};
    enum status st = config_print_stack(c, &out);
    const double flops = model_flops_per_token(&r->model, c->train.tokens_per_sequence);
    if (st == OK)
        st = text_print(&out, "parameters: %" PRId64 ", %.3f MFLOP a trained token\n", r->model.params.n_elements,
                        1e-6 * flops);
    if (st == OK) st = ledger_print(&r->ledger, &out);
    if (st == OK) log_note("%s", out.s);
    text_term(&out);
    return st;
}

static enum status dry_run(const struct config *c) {
    struct runner r;
    const struct runner_spec spec = trainer_spec(c);
    TRY(runner_init(&r, &c->model, &spec, true));
    const enum status st = print_plan(c, &r);
    runner_term(&r);
    return st;
}

/* What a fork came from, for whoever reads its folder later. */
static enum status record_fork(const struct trainer *t, const char *from, const char *to) {
    char path[PATH_BYTES];
    TRY(path_print(path, "%s/fork.json", to));
    json_t *j = json_pack("{s:s, s:I, s:s, s:s}", "from", from, "step", (json_int_t)t->step, "identity",
                          t->config->identity_hash, "differences", t->identity_diff.s ? t->identity_diff.s : "");
    struct text text = {0};
    enum status st = j ? json_print(j, &text) : status_fail(ERR_OOM, __FILE__, __LINE__, "no memory to write %s", path);
    if (st == OK) st = file_replace(path, text.s, text.n);
    text_term(&text);
    json_decref(j);
    return st;
}

/* RUN-fork-1, -2, ...: the first that does not exist, or that holds a run of this identity. */
static enum status fork_run(struct trainer *t, struct run_folder *f, char dir[PATH_BYTES]) {
    const char *from = t->config->run.dir;
    for (int k = 1; k < 1000; k++) {
        TRY(path_print(dir, "%s-fork-%d", from, k));
        const bool there = file_exists(dir);
        TRY(run_folder_open(f, dir));
        t->run_dir = dir;
        if (!there) {
            TRY(trainer_restore(t, from, true));
            t->saved_step = -1;
            return record_fork(t, from, dir);
        }
        const enum status st = trainer_restore(t, dir, false);
        if (st == OK) return OK;
        if (st != ERR_CONFIG && st != ERR_MISSING) return st;
        TRY(run_folder_close(f, true));
    }
    FAIL(ERR_CONFIG, "%s has a thousand forks: give this run a folder with run.dir=...", from);
}

/* The run folder is ours, and the state is what its newest valid checkpoint holds, if there is one. */
static enum status settle(struct trainer *t, struct run_folder *f, bool fork, char dir[PATH_BYTES]) {
    TRY(path_print(dir, "%s", t->config->run.dir));
    TRY(run_folder_open(f, dir));
    t->run_dir = dir;
    const enum status st = trainer_restore(t, dir, false);
    if (st == ERR_MISSING) {
        status_clear();
        return OK;
    }
    if (st != ERR_CONFIG || !fork) return st;
    TRY(run_folder_close(f, true));
    return fork_run(t, f, dir);
}

static enum status train_in_folder(struct trainer *t, const struct run_folder *f) {
    const struct config *c = t->config;
    TRY(run_folder_write_config(f, &c->resolved));
    if (t->step >= c->train.steps) {
        log_note("%s: all %" PRId64 " steps are done; a larger train.steps goes on", t->run_dir, c->train.steps);
        return OK;
    }
    TRY(report_open(&t->report, &(struct report_spec){.run_dir = t->run_dir,
                                                      .first_step = t->step + 1,
                                                      .n_steps = c->train.steps,
                                                      .tensorboard = c->run.tensorboard}));
    const enum status st = trainer_run(t);
    const enum status closed = report_close(t->report);
    t->report = NULL;
    return st != OK ? st : closed;
}

static enum status train(const struct config *c, bool fork) {
    struct trainer t;
    struct run_folder f;
    char dir[PATH_BYTES];
    run_folder_init(&f);
    TRY(signals_init());
    enum status st = trainer_open(&t, c, signals_flag());
    if (st != OK) {
        signals_term();
        return st;
    }
    st = print_plan(c, &t.run);
    if (st == OK) st = settle(&t, &f, fork, dir);
    const bool settled = st == OK;
    if (st == OK) st = train_in_folder(&t, &f);
    trainer_close(&t);
    const enum status closed = run_folder_close(&f, settled);
    signals_term();
    return st != OK ? st : closed;
}

static enum status run(int argc, char **argv) {
    struct train_options o = {0};
    const struct option_row rows[] = {{"--device", &o.device, NULL},
                                      {"--ranks", &o.ranks, NULL},
                                      {"--dry-run", NULL, &o.dry_run},
                                      {"--fork", NULL, &o.fork}};
    struct command_line line;
    struct config c = {0};
    TRY(command_parse(argc, argv, rows, 4, &line));
    enum status st = read_config(&c, &line, &o);
    if (st == OK) st = o.dry_run ? dry_run(&c) : train(&c, o.fork);
    config_term(&c);
    command_line_term(&line);
    return st;
}

const struct command command_train = {
    .name = "train",
    .usage = "train CONFIG [key=value ...] [--ranks N] [--device cpu|cuda] [--dry-run] [--fork]",
    .help = "Trains the model that CONFIG describes.  The same command continues from the newest valid checkpoint of\n"
            "run.dir.  key=value overrides a key, e.g. train.steps=100 or model.layers.M.chunk=64.\n\n"
            "  --dry-run   print the stack, the parameters and the memory plan, and stop\n"
            "  --fork      where run.dir holds a run of another identity (model, data, seed, optimizer, precision,\n"
            "              lengths): start a new run, RUN-fork-N, from its newest checkpoint\n\n"
            "TERM, INT and USR1 save the last finished step and end with exit code 3.\n",
    .run = run,
};
