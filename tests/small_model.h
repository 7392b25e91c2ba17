/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_SMALL_MODEL_H
#define BATON_TESTS_SMALL_MODEL_H
/* small_model.h - small models out of a layer table in text, for tests. */
#include <string.h>
#include "base/rng.h"
#include "launch/runner.h"
#include "tests/check.h"

/* "M=mamba2 heads=4 head_width=8": one symbol, its kind and its fields. */
static void small_symbol(struct model_config *c, const char *text) {
    char word[256];
    struct layer_symbol *s = &c->symbol[c->n_symbols++];
    const char *at = text + 2;
    s->symbol = text[0];
    for (int n = 0; sscanf(at, " %255s%n", word, &n) == 1; at += n) {
        char *equal = strchr(word, '=');
        if (!equal) {
            void *mem = NULL;
            s->kind = mixer_kind_find(word);
            CHECK(s->kind, "no kind %s", word);
            MUST(mem_take((int64_t)s->kind->config_bytes, &mem));
            s->config = mem;
            MUST(field_defaults(s->kind->fields, s->config));
            continue;
        }
        *equal = '\0';
        const struct field *f = field_find(s->kind->fields, word);
        CHECK(f, "no field %s of %s", word, s->kind->name);
        MUST(field_set(f, s->config, equal + 1));
    }
}

static inline void small_model(struct model_config *c, const char *pattern, int64_t width, int64_t vocab, bool tied,
                               const char *const *symbols) {
    *c = (struct model_config){.width = width, .vocab = vocab, .tied = tied, .norm_eps = 1e-5, .init_std = 0.1};
    MUST(mem_copy_text(pattern, &c->pattern));
    for (; *symbols; symbols++) {
        small_symbol(c, *symbols);
        MUST(c->symbol[c->n_symbols - 1].kind->check(c->symbol[c->n_symbols - 1].config, width));
    }
}

/* Every parameter drawn, so that each matters: weights around 0, norms and D around 1, decays and dt as trained. */
static inline void small_params(struct runner *r, uint64_t seed) {
    MUST(runner_init_params(r, seed));
    for (int i = 0; i < r->model.params.n; i++) {
        struct param *p = &r->model.params.list[i];
        const double width = p->init == INIT_A_LOG || p->init == INIT_DT_BIAS ? 0.0 : p->init == INIT_ZERO ? 0.1 : 0.05;
        for (int64_t j = 0; j < param_count(p); j++) {
            const double noise = width * rng_normal(seed + 1, rng_stream(p->name), (uint64_t)j);
            if (p->w.dtype == F64) ((double *)p->w.data)[j] += noise;
            else ((float *)p->w.data)[j] += (float)noise;
        }
    }
}

/* Random tokens cut into random documents; about one target in twenty is missing. */
static inline void small_batch(struct runner *r, uint64_t seed) {
    const int64_t S = r->spec.tokens, T = r->spec.n_sequences * S;
    int64_t valid = 0;
    for (int64_t t = 0; t < T; t++) {
        const bool starts = t % S == 0 || rng_uniform(seed, 1, (uint64_t)t) < 0.06;
        r->pos[t] = starts ? 0 : r->pos[t - 1] + 1;
        r->ids[t] = (int32_t)(rng_bits(seed, 2, (uint64_t)t) % (uint64_t)r->model.config->vocab);
        r->targets[t] = rng_uniform(seed, 3, (uint64_t)t) < 0.05
                            ? -1
                            : (int32_t)(rng_bits(seed, 4, (uint64_t)t) % (uint64_t)r->model.config->vocab);
        valid += r->targets[t] >= 0;
    }
    r->scale = valid > 0 ? 1.0 / (double)valid : 0.0;
    int64_t later[MTP_DEPTHS_MAX];
    runner_later_count(r, r->targets, r->pos, T, later);
    runner_later_scales(r, later);
}

#endif
