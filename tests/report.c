/* SPDX-License-Identifier: Apache-2.0 */
/* What a run says of each step: the line, metrics.jsonl over continues, kills and full disks, and the terminal. */
#define _DEFAULT_SOURCE
#define _XOPEN_SOURCE 700
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "launch/progress.h"
#include "launch/report.h"
#include "tests/check.h"

static char folder[64];
static char metrics_path[PATH_BYTES];

/* Values whose shortest texts are long, so that a lost bit shows. */
static struct step_report made(int64_t step) {
    return (struct step_report){.step = step,
                                .loss = 8.0 * rng_uniform(1, 1, (uint64_t)step),
                                .grad_norm = rng_uniform(1, 2, (uint64_t)step),
                                .lr = 1e-3 / (double)step,
                                .tokens = 4096 * step,
                                .tokens_per_s = 1e4 / 3.0,
                                .flops_per_s = 1e10 / 7.0,
                                .mfu = NAN,
                                .step_ms = 0.1,
                                .bytes_peak = 1 << 28,
                                .validated = step % 4 == 0,
                                .valid_loss = rng_uniform(1, 3, (uint64_t)step)};
}

static struct report *opened(int64_t first_step, int64_t n_steps) {
    struct report *r = NULL;
    MUST(report_open(&r, &(struct report_spec){.run_dir = folder, .first_step = first_step, .n_steps = n_steps}));
    return r;
}

static void report_range(int64_t first, int64_t last) {
    struct report *r = opened(first, last);
    for (int64_t s = first; s <= last; s++) {
        const struct step_report one = made(s);
        MUST(report_step(r, &one));
    }
    MUST(report_close(r));
}

