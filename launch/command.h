/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_COMMAND_H
#define BATON_LAUNCH_COMMAND_H
/* command.h - the commands of the program.  Each is one file command_<name>.c with one row in commands.def; argv[0] is
 * the command's name.  A command prints its own results and returns the status that main turns into the exit code. */
#include "base/file.h"

enum exit_code { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_SAVED = 3, EXIT_LOST = 4 };
struct command {
    const char *name, *usage, *help; /* help: what --help prints below the usage */
    enum status (*run)(int argc, char **argv);
    enum status (*keys)(struct text *out); /* NULL, or what --help prints last: the configuration's keys */
};
/* One option of a command line: "--name VALUE", "--name=VALUE" or, without a value, "--name". */
struct option_row {
    const char *name;
    const char **value; /* receives the text; NULL for a flag */
    int *flag;
};
/* Sort argv[1..] into options, overrides (words with '=') and positional words; ERR_CONFIG names what is wrong, with
 * the nearest option.  words and overrides have room for argc entries. */
struct command_line {
    int n_words, n_overrides;
    const char **words, **overrides;
};
enum status command_parse(int argc, char **argv, const struct option_row *rows, int n_rows, struct command_line *out);
void command_line_term(struct command_line *l);
int status_exit_code(enum status st);

#endif
