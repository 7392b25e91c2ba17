/* SPDX-License-Identifier: Apache-2.0 */
#include "model/config.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/arena.h"

#define AT(key) offsetof(struct model_config, key)
const struct field model_fields[] = {
    {"width", FIELD_INT, AT(width), NULL, 1, 1 << 20, NULL, "channels of the residual stream", false},
    {"vocab", FIELD_INT, AT(vocab), NULL, 2, 1 << 24, NULL, "tokens of the vocabulary", false},
    {"tied", FIELD_BOOL, AT(tied), "false", 0, 0, NULL, "one matrix for embedding and head", false},
    {"norm_eps", FIELD_REAL, AT(norm_eps), "1e-5", 1e-30, 1, NULL, "epsilon of the norms", false},
    {"init_std", FIELD_REAL, AT(init_std), "0.02", 0, 1e3, NULL, "deviation of the initial weights", false},
    FIELDS_END};

#undef AT
#define AT(key) offsetof(struct mtp_config, key)
const struct field mtp_fields[] = {
    {"pattern", FIELD_TEXT, AT(pattern), NULL, 0, 0, NULL, "the layers that predict one further token", false},
    {"depths", FIELD_INT, AT(depths), "1", 0, MTP_DEPTHS_MAX, NULL, "further tokens that are predicted", false},
    {"shared", FIELD_BOOL, AT(shared), "false", 0, 0, NULL, "one set of weights for all depths", false},
    {"weight", FIELD_REAL, AT(weight), "0.1", 0, 1e3, NULL, "of the depths' mean loss beside that of the next token",
     false},
    FIELDS_END};

const struct layer_symbol *model_config_symbol(const struct model_config *c, char symbol) {
    for (int i = 0; i < c->n_symbols; i++)
        if (c->symbol[i].symbol == symbol) return &c->symbol[i];
    return NULL;
}

void model_config_term(struct model_config *c) {
    for (int i = 0; i < c->n_symbols; i++) {
        struct layer_symbol *s = &c->symbol[i];
        if (s->kind && s->config) field_term(s->kind->fields, s->config);
        mem_free(s->config);
    }
    mem_free(c->pattern);
    mem_free(c->mtp.pattern);
    *c = (struct model_config){0};
}

bool symbol_allowed(char symbol) { return symbol > ' ' && symbol <= '~' && !strchr("|/.=", symbol); }

static enum status check_length(int64_t n_layers) {
    FAIL_UNLESS(n_layers >= 1, ERR_CONFIG, "the stack has no layer");
    FAIL_UNLESS(n_layers <= LAYERS_MAX, ERR_CONFIG, "%" PRId64 " layers, at most %d", n_layers, LAYERS_MAX);
    return OK;
}

enum status pattern_repeat(const char *unit, int64_t times, char **out) {
    void *mem = NULL;
    int64_t n_layers = 0;
    *out = NULL;
    const size_t n = strlen(unit);
    FAIL_UNLESS(times >= 0 && times <= LAYERS_MAX && n <= LAYERS_MAX, ERR_CONFIG,
                "%zu symbols %" PRId64 " times, at most %d layers", n, times, LAYERS_MAX);
    n_layers = (int64_t)n * times;
    TRY(check_length(n_layers));
    TRY(mem_take(n_layers + 1, &mem));
    for (int64_t i = 0; i < times; i++) memcpy((char *)mem + i * (int64_t)n, unit, n);
    *out = mem;
    return OK;
}

/* What a kind does in a mixer + feed-forward pair. */
enum role { ROLE_MIXER, ROLE_ATTENTION, ROLE_MLP, ROLE_MOE, N_ROLES };

static enum role role_of(const char *kind) {
    if (!strcmp(kind, "attention")) return ROLE_ATTENTION;
    if (!strcmp(kind, "mlp")) return ROLE_MLP;
    return strcmp(kind, "moe") ? ROLE_MIXER : ROLE_MOE;
}

static enum status need_role(const char symbol[N_ROLES], enum role role, const char *what) {
    FAIL_UNLESS(symbol[role], ERR_CONFIG, "wants %s in the layer table, which has none", what);
    return OK;
}

enum status pattern_from_ratio(const struct model_config *c, const struct pattern_ratio *r, char **out) {
    static const char *const what[N_ROLES] = {"a mixer beside attention", "a layer of kind attention",
                                              "a layer of kind mlp", "a layer of kind moe"};
    char symbol[N_ROLES] = {0};
    void *mem = NULL;
    *out = NULL;
    ASSERT(r->attention_every >= 0 && r->moe_every >= 0);
    FAIL_UNLESS(r->pairs >= 1 && r->pairs <= LAYERS_MAX / 2, ERR_CONFIG,
                "%" PRId64 " pairs of layers, wants 1 to %d of them", r->pairs, LAYERS_MAX / 2);
    for (int i = c->n_symbols - 1; i >= 0; i--)
        if (c->symbol[i].kind) symbol[role_of(c->symbol[i].kind->name)] = c->symbol[i].symbol;
    const bool some[N_ROLES] = {r->attention_every != 1, r->attention_every > 0, r->moe_every != 1, r->moe_every > 0};
    for (enum role role = 0; role < N_ROLES; role++)
        if (some[role]) TRY(need_role(symbol, role, what[role]));
    TRY(mem_take(2 * r->pairs + 1, &mem));
    char *p = mem;
    for (int64_t i = 0; i < r->pairs; i++) {
        const bool attention = r->attention_every && i % r->attention_every == r->attention_every / 2;
        const bool moe = r->moe_every && i % r->moe_every == r->moe_every - 1;
        *p++ = symbol[attention ? ROLE_ATTENTION : ROLE_MIXER];
        *p++ = symbol[moe ? ROLE_MOE : ROLE_MLP];
    }
    *out = mem;
    return OK;
}