static void check_line(void) {
    static const struct {
        const char *why;
        struct step_report s;
        double eta_s;
        const char *line;
    } cases[] = {
        {"a usual step",
         {.step = 12,
          .loss = 2.34112,
          .grad_norm = 0.9123,
          .lr = 3e-4,
          .tokens_per_s = 12345,
          .flops_per_s = 1.214e9,
          .mfu = NAN,
          .bytes_peak = 312 << 20},
         271,
         "step 12/1000  loss 2.3411  grad 0.912  lr 3.00e-04  12.3k tok/s  1.21 GFLOP/s  312 MiB  ETA 4m31s"},
        {"validated, mfu known, memory in GiB",
         {.step = 1000,
          .loss = 1,
          .grad_norm = 1,
          .lr = 1,
          .tokens_per_s = 999.6,
          .flops_per_s = 4e14,
          .mfu = 0.41,
          .bytes_peak = (int64_t)80 << 30,
          .validated = true,
          .valid_loss = 1.5},
         0,
         "step 1000/1000  loss 1.0000  grad 1.00  lr 1.00e+00  1.00k tok/s  400 TFLOP/s  80.0 GiB  ETA 0s  mfu 41.0%  "
         "valid "
         "1.5000"},
        {"a skipped step, nothing known",
         {.step = 3,
          .loss = NAN,
          .grad_norm = INFINITY,
          .lr = 0,
          .tokens_per_s = NAN,
          .flops_per_s = NAN,
          .mfu = NAN,
          .skipped = true},
         NAN,
         "step 3/1000  loss nan  grad inf  lr 0.00e+00  ? tok/s  ? FLOP/s  SKIPPED"},
        {"hours",
         {.step = 3, .mfu = NAN},
         3600 * 5 + 61,
         "step 3/1000  loss 0.0000  grad 0.00  lr 0.00e+00  0.00 tok/s  0.00 FLOP/s  ETA 5h01m"},
        {"days",
         {.step = 3, .mfu = NAN},
         86400 * 3 + 3600 * 4,
         "step 3/1000  loss 0.0000  grad 0.00  lr 0.00e+00  0.00 tok/s  0.00 FLOP/s  ETA 3d04h"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[PROGRESS_BYTES];
        progress_print(line, &cases[i].s, 1000, cases[i].eta_s);
        CHECK(!strcmp(line, cases[i].line), "%s:\n  %s\nnot\n  %s", cases[i].why, line, cases[i].line);
    }
}

static bool same_bits(double a, double b) { return memcmp(&a, &b, sizeof a) == 0; }

/* metrics.jsonl holds steps first to last, each once and in order, and each with the values of made(). */
static void check_file(const char *why, int64_t first, int64_t last) {
    char *text = NULL;
    int64_t bytes = 0, step = first;
    MUST(file_read(metrics_path, 1 << 30, &text, &bytes));
    for (char *at = text, *end; at < text + bytes; at = end + 1, step++) {
        json_t *o = NULL;
        end = strchr(at, '\n');
        CHECK(end, "%s: the last line is torn: %s", why, at);
        if (!end) break;
        MUST(json_read_text(metrics_path, at, end - at, &o));
        const struct step_report want = made(step);
        CHECK(json_integer_value(json_object_get(o, "step")) == step, "%s: step %d, not %d", why,
              (int)json_integer_value(json_object_get(o, "step")), (int)step);
        const double loss = json_real_value(json_object_get(o, "loss")), lr = json_real_value(json_object_get(o, "lr"));
        CHECK(same_bits(loss, want.loss), "%s: step %d: loss %.17g, not %.17g", why, (int)step, loss, want.loss);
        CHECK(same_bits(lr, want.lr), "%s: step %d: lr %.17g, not %.17g", why, (int)step, lr, want.lr);
        CHECK((json_object_get(o, "valid_loss") != NULL) == want.validated, "%s: step %d: valid_loss", why, (int)step);
        json_decref(o);
    }
    CHECK(step == last + 1, "%s: ends with step %d, not %d", why, (int)step - 1, (int)last);
    file_free(text);
}

static void check_object(void) {
    static const char want[] =
        "{\"step\": 1, \"loss\": null, \"grad_norm\": null, \"lr\": 0.001, \"tokens\": 4096, \"tokens_per_s\": null, "
        "\"flops_per_s\": 1e+300, \"mfu\": null, \"step_ms\": 0.1, \"bytes_peak\": null, \"skipped\": true, "
        "\"valid_loss\": null}\n";
    struct report *r = opened(1, 1);
    char *text = NULL;
    int64_t bytes = 0;
    MUST(report_step(r, &(struct step_report){.step = 1,
                                              .loss = NAN,
                                              .grad_norm = INFINITY,
                                              .lr = 1e-3,
                                              .tokens = 4096,
                                              .tokens_per_s = -INFINITY,
                                              .flops_per_s = 1e300,
                                              .mfu = NAN,
                                              .step_ms = 0.1,
                                              .skipped = true,
                                              .validated = true,
                                              .valid_loss = NAN}));
    MUST(report_close(r));
    MUST(file_read(metrics_path, 1 << 20, &text, &bytes));
    CHECK(!strcmp(text, want), "%snot\n%s", text, want);
    file_free(text);
}

static void check_continues(void) {
    static const struct {
        const char *why, *tail; /* tail: put behind the 20 steps */
        int64_t first_step;
    } cases[] = {
        {"a continue at the end", "", 21},
        {"a continue from an older checkpoint", "", 11},
        {"from the start", "", 1},
        {"a torn last line", "{\"step\": 21, \"loss\": 1.", 21},
        {"a torn line that could be a whole number", "{\"step\": 2", 21},
        {"a whole object without its end of line", "{\"step\": 20}", 21},
        {"zeros where a power cut lost a block", NULL, 21},
        {"lines that are something else", "\n[]\n{}\n{\"step\": \"5\"}\nstep 3\n{\"step\": -4}\n", 21},
        {"a step again", "{\"step\": 20, \"loss\": 1}\n{\"step\": 3}\n", 21},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static const char zeros[512];
        char *text = NULL;
        int64_t bytes = 0;
        struct text all = {0};
        report_range(1, 20);
        MUST(file_read(metrics_path, 1 << 20, &text, &bytes));
        MUST(text_add(&all, text, bytes));
        MUST(cases[i].tail ? text_add(&all, cases[i].tail, (int64_t)strlen(cases[i].tail))
                           : text_add(&all, zeros, sizeof zeros));
        MUST(file_replace(metrics_path, all.s, all.n));
        report_range(cases[i].first_step, 30);
        check_file(cases[i].why, 1, 30);
        file_free(text);
        text_term(&all);
    }
}

/* A run that saves a checkpoint (here: its step in a file) every seven steps, until it is killed. */
static void run_until_killed(int64_t first_step) {
    char done[PATH_BYTES], step[24];
    MUST(path_print(done, "%s/done", folder));
    struct report *r = opened(first_step, INT64_MAX);
    for (int64_t s = first_step;; s++) {
        const struct step_report one = made(s);
        MUST(report_step(r, &one));
        if (s % 7 != 0) continue;
        MUST(report_sync(r));
        snprintf(step, sizeof step, "%" PRId64, s);
        MUST(file_replace(done, step, (int64_t)strlen(step)));
    }
}

static int64_t step_saved(void) {
    char path[PATH_BYTES], *text = NULL;
    int64_t bytes = 0;
    MUST(path_print(path, "%s/done", folder));
    if (!file_exists(path)) return 0;
    MUST(file_read(path, 64, &text, &bytes));
    const int64_t step = strtoll(text, NULL, 10);
    file_free(text);
    return step;
}

/* Kills at drawn moments, from within the opening (a long file takes a while to trim) to thousands of steps later. */
static void check_kills(void) {
    MUST(file_remove_tree(metrics_path));
    for (uint64_t i = 0; i < 60; i++) {
        const struct timespec life = {.tv_nsec = (long)(2e7 * pow(rng_uniform(7, 7, i), 2.0)) + 50000};
        const pid_t child = fork();
        if (child == 0) {
            if (!freopen("/dev/null", "w", stdout)) _exit(1);
            run_until_killed(step_saved() + 1);
        }
        nanosleep(&life, NULL);
        kill(child, SIGKILL);
        int how = 0;
        CHECK(waitpid(child, &how, 0) == child && WIFSIGNALED(how), "kill %d: the run ended by itself, %#x", (int)i,
              how);
    }
    const int64_t saved = step_saved();
    CHECK(saved > 0, "no run reached a checkpoint: the kills come too early to tell");
    report_range(saved + 1, saved + 3);
    check_file("after 60 kills", 1, saved + 3);
}

static void limit_files(rlim_t bytes) {
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0, "no limit of files is known");
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0, "files cannot be limited to %ld bytes", (long)bytes);
}

