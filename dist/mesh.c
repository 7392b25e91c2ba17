/* SPDX-License-Identifier: Apache-2.0 */
#include "dist/mesh.h"
#include <inttypes.h>

static const char *const names[N_MESH_AXES] = {"pipe",   "data",   "seq",           "tensor",
                                               "tokens", "expert", "expert_copies", "world"};

const char *mesh_axis_name(enum mesh_axis axis) {
    ASSERT((unsigned)axis < N_MESH_AXES);
    return names[axis];
}

static enum status check_product(const struct mesh_sizes *s, int n_ranks) {
    const int64_t sizes[] = {s->pipe, s->data, s->seq, s->tensor};
    int64_t product = 1;
    for (int i = 0; i < 4; i++) {
        FAIL_UNLESS(sizes[i] >= 1, ERR_CONFIG, "mesh.%s is %" PRId64 ": it must be 1 or more", names[i], sizes[i]);
        FAIL_UNLESS(sizes[i] <= INT32_MAX / product, ERR_CONFIG,
                    "mesh: pipe x data x seq x tensor is more than 2^31 ranks: make mesh.%s smaller", names[i]);
        product *= sizes[i];
    }
    FAIL_UNLESS(product == n_ranks, ERR_CONFIG,
                "mesh: pipe %" PRId64 " x data %" PRId64 " x seq %" PRId64 " x tensor %" PRId64 " = %" PRId64
                " ranks, but %d %s started: change the mesh or the number of ranks",
                s->pipe, s->data, s->seq, s->tensor, product, n_ranks, n_ranks == 1 ? "is" : "are");
    return OK;
}

enum status mesh_place(struct mesh *m, const struct mesh_sizes *sizes, int n_ranks, int rank) {
    TRY(check_product(sizes, n_ranks));
    FAIL_UNLESS(sizes->expert >= 1, ERR_CONFIG, "mesh.expert is %" PRId64 ": it must be 1 or more", sizes->expert);
    FAIL_UNLESS(sizes->data * sizes->seq % sizes->expert == 0, ERR_CONFIG,
                "mesh.expert is %" PRId64 ": it must divide data x seq = %" PRId64, sizes->expert,
                sizes->data * sizes->seq);
    ASSERT(rank >= 0 && rank < n_ranks);
    *m = (struct mesh){.sizes = *sizes, .n_ranks = n_ranks, .rank = rank};
    return OK;
}

int mesh_size(const struct mesh *m, enum mesh_axis axis) {
    const struct mesh_sizes *s = &m->sizes;
    switch (axis) {
    case MESH_PIPE:
        return (int)s->pipe;
    case MESH_DATA:
        return (int)s->data;
    case MESH_SEQ:
        return (int)s->seq;
    case MESH_TENSOR:
        return (int)s->tensor;
    case MESH_TOKENS:
        return (int)(s->data * s->seq);
    case MESH_EXPERT:
        return (int)s->expert;
    case MESH_EXPERT_COPIES:
        return (int)(s->data * s->seq / s->expert);
    default:
        ASSERT(axis == MESH_WORLD);
        return m->n_ranks;
    }
}

int mesh_stride(const struct mesh *m, enum mesh_axis axis) {
    const struct mesh_sizes *s = &m->sizes;
    switch (axis) {
    case MESH_PIPE:
        return (int)(s->data * s->seq * s->tensor);
    case MESH_DATA:
        return (int)(s->seq * s->tensor);
    case MESH_SEQ:
    case MESH_TOKENS:
    case MESH_EXPERT:
        return (int)s->tensor;
    case MESH_EXPERT_COPIES:
        return (int)(s->expert * s->tensor);
    default:
        ASSERT(axis == MESH_TENSOR || axis == MESH_WORLD);
        return 1;
    }
}

int mesh_index(const struct mesh *m, enum mesh_axis axis) {
    return m->rank / mesh_stride(m, axis) % mesh_size(m, axis);
}

int mesh_member(const struct mesh *m, enum mesh_axis axis, int i) {
    ASSERT(i >= 0 && i < mesh_size(m, axis));
    return m->rank + (i - mesh_index(m, axis)) * mesh_stride(m, axis);
}
