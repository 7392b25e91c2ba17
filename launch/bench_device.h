/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_BENCH_DEVICE_H
#define BATON_LAUNCH_BENCH_DEVICE_H
/* bench_device.h - the benchmark of ops on a GPU: timed by its own events, against a copy of its memory in the same
 * rounds. */
#include "base/json.h"
#include "kernels/cases.h"
#include "kernels/device_queue.h"
#include "profiling/gauge.h"

struct bench_device {
    struct device *device;
    struct ctx ctx;
    struct device_timer timer;
    void *from, *to;     /* of the copy */
    json_t *rows;        /* of --json   */
    struct gauge *gauge; /* or NULL */
};
/* Of the first GPU; real: F32 or BF16. */
enum status bench_device_open(struct bench_device *b, enum dtype real, json_t *rows);
/* Row `row` of the op, both passes. */
enum status bench_device_row(struct bench_device *b, const struct case_op *op, int row);
void bench_device_tell(struct bench_device *b);  /* clocks and power over all rows */
void bench_device_close(struct bench_device *b); /* accepts the empty one */

#endif
