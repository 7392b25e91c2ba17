/* SPDX-License-Identifier: Apache-2.0 */
/* What a configuration reads to: values, short forms, paths, overrides, resolved text and identity. */
#define _GNU_SOURCE
#include <dirent.h>
#include <unistd.h>
#include "base/arena.h"
#include "launch/config_fields.h"
#include "launch/device.h"
#include "tests/check.h"

static const char design[] =
    "model:\n"
    "  width: 4096\n"
    "  vocab: 131072\n"
    "  pattern: \"M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-\"\n"
    "  layers:\n"
    "    M:   {kind: mamba2, heads: 128, head_width: 64, state: 128, groups: 8, conv: 4, chunk: 128}\n"
    "    \"*\": {kind: attention, heads: 32, kv_heads: 8, head_width: 128}\n"
    "    \"-\": {kind: mlp, hidden: 21504, activation: relu2}\n"
    "mesh: {data: 1, seq: 8, tensor: 1, expert: 1, pipe: 1}\n"
    "train: {tokens_per_sequence: 409600, sequences_per_step: 4, steps: 1000, precision: bf16}\n"
    "optimizer: {kind: adamw, lr: 3.0e-4, schedule: wsd, warmup_steps: 100, weight_decay: 0.1, clip_norm: 1.0}\n"
    "data: {train: [tokens/books], valid: [tokens/valid], packing: documents}\n"
    "checkpoint: {every: 100, keep: 3}\n"
    "run: {dir: runs/example, seed: 1}\n";

static const char *const no_overrides[] = {NULL};

static enum status read_text(struct config *c, const char *yaml, const char *const *overrides) {
    struct config_source from = {
        .where = "text", .text = yaml, .text_bytes = (int64_t)strlen(yaml), .overrides = overrides};
    while (overrides[from.n_overrides]) from.n_overrides++;
    return config_read(c, &from, NULL);
}

static void design_example(void) {
    struct config c;
    MUST(read_text(&c, design, no_overrides));
    CHECK(c.model.width == 4096 && c.model.vocab == 131072, "%ld %ld", (long)c.model.width, (long)c.model.vocab);
    CHECK(strlen(c.model.pattern) == 52 && c.model.n_symbols == 3, "'%s'", c.model.pattern);
    const struct layer_symbol *star = model_config_symbol(&c.model, '*');
    CHECK(star && star->kind == mixer_kind_find("attention"), "the kind of *");
    char word[64];
    static const char wanted[] = "8";
    MUST(field_print(field_find(star->kind->fields, "kv_heads"), star->config, 0, word, sizeof word));
    CHECK(!strcmp(word, wanted), "kv_heads %s", word);
    CHECK(!model_config_symbol(&c.model, 'X'), "a symbol that is not there");
    CHECK(c.mesh.seq == 8 && c.train.tokens_per_sequence == 409600 && c.train.precision == PRECISION_BF16, "train");
    CHECK(c.optimizer.lr == 3.0e-4 && c.optimizer.schedule == SCHEDULE_WSD && c.optimizer.beta2 == 0.95, "optimizer");
    CHECK(c.data.train.n == 1 && c.data.valid.n == 1 && c.checkpoint.keep == 3 && c.run.seed == 1, "the rest");
    c.mesh.pipe = 2;
    CHECK(config_check_runnable(&c) == ERR_CONFIG && strstr(status_text(), "mesh.pipe"), "'%s'", status_text());
    c.mesh.pipe = 1;
    MUST(config_check_runnable(&c));
    const struct device_choice cpu = {0}, cuda = {.cuda = true, .n_devices = 1};
    CHECK(device_check_precision(&cpu, PRECISION_BF16) == ERR_CONFIG && strstr(status_text(), "bf16"), "'%s'",
          status_text());
    CHECK(device_check_precision(&cuda, PRECISION_F64) == ERR_CONFIG && strstr(status_text(), "f64"), "'%s'",
          status_text());
    for (int p = PRECISION_F64; p <= PRECISION_BF16; p++)
        MUST(device_check_precision(p == PRECISION_BF16 ? &cuda : &cpu, p));
    config_term(&c);
}

