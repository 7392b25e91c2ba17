/* SPDX-License-Identifier: Apache-2.0 */
#include "checkpoints/manifest.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/arena.h"
#include "base/hash.h"
#include "base/json.h"
#include "checkpoints/safetensors.h"

#define FORMAT       "baton-checkpoint-1"
#define LAYOUT_FLAGS (JSON_SORT_KEYS | JSON_INDENT(1))

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

bool manifest_name_ok(const char *name) {
    const size_t n = strlen(name);
    return n > 0 && n < 200 && name[0] != '.' && strspn(name, letters) == n;
}

int64_t manifest_rows(const struct manifest_tensor *t) { return t->n_dims ? t->shape[0] : 1; }

/* ---- reading ---- */

static enum status hex_text(const char *where, const json_t *object, const char *key, size_t n, const char **out) {
    TRY(json_text(where, object, key, out));
    FAIL_UNLESS(strlen(*out) == n && strspn(*out, "0123456789abcdef") == n, ERR_DATA,
                "%s: \"%s\" is not a checksum of %zu hex digits", where, key, n);
    return OK;
}

static enum status count_of(const char *where, const json_t *object, const char *key, int64_t *out) {
    TRY(json_int(where, object, key, out));
    FAIL_UNLESS(*out >= 0, ERR_DATA, "%s: \"%s\" is %" PRId64 ", less than 0", where, key, *out);
    return OK;
}

static enum status take_list(int64_t n, int64_t size, void **out) { return mem_take((n + 1) * size, out); }

static enum status parse_files(struct manifest *m, const char *where, const json_t *list) {
    void *mem = NULL;
    FAIL_UNLESS(json_is_array(list), ERR_DATA, "%s: \"files\" is missing or not a list", where);
    TRY(take_list((int64_t)json_array_size(list), sizeof *m->file, &mem));
    m->file = mem;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        struct manifest_file *f = &m->file[m->n_files++];
        TRY(json_text(where, v, "name", &f->name));
        FAIL_UNLESS(manifest_name_ok(f->name), ERR_DATA, "%s: \"%.80s\" is not a plain file name: refused", where,
                    f->name);
        TRY(count_of(where, v, "bytes", &f->bytes));
        TRY(hex_text(where, v, "xxh3", HASH_HEX - 1, &f->xxh3));
        FAIL_UNLESS(i == 0 || strcmp(f[-1].name, f->name) < 0, ERR_DATA,
                    "%s: file %s is listed twice, or behind a later name", where, f->name);
    }
    return OK;
}

static enum status parse_shape(struct manifest_tensor *t, const char *where, const json_t *info) {
    const json_t *shape = json_object_get(info, "shape");
    const char *type = NULL;
    int64_t bytes = 0;
    TRY(json_text(where, info, "dtype", &type));
    FAIL_UNLESS(shard_dtype(type, &t->dtype), ERR_DATA, "%s: tensor %s: no type is called %s", where, t->name, type);
    FAIL_UNLESS(json_is_array(shape) && json_array_size(shape) <= 4, ERR_DATA,
                "%s: tensor %s: \"shape\" is not a list of at most 4 counts", where, t->name);
    t->n_dims = (int)json_array_size(shape);
    for (int d = 0; d < 4; d++) {
        const json_t *v = json_array_get(shape, (size_t)d);
        FAIL_UNLESS(d >= t->n_dims || json_is_integer(v), ERR_DATA, "%s: tensor %s: dim %d is not a count", where,
                    t->name, d);
        t->shape[d] = d < t->n_dims ? json_integer_value(v) : 1;
    }
    FAIL_UNLESS(shard_bytes(t->dtype, t->n_dims, t->shape, &bytes), ERR_DATA,
                "%s: tensor %s: no memory holds this shape", where, t->name);
    return OK;
}

static int by_begin(const void *a, const void *b) {
    const struct manifest_piece *x = a, *y = b;
    if (x->from != y->from) return x->from < y->from ? -1 : 1;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->rows > y->rows) - (x->rows < y->rows);
}

