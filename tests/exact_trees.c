/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* Sums in a binary tree, over members of a communicator and over segments, against the definition: a node is its left
 * child plus its right one, a missing right one is left out.  And a tree over ranks that hold whole subtrees, or
 * nothing, has the bits of the tree over all leaves. */
#include <inttypes.h>
#include "base/rng.h"
#include "dist/collectives.h"
#include "kernels/embedding/embedding.h"
#include "kernels/exact.h"
#include "kernels/linear/linear.h"
#include "kernels/token_loss/token_loss.h"
#include "tests/check.h"

enum { MEMBERS_MAX = 9, NUMBERS_MAX = 5000, LEAVES_MAX = 50 };

/* Of many sizes, one in five a zero, of either sign: the order of additions shows in the last bits. */
static double draw(uint64_t seed, uint64_t stream, int64_t i) {
    const double u = rng_uniform(seed, stream, (uint64_t)i);
    if (u < 0.2) return u < 0.1 ? 0.0 : -0.0;
    return rng_normal(seed, stream + 1000, (uint64_t)i) * exp(20.0 * (u - 0.6));
}

/* Leaves [begin, end) of a node that would have `width`, a power of two. */
static double by_definition(const double *leaf, int64_t begin, int64_t end, int64_t width, enum dtype real) {
    if (width == 1) return leaf[begin];
    const double left = by_definition(leaf, begin, begin + width / 2 < end ? begin + width / 2 : end, width / 2, real);
    if (begin + width / 2 >= end) return left;
    const double right = by_definition(leaf, begin + width / 2, end, width / 2, real);
    return real == F32 ? (double)((float)left + (float)right) : left + right;
}

static double tree_of(const double *leaf, int64_t n, enum dtype real) {
    int64_t width = 1;
    while (width < n) width *= 2;
    return by_definition(leaf, 0, n, width, real);
}

/* ---- over members ---- */

struct sum_case {
    enum dtype real;
    int64_t n;
};

static void put(void *to, enum dtype real, int64_t i, double x) {
    if (real == F32) ((float *)to)[i] = (float)x;
    else ((double *)to)[i] = x;
}

static double get(const void *from, enum dtype real, int64_t i) {
    return real == F32 ? (double)((const float *)from)[i] : ((const double *)from)[i];
}

static double member_number(const struct sum_case *c, int member, int64_t i) {
    const double x = draw(5, (uint64_t)member, i);
    return c->real == F32 ? (double)(float)x : x;
}

static void check_sum(const struct comm *comm, const struct sum_case *c, const void *out, int64_t first, int64_t n,
                      const char *what) {
    for (int64_t i = 0; i < n; i++) {
        double leaf[MEMBERS_MAX] = {0};
        for (int k = 0; k < comm->size; k++) leaf[k] = member_number(c, k, first + i);
        const double want = tree_of(leaf, comm->size, c->real), got = get(out, c->real, i);
        CHECK(!memcmp(&want, &got, sizeof want), "%s of %" PRId64 " %s over %d: number %" PRId64 ": %.17g, not %.17g",
              what, c->n, dtype_name(c->real), comm->size, first + i, got, want);
    }
}

static enum status sum_both(struct comm *comm, const struct sum_case *c) {
    void *mem = NULL, *scratch = NULL;
    int64_t at[MEMBERS_MAX + 1] = {0};
    for (int i = 1; i <= comm->size; i++) at[i] = i == comm->size ? c->n : c->n * (i - 1) / comm->size; /* 0: empty */
    int64_t bytes = all_reduce_scratch(comm, c->real, c->n);
    const int64_t other = reduce_scatter_scratch(comm, c->real, at), mine = at[comm->index];
    if (other > bytes) bytes = other;
    MUST(mem_take(2 * c->n * 8, &mem));
    MUST(mem_take(bytes > 0 ? bytes : 1, &scratch));
    char *out = (char *)mem + c->n * 8;
    for (int64_t i = 0; i < c->n; i++) put(mem, c->real, i, member_number(c, comm->index, i));
    struct reduction r = {.use = COMM_GRADS, .dtype = c->real, .in = mem, .out = out, .n = c->n, .tree = true};
    r.scratch = scratch;
    TRY(all_reduce_begin(comm, &r));
    TRY(all_reduce_end(comm, &r));
    check_sum(comm, c, out, 0, c->n, "all_reduce");
    r.at = at;
    TRY(reduce_scatter_begin(comm, &r));
    TRY(reduce_scatter_end(comm, &r));
    check_sum(comm, c, out, mine, at[comm->index + 1] - mine, "reduce_scatter");
    mem_free(mem);
    mem_free(scratch);
    return OK;
}

