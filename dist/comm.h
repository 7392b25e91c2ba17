/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DIST_COMM_H
#define BATON_DIST_COMM_H
/* comm.h - the communicator of one mesh axis, and its primitive: a list of transfers between two points, begun and
 * ended, with local work between.
 *
 * Messages match first in, first out for each (communicator, source, destination); sizes, use and operation must agree
 * on both sides, or the exchange fails and says how they differ.  Pendings may be ended in any order.  From begin to
 * end the sent bytes must not change and the received ones must not be read; after a failure the memory must live
 * until comm_term.  Nothing is allocated after comm_init.  Over NCCL the lists of a group run in the order in which
 * they are begun: a list that waits for a member must not come before one for which that member waits. */
#include "base/tensor.h"
#include "dist/mesh.h"
#include "dist/world.h"

#ifdef __cplusplus
extern "C" {
#endif

#define COMMS_MAX 64 /* communicators a rank may have open */

/* What bytes are moved for: each is counted apart. */
enum comm_use {
    COMM_CARRY,
    COMM_HALO,
    COMM_KEYS,
    COMM_SWAP,
    COMM_TENSOR,
    COMM_EXPERT,
    COMM_PARAMS,
    COMM_GRADS,
    COMM_CONTROL,
    N_COMM_USES
};
struct comm_count {
    int64_t messages, bytes_sent, bytes_received; /* over the wire: what a rank sends itself is not counted */
};
/* Buffers in the memory of a GPU, the current one of the thread that calls comm_init.  comm_begin waits for what is
 * enqueued on the compute stream by then, and the stream waits in comm_end for the exchange: on the device, not on the
 * host, which waits in both for other ranks alone. */
struct comm_device {
    void *compute; /* cudaStream_t; outlives the communicator */
    /* Enqueues to[i] += from[i], i < n, on the compute stream; both in device memory, F32 or F64.  For sums. */
    enum status (*add)(void *arg, enum dtype t, void *to, const void *from, int64_t n);
    void *arg;
};
struct comm_limits {
    int flights;                      /* exchanges begun and not ended; 0: 8                                        */
    int transfers;                    /* in one list; the size of the group or less: twice that size                */
    int64_t bytes;                    /* of one list, one way, where a message is above 1 GiB (chunks are planned)  */
    const struct comm_device *device; /* NULL: host memory.  Copied                              */
};
struct comm_inside;
struct comm {
    int size, index;  /* members of the group, and which of them I am */
    const char *name; /* of the axis */
    struct comm_count count[N_COMM_USES];
    struct comm_inside *inside;
};
/* To and from one member.  0 bytes: no message that way.  With myself: a copy, both sizes equal. */
struct transfer {
    int peer;
    const void *send;
    int64_t send_bytes;
    void *recv;
    int64_t recv_bytes;
};
struct pending {
    int flight; /* 0: nothing begun */
};

/* All ranks open, and close, the same communicators in the same order.  limits may be NULL.  Over device memory, all
 * ranks meet here; ERR_CONFIG: no transport joins their GPUs (the text says which would). */
enum status comm_init(struct comm *c, struct rank *r, const struct mesh *m, enum mesh_axis axis,
                      const struct comm_limits *limits);
void comm_term(struct comm *c); /* accepts the empty one; takes back what was begun and not ended */
enum status comm_begin(struct comm *c, enum comm_use use, const struct transfer *list, int n, struct pending *p);
/* ERR_TIMEOUT names the members not heard of; ERR_COMM the rank whose failure ended this wait. */
enum status comm_end(struct comm *c, struct pending *p);
/* Wait for all that is enqueued on a stream (cudaStream_t) of this rank: the one place where a step waits for its GPU.
 * Ends as comm_end does: a rank that failed, a deadline, an error of the network, or ERR_CUDA. */
enum status comm_wait_stream(struct rank *r, void *stream);
struct rank *comm_rank(const struct comm *c);
/* What moves the bytes: "threads", "mpi", "copies" between buffers on GPUs, or "nccl". */
const char *comm_transport(const struct comm *c);
const char *comm_use_name(enum comm_use use);
struct comm_count comm_total(const struct comm *c); /* over all uses */
void comm_count_reset(struct comm *c);

#ifdef __cplusplus
}
#endif
#endif
