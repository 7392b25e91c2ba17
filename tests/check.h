/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_CHECK_H
#define BATON_TESTS_CHECK_H
/* check.h - what a test program needs: silent when right; on failure both values, the index and the case, then exit 1.
 * A case that cannot run here (no ../shared) prints why and SKIP() ends the program with 77. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/status.h"

static int check_failures;

#define CHECK(cond, ...)                                                                                               \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s does not hold: ", __FILE__, __LINE__, #cond);                                   \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fputc('\n', stderr);                                                                                       \
            if (++check_failures >= 20) exit(1);                                                                       \
        }                                                                                                              \
    } while (0)
/* A call that must succeed. */
#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        enum status must_ = (call);                                                                                    \
        if (must_ != OK) {                                                                                             \
            fprintf(stderr, "%s:%d: %s: %s (%s at %s)\n", __FILE__, __LINE__, #call, status_text(),                    \
                    status_name(must_), status_trace());                                                               \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)
#define SKIP(...)                                                                                                      \
    do {                                                                                                               \
        printf("skipped: ");                                                                                           \
        printf(__VA_ARGS__);                                                                                           \
        putchar('\n');                                                                                                 \
        exit(77);                                                                                                      \
    } while (0)
/* The folder of shared test data, or NULL. */
static inline const char *check_shared(void) {
    const char *s = getenv("BATON_SHARED");
    return s && *s ? s : NULL;
}
static inline int check_end(void) { return check_failures ? 1 : 0; }

#endif
