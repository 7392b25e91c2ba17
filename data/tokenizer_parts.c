/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "data/tokenizer_json.h"

/* The pattern of GPT-2, which ByteLevel means by use_regex. */
#define GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static bool is(const json_t *node, const char *kind) {
    const char *t = json_string_value(json_object_get(node, "type"));
    return t && !strcmp(t, kind);
}

/* Calls read for the node, or for each member of the list when it is a Sequence. */
static enum status each(struct tokenizer_json *t, const char *where, const char *path, const char *list,
                        const json_t *node,
                        enum status (*read)(struct tokenizer_json *, const char *, const char *, const json_t *)) {
    char keys[64];
    if (!node || json_is_null(node)) return OK;
    if (!is(node, "Sequence")) return read(t, where, path, node);
    snprintf(keys, sizeof keys, "type|%s", list);
    TRY(only_keys(where, path, node, keys));
    const json_t *members = json_object_get(node, list);
    if (!json_is_array(members)) return not_understood(where, path, node);
    for (size_t i = 0; i < json_array_size(members); i++) {
        char inner[96];
        snprintf(inner, sizeof inner, "%s.%s[%zu]", path, list, i);
        TRY(read(t, where, inner, json_array_get(members, i)));
    }
    return OK;
}

static enum status copy_text(const json_t *v, struct text *out) {
    return text_add(out, json_string_value(v), (int64_t)json_string_length(v));
}

/* {"String": "..."}: a plain text that is not empty. */
static const json_t *plain_pattern(const json_t *node) {
    const json_t *s = json_object_get(json_object_get(node, "pattern"), "String");
    return json_string_length(s) > 0 ? s : NULL;
}

static enum status read_normalize_step(struct tokenizer_json *t, const char *where, const char *path,
                                       const json_t *node) {
    struct normalizer *z = &t->normalizer;
    if (z->n_steps == NORMALIZE_STEPS_MAX) return not_understood(where, path, node);
    struct normalize_step *step = &z->step[z->n_steps++];
    if (is(node, "Prepend") && json_string_length(json_object_get(node, "prepend")) > 0) {
        TRY(only_keys(where, path, node, "type|prepend"));
        return copy_text(json_object_get(node, "prepend"), &step->to);
    }
    const json_t *content = json_object_get(node, "content");
    if (!is(node, "Replace") || !plain_pattern(node) || !json_is_string(content))
        return not_understood(where, path, node);
    TRY(only_keys(where, path, node, "type|pattern|content"));
    TRY(copy_text(plain_pattern(node), &step->from));
    return copy_text(content, &step->to);
}

enum status read_normalizer(struct tokenizer_json *t, const char *where, const json_t *node) {
    return each(t, where, "normalizer", "normalizers", node, read_normalize_step);
}

enum status normalizer_run(const struct normalizer *z, const char *s, int64_t n, struct text buffer[2],
                           const char **out, int64_t *n_out) {
    for (int i = 0; i < z->n_steps && n > 0; i++) {
        const struct normalize_step *step = &z->step[i];
        struct text *b = &buffer[i % 2];
        b->n = 0;
        if (step->from.n > 0) TRY(text_replace(s, n, &step->from, &step->to, b));
        else {
            TRY(text_add(b, step->to.s, step->to.n));
            TRY(text_add(b, s, n));
        }
        s = b->s;
        n = b->n;
    }
    *out = s;
    *n_out = n;
    return OK;
}

static enum status new_split(struct tokenizer_json *t, const char *where, const char *path, const json_t *node,
                             struct split_step **out) {
    if (t->splitter.n_steps == SPLIT_STEPS_MAX) return not_understood(where, path, node);
    *out = &t->splitter.step[t->splitter.n_steps++];
    return OK;
}

static enum status add_pattern(struct tokenizer_json *t, const char *where, const char *path, const json_t *node,
                               const char *pattern, enum split_behavior behavior) {
    struct split_step *step = NULL;
    TRY(new_split(t, where, path, node, &step));
    step->behavior = behavior;
    const enum status st = split_compile(step, where, pattern, (int64_t)strlen(pattern), false);
    if (st != OK) t->splitter.n_steps--;
    return st;
}

static enum status read_behavior(const char *where, const char *path, const json_t *node, enum split_behavior *out) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name = json_string_value(json_object_get(node, "behavior"));
    for (int i = 0; name && i < 5; i++)
        if (!strcmp(name, names[i])) {
            *out = (enum split_behavior)i;
            return OK;
        }
    return not_understood(where, path, node);
}

