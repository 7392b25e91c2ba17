/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/log.h"
#include "launch/command.h"
#include "launch/device.h"
#include "launch/plan.h"
#include "launch/signals.h"
#include "launch/trainer.h"

struct train_options {
    const char *device, *ranks;
    int dry_run, fork;
};

static enum status read_config(struct config *c, const struct command_line *line, const struct train_options *o,
                               struct device_choice *device) {
    struct text errors = {0};
    FAIL_UNLESS(line->n_words == 1, ERR_CONFIG, "wants one CONFIG, a YAML file, and has %d: baton train --help",
                line->n_words);
    TRY(o->dry_run ? device_choose_plan(o->device, device) : device_choose(o->device, device));
    const struct config_source from = {
        .path = line->words[0], .n_overrides = line->n_overrides, .overrides = line->overrides};
    enum status st = config_read(c, &from, &errors);
    if (st == ERR_CONFIG && errors.n > 0) { /* every mistake, not the first alone */
        fprintf(stderr, "%s%s", errors.s, errors.s[errors.n - 1] == '\n' ? "" : "\n");
        status_clear();
    }
    text_term(&errors);
    if (st == OK) st = config_check_runnable(c);
    return st != OK ? st : device_check_precision(device, c->train.precision);
}

static enum status print_plan(const struct config *c, const struct runner *r) {
    struct text out = {0};
    enum status st = plan_print_model(c, &r->model, &out);
    const int ranks = rank_on_host(r->spec.team->rank);
    if (st == OK) st = ledger_print(&r->ledger, "memory plan", ranks, &out);
    if (st == OK && runner_apart(r)) st = ledger_print(&r->beside, "memory of the host beside it", ranks, &out);
    if (st == OK) log_note("%s", out.s);
    text_term(&out);
    return st;
}

static enum status open_report(struct trainer *t, const struct run_folder *f) {
    const struct config *c = t->config;
    if (!t->team.leader) return OK;
    TRY(run_folder_write_config(f, &c->resolved));
    return report_open(&t->report, &(struct report_spec){.run_dir = t->run_dir,
                                                         .first_step = t->step + 1,
                                                         .n_steps = c->train.steps,
                                                         .tensorboard = c->run.tensorboard});
}

static enum status train_in_folder(struct trainer *t, const struct run_folder *f) {
    if (t->step >= t->config->train.steps) {
        if (t->team.leader)
            log_note("%s: all %" PRId64 " steps are done; a larger train.steps goes on", t->run_dir,
                     t->config->train.steps);
        return OK;
    }
    TRY(open_report(t, f));
    startup_mark(&t->startup, "run folder and checkpoint");
    enum status st = trainer_choose_products(t);
    if (t->team.device) startup_mark(&t->startup, "choice of products");
    if (st == OK) st = trainer_run(t);
    const enum status closed = report_close(t->report);
    t->report = NULL;
    return st != OK ? st : closed;
}

/* What all ranks of the process share. */
struct task {
    struct config config;
    struct device_choice device;
    struct train_options options;
};

static enum status dry_run(const struct config *c, struct rank *rank, const struct device_choice *device) {
    struct runner r;
    struct team team;
    TRY(trainer_team(&team, c, rank, device));
    struct runner_spec spec = trainer_spec(c, &team);
    spec.plan_cuda = device->cuda;
    enum status st = runner_init(&r, &c->model, &spec, true);
    if (st == OK && team.leader) st = print_plan(c, &r);
    if (st == OK) runner_term(&r);
    team_close(&team);
    return st;
}

static enum status train_rank(struct rank *rank, void *arg) {
    const struct task *task = arg;
    const struct config *c = &task->config;
    struct trainer t;
    struct run_folder f;
    char dir[PATH_BYTES];
    if (task->options.dry_run) return dry_run(c, rank, &task->device);
    run_folder_init(&f);
    TRY(trainer_open(&t, c, rank, &task->device, signals_flag()));
    enum status st = t.team.leader ? print_plan(c, &t.run) : OK;
    if (st == OK) st = trainer_settle(&t, &f, task->options.fork, dir);
    const bool settled = st == OK;
    if (st == OK) st = train_in_folder(&t, &f);
    /* A run that failed before its first step, on its data say, leaves no folder that was not there. */
    const bool keep = settled && (st == OK || st == ERR_STOPPED || t.step > 0);
    trainer_close(&t);
    const enum status closed = run_folder_close(&f, keep);
    return st != OK ? st : closed;
}

static enum status train(struct task *task) {
    TRY(signals_init());
    const struct mesh_config *m = &task->config.mesh;
    const enum status st = team_run(&(struct team_spec){.ranks = task->options.ranks,
                                                        .mesh = &task->config.mesh,
                                                        .mesh_given = m->data * m->seq > 1,
                                                        .same = &task->config.resolved,
                                                        .deadline_s = m->deadline},
                                    train_rank, task);
    signals_term();
    return st;
}

static enum status run(int argc, char **argv) {
    struct task t = {0};
    struct train_options *o = &t.options;
    const struct option_row rows[] = {{"--device", &o->device, NULL},
                                      {"--ranks", &o->ranks, NULL},
                                      {"--dry-run", NULL, &o->dry_run},
                                      {"--fork", NULL, &o->fork}};
    struct command_line line;
    TRY(command_parse(argc, argv, rows, 4, &line));
    enum status st = read_config(&t.config, &line, o, &t.device);
    if (st == OK) st = train(&t);
    config_term(&t.config);
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
            "TERM, INT and USR1 save the last finished step and end with exit code 3.  Send mpirun USR1, which\n"
            "it passes on: after TERM it kills its ranks within a second.\n",
    .run = run,
    .keys = config_help,
};
