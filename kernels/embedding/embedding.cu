/* SPDX-License-Identifier: Apache-2.0 */
/* Forward moves 8 T D bytes in F32, 4 T D in BF16.
 * Backward gives every picked row of the vocabulary one owner per strip of columns, who adds the rows of dy that picked
 * it in ascending t: dw is read and written once a picked row, dy read once, 8 D + 2 D bytes a token at most in BF16.
 * Before that the tokens are grouped by their id, some 60 bytes a token and 12 a row of the vocabulary: counted,
 * placed, and each ranked among its like by comparing.  Integers are counted by atomics: where a group lies and how its
 * tokens arrive differs from run to run, its order by rank does not. */
#include "kernels/embedding/embedding.h"
#include "kernels/packs.cuh"

#define PICKS      4 /* rows of forward that a thread has under way        */
#define ADDS       8 /* likewise, of backward                              */
#define PARTS      2 /* packs of a row that a lane of backward owns        */
#define ROW_PACK   4 /* channels of such a pack: 16 bytes of dw            */
#define SCAN_BLOCK THREADS

/* n elements as they lie in memory. */
template <typename real, int n> struct alignas(n * sizeof(real)) as_read { real at[n]; };

template <typename real, int n> static __device__ struct as_read<real, n> all_of(float value) {
    struct as_read<real, n> x;
    for (int c = 0; c < n; c++) set(&x.at[c], value);
    return x;
}

/* A bad id cannot fail here without waiting for the device: its row becomes NaN, which the step report shows. */
template <typename real, int n>
__global__ static void pick_cells(const struct embedding a, int64_t n_groups) {
    const int64_t T = a.y.shape[0], V = a.w.shape[0], all = a.vocab > 0 ? a.vocab : V;
    FOR_PACKS(group, i, n_groups, a.y.shape[1], n) {
        struct as_read<real, n> w[PICKS];
        int64_t id[PICKS];
#pragma unroll
        for (int k = 0; k < PICKS; k++)
            id[k] = group * PICKS + k < T ? ((const int32_t *)a.ids.data)[group * PICKS + k] : -1;
#pragma unroll
        for (int k = 0; k < PICKS; k++) {
            const bool bad = id[k] < 0 || id[k] >= all;
            const int64_t at = id[k] - a.first;
            if (!bad && at >= 0 && at < V) w[k] = *(const struct as_read<real, n> *)(row_of<real>(a.w, at) + i);
            else w[k] = all_of<real, n>(bad ? nanf("") : 0.0f);
        }
#pragma unroll
        for (int k = 0; k < PICKS; k++)
            if (group * PICKS + k < T) *(struct as_read<real, n> *)(row_of<real>(a.y, group * PICKS + k) + i) = w[k];
    }
}

/* ---- tokens grouped by id, in ctx->work ---- */

struct alignas(16) pick {
    int32_t t, id, rank, n; /* the token is number `rank` of the n of this id */
};
struct picks {
    struct pick *at;        /* (T) groups side by side, each ascending in t               */
    int32_t *slot, *list;   /* (T) place of a token in its group, as it came; the groups  */
    int32_t *count, *first; /* (V + 1) tokens of an id; count[V]: of all; where its group begins */
};

/* The row of dw that token t picked; false: another rank's. */
static __device__ bool id_of(const struct embedding &a, int64_t t, int32_t *id) {
    *id = (int32_t)(((const int32_t *)a.ids.data)[t] - a.first);
    return *id >= 0 && *id < a.dw.shape[0];
}

__global__ static void clear_counts(struct picks p, int64_t n) { FOR_CELLS(none, v, 1, n) p.count[v] = 0; }

__global__ static void count_ids(const struct embedding a, struct picks p) {
    FOR_CELLS(none, t, 1, a.ids.shape[0]) {
        int32_t id;
        if (id_of(a, t, &id)) p.slot[t] = atomicAdd(&p.count[id], 1);
    }
}

