/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include "base/field.h"
#include "base/log.h"
#include "launch/command.h"

#define COMMAND(name) extern const struct command command_##name;
#include "launch/commands.def"
#undef COMMAND

static const struct command *const commands[] = {
#define COMMAND(name) &command_##name,
#include "launch/commands.def"
#undef COMMAND
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void usage(FILE *to) {
    fprintf(to, "Baton trains hybrid state-space / attention language models on very long sequences.\n\n");
    for (int i = 0; i < N_COMMANDS; i++) fprintf(to, "  baton %s\n", commands[i]->usage);
    fprintf(to,
            "\nbaton COMMAND --help tells more.  Exit codes: 0 done, 1 failed, 2 configuration or usage, 3 saved and\n"
            "stopped by a signal, 4 a rank or link was lost.\n");
}

static bool asks_for_help(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return true;
    return false;
}

static const struct command *find(const char *name) {
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i]->name, name)) return commands[i];
    for (int i = 0; i < N_COMMANDS; i++)
        if (text_distance(commands[i]->name, name) <= 2) {
            fprintf(stderr, "baton: no command '%s'; did you mean '%s'?\n", name, commands[i]->name);
            return NULL;
        }
    fprintf(stderr, "baton: no command '%s'\n\n", name);
    usage(stderr);
    return NULL;
}

/* A closed stream's number would go to the first file that is opened, and what is printed into that file. */
static void open_streams(void) {
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0) ASSERT(open("/dev/null", O_RDWR) == fd);
}

static int print_help(const struct command *c) {
    struct text keys = {0};
    printf("usage: baton %s\n\n%s", c->usage, c->help);
    if (c->keys && c->keys(&keys) == OK) printf("\n%s", keys.s);
    text_term(&keys);
    return EXIT_DONE;
}

int main(int argc, char **argv) {
    open_streams();
    if (argc < 2) {
        usage(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        usage(stdout);
        return EXIT_DONE;
    }
    const struct command *c = find(argv[1]);
    if (!c) return EXIT_USAGE;
    if (asks_for_help(argc - 1, argv + 1)) {
        return print_help(c);
    }
    const enum status st = c->run(argc - 1, argv + 1);
    if (st != OK && st != ERR_STOPPED && *status_text()) {
        fflush(stdout);
        fprintf(stderr, "baton: %s\n", status_text());
        if (st != ERR_CONFIG) fprintf(stderr, "  (%s, at %s)\n", status_name(st), status_trace());
    }
    return status_exit_code(st);
}
