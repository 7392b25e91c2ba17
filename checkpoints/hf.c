/* SPDX-License-Identifier: Apache-2.0 */
#include "checkpoints/hf.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/arena.h"
#include "checkpoints/hf_family.h"
#include "checkpoints/manifest.h"
#include "checkpoints/safetensors.h"
#include "model/param_parts.h"

struct hf_folder {
    char dir[PATH_BYTES], config[PATH_BYTES];
    json_t *root;
    const struct hf_family *family;
    struct shard_file *file;
    int64_t n_files;
    struct hf_model model;
    struct text yaml;
};

/* ---- files ---- */

static const struct shard_entry *find_tensor(const struct hf_folder *f, const char *name,
                                             const struct shard_file **in) {
    for (int64_t i = 0; i < f->n_files; i++) {
        const struct shard_entry *e = shard_find(&f->file[i], name);
        *in = &f->file[i];
        if (e) return e;
    }
    return NULL;
}

bool hf_holds(const struct hf_folder *f, const char *suffix) {
    const size_t tail = strlen(suffix);
    for (int64_t i = 0; i < f->n_files; i++)
        for (int64_t j = 0; j < f->file[i].n_entries; j++) {
            const char *name = f->file[i].entry[j].name;
            const size_t n = strlen(name);
            if (n >= tail && !strcmp(name + n - tail, suffix)) return true;
        }
    return false;
}

static enum status open_file(struct hf_folder *f, const char *name) {
    char path[PATH_BYTES];
    TRY(path_print(path, "%s/%s", f->dir, name));
    TRY(shard_open(&f->file[f->n_files], path));
    f->n_files++;
    return OK;
}

static bool is_open(const struct hf_folder *f, const char *name) {
    for (int64_t i = 0; i < f->n_files; i++)
        if (!strcmp(strrchr(f->file[i].path, '/') + 1, name)) return true;
    return false;
}

/* Each tensor of the index is in the file it names, and the files hold no other. */
static enum status open_indexed(struct hf_folder *f, const char *where, json_t *index) {
    json_t *map = json_object_get(index, "weight_map"), *v;
    const char *tensor;
    void *mem = NULL;
    int64_t held = 0;
    FAIL_UNLESS(json_is_object(map), ERR_DATA, "%s: \"weight_map\" is missing or not an object", where);
    TRY(mem_take((int64_t)(json_object_size(map) + 1) * (int64_t)sizeof *f->file, &mem));
    f->file = mem;
    json_object_foreach(map, tensor, v) {
        const char *name = json_string_value(v);
        FAIL_UNLESS(name && manifest_name_ok(name), ERR_DATA,
                    "%s: tensor %s: its file is not a plain file name: refused", where, tensor);
        if (!is_open(f, name)) TRY(open_file(f, name));
    }
    json_object_foreach(map, tensor, v) {
        const struct shard_file *in = NULL;
        const bool found = find_tensor(f, tensor, &in) != NULL;
        FAIL_UNLESS(found && !strcmp(strrchr(in->path, '/') + 1, json_string_value(v)), ERR_DATA,
                    "%s: tensor %s is not in %s, where the index places it", where, tensor, json_string_value(v));
    }
    for (int64_t i = 0; i < f->n_files; i++) held += f->file[i].n_entries;
    FAIL_UNLESS(held == (int64_t)json_object_size(map), ERR_DATA,
                "%s: its files hold %" PRId64 " tensors, it lists %zu", where, held, json_object_size(map));
    return OK;
}

static enum status open_files(struct hf_folder *f) {
    char path[PATH_BYTES];
    json_t *index = NULL;
    void *mem = NULL;
    TRY(path_print(path, "%s/model.safetensors", f->dir));
    if (file_exists(path)) {
        TRY(mem_take(sizeof *f->file, &mem));
        f->file = mem;
        return open_file(f, "model.safetensors");
    }
    TRY(path_print(path, "%s/model.safetensors.index.json", f->dir));
    FAIL_UNLESS(file_exists(path), ERR_MISSING, "%s: neither model.safetensors nor model.safetensors.index.json",
                f->dir);
    TRY(json_read_file(path, &index));
    const enum status st = open_indexed(f, path, index);
    json_decref(index);
    return st;
}

/* ---- configuration ---- */

