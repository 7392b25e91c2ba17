/* SPDX-License-Identifier: Apache-2.0 */
/* labels: gpu1 */
/* timeout: 480 */
/* comm_device.c - communicators over memory of GPUs: all cases that host memory passes, exchanges that overlap, faults.
 *   - comm_device: several ranks on one GPU; on all GPUs of the host too, by copies and by NCCL, where it has two
 *   - comm_device one-card: NCCL with several ranks on one GPU, which wants a library that allows it
 *   - comm_device time: what a hand-off takes
 *   - comm_device_fake: the same program over fake_gpu/, which needs no GPU */
#define _POSIX_C_SOURCE 200809L
#include "tests/check.h"
#include <signal.h>
#include <unistd.h>
#ifdef BATON_CUDA
#include "profiling/prof.h"
#include "tests/device_ranks.h"
#ifdef BATON_FAKE_GPU
#include "tests/fake_gpu/fake_gpu.h"
#endif

struct run {
    int n_ranks;
    enum device_way way;
    double deadline_s;
    const struct fault *faults;
    int n_faults;
};

static int finish(void) {
    device_ranks_free();
    return check_end();
}

static enum status run(const struct run *how, world_fn *fn, void *arg) {
    struct world *w = NULL;
    MUST(world_open(&w, &(struct world_spec){.n_ranks = how->n_ranks,
                                             .deadline_s = how->deadline_s,
                                             .device_way = how->way,
                                             .faults = how->faults,
                                             .n_faults = how->n_faults,
                                             .hard_exit = _exit}));
    const enum status st = world_run(w, fn, arg);
    world_close(w);
    return st;
}

/* ---- the cases of all worlds ---- */

struct cases {
    const char *why;
    int64_t n;
    bool few;
};

static enum status all_cases(struct rank *r, void *arg) {
    const struct cases *cases = arg;
    const struct comm_limits limits = {.device = &mine_of(r)->device};
    const struct case_memory memory = {.limits = &limits,
                                       .take = device_take,
                                       .give_all = device_give_all,
                                       .push = device_push,
                                       .pull = device_pull,
                                       .spoil = device_spoil,
                                       .few = cases->few};
    device_rank_open(r);
    const enum status st = comm_groups_in(r, cases->why, cases->n, &memory);
    device_rank_close(r);
    return st;
}

static void test_cases(int n_ranks, enum device_way way, bool few, bool large) {
    struct cases cases[] = {
        {"nothing", 0, few}, {"one", 1, few}, {"uneven", 1003, few}, {"large", (1 << 20) + 3, true}};
    for (int i = 0; i < (large ? 4 : 3); i++)
        MUST(run(&(struct run){.n_ranks = n_ranks, .way = way, .deadline_s = 100}, all_cases, &cases[i]));
}

/* ---- exchanges that overlap, and nobody waits ---- */

enum { SLOTS = 5, CELLS = 3000 };

/* Each round all ranks send their cells to the next one, which adds them to its own; what was sent is overwritten as
 * soon as the end says so, and ends come in another order than begins.  The host looks at nothing before the last. */
