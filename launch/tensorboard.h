/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_TENSORBOARD_H
#define BATON_LAUNCH_TENSORBOARD_H
/* tensorboard.h - TensorBoard event files, one for each start of a run, in the run folder.
 *
 *   file     RUN/events.out.tfevents.<seconds>.<nanoseconds>.<host>.<pid>: names sort by time
 *   record   u64 bytes, u32 masked CRC32C of those 8 bytes, the payload, u32 masked CRC32C of the payload;
 * little-endian; masked(c) = rotate_right(c, 15) + 0xa282ead8 Event    protobuf: wall_time = 1 (double, seconds), step
 * = 2 (varint), file_version = 3 (text), summary = 5, session_log = 7 Summary  value = 1, repeated: {tag = 1 (text),
 * simple_value = 2 (float)} SessionLog  status = 1 (varint; START is 1) The first event is the version "brain.Event:2",
 * the second a SessionLog START with the first step of this start: readers then purge the events of that step and
 * later, so after a continue each step shows once.  One event a step holds all its known values as floats; loss,
 * grad_norm and so on are the tags. */
#include "launch/append.h"
#include "launch/report.h"

struct tensorboard {
    struct append_file file;
};
void tensorboard_init(struct tensorboard *t); /* the closed one */
enum status tensorboard_open(struct tensorboard *t, const char *run_dir, int64_t first_step);
enum status tensorboard_step(struct tensorboard *t, const struct step_report *s);
enum status tensorboard_sync(struct tensorboard *t);
enum status tensorboard_close(struct tensorboard *t);

#endif
