/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include "launch/command.h"
#include "launch/device.h"
#include "launch/eval.h"

static const struct eval_task *const tasks[] = {&eval_perplexity, &eval_sample};
enum { N_TASKS = sizeof tasks / sizeof *tasks };

static enum status find_task(const char *name, const struct eval_task **out) {
    for (int i = 0; i < N_TASKS; i++)
        if (!strcmp(tasks[i]->name, name)) {
            *out = tasks[i];
            return OK;
        }
    for (int i = 0; i < N_TASKS; i++)
        if (text_distance(tasks[i]->name, name) <= 2)
            FAIL(ERR_CONFIG, "%s: no such task; did you mean %s?", name, tasks[i]->name);
    FAIL(ERR_CONFIG, "%s: no such task; there are perplexity and sample", name);
}

enum status eval_split(const struct field *f, void *options, const char *text) {
    char item[PATH_BYTES];
    for (const char *at = text;; at++) {
        const size_t n = strcspn(at, ",");
        TRY(path_print(item, "%.*s", (int)n, at));
        TRY(field_set(f, options, item));
        at += n;
        if (*at == '\0') return OK;
    }
}

/* One key=value of the task.  The reason of field_set comes alone: the word is put before it. */
static enum status set_option(const struct eval_task *task, void *options, const char *word) {
    char key[64], reason[512];
    const char *equal = strchr(word, '=');
    snprintf(key, sizeof key, "%.*s", (int)(equal - word), word);
    const struct field *f = field_find(task->fields, key);
    if (!f) {
        const char *near = field_nearest(task->fields, key);
        FAIL_UNLESS(near, ERR_CONFIG, "%s: %s has no key %s; --help lists them", word, task->name, key);
        FAIL(ERR_CONFIG, "%s: %s has no key %s; did you mean %s?", word, task->name, key, near);
    }
    const enum status st = f->type == FIELD_LIST ? eval_split(f, options, equal + 1) : field_set(f, options, equal + 1);
    if (st != ERR_CONFIG) return st;
    snprintf(reason, sizeof reason, "%s", status_text());
    FAIL(ERR_CONFIG, "%s: %s", word, reason);
}

static bool is_of_model(const char *word) { return memchr(word, '.', strcspn(word, "=")) != NULL; }

static enum status run_task(const struct eval_task *task, const struct command_line *line, void *options,
                            const char **overrides, const struct eval_files *files,
                            const struct device_choice *device) {
    struct eval_model m = {0};
    int n = 0;
    TRY(field_defaults(task->fields, options));
    for (int i = 0; i < line->n_overrides; i++) {
        if (is_of_model(line->overrides[i])) overrides[n++] = line->overrides[i];
        else TRY(set_option(task, options, line->overrides[i]));
    }
    TRY(eval_model_open(&m, line->words[0], overrides, n));
    enum status st = device_check_precision(device, m.config.train.precision);
    if (st == OK) st = device_open_for(device, NULL, &m.device);
    if (st == OK) st = device_print(device);
    if (st == OK) st = task->run(&m, options, files);
    eval_model_close(&m);
    return st;
}

static enum status run(int argc, char **argv) {
    const char *device = NULL, *ranks = NULL;
    struct eval_files files = {0};
    struct device_choice where;
    const struct option_row rows[] = {{"--device", &device, NULL},
                                      {"--ranks", &ranks, NULL},
                                      {"--json", &files.json, NULL},
                                      {"--prompt", &files.prompt, NULL},
                                      {"--prompt-file", &files.prompt_file, NULL}};
    const struct eval_task *task = NULL;
    struct command_line line;
    enum status st = OK;
    void *options = NULL, *overrides = NULL;
    TRY(command_parse(argc, argv, rows, sizeof rows / sizeof *rows, &line));
    if (line.n_words != 2)
        FAIL_OUT(ERR_CONFIG, "eval wants MODEL and TASK, not %d words; --help tells more", line.n_words);
    TRY_OUT(device_choose(device, &where));
    TRY_OUT(ranks_check(ranks));
    TRY_OUT(find_task(line.words[1], &task));
    TRY_OUT(mem_take((int64_t)task->options_bytes, &options));
    TRY_OUT(mem_take((line.n_overrides + 1) * (int64_t)sizeof(char *), &overrides));
    TRY_OUT(run_task(task, &line, options, overrides, &files, &where));
out:
    if (options) field_term(task->fields, options);
    mem_free(options);
    mem_free(overrides);
    command_line_term(&line);
    return st;
}

const struct command command_eval = {
    .name = "eval",
    .usage = "eval MODEL TASK [--ranks N] [--device cpu|cuda] [key=value ...]",
    .help =
        "MODEL is a run folder (its newest valid checkpoint), a checkpoint, or a Hugging Face folder.  A key with a "
        "dot\n"
        "overrides the model's configuration, e.g. train.precision=f64 or train.threads=1.  TASK is one of:\n\n"
        "perplexity   mean loss of the next token on token files, by length of the context and by position\n"
        "  data=PREFIX[,PREFIX]  token files (default: data.valid of the run)\n"
        "  lengths=N[,N]         tokens of a sequence (default: 1/8 to 2 times the length of training, by doubling)\n"
        "  tokens=N              most tokens to read at each length (default 262144; 0: all)\n"
        "  --json FILE           the tables as JSON\n\n"
        "sample       text that continues a prompt, token by token with carried state\n"
        "  --prompt TEXT | --prompt-file FILE   (default: one end of line)\n"
        "  tokens=N              tokens to make (default 200)\n"
        "  temperature=X         0: always the likeliest token (default 0.8)\n"
        "  top_k=N               choose among the N likeliest; 0: all (default 40)\n"
        "  seed=N                the same seed gives the same text (default 1)\n"
        "  tokenizer=bytes|FILE  default: bytes where the vocabulary is 256, else MODEL/tokenizer.json\n",
    .run = run,
};
