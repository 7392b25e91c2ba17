/* SPDX-License-Identifier: Apache-2.0 */
/* Random valid configurations, written in random style, read to what was written and print to text that reads back to
 * the same; and a read whose k-th allocation fails leaves nothing behind, for every k. */
#include <inttypes.h>
#include "base/arena.h"
#include "base/rng.h"
#include "launch/config_fields.h"
#include "tests/check.h"

static uint64_t draws, case_seed;
static uint64_t draw(uint64_t n) { return rng_bits(case_seed, 7, draws++) % n; }

/* What a key must read to: the text of field_print. */
struct wanted {
    const struct config_section *section;
    const struct field *field;
    char text[3][200];
    int n;
};
static struct wanted wanted[128];
static int n_wanted;

/* A character of a path: plain, one that YAML reads specially, or beyond ASCII. */
static const char *const letters[] = {"a",
                                      "Z",
                                      "0",
                                      "-",
                                      "_",
                                      ".",
                                      "/",
                                      " ",
                                      ":",
                                      "#",
                                      "'",
                                      "\"",
                                      "\\",
                                      ",",
                                      "[",
                                      "}",
                                      "&",
                                      "*",
                                      "!",
                                      "%",
                                      "|",
                                      ">",
                                      "@",
                                      "~",
                                      "\t",
                                      "\n",
                                      "\x7f",
                                      "\xc3\xa9",
                                      "\r",
                                      "\x01",
                                      "\xc2\x85",
                                      "\xc2\xa0",
                                      "\xe2\x80\xa8",
                                      "\xef\xbb\xbf",
                                      "\xf0\x9f\x98\x80",
                                      "="};

/* A random absolute path and its text as a double-quoted scalar, every character beyond letters escaped. */
static void random_path(char out[200], struct text *yaml) {
    const uint64_t n = 1 + draw(12);
    char *p = out;
    *p++ = '/';
    *p++ = 'd';
    MUST(text_print(yaml, "\"/d"));
    for (uint64_t i = 0; i < n; i++) {
        const char *l = letters[draw(sizeof letters / sizeof *letters)];
        const unsigned char *u = (const unsigned char *)l;
        const size_t bytes = strlen(l);
        memcpy(p, l, bytes);
        p += bytes;
        uint32_t point = bytes == 1 ? u[0] : u[0] & (0xffu >> (bytes + 1));
        for (size_t k = 1; k < bytes; k++) point = point << 6 | (u[k] & 0x3f);
        if (l[0] >= '0' && l[0] <= 'z' && l[0] != '\\') MUST(text_print(yaml, "%s", l));
        else MUST(text_print(yaml, "\\U%08" PRIX32, point));
    }
    *p = '\0';
    MUST(text_print(yaml, "\""));
}

static void random_int(const struct field *f, char out[200], struct text *yaml) {
    static const int64_t units[] = {1, 1000, 1 << 10};
    static const char *suffix[] = {"", "k", "KiB"};
    const int u = (int)draw(3);
    int64_t most = (int64_t)f->max;
    if (most > 1000000) most = 1000000;
    int64_t v = (int64_t)f->min + (int64_t)draw((uint64_t)(most - (int64_t)f->min) + 1);
    v = v / units[u] * units[u];
    if (v < (int64_t)f->min) v = (int64_t)f->min;
    snprintf(out, 200, "%" PRId64, v);
    if (v && v % units[u] == 0) MUST(text_print(yaml, "%" PRId64 "%s", v / units[u], suffix[u]));
    else MUST(text_print(yaml, draw(2) ? "%" PRId64 : "\"%" PRId64 "\"", v));
}

static void random_real(const struct field *f, char out[200], struct text *yaml) {
    double v = f->min + (f->max - f->min) * rng_uniform(case_seed, 9, draws++);
    if (draw(3) == 0 && f->min <= 0.125 && f->max >= 0.125) {
        v = 0.125;
        MUST(text_print(yaml, "1/8"));
    } else {
        MUST(text_print(yaml, "%.17g", v));
    }
    MUST(field_print(&(struct field){.key = "real", .type = FIELD_REAL}, &v, 0, out, 200));
}