static int on_a_full_disk(int64_t bytes) {
    struct report *r = opened(21, 30);
    signal(SIGXFSZ, SIG_IGN);
    if (!freopen("/dev/null", "w", stderr)) return 2; /* the warning that is meant to come */
    limit_files((rlim_t)bytes + 10);
    for (int64_t step = 21; step <= 23; step++) {
        const struct step_report s = made(step);
        MUST(report_step(r, &s));
        const enum status st = report_sync(r);
        CHECK(st == ERR_IO && strstr(status_text(), metrics_path), "status %d: %s", st, status_text());
    }
    check_file("a full disk", 1, 20);
    limit_files(RLIM_INFINITY);
    const struct step_report last = made(24);
    MUST(report_step(r, &last));
    MUST(report_close(r));
    return check_end();
}

/* A file that may not grow (as on a full disk): the file ends with a whole line, a sync fails with a text, and what was
 * held is written once there is room. */
static void check_full_disk(void) {
    report_range(1, 20);
    int64_t bytes = 0;
    MUST(file_size(metrics_path, &bytes));
    const pid_t child = fork();
    if (child == 0) _exit(on_a_full_disk(bytes));
    int how = 0;
    CHECK(waitpid(child, &how, 0) == child && WIFEXITED(how) && WEXITSTATUS(how) == 0, "the child's status is %#x",
          how);
    check_file("a full disk that found room again", 1, 24);
}

static void check_no_memory(void) {
    for (int64_t k = 1;; k++) {
        struct report *r = NULL;
        mem_fail_at(k);
        const enum status st =
            report_open(&r, &(struct report_spec){.run_dir = folder, .first_step = 11, .n_steps = 20});
        mem_fail_at(0);
        CHECK(st == OK || (st == ERR_OOM && !r), "allocation %d: %s", (int)k, status_text());
        MUST(report_close(r));
        if (st == OK) {
            CHECK(k > 1, "report_open allocates nothing: this test tests nothing");
            break;
        }
    }
}

/* On a terminal most steps share one line: the first, the validated and the last ones stay. */
static void check_terminal(void) {
    char seen[16384];
    int64_t n = 0;
    int stay = 0, updates = 0;
    const int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) return; /* no terminals here */
    const int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    const pid_t child = fork();
    if (child == 0) {
        dup2(slave, STDOUT_FILENO);
        close(slave);
        close(master);
        report_range(1, 18); /* validated: 4, 8, 12, 16 */
        exit(check_end());
    }
    close(slave);
    for (ssize_t got; n < (int64_t)sizeof seen && (got = read(master, seen + n, sizeof seen - (size_t)n)) > 0;)
        n += got;
    close(master);
    waitpid(child, NULL, 0);
    for (int64_t i = 0; i < n; i++) {
        stay += seen[i] == '\n';
        updates += seen[i] == '\r' && i + 1 < n && seen[i + 1] == 's';
    }
    CHECK(stay == 6, "%d lines stay, not 6:\n%.*s", stay, (int)n, seen);
    CHECK(updates == 12, "%d updates, not 12:\n%.*s", updates, (int)n, seen);
}

static void check_memory(void) {
    enum { MORE = 64 << 20 };
    void *p = NULL;
    const int64_t before = report_bytes_peak();
    MUST(mem_take(MORE, &p));
    memset(p, 1, MORE);
    const int64_t after = report_bytes_peak();
    CHECK(before > 0 && after >= MORE && after < (int64_t)1 << 36, "peak %d, then %d", (int)before, (int)after);
    mem_free(p);
    /* Freed memory still counts; the kernel's page counts are batched by core, so to a few pages. */
    CHECK(report_bytes_peak() >= after - (1 << 20), "the peak sank from %d to %d", (int)after,
          (int)report_bytes_peak());
}

int main(void) {
    snprintf(folder, sizeof folder, "/tmp/baton-report-%ld", (long)getpid());
    MUST(file_make_folders(folder));
    MUST(path_print(metrics_path, "%s/metrics.jsonl", folder));
    check_line();
    check_terminal();
    if (!freopen("/dev/null", "w", stdout)) return 1;
    check_object();
    check_continues();
    check_kills();
    check_full_disk();
    check_no_memory();
    check_memory();
    MUST(file_remove_tree(folder));
    return check_end();
}
