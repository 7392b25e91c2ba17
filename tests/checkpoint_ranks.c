/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* timeout: 300 */
/* A checkpoint written by several ranks, each its rows: it reads back whole on one rank; and where the k-th call to the
 * system fails on one of them, for every rank and every k, all ranks are told and what stood before still stands. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/arena.h"
#include "checkpoints/checkpoint.h"
#include "checkpoints/save_io.h"
#include "dist/collectives.h"
#include "tests/check.h"

enum { RANKS = 4, TENSORS = 8 };
static const struct {
    const char *why, *name;
    enum dtype dtype;
    int n_dims;
    int64_t shape[4];
    int cut; /* the dim that ranks cut; each has all rows of its band where it is not 0 */
} rows[TENSORS] = {
    {"rows for all", "param/matrix", F32, 2, {37, 91, 1, 1}, 0},
    {"the same, wider", "adamw.m/matrix", F64, 2, {37, 91, 1, 1}, 0},
    {"fewer rows than ranks", "param/few", F32, 1, {2, 1, 1, 1}, 0},
    {"no rows", "param/empty", F32, 2, {0, 5, 1, 1}, 0},
    {"a scalar", "param/scalar", F64, 0, {1, 1, 1, 1}, 0},
    {"columns for all", "param/columns", F32, 2, {7, 30, 1, 1}, 1},
    {"a stack cut in the middle", "param/middle", F64, 3, {3, 10, 5, 1}, 1},
    {"a stack cut along its columns", "param/last", F32, 3, {2, 3, 11, 1}, 2},
};

/* ---- a call that fails on one rank ---- */

static _Thread_local int64_t calls_left = -1; /* -1: none fails */
static _Thread_local bool reached;

static bool fails(void) {
    if (calls_left < 0 || calls_left-- > 0) return false;
    reached = true;
    errno = ENOSPC;
    return true;
}
static int io_open(const char *path, int flags, mode_t mode) { return fails() ? -1 : open(path, flags, mode); }
static ssize_t io_write(int fd, const void *data, size_t bytes) { return fails() ? -1 : write(fd, data, bytes); }
static int io_fsync(int fd) { return fails() ? -1 : fsync(fd); }
static int io_close(int fd) {
    const bool bad = fails();
    close(fd);
    return bad ? -1 : 0;
}
static int io_mkdir(const char *path, mode_t mode) { return fails() ? -1 : mkdir(path, mode); }
static int io_rename(const char *from, const char *to) { return fails() ? -1 : rename(from, to); }
static int io_unlink(const char *path) { return fails() ? -1 : unlink(path); }
static int io_rmdir(const char *path) { return fails() ? -1 : rmdir(path); }
static int64_t io_free_bytes(const char *folder) { return fails() ? -1 : save_io_posix.free_bytes(folder); }
static const struct save_io faulty = {io_open,   io_write,  io_fsync, io_close,     io_mkdir,
                                      io_rename, io_unlink, io_rmdir, io_free_bytes};

/* ---- a state as a function of the step ---- */

static unsigned char byte_of(int64_t step, int tensor, int64_t at) {
    return (unsigned char)((uint64_t)(step * 977 + tensor * 131 + at * 7919) * 0x9e3779b97f4a7c15u >> 56);
}

/* Where byte k of what is held stands in the whole tensor. */
static int64_t whole_byte(const struct state_tensor *t, int64_t k) {
    const int64_t size = dtype_bytes(t->t.dtype);
    int64_t at[4], whole = 0, rest = k / size;
    for (int d = 3; d >= 0; d--) at[d] = rest % t->t.shape[d], rest /= t->t.shape[d];
    at[0] += t->begin;
    if (t->cut_dim > 0) at[t->cut_dim] += t->cut_begin;
    for (int d = 0; d < 4; d++) whole = whole * t->global[d] + at[d];
    return whole * size + k % size;
}

struct state {
    struct state_tensor list[TENSORS];
    unsigned char data[TENSORS][64 << 10];
};

