/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_BASE_JSON_H
#define BATON_BASE_JSON_H
/* json.h - the one door to jansson.  Reading refuses duplicate keys, content after the value and nesting deeper than
 * jansson's bound; messages name the file and the line. */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* where: a name for messages.  ERR_DATA with line and cause; *out is released with json_decref. */
enum status json_read_text(const char *where, const char *text, int64_t bytes, json_t **out);
enum status json_read_file(const char *path, json_t **out);
/* Members of an object, by type; ERR_DATA names the key and what is there instead.  A null or absent member gives
 * `fallback` where there is one.  Python's bare Infinity and transformers' {"__float__": "Infinity"} read as such. */
enum status json_int(const char *where, const json_t *object, const char *key, int64_t *out);
enum status json_int_or(const char *where, const json_t *object, const char *key, int64_t fallback, int64_t *out);
enum status json_real_or(const char *where, const json_t *object, const char *key, double fallback, double *out);
enum status json_bool_or(const char *where, const json_t *object, const char *key, bool fallback, bool *out);
enum status json_text(const char *where, const json_t *object, const char *key, const char **out);
enum status json_text_or(const char *where, const json_t *object, const char *key, const char *fallback,
                         const char **out);
/* Append the value as indented text with sorted keys. */
struct text; /* base/file.h */
enum status json_print(const json_t *value, struct text *out);
/* Text of a double that reads back to the same bits; "null" for a value that is not finite. */
void json_print_real(char out[32], double v);

#ifdef __cplusplus
}
#endif
#endif
