/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DIST_LANE_H
#define BATON_DIST_LANE_H
/* lane.h - the device side of a communicator over memory of a GPU; for the files of dist/ alone.
 *
 * An exchange of n bytes runs on the lane's own stream, of high priority, between two events: it waits for `ready`,
 * recorded on the compute stream when it is begun, and is over at `finished`, for which the compute stream waits when
 * it is ended.  Both events belong to the flight, and all are made in comm_init.  An event is waited for by what is
 * enqueued after its latest record, so that every wait on the device is for work enqueued earlier: no circle can close
 * among streams, whatever the order of ends.
 *
 * Copies: the receiver's lane waits for the sender's `ready` and copies; the sender's lane waits for `copied`.
 * NCCL: the lists of all members, in the order in which they are begun. */
#include "dist/inside.h"

#ifdef __cplusplus
extern "C" {
#endif

struct lane {
    struct comm_device spec;
    void *stream;        /* cudaStream_t                                                                      */
    void *copied;        /* cudaEvent_t                                                                       */
    struct comm control; /* the same group over host memory: barriers, and what must be agreed upon           */
    void *nccl;          /* ncclComm_t; NULL where none is, or it was aborted.  Under rank.lock               */
    int64_t suspect;     /* number of the oldest exchange that waits for others, and since when: the watch's  */
    double suspect_s;
};

/* The lane, its control communicator, and the transport of the communicator. */
enum status lane_open(struct comm_inside *in, const struct mesh *m, const struct comm_device *spec);
/* Waits for what is enqueued; accepts a lane half open, or none. */
void lane_close(struct comm_inside *in);
enum status lane_begin(struct comm_inside *in, struct flight *f);
enum status lane_finish(struct comm_inside *in, struct flight *f); /* all of it is enqueued */
enum status lane_end(struct comm_inside *in, struct flight *f);
/* Between places of this rank: on the lane, or on the compute stream.  Nothing is done where they are the same. */
enum status lane_copy(struct comm_inside *in, void *to, const void *from, int64_t bytes);
enum status lane_copy_compute(struct comm_inside *in, void *to, const void *from, int64_t bytes);
/* Enqueue the copy of a message; s is a post of `peer`, p of `in`. */
enum status lane_take(struct comm_inside *in, struct post *p, struct comm_inside *peer, struct post *s);
/* Wait until the lane is idle; false: it failed, or the deadline passed, which is short once the world has failed. */
bool lane_idle(struct comm_inside *in);
/* Of the exchanges enqueued and not over, the oldest, or NULL; waits: it waits for others, not for this rank's compute
 * stream.  Under rank.lock. */
struct flight *lane_oldest(struct comm_inside *in, bool *waits);

/* The GPU of the calling thread: its number, and what tells it from others.  Let it reach another by copies. */
enum status card_name(int *device, char *out, int room);
enum status card_reach(int device);
/* What moves bytes between the GPUs of all ranks, settled by all of them at the first communicator: r->device_way. */
enum status way_choose(struct rank *r, const struct mesh *m);

extern const struct transport transport_copies, transport_nccl;
#define NCCL_NONE 0
/* ncclGetVersion, or NCCL_NONE in a build without. */
int nccl_version(void);
enum status nccl_check_version(bool speaks);
/* What the watch has found, as a failure of this rank. */
enum status nccl_verdict(struct rank *r);
void nccl_stop(struct world *w); /* after the run */

#ifdef __cplusplus
}
#endif
#endif
