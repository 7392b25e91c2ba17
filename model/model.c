/* SPDX-License-Identifier: Apache-2.0 */
#include "model/model.h"
#include <stdio.h>
#include <string.h>
#include "model/block.h"
#include "model/ends.h"
#include "model/mtp.h"
#include "profiling/prof.h"

static enum status declare_ends(struct model *m) {
    const int64_t D = m->config->width, V = m->config->vocab;
    const struct cut rows = {.dim = 0, .parts = split_n(&m->params.split, SPLIT_TENSOR)};
    struct param embedding = {.name = "embedding.weight",
                              .cut[SPLIT_TENSOR] = rows,
                              .shape = {V, D},
                              .n_dims = 2,
                              .init = INIT_NORMAL,
                              .product = true,
                              .decay = true,
                              .n_uses = m->config->tied ? 2 : 1};
    struct param norm = {.name = "final_norm.weight", .shape = {D}, .n_dims = 1, .init = INIT_ONE};
    struct param head = {.name = "head.weight",
                         .cut[SPLIT_TENSOR] = rows,
                         .shape = {V, D},
                         .n_dims = 2,
                         .init = INIT_NORMAL,
                         .product = true,
                         .decay = true};
    TRY(param_add(&m->params, &embedding, &m->embedding));
    TRY(param_add(&m->params, &norm, &m->final_norm));
    m->head = m->embedding;
    return m->config->tied ? OK : param_add(&m->params, &head, &m->head);
}

/* A rank's share of what a symbol says. */
static enum status split_symbol(struct model *m, int i, const struct split *split) {
    const struct layer_symbol *s = &m->config->symbol[i];
    void *mem = NULL;
    if (!s->kind) return OK;
    TRY(mem_take((int64_t)s->kind->config_bytes, &mem));
    m->share[i] = mem;
    if (s->config) memcpy(mem, s->config, s->kind->config_bytes);
    if (split_n(split, SPLIT_TENSOR) == 1 && split_n(split, SPLIT_EXPERT) == 1) return OK;
    FAIL_UNLESS(s->kind->split || split_n(split, SPLIT_TENSOR) == 1, ERR_CONFIG,
                "model.layers.%c: kind %s runs on one rank of mesh.tensor alone", s->symbol, s->kind->name);
    if (!s->kind->split) return OK;
    const enum status st = s->kind->split(mem, split);
    if (st == OK) return OK;
    char reason[512];
    snprintf(reason, sizeof reason, "%s", status_text());
    status_clear();
    FAIL(st, "model.layers.%c (%s): %s", s->symbol, s->kind->name, reason);
}

static bool has_experts(const struct model_config *c, const char *pattern) {
    for (const char *s = pattern; *s; s++) {
        const struct layer_symbol *symbol = model_config_symbol(c, *s);
        if (symbol && symbol->kind && symbol->kind->experts) return true;
    }
    return false;
}

static enum status split_model(struct model *m, const struct split *split) {
    int64_t mine = 0;
    m->params.split = *split;
    TRY(split_units(split, "model.vocab", m->config->vocab, false, &mine));
    for (int i = 0; i < m->config->n_symbols; i++) TRY(split_symbol(m, i, split));
    const char *const later = m->config->mtp.depths > 0 ? m->config->mtp.pattern : "";
    const bool experts = has_experts(m->config, m->config->pattern) || has_experts(m->config, later);
    FAIL_UNLESS(split_n(split, SPLIT_EXPERT) == 1 || experts, ERR_CONFIG,
                "mesh.expert: %d ranks share experts, and model.pattern has none", split_n(split, SPLIT_EXPERT));
    return OK;
}

enum status model_check_split(const struct model_config *config, const struct split *split) {
    struct model m = {.config = config};
    const enum status st = split_model(&m, split);
    model_term(&m);
    return st;
}

static void begin_layer(struct model *m, int i, char symbol, int trunk) {
    const struct layer_symbol *means = model_config_symbol(m->config, symbol);
    ASSERT(means);
    m->layers[i] = (struct layer){.index = i,
                                  .trunk = trunk,
                                  .use = i,
                                  .symbol = means->symbol,
                                  .kind = means->kind,
                                  .config = m->share[means - m->config->symbol],
                                  .whole = means->config,
                                  .split = m->params.split,
                                  .width = m->config->width,
                                  .norm_eps = m->config->norm_eps};
}

enum status model_init(struct model *m, const struct model_config *config, const struct split *split) {
    static const struct split one = {{1, 1}, {0, 0}};
    const struct mtp_config *mtp = &config->mtp;
    void *mem = NULL;
    *m = (struct model){.config = config, .n_layers = (int)strlen(config->pattern)};
    if (mtp->depths > 0) m->mtp = (struct mtp){.depths = (int)mtp->depths, .per = (int)strlen(mtp->pattern)};
    m->n_all = m->n_layers + m->mtp.depths * m->mtp.per;
    TRY(split_model(m, split ? split : &one));
    TRY(mem_take(m->n_all * (int64_t)sizeof *m->layers, &mem));
    m->layers = mem;
    for (int i = 0; i < m->n_layers; i++) {
        begin_layer(m, i, config->pattern[i], 0);
        TRY(block_declare(&m->layers[i], &m->params));
    }
    for (int i = m->n_layers; i < m->n_all; i++)
        begin_layer(m, i, mtp->pattern[(i - m->n_layers) % m->mtp.per], m->n_layers);
    TRY(declare_ends(m));
    return mtp_declare(m);
}