/* Blocks of SCAN_BLOCK ids: sums before each id, behind what the blocks took that came before. */
__global__ static void place_ids(struct picks p, int64_t V) {
    __shared__ int32_t warp_total[SCAN_BLOCK / WARP], base;
    const int64_t v = (int64_t)blockIdx.x * SCAN_BLOCK + threadIdx.x;
    const int lane = threadIdx.x % WARP, mine = v < V ? p.count[v] : 0;
    int sum = mine;
    for (int by = 1; by < WARP; by *= 2) {
        const int before = __shfl_up_sync(0xffffffffu, sum, by);
        if (lane >= by) sum += before;
    }
    if (lane == WARP - 1) warp_total[threadIdx.x / WARP] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        int all = 0;
        for (int w = 0; w < SCAN_BLOCK / WARP; w++) {
            const int total = warp_total[w];
            warp_total[w] = all;
            all += total;
        }
        base = atomicAdd(&p.count[V], all);
    }
    __syncthreads();
    if (v < V) p.first[v] = base + warp_total[threadIdx.x / WARP] + sum - mine;
}

__global__ static void list_ids(const struct embedding a, struct picks p) {
    FOR_CELLS(none, t, 1, a.ids.shape[0]) {
        int32_t id;
        if (id_of(a, t, &id)) p.list[p.first[id] + p.slot[t]] = (int32_t)t;
    }
}

__global__ static void rank_ids(const struct embedding a, struct picks p) {
    FOR_CELLS(none, t, 1, a.ids.shape[0]) {
        int32_t id, rank = 0;
        if (!id_of(a, t, &id)) continue;
        const int32_t n = p.count[id], first = p.first[id];
        for (int32_t k = 0; k < n; k++) rank += p.list[first + k] < (int32_t)t;
        p.at[first + rank] = {(int32_t)t, id, rank, n};
    }
}

/* The record that `at` is, or one that begins no group. */
static __device__ struct pick head_at(const struct picks &p, int64_t at, int64_t n) {
    return at < n ? p.at[at] : pick{0, 0, 1, 0};
}

/* A block owns picked rows, or as much of them as its warps with PARTS packs a lane reach; the next record is under
 * way. */
template <typename real, int n>
__global__ __launch_bounds__(THREADS, 3) static void add_rows(const struct embedding a, const struct picks p) {
    const int64_t D = a.dw.shape[1], n_picks = p.count[a.dw.shape[0]];
    const int64_t i = (((int64_t)blockIdx.y * blockDim.y + threadIdx.y) * PARTS * WARP + threadIdx.x) * n;
    struct pick my, next = head_at(p, blockIdx.x, n_picks);
    for (int64_t at = blockIdx.x; at < n_picks; at += gridDim.x) {
        my = next;
        next = head_at(p, at + gridDim.x, n_picks);
        if (my.rank != 0) continue;
        float sum[PARTS][n] = {};
        for (int q = 0; q < PARTS; q++)
            if (i + q * WARP * n < D) get<n>(sum[q], row(a.dw, my.id) + i + q * WARP * n);
        for (int32_t k = 0; k < my.n; k += ADDS) {
            struct as_read<real, n> dy[ADDS][PARTS];
#pragma unroll
            for (int j = 0; j < ADDS; j++) {
                if (k + j >= my.n) continue;
                const real *from = row_of<real>(a.dy, k + j ? p.at[at + k + j].t : my.t) + i;
                for (int q = 0; q < PARTS; q++)
                    if (i + q * WARP * n < D) dy[j][q] = *(const struct as_read<real, n> *)(from + q * WARP * n);
            }
#pragma unroll
            for (int j = 0; j < ADDS; j++)
                for (int q = 0; q < PARTS; q++)
                    for (int c = 0; c < n && k + j < my.n; c++) sum[q][c] += one(&dy[j][q].at[c]);
        }
        for (int q = 0; q < PARTS; q++)
            if (i + q * WARP * n < D) put<n>(row(a.dw, my.id) + i + q * WARP * n, sum[q]);
    }
}