static enum status open_config(struct hf_folder *f) {
    const char *type = NULL;
    TRY(path_print(f->config, "%s/config.json", f->dir));
    TRY(hf_config_read(f->config, &f->root));
    TRY(json_text(f->config, f->root, "model_type", &type));
    f->family = hf_family_find(type);
    if (f->family) return OK;
    struct text known = {0};
    hf_family_list(&known);
    const enum status st =
        status_fail(ERR_DATA, __FILE__, __LINE__, "%s: model_type \"%s\" is not known here; known: %s", f->config, type,
                    known.s ? known.s : "");
    text_term(&known);
    return st;
}

enum status hf_open(struct hf_folder **out, const char *dir) {
    enum status st = OK;
    void *mem = NULL;
    struct hf_folder *f;
    *out = NULL;
    TRY(mem_take(sizeof *f, &mem));
    f = mem;
    TRY_OUT(path_print(f->dir, "%s", dir));
    TRY_OUT(open_config(f));
    TRY_OUT(open_files(f));
    const struct hf_source source = {f->config, f->root, f};
    TRY_OUT(hf_refuse_present(&source, "quantization_config"));
    TRY_OUT(f->family->describe(&source, &f->model));
    TRY_OUT(hf_yaml(&source, &f->model, &f->yaml));
    *out = f;
    f = NULL;
out:
    hf_close(f);
    return st;
}

void hf_close(struct hf_folder *f) {
    if (!f) return;
    for (int64_t i = 0; i < f->n_files; i++) shard_close(&f->file[i]);
    mem_free(f->file);
    json_decref(f->root);
    text_term(&f->model.pattern);
    text_term(&f->model.layers);
    text_term(&f->yaml);
    mem_free(f);
}

enum status hf_model_yaml(const struct hf_folder *f, struct text *yaml) { return text_add(yaml, f->yaml.s, f->yaml.n); }

/* ---- tensors ---- */

struct tensor_map {
    struct hf_tensor *list;
    int n, room;
};

static enum status map_add(struct tensor_map *m, const struct hf_tensor *t) {
    if (m->n == m->room) {
        const int64_t size = (int64_t)sizeof *m->list, room = m->room ? 2 * m->room : 64;
        void *p = m->list;
        TRY(mem_grow(&p, m->room * size, room * size));
        m->list = p;
        m->room = (int)room;
    }
    m->list[m->n++] = *t;
    return OK;
}

/* Symbol and rest of one of our names: "layers.3.qkv.weight" is '*' and "qkv.weight"; 0 outside the layers. */
static enum status split_name(const struct hf_folder *f, const char *name, char *symbol, int64_t *layer,
                              const char **rest) {
    char *end = NULL;
    *symbol = 0;
    *layer = 0;
    *rest = name;
    if (strncmp(name, "layers.", 7) != 0) return OK;
    *layer = strtoll(name + 7, &end, 10);
    FAIL_UNLESS(*end == '.' && *layer >= 0 && *layer < f->model.pattern.n, ERR_ARG,
                "%s: parameter %s is not of this model's %" PRId64 " layers", f->dir, name, f->model.pattern.n);
    *symbol = f->model.pattern.s[*layer];
    *rest = end + 1;
    return OK;
}

/* Rows of p that `ours` names: all of them, or a section. */
static bool match_row(const struct param *p, const char *rest, const char *ours, int64_t *begin, int64_t *rows) {
    const size_t n = strlen(rest);
    *begin = 0;
    *rows = p->whole[0];
    if (!strcmp(rest, ours)) return true;
    if (strncmp(rest, ours, n) != 0 || ours[n] != '.') return false;
    for (int i = 0; i < p->n_sections; *begin += p->section[i].whole, i++) {
        *rows = p->section[i].whole;
        if (!strcmp(p->section[i].name, ours + n + 1)) return true;
    }
    return false;
}

/* Equal but for dims of 1: a convolution's (C, 1, K) is our (C, K). */
static bool same_shape(const struct shard_entry *e, const struct param *p, int64_t rows) {
    int64_t wanted[4] = {rows, p->whole[1], p->whole[2], p->whole[3]};
    int at = 0;
    for (int d = 0; d < 4; d++) {
        if (e->shape[d] == 1) continue;
        while (at < 4 && wanted[at] == 1) at++;
        if (at == 4 || wanted[at++] != e->shape[d]) return false;
    }
    while (at < 4 && wanted[at] == 1) at++;
    return at == 4;
}

