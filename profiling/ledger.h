/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_PROFILING_LEDGER_H
#define BATON_PROFILING_LEDGER_H
/* ledger.h - the memory plan: what will be allocated and for what, printed and compared with what the machine has
 * before the first allocation. */
#include "base/file.h"

#define LEDGER_ROWS 24
struct ledger {
    int n;
    struct {
        const char *what;
        int64_t bytes;
    } row[LEDGER_ROWS];
};
void ledger_add(struct ledger *l, const char *what, int64_t bytes); /* rows of 0 bytes are left out */
int64_t ledger_total(const struct ledger *l);
/* ranks: of this host, which share its memory and each take as much.  The empty ledger prints nothing. */
enum status ledger_print(const struct ledger *l, const char *title, int ranks, struct text *out);
/* Bytes that a process may still take under the limits of its control group (version 2), a path that begins with /, and
 * of all above it up to the folder `root`; what is kept of files gives way.  INT64_MAX: no limit. */
int64_t ledger_group_room(const char *root, const char *group);
/* ERR_OOM when that is above what this host has free: says what is short. */
enum status ledger_check_host(const struct ledger *l, int ranks);
#endif
