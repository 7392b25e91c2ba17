/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DATA_SPLIT_PATTERN_H
#define BATON_DATA_SPLIT_PATTERN_H
/* split_pattern.h - a pattern written for Oniguruma (Ruby's syntax) as one that means the same to PCRE2. */
#include "base/file.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Unicode White_Space, as the inside of a class. */
#define WHITE_SPACE "\\x09-\\x0d\\x{85}\\p{Z}"
/* Appends to out.  ERR_DATA, naming the construct and where it is, for what PCRE2 would read otherwise. */
enum status split_pattern(const char *where, const char *pattern, int64_t bytes, struct text *out);

#ifdef __cplusplus
}
#endif
#endif