static enum status read_split(struct tokenizer_json *t, const char *where, const char *path, const json_t *node) {
    char name[PATH_BYTES + 96];
    struct split_step *step = NULL;
    const json_t *pattern = json_object_get(node, "pattern"), *text = plain_pattern(node);
    const bool literal = text != NULL;
    if (!literal) text = json_object_get(pattern, "Regex");
    TRY(only_keys(where, path, node, "type|pattern|behavior|invert"));
    if (json_object_size(pattern) != 1 || json_string_length(text) == 0) return not_understood(where, path, node);
    snprintf(name, sizeof name, "%s: \"%s\"", where, path);
    TRY(new_split(t, where, path, node, &step));
    enum status st = read_behavior(where, path, node, &step->behavior);
    if (st == OK) st = json_bool_or(where, node, "invert", false, &step->invert);
    if (st == OK) st = split_compile(step, name, json_string_value(text), (int64_t)json_string_length(text), literal);
    if (st != OK) t->splitter.n_steps--;
    return st;
}

/* The text becomes bytes here, so nothing can follow. */
static enum status read_byte_level(struct tokenizer_json *t, const char *where, const char *path, const json_t *node) {
    bool prefix = true, regex = true;
    struct split_step *step = NULL;
    TRY(only_keys(where, path, node, "type|add_prefix_space|trim_offsets|use_regex"));
    TRY(json_bool_or(where, node, "add_prefix_space", true, &prefix));
    TRY(json_bool_or(where, node, "use_regex", true, &regex));
    if (prefix) TRY(new_split(t, where, path, node, &step));
    if (regex) TRY(add_pattern(t, where, path, node, GPT2_PATTERN, SPLIT_ISOLATED));
    t->bpe.byte_level = true;
    return OK;
}

static enum status read_pre_step(struct tokenizer_json *t, const char *where, const char *path, const json_t *node) {
    bool each_digit = false;
    if (t->bpe.byte_level) return not_understood(where, path, node);
    if (is(node, "ByteLevel")) return read_byte_level(t, where, path, node);
    if (is(node, "Split")) return read_split(t, where, path, node);
    if (is(node, "Digits")) {
        TRY(only_keys(where, path, node, "type|individual_digits"));
        TRY(json_bool_or(where, node, "individual_digits", false, &each_digit));
        return add_pattern(t, where, path, node, "\\p{N}", each_digit ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS);
    }
    return not_understood(where, path, node);
}

enum status read_pre_tokenizer(struct tokenizer_json *t, const char *where, const json_t *node) {
    return each(t, where, "pre_tokenizer", "pretokenizers", node, read_pre_step);
}

static enum status read_strip(const char *where, const char *path, const json_t *node, struct decode_step *step) {
    const json_t *content = json_object_get(node, "content");
    TRY(only_keys(where, path, node, "type|content|start|stop"));
    TRY(json_int(where, node, "start", &step->start));
    TRY(json_int(where, node, "stop", &step->stop));
    if (json_string_length(content) == 0 || step->start < 0 || step->stop < 0) return not_understood(where, path, node);
    return copy_text(content, &step->from);
}

static enum status read_decode_step(struct tokenizer_json *t, const char *where, const char *path, const json_t *node) {
    struct decoder *d = &t->decoder;
    if (d->n_steps == DECODE_STEPS_MAX) return not_understood(where, path, node);
    struct decode_step *step = &d->step[d->n_steps++];
    step->kind = DECODE_STRIP;
    if (is(node, "Strip")) return read_strip(where, path, node, step);
    if (is(node, "Replace") && plain_pattern(node) && json_is_string(json_object_get(node, "content"))) {
        step->kind = DECODE_REPLACE;
        TRY(only_keys(where, path, node, "type|pattern|content"));
        TRY(copy_text(plain_pattern(node), &step->from));
        return copy_text(json_object_get(node, "content"), &step->to);
    }
    if (is(node, "ByteLevel")) {
        step->kind = DECODE_BYTE_LEVEL;
        return only_keys(where, path, node, "type|add_prefix_space|trim_offsets|use_regex");
    }
    if (!is(node, "ByteFallback") && !is(node, "Fuse")) return not_understood(where, path, node);
    step->kind = is(node, "Fuse") ? DECODE_FUSE : DECODE_BYTE_FALLBACK;
    return only_keys(where, path, node, "type");
}

enum status read_decoder(struct tokenizer_json *t, const char *where, const json_t *node) {
    TRY(each(t, where, "decoder", "decoders", node, read_decode_step));
    if (!node || json_is_null(node)) t->decoder.step[t->decoder.n_steps++].kind = DECODE_SPACES;
    return OK;
}
