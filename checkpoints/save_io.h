/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_CHECKPOINTS_SAVE_IO_H
#define BATON_CHECKPOINTS_SAVE_IO_H
/* save_io.h - the only door from saving to the file system: one table of calls, so that a test can fail or kill at the
 * k-th of them.  Each entry has the contract of the POSIX call of its name.  What is interrupted is tried again. */
#include <sys/types.h>
#include "base/file.h"
#include "base/hash.h"

#ifdef __cplusplus
extern "C" {
#endif

struct save_io {
    int (*open)(const char *path, int flags, mode_t mode);
    ssize_t (*write)(int fd, const void *data, size_t bytes);
    int (*fsync)(int fd);
    int (*close)(int fd);
    int (*mkdir)(const char *path, mode_t mode);
    int (*rename)(const char *from, const char *to);
    int (*unlink)(const char *path);
    int (*rmdir)(const char *path);
    int64_t (*free_bytes)(const char *folder); /* that this user may still write; -1 and errno */
};
extern const struct save_io save_io_posix;

/* A new file being written: it must not exist; hashed on the way; durable once ended. */
struct save_file {
    const struct save_io *io;
    int fd;
    int64_t bytes, whole;     /* written; announced, for the message of a full disk */
    struct hash_stream *hash; /* XXH3-128 */
    char path[PATH_BYTES];
};
enum status save_open(struct save_file *f, const struct save_io *io, const char *path, int64_t whole);
enum status save_add(struct save_file *f, const void *data, int64_t bytes);
enum status save_end(struct save_file *f, char xxh3[HASH_HEX]);
void save_drop(struct save_file *f); /* after any failure; accepts what was never opened, as zeros with fd -1 */

enum status save_make_folder(const struct save_io *io, const char *path, bool may_exist);
enum status save_sync_folder(const struct save_io *io, const char *path);
enum status save_rename(const struct save_io *io, const char *from, const char *to);
enum status save_free_bytes(const struct save_io *io, const char *folder, int64_t *out);
/* The folder and the files in it; a folder inside it is an error, for nothing here makes one. */
enum status save_remove_folder(const struct save_io *io, const char *path);

#ifdef __cplusplus
}
#endif
#endif
