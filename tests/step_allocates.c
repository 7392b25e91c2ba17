/* SPDX-License-Identifier: Apache-2.0 */
/* From the third step on nothing in the process asks for memory: step, validation, report, metrics and events.  This
 * program's allocators take the place of the C library's and count, those of libraries and threads included.
 *
 * OpenBLAS has a kernel for small products on processors with AVX-512 that asks for a buffer and gives it back within
 * the product: that is the library's own, so the program runs with its kernels for AVX2. */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>
#include "tests/small_run.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
int main(void) { SKIP("the allocators cannot be replaced here"); }
#else
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static atomic_long n_calls;

void *malloc(size_t n) {
    atomic_fetch_add(&n_calls, 1);
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size) {
    atomic_fetch_add(&n_calls, 1);
    return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n) {
    atomic_fetch_add(&n_calls, 1);
    return __libc_realloc(p, n);
}
void *aligned_alloc(size_t align, size_t n) {
    atomic_fetch_add(&n_calls, 1);
    return __libc_memalign(align, n);
}
int posix_memalign(void **out, size_t align, size_t n) {
    atomic_fetch_add(&n_calls, 1);
    *out = __libc_memalign(align, n);
    return *out ? 0 : ENOMEM;
}

static void one_step(struct trainer *t) {
    struct step_report r;
    MUST(train_step(t, &r));
    MUST(train_validate(t, &r.valid_loss));
    r.validated = true;
    MUST(report_step(t->report, &r));
    report_note(t->report, "step %d was counted", (int)r.step);
}

static void check_run(struct rank *rank, const char *folder, const char *precision) {
    struct trainer t;
    struct config c;
    small_run_open(&t, &c, rank, folder, 2, (const char *const[]){precision, "train.micro_batch=2"});
    const struct report_spec spec = {.run_dir = folder, .first_step = 1, .n_steps = 8, .tensorboard = true};
    MUST(report_open(&t.report, &spec));
    for (int step = 1; step <= 6; step++) {
        const long before = atomic_load(&n_calls);
        one_step(&t);
        const long calls = atomic_load(&n_calls) - before;
        CHECK(step <= 2 || calls == 0, "%s: step %d asked for memory %ld times", precision, step, calls);
    }
    MUST(report_close(t.report));
    t.report = NULL;
    trainer_close(&t);
    config_term(&c);
}

static enum status check_all(struct rank *rank, void *folder) {
    const long before = atomic_load(&n_calls);
    check_run(rank, folder, "train.precision=f64");
    check_run(rank, folder, "train.precision=f32");
    CHECK(atomic_load(&n_calls) - before > 20, "%ld calls were seen: the counting does not work", (long)n_calls);
    return OK;
}

int main(int argc, char **argv) {
    (void)argc;
    if (!getenv("OPENBLAS_CORETYPE")) { /* the library looks at it before main */
        setenv("OPENBLAS_CORETYPE", "Haswell", 1);
        execv("/proc/self/exe", argv);
        perror("/proc/self/exe");
        return 1;
    }
    if (!freopen("/dev/null", "w", stdout)) return 1;
    return small_run_main(check_all);
}
#endif
