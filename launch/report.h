/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_REPORT_H
#define BATON_LAUNCH_REPORT_H
/* report.h - what a run says of each step: a line on stdout (progress.h), an object in RUN/metrics.jsonl (metrics.h)
 * and a TensorBoard event (tensorboard.h).
 *
 * So that after a continue metrics.jsonl holds each step once: report step s, then report_sync, then save the
 * checkpoint of step s.  A continue from that checkpoint opens with first_step = s + 1, which drops all later lines. */
#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

struct step_report {
    int64_t step;     /* finished steps, this one included: from 1                          */
    double loss;      /* next-token cross entropy alone, nats a token                       */
    double grad_norm; /* before clipping                                                    */
    double lr;
    int64_t tokens;      /* trained on so far                                                  */
    double tokens_per_s; /* this and the next: of this step                                    */
    double flops_per_s;
    double mfu; /* fraction of the device's peak; NAN: unknown, as on the CPU         */
    double step_ms;
    int64_t bytes_peak; /* most memory in use so far; 0: unknown                              */
    bool skipped;       /* bad numbers: parameters were left alone                            */
    int bad_param;      /* the first part (model/param_parts.h) whose gradient is; -1: none     */
    bool validated;     /* valid_loss is there, if only as a value that is not finite         */
    double valid_loss;
    bool experts;           /* there are some: the next two are known                             */
    double expert_load;     /* tokens of the most loaded expert over the mean of its layer: the worst layer */
    double aux_loss;        /* of routers, in what is minimised but not in loss                   */
    bool drops;             /* some have a capacity: the next is known                            */
    double dropped;         /* choices of the step that no expert took, in all layers             */
    bool later;             /* there are prediction heads: the next is known                      */
    double mtp_loss;        /* the mean cross entropy of their tokens, in what is minimised by its weight */
    bool gauged;            /* the next two were asked of a GPU, rank 0's; NAN: it does not tell          */
    double power_w, sm_mhz; /* means over the step                                                */
};

/* The same as named values, in the order of the metrics file; unknown and non-finite ones have known = false. */
struct report_value {
    const char *key;
    bool known, integer;
    int64_t count; /* if integer */
    double real;   /* always     */
};
#define REPORT_VALUES 18
int report_values(const struct step_report *s, struct report_value out[REPORT_VALUES]);

struct report_spec {
    const char *run_dir;
    int64_t first_step, n_steps; /* the first one of this start; the last one of the run */
    bool tensorboard;
};
struct report;
enum status report_open(struct report **out, const struct report_spec *spec);
enum status report_step(struct report *r, const struct step_report *s); /* steps ascend; allocates nothing */
void report_note(struct report *r, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* between steps */
void report_warn(struct report *r, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* to stderr */
enum status report_sync(struct report *r);  /* what was reported so far survives a power cut */
enum status report_close(struct report *r); /* accepts NULL */

int64_t report_bytes_peak(void); /* most resident memory of this process so far; 0: the system does not tell */

#endif
