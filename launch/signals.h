/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_SIGNALS_H
#define BATON_LAUNCH_SIGNALS_H
/* signals.h - TERM, INT and USR1 ask the run to save and stop.
 *
 * The handler stores the signal's number in one flag, if none is there yet, and does nothing else: a second signal,
 * also one that comes while the run is saving, changes nothing.  Interrupted system calls go on (SA_RESTART).  The flag
 * is what struct step's `stop` points to.  Process-wide: signals_init and signals_term come in pairs, on the main
 * thread. */
#include "base/status.h"

enum status signals_init(void);
void signals_term(void); /* the handlers that were there before; the flag is cleared */
/* 0, or the number of the first signal; read it atomically: a handler may write it at any time. */
const int *signals_flag(void);
const char *signals_name(int number);

#endif