/* What scalars mean, whatever the key. */
static void scalars(void) {
    struct target {
        int64_t i;
        double r;
        bool b;
    } t = {0};
    static const struct field any_int = {"i", FIELD_INT, offsetof(struct target, i), NULL, 0, 0, NULL, "", false};
    static const struct field any_real = {"r", FIELD_REAL, offsetof(struct target, r), NULL, 0, 0, NULL, "", false};
    static const struct field any_bool = {"b", FIELD_BOOL, offsetof(struct target, b), NULL, 0, 0, NULL, "", false};
    static const struct {
        const char *text;
        int64_t value;
    } ints[] = {{"0", 0},          {"1_000_000", 1000000},
                {"32k", 32000},    {"4GiB", 1LL << 32},
                {"2MiB", 2 << 20}, {"3KiB", 3072},
                {"1M", 1000000},   {"2G", 2000000000},
                {"-7", -7},        {"+7", 7},
                {"007", 7},        {"9223372036854775807", INT64_MAX}};
    static const struct {
        const char *text;
        double value;
    } reals[] = {{"1e-4", 1e-4}, {"3.0e-4", 3.0e-4}, {"1/8", 0.125}, {".5", 0.5},          {"5.", 5.0},
                 {"-2", -2.0},   {"1E3", 1000.0},    {"0", 0.0},     {"1.5/3e1", 1.5 / 30}};
    static const char *const no_ints[] = {"",    "-",   "1__0", "_1",  "1_",  "1 000", "1.0",
                                          "1e3", "0x1", "k",    "1kk", "1ki", "١"};
    static const char *const no_reals[] = {"",    ".",  "e5", "1e",    "1e+", "0x1p3", "inf",
                                           "nan", "1/", "/2", "1/2/3", "1,5", "1 "};
    static const char *const no_bools[] = {"", "yes", "on", "True", "TRUE", "1", "0", "~", "truee"};
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        MUST(field_set(&any_int, &t, ints[i].text));
        CHECK(t.i == ints[i].value, "'%s' reads %lld", ints[i].text, (long long)t.i);
    }
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        MUST(field_set(&any_real, &t, reals[i].text));
        CHECK(t.r == reals[i].value, "'%s' reads %.17g", reals[i].text, t.r);
    }
    for (size_t i = 0; i < sizeof no_ints / sizeof *no_ints; i++)
        CHECK(field_set(&any_int, &t, no_ints[i]) == ERR_CONFIG, "'%s' is no integer", no_ints[i]);
    for (size_t i = 0; i < sizeof no_reals / sizeof *no_reals; i++)
        CHECK(field_set(&any_real, &t, no_reals[i]) == ERR_CONFIG, "'%s' is no number", no_reals[i]);
    for (size_t i = 0; i < sizeof no_bools / sizeof *no_bools; i++)
        CHECK(field_set(&any_bool, &t, no_bools[i]) == ERR_CONFIG, "'%s' is no boolean", no_bools[i]);
}

