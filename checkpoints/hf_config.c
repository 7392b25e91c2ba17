/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include "checkpoints/hf_family.h"

#define CONFIG_BYTES ((int64_t)64 << 20)

/* Length of a bare word at p that JSON does not know and Python writes; 0: none. */
static int64_t bare_word(const char *p) {
    static const char *const words[] = {"Infinity", "-Infinity", "NaN"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strncmp(p, words[i], strlen(words[i]))) return (int64_t)strlen(words[i]);
    return 0;
}

static enum status quote_bare_words(const char *text, int64_t bytes, struct text *out) {
    bool inside = false;
    for (int64_t i = 0; i < bytes; i++) {
        const int64_t word = inside ? 0 : bare_word(text + i); /* text ends with a NUL */
        if (word) {
            TRY(text_print(out, "\"%.*s\"", (int)word, text + i));
            i += word - 1;
            continue;
        }
        if (inside && text[i] == '\\' && i + 1 < bytes) TRY(text_add(out, text + i++, 1));
        else if (text[i] == '"') inside = !inside;
        TRY(text_add(out, text + i, 1));
    }
    return OK;
}

enum status hf_config_read(const char *path, json_t **out) {
    char *text = NULL;
    int64_t bytes = 0;
    struct text clean = {0};
    *out = NULL;
    TRY(file_read(path, CONFIG_BYTES, &text, &bytes));
    enum status st = quote_bare_words(text, bytes, &clean);
    file_free(text);
    if (st == OK) st = json_read_text(path, clean.s ? clean.s : "", clean.n, out);
    text_term(&clean);
    TRY(st);
    if (json_is_object(*out)) return OK;
    json_decref(*out);
    *out = NULL;
    FAIL(ERR_DATA, "%s: not an object", path);
}

static bool given(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    return v && !json_is_null(v);
}

enum status hf_refuse_present(const struct hf_source *s, const char *key) {
    FAIL_UNLESS(!given(s->root, key), ERR_DATA, "%s: \"%s\" is set, and this program cannot honour it", s->where, key);
    return OK;
}

enum status hf_refuse_other_text(const struct hf_source *s, const char *key, const char *fallback,
                                 const char *const *known, const char **value) {
    TRY(json_text_or(s->where, s->root, key, fallback, value));
    for (int i = 0; known[i]; i++)
        if (!strcmp(known[i], *value)) return OK;
    FAIL(ERR_DATA, "%s: \"%s\": \"%s\" is not known here", s->where, key, *value);
}

static bool says_nothing(const json_t *v) {
    return json_is_null(v) || json_is_false(v) || (json_is_number(v) && json_number_value(v) == 0.0);
}

enum status hf_refuse_unknown_router(const struct hf_source *s, const char *const *known) {
    static const char *const words[] = {"expert", "rout", "moe", "topk", "top_k", "scoring", "gate", "gating"};
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)s->root, key, value) {
        bool router = false, ours = says_nothing(value);
        for (size_t i = 0; i < sizeof words / sizeof *words; i++) router |= strstr(key, words[i]) != NULL;
        for (int i = 0; known[i]; i++) ours |= !strcmp(known[i], key);
        FAIL_UNLESS(!router || ours, ERR_DATA,
                    "%s: \"%s\" is set, and this program does not know what it does to experts", s->where, key);
    }
    return OK;
}

enum status hf_int(const struct hf_source *s, const char *key, const char *older, int64_t *out) {
    const char *which = older && !given(s->root, key) ? older : key;
    if (!given(s->root, which)) FAIL(ERR_DATA, "%s: \"%s\" is missing", s->where, key);
    TRY(json_int(s->where, s->root, which, out));
    FAIL_UNLESS(*out > 0, ERR_DATA, "%s: \"%s\" is %" PRId64 ", not above 0", s->where, which, *out);
    return OK;
}

/* `rope` describes positions in the newer (rope_parameters) or older (rope_scaling) place: only the plain kind is
 * known. */
