/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_TRACED_H
#define BATON_KERNELS_TRACED_H
/* traced.h - where a GPU's time goes: a table of ops that stands before another.  Each call is a range
 * (profiling/prof.h) and, while recording, a stretch of the context's stream between two of its events. */
#include "base/file.h"
#include "kernels/device_queue.h"
#include "kernels/ops.h"
#include "profiling/prof.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TRACED_ROWS 96
#define TRACED_MAX  8192 /* stretches of one recording; what comes behind them is not timed */

struct traced_row {
    const char *name; /* "ssd_bwd" */
    int64_t calls;
    double ms;
};
struct traced {
    struct ops table; /* what ctx->ops points to */
    const struct ops *base;
    bool recording;
    int n_rows, n;
    struct traced_row row[TRACED_ROWS];
    struct traced_stretch {
        int row;
        struct device_timer timer;
    } * list; /* TRACED_MAX */
};
enum status traced_init(struct traced *t, const struct ops *base);
void traced_term(struct traced *t); /* accepts the empty one */
/* A stretch of work under a name that outlives it; begun and ended in pairs, which may nest.  The context may have no
 * trace: then nothing is done. */
enum status traced_begin(struct ctx *c, enum prof_kind kind, const char *name, int *stretch);
enum status traced_end(struct ctx *c, int stretch);
/* From now on stretches are timed; until traced_report, which waits for their ends and prints milliseconds by name, the
 * longest first, those of seams with the ops inside them. */
void traced_record(struct traced *t);
enum status traced_report(struct traced *t, struct text *out);

#ifdef __cplusplus
}
#endif
#endif