/* Reals print as the shortest text that reads back to the same bits. */
static void printed_reals(void) {
    static const struct field f = {"r", FIELD_REAL, 0, NULL, 0, 0, NULL, "", false};
    static const struct {
        double value;
        const char *text;
    } rows[] = {{0.1, "0.1"},
                {1e-5, "1e-5"},
                {3e-4, "0.0003"},
                {1e300, "1e300"},
                {-2.5e-10, "-2.5e-10"},
                {1e15, "1e15"},
                {1.0 / 3, "0.3333333333333333"},
                {10000, "10000"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[64];
        double back = 0;
        MUST(field_print(&f, &rows[i].value, 0, text, sizeof text));
        MUST(field_set(&f, &back, text));
        CHECK(!strcmp(text, rows[i].text) && back == rows[i].value, "%s for %s", text, rows[i].text);
    }
}

static void short_forms(void) {
    static const struct {
        const char *why, *pattern, *wanted;
    } cases[] = {
        {"a repeated unit", "pattern: {repeat: \"M*-\", times: 3}", "M*-M*-M*-"},
        {"one time", "pattern: {times: 1, repeat: \"M*-\"}", "M*-"},
        {"Jamba's place of attention", "ratio: {attention: 1/8, layers: 9}", "M-M-M-M-*-M-M-M-M-"},
        {"one in three: the middle one", "ratio: {attention: 1/3, layers: 6}", "M-*-M-M-*-M-"},
        {"the ratio as a decimal", "ratio: {attention: 0.5, layers: 4}", "M-*-M-*-"},
        {"a plain pattern", "pattern: M-*-", "M-*-"},
        {"a pattern in single quotes", "pattern: '*-M'", "*-M"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct text yaml = {0};
        struct config c;
        const char *pattern = strstr(design, "pattern:"), *rest = strchr(pattern, '\n');
        MUST(text_add(&yaml, design, pattern - design));
        MUST(text_print(&yaml, "%s%s", cases[i].pattern, rest));
        MUST(read_text(&c, yaml.s, no_overrides));
        CHECK(!strcmp(c.model.pattern, cases[i].wanted), "%s: %s, not %s", cases[i].why, c.model.pattern,
              cases[i].wanted);
        config_term(&c);
        text_term(&yaml);
    }
}

/* The ratio form with experts and with a table that has several rows of a kind: the first of each counts. */
static void ratios(void) {
    static const struct mixer_kind attention = {.name = "attention"}, mamba1 = {.name = "mamba1"},
                                   mlp = {.name = "mlp"}, moe = {.name = "moe"};
    const struct model_config m = {.n_symbols = 6,
                                   .symbol = {{'D', &mlp, NULL},
                                              {'E', &moe, NULL},
                                              {'S', &mamba1, NULL},
                                              {'M', &mamba1, NULL},
                                              {'a', &attention, NULL},
                                              {'b', &attention, NULL}}};
    static const struct {
        struct pattern_ratio r;
        const char *wanted;
    } cases[] = {{{8, 2, 8}, "SDSESDSEaDSESDSE"},
                 {{1, 0, 2}, "aDaD"},
                 {{0, 1, 2}, "SESE"},
                 {{0, 0, 1}, "SD"},
                 {{2, 3, 6}, "SDaDSEaDSDaE"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *pattern = NULL;
        MUST(pattern_from_ratio(&m, &cases[i].r, &pattern));
        CHECK(!strcmp(pattern, cases[i].wanted), "case %zu: %s, not %s", i, pattern, cases[i].wanted);
        mem_free(pattern);
    }
    const struct model_config dense = {.n_symbols = 1, .symbol = {{'a', &attention, NULL}}};
    char *pattern = NULL;
    CHECK(pattern_from_ratio(&dense, &cases[1].r, &pattern) == ERR_CONFIG && strstr(status_text(), "mlp"), "'%s'",
          status_text());
}

static void overrides(void) {
    static const char *const some[] = {"train.steps=7",
                                       "train.steps=9",
                                       "optimizer.warmup_steps=1",
                                       "model.layers.*.kv_heads=32",
                                       "data.valid=a,/b",
                                       "model.pattern=MNM",
                                       "model.layers.N.kind=mlp",
                                       "model.layers.N.hidden=1k",
                                       "model.tied=true",
                                       NULL};
    struct config c;
    MUST(read_text(&c, design, some));
    CHECK(c.train.steps == 9, "the last override wins, not %lld", (long long)c.train.steps);
    CHECK(!strcmp(c.model.pattern, "MNM") && c.model.n_symbols == 2, "%s, %d rows", c.model.pattern, c.model.n_symbols);
    CHECK(!model_config_symbol(&c.model, '*') && model_config_symbol(&c.model, 'N'), "rows left and added");
    CHECK(c.data.valid.n == 2 && !strcmp(c.data.valid.text[1], "/b") && c.model.tied, "%s", c.data.valid.text[1]);
    config_term(&c);
    static const char *const none[] = {"data.valid=", NULL};
    MUST(read_text(&c, design, none));
    CHECK(c.data.valid.n == 0 && c.data.train.n == 1, "nothing behind = is the empty list");
    config_term(&c);
    static const char *const ratio[] = {"model.ratio.attention=1/2", "model.ratio.layers=2", NULL};
    MUST(read_text(&c, design, ratio));
    CHECK(!strcmp(c.model.pattern, "M-*-"), "a ratio in place of the file's pattern: %s", c.model.pattern);
    config_term(&c);
}

static void write_file(const char *path, const char *text) { MUST(file_replace(path, text, (int64_t)strlen(text))); }

/* Data paths start from the file, those of overrides and run.dir from the current folder; what is resolved reads back
 * to the same from any folder. */
static void paths(void) {
    char folder[] = "/tmp/baton-config-XXXXXX", start[PATH_BYTES], file[PATH_BYTES], wanted[PATH_BYTES];
    CHECK(mkdtemp(folder) && getcwd(start, sizeof start), "a folder to work in");
    MUST(path_print(file, "%s/sub/inner", folder));
    MUST(file_make_folders(file));
    MUST(path_print(file, "%s/sub/design.yaml", folder));
    write_file(file, design);
    CHECK(chdir(folder) == 0, "into %s", folder);
    static const char *const more[] = {"data.valid=./v,../w,x/../y", "run.dir=sub/inner/.././r"};
    const struct config_source from = {.path = "sub/design.yaml", .overrides = more, .n_overrides = 2};
    struct config c, again;
    MUST(config_read(&c, &from, NULL));
    MUST(path_print(wanted, "%s/sub/tokens/books", folder));
    CHECK(!strcmp(c.data.train.text[0], wanted), "%s, not %s", c.data.train.text[0], wanted);
    MUST(path_print(wanted, "%s/v", folder));
    CHECK(!strcmp(c.data.valid.text[0], wanted), "%s, not %s", c.data.valid.text[0], wanted);
    CHECK(!strcmp(c.data.valid.text[1], "/tmp/w"), "%s", c.data.valid.text[1]);
    MUST(path_print(wanted, "%s/x/../y", folder));
    CHECK(!strcmp(c.data.valid.text[2], wanted), "%s, not %s", c.data.valid.text[2], wanted);
    MUST(path_print(wanted, "%s/sub/inner/.././r", folder));
    CHECK(!strcmp(c.run.dir, wanted), "%s, not %s", c.run.dir, wanted);
    MUST(path_print(file, "%s/sub/inner/config.yaml", folder));
    write_file(file, c.resolved.s);
    CHECK(chdir("/") == 0, "into /");
    const struct config_source back = {.path = file};
    MUST(config_read(&again, &back, NULL));
    CHECK(!strcmp(again.resolved.s, c.resolved.s), "resolved:\n%s\nread back:\n%s", c.resolved.s, again.resolved.s);
    CHECK(!strcmp(again.identity_hash, c.identity_hash), "identity of what was read back");
    config_term(&c);
    config_term(&again);
    CHECK(chdir(start) == 0, "back to %s", start);
    MUST(file_remove_tree(folder));
}

/* Every free key leaves the identity as it is, every other key changes it, and the difference names that key alone. */
static void identity(void) {
    static const struct {
        const char *override;
        bool identity;
    } cases[] = {{"model.width=2048", true},
                 {"model.init_std=0.01", true},
                 {"model.layers.M.state=64", true},
                 {"model.pattern=M-*", true},
                 {"mesh.seq=4", false},
                 {"mesh.data=2", false},
                 {"train.tokens_per_sequence=1", true},
                 {"train.sequences_per_step=8", true},
                 {"train.steps=2000", false},
                 {"train.precision=f32", true},
                 {"train.micro_batch=2", false},
                 {"train.head_tile=8", false},
                 {"train.threads=1", false},
                 {"train.valid_every=9", false},
                 {"optimizer.lr=1", true},
                 {"optimizer.schedule=cosine", true},
                 {"optimizer.beta1=0.5", true},
                 {"optimizer.decay_steps=5", true},
                 {"data.train=x", true},
                 {"data.valid=x", true},
                 {"checkpoint.every=7", false},
                 {"checkpoint.keep=7", false},
                 {"run.dir=x", false},
                 {"run.seed=2", true},
                 {"run.tensorboard=false", false},
                 {"numerics=fast", false}};
    struct config c, other;
    MUST(read_text(&c, design, no_overrides));
    CHECK(strlen(c.identity_hash) == 64, "'%s'", c.identity_hash);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *const one[] = {cases[i].override, NULL};
        struct text diff = {0};
        char key[64];
        MUST(read_text(&other, design, one));
        CHECK((strcmp(c.identity_hash, other.identity_hash) != 0) == cases[i].identity, "%s", one[0]);
        MUST(config_identity_diff(other.identity.s, c.identity.s, &diff));
        snprintf(key, sizeof key, "%.*s: this run has ", (int)strcspn(one[0], "="), one[0]);
        const char *told = diff.s ? diff.s : "";
        CHECK(cases[i].identity ? !strncmp(told, key, strlen(key)) && told[strcspn(told, "\n") + 1] == '\0' : !*told,
              "%s: '%s'", one[0], told);
        text_term(&diff);
        config_term(&other);
    }
    struct text diff = {0};
    MUST(config_identity_diff("a: 1\nb: 2\n", "b: 3\nc: 4\n", &diff));
    CHECK(!strcmp(diff.s, "a: this run has 1, the checkpoint has no such key\nb: this run has 2, the checkpoint has 3\n"
                          "c: this run has no such key, the checkpoint has 4\n"),
          "'%s'", diff.s);
    text_term(&diff);
    config_term(&c);
}

/* Files that cannot be read at all: the message names them. */
static void sources(void) {
    static const struct {
        const char *why, *path, *wanted;
    } cases[] = {{"no such file", "no/such.yaml", "no/such.yaml: there is no such file"},
                 {"a folder", "tests", "tests: tests is not a plain file"}};
    struct config c;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct config_source from = {.path = cases[i].path};
        CHECK(config_read(&c, &from, NULL) == ERR_CONFIG, "%s", cases[i].why);
        CHECK(!strcmp(status_text(), cases[i].wanted), "%s: '%s'", cases[i].why, status_text());
    }
    char folder[] = "/tmp/baton-config-XXXXXX", file[PATH_BYTES];
    CHECK(mkdtemp(folder), "a folder");
    MUST(path_print(file, "%s/large.yaml", folder));
    struct text large = {0};
    while (large.n <= 1 << 20) MUST(text_print(&large, "# a comment of a configuration that is too long\n"));
    MUST(file_replace(file, large.s, large.n));
    const struct config_source from_file = {.path = file};
    const struct config_source from_text = {.where = "text", .text = large.s, .text_bytes = large.n};
    CHECK(config_read(&c, &from_file, NULL) == ERR_CONFIG && strstr(status_text(), "at most 1048576"), "'%s'",
          status_text());
    CHECK(config_read(&c, &from_text, NULL) == ERR_CONFIG && strstr(status_text(), "at most 1048576"), "'%s'",
          status_text());
    text_term(&large);
    MUST(file_remove_tree(folder));
}

static void model_alone(void) {
    const size_t bytes = (size_t)(strstr(design, "mesh:") - design);
    const struct config_source from = {
        .where = "model", .text = design, .text_bytes = (int64_t)bytes, .model_only = true};
    const struct config_source strict = {.where = "model", .text = design, .text_bytes = (int64_t)bytes};
    struct config c, again;
    MUST(config_read(&c, &from, NULL));
    CHECK(c.train.micro_batch == 1 && c.data.train.n == 0, "defaults beside the model");
    const struct config_source back = {
        .where = "back", .text = c.resolved.s, .text_bytes = c.resolved.n, .model_only = true};
    MUST(config_read(&again, &back, NULL));
    CHECK(!strcmp(c.resolved.s, again.resolved.s), "%s", again.resolved.s);
    config_term(&c);
    config_term(&again);
    CHECK(config_read(&c, &strict, NULL) == ERR_CONFIG, "the other sections are required else");
}

/* Help names every key; the stack names every layer. */
static void printed(void) {
    struct text help = {0}, stack = {0};
    struct config c;
    MUST(config_help(&help));
    for (const struct config_section *s = config_sections; s->name; s++)
        for (const struct field *f = s->fields; f->key; f++) CHECK(strstr(help.s, f->key), "help lacks %s", f->key);
    MUST(read_text(&c, design, no_overrides));
    MUST(config_print_stack(&c, &stack));
    CHECK(!strncmp(stack.s, "stack: 52 layers  M-M-M-M*-", 27), "'%s'", stack.s);
    CHECK(strstr(stack.s, "24 x mamba2") && strstr(stack.s, "4 x attention") && strstr(stack.s, "heads 128"), "'%s'",
          stack.s);
    text_term(&help);
    text_term(&stack);
    config_term(&c);
}

/* Each file of configs/ reads without a mistake. */
static void shipped(void) {
    DIR *d = opendir("configs");
    int n = 0;
    CHECK(d, "the folder configs: run this test in the source folder");
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[PATH_BYTES];
        struct config c;
        if (!strstr(e->d_name, ".yaml")) continue;
        MUST(path_print(path, "configs/%s", e->d_name));
        const struct config_source from = {.path = path};
        MUST(config_read(&c, &from, NULL));
        config_term(&c);
        n++;
    }
    if (d) closedir(d);
    CHECK(n >= 3, "%d configurations", n);
}

int main(void) {
    design_example();
    scalars();
    printed_reals();
    short_forms();
    ratios();
    overrides();
    paths();
    identity();
    sources();
    model_alone();
    printed();
    shipped();
    return check_end();
}
