/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "checkpoints/step_folders.h"
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/arena.h"

enum { HOST_BYTES = 65 };

/* Letters and digits of the host's name: it becomes part of a folder's. */
static void host_name(char out[HOST_BYTES]) {
    char name[HOST_BYTES] = "";
    int n = 0;
    gethostname(name, sizeof name - 1);
    for (const char *p = name; *p; p++)
        if (strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", *p)) out[n++] = *p;
    out[n] = '\0';
}

enum status step_print(char out[PATH_BYTES], const char *folder, int64_t step) {
    return path_print(out, "%s/step-%08" PRId64, folder, step);
}

enum status step_print_mark(char out[PATH_BYTES], const char *folder, int64_t step, const char *mark) {
    char host[HOST_BYTES];
    host_name(host);
    return path_print(out, "%s/step-%08" PRId64 ".%s-%d-%s", folder, step, mark, (int)getpid(), host);
}

static bool parse_number(const char *name, int64_t *step, const char **rest) {
    if (strncmp(name, "step-", 5) != 0) return false;
    const size_t digits = strspn(name + 5, "0123456789");
    if (digits < 8 || digits > 18) return false;
    *step = strtoll(name + 5, NULL, 10);
    *rest = name + 5 + digits;
    return true;
}

bool step_parse(const char *name, int64_t *step) {
    const char *rest;
    return parse_number(name, step, &rest) && *rest == '\0';
}

static int newest_first(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

static enum status add_step(struct step_list *l, int64_t step) {
    if (l->n == l->room) {
        const int64_t size = (int64_t)sizeof *l->step, room = l->room ? 2 * l->room : 64;
        void *p = l->step;
        TRY(mem_grow(&p, l->room * size, room * size));
        l->step = p;
        l->room = room;
    }
    l->step[l->n++] = step;
    return OK;
}

enum status step_list_read(struct step_list *l, const char *folder) {
    enum status st = OK;
    *l = (struct step_list){0};
    DIR *d = opendir(folder);
    if (!d && errno == ENOENT) return OK;
    FAIL_UNLESS(d, ERR_IO, "cannot open folder %s: %s", folder, strerror(errno));
    for (const struct dirent *e; st == OK && (e = readdir(d));) {
        int64_t step = 0;
        if (step_parse(e->d_name, &step)) st = add_step(l, step);
    }
    closedir(d);
    if (st != OK) step_list_term(l);
    else if (l->n > 1) qsort(l->step, (size_t)l->n, sizeof *l->step, newest_first);
    return st;
}

void step_list_term(struct step_list *l) {
    mem_free(l->step);
    *l = (struct step_list){0};
}

static bool is_leftover(const char *name, const char *host) {
    const char *rest;
    char *end;
    int64_t step = 0;
    if (!parse_number(name, &step, &rest)) return false;
    if (strncmp(rest, ".tmp-", 5) != 0 && strncmp(rest, ".old-", 5) != 0) return false;
    const long pid = strtol(rest + 5, &end, 10);
    if (end == rest + 5 || *end != '-' || pid <= 0) return false;
    if (strcmp(end + 1, host) != 0 || pid == (long)getpid()) return true;
    return kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

enum status step_leftovers(const char *folder, struct text *names) {
    char host[HOST_BYTES];
    enum status st = OK;
    host_name(host);
    DIR *d = opendir(folder);
    FAIL_UNLESS(d, ERR_IO, "cannot open folder %s: %s", folder, strerror(errno));
    for (const struct dirent *e; st == OK && (e = readdir(d));)
        if (is_leftover(e->d_name, host)) st = text_print(names, "%s\n", e->d_name);
    closedir(d);
    return st;
}
