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

/* Of one folder, its name and "/memory." at `path`; INT64_MAX: no limit. */
static int64_t folder_room(char path[PATH_BYTES]) {
    enum { MAX, CURRENT, FILES, SHARED, N };
    static const char *const name[N] = {"max", "current", "stat", "stat"}, *const key[N] = {"", "", "file ", "shmem "};
    const size_t n = strlen(path);
    int64_t has[N];
    for (int i = 0; i < N; i++) {
        snprintf(path + n, PATH_BYTES - n, "%s", name[i]);
        has[i] = number_in(path, key[i]);
        if (has[i] < 0) return INT64_MAX;
    }
    const int64_t left = has[MAX] - has[CURRENT] + has[FILES] - has[SHARED];
    return left > 0 ? left : 0;
}

int64_t ledger_group_room(const char *root, const char *group) {
    char folder[PATH_BYTES], path[PATH_BYTES];
    int64_t room = INT64_MAX;
    if (snprintf(folder, sizeof folder, "%s%s", root, group) >= PATH_BYTES) return room;
    for (char *end = folder + strlen(folder); end >= folder + strlen(root); *end = '\0') {
        if (snprintf(path, sizeof path, "%s/memory.", folder) < PATH_BYTES) {
            const int64_t own = folder_room(path);
            if (own < room) room = own;
        }
        while (end > folder && *--end != '/') continue;
    }
    return room;
}

/* What the kernel says can be used without swapping, in bytes, under the limits of the control groups that a batch
 * system or a container puts this process into; -1: it does not say. */
static int64_t host_available(void) {
    const int64_t kib = number_in("/proc/meminfo", "MemAvailable:"), have = kib < 0 ? INT64_MAX : kib * 1024;
    char line[PATH_BYTES] = "";
    int64_t room = INT64_MAX;
    FILE *f = fopen("/proc/self/cgroup", "r");
    while (f && room == INT64_MAX && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "0::/", 4) == 0) room = ledger_group_room("/sys/fs/cgroup", line + 3);
    }
    if (f) fclose(f);
    if (room < have) return room;
    return have < INT64_MAX ? have : -1;
}

enum status ledger_check_host(const struct ledger *l, int ranks) {
    const int64_t have = host_available(), need = ranks * ledger_total(l);
    FAIL_UNLESS(have < 0 || need <= have, ERR_OOM,
                "the plan needs %.1f MiB for %d rank%s and this machine has %.1f MiB free: make train.micro_batch, "
                "train.tokens_per_sequence, train.offload or the model smaller (--dry-run prints the plan)",
                mib(need), ranks, ranks == 1 ? "" : "s", mib(have));
    return OK;
}
