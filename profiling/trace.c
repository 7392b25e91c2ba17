/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/arena.h"
#include "profiling/trace_inside.h"

enum { RANGES_MAX = 1 << 19, RECORDS_MAX = 1 << 20, GPUS_MAX = 64 };

struct range {
    const char *category, *name; /* name NULL: an end */
    int64_t at_ns;
    int thread;
    atomic_bool whole; /* a thread may be late with it */
};
static struct {
    atomic_bool on;
    atomic_llong n_ranges;
    struct range *range;  /* taken once: a late thread may still write */
    pthread_mutex_t lock; /* of the records: CUPTI's threads bring them */
    struct trace_record *record;
    int64_t n_records, n_lost;
    bool gpu;
} trace = {.lock = PTHREAD_MUTEX_INITIALIZER};

int64_t trace_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void trace_range(const char *category, const char *name) {
    if (!atomic_load_explicit(&trace.on, memory_order_relaxed)) return;
    const long long i = atomic_fetch_add(&trace.n_ranges, 1);
    if (i >= RANGES_MAX) return;
    struct range *r = &trace.range[i];
    r->category = category, r->name = name, r->at_ns = trace_now_ns(), r->thread = gettid();
    atomic_store_explicit(&r->whole, true, memory_order_release);
}

void trace_add(const struct trace_record *r) {
    pthread_mutex_lock(&trace.lock);
    if (trace.record && trace.n_records < RECORDS_MAX && r->device >= 0 && r->device < GPUS_MAX)
        trace.record[trace.n_records++] = *r;
    else trace.n_lost++;
    pthread_mutex_unlock(&trace.lock);
}

static void release(void) {
    pthread_mutex_lock(&trace.lock);
    mem_free(trace.record);
    trace.record = NULL;
    pthread_mutex_unlock(&trace.lock);
}

enum status trace_begin(void) {
    enum status st = OK;
    void *mem = NULL;
    ASSERT(!trace.record);
    if (!trace.range) {
        TRY(mem_take(RANGES_MAX * (int64_t)sizeof *trace.range, &mem));
        trace.range = mem;
    }
    for (int64_t i = 0; i < RANGES_MAX; i++) atomic_store_explicit(&trace.range[i].whole, false, memory_order_relaxed);
    TRY(mem_take(RECORDS_MAX * (int64_t)sizeof *trace.record, &mem));
    trace.record = mem;
    trace.n_records = trace.n_lost = 0;
    atomic_store(&trace.n_ranges, 0);
    TRY_OUT(cupti_begin(&trace.gpu));
    atomic_store(&trace.on, true);
out:
    if (st != OK) release();
    return st;
}

/* ---- the file ---- */

/* The last name in what a C++ compiler makes of it: _ZN3foo3barILi2EEEv is bar. */
static int plain_name(const char *mangled, const char **out) {
    const char *at = mangled, *end = mangled + strlen(mangled);
    int n = (int)(end - at);
    *out = mangled;
    if (strncmp(at, "_Z", 2) != 0) return n;
    const bool nested = at[2] == 'N'; /* otherwise the types of arguments follow the one name */
    at += 2;
    while (at < end && (*at == 'N' || *at == 'L')) at++;
    while (at < end && isdigit((unsigned char)*at)) {
        char *name;
        const long length = strtol(at, &name, 10);
        if (length <= 0 || length > end - name) break;
        *out = name, n = (int)length;
        at = nested ? name + length : end;
    }
    return n;
}

static double us(int64_t ns) { return 1e-3 * (double)ns; }

static void print_record(FILE *f, const struct trace_record *r) {
    static const char *const names[] = {"kernel", "copy", "copy between GPUs", "copy to or from the host", "fill"};
    const char *name = names[r->kind];
    int n = (int)strlen(name);
    if (r->kind == TRACE_KERNEL && r->name) n = plain_name(r->name, &name);
    fprintf(f, ",\n{\"name\":\"%.*s\",\"cat\":\"gpu\",\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f", n,
            name, 1000000 + r->device, r->stream, us(r->begin_ns), us(r->end_ns - r->begin_ns));
    if (r->bytes > 0) fprintf(f, ",\"args\":{\"bytes\":%" PRId64 "}", r->bytes);
    fprintf(f, "}");
}

