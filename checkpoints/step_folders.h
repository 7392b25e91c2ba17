/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_CHECKPOINTS_STEP_FOLDERS_H
#define BATON_CHECKPOINTS_STEP_FOLDERS_H
/* step_folders.h - names below RUN/checkpoints: step-00000120, and while being made or removed
 * step-00000120.tmp-PID-HOST and step-00000120.old-PID-HOST. */
#include "base/file.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status step_print(char out[PATH_BYTES], const char *folder, int64_t step);
enum status step_print_mark(char out[PATH_BYTES], const char *folder, int64_t step, const char *mark);
bool step_parse(const char *name, int64_t *step); /* exactly step-N */

struct step_list {
    int64_t *step; /* newest first */
    int64_t n, room;
};
/* A folder that does not exist holds none. */
enum status step_list_read(struct step_list *l, const char *folder);
void step_list_term(struct step_list *l);
/* Marked folders whose maker is gone: another process of this host that has ended, any process of another host, or this
 * one, which makes one at a time.  Names, each ending with a newline. */
enum status step_leftovers(const char *folder, struct text *names);

#ifdef __cplusplus
}
#endif
#endif