static enum status relay(struct comm *c, void *arg) {
    const int rounds = *(const int *)arg, to = (c->index + 1) % c->size, from = (c->index + c->size - 1) % c->size;
    struct rank *r = comm_rank(c);
    struct device_rank *d = mine_of(r);
    const int64_t bytes = CELLS * 8;
    double *own[SLOTS], *out[SLOTS], *in[SLOTS], host[CELLS];
    for (int s = 0; s < SLOTS; s++) {
        own[s] = device_take(r, bytes);
        out[s] = device_take(r, bytes);
        in[s] = device_take(r, bytes);
        for (int64_t k = 0; k < CELLS; k++) host[k] = word(c->index, s, k);
        device_push(r, own[s], host, bytes);
    }
    for (int i = 0; i < rounds; i++) {
        struct pending p[SLOTS] = {{0}};
        for (int s = 0; s < SLOTS; s++) {
            const struct transfer list[] = {{.peer = to, .send = out[s], .send_bytes = bytes},
                                            {.peer = from, .recv = in[s], .recv_bytes = bytes}};
            CUDA_MUST(cudaMemcpyAsync(out[s], own[s], (size_t)bytes, cudaMemcpyDeviceToDevice, d->stream));
            device_delay(r);
            TRY(comm_begin(c, COMM_CARRY, list, 2, &p[s]));
            device_delay(r);
        }
        for (int k = 0; k < SLOTS; k++) {
            const int s = (k * (c->index % 2 ? 2 : 3) + i) % SLOTS;
            TRY(comm_end(c, &p[s]));
            device_spoil(r, out[s], bytes);
            TRY(gpu_add(d->stream, F64, own[s], in[s], CELLS));
            device_spoil(r, in[s], bytes);
        }
    }
    for (int s = 0; s < SLOTS; s++) {
        TRY(device_pull(r, host, own[s], bytes));
        for (int64_t k = 0; k < CELLS; k++) {
            double want[DEVICE_RANKS], next[DEVICE_RANKS];
            for (int i = 0; i < c->size; i++) want[i] = word(i, s, k);
            for (int n = 0; n < rounds; n++) {
                for (int i = 0; i < c->size; i++) next[i] = want[i] + want[(i + c->size - 1) % c->size];
                memcpy(want, next, sizeof want);
            }
            CHECK(host[k] == want[c->index], "relay of %d, rank %d, slot %d, cell %lld: %g is not %g", c->size,
                  c->index, s, (long long)k, host[k], want[c->index]);
        }
    }
    return barrier(c);
}

static enum status relay_all(struct rank *r, void *arg) { return over_all(r, SLOTS, relay, arg); }

static void test_overlap(int n_ranks, enum device_way way, int rounds) {
    MUST(run(&(struct run){.n_ranks = n_ranks, .way = way, .deadline_s = 100}, relay_all, &rounds));
}

/* ---- faults ---- */

/* A step: exchanges one after the other, looked at once, at its end.  NULL: nobody misbehaves. */
static enum status step(struct comm *c, void *arg) {
    const char *how = arg;
    struct rank *r = comm_rank(c);
    const bool me = c->index == c->size - 1;
    double *cells = device_take(r, 8 * CELLS * DEVICE_RANKS), *room = device_take(r, 8 * CELLS * DEVICE_RANKS);
    device_spoil(r, cells, 8 * CELLS * DEVICE_RANKS);
    for (int i = 0; i < 6; i++) {
        struct pending p = {0};
        if (me && i == 3 && how && !strcmp(how, "fails")) FAIL(ERR_DATA, "books/valid.bin: 3 bytes are missing");
        if (me && i == 3 && how && !strcmp(how, "ends")) return OK;
        if (me && i == 3 && how && !strcmp(how, "kill")) raise(SIGKILL);
        TRY(all_gather_even_begin(c, COMM_KEYS, cells + c->index * CELLS, 8 * CELLS, cells, &p));
        TRY(comm_end(c, &p));
        struct reduction sum = {
            .use = COMM_GRADS, .dtype = F64, .in = cells, .out = cells, .n = CELLS, .scratch = room};
        TRY(all_reduce_begin(c, &sum));
        TRY(all_reduce_end(c, &sum));
    }
    return comm_wait_stream(r, mine_of(r)->stream);
}

static enum status step_all(struct rank *r, void *arg) { return over_all(r, 0, step, arg); }

