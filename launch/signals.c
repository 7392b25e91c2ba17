/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "launch/signals.h"
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

static const struct {
    int number;
    const char *name;
} watched[] = {{SIGTERM, "TERM"}, {SIGINT, "INT"}, {SIGUSR1, "USR1"}};
enum { N_WATCHED = sizeof watched / sizeof *watched };

/* A handler reaches nothing but globals, and only lock-free atomics are safe in one. */
static int flag;
static struct sigaction before[N_WATCHED];
static int n_installed;
_Static_assert(__atomic_always_lock_free(sizeof flag, 0), "the flag of a signal handler must be lock-free");

static void note(int number) {
    int none = 0;
    __atomic_compare_exchange_n(&flag, &none, number, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

enum status signals_init(void) {
    ASSERT(n_installed == 0);
    __atomic_store_n(&flag, 0, __ATOMIC_RELAXED);
    struct sigaction act = {.sa_handler = note, .sa_flags = SA_RESTART};
    sigemptyset(&act.sa_mask);
    for (int i = 0; i < N_WATCHED; i++) {
        if (sigaction(watched[i].number, &act, &before[i]) != 0) {
            const int why = errno;
            signals_term();
            FAIL(ERR_IO, "cannot install a handler for signal %s: %s", watched[i].name, strerror(why));
        }
        n_installed++;
    }
    return OK;
}

void signals_term(void) {
    while (n_installed > 0) {
        n_installed--;
        ASSERT(sigaction(watched[n_installed].number, &before[n_installed], NULL) == 0);
    }
    __atomic_store_n(&flag, 0, __ATOMIC_RELAXED);
}

const int *signals_flag(void) { return &flag; }

const char *signals_name(int number) {
    for (int i = 0; i < N_WATCHED; i++)
        if (watched[i].number == number) return watched[i].name;
    return "none";
}
