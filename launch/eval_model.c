/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include "base/log.h"
#include "launch/eval.h"

static enum status read_text(struct eval_model *m, struct config_source *from, const char *const *overrides, int n) {
    struct text errors = {0};
    from->overrides = overrides;
    from->n_overrides = n;
    const enum status st = config_read(&m->config, from, &errors);
    if (st == ERR_CONFIG && errors.n > 0) { /* every mistake, not the first alone */
        fprintf(stderr, "%s", errors.s);
        status_clear();
    }
    text_term(&errors);
    return st;
}

static enum status open_hf(struct eval_model *m, const char *const *overrides, int n) {
    enum status st = OK;
    struct text yaml = {0};
    TRY(hf_open(&m->hf, m->path));
    TRY_OUT(hf_model_yaml(m->hf, &yaml));
    struct config_source from = {.where = m->path, .text = yaml.s, .text_bytes = yaml.n, .model_only = true};
    TRY_OUT(read_text(m, &from, overrides, n));
out:
    text_term(&yaml);
    return st;
}

static enum status open_checkpoint(struct eval_model *m, const char *const *overrides, int n) {
    char path[PATH_BYTES], where[PATH_BYTES];
    struct text skipped = {0};
    const enum status st = checkpoint_find(m->path, path, &skipped);
    if (skipped.n > 0) log_warn("%.*s", (int)(skipped.n - (skipped.s[skipped.n - 1] == '\n')), skipped.s);
    text_term(&skipped);
    if (st == ERR_MISSING)
        FAIL(ERR_CONFIG,
             "%s: neither a Hugging Face folder (config.json), nor a run folder with a valid checkpoint, nor a "
             "checkpoint",
             m->path);
    TRY(st);
    TRY(checkpoint_open(&m->checkpoint, path));
    const struct checkpoint_meta *about = checkpoint_about(m->checkpoint);
    TRY(path_print(where, "%s/config.yaml", path));
    struct config_source from = {.where = where, .text = about->config, .text_bytes = (int64_t)strlen(about->config)};
    TRY(read_text(m, &from, overrides, n));
    m->trained_tokens = m->config.train.tokens_per_sequence;
    fprintf(stderr, "%s: step %lld\n", path, (long long)about->step);
    return OK;
}

enum status eval_model_open(struct eval_model *m, const char *path, const char *const *overrides, int n_overrides) {
    char config[PATH_BYTES];
    *m = (struct eval_model){.path = path};
    FAIL_UNLESS(file_is_folder(path), ERR_CONFIG,
                "%s: there is no such folder; MODEL is a run, a checkpoint or a Hugging Face folder", path);
    TRY(path_print(config, "%s/config.json", path));
    const enum status st =
        file_exists(config) ? open_hf(m, overrides, n_overrides) : open_checkpoint(m, overrides, n_overrides);
    if (st != OK) eval_model_close(m);
    return st;
}

static void list_part(struct state_tensor *s, const struct param *p, int part) {
    struct param_part piece;
    param_part(p, part, &piece);
    *s = (struct state_tensor){.n_dims = p->n_dims, .t = tensor_rows(p->w, piece.row_begin, piece.rows)};
    snprintf(s->name, sizeof s->name, "param/%s", piece.name);
    memcpy(s->global, s->t.shape, sizeof s->global);
}

enum status eval_model_read(const struct eval_model *m, struct params *ps) {
    void *mem = NULL;
    int64_t n = 0;
    if (m->hf) return hf_read_params(m->hf, ps);
    TRY(mem_take(ps->n * (int64_t)SECTIONS_MAX * (int64_t)sizeof(struct state_tensor), &mem));
    struct state_tensor *list = mem;
    for (int i = 0; i < ps->n; i++)
        for (int part = 0; part < param_parts(&ps->list[i]); part++) list_part(&list[n++], &ps->list[i], part);
    const enum status st = checkpoint_read(m->checkpoint, list, n, false);
    mem_free(mem);
    return st;
}

void eval_model_close(struct eval_model *m) {
    checkpoint_close(m->checkpoint);
    hf_close(m->hf);
    config_term(&m->config);
    *m = (struct eval_model){0};
}