/* Rank r's rows of n; the first rank has all of them where all hold everything. */
static void state_init(struct state *s, int r, int n, bool everything) {
    memset(s, 0, sizeof *s);
    for (int i = 0; i < TENSORS; i++) {
        struct state_tensor *t = &s->list[i];
        int64_t at[RANKS + 1], shape[4];
        comm_split(n, rows[i].shape[rows[i].cut], at);
        snprintf(t->name, sizeof t->name, "%s", rows[i].name);
        t->n_dims = rows[i].n_dims;
        memcpy(t->global, rows[i].shape, sizeof t->global);
        memcpy(shape, rows[i].shape, sizeof shape);
        if (everything) t->elsewhere = r > 0;
        else shape[rows[i].cut] = at[r + 1] - at[r];
        if (!everything && rows[i].cut > 0) t->cut_dim = rows[i].cut, t->cut_begin = at[r];
        else if (!everything && shape[0] > 0) t->begin = at[r];
        t->t = tensor_4d(s->data[i], rows[i].dtype, shape);
    }
}

static void state_fill(struct state *s, int64_t step) {
    for (int i = 0; i < TENSORS; i++)
        for (int64_t k = 0; k < tensor_bytes(s->list[i].t); k++)
            s->data[i][k] = byte_of(step, i, whole_byte(&s->list[i], k));
}

static void state_check(const struct state *s, int64_t step, const char *why) {
    for (int i = 0; i < TENSORS; i++)
        for (int64_t k = 0; k < tensor_bytes(s->list[i].t); k++)
            if (s->data[i][k] != byte_of(step, i, whole_byte(&s->list[i], k))) {
                CHECK(false, "%s: step %" PRId64 ", %s (%s), byte %" PRId64, why, step, rows[i].name, rows[i].why, k);
                break;
            }
}

/* ---- saves ---- */

struct job {
    const char *run;
    int64_t step;
    bool everything;
    int bad_rank; /* -1: none; its k-th call from 0 fails */
    int64_t k;
    bool reached;
    enum status st[RANKS];
    char text[RANKS][1200];
};

static enum status save_rank_state(struct comm *c, struct job *j) {
    struct checkpoint_meta m = {
        .step = j->step, .tokens = j->step, .seed = 1, .identity_text = "a: 1\n", .config = "a: 1\n"};
    void *mem = NULL;
    memset(m.identity, 'a', 64);
    TRY(mem_take(sizeof(struct state), &mem));
    struct state *s = mem;
    state_init(s, c->index, c->size, j->everything);
    state_fill(s, j->step);
    reached = false;
    calls_left = c->index == j->bad_rank ? j->k : -1;
    j->st[c->index] = checkpoint_save_ranks(&faulty, c, j->run, &m, s->list, TENSORS, 1);
    snprintf(j->text[c->index], sizeof *j->text, "%s", j->st[c->index] == OK ? "" : status_text());
    status_clear();
    calls_left = -1;
    if (c->index == j->bad_rank) j->reached = reached;
    mem_free(s);
    return OK;
}

static enum status save_rank(struct rank *r, void *arg) {
    struct mesh mesh;
    struct comm c;
    TRY(mesh_place(&mesh, &(struct mesh_sizes){1, rank_size(r), 1, 1, 1}, rank_size(r), rank_index(r)));
    TRY(comm_init(&c, r, &mesh, MESH_TOKENS, NULL));
    const enum status st = save_rank_state(&c, arg);
    comm_term(&c);
    return st;
}

static int loud = -1, silent = -1; /* stderr, and nowhere: warnings are expected where calls fail */

static void save(struct job *j, int n_ranks) {
    struct world *w = NULL;
    MUST(world_open(&w, &(struct world_spec){.n_ranks = n_ranks, .deadline_s = 60}));
    if (j->bad_rank >= 0) dup2(silent, 2);
    const enum status st = world_run(w, save_rank, j);
    dup2(loud, 2);
    MUST(st);
    world_close(w);
}

