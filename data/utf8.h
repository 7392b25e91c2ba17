/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DATA_UTF8_H
#define BATON_DATA_UTF8_H
/* utf8.h - the encoding alone: no properties of characters (PCRE2 has those). */
#include "base/file.h"

#ifdef __cplusplus
extern "C" {
#endif

bool utf8_valid(const char *s, int64_t n);
/* Appends s; each maximal part of a character that is not well-formed becomes one U+FFFD, as the Unicode standard
 * recommends and as Rust and Python do. */
enum status utf8_repair(const char *s, int64_t n, struct text *out);
/* The character at s of a valid text with n >= 1 bytes left: its code point, and the bytes it takes. */
int utf8_next(const char *s, int64_t n, uint32_t *code);
int utf8_put(char out[4], uint32_t code); /* bytes */

#ifdef __cplusplus
}
#endif
#endif