static enum status sum_rank(struct rank *rank, void *arg) {
    const struct mesh_sizes sizes = {1, 1, rank_size(rank), 1, 1};
    struct mesh mesh;
    struct comm comm = {0};
    TRY(mesh_place(&mesh, &sizes, rank_size(rank), rank_index(rank)));
    TRY(comm_init(&comm, rank, &mesh, MESH_SEQ, NULL));
    const enum status st = sum_both(&comm, arg);
    comm_term(&comm);
    return st;
}

static void check_members(void) {
    static const int64_t n[] = {1, 7, 300, NUMBERS_MAX}; /* gathered whole, and in blocks */
    for (int members = 1; members <= MEMBERS_MAX; members++)
        for (size_t i = 0; i < sizeof n / sizeof *n; i++)
            for (int wide = 0; wide < 2; wide++) {
                struct sum_case c = {.real = wide ? F64 : F32, .n = n[i]};
                struct world *w = NULL;
                MUST(world_open(&w, &(struct world_spec){.n_ranks = members, .deadline_s = 60}));
                MUST(world_run(w, sum_rank, &c));
                world_close(w);
            }
}

/* ---- over segments ---- */

enum { T_MAX = LEAVES_MAX * 3, IN = 5, OUT = 4, WORDS = 6 };
struct data {
    double x[T_MAX * IN], dy[T_MAX * OUT], lse[T_MAX], picked[T_MAX];
    int32_t targets[T_MAX], ids[T_MAX];
};
/* What is summed over tokens. */
struct sums {
    double dw[OUT * IN], db[OUT], dembed[WORDS * OUT], loss;
};
enum { N_SUMS = sizeof(struct sums) / sizeof(double) };

static void fill_data(struct data *d) {
    for (int64_t i = 0; i < T_MAX * IN; i++) d->x[i] = draw(7, 1, i);
    for (int64_t i = 0; i < T_MAX * OUT; i++) d->dy[i] = draw(7, 2, i);
    for (int64_t i = 0; i < T_MAX; i++) {
        d->lse[i] = draw(7, 3, i);
        d->picked[i] = draw(7, 4, i);
        d->targets[i] = rng_uniform(7, 5, (uint64_t)i) < 0.3 ? -1 : 1;
        d->ids[i] = (int32_t)(rng_bits(7, 6, (uint64_t)i) % WORDS);
    }
}

static struct linear linear_args(const struct data *d, int64_t T, struct sums *s) {
    return (struct linear){.x = tensor_2d((void *)(uintptr_t)d->x, F64, T, IN),
                           .dy = tensor_2d((void *)(uintptr_t)d->dy, F64, T, OUT),
                           .dw = tensor_2d(s->dw, F64, OUT, IN),
                           .db = tensor_1d(s->db, F64, OUT)};
}

static struct embedding embedding_args(const struct data *d, int64_t T, struct sums *s) {
    return (struct embedding){.ids = tensor_1d((void *)(uintptr_t)d->ids, I32, T),
                              .dy = tensor_2d((void *)(uintptr_t)d->dy, F64, T, OUT),
                              .dw = tensor_2d(s->dembed, F64, WORDS, OUT)};
}

static struct token_loss loss_args(const struct data *d, int64_t begin, int64_t n, struct sums *s) {
    return (struct token_loss){.lse = tensor_1d((void *)(uintptr_t)(d->lse + begin), F64, n),
                               .picked = tensor_1d((void *)(uintptr_t)(d->picked + begin), F64, n),
                               .targets = tensor_1d((void *)(uintptr_t)(d->targets + begin), I32, n),
                               .total = tensor_1d(&s->loss, F64, 1)};
}

