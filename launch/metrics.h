/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_METRICS_H
#define BATON_LAUNCH_METRICS_H
/* metrics.h - RUN/metrics.jsonl: one JSON object a line and step.
 *
 *   {"step": 12, "loss": 2.5, "grad_norm": 0.75, "lr": 0.001, "tokens": 49152, "tokens_per_s": ..., "flops_per_s": ...,
 *    "mfu": null, "step_ms": ..., "bytes_peak": ..., "skipped": false}
 * and "expert_load" and "aux_loss" (report.h) where there are experts, "dropped" where they have a capacity,
 * "valid_loss" where the step was validated. Reals read back to the same bits; unknown and non-finite values are null.
 * Steps ascend, each is there once: opening for step k drops the lines of k and later, and whatever is not a whole line
 * of its own (the last one may be torn).
 *
 * Lines that cannot be written (disk full) are held in memory and written as soon as that succeeds, so that training
 * goes on meanwhile; metrics_sync fails for as long as there are any, and with it a save: no checkpoint is ahead of the
 * file.  METRICS_HELD bytes are room for some hundreds of steps; after that metrics_step fails. */
#include "launch/append.h"
#include "launch/report.h"

#define METRICS_HELD (256 << 10)

struct metrics {
    struct append_file file;
    int64_t last_step, n_held; /* n_held: bytes */
    char held[METRICS_HELD];
};
void metrics_init(struct metrics *m); /* the closed one */
enum status metrics_open(struct metrics *m, const char *run_dir, int64_t first_step);
enum status metrics_step(struct metrics *m, const struct step_report *s);
enum status metrics_sync(struct metrics *m);
enum status metrics_close(struct metrics *m);

#endif