extern "C" enum status embedding_fwd_cuda(struct ctx *c, const struct embedding *a) {
    const int64_t T = a->y.shape[0], D = a->y.shape[1], V = a->w.shape[0], groups = ceil_div(T, PICKS);
    CHECK_SHAPE(embedding, y, REAL, T, D);
    CHECK_SHAPE(embedding, ids, I32, T);
    CHECK_SHAPE(embedding, w, REAL, V, D);
    LAUNCH_PACKS(pick_cells, REAL, packs_fit(a->w) && packs_fit(a->y), groups, D, *a, groups);
    return OK;
}

static enum status take(struct ctx *c, int64_t n, int64_t bytes, void **out) {
    return arena_take(c->work, n * bytes, out);
}

static enum status backward(struct ctx *c, const struct embedding *a) {
    const int64_t T = a->dy.shape[0], D = a->dy.shape[1], V = a->dw.shape[0];
    struct picks p;
    void *room[5];
    TRY(take(c, T, sizeof(struct pick), &room[0]));
    TRY(take(c, T, sizeof(int32_t), &room[1]));
    TRY(take(c, T, sizeof(int32_t), &room[2]));
    TRY(take(c, V + 1, sizeof(int32_t), &room[3]));
    TRY(take(c, V + 1, sizeof(int32_t), &room[4]));
    p = {(struct pick *)room[0], (int32_t *)room[1], (int32_t *)room[2], (int32_t *)room[3], (int32_t *)room[4]};
    LAUNCH_CELLS(clear_counts, 1, V + 1, p, V + 1);
    LAUNCH_CELLS(count_ids, 1, T, *a, p);
    LAUNCH(place_ids, dim3((unsigned)ceil_div(V, SCAN_BLOCK)), SCAN_BLOCK, p, V);
    LAUNCH_CELLS(list_ids, 1, T, *a, p);
    LAUNCH_CELLS(rank_ids, 1, T, *a, p);
    const bool fit = packs_fit(a->dy) && packs_fit(a->dw) && D % PACK == 0;
    const int64_t strips = ceil_div(D, PARTS * WARP * (REAL == BF16 && fit ? ROW_PACK : 1));
    const int64_t warps = least(WARPS, strips), along = ceil_div(strips, warps);
    const int64_t blocks = most(1, 132 * 24 * 4 / (warps * along)); /* some rounds of what 132 multiprocessors hold */
    const dim3 grid((unsigned)least(T, blocks), (unsigned)along), block(WARP, (unsigned)warps);
    if (REAL == F32) LAUNCH((add_rows<float, 1>), grid, block, *a, p);
    else if (fit) LAUNCH((add_rows<bf16_bits, ROW_PACK>), grid, block, *a, p);
    else LAUNCH((add_rows<bf16_bits, 1>), grid, block, *a, p);
    return OK;
}

extern "C" enum status embedding_bwd_cuda(struct ctx *c, const struct embedding *a) {
    const int64_t T = a->dy.shape[0], D = a->dy.shape[1], V = a->dw.shape[0];
    CHECK_SHAPE(embedding, dy, REAL, T, D);
    CHECK_SHAPE(embedding, ids, I32, T);
    CHECK_SHAPE(embedding, dw, WIDE, V, D);
    if (T == 0 || D == 0) return OK;
    const int64_t mark = arena_mark(c->work);
    const enum status st = backward(c, a);
    arena_release(c->work, mark);
    return st;
}

extern "C" int64_t embedding_work_cuda(const struct ctx *, const struct embedding *a) {
    const int64_t T = a->ids.shape[0], V = a->dw.shape[0], each = sizeof(int32_t);
    return arena_round(T * (int64_t)sizeof(struct pick)) + 2 * arena_round(T * each) + 2 * arena_round((V + 1) * each);
}