static int64_t gcd(int64_t a, int64_t b) {
    while (b) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

int64_t model_segment(const struct model *m, int64_t tokens_per_sequence) {
    int64_t chunk = 1;
    for (int i = 0; i < m->n_all; i++) {
        const struct layer *l = &m->layers[i];
        const int64_t own = l->kind->chunk ? l->kind->chunk(l) : 1;
        chunk = chunk / gcd(chunk, own) * own;
    }
    const int64_t least = (tokens_per_sequence + 63) / 64;
    return (least + chunk - 1) / chunk * chunk;
}

void model_term(struct model *m) {
    mem_free(m->layers);
    for (int i = 0; i < SYMBOLS_MAX; i++) mem_free(m->share[i]);
    params_term(&m->params);
    *m = (struct model){0};
}

int64_t model_active(const struct model *m) {
    int64_t n = m->params.n_elements;
    const int own = m->config->mtp.shared && m->mtp.depths > 0 ? m->n_layers + m->mtp.per : m->n_all;
    for (int i = 0; i < own; i++)
        if (m->layers[i].kind->idle) n -= m->layers[i].kind->idle(&m->layers[i]);
    return n;
}

/* 2 flops a weight, token and use in each GEMM forward, twice that backward; the embedding is a lookup, and prediction
 * heads have the head again. */
double model_flops_per_token(const struct model *m, int64_t tokens_per_sequence) {
    double forward = 0.0;
    for (int i = 0; i < m->params.n; i++) {
        const struct param *p = &m->params.list[i];
        const int uses = i == m->head ? 1 + m->mtp.depths : i >= m->mtp.first ? p->n_uses : 1;
        if (p->product && p->n_dims == 2 && (i != m->embedding || m->config->tied))
            forward += 2.0 * uses * (double)param_whole(p);
    }
    for (int i = 0; i < m->n_all; i++) forward += m->layers[i].kind->flops(&m->layers[i], tokens_per_sequence);
    return 3.0 * forward;
}

static enum status stop_asked(const struct step *s) {
    if (!s->stop || __atomic_load_n(s->stop, __ATOMIC_RELAXED) == 0) return OK;
    FAIL(ERR_STOPPED, "a signal asked to stop");
}

static enum status forward(struct step *s, const struct model *m, struct activations *a, const struct batch *b,
                           const struct loss_out *out) {
    struct flow f = ends_flow(m, a, &b->shard);
    const bool away = a->away.n_away > 0 && !s->forward_only;
    TRY(s->seams->need(s, -1));
    if (away) TRY(away_open(&a->away, s, 0));
    TRY(ends_embed(s, m, b->ids, &f, m->n_layers ? a->layers[0].slot[FRAME_X].t : a->ends.slot[ENDS_X].t));
    for (int i = 0; i < m->n_layers; i++) {
        TRY(stop_asked(s));
        f.x = a->layers[i].slot[FRAME_X].t;
        const bool last = i + 1 == m->n_layers;
        if (away && !last) TRY(away_open(&a->away, s, i + 1));
        TRY(block_forward(s, &m->layers[i], &f, &a->layers[i],
                          last ? a->ends.slot[ENDS_X].t : a->layers[i + 1].slot[FRAME_X].t));
        if (away) TRY(away_close(&a->away, s, i));
    }
    TRY(ends_loss(s, m, a, b, out));
    return s->forward_only ? OK : mtp_forward(s, m, a, b, out);
}

enum status model_forward(struct step *s, const struct model *m, struct activations *a, const struct batch *b,
                          const struct loss_out *out) {
    prof_begin(PROF_PASS, "forward");
    const enum status st = forward(s, m, a, b, out);
    prof_end();
    return st;
}

/* Layers [first, end) once more, so that backward finds in the shared region what they had there. */
static enum status forward_again(struct step *s, const struct model *m, struct activations *a, struct flow *f,
                                 int first, int end) {
    for (int i = first; i < end && a->shared_bytes > 0; i++) {
        const struct tensor none = {0};
        TRY(stop_asked(s));
        TRY(block_again(s, &m->layers[i], f, &a->layers[i], i + 1 < end ? a->layers[i + 1].slot[FRAME_X].t : none));
    }
    return OK;
}

static enum status backward(struct step *s, const struct model *m, struct activations *a, const struct batch *b) {
    struct flow f = ends_flow(m, a, &b->shard);
    TRY(mtp_backward(s, m, a, b, &f));
    TRY(ends_norm_back(s, m, a, &f));
    for (int i = m->n_layers - 1; i >= 0; i--) {
        TRY(stop_asked(s));
        TRY(away_need(&a->away, s, i));
        if (i + 1 == m->n_layers || (i + 1) % a->group == 0)
            TRY(forward_again(s, m, a, &f, i / a->group * a->group, i + 1));
        TRY(block_backward(s, &m->layers[i], &f, &a->layers[i]));
        TRY(away_done(&a->away, s, i));
    }
    TRY(ends_embed_back(s, m, b->ids, &f, f.dx));
    return s->seams->done(s, -1);
}

enum status model_backward(struct step *s, const struct model *m, struct activations *a, const struct batch *b) {
    ASSERT(!a->forward_only);
    prof_begin(PROF_PASS, "backward");
    const enum status st = backward(s, m, a, b);
    prof_end();
    return st;
}