static void random_value(struct wanted *w, struct text *yaml) {
    const struct field *f = w->field;
    w->n = 1;
    switch (f->type) {
    case FIELD_INT:
        random_int(f, w->text[0], yaml);
        break;
    case FIELD_REAL:
        random_real(f, w->text[0], yaml);
        break;
    case FIELD_BOOL:
        snprintf(w->text[0], sizeof w->text[0], "%s", draw(2) ? "true" : "false");
        MUST(text_print(yaml, "%s", w->text[0]));
        break;
    case FIELD_CHOICE: {
        const char *choice = f->choices;
        for (uint64_t i = draw(3); i > 0 && strchr(choice, '|'); i--) choice = strchr(choice, '|') + 1;
        snprintf(w->text[0], sizeof w->text[0], "%.*s", (int)strcspn(choice, "|"), choice);
        MUST(text_print(yaml, draw(2) ? "%s" : "'%s'", w->text[0]));
        break;
    }
    case FIELD_TEXT:
        random_path(w->text[0], yaml);
        break;
    case FIELD_LIST:
        w->n = 1 + (int)draw(3);
        MUST(text_print(yaml, "["));
        for (int i = 0; i < w->n; i++) {
            if (i) MUST(text_print(yaml, ", "));
            random_path(w->text[i], yaml);
        }
        MUST(text_print(yaml, "]"));
        break;
    }
}

/* Keys that rules tie to others stay at their defaults. */
static bool tied(const struct field *f) {
    static const char *const keys[] = {"micro_batch", "warmup_steps", "decay_steps", "expert", "keep_every", NULL};
    for (const char *const *k = keys; *k; k++)
        if (!strcmp(*k, f->key)) return true;
    return false;
}

static void random_section(const struct config_section *s, struct text *yaml) {
    const bool flow = draw(2) && s->fields != model_fields;
    bool any = false;
    MUST(text_print(yaml, "%s:%s", s->name, flow ? " {" : "\n"));
    for (const struct field *f = s->fields; f->key; f++) {
        if (tied(f) || (f->fallback && draw(2))) continue;
        struct wanted *w = &wanted[n_wanted++];
        *w = (struct wanted){.section = s, .field = f};
        MUST(text_print(yaml, "%s%s: ", flow ? (any ? ",\n " : "") : "  ", f->key));
        random_value(w, yaml);
        MUST(text_print(yaml, "%s", flow ? "" : draw(2) ? "\n" : " # why not\n"));
        any = true;
    }
    if (flow) MUST(text_print(yaml, "}\n"));
    else if (!any) MUST(text_print(yaml, "  {}\n"));
}

/* The pattern of a random model, its table written below the section's other keys. */
static void random_layers(struct text *yaml, char pattern[64]) {
    static const char *const kinds[] = {"mamba2, heads: 8, groups: 4",
                                        "attention, heads: 6, kv_heads: 3, head_width: 8", "mlp, hidden: 1_024"};
    const int n_rows = 1 + (int)draw(3), n_layers = n_rows + (int)draw(40);
    char symbol[3];
    for (int i = 0; i < n_rows; i++) {
        do symbol[i] = (char)('!' + draw(94));
        while (!symbol_allowed(symbol[i]) || memchr(symbol, symbol[i], (size_t)i));
    }
    for (int i = 0; i < n_layers; i++) pattern[i] = symbol[i < n_rows ? i : (int)draw((uint64_t)n_rows)];
    pattern[n_layers] = '\0';
    MUST(text_print(yaml, "  pattern: \""));
    for (int i = 0; i < n_layers; i++) MUST(text_print(yaml, "\\x%02x", (unsigned)pattern[i]));
    MUST(text_print(yaml, "\"\n  layers:\n"));
    for (int i = 0; i < n_rows; i++)
        MUST(text_print(yaml, "    \"\\x%02x\": {kind: %s}\n", (unsigned)symbol[i], kinds[draw(3)]));
}