/* Their name for a layer's tensor: '#' becomes the row. */
static void print_name(const struct hf_folder *f, int64_t layer, int64_t index, bool in_layer, const char *name,
                       char out[160]) {
    const char *hash = strchr(name, '#');
    const int head = hash ? (int)(hash - name) : (int)strlen(name);
    int n = in_layer ? snprintf(out, 160, "%s%" PRId64 ".", f->family->layer, layer / f->family->symbols_per_layer) : 0;
    n += snprintf(out + n, (size_t)(160 - n), "%.*s", head, name);
    if (hash) n += snprintf(out + n, (size_t)(160 - n), "%" PRId64 "%s", index, hash + 1);
    ASSERT(n > 0 && n < 160);
}

static enum status map_row(const struct hf_folder *f, const struct param *p, int64_t layer, const struct hf_row *row,
                           struct hf_tensor *t) {
    const struct shard_file *in = NULL;
    const struct shard_entry *e = NULL;
    const char *names[2] = {row->theirs, row->alias};
    for (int i = 0; i < 2 && names[i] && !e; i++) {
        print_name(f, layer, t->row_begin, row->symbol != 0, names[i], t->name);
        e = find_tensor(f, t->name, &in);
    }
    FAIL_UNLESS(e, ERR_DATA, "%s: tensor %s is missing (our %s)", f->dir, t->name, p->name);
    FAIL_UNLESS(same_shape(e, p, t->rows), ERR_DATA,
                "%s: tensor %s: its shape (%" PRId64 ", %" PRId64 ", %" PRId64 ") is not that of our %s, %" PRId64
                " rows of %" PRId64,
                in->path, t->name, e->shape[0], e->shape[1], e->shape[2], p->name, t->rows,
                p->whole[1] * p->whole[2] * p->whole[3]);
    return OK;
}

/* All of t's rows at once, or one by one. */
static enum status map_rows(const struct hf_folder *f, const struct param *p, int64_t layer, const struct hf_row *row,
                            const struct hf_tensor *t, struct tensor_map *m) {
    struct hf_tensor part = *t;
    const bool each = strchr(row->theirs, '#') != NULL;
    part.rows = each ? 1 : t->rows;
    for (; part.row_begin < t->row_begin + t->rows; part.row_begin += part.rows) {
        TRY(map_row(f, p, layer, row, &part));
        TRY(map_add(m, &part));
    }
    return OK;
}

static enum status map_param(const struct hf_folder *f, const struct params *ps, int index, struct tensor_map *m) {
    const struct param *p = &ps->list[index];
    const char *rest = NULL;
    char symbol = 0;
    int64_t layer = 0, covered = 0;
    TRY(split_name(f, p->name, &symbol, &layer, &rest));
    for (const struct hf_row *row = f->family->rows; row->ours; row++) {
        struct hf_tensor t = {.param = index};
        if (row->symbol != symbol || !match_row(p, rest, row->ours, &t.row_begin, &t.rows)) continue;
        TRY(map_rows(f, p, layer, row, &t, m));
        covered += t.rows;
    }
    FAIL_UNLESS(covered == p->whole[0], ERR_ARG, "%s: family %s has no tensor for our %s", f->dir,
                f->family->model_type, p->name);
    return OK;
}

/* A head that the model ties to its embedding may be written all the same: then it must be the same bytes. */
static enum status check_tied(const struct hf_folder *f, const struct params *ps, const struct shard_file *in,
                              const struct shard_entry *head) {
    const struct shard_file *other = NULL;
    const struct shard_entry *e = NULL;
    for (const struct hf_row *row = f->family->rows; row->ours && !e; row++)
        if (!strcmp(row->ours, "embedding.weight")) {
            e = find_tensor(f, row->theirs, &other);
            if (!e && row->alias) e = find_tensor(f, row->alias, &other);
        }
    FAIL_UNLESS(param_find(ps, "head.weight") < 0 && e && e->dtype == head->dtype && e->bytes == head->bytes &&
                    !memcmp(other->map.data + e->begin, in->map.data + head->begin, (size_t)e->bytes),
                ERR_DATA, "%s: tie_word_embeddings is true, and tensor %s differs from the embedding", in->path,
                head->name);
    return OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct hf_tensor *)a)->name, ((const struct hf_tensor *)b)->name);
}