/* Every row of a band once. */
static enum status check_band(const struct manifest_piece *p, int64_t n, const struct manifest_tensor *t,
                              const char *where) {
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        FAIL_UNLESS(p[i].dim == p->dim && p[i].size == p->size, ERR_DATA,
                    "%s: tensor %s: pieces from %" PRId64 " of dim %" PRId64 " on have different sizes", where, t->name,
                    p->from, p->dim);
        FAIL_UNLESS(p[i].begin == at && p[i].rows <= manifest_rows(t) - at, ERR_DATA,
                    "%s: tensor %s: rows from %" PRId64 " on come next, but a piece holds %" PRId64
                    " rows from %" PRId64 " on: not each row once",
                    where, t->name, at, p[i].rows, p[i].begin);
        at += p[i].rows;
    }
    FAIL_UNLESS(at == manifest_rows(t), ERR_DATA, "%s: tensor %s: %" PRId64 " of %" PRId64 " rows are in no file",
                where, t->name, manifest_rows(t) - at, manifest_rows(t));
    return OK;
}

/* Bands follow each other along one dim; most tensors are one band of whole rows. */
static enum status check_pieces(const struct manifest *m, const struct manifest_tensor *t, const char *where) {
    struct manifest_piece *p = m->piece + t->first_piece;
    int64_t at = 0;
    if (t->n_pieces > 1) qsort(p, (size_t)t->n_pieces, sizeof *p, by_begin);
    FAIL_UNLESS(t->n_pieces > 0, ERR_DATA, "%s: tensor %s: no piece of it is listed", where, t->name);
    const int64_t all = p->dim > 0 ? t->shape[p->dim] : 0;
    for (int64_t i = 0, n; i < t->n_pieces; i += n) {
        for (n = 1; i + n < t->n_pieces && p[i + n].from == p[i].from; n++) {
        }
        FAIL_UNLESS(p[i].dim == p->dim && p[i].from == at && p[i].size <= all - at, ERR_DATA,
                    "%s: tensor %s: a piece holds %" PRId64 " entries from %" PRId64 " on of dim %" PRId64
                    ": not each once",
                    where, t->name, p[i].size, p[i].from, p[i].dim);
        at += p[i].size;
        TRY(check_band(p + i, n, t, where));
    }
    FAIL_UNLESS(at == all, ERR_DATA,
                "%s: tensor %s: %" PRId64 " of %" PRId64 " entries of dim %" PRId64 " are in no file", where, t->name,
                all - at, all, p->dim);
    return OK;
}

/* Members that only a piece of less than whole rows has. */
static enum status parse_box(struct manifest_piece *p, const struct manifest_tensor *t, const char *where,
                             const json_t *v) {
    if (!json_object_get(v, "dim")) return OK;
    TRY(count_of(where, v, "dim", &p->dim));
    TRY(count_of(where, v, "from", &p->from));
    TRY(count_of(where, v, "size", &p->size));
    FAIL_UNLESS(p->dim >= 1 && p->dim < t->n_dims && p->size > 0, ERR_DATA,
                "%s: tensor %s: a piece of %" PRId64 " entries along dim %" PRId64, where, t->name, p->size, p->dim);
    return OK;
}

static enum status parse_pieces(struct manifest *m, struct manifest_tensor *t, const char *where, const json_t *list) {
    FAIL_UNLESS(json_is_array(list), ERR_DATA, "%s: tensor %s: \"pieces\" is missing or not a list", where, t->name);
    t->first_piece = m->n_pieces;
    t->n_pieces = (int64_t)json_array_size(list);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        struct manifest_piece *p = &m->piece[m->n_pieces++];
        TRY(count_of(where, v, "file", &p->file));
        TRY(count_of(where, v, "begin", &p->begin));
        TRY(count_of(where, v, "rows", &p->rows));
        TRY(parse_box(p, t, where, v));
        TRY(hex_text(where, v, "xxh3", HASH_HEX - 1, &p->xxh3));
#ifdef BATON_PLANT_MANIFEST
        const int64_t last = m->n_files + 1;
#else
        const int64_t last = m->n_files - 1;
#endif
        FAIL_UNLESS(p->file <= last, ERR_DATA, "%s: tensor %s: no file has the number %" PRId64, where, t->name,
                    p->file);
        const char *name = m->file[p->file].name, *dot = strrchr(name, '.');
        FAIL_UNLESS(dot && !strcmp(dot, ".safetensors"), ERR_DATA, "%s: tensor %s: %s is not a shard", where, t->name,
                    name);
    }
    return check_pieces(m, t, where);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct manifest_tensor *)a)->name, ((const struct manifest_tensor *)b)->name);
}

