/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_RUN_FOLDER_H
#define BATON_LAUNCH_RUN_FOLDER_H
/* run_folder.h - the folder of a run: checkpoints/, metrics.jsonl, config.yaml, event files, and `lock`.
 *
 * One process owns a run folder at a time: it holds an flock on RUN/lock, which the system drops when the process ends,
 * however it ends; the file names the process for the message a second one gets.  dir (run.dir) is relative to the
 * current folder.  A start that fails before it has anything to keep closes with keep = false: then all that this
 * process made is gone again, and a folder that was there before stays as it was. */
#include "base/file.h"

struct run_folder {
    char path[PATH_BYTES];
    int lock;      /* file descriptor; -1: closed                                  */
    bool made;     /* path did not exist before                                    */
    bool had_lock; /* RUN/lock was there before                                    */
    int n_parents_made;
};
void run_folder_init(struct run_folder *f); /* the closed one */
enum status run_folder_open(struct run_folder *f, const char *dir);
/* RUN/config.yaml, replaced durably: call it once the run is known to be allowed to continue here. */
enum status run_folder_write_config(const struct run_folder *f, const struct text *resolved);
enum status run_folder_close(struct run_folder *f, bool keep); /* accepts a closed one */

#endif
