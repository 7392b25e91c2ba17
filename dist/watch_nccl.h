/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DIST_WATCH_NCCL_H
#define BATON_DIST_WATCH_NCCL_H
/* watch_nccl.h - one thread a process looks after its communicators of NCCL; for the files of dist/ alone.
 *
 * A rank whose GPU waits for a lost one may itself be stuck in the launch of a kernel, once the queue of its stream is
 * full, so it cannot be the one that notices.  The watch asks for NCCL's asynchronous errors and for exchanges that
 * wait for others beyond the deadline; what it finds is the rank's verdict, which the rank takes up as its failure at
 * its next wait.  Once any rank has failed, the watch aborts all communicators of the process, each in a thread, as one
 * that hangs must not hold up the others.  A process that has not come to the end of its run long after is ended. */
#include <nccl.h>
#include "dist/lane.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status watch_start(struct world *w); /* unless it runs already */
/* Of the communicator's latest call; ncclInProgress where it was aborted.  Under rank.lock. */
ncclResult_t nccl_state(struct comm_inside *in);
/* Destroy the communicator, or abort it, in a thread; nothing is left of it for others.  Under rank.lock. */
void nccl_let_go(struct comm_inside *in, bool by_force);
/* Until those threads are through; false: not all within so many seconds. */
bool nccl_wait_closed(struct world *w, double seconds);
bool nccl_is_bad(void); /* the library is known to crash in ncclCommAbort */
/* "NCCL, the start of seq: remote process exited or there was a network error (its last words)" */
void nccl_explain(struct comm_inside *in, ncclResult_t e, const char *what, char *out, size_t room);

#ifdef __cplusplus
}
#endif
#endif
