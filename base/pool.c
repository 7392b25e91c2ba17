/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "base/pool.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include "base/arena.h"

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    int n_threads, n_started, n_busy;
    int64_t round; /* counts pool_run calls: a thread works once a round */
    bool stop;
    _Atomic int64_t next;
    int64_t n_items;
    void (*fn)(void *, int64_t, int);
    void *arg;
    pthread_t thread[];
};

struct worker {
    struct pool *p;
    int index;
};

static void work_off(struct pool *p, int worker) {
    for (int64_t i; (i = atomic_fetch_add(&p->next, 1)) < p->n_items;) p->fn(p->arg, i, worker);
}

static void *worker_main(void *arg) {
    struct pool *p = arg;
    pthread_mutex_lock(&p->lock);
    const int self = ++p->n_started;
    pthread_cond_broadcast(&p->done);
    for (int64_t seen = 0;;) {
        while (p->round == seen && !p->stop) pthread_cond_wait(&p->work, &p->lock);
        if (p->stop) break;
        seen = p->round;
        pthread_mutex_unlock(&p->lock);
        work_off(p, self);
        pthread_mutex_lock(&p->lock);
        if (--p->n_busy == 0) pthread_cond_broadcast(&p->done);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

enum status pool_init(struct pool **out, int n_threads) {
    *out = NULL;
    if (n_threads < 1) n_threads = 1;
    void *mem = NULL;
    TRY(mem_take((int64_t)sizeof(struct pool) + n_threads * (int64_t)sizeof(pthread_t), &mem));
    struct pool *p = mem;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    p->n_threads = 1;
    for (int i = 1; i < n_threads; i++) {
        if (pthread_create(&p->thread[i], NULL, worker_main, p) != 0) {
            pool_term(p);
            FAIL(ERR_OOM, "cannot start thread %d of %d: raise the limit on processes (ulimit -u)", i, n_threads);
        }
        p->n_threads++;
    }
    pthread_mutex_lock(&p->lock);
    while (p->n_started < p->n_threads - 1) pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
    *out = p;
    return OK;
}

void pool_term(struct pool *p) {
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 1; i < p->n_threads; i++) pthread_join(p->thread[i], NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->done);
    mem_free(p);
}

int pool_size(const struct pool *p) { return p ? p->n_threads : 1; }

static int cgroup_quota(void) {
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (!f) return 1 << 20;
    long long quota = 0, period = 0;
    const int n = fscanf(f, "%lld %lld", &quota, &period);
    fclose(f);
    return n == 2 && period > 0 ? (int)((quota + period - 1) / period) : 1 << 20;
}

int pool_cores(void) {
    cpu_set_t set;
    const int quota = cgroup_quota();
    const int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < quota ? n : quota < 1 ? 1 : quota;
}

void pool_run(struct pool *p, int64_t n_items, void (*fn)(void *, int64_t, int), void *arg) {
    if (!p || p->n_threads == 1 || n_items <= 1) {
        for (int64_t i = 0; i < n_items; i++) fn(arg, i, 0);
        return;
    }
    pthread_mutex_lock(&p->lock);
    ASSERT(p->n_busy == 0);
    p->fn = fn;
    p->arg = arg;
    p->n_items = n_items;
    atomic_store(&p->next, 0);
    p->n_busy = p->n_threads - 1;
    p->round++;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    work_off(p, 0);
    pthread_mutex_lock(&p->lock);
    while (p->n_busy > 0) pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}
