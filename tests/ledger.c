/* SPDX-License-Identifier: Apache-2.0 */
/* What limits of control groups leave of a host's memory: the least of a group's and of those above it. */
#define _DEFAULT_SOURCE /* mkdtemp */
#include <unistd.h>
#include "profiling/ledger.h"
#include "tests/check.h"

static char root[] = "/tmp/baton_ledger_XXXXXX";

static void put(const char *group, const char *name, const char *text) {
    char path[PATH_BYTES];
    MUST(path_print(path, "%s%s", root, group));
    MUST(file_make_folders(path));
    MUST(path_print(path, "%s%s/memory.%s", root, group, name));
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0, "%s", path);
}
static void group_of(const char *group, const char *max, const char *current, const char *stat) {
    put(group, "max", max);
    put(group, "current", current);
    put(group, "stat", stat);
}
static void expect(const char *why, const char *group, int64_t want) {
    const int64_t got = ledger_group_room(root, group);
    CHECK(got == want, "%s: %lld, not %lld", why, (long long)got, (long long)want);
}

int main(void) {
    static const char few[] = "anon 70\nfile 40\nkernel 3\nshmem 10\nfile_mapped 7\n", none[] = "file 0\nshmem 0\n";
    if (!mkdtemp(root)) SKIP("no temporary folder can be made");
    expect("no files, as in another version", "/job/step", INT64_MAX);
    group_of("/job/step", "max\n", "100\n", few);
    expect("no limit", "/job/step", INT64_MAX);
    group_of("/job", "1000\n", "100\n", few);
    expect("the job's, but not what is kept of files", "/job/step", 1000 - 100 + 40 - 10);
    expect("of the group itself", "/job", 930);
    expect("a neighbour, which has none", "/jobs", INT64_MAX);
    group_of("/job/step", "500\n", "100\n", none);
    expect("the lesser one below", "/job/step", 400);
    group_of("", "300\n", "100\n", none);
    expect("the lesser one at the top", "/job/step", 200);
    expect("the top", "/", 200);
    group_of("/job", "90\n", "100\n", none);
    expect("nothing is left", "/job/step", 0);
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", root);
    CHECK(system(command) == 0, "%s", command);
    return check_end();
}
