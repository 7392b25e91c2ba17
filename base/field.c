/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "base/field.h"
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "base/arena.h"

#define WORD_MAX 64 /* longer words are far from every key */

/* Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours, over three rolling rows. */
int text_distance(const char *a, const char *b) {
    const size_t n_a = strlen(a), n_b = strlen(b);
    int rows[3][WORD_MAX + 1];
    if (n_a > WORD_MAX || n_b > WORD_MAX) return WORD_MAX;
    int *before = rows[0], *above = rows[1], *row = rows[2];
    for (size_t j = 0; j <= n_b; j++) above[j] = before[j] = (int)j;
    for (size_t i = 1; i <= n_a; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= n_b; j++) {
            int least = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < least) least = above[j] + 1;
            if (row[j - 1] + 1 < least) least = row[j - 1] + 1;
            const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before[j - 2] + 1 < least) least = before[j - 2] + 1;
            row[j] = least;
        }
        int *oldest = before;
        before = above;
        above = row;
        row = oldest;
    }
    return above[n_b];
}

int text_closeness(const char *word, const char *key) {
    const size_t n_word = strlen(word), n_key = strlen(key);
    const int d = text_distance(word, key);
    if (d > 2) return -1;
    return (size_t)d < (n_word > n_key ? n_word : n_key) || !strcasecmp(word, key) ? d : -1;
}

const struct field *field_find(const struct field *table, const char *key) {
    for (const struct field *f = table; f->key; f++)
        if (!strcmp(f->key, key)) return f;
    return NULL;
}

const char *field_nearest(const struct field *table, const char *word) {
    const char *nearest = NULL;
    int least = 3;
    for (const struct field *f = table; f->key; f++) {
        const int d = text_closeness(word, f->key);
        if (d < 0 || d >= least) continue;
        least = d;
        nearest = f->key;
    }
    return nearest;
}

static enum status not_this(const char *wanted, const char *text) {
    if (!*text) FAIL(ERR_CONFIG, "wants %s, nothing is here", wanted);
    FAIL(ERR_CONFIG, "wants %s, '%.40s' is not one", wanted, text);
}

static bool bounded(const struct field *f) { return f->min != 0.0 || f->max != 0.0; }

static enum status check_range(const struct field *f, double v, const char *text) {
    if (!bounded(f) || (v >= f->min && v <= f->max)) return OK;
    if (isinf(f->max)) FAIL(ERR_CONFIG, "wants at least %.15g, not %.40s", f->min, text);
    FAIL(ERR_CONFIG, "wants a value from %.15g to %.15g, not %.40s", f->min, f->max, text);
}

/* 0: no such suffix. */
static int64_t suffix_factor(const char *s) {
    static const struct {
        const char *suffix;
        int64_t factor;
    } rows[] = {{"", 1},          {"k", 1000},      {"M", 1000000},  {"G", 1000000000},
                {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!strcmp(rows[i].suffix, s)) return rows[i].factor;
    return 0;
}

static enum status parse_int(const struct field *f, const char *text, int64_t *out) {
    const char *wanted = "an integer (such as 1000, 1_000, 1k or 4KiB)";
    const char *s = text + (*text == '-' || *text == '+');
    int64_t v = 0;
    bool too_large = false;
    if (!isdigit((unsigned char)*s)) return not_this(wanted, text);
    for (;; s++) {
        if (*s == '_' && isdigit((unsigned char)s[1])) continue;
        if (!isdigit((unsigned char)*s)) break;
        too_large |= __builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *s - '0', &v);
    }
    const int64_t factor = suffix_factor(s);
    if (!factor) return not_this(wanted, text);
    too_large |= __builtin_mul_overflow(v, factor, &v);
    FAIL_UNLESS(!too_large, ERR_CONFIG, "%.40s does not fit in 64 bits", text);
    if (*text == '-') v = -v;
    TRY(check_range(f, (double)v, text));
    *out = v;
    return OK;
}

