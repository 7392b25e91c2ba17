/* SPDX-License-Identifier: Apache-2.0 */
#include "checkpoints/safetensors.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "base/arena.h"
#include "base/json.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are little-endian and are read as they lie");

#define HEADER_MAX ((uint64_t)100000000)

bool shard_dtype(const char *name, enum dtype *out) {
    for (int t = 0; t < N_DTYPES; t++) {
        if (strcmp(dtype_name((enum dtype)t), name) != 0) continue;
        *out = (enum dtype)t;
        return true;
    }
    return false;
}

bool shard_bytes(enum dtype t, int n_dims, const int64_t *shape, int64_t *out) {
    *out = dtype_bytes(t);
    for (int d = 0; d < n_dims; d++)
        if (shape[d] < 0 || __builtin_mul_overflow(*out, shape[d], out)) return false;
    return true;
}

static enum status read_shape(const char *where, const json_t *info, struct shard_entry *e) {
    const json_t *shape = json_object_get(info, "shape");
    FAIL_UNLESS(json_is_array(shape), ERR_DATA, "%s: tensor %s: \"shape\" is missing or not a list", where, e->name);
    FAIL_UNLESS(json_array_size(shape) <= 4, ERR_DATA, "%s: tensor %s: %zu dims; at most 4 are read here", where,
                e->name, json_array_size(shape));
    e->n_dims = (int)json_array_size(shape);
    for (int d = 0; d < 4; d++) {
        const json_t *v = json_array_get(shape, (size_t)d);
        e->shape[d] = 1;
        if (d >= e->n_dims) continue;
        FAIL_UNLESS(json_is_integer(v) && json_integer_value(v) >= 0, ERR_DATA,
                    "%s: tensor %s: dim %d is not a count of elements", where, e->name, d);
        e->shape[d] = json_integer_value(v);
    }
    return OK;
}

static enum status read_offsets(const char *where, const json_t *info, struct shard_entry *e) {
    const json_t *pair = json_object_get(info, "data_offsets");
    const json_t *begin = json_array_get(pair, 0), *end = json_array_get(pair, 1);
    FAIL_UNLESS(json_array_size(pair) == 2 && json_is_integer(begin) && json_is_integer(end), ERR_DATA,
                "%s: tensor %s: \"data_offsets\" is not a pair of integers", where, e->name);
    const int64_t from = json_integer_value(begin), to = json_integer_value(end);
    FAIL_UNLESS(from >= 0 && to >= from, ERR_DATA, "%s: tensor %s: its data runs from byte %" PRId64 " to %" PRId64,
                where, e->name, from, to);
    e->begin = from;
    e->bytes = to - from;
    return OK;
}

static enum status read_entry(const char *where, const char *name, const json_t *info, struct shard_entry *e) {
    const char *type = NULL;
    int64_t bytes = 0;
    *e = (struct shard_entry){.name = name};
    for (const unsigned char *p = (const unsigned char *)name; *p; p++)
        FAIL_UNLESS(*p >= ' ' && *p != 127, ERR_DATA, "%s: a tensor's name holds a control character", where);
    FAIL_UNLESS(json_is_object(info) && json_object_size(info) == 3, ERR_DATA,
                "%s: tensor %s: not exactly dtype, shape and data_offsets", where, name);
    TRY(json_text(where, info, "dtype", &type));
    FAIL_UNLESS(shard_dtype(type, &e->dtype), ERR_DATA, "%s: tensor %s: type %s is not read here", where, name, type);
    TRY(read_shape(where, info, e));
    TRY(read_offsets(where, info, e));
    FAIL_UNLESS(shard_bytes(e->dtype, e->n_dims, e->shape, &bytes), ERR_DATA, "%s: tensor %s: its size overflows",
                where, name);
    FAIL_UNLESS(bytes == e->bytes, ERR_DATA,
                "%s: tensor %s: its shape needs %" PRId64 " bytes, its offsets span %" PRId64, where, name, bytes,
                e->bytes);
    return OK;
}

