/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DIST_COLLECTIVES_H
#define BATON_DIST_COLLECTIVES_H
/* collectives.h - what all members of a communicator do together, made of lists of transfers.
 *
 * Every rank sends straight to every other: one round, the fewest bytes, and a place in the code where each message is
 * named.  `at` are size + 1 offsets, rising: block i is [at[i], at[i + 1]), and may be empty.  Bytes received, of a
 * group of P, for a result of n bytes: all_gather n (P-1)/P; all_to_all n (P-1)/P; reduce_scatter n (P-1), n of
 * the rank's own block; all_reduce 2 n (P-1)/P, or n (P-1) where n is small.  A sum is taken in the order of members,
 * ((x0 + x1) + x2) + ..., or with `tree` in the binary tree of members, (x0 + x1) + (x2 + x3), a missing right child
 * left out; in the type itself: its bits do not depend on time, nor on the way it was computed.  So on GPUs too, by
 * comm_device.add at the end, and not by NCCL's own reductions, whose order is NCCL's: the same bits on every
 * transport. barrier is between the hosts. What *_begin began with a pending, comm_end ends. */
#include "base/tensor.h"
#include "dist/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Offsets of n things in size nearly even blocks: the first n mod size blocks have one more. */
void comm_split(int size, int64_t n, int64_t *at);

/* My block, of at[index + 1] - at[index] bytes, goes into everybody's recv.  send may be its place in recv. */
enum status all_gather_begin(struct comm *c, enum comm_use use, const void *send, void *recv, const int64_t *at,
                             struct pending *p);
enum status all_gather_even_begin(struct comm *c, enum comm_use use, const void *send, int64_t bytes, void *recv,
                                  struct pending *p);
/* Block i of send goes to member i; block i of recv comes from member i.  send and recv do not overlap. */
enum status all_to_all_begin(struct comm *c, enum comm_use use, const void *send, const int64_t *send_at, void *recv,
                             const int64_t *recv_at, struct pending *p);
enum status all_to_all_even_begin(struct comm *c, enum comm_use use, const void *send, int64_t bytes, void *recv,
                                  struct pending *p);
enum status broadcast_begin(struct comm *c, enum comm_use use, int root, void *data, int64_t bytes, struct pending *p);
enum status barrier(struct comm *c);

/* Sums of F32 or F64.  reduce_scatter: in has at[size] elements, out receives the sum of my block, and may be its place
 * in in.  all_reduce: in and out have n elements, and may be the same.  scratch: *_scratch bytes, until the end. */
struct reduction {
    enum comm_use use;
    enum dtype dtype;
    const void *in;
    void *out;
    const int64_t *at; /* elements; reduce_scatter; must live until the end */
    int64_t n;         /* all_reduce                                        */
    bool tree;
    void *scratch;
    struct pending pending;
};
int64_t reduce_scatter_scratch(const struct comm *c, enum dtype t, const int64_t *at);
enum status reduce_scatter_begin(struct comm *c, struct reduction *r);
enum status reduce_scatter_end(struct comm *c, struct reduction *r);
int64_t all_reduce_scratch(const struct comm *c, enum dtype t, int64_t n);
enum status all_reduce_begin(struct comm *c, struct reduction *r);
enum status all_reduce_end(struct comm *c, struct reduction *r);

#ifdef __cplusplus
}
#endif
#endif