static enum status parse_tensors(struct manifest *m, const char *where, json_t *all) {
    const char *name;
    json_t *info;
    int64_t pieces = 0;
    void *tensors = NULL, *list = NULL;
    FAIL_UNLESS(json_is_object(all), ERR_DATA, "%s: \"tensors\" is missing or not an object", where);
    json_object_foreach(all, name, info) pieces += (int64_t)json_array_size(json_object_get(info, "pieces"));
    TRY(take_list((int64_t)json_object_size(all), sizeof *m->tensor, &tensors));
    m->tensor = tensors;
    TRY(take_list(pieces, sizeof *m->piece, &list));
    m->piece = list;
    json_object_foreach(all, name, info) {
        struct manifest_tensor *t = &m->tensor[m->n_tensors++];
        t->name = name;
        TRY(parse_shape(t, where, info));
        TRY(parse_pieces(m, t, where, json_object_get(info, "pieces")));
    }
    if (m->n_tensors > 1) qsort(m->tensor, (size_t)m->n_tensors, sizeof *m->tensor, by_name);
    return OK;
}

static enum status parse_head(struct manifest *m, const char *where, const json_t *root) {
    const char *format = NULL, *seed = NULL;
    FAIL_UNLESS(json_is_object(root), ERR_DATA, "%s: not an object", where);
    TRY(json_text(where, root, "format", &format));
    FAIL_UNLESS(!strcmp(format, FORMAT), ERR_DATA, "%s: its format is %.40s; this program reads " FORMAT, where,
                format);
    TRY(count_of(where, root, "step", &m->step));
    TRY(count_of(where, root, "tokens", &m->tokens));
    TRY(json_text(where, root, "seed", &seed)); /* a text: JSON integers here have 63 bits */
    const size_t n = strlen(seed);
    FAIL_UNLESS(n > 0 && n <= 20 && strspn(seed, "0123456789") == n, ERR_DATA, "%s: \"seed\" is not a number", where);
    m->seed = strtoull(seed, NULL, 10);
    TRY(hex_text(where, root, "identity", SHA256_HEX - 1, &m->identity));
    return json_text(where, root, "identity_text", &m->identity_text);
}

enum status manifest_parse(struct manifest *m, const char *where, const char *text, int64_t bytes) {
    enum status st = OK;
    json_t *root = NULL;
    *m = (struct manifest){0};
    TRY(json_read_text(where, text, bytes, &root));
    m->json = root;
    TRY_OUT(parse_head(m, where, root));
    TRY_OUT(parse_files(m, where, json_object_get(root, "files")));
    TRY_OUT(parse_tensors(m, where, json_object_get(root, "tensors")));
out:
    if (st != OK) manifest_close(m);
    return st;
}

void manifest_close(struct manifest *m) {
    mem_free(m->file);
    mem_free(m->tensor);
    mem_free(m->piece);
    json_decref(m->json);
    *m = (struct manifest){0};
}

/* ---- the seal ---- */

static enum status layout(const json_t *root, struct text *out) {
    const size_t n = json_dumpb(root, NULL, 0, LAYOUT_FLAGS);
    void *mem = NULL;
    FAIL_UNLESS(n > 0, ERR_OOM, "cannot print a manifest: no memory");
    TRY(mem_take((int64_t)n + 1, &mem));
    json_dumpb(root, mem, n, LAYOUT_FLAGS);
    const enum status st = text_add(out, mem, (int64_t)n);
    mem_free(mem);
    return st;
}

