/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/check.h"
#include <stdbool.h>
#include "dist/mesh.h"

static struct mesh place(struct mesh_sizes s, int n, int rank) {
    struct mesh m;
    MUST(mesh_place(&m, &s, n, rank));
    return m;
}

/* The groups of an axis part the ranks: every member names the same group, and finds itself at its own index. */
static void check_groups(struct mesh_sizes s, int n) {
    for (int axis = 0; axis < N_MESH_AXES; axis++)
        for (int rank = 0; rank < n; rank++) {
            const struct mesh m = place(s, n, rank);
            const int size = mesh_size(&m, axis);
            CHECK(mesh_member(&m, axis, mesh_index(&m, axis)) == rank, "axis %s, rank %d", mesh_axis_name(axis), rank);
            for (int i = 0; i < size; i++) {
                const int other = mesh_member(&m, axis, i);
                CHECK(other >= 0 && other < n, "axis %s, rank %d: member %d is %d", mesh_axis_name(axis), rank, i,
                      other);
                const struct mesh peer = place(s, n, other);
                CHECK(mesh_index(&peer, axis) == i, "axis %s, rank %d: member %d says it is %d", mesh_axis_name(axis),
                      rank, i, mesh_index(&peer, axis));
                for (int j = 0; j < size; j++)
                    CHECK(mesh_member(&peer, axis, j) == mesh_member(&m, axis, j), "axis %s: ranks %d and %d disagree",
                          mesh_axis_name(axis), rank, other);
            }
        }
}

/* rank -> coordinates -> rank, and what the expert regrouping must keep: only data and seq vary in it. */
static void check_coordinates(struct mesh_sizes s, int n) {
    for (int rank = 0; rank < n; rank++) {
        const struct mesh m = place(s, n, rank);
        const int pipe = mesh_index(&m, MESH_PIPE), data = mesh_index(&m, MESH_DATA);
        const int seq = mesh_index(&m, MESH_SEQ), tensor = mesh_index(&m, MESH_TENSOR);
        const int64_t back = ((pipe * s.data + data) * s.seq + seq) * s.tensor + tensor;
        CHECK(back == rank, "rank %d -> (%d %d %d %d) -> %d", rank, pipe, data, seq, tensor, (int)back);
        CHECK(mesh_index(&m, MESH_TOKENS) == data * s.seq + seq, "rank %d", rank);
        CHECK(mesh_index(&m, MESH_EXPERT) + s.expert * mesh_index(&m, MESH_EXPERT_COPIES) == data * s.seq + seq,
              "rank %d", rank);
        for (int i = 0; i < s.expert; i++) {
            const struct mesh peer = place(s, n, mesh_member(&m, MESH_EXPERT, i));
            CHECK(mesh_index(&peer, MESH_PIPE) == pipe && mesh_index(&peer, MESH_TENSOR) == tensor,
                  "rank %d: expert member %d leaves its pipe or tensor place", rank, i);
        }
    }
}

static void check_refused(const char *why, struct mesh_sizes s, int n, const char *must_say) {
    struct mesh m;
    const enum status st = mesh_place(&m, &s, n, 0);
    CHECK(st == ERR_CONFIG, "%s: %s", why, status_name(st));
    CHECK(strstr(status_text(), must_say), "%s: '%s' does not say '%s'", why, status_text(), must_say);
}

int main(void) {
    static const struct {
        const char *why;
        struct mesh_sizes sizes;
    } rows[] = {
        {"one rank", {1, 1, 1, 1, 1}},
        {"one sequence over eight", {1, 1, 8, 1, 1}},
        {"data and seq", {1, 2, 4, 1, 1}},
        {"all four axes", {2, 3, 2, 2, 1}},
        {"experts inside seq", {1, 2, 4, 2, 2}},
        {"experts across data", {2, 2, 3, 2, 6}},
        {"experts that divide neither axis alone", {1, 4, 3, 1, 6}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct mesh_sizes s = rows[i].sizes;
        const int n = (int)(s.pipe * s.data * s.seq * s.tensor);
        check_groups(s, n);
        check_coordinates(s, n);
    }
    const struct mesh last = place((struct mesh_sizes){1, 2, 2, 2, 1}, 8, 7);
    CHECK(mesh_member(&last, MESH_TENSOR, 0) == 6, "tensor is fastest");
    CHECK(mesh_member(&last, MESH_SEQ, 0) == 5, "then seq");
    CHECK(mesh_member(&last, MESH_DATA, 0) == 3, "then data");
    check_refused("product too small", (struct mesh_sizes){1, 1, 2, 1, 1}, 4, "= 2 ranks, but 4 are started");
    check_refused("zero", (struct mesh_sizes){1, 1, 0, 1, 1}, 4, "mesh.seq is 0");
    check_refused("negative twice is no product", (struct mesh_sizes){-2, -2, 1, 1, 1}, 4, "mesh.pipe is -2");
    check_refused("expert", (struct mesh_sizes){1, 2, 2, 1, 3}, 4, "must divide data x seq = 4");
    check_refused("expert zero", (struct mesh_sizes){1, 2, 2, 1, 0}, 4, "mesh.expert is 0");
    check_refused("overflow", (struct mesh_sizes){1 << 20, 1 << 20, 1 << 20, 1 << 20, 1}, 4, "2^31");
    return check_end();
}
