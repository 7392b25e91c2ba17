/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* A trace is JSON whose ranges nest on each thread, with what a GPU did beside them, and its sums. */
#define _GNU_SOURCE /* mkdtemp, gettid */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/file.h"
#include "base/json.h"
#include "profiling/prof.h"
#include "profiling/trace_inside.h"
#include "tests/check.h"

enum { ROUNDS = 500 };
static char path[PATH_BYTES];

static void *work(void *unused) {
    for (int i = 0; i < ROUNDS; i++) {
        prof_begin(PROF_LAYER, "outer");
        prof_begin(PROF_OP, "inner");
        prof_end();
        prof_end();
    }
    return unused;
}

static void add(enum trace_kind kind, const char *name, int device, int64_t from_us, int64_t to_us) {
    trace_add(&(struct trace_record){
        .kind = kind, .name = name, .device = device, .begin_ns = 1000 * from_us, .end_ns = 1000 * to_us, .bytes = 5});
}

static int64_t count(const json_t *events, const char *key, const char *value) {
    int64_t n = 0;
    size_t i;
    json_t *e;
    json_array_foreach(events, i, e) {
        const char *s = json_string_value(json_object_get(e, key));
        n += s && !strcmp(s, value);
    }
    return n;
}

/* Of one thread: no end without a begin, none left, and "inner" only in "outer". */
static void check_nesting(const json_t *events, json_int_t thread) {
    int depth = 0;
    size_t i;
    json_t *e;
    json_array_foreach(events, i, e) {
        const char *ph = json_string_value(json_object_get(e, "ph"));
        if (json_integer_value(json_object_get(e, "tid")) != thread || (*ph != 'B' && *ph != 'E')) continue;
        if (*ph == 'B')
            CHECK(!strcmp(json_string_value(json_object_get(e, "name")), depth ? "inner" : "outer"), "depth %d", depth);
        depth += *ph == 'B' ? 1 : -1;
        CHECK(depth >= 0 && depth <= 2, "event %zu: depth %d", i, depth);
    }
    CHECK(depth == 0, "%d ranges are open", depth);
}

static void test_trace(void) {
    pthread_t other;
    struct trace_sums s;
    json_t *root = NULL;
    prof_begin(PROF_STEP, "before");
    prof_end();
    MUST(trace_begin());
    CHECK(!pthread_create(&other, NULL, work, NULL), "no thread");
    work(NULL);
    pthread_join(other, NULL);
    add(TRACE_KERNEL, "_ZN3foo14forward_chunksILi128EEEvl", 1, 100, 200);
    add(TRACE_KERNEL, "ncclDevKernel_SendRecv", 1, 150, 300); /* 100 us of it alone */
    add(TRACE_KERNEL, "_ZL10time_steps9ssd_locall", 1, 400, 450);
    add(TRACE_PEER_COPY, NULL, 1, 500, 520);
    add(TRACE_HOST_COPY, NULL, 1, 510, 530); /* 10 us beside all else, and no work */
    add(TRACE_COPY, NULL, 1, 425, 455);      /* 5 us behind a kernel, which are work */
    add(TRACE_FILL, NULL, 0, 0, 10);
    MUST(trace_end(path, &s));
    CHECK(s.n_ranges == 8 * ROUNDS && s.n_device == 7 && s.n_lost == 0, "%lld ranges, %lld records, %lld lost",
          (long long)s.n_ranges, (long long)s.n_device, (long long)s.n_lost);
    CHECK(fabs(s.span_ms - 0.43) < 1e-9 && fabs(s.busy_ms - 0.285) < 1e-9 && fabs(s.exchange_ms - 0.13) < 1e-9,
          "span %g, busy %g, exchanges %g", s.span_ms, s.busy_ms, s.exchange_ms);
    MUST(json_read_file(path, &root));
    const json_t *events = json_object_get(root, "traceEvents");
    CHECK(count(events, "name", "outer") == 2 * ROUNDS && count(events, "cat", "op") == 2 * ROUNDS, "ranges");
    CHECK(count(events, "name", "before") == 0, "a range from before the trace");
    CHECK(count(events, "name", "forward_chunks") == 1 && count(events, "name", "copy between GPUs") == 1 &&
              count(events, "name", "copy to or from the host") == 1 && count(events, "name", "copy") == 1 &&
              count(events, "name", "time_steps") == 1 && count(events, "name", "GPU 1") == 0 &&
              count(events, "ph", "M") == 3,
          "records of GPUs");
    check_nesting(events, gettid());
    json_decref(root);
}

static void test_again(void) {
    struct trace_sums s;
    MUST(trace_begin());
    prof_begin(PROF_STEP, "second");
    prof_end();
    CHECK(trace_end("/nowhere/trace.json", &s) == ERR_IO && strstr(status_text(), "/nowhere/trace.json"), "%s",
          status_text());
    MUST(trace_begin());
    MUST(trace_end(path, &s));
    CHECK(s.n_ranges == 0 && s.n_device == 0 && !s.gpu, "a second trace holds something of the first");
}

int main(void) {
    char folder[] = "/tmp/baton_trace_XXXXXX";
    if (!mkdtemp(folder)) SKIP("no temporary folder can be made");
    MUST(path_print(path, "%s/trace.json", folder));
    test_trace();
    test_again();
    MUST(file_remove_tree(folder));
    return check_end();
}
