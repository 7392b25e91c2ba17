/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_BASE_LOG_H
#define BATON_BASE_LOG_H
/* log.h - lines for people.  Notes go to stdout, warnings to stderr as "baton: warning: ..."; each is one write, so
 * that lines of several ranks do not mix.  Results that programs read (metrics) do not go through here. */

#ifdef __cplusplus
extern "C" {
#endif

void log_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Notes are silent on all ranks but one: quiet != 0 drops them; warnings always appear. */
void log_quiet(int quiet);

#ifdef __cplusplus
}
#endif
#endif
