/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/group/group.h"
#include <inttypes.h>
#include "kernels/check.h"
#include "kernels/rows.h"
#include "kernels/scores.h"

static enum status check_ids(const struct group *a, int64_t E) {
    const int32_t *ids = a->ids.data;
    for (int64_t i = 0; i < tensor_count(a->ids); i++)
        FAIL_UNLESS(ids[i] >= 0 && ids[i] < E, ERR_DATA,
                    "group: ids[%" PRId64 "] = %" PRId32 " lies outside the experts [0, %" PRId64 ")", i, ids[i], E);
    return OK;
}

/* Choices [begin, end): offset counts, then says where each expert begins, then runs along, then is moved back. */
static void place(const int32_t *ids, int64_t begin, int64_t end, int64_t E, int64_t *at, int64_t *offset) {
    for (int64_t e = 0; e <= E; e++) offset[e] = 0;
    for (int64_t i = begin; i < end; i++) offset[ids[i] + 1]++;
    offset[0] = begin;
    for (int64_t e = 0; e < E; e++) offset[e + 1] += offset[e];
    for (int64_t i = begin; i < end; i++) at[i] = offset[ids[i]]++;
    for (int64_t e = E; e > 0; e--) offset[e] = offset[e - 1];
    offset[0] = begin;
}

enum status REF(group_fwd)(struct ctx *c, const struct group *a) {
    const int64_t T = a->ids.shape[0], k = a->ids.shape[1], S = a->offset.shape[0], E = a->offset.shape[1] - 1;
    CHECK_SHAPE(group, ids, I32, T, k);
    CHECK_SHAPE(group, row, I64, T, k);
    CHECK_SHAPE(group, offset, I64, S, E + 1);
    CHECK_THAT(group, tensor_packed(a->ids) && tensor_packed(a->row) && tensor_packed(a->offset),
               "ids, row and offset must be packed");
    CHECK_THAT(group, tensor_has(a->range) ? a->range.shape[0] == S + 1 : S == 1,
               "offset is of %" PRId64 " sections, range of %" PRId64, S, a->range.shape[0] - 1);
    if (tensor_has(a->range)) TRY(REF(sequences_check)(c, "group", a->range, S > 0 ? S : 1, T));
    TRY(check_ids(a, E));
    for (int64_t s = 0; s < S; s++) {
        const struct stretch t = tensor_has(a->range) ? sequence_rows(a->range, S, s) : (struct stretch){0, T};
        place(a->ids.data, t.begin * k, t.end * k, E, a->row.data, (int64_t *)a->offset.data + s * (E + 1));
    }
    return OK;
}
NO_BACKWARD(group)
NO_WORK(group)
