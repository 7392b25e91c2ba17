/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_PROFILING_TRACE_H
#define BATON_PROFILING_TRACE_H
/* trace.h - what ran when, as a file that chrome://tracing and Perfetto read: the ranges of prof.h on each thread of
 * this process and, where the library of CUPTI is found, every kernel, copy and fill on each stream of its GPUs.
 *
 * One stretch of time at a time.  A diagnostic: it takes memory while it records, and slows what it looks at by some
 * microseconds a kernel. */
#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of the busiest GPU, from its first record to its last. */
struct trace_sums {
    int64_t n_ranges, n_device, n_lost; /* records; lost: of ranges, where there were too many */
    bool gpu;                           /* CUPTI was there, and saw something                  */
    double span_ms, busy_ms;            /* busy: something ran on it                           */
    double exchange_ms;                 /* of that, nothing but exchanges: NCCL's kernels and copies between GPUs */
};

/* From here on.  ERR_OOM; ERR_CUDA: CUPTI refuses, with its own words. */
enum status trace_begin(void);
/* All work of the GPUs has ended.  ERR_IO. */
enum status trace_end(const char *path, struct trace_sums *out);

#ifdef __cplusplus
}
#endif
#endif
