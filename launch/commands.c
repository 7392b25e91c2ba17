/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/command.h"
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include "base/arena.h"
#include "base/field.h"

int status_exit_code(enum status st) {
    switch (st) {
    case OK:
        return EXIT_DONE;
    case ERR_CONFIG:
        return EXIT_USAGE;
    case ERR_STOPPED:
        return EXIT_SAVED;
    case ERR_COMM:
    case ERR_TIMEOUT:
        return EXIT_LOST;
    default:
        return EXIT_FAILED;
    }
}

static const struct option_row *find_row(const char *word, size_t n, const struct option_row *rows, int n_rows) {
    for (int i = 0; i < n_rows; i++)
        if (strlen(rows[i].name) == n && !memcmp(rows[i].name, word, n)) return &rows[i];
    return NULL;
}

static enum status unknown_option(const char *word, const struct option_row *rows, int n_rows) {
    for (int i = 0; i < n_rows; i++)
        if (text_distance(rows[i].name, word) <= 2)
            FAIL(ERR_CONFIG, "%s: no such option; did you mean %s?", word, rows[i].name);
    FAIL(ERR_CONFIG, "%s: no such option; --help lists them", word);
}

static enum status take_option(int argc, char **argv, int *i, const struct option_row *rows, int n_rows) {
    const char *word = argv[*i];
    const char *equal = strchr(word, '=');
    const struct option_row *r = find_row(word, equal ? (size_t)(equal - word) : strlen(word), rows, n_rows);
    if (!r) return unknown_option(word, rows, n_rows);
    if (r->flag) {
        FAIL_UNLESS(!equal, ERR_CONFIG, "%s: this option takes no value", word);
        *r->flag = 1;
        return OK;
    }
    FAIL_UNLESS(equal || *i + 1 < argc, ERR_CONFIG, "%s: a value must follow", word);
    *r->value = equal ? equal + 1 : argv[++*i];
    return OK;
}

enum status command_parse(int argc, char **argv, const struct option_row *rows, int n_rows, struct command_line *out) {
    void *mem = NULL;
    *out = (struct command_line){0};
    TRY(mem_take(2 * argc * (int64_t)sizeof(char *), &mem));
    out->words = mem;
    out->overrides = out->words + argc;
    for (int i = 1; i < argc; i++) {
        if (!strncmp(argv[i], "--", 2)) {
            const enum status st = take_option(argc, argv, &i, rows, n_rows);
            if (st == OK) continue;
            command_line_term(out);
            return st;
        }
        if (strchr(argv[i], '=')) out->overrides[out->n_overrides++] = argv[i];
        else out->words[out->n_words++] = argv[i];
    }
    return OK;
}

void command_line_term(struct command_line *l) {
    mem_free(l->words);
    *l = (struct command_line){0};
}
