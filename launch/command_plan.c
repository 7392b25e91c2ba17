/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "launch/command.h"
#include "launch/device.h"
#include "launch/plan.h"

static enum status read_config(struct config *c, const struct command_line *line) {
    struct text errors = {0};
    FAIL_UNLESS(line->n_words == 1, ERR_CONFIG, "wants one CONFIG, a YAML file, and has %d: baton plan --help",
                line->n_words);
    const struct config_source from = {
        .path = line->words[0], .n_overrides = line->n_overrides, .overrides = line->overrides};
    enum status st = config_read(c, &from, &errors);
    if (st == ERR_CONFIG && errors.n > 0) { /* every mistake, not the first alone */
        fprintf(stderr, "%s%s", errors.s, errors.s[errors.n - 1] == '\n' ? "" : "\n");
        status_clear();
    }
    text_term(&errors);
    return st == OK ? config_check_runnable(c) : st;
}

/* bf16 is of GPUs alone, f64 of the cpu; f32 is planned for the cpu unless a GPU is asked for. */
static enum status choose(const char *device, int precision, bool *cuda) {
    FAIL_UNLESS(!device || !strcmp(device, "cpu") || !strcmp(device, "cuda"), ERR_CONFIG,
                "--device %s: wants cpu or cuda", device);
    const struct device_choice choice = {.cuda = device ? !strcmp(device, "cuda") : precision == PRECISION_BF16};
    *cuda = choice.cuda;
    return device_check_precision(&choice, precision);
}

static enum status gib_of(const char *text, int64_t *bytes) {
    char *end = NULL;
    *bytes = 0;
    if (!text) return OK;
    const double gib = strtod(text, &end);
    FAIL_UNLESS(end != text && !*end && isfinite(gib) && gib > 0.0 && gib <= 1e6, ERR_CONFIG,
                "--memory %s: wants GiB of one rank, above 0 up to 1,000,000", text);
    *bytes = (int64_t)(gib * (1 << 30));
    return OK;
}

static enum status plan(const struct config *c, const char *device, const char *memory) {
    struct text out = {0};
    bool cuda = false;
    int64_t bytes = 0;
    TRY(choose(device, c->train.precision, &cuda));
    TRY(gib_of(memory, &bytes));
    enum status st = plan_print(c, cuda, &out);
    if (st == OK && bytes > 0) st = plan_print_fit(c, cuda, bytes, &out);
    if (st == OK) printf("device: %s\n%s", cuda ? "cuda" : "cpu", out.s);
    text_term(&out);
    return st;
}

static enum status run(int argc, char **argv) {
    const char *device = NULL, *memory = NULL;
    const struct option_row rows[] = {{"--device", &device, NULL}, {"--memory", &memory, NULL}};
    struct config c = {0};
    struct command_line line;
    TRY(command_parse(argc, argv, rows, 2, &line));
    enum status st = read_config(&c, &line);
    if (st == OK) st = plan(&c, device, memory);
    config_term(&c);
    command_line_term(&line);
    return st;
}

const struct command command_plan = {
    .name = "plan",
    .usage = "plan CONFIG [key=value ...] [--device cpu|cuda] [--memory GIB]",
    .help =
        "Prints what the run that CONFIG describes would take: parameters, floating-point operations of a token\n"
        "and of a step, memory of a rank, and the bytes that a rank receives in a step, by purpose.  Needs neither\n"
        "its data nor its ranks nor a GPU, and takes no memory of the model's size.\n\n"
        "  --device    plan for the cpu or for a GPU; without it: bf16 for a GPU, f32 and f64 for the cpu\n"
        "  --memory    GiB that one rank has: says whether the plan fits, and else what would\n\n"
        "FLOPs count causal attention once and nothing that is computed again: those of mfu.  Exchanges are\n"
        "those of sequences of one document each, and of even loads of experts.\n",
    .run = run,
    .keys = config_help,
};
