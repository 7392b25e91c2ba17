/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SPACE_H
#define BATON_KERNELS_SPACE_H
/* space.h - the memory that a context's ops work in, for code of the host: on the CPU it is the host's own, on a GPU it
 * is reached by copies.  Copies take their turn among the ops of the context's stream.  On paper (paper.h) nothing is
 * moved, and memory of ops is addresses alone; that of the host beside it is real. */
#include "base/ctx.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Memory for ops; and memory of the host beside it, from and to which copies run without a stop (pinned, with a GPU).
 * Terms accept the empty arena. */
enum status space_arena_init(const struct ctx *c, struct arena *a, const char *name, int64_t bytes);
void space_arena_term(const struct ctx *c, struct arena *a);
enum status space_host_init(const struct ctx *c, struct arena *a, const char *name, int64_t bytes);
void space_host_term(const struct ctx *c, struct arena *a);
/* Memory of the host that ferry.h alone touches; on paper addresses alone. */
enum status space_store_init(const struct ctx *c, struct arena *a, const char *name, int64_t bytes);
void space_store_term(const struct ctx *c, struct arena *a);

/* Host to ops' memory; on a GPU the copy is only enqueued: `from` must not change before a mark behind it is reached.
 * to == from: nothing to do, for on the CPU the two may be one. */
enum status space_send(struct ctx *c, void *to, const void *from, int64_t bytes);
enum status space_mark(struct ctx *c);  /* here in the stream; the mark before it is forgotten      */
enum status space_reach(struct ctx *c); /* the host waits until the mark has been reached, if any is */
/* Ops' memory to the host, after all that is enqueued: waits for it. */
enum status space_fetch(struct ctx *c, void *to, const void *from, int64_t bytes);
enum status space_settle(struct ctx *c); /* waits for all that is enqueued; the failure of a kernel shows here */
/* At start-up, between any memories of the context; waits. */
enum status space_copy(struct ctx *c, void *to, const void *from, int64_t bytes);
enum status space_zero(struct ctx *c, void *p, int64_t bytes);

/* Elements [first, first + n) of t become numbers of the host of its wide type, rounded to nearest where t is BF16: on
 * the way, or before by space_round.  t is packed.  Copies are enqueued, as by space_send. */
enum status space_store(struct ctx *c, struct tensor t, int64_t first, int64_t n, const void *wide,
                        const void *rounded);
void space_round(const float *wide, int64_t n, void *rounded);
/* And back as such.  Waits; neither is for a training step. */
enum status space_load(struct ctx *c, struct tensor t, int64_t first, int64_t n, void *wide);

/* All of a tensor of ops' memory on the host, as F64. */
enum status space_numbers(struct ctx *c, struct tensor t, double *out);

#ifdef __cplusplus
}
#endif
#endif
