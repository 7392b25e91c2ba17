/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "base/log.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static atomic_int silent;

void log_quiet(int quiet) { atomic_store(&silent, quiet); }

/* Text that is longer than the buffer (a plan of many layers) is whole, if not one write. */
static void put(FILE *to, const char *head, const char *fmt, va_list ap) {
    char line[4096];
    va_list again;
    va_copy(again, ap);
    int n = snprintf(line, sizeof line, "%s", head);
    n += vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
    flockfile(to);
    if (n < (int)sizeof line) {
        line[n++] = '\n';
        fwrite(line, 1, (size_t)n, to);
    } else {
        fputs(head, to);
        vfprintf(to, fmt, again);
        fputc('\n', to);
    }
    fflush(to);
    funlockfile(to);
    va_end(again);
}

void log_note(const char *fmt, ...) {
    if (atomic_load(&silent)) return;
    va_list ap;
    va_start(ap, fmt);
    put(stdout, "", fmt, ap);
    va_end(ap);
}

void log_warn(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fflush(stdout);
    put(stderr, "baton: warning: ", fmt, ap);
    va_end(ap);
}