static void expect_failure(const char *why, const struct run *how, const char *mistake, enum status want,
                           enum status or_want, const char *says, const char *or_says) {
    const double begun = prof_seconds();
    const enum status st = run(how, step_all, (void *)(uintptr_t)mistake);
    const double took = prof_seconds() - begun;
    CHECK(st == want || st == or_want, "%s over %s, message %lld: %s: %s", why,
          how->way == DEVICE_WAY_NCCL ? "nccl" : "copies", how->n_faults ? (long long)how->faults->k : 0,
          status_name(st), status_text());
    CHECK(strstr(status_text(), says) || strstr(status_text(), or_says), "%s: '%s' says neither '%s' nor '%s'", why,
          status_text(), says, or_says);
    CHECK(took < 4 * how->deadline_s + 20, "%s: took %g s", why, took);
}

/* A deadline that a rank which is there keeps, also under the sanitizers, which open a world in half a second. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SILENT_S 3.0
#else
#define SILENT_S 0.5
#endif

/* quick: worlds are dear. */
static void test_faults(int n_ranks, enum device_way way, bool quick) {
    const int last = n_ranks - 1;
    char fails[80], other[80];
    snprintf(fails, sizeof fails, "rank %d of %d, phase test 7", last, n_ranks);
    snprintf(other, sizeof other, "rank %d", last);
    MUST(run(&(struct run){.n_ranks = n_ranks, .way = way, .deadline_s = 60}, step_all, NULL));
    expect_failure("a rank fails", &(struct run){.n_ranks = n_ranks, .way = way, .deadline_s = 60}, "fails", ERR_DATA,
                   ERR_DATA, fails, "nothing else");
    expect_failure("a rank ends early", &(struct run){.n_ranks = n_ranks, .way = way, .deadline_s = 2}, "ends",
                   ERR_COMM, ERR_TIMEOUT, "has ended without it", other);
    for (int64_t k = quick ? 6 : 2; k < 12; k += quick ? 12 : 4) {
        struct fault f = {.rank = last, .k = k, .ms = 1};
        struct run how = {.n_ranks = n_ranks, .way = way, .deadline_s = 60, .faults = &f, .n_faults = 1};
        f.kind = FAULT_LATE;
        MUST(run(&how, step_all, NULL));
        f.kind = FAULT_ERROR;
        expect_failure("an exchange fails", &how, NULL, ERR_IO, ERR_IO, "injected fault", "nothing else");
        how.deadline_s = SILENT_S;
        f.kind = FAULT_STOP;
        expect_failure("a rank hangs", &how, NULL, ERR_TIMEOUT, ERR_COMM, other, "went silent");
        f.kind = FAULT_LOST;
        expect_failure("a message is lost", &how, NULL, ERR_TIMEOUT, ERR_COMM, "lost", other);
    }
}

#ifdef BATON_FAKE_GPU
/* ---- without a GPU ---- */

static void test_refusals(void) {
    static const struct {
        const char *why, *says;
        enum device_way way;
        int n_devices, version;
    } rows[] = {
        {"too old", "NCCL 2.18.5 is too old: 2.19.0 or newer is needed", DEVICE_WAY_AUTO, 2, 21805},
        {"older than the header", "NCCL 2.27.7 is loaded, and this program was built with the header of 2.28.9",
         DEVICE_WAY_NCCL, 1, 22707},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fake_nccl_version(rows[i].version);
        device_plan.n_devices = rows[i].n_devices;
        const enum status st = run(&(struct run){.n_ranks = 2, .way = rows[i].way, .deadline_s = 60}, step_all, NULL);
        CHECK(st == ERR_CONFIG && strstr(status_text(), rows[i].says), "%s: %s: %s", rows[i].why, status_name(st),
              status_text());
    }
    fake_nccl_version(22809);
}

static enum status name_of(struct comm *c, void *arg) {
    CHECK(!strcmp(comm_transport(c), arg), "%s, not %s", comm_transport(c), (const char *)arg);
    return OK;
}
static enum status name_all(struct rank *r, void *arg) { return over_all(r, 0, name_of, arg); }

