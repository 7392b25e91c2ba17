/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/log.h"
#include "launch/trainer.h"

static void list_part(struct state_tensor *s, const char *group, const struct param *p, int part, struct tensor whole) {
    struct param_part piece;
    param_part(p, part, &piece);
    *s = (struct state_tensor){.n_dims = p->n_dims, .t = tensor_rows(whole, piece.row_begin, piece.rows)};
    snprintf(s->name, sizeof s->name, "%s/%s", group, piece.name);
    memcpy(s->global, s->t.shape, sizeof s->global);
}

enum status trainer_list_state(struct trainer *t) {
    const struct params *ps = &t->run.model.params;
    void *mem = NULL;
    int64_t n = 0;
    for (int i = 0; i < ps->n; i++) n += 3 * param_parts(&ps->list[i]);
    TRY(mem_take(n * (int64_t)sizeof *t->state, &mem));
    t->state = mem;
    for (int i = 0; i < ps->n; i++) {
        const struct param *p = &ps->list[i];
        for (int part = 0; part < param_parts(p); part++) {
            list_part(&t->state[t->n_state++], "param", p, part, p->w);
            list_part(&t->state[t->n_state++], "adamw.m", p, part, p->m);
            list_part(&t->state[t->n_state++], "adamw.v", p, part, p->v);
        }
    }
    return OK;
}

static enum status save_here(struct trainer *t) {
    const struct config *c = t->config;
    struct checkpoint_meta meta = {.step = t->step,
                                   .tokens = t->step * c->train.sequences_per_step * c->train.tokens_per_sequence,
                                   .seed = (uint64_t)c->run.seed,
                                   .identity_text = c->identity.s,
                                   .config = c->resolved.s};
    memcpy(meta.identity, c->identity_hash, sizeof meta.identity);
    TRY(report_sync(t->report));
    return checkpoint_save(t->run_dir, &meta, t->state, t->n_state, c->checkpoint.keep);
}

/* Every rank holds the whole state: the leader writes it, and all learn how that went, and why it failed: the first
 * failure of any rank is the one that is told. */
enum status trainer_save(struct trainer *t) {
    struct {
        int64_t st;
        char why[1024];
    } how = {.st = OK};
    if (t->team.leader) how.st = save_here(t);
    if (how.st != OK) snprintf(how.why, sizeof how.why, "%s", status_text());
    TRY(team_agree(&t->team, &how, sizeof how));
    if (how.st == OK) t->saved_step = t->step;
    else if (!t->team.leader) FAIL((enum status)how.st, "%s", how.why);
    return (enum status)how.st;
}

/* A difference is an error, or what a fork records. */
static enum status check_identity(struct trainer *t, const struct checkpoint_meta *about, const char *path,
                                  bool may_differ) {
    if (!strcmp(about->identity, t->config->identity_hash)) return OK;
    text_term(&t->identity_diff);
    TRY(config_identity_diff(t->config->identity.s, about->identity_text, &t->identity_diff));
    FAIL_UNLESS(may_differ, ERR_CONFIG,
                "%s was made by another run:\n%sGive this run a folder of its own with run.dir=..., or start a new run "
                "from that checkpoint with --fork",
                path, t->identity_diff.s ? t->identity_diff.s : "");
    return OK;
}

enum status trainer_find(struct trainer *t, const char *run_dir, bool may_differ, char path[PATH_BYTES]) {
    enum status st = OK;
    struct text skipped = {0};
    struct checkpoint *c = NULL;
    st = checkpoint_find(run_dir, path, &skipped);
    if (skipped.n > 0) log_warn("%.*s", (int)(skipped.n - (skipped.s[skipped.n - 1] == '\n')), skipped.s);
    if (st != OK) goto out;
    TRY_OUT(checkpoint_open(&c, path));
    TRY_OUT(check_identity(t, checkpoint_about(c), path, may_differ));
out:
    checkpoint_close(c);
    text_term(&skipped);
    return st;
}

enum status trainer_load(struct trainer *t, const char *path) {
    struct checkpoint *c = NULL;
    TRY(checkpoint_open(&c, path));
    const enum status st = checkpoint_read(c, t->state, t->n_state, true);
    if (st == OK) t->step = t->saved_step = checkpoint_about(c)->step;
    checkpoint_close(c);
    return st;
}
