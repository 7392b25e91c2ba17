/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_BASE_FIELD_H
#define BATON_BASE_FIELD_H
/* field.h - the configuration field table: one row per key, and one parser for what a user writes.
 *
 * All scalars of YAML arrive as text and are typed by the row: integers take _ between digits and the suffixes k, M, G
 * (powers of 1000) and KiB, MiB, GiB; reals take 3e-4 and 1/8, and inf where max is INFINITY; booleans are true or
 * false, nothing else.  A default is a text read by the same parser, so `baton train --help` prints what a file would
 * say. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FIELD_LIST_MAX 64
#define FIELD_TEXT_MAX 1024 /* bytes of a TEXT or of one item of a LIST, NUL included */
enum field_type {
    FIELD_INT,    /* int64_t                                                        */
    FIELD_REAL,   /* double                                                         */
    FIELD_BOOL,   /* bool                                                           */
    FIELD_TEXT,   /* char *, owned: field_term                                      */
    FIELD_CHOICE, /* int: index into choices                                        */
    FIELD_LIST,   /* struct field_list of texts                                     */
};
struct field_list {
    int n;
    char *text[FIELD_LIST_MAX];
};
struct field {
    const char *key;
    enum field_type type;
    size_t at;            /* offsetof the target                                */
    const char *fallback; /* text of the default (LIST: "" is no item); NULL: the key must be given */
    double min, max;      /* of INT and REAL; both 0: any value; max may be INFINITY                */
    const char *choices;  /* CHOICE: "constant|cosine|wsd"                      */
    const char *help;     /* one line                                           */
    bool free;            /* not part of a run's identity                       */
};
#define FIELDS_END                                                                                                     \
    { .key = NULL }

/* Parse text into base + f->at.  ERR_CONFIG; the text of the failure is the reason alone ("wants an integer, 'abc' is
 * not one"), for the caller to put file:line:column and the key path before it.  A LIST takes one text each call. */
enum status field_set(const struct field *f, void *base, const char *text);
enum status field_defaults(const struct field *table, void *base); /* rows with a fallback, into zeroed memory */
const struct field *field_find(const struct field *table, const char *key);
/* Text that field_set reads back to the same value; for a LIST item i. */
enum status field_print(const struct field *f, const void *base, int i, char *out, size_t room);
bool field_empty(const struct field *f, const void *base); /* the target is as zeroed memory            */
void field_clear(const struct field *f, void *base);       /* releases what a TEXT or LIST owns         */
void field_term(const struct field *table, void *base);    /* the same for every row                    */
/* The key of the table nearest to word (Damerau-Levenshtein distance 2 or less, some of it the same but for case), or
 * NULL. */
const char *field_nearest(const struct field *table, const char *word);
int text_distance(const char *a, const char *b);
/* The distance where key is worth suggesting for word, else -1: the rule of field_nearest. */
int text_closeness(const char *word, const char *key);

#ifdef __cplusplus
}
#endif
#endif