static void test_choice(void) {
    static char copies[] = "copies", nccl[] = "nccl";
    for (device_plan.n_devices = 1; device_plan.n_devices <= 4; device_plan.n_devices++)
        MUST(run(&(struct run){.n_ranks = 4, .deadline_s = 60}, name_all, device_plan.n_devices < 4 ? copies : nccl));
    device_plan.n_devices = 2;
    MUST(run(&(struct run){.n_ranks = 2, .way = DEVICE_WAY_COPIES, .deadline_s = 60}, name_all, copies));
    fake_nccl_break(1);
    expect_failure("the network", &(struct run){.n_ranks = 2, .way = DEVICE_WAY_NCCL, .deadline_s = 60}, NULL, ERR_COMM,
                   ERR_COMM, "rank 1 of 2, phase test 7", "remote process exited");
    fake_nccl_break(-1);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { LIVES = 1, FAULTY_RANKS = 3, QUICK = true }; /* a sanitizer takes its time, and sees the same code */
#else
enum { LIVES = 3, FAULTY_RANKS = 4, QUICK = false };
#endif

static void one_life(uint64_t seed, enum fake_pace pace) {
    static const int counts[] = {1, 2, 3, 4, 8};
    const int n = seed == 1 && !QUICK ? 5 : 4; /* eight ranks take long on two cores */
    fake_open(seed, 8, pace);
    device_plan.seed = seed;
    device_plan.delays = 300;
    for (int i = 0; i < n; i++) {
        device_plan.n_devices = 1 + (int)(seed % 3);
        test_cases(counts[i], DEVICE_WAY_COPIES, counts[i] == 8, false);
        if (counts[i] == 1) continue;
        test_overlap(counts[i], DEVICE_WAY_COPIES, 20);
        test_cases(counts[i], DEVICE_WAY_NCCL, true, false);
        test_overlap(counts[i], DEVICE_WAY_NCCL, 12);
    }
    device_ranks_free();
    fake_close();
}

int main(void) {
    for (uint64_t seed = 1; seed <= LIVES; seed++) one_life(seed, (enum fake_pace)(seed % 3));
    fake_open(99, 8, FAKE_EAGER);
    device_plan.delays = 0;
    test_choice();
    test_refusals();
    for (int n = 2; n <= FAULTY_RANKS; n++)
        for (int way = DEVICE_WAY_COPIES; way <= DEVICE_WAY_NCCL; way++) test_faults(n, (enum device_way)way, QUICK);
    const int failed = finish();
    fake_close();
    CHECK(fake_races() == 0, "%d accesses were in no order", fake_races());
    return failed | check_end();
}
#else
/* ---- time ---- */

static enum status hand_off(struct comm *c, void *arg) {
    enum { ROUNDS = 200 };
    const int64_t bytes = *(const int64_t *)arg;
    struct rank *r = comm_rank(c);
    char *a = device_take(r, bytes);
    const int other = 1 - c->index;
    double begun = 0;
    device_spoil(r, a, bytes);
    for (int i = -20; i < ROUNDS; i++) {
        if (i == 0) {
            TRY(comm_wait_stream(r, mine_of(r)->stream));
            TRY(barrier(c));
            begun = prof_seconds();
        }
        for (int back = 0; back < 2; back++) {
            struct pending p = {0};
            struct transfer t = {.peer = other};
            if (back == c->index) t.send = a, t.send_bytes = bytes;
            else t.recv = a, t.recv_bytes = bytes;
            TRY(comm_begin(c, COMM_CARRY, &t, 1, &p));
            TRY(comm_end(c, &p));
        }
    }
    TRY(comm_wait_stream(r, mine_of(r)->stream));
    const double us = (prof_seconds() - begun) / ROUNDS / 2 * 1e6;
    if (c->index == 0)
        printf("%-8s %2d GPUs: hand-off of %9lld bytes: %8.1f us, %6.1f GB/s\n", comm_transport(c),
               device_plan.n_devices, (long long)bytes, us, (double)bytes / us * 1e-3);
    return barrier(c);
}

static enum status hand_off_all(struct rank *r, void *arg) { return over_all(r, 0, hand_off, arg); }

static void time_all(int n_devices) {
    int64_t sizes[] = {4 << 10, 256 << 10, 4 << 20, 64 << 20};
    for (int way = DEVICE_WAY_COPIES; way <= (n_devices > 1 ? DEVICE_WAY_NCCL : DEVICE_WAY_COPIES); way++)
        for (device_plan.n_devices = 1; device_plan.n_devices <= (n_devices > 1 ? 2 : 1); device_plan.n_devices++)
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
                if (way == DEVICE_WAY_COPIES || device_plan.n_devices == 2)
                    MUST(run(&(struct run){.n_ranks = 2, .way = (enum device_way)way, .deadline_s = 60}, hand_off_all,
                             &sizes[i]));
}

/* ---- processes ---- */

static enum status process(struct rank *r, void *arg) {
    struct cases cases[] = {{"one", 1, true}, {"uneven", 1003, true}, {"large", (1 << 20) + 3, true}};
    int rounds = 40;
    if (*(const char *)arg) return step_all(r, arg);
    for (int i = 0; i < 3; i++) TRY(all_cases(r, &cases[i]));
    TRY(relay_all(r, &rounds));
    return step_all(r, NULL);
}

/* Exit codes as the program's: 4 where a rank was lost. */
static int run_process(const char *launcher, char *part) {
    struct world *w = NULL;
    MUST(world_open(&w, &(struct world_spec){.launcher = launcher,
                                             .deadline_s = *part ? 5 : 60,
                                             .device_way = DEVICE_WAY_NCCL,
                                             .hard_exit = _exit}));
    ASSERT(world_size(w) <= DEVICE_RANKS);
    const enum status st = world_run(w, process, part);
    if (st != OK && world_speaks(w)) fprintf(stderr, "failed: %s\n", status_text());
    world_close(w);
    return st == OK ? finish() : st == ERR_COMM || st == ERR_TIMEOUT ? 4 : 1;
}

int main(int argc, char **argv) {
    int n_devices = 0;
    static char none[] = "";
    char *part = argc > 1 ? argv[1] : none;
    /* A kernel that is loaded at its first launch waits for the GPU, where another rank's exchange may wait for it. */
    setenv("CUDA_MODULE_LOADING", "EAGER", 0);
    if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) SKIP("no GPU");
    device_plan.seed = 5;
    device_plan.delays = 200;
    device_plan.n_devices = n_devices;
    if (world_launcher(getenv)) return run_process(world_launcher(getenv), part);
    if (!strcmp(part, "time")) {
        time_all(n_devices);
        return finish();
    }
    const bool one_card = !strcmp(part, "one-card");
    const enum device_way way = one_card ? DEVICE_WAY_NCCL : DEVICE_WAY_COPIES;
    device_plan.n_devices = 1;
    for (int n = one_card ? 2 : 1; n <= DEVICE_RANKS; n *= 2) {
        test_cases(n, way, one_card, n == 2);
        if (n > 1) test_overlap(n, way, 40);
    }
    test_faults(2, way, one_card);
    test_faults(4, way, one_card);
    if (n_devices < 2 || one_card) return finish();
    device_plan.n_devices = n_devices < DEVICE_RANKS ? n_devices : DEVICE_RANKS;
    for (int over = DEVICE_WAY_COPIES; over <= DEVICE_WAY_NCCL; over++) {
        test_cases(device_plan.n_devices, (enum device_way)over, over == DEVICE_WAY_NCCL, true);
        test_overlap(device_plan.n_devices, (enum device_way)over, 40);
        test_faults(device_plan.n_devices, (enum device_way)over, over == DEVICE_WAY_NCCL);
    }
    return finish();
}
#endif
#else
int main(void) { SKIP("this build has no CUDA"); }
#endif