static enum status check_rope(const struct hf_source *s, const char *place, const json_t *rope) {
    const char *kind = NULL;
    double part = 1.0;
    if (!rope || json_is_null(rope)) return OK;
    FAIL_UNLESS(json_is_object(rope), ERR_DATA, "%s: \"%s\" is not an object", s->where, place);
    TRY(json_text_or(s->where, rope, "type", "default", &kind));
    TRY(json_text_or(s->where, rope, "rope_type", kind, &kind));
    FAIL_UNLESS(!strcmp(kind, "default"), ERR_DATA, "%s: \"%s\": positions of type \"%s\" are not known here", s->where,
                place, kind);
    TRY(json_real_or(s->where, rope, "partial_rotary_factor", 1.0, &part));
    FAIL_UNLESS(part == 1.0, ERR_DATA, "%s: \"%s\": this family rotates whole heads, partial_rotary_factor says %g",
                s->where, place, part);
    return OK;
}

enum status hf_rope_theta(const struct hf_source *s, double *theta) {
    const json_t *newer = json_object_get(s->root, "rope_parameters");
    double part = 1.0;
    TRY(check_rope(s, "rope_parameters", newer));
    TRY(check_rope(s, "rope_scaling", json_object_get(s->root, "rope_scaling")));
    TRY(json_real_or(s->where, s->root, "partial_rotary_factor", 1.0, &part));
    FAIL_UNLESS(part == 1.0, ERR_DATA, "%s: \"partial_rotary_factor\" is %g: this family rotates whole heads", s->where,
                part);
    TRY(json_real_or(s->where, s->root, "rope_theta", 10000.0, theta));
    if (newer && !json_is_null(newer)) TRY(json_real_or(s->where, newer, "rope_theta", *theta, theta));
    FAIL_UNLESS(*theta > 0.0 && isfinite(*theta), ERR_DATA, "%s: \"rope_theta\" is %g", s->where, *theta);
    return OK;
}

enum status hf_dt_limit(const struct hf_source *s, double *low, double *high) {
    const char *key = given(s->root, "mamba_dt_limit") ? "mamba_dt_limit" : "time_step_limit";
    const json_t *pair = json_object_get(s->root, key);
    *low = 0.0;
    *high = INFINITY;
    if (!pair || json_is_null(pair)) return OK;
    FAIL_UNLESS(json_is_array(pair) && json_array_size(pair) == 2, ERR_DATA, "%s: \"%s\" is not a pair", s->where, key);
    json_t *both = json_pack("{s:O, s:O}", "low", json_array_get(pair, 0), "high", json_array_get(pair, 1));
    FAIL_UNLESS(both, ERR_OOM, "%s: no memory", s->where);
    enum status st = json_real_or(s->where, both, "low", *low, low);
    if (st == OK) st = json_real_or(s->where, both, "high", *high, high);
    json_decref(both);
    TRY(st);
    FAIL_UNLESS(*low >= 0.0 && *high > *low, ERR_DATA, "%s: \"%s\" runs from %g to %g", s->where, key, *low, *high);
    return OK;
}

enum status hf_yaml(const struct hf_source *s, const struct hf_model *m, struct text *yaml) {
    int64_t width = 0, vocab = 0;
    bool tied = false;
    double std = 0.02;
    char eps[32], dev[32];
    TRY(hf_int(s, "hidden_size", NULL, &width));
    TRY(hf_int(s, "vocab_size", NULL, &vocab));
    TRY(json_bool_or(s->where, s->root, "tie_word_embeddings", m->tied, &tied));
    TRY(json_real_or(s->where, s->root, "initializer_range", 0.02, &std));
    json_print_real(eps, m->norm_eps);
    json_print_real(dev, std);
    return text_print(yaml,
                      "model:\n  width: %" PRId64 "\n  vocab: %" PRId64
                      "\n  tied: %s\n  norm_eps: %s\n  init_std: %s\n  pattern: \"%s\"\n  layers:\n%s",
                      width, vocab, tied ? "true" : "false", eps, dev, m->pattern.s, m->layers.s);
}
