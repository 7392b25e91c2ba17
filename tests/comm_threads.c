/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
#include "tests/comm_cases.h"
#include "base/rng.h"
#include "profiling/prof.h"

struct plan {
    const char *why;
    int64_t n;
};

static enum status groups(struct rank *r, void *arg) {
    const struct plan *plan = arg;
    return comm_groups(r, plan->why, plan->n);
}

static enum status run(int n_ranks, double deadline_s, const struct fault *faults, int n_faults, world_fn *fn, void *arg) {
    struct world *w = NULL;
    MUST(world_open(&w, &(struct world_spec){.n_ranks = n_ranks, .deadline_s = deadline_s, .faults = faults,
                                             .n_faults = n_faults}));
    const enum status st = world_run(w, fn, arg);
    world_close(w);
    return st;
}

static const int sizes[] = {1, 2, 3, 4, 8};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static void test_cases(void) {
    struct plan plans[] = {{"nothing", 0}, {"one", 1}, {"uneven", 1003}};
    for (int i = 0; i < N_SIZES; i++)
        for (size_t k = 0; k < sizeof plans / sizeof *plans; k++) MUST(run(sizes[i], 60, NULL, 0, groups, &plans[k]));
    MUST(run(3, 60, NULL, 0, groups, &(struct plan){"large", (1 << 20) + 3}));
}

int main(void) {
    test_cases();
    return check_end();
}
