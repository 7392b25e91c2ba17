/* SPDX-License-Identifier: Apache-2.0 */
#include "base/status.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local char text[2048];
static _Thread_local char trace[1024];

static void add_frame(const char *file, int line) {
    const size_t used = strlen(trace);
    snprintf(trace + used, sizeof trace - used, "%s%s:%d", used ? " < " : "", file, line);
}

enum status status_fail(enum status st, const char *file, int line, const char *fmt, ...) {
    char made[sizeof text]; /* the arguments may point into the old record */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(made, sizeof made, fmt, ap);
    va_end(ap);
    memcpy(text, made, sizeof text);
    trace[0] = '\0';
    add_frame(file, line);
    return st;
}

enum status status_pass(enum status st, const char *file, int line) {
    add_frame(file, line);
    return st;
}

const char *status_text(void) { return text; }
const char *status_trace(void) { return trace; }

void status_clear(void) { text[0] = trace[0] = '\0'; }

const char *status_name(enum status st) {
    static const char *const names[] = {
        "ok",      "bad argument", "configuration", "bad data", "input/output", "out of memory",
        "missing", "cuda",         "communication", "timeout",  "stopped"};
    return (unsigned)st < sizeof names / sizeof *names ? names[st] : "unknown";
}

void status_assert(const char *cond, const char *file, int line) {
    fprintf(stderr, "baton: bug at %s:%d: %s does not hold; please report it\n", file, line, cond);
    abort();
}
