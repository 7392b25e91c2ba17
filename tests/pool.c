/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* timeout: 60 */
#include "base/pool.h"
#include "base/arena.h"
#include "tests/check.h"

/* Each item is done once, by a worker with an index below the pool's size, and pool_run returns after the last. */

enum { MOST_ITEMS = 5000, MOST_THREADS = 8 };

struct work {
    int64_t done[MOST_ITEMS]; /* plain counters: a second visit, or one too late, is a race for the sanitizer */
    int64_t by[MOST_THREADS]; /* items done by each worker                                                    */
    double value[MOST_ITEMS];
    int n_threads;
};

static void one_item(void *arg, int64_t i, int worker) {
    struct work *w = arg;
    ASSERT(worker >= 0 && worker < w->n_threads);
    w->done[i]++;
    w->by[worker]++;
    double v = (double)i;
    for (int k = 0; k < 50; k++) v = sqrt(v + k);
    w->value[i] = v;
}

static const struct {
    const char *why;
    int n_threads;
    int64_t n_items, n_rounds;
} cases[] = {
    {"no thread of its own", 1, 100, 3},          {"nothing to do", 3, 0, 5},
    {"one item is done by the caller", 3, 1, 5},  {"fewer items than threads", 8, 3, 200},
    {"many rounds in a row", 2, 17, 2000},        {"many items", 4, MOST_ITEMS, 20},
    {"less than one thread means one", 0, 10, 1},
};

static void check_case(int n) {
    static struct work w;
    static double alone[MOST_ITEMS];
    struct pool *p = NULL;
    MUST(pool_init(&p, cases[n].n_threads));
    w = (struct work){.n_threads = pool_size(p)};
    CHECK(w.n_threads == (cases[n].n_threads > 1 ? cases[n].n_threads : 1), "%s: %d threads", cases[n].why,
          w.n_threads);
    pool_run(NULL, cases[n].n_items, one_item, &w);
    memcpy(alone, w.value, sizeof alone);
    w = (struct work){.n_threads = pool_size(p)};
    for (int64_t r = 0; r < cases[n].n_rounds; r++) pool_run(p, cases[n].n_items, one_item, &w);
    int64_t total = 0;
    for (int k = 0; k < MOST_THREADS; k++) total += w.by[k];
    CHECK(total == cases[n].n_items * cases[n].n_rounds, "%s: %lld items done", cases[n].why, (long long)total);
    for (int64_t i = 0; i < MOST_ITEMS; i++) {
        const int64_t wanted = i < cases[n].n_items ? cases[n].n_rounds : 0;
        CHECK(w.done[i] == wanted, "%s: item %lld done %lld times, expected %lld", cases[n].why, (long long)i,
              (long long)w.done[i], (long long)wanted);
        CHECK(w.value[i] == alone[i], "%s: item %lld", cases[n].why, (long long)i);
    }
    pool_term(p);
}

/* Without memory there is no pool, and nothing is left behind. */
static void check_no_memory(void) {
    struct pool *p = NULL;
    mem_fail_at(1);
    const enum status st = pool_init(&p, 4);
    mem_fail_at(0);
    CHECK(st == ERR_OOM && !p, "status %s", status_name(st));
    pool_term(p);
}

int main(void) {
    for (int n = 0; n < (int)(sizeof cases / sizeof *cases); n++) check_case(n);
    check_no_memory();
    CHECK(pool_cores() >= 1, "%d cores", pool_cores());
    return check_end();
}
