/* SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/file.h"

enum status json_read_text(const char *where, const char *text, int64_t bytes, json_t **out) {
    json_error_t e;
    *out = json_loadb(text, (size_t)bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    FAIL_UNLESS(*out, ERR_DATA, "%s:%d:%d: not JSON: %s", where, e.line, e.column, e.text);
    return OK;
}

enum status json_read_file(const char *path, json_t **out) {
    char *text = NULL;
    int64_t bytes = 0;
    *out = NULL;
    TRY(file_read(path, (int64_t)1 << 30, &text, &bytes));
    enum status st = json_read_text(path, text, bytes, out);
    file_free(text);
    return st;
}

static enum status wrong(const char *where, const char *key, const char *wanted) {
    FAIL(ERR_DATA, "%s: \"%s\" is missing or not %s", where, key, wanted);
}

static bool absent(const json_t *v) { return !v || json_is_null(v); }

enum status json_int(const char *where, const json_t *object, const char *key, int64_t *out) {
    const json_t *v = json_object_get(object, key);
    if (!json_is_integer(v)) return wrong(where, key, "an integer");
    *out = json_integer_value(v);
    return OK;
}

enum status json_int_or(const char *where, const json_t *object, const char *key, int64_t fallback, int64_t *out) {
    *out = fallback;
    return absent(json_object_get(object, key)) ? OK : json_int(where, object, key, out);
}

static bool infinity_text(const json_t *v, double *out) {
    const char *t = json_string_value(json_is_object(v) ? json_object_get(v, "__float__") : v);
    if (!t) return false;
    const double sign = t[0] == '-' ? -1.0 : 1.0;
    if (strcmp(t + (t[0] == '-'), "Infinity") != 0) return false;
    *out = sign * INFINITY;
    return true;
}

enum status json_real_or(const char *where, const json_t *object, const char *key, double fallback, double *out) {
    const json_t *v = json_object_get(object, key);
    *out = fallback;
    if (absent(v) || infinity_text(v, out)) return OK;
    if (!json_is_number(v)) return wrong(where, key, "a number");
    *out = json_number_value(v);
    return OK;
}

enum status json_bool_or(const char *where, const json_t *object, const char *key, bool fallback, bool *out) {
    const json_t *v = json_object_get(object, key);
    *out = fallback;
    if (absent(v)) return OK;
    if (!json_is_boolean(v)) return wrong(where, key, "true or false");
    *out = json_is_true(v);
    return OK;
}

enum status json_text(const char *where, const json_t *object, const char *key, const char **out) {
    const json_t *v = json_object_get(object, key);
    if (!json_is_string(v)) return wrong(where, key, "a text");
    *out = json_string_value(v);
    return OK;
}

enum status json_text_or(const char *where, const json_t *object, const char *key, const char *fallback,
                         const char **out) {
    *out = fallback;
    return absent(json_object_get(object, key)) ? OK : json_text(where, object, key, out);
}

static int add_text(const char *bytes, size_t n, void *out) { return text_add(out, bytes, (int64_t)n) == OK ? 0 : -1; }

enum status json_print(const json_t *value, struct text *out) {
    FAIL_UNLESS(json_dump_callback(value, add_text, out, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_ENCODE_ANY) == 0,
                ERR_OOM, "no memory to print JSON");
    return OK;
}

void json_print_real(char out[32], double v) {
    if (!isfinite(v)) {
        memcpy(out, "null", 5);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, 32, "%.*g", digits, v);
        if (strtod(out, NULL) == v) break;
    }
    if (!strpbrk(out, ".eE")) strcat(out, ".0"); /* stays a real for readers that tell the two apart */
}
