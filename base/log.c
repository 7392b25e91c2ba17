/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static atomic_int silent;

void log_quiet(int quiet) { atomic_store(&silent, quiet); }

static void put(FILE *to, const char *head, const char *fmt, va_list ap) {
    char line[4096];
    int n = snprintf(line, sizeof line, "%s", head);
    n += vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    if (n > (int)sizeof line - 2) n = (int)sizeof line - 2;
    line[n++] = '\n';
    fwrite(line, 1, (size_t)n, to);
    fflush(to);
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
