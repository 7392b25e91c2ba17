/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_BASE_FILE_H
#define BATON_BASE_FILE_H
/* file.h - files with errors that say what to do.  Every failure names the path and the cause. */
#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PATH_BYTES 1024 /* longest path we make, NUL included */

/* Whole file, NUL added behind the last byte.  ERR_MISSING if it does not exist, ERR_DATA above max_bytes. */
enum status file_read(const char *path, int64_t max_bytes, char **text, int64_t *bytes);
void file_free(char *text);
/* Durable replace: temporary name in the same folder, write, fsync, rename, fsync of the folder. */
enum status file_replace(const char *path, const void *data, int64_t bytes);
enum status file_sync_folder(const char *folder);
enum status file_make_folders(const char *path); /* mkdir -p */
enum status file_remove_tree(const char *path);  /* rm -r; a missing path is OK; links are removed, not followed */
bool file_exists(const char *path);
bool file_is_folder(const char *path);
enum status file_size(const char *path, int64_t *bytes);
/* printf into a path buffer; ERR_ARG if it does not fit. */
enum status path_print(char out[PATH_BYTES], const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Read-only mapping; an empty file maps to data NULL, bytes 0. */
struct file_map {
    const unsigned char *data;
    int64_t bytes;
};
enum status file_map_open(struct file_map *m, const char *path);
void file_map_close(struct file_map *m);

/* A text that grows; print appends. */
struct text {
    char *s; /* NUL-terminated; NULL while empty */
    int64_t n, room;
};
enum status text_print(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
enum status text_add(struct text *t, const char *bytes, int64_t n);
void text_term(struct text *t);

#ifdef __cplusplus
}
#endif
#endif