static enum status check_unused(const struct hf_folder *f, const struct params *ps, const struct tensor_map *m) {
    struct hf_tensor key = {.param = 0};
    void *mem = NULL;
    enum status st = OK;
    TRY(mem_take((m->n + 1) * (int64_t)sizeof *m->list, &mem));
    struct hf_tensor *sorted = mem;
    memcpy(sorted, m->list, (size_t)m->n * sizeof *sorted);
    qsort(sorted, (size_t)m->n, sizeof *sorted, by_name);
    for (int64_t i = 0; i < f->n_files; i++)
        for (int64_t j = 0; j < f->file[i].n_entries; j++) {
            const struct shard_entry *e = &f->file[i].entry[j];
            snprintf(key.name, sizeof key.name, "%s", e->name);
            if (bsearch(&key, sorted, (size_t)m->n, sizeof key, by_name)) continue;
            if (f->family->unused && strstr(e->name, f->family->unused)) continue;
            if (!strcmp(e->name, "lm_head.weight")) TRY_OUT(check_tied(f, ps, &f->file[i], e));
            else FAIL_OUT(ERR_DATA, "%s: tensor %s belongs to no part of this model", f->file[i].path, e->name);
        }
out:
    mem_free(mem);
    return st;
}

enum { PIECE = 4 << 20 }; /* elements read at a time */

enum status hf_tensors(const struct hf_folder *f, const struct params *ps, struct hf_tensor **out, int *n) {
    enum status st = OK;
    struct tensor_map m = {0};
    for (int i = 0; i < ps->n; i++) TRY_OUT(map_param(f, ps, i, &m));
    TRY_OUT(check_unused(f, ps, &m));
    *out = m.list;
    *n = m.n;
    return OK;
out:
    mem_free(m.list);
    return st;
}

struct reading {
    const struct shard_file *in;
    const struct shard_entry *e;
    const struct param_sink *sink;
    void *room;
};

/* Elements [at, at + n) of the file's tensor are elements [held, held + n) of the parameter here. */
static enum status read_run(const struct reading *r, int param, int64_t at, int64_t held, int64_t n) {
    for (int64_t done = 0; done < n; done += PIECE) {
        const int64_t m = n - done < PIECE ? n - done : PIECE;
        TRY(shard_read(r->in, r->e, at + done, m, r->sink->type, r->room));
        TRY(r->sink->store(r->sink->arg, param, held + done, m, r->room));
    }
    return OK;
}

static enum status read_tensor(const struct hf_folder *f, const struct hf_tensor *t, const struct param *p,
                               const struct param_sink *sink, void *room) {
    struct reading r = {.sink = sink, .room = room};
    const int64_t row = p->whole[1] * p->whole[2] * p->whole[3], held_row = param_count(p) / p->shape[0];
    const int64_t begin = t->row_begin * row, end = begin + t->rows * row;
    r.e = find_tensor(f, t->name, &r.in);
    ASSERT(r.e);
    for (int64_t held = 0, n = 0; held < param_count(p); held += n) {
        int64_t whole = 0;
        n = param_run(p, held, &whole);
        const int64_t from = whole > begin ? whole : begin, to = whole + n < end ? whole + n : end;
        if (from < to) TRY(read_run(&r, t->param, from - begin, held + from - whole, to - from));
        else if (n < held_row) n = held_row - held % held_row; /* none of this row */
    }
    return OK;
}

enum status hf_read_params(const struct hf_folder *f, const struct params *ps, const struct param_sink *sink) {
    enum status st = OK;
    struct hf_tensor *list = NULL;
    void *room = NULL;
    int n = 0;
    TRY_OUT(mem_take(PIECE * dtype_bytes(sink->type), &room));
    TRY_OUT(hf_tensors(f, ps, &list, &n));
    for (int i = 0; i < n; i++) TRY_OUT(read_tensor(f, &list[i], &ps->list[list[i].param], sink, room));
out:
    mem_free(list);
    mem_free(room);
    return st;
}
