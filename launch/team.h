/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_TEAM_H
#define BATON_LAUNCH_TEAM_H
/* team.h - one rank's place among the ranks of a run: its mesh coordinates and the communicators of its axes. */
#include "dist/collectives.h"
#include "kernels/device.h"
#include "launch/config.h"
#include "launch/device.h"

struct team {
    struct rank *rank;
    struct mesh mesh;
    struct device *device;    /* this rank's GPU, its own; NULL: the cpu                            */
    struct ctx sums;          /* of the additions in sums over ranks of a GPU's memory              */
    struct comm_device far;   /* the same for the communicators                                     */
    struct comm seq;          /* ranks that share the tokens of a sequence: over the ops' memory    */
    struct comm tensor;       /* ranks that share heads and channels, over the same                 */
    struct comm world;        /* all, over the host's memory: what ranks agree on                   */
    struct comm tokens;       /* data x seq, over the host's                                        */
    struct comm tokens_there; /* the same over a GPU's, if there is one                             */
    struct comm *totals;      /* data x seq over the ops' memory: one of the two                    */
    bool leader;              /* rank 0: speaks, reports, owns the run folder                       */
};
/* transfers: the longest list the seams will make; they are planned before anything is sent.  device: NULL, the cpu. */
enum status team_open(struct team *t, struct rank *rank, const struct mesh_config *mesh, int transfers,
                      const struct device_choice *device);
/* Before the memory goes that ranks may still reach into; the GPU stays open. */
void team_leave(struct team *t);
void team_close(struct team *t); /* ... and the GPU; accepts the empty one */
/* The same value on all ranks: the leader's. */
enum status team_agree(struct team *t, void *data, int64_t bytes);
/* The largest of everybody's numbers, on all ranks. */
enum status team_most(struct team *t, int64_t *number);
/* A sum over all ranks in their order, or in their binary tree, in place; scratch as all_reduce_scratch says.
 */
enum status team_sum(struct team *t, struct tensor x, enum comm_use use, bool tree, void *scratch);

/* fn runs once a rank, under a launcher's ranks or n threads, after all ranks have agreed that they were told the same:
 * ERR_CONFIG on all of them, naming those that differ, before anything else is sent. */
struct team_spec {
    const char *ranks;        /* the text of --ranks, or NULL                                  */
    struct mesh_config *mesh; /* in: the file's; out: with seq filled in where ranks were given */
    bool mesh_given;          /* the file or an override names a mesh                           */
    const struct text *same;  /* the configuration, which must be the same on all ranks          */
    double deadline_s;
};
enum status team_run(const struct team_spec *spec, enum status (*fn)(struct rank *, void *), void *arg);
#endif