static void check_wanted(const struct config *c, const char *yaml) {
    for (int i = 0; i < n_wanted; i++) {
        const struct wanted *w = &wanted[i];
        const char *base = (const char *)c + w->section->at;
        char text[PATH_BYTES];
        if (w->field->type == FIELD_LIST) {
            const int n = ((const struct field_list *)(base + w->field->at))->n;
            CHECK(n == w->n, "%s.%s has %d items, not %d, in\n%s", w->section->name, w->field->key, n, w->n, yaml);
        }
        for (int k = 0; k < w->n; k++) {
            MUST(field_print(w->field, base, k, text, sizeof text));
            CHECK(!strcmp(text, w->text[k]), "%s.%s is '%s', not '%s', in\n%s", w->section->name, w->field->key, text,
                  w->text[k], yaml);
        }
    }
}

static void check_random(uint64_t number) {
    struct text yaml = {0};
    struct config c, again;
    char pattern[64] = "";
    case_seed = number;
    draws = 0;
    n_wanted = 0;
    for (const struct config_section *s = config_sections; s->name; s++) {
        random_section(s, &yaml);
        if (s->fields == model_fields) random_layers(&yaml, pattern);
    }
    const struct config_source from = {.where = "random", .text = yaml.s, .text_bytes = yaml.n};
    const enum status st = config_read(&c, &from, NULL);
    CHECK(st == OK, "case %" PRIu64 ": %s in\n%s", number, status_text(), yaml.s);
    if (st == OK) {
        check_wanted(&c, yaml.s);
        CHECK(!strcmp(c.model.pattern, pattern), "pattern '%s', not '%s'", c.model.pattern, pattern);
        const struct config_source back = {.where = "resolved", .text = c.resolved.s, .text_bytes = c.resolved.n};
        MUST(config_read(&again, &back, NULL));
        check_wanted(&again, c.resolved.s);
        CHECK(!strcmp(again.resolved.s, c.resolved.s), "case %" PRIu64 ":\n%s\nreads back to\n%s", number, c.resolved.s,
              again.resolved.s);
        CHECK(!strcmp(again.identity.s, c.identity.s) && !strcmp(again.identity_hash, c.identity_hash),
              "case %" PRIu64 ": identity\n%s\nreads back to\n%s", number, c.identity.s, again.identity.s);
        config_term(&again);
    }
    config_term(&c);
    text_term(&yaml);
}

/* The k-th allocation fails: the status says so, *c is empty, and the leak checker finds nothing. */
static void check_failing_memory(const char *path, const char *const *overrides, int n_overrides,
                                 enum status wanted_st) {
    const struct config_source from = {.path = path, .overrides = overrides, .n_overrides = n_overrides};
    enum status st = ERR_OOM;
    int64_t k = 0;
    while (st == ERR_OOM && k < 100000) {
        struct config c;
        struct text errors = {0};
        mem_fail_at(++k);
        st = config_read(&c, &from, &errors);
        mem_fail_at(0);
        if (st == ERR_OOM) {
            CHECK(strstr(status_text(), "memory free"), "failure %" PRId64 ": '%s'", k, status_text());
            CHECK(!c.model.pattern && !c.model.n_symbols && !c.resolved.s && !c.data.train.n && !c.run.dir,
                  "failure %" PRId64 " leaves something in the configuration", k);
        }
        config_term(&c);
        text_term(&errors);
    }
    CHECK(st == wanted_st && k > 20, "%s: %s after %" PRId64 " failures", path, status_name(st), k);
}

int main(void) {
    static const char *const good[] = {"data.train=a,b,c", "model.layers.M.heads=16", "run.dir=x"};
    static const char *const bad[] = {"data.train=a,,c", "model.layers.M.haeds=16", "train.steps=x", "model.pattern=Q"};
    for (uint64_t i = 0; i < 500; i++) check_random(i);
    check_failing_memory("configs/smoke_hybrid.yaml", good, 3, OK);
    check_failing_memory("configs/smoke_hybrid.yaml", bad, 4, ERR_CONFIG);
    check_failing_memory("configs/smoke_mamba2.yaml", NULL, 0, OK);
    return check_end();
}
