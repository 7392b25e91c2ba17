/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <string.h>
#include "base/json.h"
#include "base/log.h"
#include "launch/trainer.h"

/* What the leader found, and all ranks must do. */
struct settled {
    char from[PATH_BYTES];    /* the checkpoint to load; empty: none */
    char fork_of[PATH_BYTES]; /* the run it belongs to, if this is a new fork of it */
};

/* What a fork came from, for whoever reads its folder later. */
static enum status record_fork(const struct trainer *t, const char *from) {
    char path[PATH_BYTES];
    TRY(path_print(path, "%s/fork.json", t->run_dir));
    json_t *j = json_pack("{s:s, s:I, s:s, s:s}", "from", from, "step", (json_int_t)t->step, "identity",
                          t->config->identity_hash, "differences", t->identity_diff.s ? t->identity_diff.s : "");
    struct text text = {0};
    enum status st = j ? json_print(j, &text) : status_fail(ERR_OOM, __FILE__, __LINE__, "no memory to write %s", path);
    if (st == OK) st = file_replace(path, text.s, text.n);
    text_term(&text);
    json_decref(j);
    return st;
}

/* RUN-fork-1, -2, ...: the first that holds a run of this identity, or no checkpoint: it is new, or was killed before
 * it had one. */
static enum status fork_run(struct trainer *t, struct run_folder *f, char dir[PATH_BYTES], struct settled *s) {
    const char *from = t->config->run.dir;
    for (int k = 1; k < 1000; k++) {
        TRY(path_print(dir, "%s-fork-%d", from, k));
        TRY(run_folder_open(f, dir));
        const enum status st = trainer_find(t, dir, false, s->from);
        if (st == ERR_MISSING) {
            TRY(path_print(s->fork_of, "%s", from));
            return trainer_find(t, from, true, s->from);
        }
        if (st != ERR_CONFIG) return st;
        TRY(run_folder_close(f, true));
    }
    FAIL(ERR_CONFIG, "%s has a thousand forks: give this run a folder with run.dir=...", from);
}

static enum status settle_leader(struct trainer *t, struct run_folder *f, bool fork, char dir[PATH_BYTES],
                                 struct settled *s) {
    TRY(run_folder_open(f, dir));
    const enum status st = trainer_find(t, dir, false, s->from);
    if (st == ERR_MISSING) {
        s->from[0] = '\0';
        status_clear();
        return OK;
    }
    if (st != ERR_CONFIG || !fork) return st;
    TRY(run_folder_close(f, true));
    return fork_run(t, f, dir, s);
}

enum status trainer_settle(struct trainer *t, struct run_folder *f, bool fork, char dir[PATH_BYTES]) {
    struct settled s = {0};
    TRY(path_print(dir, "%s", t->config->run.dir));
    if (t->team.leader) TRY(settle_leader(t, f, fork, dir, &s));
    TRY(team_agree(&t->team, &s, sizeof s));
    t->run_dir = dir;
    if (!s.from[0]) return OK;
    TRY(trainer_load(t, s.from));
    if (!t->team.leader) return OK;
    log_note("continuing from %s: step %" PRId64 " of %" PRId64, s.from, t->step, t->config->train.steps);
    if (!s.fork_of[0]) return OK;
    TRY(record_fork(t, s.fork_of));
    t->saved_step = -1; /* the fork itself has nothing on disk yet */
    return OK;
}