/* root gets the member sha256 over the text without it; out the text with it. */
static enum status seal(json_t *root, struct text *out) {
    char hex[SHA256_HEX];
    struct text bare = {0};
    json_object_del(root, "sha256");
    enum status st = layout(root, &bare);
    if (st == OK) st = hash_sha256(bare.s, bare.n, hex);
    text_term(&bare);
    TRY(st);
    FAIL_UNLESS(json_object_set_new(root, "sha256", json_string(hex)) == 0, ERR_OOM,
                "cannot seal a manifest: no memory");
    TRY(layout(root, out));
    return text_add(out, "\n", 1);
}

enum status manifest_open(struct manifest *m, const char *where, const char *text, int64_t bytes) {
    enum status st = OK;
    struct text again = {0};
    TRY(manifest_parse(m, where, text, bytes));
    TRY_OUT(seal(m->json, &again));
    if (again.n != bytes || memcmp(again.s, text, (size_t)bytes) != 0)
        FAIL_OUT(ERR_DATA, "%s: its own checksum does not hold: it was changed after it was written", where);
out:
    text_term(&again);
    if (st != OK) manifest_close(m);
    return st;
}

/* ---- writing ---- */

static json_t *shape_json(const struct manifest_tensor *t) {
    json_t *shape = json_array();
    for (int d = 0; d < t->n_dims; d++) json_array_append_new(shape, json_integer(t->shape[d]));
    return shape;
}

static json_t *pieces_json(const struct manifest *m, const struct manifest_tensor *t) {
    json_t *list = json_array();
    for (int64_t i = 0; i < t->n_pieces; i++) {
        const struct manifest_piece *p = &m->piece[t->first_piece + i];
        json_t *v = json_pack("{s:I, s:I, s:I, s:s}", "begin", (json_int_t)p->begin, "file", (json_int_t)p->file,
                              "rows", (json_int_t)p->rows, "xxh3", p->xxh3);
        if (p->dim > 0) {
            json_object_set_new(v, "dim", json_integer(p->dim));
            json_object_set_new(v, "from", json_integer(p->from));
            json_object_set_new(v, "size", json_integer(p->size));
        }
        json_array_append_new(list, v);
    }
    return list;
}

static json_t *files_json(const struct manifest *m) {
    json_t *list = json_array();
    for (int64_t i = 0; i < m->n_files; i++)
        json_array_append_new(list, json_pack("{s:I, s:s, s:s}", "bytes", (json_int_t)m->file[i].bytes, "name",
                                              m->file[i].name, "xxh3", m->file[i].xxh3));
    return list;
}

static json_t *tensors_json(const struct manifest *m) {
    json_t *all = json_object();
    for (int64_t i = 0; i < m->n_tensors; i++) {
        const struct manifest_tensor *t = &m->tensor[i];
        json_object_set_new(all, t->name,
                            json_pack("{s:s, s:o, s:o}", "dtype", dtype_name(t->dtype), "shape", shape_json(t),
                                      "pieces", pieces_json(m, t)));
    }
    return all;
}

enum status manifest_print(const struct manifest *m, struct text *out) {
    struct manifest check = {0};
    char seed[24];
    const int64_t from = out->n;
    snprintf(seed, sizeof seed, "%" PRIu64, m->seed);
    json_t *root = json_pack("{s:s, s:I, s:I, s:s, s:s, s:s, s:o, s:o}", "format", FORMAT, "step", (json_int_t)m->step,
                             "tokens", (json_int_t)m->tokens, "seed", seed, "identity", m->identity, "identity_text",
                             m->identity_text, "files", files_json(m), "tensors", tensors_json(m));
    FAIL_UNLESS(root, ERR_OOM, "cannot make a manifest: no memory, or a text that is not UTF-8");
    const enum status st = seal(root, out);
    json_decref(root);
    TRY(st);
    /* What memory ran out for above, or what no reader would take, is found here and not at the next start. */
    TRY(manifest_open(&check, MANIFEST_NAME, out->s + from, out->n - from));
    const bool same = check.n_tensors == m->n_tensors && check.n_files == m->n_files && check.n_pieces == m->n_pieces;
    manifest_close(&check);
    FAIL_UNLESS(same, ERR_ARG, "cannot make a manifest: two tensors or files of one name");
    return OK;
}