/* The decimal number that begins at s: [sign] digits [. digits] [e [sign] digits]; NULL if there is none.  strtod alone
 * would also take hexadecimal, "inf" and "nan". */
static const char *parse_decimal(const char *s, double *out) {
    const char *begin = s;
    int n_digits = 0;
    s += *s == '-' || *s == '+';
    for (; isdigit((unsigned char)*s); s++) n_digits++;
    if (*s == '.')
        for (s++; isdigit((unsigned char)*s); s++) n_digits++;
    if (!n_digits) return NULL;
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '-' || *s == '+';
        if (!isdigit((unsigned char)*s)) return NULL;
        while (isdigit((unsigned char)*s)) s++;
    }
    char *end = NULL;
    double v = strtod(begin, &end);
    if (end != s) return NULL;
    *out = v;
    return s;
}

static enum status parse_real(const struct field *f, const char *text, double *out) {
    const char *wanted = "a number (such as 0.1, 3e-4 or 1/8)";
    double v = 0.0, below = 1.0;
    if (!strcmp(text, "inf") && bounded(f) && isinf(f->max)) {
        *out = INFINITY;
        return OK;
    }
    const char *s = parse_decimal(text, &v);
    if (s && *s == '/') s = parse_decimal(s + 1, &below);
    if (!s || *s) return not_this(wanted, text);
    FAIL_UNLESS(below != 0.0, ERR_CONFIG, "%.40s divides by zero", text);
    v /= below;
    FAIL_UNLESS(isfinite(v), ERR_CONFIG, "%.40s does not fit in a double", text);
    TRY(check_range(f, v, text));
    *out = v;
    return OK;
}

/* The i-th of "a|b|c", copied; false behind the last. */
static bool choice_at(const char *choices, int i, char out[WORD_MAX]) {
    for (; i > 0; i--) {
        choices = strchr(choices, '|');
        if (!choices) return false;
        choices++;
    }
    const size_t n = strcspn(choices, "|");
    ASSERT(n < WORD_MAX);
    memcpy(out, choices, n);
    out[n] = '\0';
    return true;
}

static enum status parse_choice(const struct field *f, const char *text, int *out) {
    char word[WORD_MAX], nearest[WORD_MAX] = "";
    int least = 3;
    for (int i = 0; choice_at(f->choices, i, word); i++) {
        if (!strcmp(word, text)) {
            *out = i;
            return OK;
        }
        const int d = text_closeness(text, word);
        if (d < 0 || d >= least) continue;
        least = d;
        memcpy(nearest, word, sizeof nearest);
    }
    FAIL_UNLESS(*text, ERR_CONFIG, "wants one of %s, nothing is here", f->choices);
    FAIL_UNLESS(!*nearest, ERR_CONFIG, "wants one of %s, not '%.40s'; did you mean '%s'?", f->choices, text, nearest);
    FAIL(ERR_CONFIG, "wants one of %s, not '%.40s'", f->choices, text);
}

static enum status parse_bool(const char *text, bool *out) {
    const bool yes = !strcmp(text, "true");
    if (!yes && strcmp(text, "false") != 0) return not_this("true or false", text);
    *out = yes;
    return OK;
}

static enum status copy_text(const char *text, char **out) {
    const size_t n = strlen(text);
    FAIL_UNLESS(n < FIELD_TEXT_MAX, ERR_CONFIG, "%zu bytes of text, at most %d", n, FIELD_TEXT_MAX - 1);
    return mem_copy_text(text, out);
}

