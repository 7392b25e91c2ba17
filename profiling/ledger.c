/* SPDX-License-Identifier: Apache-2.0 */
#include "profiling/ledger.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ledger_add(struct ledger *l, const char *what, int64_t bytes) {
    ASSERT(l->n < LEDGER_ROWS && bytes >= 0);
    if (bytes == 0) return;
    l->row[l->n].what = what;
    l->row[l->n++].bytes = bytes;
}

int64_t ledger_total(const struct ledger *l) {
    int64_t sum = 0;
    for (int i = 0; i < l->n; i++) sum += l->row[i].bytes;
    return sum;
}

static double mib(int64_t bytes) { return (double)bytes / (1024.0 * 1024.0); }

enum status ledger_print(const struct ledger *l, const char *title, int ranks, struct text *out) {
    if (l->n == 0) return OK;
    TRY(text_print(out, "%s:\n", title));
    for (int i = 0; i < l->n; i++) TRY(text_print(out, "  %-34s %10.2f MiB\n", l->row[i].what, mib(l->row[i].bytes)));
    TRY(text_print(out, "  %-34s %10.2f MiB\n", "total", mib(ledger_total(l))));
    if (ranks == 1) return OK;
    return text_print(out, "  total of this host's %4d ranks     %10.2f MiB\n", ranks, mib(ranks * ledger_total(l)));
}

/* The number behind `key` at the head of a line; -1: there is none. */
static int64_t number_in(const char *path, const char *key) {
    FILE *f = fopen(path, "r");
    if (!f) return -1;
    char line[128], *end = NULL;
    int64_t n = -1;
    while (n < 0 && fgets(line, sizeof line, f)) {
        const char *at = line + strlen(key);
        if (strncmp(line, key, strlen(key)) != 0) continue;
        const long long found = strtoll(at, &end, 10);
        if (end != at) n = found;
    }
    fclose(f);
    return n;
}

#define CGROUP "/sys/fs/cgroup/memory."

/* What the kernel says can be used without swapping, in bytes, under a container's limit where there is one: what it
 * keeps of files gives way.  0: it does not say. */
static int64_t host_available(void) {
    const int64_t kib = number_in("/proc/meminfo", "MemAvailable:"), have = kib < 0 ? 0 : kib * 1024;
    const int64_t limit = number_in(CGROUP "max", ""), used = number_in(CGROUP "current", "");
    const int64_t files = number_in(CGROUP "stat", "file "), shared = number_in(CGROUP "stat", "shmem ");
    if (limit < 0 || used < 0 || files < 0 || shared < 0) return have;
    const int64_t left = limit - used + files - shared;
    return left < have ? (left > 1 ? left : 1) : have;
}

enum status ledger_check_host(const struct ledger *l, int ranks) {
    const int64_t have = host_available(), need = ranks * ledger_total(l);
    FAIL_UNLESS(have == 0 || need <= have, ERR_OOM,
                "the plan needs %.1f MiB for %d rank%s and this machine has %.1f MiB free: make train.micro_batch, "
                "train.tokens_per_sequence, train.offload or the model smaller (--dry-run prints the plan)",
                mib(need), ranks, ranks == 1 ? "" : "s", mib(have));
    return OK;
}
