/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_CONFIG_H
#define BATON_MODEL_CONFIG_H
/* config.h - the model a configuration describes: sizes, and a layer schedule with a table of what each symbol means.
 */
#include "base/field.h"
#include "model/layer.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SYMBOLS_MAX 32
#define LAYERS_MAX  1024

struct layer_symbol {
    char symbol;
    const struct mixer_kind *kind;
    void *config; /* kind->config_bytes, owned */
};
/* Multi-token prediction: heads behind the stack that predict further tokens (mtp.h). */
#define MTP_DEPTHS_MAX 8
struct mtp_config {
    char *pattern;  /* layers of one depth; owned       */
    int64_t depths; /* further tokens; 0: none          */
    bool shared;    /* all depths have the same weights */
    double weight;  /* of their mean loss               */
};
struct model_config {
    int64_t width, vocab;
    bool tied; /* one matrix for embedding and head                         */
    double norm_eps, init_std;
    char *pattern; /* the stack, one symbol a layer, short forms resolved; owned */
    int n_symbols;
    struct layer_symbol symbol[SYMBOLS_MAX];
    struct mtp_config mtp;
};
extern const struct field model_fields[]; /* width, vocab, tied, norm_eps, init_std: the scalar keys under `model` */
extern const struct field mtp_fields[];   /* model.mtp */

/* A symbol is a printable ASCII character, but none of: space, | (a pipeline cut, not supported yet) and / (multi-token
 * prediction, which has a key of its own), both of the notation, . and = (they would make overrides ambiguous). */
bool symbol_allowed(char symbol);

const struct layer_symbol *model_config_symbol(const struct model_config *c, char symbol);
void model_config_term(struct model_config *c);

/* One mixer + feed-forward pair of the ratio form: with 1/n, pair i has the rarer symbol where i mod n is n/2 (rounded
 * down) for attention and n - 1 for experts.  Symbols are the table's first of each kind. */
struct pattern_ratio {
    int64_t attention_every, moe_every; /* n of 1/n; 0: none */
    int64_t pairs;
};
enum status pattern_repeat(const char *unit, int64_t times, char **out);
enum status pattern_from_ratio(const struct model_config *c, const struct pattern_ratio *r, char **out);

#ifdef __cplusplus
}
#endif
#endif