enum status field_set(const struct field *f, void *base, const char *text) {
    void *at = (char *)base + f->at;
    char *copy = NULL;
    switch (f->type) {
    case FIELD_INT:
        return parse_int(f, text, at);
    case FIELD_REAL:
        return parse_real(f, text, at);
    case FIELD_BOOL:
        return parse_bool(text, at);
    case FIELD_CHOICE:
        return parse_choice(f, text, at);
    case FIELD_TEXT: {
        char **target = at;
        TRY(copy_text(text, &copy));
        mem_free(*target);
        *target = copy;
        return OK;
    }
    case FIELD_LIST: {
        struct field_list *l = at;
        FAIL_UNLESS(l->n < FIELD_LIST_MAX, ERR_CONFIG, "more than %d entries", FIELD_LIST_MAX);
        TRY(copy_text(text, &copy));
        l->text[l->n++] = copy;
        return OK;
    }
    }
    FAIL(ERR_ARG, "%s: field type %d does not exist", f->key, (int)f->type);
}

enum status field_defaults(const struct field *table, void *base) {
    for (const struct field *f = table; f->key; f++) {
        if (!f->fallback || (f->type == FIELD_LIST && !*f->fallback)) continue;
        TRY(field_set(f, base, f->fallback));
    }
    return OK;
}

/* The shortest decimal that reads back to the same bits, its exponent as people write it: 1e-5, not 1e-05. */
static int print_real(double v, char *out, size_t room) {
    char made[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(made, sizeof made, "%.*g", digits, v);
        if (strtod(made, NULL) == v) break;
    }
    char *e = strchr(made, 'e');
    if (!e) return snprintf(out, room, "%s", made);
    const char *power = e + 2 + strspn(e + 2, "0");
    const bool negative = e[1] == '-';
    *e = '\0';
    return snprintf(out, room, "%se%s%s", made, negative ? "-" : "", power);
}

enum status field_print(const struct field *f, const void *base, int i, char *out, size_t room) {
    const void *at = (const char *)base + f->at;
    char word[WORD_MAX];
    int n = 0;
    switch (f->type) {
    case FIELD_INT:
        n = snprintf(out, room, "%" PRId64, *(const int64_t *)at);
        break;
    case FIELD_REAL:
        n = print_real(*(const double *)at, out, room);
        break;
    case FIELD_BOOL:
        n = snprintf(out, room, "%s", *(const bool *)at ? "true" : "false");
        break;
    case FIELD_CHOICE:
        ASSERT(choice_at(f->choices, *(const int *)at, word));
        n = snprintf(out, room, "%s", word);
        break;
    case FIELD_TEXT: {
        const char *text = *(char *const *)at;
        n = snprintf(out, room, "%s", text ? text : "");
        break;
    }
    case FIELD_LIST: {
        const struct field_list *l = at;
        ASSERT(i >= 0 && i < l->n);
        n = snprintf(out, room, "%s", l->text[i]);
        break;
    }
    }
    FAIL_UNLESS(n >= 0 && (size_t)n < room, ERR_ARG, "%s: its text of %d bytes does not fit in %zu", f->key, n, room);
    return OK;
}

bool field_empty(const struct field *f, const void *base) {
    const void *at = (const char *)base + f->at;
    switch (f->type) {
    case FIELD_INT:
        return *(const int64_t *)at == 0;
    case FIELD_REAL:
        return *(const double *)at == 0.0;
    case FIELD_BOOL:
        return !*(const bool *)at;
    case FIELD_CHOICE:
        return *(const int *)at == 0;
    case FIELD_TEXT:
        return !*(char *const *)at;
    case FIELD_LIST:
        return ((const struct field_list *)at)->n == 0;
    }
    return true;
}

void field_clear(const struct field *f, void *base) {
    void *at = (char *)base + f->at;
    if (f->type == FIELD_TEXT) {
        char **target = at;
        mem_free(*target);
        *target = NULL;
    } else if (f->type == FIELD_LIST) {
        struct field_list *l = at;
        for (int i = 0; i < l->n; i++) mem_free(l->text[i]);
        *l = (struct field_list){0};
    }
}

void field_term(const struct field *table, void *base) {
    for (const struct field *f = table; f->key; f++) field_clear(f, base);
}
