/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "base/arena.h"
#include "base/json.h"
#include "checkpoints/safetensors.h"
#include "checkpoints/save_io.h"

static int by_width_then_name(const void *a, const void *b) {
    const struct shard_item *x = *(const struct shard_item *const *)a, *y = *(const struct shard_item *const *)b;
    const int64_t wx = dtype_bytes(x->dtype), wy = dtype_bytes(y->dtype);
    if (wx != wy) return wx > wy ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The header's object takes over `info`. */
static enum status put(json_t *header, const char *name, json_t *info) {
    FAIL_UNLESS(info && json_object_set_new(header, name, info) == 0, ERR_OOM,
                "cannot write the header entry of tensor %s: no memory, or its name is not UTF-8", name);
    return OK;
}

static enum status put_item(json_t *header, const char *path, const struct shard_item *it, int64_t *at) {
    int64_t bytes = 0, end = 0;
    FAIL_UNLESS(it->n_dims >= 0 && it->n_dims <= 4 && shard_bytes(it->dtype, it->n_dims, it->shape, &bytes) &&
                    !__builtin_add_overflow(*at, bytes, &end),
                ERR_ARG, "%s: tensor %s: a shape that no file can hold", path, it->name);
    FAIL_UNLESS(strcmp(it->name, "__metadata__") != 0 && !json_object_get(header, it->name), ERR_ARG,
                "%s: two tensors are called %s", path, it->name);
    json_t *shape = json_array();
    int bad = !shape;
    for (int d = 0; d < it->n_dims && !bad; d++) bad = json_array_append_new(shape, json_integer(it->shape[d]));
    if (bad) {
        json_decref(shape);
        FAIL(ERR_OOM, "%s: no memory for the header", path);
    }
    TRY(put(header, it->name,
            json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(it->dtype), "shape", shape, "data_offsets",
                      (json_int_t)*at, (json_int_t)end)));
    *at = end;
    return OK;
}

/* Length, header, and spaces up to a multiple of 8. */
static enum status print_header(const json_t *header, struct text *out) {
    const size_t n = json_dumpb(header, NULL, 0, JSON_COMPACT);
    const uint64_t padded = (n + 7) / 8 * 8;
    void *mem = NULL;
    FAIL_UNLESS(n > 0, ERR_OOM, "cannot print a header: no memory");
    TRY(mem_take((int64_t)padded, &mem));
    memset(mem, ' ', padded);
    json_dumpb(header, mem, n, JSON_COMPACT);
    enum status st = text_add(out, (const char *)&padded, 8);
    if (st == OK) st = text_add(out, mem, (int64_t)padded);
    mem_free(mem);
    return st;
}

static enum status make_header(const char *path, const struct shard_item *const *items, int64_t n, const char *metadata,
                               struct text *out, int64_t *data_bytes) {
    enum status st = OK;
    json_t *header = json_object(), *map = NULL;
    *data_bytes = 0;
    FAIL_UNLESS(header, ERR_OOM, "%s: no memory for the header", path);
    if (metadata) {
        TRY_OUT(json_read_text("metadata", metadata, (int64_t)strlen(metadata), &map));
        TRY_OUT(put(header, "__metadata__", map));
    }
    for (int64_t i = 0; i < n; i++) TRY_OUT(put_item(header, path, items[i], data_bytes));
    TRY_OUT(print_header(header, out));
out:
    json_decref(header);
    return st;
}

enum status shard_item_each(const struct shard_item *item,
                            enum status (*use)(void *arg, const void *data, int64_t bytes), void *arg) {
    int64_t bytes = 0;
    void *room = NULL;
    enum status st = OK;
    shard_bytes(item->dtype, item->n_dims, item->shape, &bytes);
    if (!item->fetch) return use(arg, item->data, bytes);
    const int64_t size = dtype_bytes(item->dtype), n = bytes / size, piece = n < item->piece ? n : item->piece;
    TRY(mem_take(piece * size, &room));
    for (int64_t at = 0; st == OK && at < n; at += piece) {
        const int64_t m = n - at < piece ? n - at : piece;
        st = item->fetch(item->arg, at, m, room);
        if (st == OK) st = use(arg, room, m * size);
    }
    mem_free(room);
    return st;
}

static enum status add_to_file(void *file, const void *data, int64_t bytes) { return save_add(file, data, bytes); }

static enum status write_file(struct save_file *file, const struct text *header, const struct shard_item *const *items,
                              int64_t n) {
    TRY(save_add(file, header->s, header->n));
    for (int64_t i = 0; i < n; i++) TRY(shard_item_each(items[i], add_to_file, file));
    return OK;
}

enum status shard_write_through(const struct save_io *io, const char *path, const struct shard_item *items, int64_t n,
                                const char *metadata, struct shard_sum *sum) {
    enum status st = OK;
    struct text header = {0};
    struct save_file file = {.fd = -1};
    const struct shard_item **order = NULL;
    void *mem = NULL;
    int64_t data_bytes = 0;
    TRY(mem_take((n + 1) * (int64_t)sizeof *order, &mem));
    order = mem;
    for (int64_t i = 0; i < n; i++) order[i] = &items[i];
    if (n > 1) qsort(order, (size_t)n, sizeof *order, by_width_then_name);
    TRY_OUT(make_header(path, order, n, metadata, &header, &data_bytes));
    TRY_OUT(save_open(&file, io, path, header.n + data_bytes));
    TRY_OUT(write_file(&file, &header, order, n));
    sum->bytes = file.bytes;
    TRY_OUT(save_end(&file, sum->xxh3));
out:
    save_drop(&file);
    text_term(&header);
    mem_free(mem);
    return st;
}

enum status shard_write(const char *path, const struct shard_item *items, int64_t n, const char *metadata,
                        struct shard_sum *sum) {
    return shard_write_through(&save_io_posix, path, items, n, metadata, sum);
}
