/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DIST_MESH_H
#define BATON_DIST_MESH_H
/* mesh.h - who stands where: pure arithmetic on rank numbers.
 *
 *     rank = ((pipe * n_data + data) * n_seq + seq) * n_tensor + tensor
 *
 * tensor is fastest, so that its ranks are neighbours on the fastest links.  Every group - the four axes and the
 * groupings made of them - is `size` ranks at a fixed stride, which is all that a communicator needs to know.
 * expert regroups data x seq, the ranks that hold different tokens and the same weights: with t = data * n_seq + seq,
 * the place on the expert axis is t mod n_expert, and expert_copies are the ranks that hold the same experts. */
#include <stdint.h>
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum mesh_axis {
    MESH_PIPE,
    MESH_DATA,
    MESH_SEQ,
    MESH_TENSOR,
    MESH_TOKENS, /* data x seq: over these gradients are summed and optimizer states sharded */
    MESH_EXPERT,
    MESH_EXPERT_COPIES,
    MESH_WORLD,
    N_MESH_AXES
};

struct mesh_sizes {
    int64_t pipe, data, seq, tensor, expert; /* 1 or more each */
};
struct mesh {
    struct mesh_sizes sizes;
    int n_ranks, rank;
};

/* ERR_CONFIG: a size below 1, a product that is not n_ranks, an expert axis that does not divide data x seq.  The text
 * names the keys (mesh.seq, ...). */
enum status mesh_place(struct mesh *m, const struct mesh_sizes *sizes, int n_ranks, int rank);
int mesh_size(const struct mesh *m, enum mesh_axis axis);
int mesh_stride(const struct mesh *m, enum mesh_axis axis);
/* My place in my group of the axis; the rank of that group's member i. */
int mesh_index(const struct mesh *m, enum mesh_axis axis);
int mesh_member(const struct mesh *m, enum mesh_axis axis, int i);
const char *mesh_axis_name(enum mesh_axis axis);

#ifdef __cplusplus
}
#endif
#endif