static void print_ranges(FILE *f, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const struct range *r = &trace.range[i];
        if (!atomic_load_explicit(&r->whole, memory_order_acquire)) continue;
        fprintf(f, ",\n{\"ph\":\"%s\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f", r->name ? "B" : "E", (int)getpid(), r->thread,
                us(r->at_ns));
        if (r->name) fprintf(f, ",\"cat\":\"%s\",\"name\":\"%s\"", r->category, r->name);
        fprintf(f, "}");
    }
}

static enum status print_file(const char *path, int64_t n_ranges) {
    bool seen[GPUS_MAX] = {false};
    FILE *f = fopen(path, "w");
    FAIL_UNLESS(f, ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
    fprintf(f, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
    fprintf(f, "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"args\":{\"name\":\"baton\"}}", (int)getpid());
    for (int64_t i = 0; i < trace.n_records; i++) seen[trace.record[i].device] = true;
    for (int d = 0; d < GPUS_MAX; d++)
        if (seen[d])
            fprintf(f, ",\n{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"args\":{\"name\":\"GPU %d\"}}",
                    1000000 + d, d);
    print_ranges(f, n_ranges);
    for (int64_t i = 0; i < trace.n_records; i++) print_record(f, &trace.record[i]);
    fprintf(f, "\n]}\n");
    const bool failed = ferror(f) != 0;
    FAIL_UNLESS(fclose(f) == 0 && !failed, ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
    return OK;
}

/* ---- sums ---- */

static int by_begin(const void *a, const void *b) {
    const struct trace_record *x = a, *y = b;
    if (x->device != y->device) return x->device < y->device ? -1 : 1;
    return (x->begin_ns > y->begin_ns) - (x->begin_ns < y->begin_ns);
}

static bool exchanges(const struct trace_record *r) {
    return r->kind == TRACE_PEER_COPY || r->kind == TRACE_HOST_COPY ||
           (r->kind == TRACE_KERNEL && r->name && strstr(r->name, "nccl"));
}

/* Length of the union of the records' times; they are sorted. */
static int64_t covered(const struct trace_record *r, int64_t n, bool with_exchanges) {
    int64_t sum = 0, end = INT64_MIN;
    for (int64_t i = 0; i < n; i++) {
        if (!with_exchanges && exchanges(&r[i])) continue;
        const int64_t from = r[i].begin_ns > end ? r[i].begin_ns : end;
        if (r[i].end_ns > from) sum += r[i].end_ns - from, end = r[i].end_ns;
    }
    return sum;
}

static void sum_up(struct trace_sums *out) {
    qsort(trace.record, (size_t)trace.n_records, sizeof *trace.record, by_begin);
    for (int64_t i = 0, n; i < trace.n_records; i += n) {
        const struct trace_record *r = &trace.record[i];
        int64_t last = r->end_ns;
        for (n = 0; i + n < trace.n_records && r[n].device == r->device; n++)
            last = r[n].end_ns > last ? r[n].end_ns : last;
        const int64_t busy = covered(r, n, true);
        if (1e-6 * (double)busy <= out->busy_ms) continue;
        out->busy_ms = 1e-6 * (double)busy;
        out->span_ms = 1e-6 * (double)(last - r->begin_ns);
        out->exchange_ms = 1e-6 * (double)(busy - covered(r, n, false));
    }
}

enum status trace_end(const char *path, struct trace_sums *out) {
    *out = (struct trace_sums){0};
    atomic_store(&trace.on, false);
    enum status st = trace.gpu ? cupti_end() : OK;
    const int64_t n = atomic_load(&trace.n_ranges), kept = n < RANGES_MAX ? n : RANGES_MAX;
    sum_up(out);
    out->n_ranges = kept, out->n_device = trace.n_records, out->n_lost = trace.n_lost + n - kept;
    out->gpu = trace.gpu && trace.n_records > 0;
    if (st == OK) st = print_file(path, kept);
    release();
    return st;
}
