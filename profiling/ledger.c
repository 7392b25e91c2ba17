/* SPDX-License-Identifier: Apache-2.0 */
#include "profiling/ledger.h"
#include <inttypes.h>
#include <stdio.h>

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

/* What the kernel says can be used without swapping, in bytes; 0 when it does not say. */
static int64_t host_available(void) {
    FILE *f = fopen("/proc/meminfo", "r");
    if (!f) return 0;
    char line[128];
    long long kib = 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %lld kB", &kib) == 1) break;
    fclose(f);
    return kib * 1024;
}

enum status ledger_check_host(const struct ledger *l, int ranks) {
    const int64_t have = host_available(), need = ranks * ledger_total(l);
    FAIL_UNLESS(have == 0 || need <= have, ERR_OOM,
                "the plan needs %.1f MiB for %d rank%s and this machine has %.1f MiB free: make train.micro_batch, "
                "train.tokens_per_sequence, train.offload or the model smaller (--dry-run prints the plan)",
                mib(need), ranks, ranks == 1 ? "" : "s", mib(have));
    return OK;
}
