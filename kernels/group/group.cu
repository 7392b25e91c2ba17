/* SPDX-License-Identifier: Apache-2.0 */
/* A stable sort by counting: counts of chunks of choices, what lies before each, places (choices.cuh).  Reads the ids
 * twice and writes 8 bytes a choice. */
#include "kernels/group/group.h"
#include "kernels/choices.cuh"

/* A block has a section: counts become the number of the first choice of the chunk, of each expert. */
__global__ static void place_experts(const struct choices x, const struct tensor offset) {
    __shared__ int64_t size[ROUTE_EXPERTS_MAX];
    const int64_t s = blockIdx.x, begin = stretch_begin(x, s);
    const int64_t chunk = chunks_before(x, s), end = chunk + ceil_div(stretch_begin(x, s + 1) - begin, x.chunk);
    int64_t *first = (int64_t *)offset.data + s * (x.E + 1);
    for (int64_t e = threadIdx.x; e < x.E; e += blockDim.x) {
        int before = 0;
        for (int64_t i = chunk; i < end; i++) {
            const int n = x.counts[i * x.E + e];
            x.counts[i * x.E + e] = before;
            before += n;
        }
        size[e] = before;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        int64_t at = begin;
        for (int64_t e = 0; e < x.E; e++) {
            const int64_t n = size[e];
            first[e] = at;
            at += n;
        }
        first[x.E] = at;
    }
}

__global__ static void place_choices(const struct choices x, const struct tensor offset, int64_t *to) {
    __shared__ int at[ROUTE_EXPERTS_MAX];
    int64_t begin, end, s = 0;
    if (!chunk_find(x, blockIdx.x, &begin, &end)) return;
    while (stretch_begin(x, s + 1) <= begin) s++;
    const int64_t *first = (const int64_t *)offset.data + s * (x.E + 1), base = first[0];
    for (int64_t e = threadIdx.x; e < x.E; e += WARP) at[e] = (int)(first[e] - base) + x.counts[blockIdx.x * x.E + e];
    __syncwarp();
    chunk_walk(x, begin, end, at, [=](int64_t i, int n) { to[i] = base + n; });
}

static enum status run(struct ctx *c, const struct group *a) {
    struct choices x = choices_of(a->ids, a->range, a->offset.shape[0], a->offset.shape[1] - 1);
    void *mem;
    TRY(arena_take(c->work, choices_bytes(x), &mem));
    x.counts = (int *)mem;
    TRY(choices_run(c, &x));
    LAUNCH(place_experts, dim3((unsigned)x.stretches), THREADS, x, a->offset);
    LAUNCH(place_choices, dim3((unsigned)choices_chunks(x)), WARP, x, a->offset, (int64_t *)a->row.data);
    return OK;
}

extern "C" enum status group_fwd_cuda(struct ctx *c, const struct group *a) {
    const int64_t T = a->ids.shape[0], k = a->ids.shape[1], S = a->offset.shape[0], E = a->offset.shape[1] - 1;
    CHECK_SHAPE(group, ids, I32, T, k);
    CHECK_SHAPE(group, row, I64, T, k);
    CHECK_SHAPE(group, offset, I64, S, E + 1);
    CHECK_THAT(group, tensor_packed(a->ids) && tensor_packed(a->row) && tensor_packed(a->offset),
               "ids, row and offset must be packed");
    CHECK_THAT(group, E >= 1 && E <= ROUTE_EXPERTS_MAX, "%" PRId64 " experts, 1 to %d are expected", E,
               ROUTE_EXPERTS_MAX);
    CHECK_THAT(group, T * k < INT32_MAX, "%" PRId64 " choices are more than 2^31", T * k);
    CHECK_OPTIONAL(group, range, I64, S + 1);
    CHECK_THAT(group, tensor_has(a->range) || S == 1, "offset is of %" PRId64 " sections without a range", S);
    const int64_t mark = arena_mark(c->work);
    const enum status st = run(c, a);
    arena_release(c->work, mark);
    return st;
}

extern "C" int64_t group_work_cuda(const struct ctx *, const struct group *a) {
    return choices_bytes(choices_of(a->ids, a->range, a->offset.shape[0], a->offset.shape[1] - 1));
}
NO_BACKWARD(group)
