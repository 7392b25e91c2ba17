/* SPDX-License-Identifier: Apache-2.0 */
#include "data/split_pattern.h"
#include <inttypes.h>
#include <string.h>

struct reader {
    const char *where, *begin, *at, *end;
    struct text *out;
};

static enum status refuse(const struct reader *r, int64_t bytes) {
    const int64_t left = r->end - r->at;
    FAIL(ERR_DATA, "%s: '%.*s' at byte %" PRId64 " of the pattern is not understood", r->where,
         (int)(bytes < left ? bytes : left), r->at, (int64_t)(r->at - r->begin));
}

static enum status copy(struct reader *r, int64_t bytes) {
    TRY(text_add(r->out, r->at, bytes));
    r->at += bytes;
    return OK;
}

static enum status replace(struct reader *r, int64_t bytes, const char *by) {
    TRY(text_add(r->out, by, (int64_t)strlen(by)));
    r->at += bytes;
    return OK;
}

static bool starts(const struct reader *r, const char *what) {
    const size_t n = strlen(what);
    return (size_t)(r->end - r->at) >= n && !memcmp(r->at, what, n);
}

static bool one_of(char c, const char *set) { return c != '\0' && strchr(set, c) != NULL; }

/* \p{...}, \P{...}: the closing brace must be there. */
static enum status property(struct reader *r) {
    const char *close = memchr(r->at, '}', (size_t)(r->end - r->at));
    if (r->end - r->at < 4 || r->at[2] != '{' || !close) return refuse(r, 4);
    return copy(r, close + 1 - r->at);
}

/* The classes that both read alike: digits, controls, hexadecimal characters, properties, and a quoted ASCII sign. */
static enum status escape(struct reader *r, bool in_class) {
    if (r->end - r->at < 2) return refuse(r, 2);
    const char c = r->at[1];
    if (c == 's') return replace(r, 2, in_class ? WHITE_SPACE : "[" WHITE_SPACE "]");
    if (c == 'S' && !in_class) return replace(r, 2, "[^" WHITE_SPACE "]");
    if (c == 'p' || c == 'P') return property(r);
    if (one_of(c, "rntfdDx") || (c > ' ' && c < 0x7f && one_of(c, "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")))
        return copy(r, 2);
    return refuse(r, 2);
}

static enum status char_class(struct reader *r) {
    TRY(copy(r, starts(r, "[^") ? 2 : 1));
    if (starts(r, "]")) return refuse(r, 1); /* an empty class to one, a bracket to the other */
    while (r->at < r->end && *r->at != ']') {
        if (*r->at == '\\') TRY(escape(r, true));
        else if (*r->at == '[' || starts(r, "&&")) return refuse(r, 2); /* sets within sets */
        else TRY(copy(r, 1));
    }
    if (r->at == r->end) return refuse(r, 1);
    return copy(r, 1);
}

static enum status group(struct reader *r) {
    static const char *const heads[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    if (starts(r, "(*")) return refuse(r, 2);
    if (!starts(r, "(?")) return copy(r, 1);
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        if (starts(r, heads[i])) return copy(r, (int64_t)strlen(heads[i]));
    return refuse(r, 4);
}

/* {n}, {n,}, {n,m}: not {,m}, which PCRE2 takes literally, and no '+' behind, which only PCRE2 takes as possessive. */
static enum status interval(struct reader *r) {
    const char *p = r->at + 1;
    while (p < r->end && *p >= '0' && *p <= '9') p++;
    if (p == r->at + 1) return refuse(r, 3);
    if (p < r->end && *p == ',') p++;
    while (p < r->end && *p >= '0' && *p <= '9') p++;
    if (p == r->end || *p != '}' || (p + 1 < r->end && p[1] == '+')) return refuse(r, p + 2 - r->at);
    return copy(r, p + 1 - r->at);
}

enum status split_pattern(const char *where, const char *pattern, int64_t bytes, struct text *out) {
    struct reader r = {where, pattern, pattern, pattern + bytes, out};
    while (r.at < r.end) switch (*r.at) {
        case '\\':
            TRY(escape(&r, false));
            break;
        case '[':
            TRY(char_class(&r));
            break;
        case '(':
            TRY(group(&r));
            break;
        case '{':
            TRY(interval(&r));
            break;
        case '^':
        case '$':
            return refuse(&r, 1); /* ends of lines to one, of the text to the other */
        default:
            TRY(copy(&r, 1));
        }
    return OK;
}
