/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_CHECKPOINTS_SAFETENSORS_H
#define BATON_CHECKPOINTS_SAFETENSORS_H
/* safetensors.h - the file format: u64 header bytes, a JSON header {name: {dtype, shape, data_offsets}}, then the data.
 * A file is refused unless its header is at most 100,000,000 bytes, starts with '{', has no duplicate key, and its
 * tensors cover the data exactly once, in order, to the end of the file; sizes are multiplied with overflow checks. */
#include "base/file.h"
#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

struct save_io; /* save_io.h */

struct shard_entry {
    const char *name;
    enum dtype dtype;
    int n_dims;           /* 0: a scalar */
    int64_t shape[4];     /* at most 4 dims are taken; trailing dims 1 */
    int64_t begin, bytes; /* in the file */
};
struct shard_file {
    char path[PATH_BYTES];
    struct file_map map;
    struct shard_entry *entry; /* sorted by name */
    int64_t n_entries;
    void *header; /* parsed JSON, owns the names */
};
enum status shard_open(struct shard_file *f, const char *path);
/* The header alone, for tools and fuzzing: checks bytes as if they were a file of that size. */
enum status shard_check(const char *where, const void *bytes, int64_t n);
void shard_close(struct shard_file *f);                                             /* accepts the empty file */
const struct shard_entry *shard_find(const struct shard_file *f, const char *name); /* NULL: none */
/* n elements from element `first` on, converted to `to` (F32 or F64 from F64, F32, BF16, F16; I32/I64 from integers; a
 * value that does not fit is ERR_DATA; any type to itself). */
enum status shard_read(const struct shard_file *f, const struct shard_entry *e, int64_t first, int64_t n, enum dtype to,
                       void *out);
/* Parse a type's spelling; false: unknown.  Bytes of a tensor; false: the product does not fit. */
bool shard_dtype(const char *name, enum dtype *out);
bool shard_bytes(enum dtype t, int n_dims, const int64_t *shape, int64_t *out);

/* Writing: all entries are known first; data streams in order (wide types first, then by name), hashed on the way. */
struct shard_item {
    const char *name;
    enum dtype dtype;
    int n_dims;
    int64_t shape[4];
    const void *data; /* packed, little-endian */
    /* Not NULL: in place of data, puts elements [first, first + n) at out; pieces of `piece` elements are asked for. */
    enum status (*fetch)(const void *arg, int64_t first, int64_t n, void *out);
    const void *arg;
    int64_t piece;
};
/* Calls use with the item's bytes, in order and in pieces. */
enum status shard_item_each(const struct shard_item *item,
                            enum status (*use)(void *arg, const void *data, int64_t bytes), void *arg);
struct shard_sum {
    int64_t bytes;
    char xxh3[33]; /* of the whole file */
};
/* Creates path (it must not exist), writes, syncs.  metadata: JSON object text of strings, or NULL.  A failed file
 * stays for the caller to remove. */
enum status shard_write(const char *path, const struct shard_item *items, int64_t n, const char *metadata,
                        struct shard_sum *sum);
enum status shard_write_through(const struct save_io *io, const char *path, const struct shard_item *items, int64_t n,
                                const char *metadata, struct shard_sum *sum);

#ifdef __cplusplus
}
#endif
#endif
