/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include "base/log.h"
#include "launch/eval.h"
#include "model/param_parts.h"

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

/* Tensors of a checkpoint on their way into a runner's parameters. */
struct reading {
    struct param_sink sink;
    const struct state_tensor *list;
    int *param; /* of each */
    int64_t *first;
};

static enum status put(void *arg, const struct state_tensor *s, int64_t first, int64_t n, const void *numbers) {
    const struct reading *r = arg;
    const int64_t i = s - r->list;
    return r->sink.store(r->sink.arg, r->param[i], r->first[i] + first, n, numbers);
}

static void list_part(struct state_tensor *s, const struct param *p, int part, enum dtype type, int64_t *first) {
    struct param_part piece;
    param_part(p, part, &piece);
    const int64_t shape[4] = {piece.rows, p->shape[1], p->shape[2], p->shape[3]};
    *s = (struct state_tensor){.n_dims = p->n_dims, .t = tensor_4d(NULL, type, shape)};
    snprintf(s->name, sizeof s->name, "param/%s", piece.name);
    memcpy(s->global, p->whole, sizeof s->global);
    s->global[0] = piece.whole;
    s->cut_dim = param_later_cut(p, &s->cut_begin);
    s->begin = piece.whole_begin;
    *first = piece.row_begin * (param_count(p) / p->shape[0]);
}

enum status eval_model_read(const struct eval_model *m, struct runner *r) {
    const struct params *ps = &r->model.params;
    const int64_t most = ps->n * (int64_t)SECTIONS_MAX;
    struct reading reading = {.sink = runner_sink(r)};
    const struct state_memory memory = {.put = put, .arg = &reading};
    void *list = NULL, *param = NULL, *first = NULL;
    enum status st = OK;
    int64_t n = 0;
    if (m->hf) return hf_read_params(m->hf, ps, &reading.sink);
    TRY_OUT(mem_take(most * (int64_t)sizeof *reading.list, &list));
    TRY_OUT(mem_take(most * (int64_t)sizeof *reading.param, &param));
    TRY_OUT(mem_take(most * (int64_t)sizeof *reading.first, &first));
    reading.list = list, reading.param = param, reading.first = first;
    for (int i = 0; i < ps->n; i++)
        for (int part = 0; part < param_parts(&ps->list[i]); part++, n++) {
            struct state_tensor *s = (struct state_tensor *)list + n;
            list_part(s, &ps->list[i], part, reading.sink.type, &reading.first[n]);
            reading.param[n] = i;
            s->memory = &memory;
        }
    TRY_OUT(checkpoint_read(m->checkpoint, list, n, false));
out:
    mem_free(list);
    mem_free(param);
    mem_free(first);
    return st;
}

void eval_model_close(struct eval_model *m) {
    checkpoint_close(m->checkpoint);
    hf_close(m->hf);
    config_term(&m->config);
    device_close(m->device);
    *m = (struct eval_model){0};
}