/* The newest valid checkpoint is of that step; each of n ranks reads its rows of it. */
static void check_newest(const char *run, int64_t step, int n_ranks, const char *why) {
    static struct state s;
    char path[PATH_BYTES];
    struct text skipped = {0};
    struct checkpoint *c = NULL;
    MUST(checkpoint_find(run, path, &skipped));
    CHECK(skipped.n == 0, "%s: %s", why, skipped.s);
    text_term(&skipped);
    MUST(checkpoint_open(&c, path));
    CHECK(checkpoint_about(c)->step == step, "%s: step %" PRId64 " is the newest, not %" PRId64, why,
          checkpoint_about(c)->step, step);
    for (int r = 0; r < n_ranks; r++) {
        state_init(&s, r, n_ranks, false);
        MUST(checkpoint_read(c, s.list, TENSORS, true));
        state_check(&s, checkpoint_about(c)->step, why);
    }
    checkpoint_close(c);
}

static void check_round_trips(const char *run) {
    for (int n = 1; n <= RANKS; n++)
        for (int everything = 0; everything < 2; everything++) {
            struct job j = {.run = run, .step = 1, .everything = everything, .bad_rank = -1};
            char why[80];
            MUST(file_remove_tree(run));
            snprintf(why, sizeof why, "%d ranks%s", n, everything ? " that hold everything" : "");
            save(&j, n);
            for (int r = 0; r < n; r++) CHECK(j.st[r] == OK, "%s: rank %d: %s", why, r, j.text[r]);
            for (int readers = 1; readers <= RANKS; readers++) check_newest(run, 1, readers, why);
        }
}

/* Step 1 stands; step 2 is saved by three ranks, and one call of one rank fails. */
static void check_failures_of(const char *run, int bad_rank) {
    enum { N = 3 };
    bool more = true;
    int64_t n_failed = 0;
    for (int64_t k = 0; more; k++) {
        struct job first = {.run = run, .step = 1, .bad_rank = -1};
        struct job j = {.run = run, .step = 2, .bad_rank = bad_rank, .k = k};
        char why[80], name[32];
        MUST(file_remove_tree(run));
        snprintf(why, sizeof why, "call %" PRId64 " of rank %d fails", k, bad_rank);
        save(&first, N);
        save(&j, N);
        more = j.reached;
        for (int r = 1; r < N; r++)
            CHECK((j.st[r] == OK) == (j.st[0] == OK), "%s: rank 0 ends with %s, rank %d with %s", why,
                  status_name(j.st[0]), r, status_name(j.st[r]));
        CHECK(j.st[0] == OK || j.reached, "%s: %s", why, j.text[0]);
        check_newest(run, j.st[0] == OK ? 2 : 1, 1, why);
        if (j.st[0] == OK) continue;
        n_failed++;
        snprintf(name, sizeof name, "rank %d: ", bad_rank);
        for (int r = 0; r < N; r++)
            CHECK(r == bad_rank || !strncmp(j.text[r], name, strlen(name)), "%s: rank %d hears '%s'", why, r,
                  j.text[r]);
        j.bad_rank = -1;
        save(&j, N);
        CHECK(j.st[0] == OK, "%s: the next save fails: %s", why, j.text[0]);
        check_newest(run, 2, 1, why);
    }
    CHECK(n_failed >= 4, "rank %d: only %" PRId64 " calls matter", bad_rank, n_failed);
}

int main(void) {
    char dir[PATH_BYTES], run[PATH_BYTES + 8];
    loud = dup(2);
    silent = open("/dev/null", O_WRONLY);
    snprintf(dir, sizeof dir, "%s/checkpoint-ranks-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(dir)) SKIP("no folder can be made at %s", dir);
    snprintf(run, sizeof run, "%s/run", dir);
    check_round_trips(run);
    for (int r = 0; r < 3; r++) check_failures_of(run, r);
    MUST(file_remove_tree(dir));
    close(loud);
    close(silent);
    return check_end();
}