/* All sums over ranges [first, first + n), added to *out; exact: through the table over segments. */
static void sum_ranges(const struct data *d, const int64_t *range, int64_t first, int64_t n, bool exact,
                       struct sums *out) {
    struct data *own = NULL;
    struct arena work;
    struct exact e;
    void *mem = NULL;
    int64_t rows[LEAVES_MAX + 1] = {0};
    const int64_t begin = range[first], T = range[first + n] - begin;
    for (int64_t i = 0; i <= n; i++) rows[i] = range[first + i] - begin;
    MUST(mem_take(sizeof *own, &mem));
    own = mem;
    memcpy(own->x, d->x + begin * IN, (size_t)(T * IN) * sizeof(double));
    memcpy(own->dy, d->dy + begin * OUT, (size_t)(T * OUT) * sizeof(double));
    memcpy(own->ids, d->ids + begin, (size_t)T * sizeof *own->ids);
    exact_init(&e, &ops_ref64, rows, n);
    struct ctx c = {.ops = exact ? &e.table : &ops_ref64, .work = &work, .real = F64, .space = HOST, .exact = &e};
    const struct linear l = linear_args(own, T, out);
    const struct embedding em = embedding_args(own, T, out);
    const int64_t a = c.ops->linear_work(&c, &l), b = c.ops->embedding_work(&c, &em);
    MUST(arena_init(&work, "a test's workspace", a > b ? a : b));
    MUST(c.ops->linear_bwd(&c, &l));
    MUST(c.ops->embedding_bwd(&c, &em));
    double losses[LEAVES_MAX + 1];
    exact_place_losses(&e, losses, HOST);
    MUST(exact_begin(&c));
    for (int64_t i = 0; i < n; i++) {
        const struct token_loss loss = loss_args(d, range[first + i], rows[i + 1] - rows[i], out);
        MUST(c.ops->token_loss_fwd(&c, &loss));
    }
    arena_term(&work);
    mem_free(mem);
}

static void tree_of_sums(const struct sums *leaf, int64_t n, struct sums *out) {
    for (int64_t k = 0; k < N_SUMS; k++) {
        double column[LEAVES_MAX] = {0};
        for (int64_t i = 0; i < n; i++) column[i] = ((const double *)&leaf[i])[k];
        ((double *)out)[k] = tree_of(column, n, F64);
    }
}

static void check_same(const struct sums *got, const struct sums *want, int64_t n, int ranks, const char *what) {
    for (int64_t k = 0; k < N_SUMS; k++) {
        const double x = ((const double *)got)[k], y = ((const double *)want)[k];
        CHECK(!memcmp(&x, &y, sizeof x), "%" PRId64 " segments, %d ranks, %s: sum %" PRId64 ": %.17g, not %.17g", n,
              ranks, what, k, x, y);
    }
}

/* Rank r of P holds a subtree of 2^l leaves, or what is left of them. */
static void spread(const struct data *d, const int64_t *range, int64_t n, int ranks, struct sums *out) {
    struct sums part[16] = {0};
    int64_t subtree = 1;
    while (subtree * ranks < n) subtree *= 2;
    for (int r = 0; r < ranks; r++) {
        const int64_t first = r * subtree < n ? r * subtree : n, end = first + subtree < n ? first + subtree : n;
        sum_ranges(d, range, first, end - first, true, &part[r]);
    }
    tree_of_sums(part, ranks, out);
}

static void check_leaves(const struct data *d, int64_t n) {
    static struct sums leaf[LEAVES_MAX];
    struct sums want = {0}, root, whole = {0};
    int64_t range[LEAVES_MAX + 1];
    for (int64_t i = 0; i <= n; i++) range[i] = i < n ? 3 * i : 3 * n - 1; /* the last has two tokens */
    memset(leaf, 0, sizeof leaf);
    for (int64_t i = 0; i < n; i++) sum_ranges(d, range, i, 1, false, &leaf[i]);
    tree_of_sums(leaf, n, &root);
    for (int64_t k = 0; k < N_SUMS; k++) ((double *)&want)[k] += ((const double *)&root)[k];
    for (int ranks = 1; ranks <= 16; ranks *= 2) {
        struct sums got;
        spread(d, range, n, ranks, &got);
        check_same(&got, &want, n, ranks, "over segments");
    }
    sum_ranges(d, range, 0, n, false, &whole);
    double x_most = 0.0, dy_most = 0.0;
    for (int64_t i = 0; i < T_MAX * IN; i++) x_most = fmax(x_most, fabs(d->x[i]));
    for (int64_t i = 0; i < T_MAX * OUT; i++) dy_most = fmax(dy_most, fabs(d->dy[i]));
    for (int64_t k = 0; k < N_SUMS; k++) {
        const double x = ((const double *)&want)[k], y = ((const double *)&whole)[k];
        CHECK(fabs(x - y) <= 1e-12 * x_most * dy_most, "%" PRId64 " segments: sum %" PRId64 ": %.17g, in one go %.17g",
              n, k, x, y);
    }
}

int main(void) {
    static struct data d;
    check_members();
    fill_data(&d);
    for (int64_t n = 1; n <= LEAVES_MAX; n += n < 17 ? 1 : 11) check_leaves(&d, n);
    return check_end();
}
