/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_APPEND_H
#define BATON_LAUNCH_APPEND_H
/* append.h - a file that grows record by record while a run goes on.
 *
 * A record is one write.  If it fails (disk full), what went in is cut off again, so that the file ends with a whole
 * record; after a kill -9 the last record may be torn, and whoever opens the file for a continue deals with that. */
#include <stdbool.h>
#include "base/file.h"

struct append_file {
    char path[PATH_BYTES];
    int fd;        /* -1: closed */
    int64_t bytes; /* so far     */
};
enum status append_open(struct append_file *f, const char *path, bool fresh); /* fresh: it must not exist yet */
enum status append_record(struct append_file *f, const void *data, int64_t bytes);
enum status append_sync(struct append_file *f);
enum status append_close(struct append_file *f); /* syncs; accepts a closed one */

#endif