static enum status check_metadata(const char *where, const json_t *map) {
    const char *key;
    json_t *v;
    FAIL_UNLESS(json_is_object(map), ERR_DATA, "%s: __metadata__ is not an object", where);
    json_object_foreach((json_t *)(uintptr_t)map, key, v)
        FAIL_UNLESS(json_is_string(v), ERR_DATA, "%s: __metadata__: \"%s\" is not a text", where, key);
    return OK;
}

static int by_place(const void *a, const void *b) {
    const struct shard_entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int by_name(const void *a, const void *b) {
    const struct shard_entry *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* No hole, no overlap, nothing behind the last; offsets become places in the file. */
static enum status check_cover(struct shard_file *f, const char *where, int64_t data_at, int64_t data_bytes) {
    int64_t at = 0;
    if (f->n_entries > 1) qsort(f->entry, (size_t)f->n_entries, sizeof *f->entry, by_place);
    for (int64_t i = 0; i < f->n_entries; i++) {
        struct shard_entry *e = &f->entry[i];
        FAIL_UNLESS(e->begin == at, ERR_DATA, "%s: tensor %s: its data begins at byte %" PRId64 "; %" PRId64 " wanted",
                    where, e->name, e->begin, at);
        FAIL_UNLESS(e->bytes <= data_bytes - at, ERR_DATA,
                    "%s: tensor %s: its data ends behind the end of the file: cut short?", where, e->name);
        at += e->bytes;
        e->begin += data_at;
    }
    FAIL_UNLESS(at == data_bytes, ERR_DATA, "%s: %" PRId64 " bytes behind the last tensor belong to none", where,
                data_bytes - at);
    if (f->n_entries > 1) qsort(f->entry, (size_t)f->n_entries, sizeof *f->entry, by_name);
    return OK;
}

static enum status read_entries(struct shard_file *f, const char *where) {
    json_t *header = f->header, *info;
    const char *name;
    void *mem = NULL;
    FAIL_UNLESS(json_is_object(header), ERR_DATA, "%s: the header is not an object", where);
    TRY(mem_take((int64_t)(json_object_size(header) * sizeof *f->entry), &mem));
    f->entry = mem;
    json_object_foreach(header, name, info) {
        if (!strcmp(name, "__metadata__")) TRY(check_metadata(where, info));
        else TRY(read_entry(where, name, info, &f->entry[f->n_entries++]));
    }
    return OK;
}

/* f holds what was taken, also on failure: the caller closes. */
static enum status parse(struct shard_file *f, const char *where, const unsigned char *bytes, int64_t n) {
    uint64_t header = 0;
    json_t *root = NULL;
    FAIL_UNLESS(n >= 8, ERR_DATA, "%s: %" PRId64 " bytes: too short for a safetensors file", where, n);
    memcpy(&header, bytes, 8);
    FAIL_UNLESS(header <= HEADER_MAX, ERR_DATA, "%s: a header of %" PRIu64 " bytes; at most %" PRIu64, where, header,
                HEADER_MAX);
#ifndef BATON_PLANT_SAFETENSORS
    FAIL_UNLESS((int64_t)header <= n - 8, ERR_DATA, "%s: the header ends behind the end of the file: cut short?",
                where);
#endif
    FAIL_UNLESS(header >= 2 && bytes[8] == '{', ERR_DATA, "%s: the header does not begin with '{'", where);
    TRY(json_read_text(where, (const char *)bytes + 8, (int64_t)header, &root));
    f->header = root;
    TRY(read_entries(f, where));
    return check_cover(f, where, 8 + (int64_t)header, n - 8 - (int64_t)header);
}

enum status shard_open(struct shard_file *f, const char *path) {
    *f = (struct shard_file){0};
    TRY(path_print(f->path, "%s", path));
    TRY(file_map_open(&f->map, path));
    const enum status st = parse(f, path, f->map.data, f->map.bytes);
    if (st != OK) shard_close(f);
    return st;
}

enum status shard_check(const char *where, const void *bytes, int64_t n) {
    struct shard_file f = {0};
    const enum status st = parse(&f, where, bytes, n);
    shard_close(&f);
    return st;
}

void shard_close(struct shard_file *f) {
    file_map_close(&f->map);
    mem_free(f->entry);
    json_decref(f->header);
    *f = (struct shard_file){0};
}
