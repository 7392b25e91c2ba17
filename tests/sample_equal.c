/* SPDX-License-Identifier: Apache-2.0 */
/* Generation is the same mathematics: logits token by token, with what lies before kept by seams_cached, equal the
 * logits of the whole sequence in one pass, in F64 near rounding. */
#define _DEFAULT_SOURCE
#include "base/arena.h"
#include "base/rng.h"
#include "launch/runner.h"
#include "tests/check.h"

enum { VOCAB = 17, TOKENS = 53, SYMBOLS = 3, BOUND_DIGITS = 10 };

struct symbol_row {
    char symbol;
    const char *kind, *keys; /* keys: "name=value name=value" */
};
struct equal_case {
    const char *why, *pattern;
    struct symbol_row row[SYMBOLS];
    bool tied;
    int document; /* token where a second document begins; 0: none */
};
#define MAMBA                                                                                                          \
    { 'M', "mamba2", "heads=4 head_width=8 state=6 groups=2 chunk=8" }
#define MAMBA_SMALL                                                                                                    \
    { 'M', "mamba2", "heads=2 head_width=4 state=3 chunk=64 conv=2 conv_bias=false" }
#define SELECTIVE                                                                                                      \
    { 'S', "mamba1", "inner=20 state=5 chunk=8" }
#define ATTENTION                                                                                                      \
    { '*', "attention", "heads=4 kv_heads=2 head_width=6" }
#define MLP                                                                                                            \
    { '-', "mlp", "hidden=20 activation=swiglu" }

static const struct equal_case cases[] = {
    {"mamba2", "M", {MAMBA}, false, 0},
    {"mamba2, one chunk holds all, two taps, one group", "MM", {MAMBA_SMALL}, false, 0},
    {"mamba2 without a convolution to speak of",
     "M",
     {{'M', "mamba2", "heads=2 head_width=4 state=4 conv=1 chunk=5"}},
     false,
     0},
    {"mamba2 with biases, limits of dt and a norm over all channels",
     "MM",
     {{'M', "mamba2", "heads=4 head_width=4 state=5 groups=4 chunk=16 bias=true dt_min=0.01 dt_max=0.5 norm_group=16"}},
     false,
     0},
    {"mamba1", "S", {SELECTIVE}, false, 0},
    {"mamba1 with learned norms and biases, a second document",
     "SS",
     {{'S', "mamba1", "inner=18 state=4 dt_rank=3 chunk=64 conv=2 norms=learned bias=true"}},
     false,
     21},
    {"mamba1 with plain norms, without a convolution to speak of",
     "S*",
     {{'S', "mamba1", "inner=9 state=3 conv=1 norms=plain"}, ATTENTION},
     true,
     0},
    {"attention", "*", {ATTENTION}, false, 0},
    {"attention with one key head, rotary positions and biases",
     "**",
     {{'*', "attention", "heads=4 kv_heads=1 head_width=8 rope=1 bias=true"}},
     false,
     0},
    {"attention in a window, half of each head rotated",
     "**",
     {{'*', "attention", "heads=2 kv_heads=2 head_width=8 rope=0.5 rope_theta=100 window=7"}},
     false,
     0},
    {"mlp, gated", "-", {MLP}, false, 0},
    {"mlp, squared relu with biases", "--", {{'-', "mlp", "hidden=20 activation=relu2 bias=true"}}, false, 0},
    {"experts", "-E", {{'E', "moe", "experts=5 top_k=2 hidden=9 shared=7"}, MLP}, false, 0},
    {"experts that take the first tokens of a sequence",
     "-E",
     {{'E', "moe", "experts=5 top_k=2 hidden=9 shared=7 capacity=4"}, MLP},
     false,
     0},
    {"experts with a latent projection",
     "EM",
     {{'E', "moe", "experts=6 top_k=3 hidden=9 latent=7 activation=relu2 scores=sigmoid renormalise=true bias=true"},
      MAMBA},
     false,
     0},
    {"a hybrid", "M-M*-M-", {MAMBA, ATTENTION, MLP}, false, 0},
    {"a hybrid with one matrix for embedding and head", "M*-", {MAMBA, ATTENTION, MLP}, true, 0},
    {"a second document", "M-*-M", {MAMBA, ATTENTION, MLP}, false, 21},
};

static void set_keys(const struct mixer_kind *kind, void *config, const char *keys) {
    char text[256], *rest = text;
    snprintf(text, sizeof text, "%s", keys);
    for (char *word; (word = strsep(&rest, " "));) {
        char *equal = strchr(word, '=');
        *equal = '\0';
        const struct field *f = field_find(kind->fields, word);
        CHECK(f, "kind %s has no key %s", kind->name, word);
        MUST(field_set(f, config, equal + 1));
    }
}

static void make_config(const struct equal_case *e, struct model_config *c) {
    *c = (struct model_config){.width = 12, .vocab = VOCAB, .tied = e->tied, .norm_eps = 1e-5, .init_std = 0.3};
    MUST(mem_copy_text(e->pattern, &c->pattern));
    for (int i = 0; i < SYMBOLS && e->row[i].symbol; i++) {
        struct layer_symbol *s = &c->symbol[c->n_symbols++];
        s->symbol = e->row[i].symbol;
        s->kind = mixer_kind_find(e->row[i].kind);
        CHECK(s->kind, "no kind %s", e->row[i].kind);
        MUST(mem_take((int64_t)s->kind->config_bytes, &s->config));
        MUST(field_defaults(s->kind->fields, s->config));
        set_keys(s->kind, s->config, e->row[i].keys);
        MUST(s->kind->check(s->config, c->width));
    }
}

/* Norms, biases and D start at 0 or 1: moved, so that none of them can be left out unseen. */
static void fill_params(struct runner *r) {
    MUST(runner_init_params(r, 3));
    for (int i = 0; i < r->model.params.n; i++) {
        const struct param *p = &r->model.params.list[i];
        double *w = p->w.data;
        for (int64_t j = 0; j < param_count(p); j++) w[j] += 0.2 * rng_normal(4, rng_stream(p->name), (uint64_t)j);
    }
}

static int32_t token_at(uint64_t sequence, int64_t t) { return (int32_t)(rng_bits(5, sequence, (uint64_t)t) % VOCAB); }

static void whole_logits(struct runner *r, const struct equal_case *e, uint64_t sequence) {
    for (int64_t t = 0; t < TOKENS; t++) r->ids[t] = token_at(sequence, t);
    runner_plain_targets(r);
    for (int64_t t = e->document; t < TOKENS; t++) r->pos[t] = t - e->document;
    MUST(runner_pass(r, false));
}

static void compare(const struct equal_case *e, struct runner *whole, struct runner *cached, uint64_t sequence) {
    double worst = 0.0;
    whole_logits(whole, e, sequence);
    for (int64_t t = 0; t < TOKENS; t++) {
        const double *want = (const double *)whole->out.logits.data + t * VOCAB, *got = cached->out.logits.data;
        MUST(runner_token(cached, token_at(sequence, t), whole->pos[t]));
        for (int v = 0; v < VOCAB; v++) {
            const double off = fabs(got[v] - want[v]);
            CHECK(off <= pow(10.0, -BOUND_DIGITS) * fmax(1.0, fabs(want[v])),
                  "%s: sequence %d, token %d, logit %d: %.17g, not %.17g", e->why, (int)sequence, (int)t, v, got[v],
                  want[v]);
            worst = fmax(worst, fabs(want[v]));
        }
    }
    CHECK(worst > 0.1, "%s: logits of at most %g tell nothing", e->why, worst);
}

static void check_case(const struct equal_case *e) {
    struct model_config c;
    struct runner whole, cached;
    make_config(e, &c);
    struct runner_spec spec = {
        .precision = PRECISION_F64, .threads = 2, .n_sequences = 1, .tokens = TOKENS, .tile = 16, .logits = true};
    MUST(runner_init(&whole, &c, &spec, false));
    fill_params(&whole);
    spec.weights_of = &whole;
    spec.tokens = spec.tile = 1;
    spec.cache_tokens = TOKENS;
    MUST(runner_init(&cached, &c, &spec, false));
    /* The second sequence begins with the state of the first still in memory. */
    for (uint64_t sequence = 0; sequence < 2; sequence++) compare(e, &whole, &cached, sequence);
    runner_term(&cached);
    runner_term(&whole);
    model_config_term(&c);
}

/* One token more than memory was kept for is refused, where there is attention to keep keys. */
static void check_too_long(void) {
    static const struct equal_case e = {"too long", "*", {ATTENTION}, false, 0};
    struct model_config c;
    struct runner r;
    make_config(&e, &c);
    MUST(runner_init(&r, &c,
                     &(struct runner_spec){.precision = PRECISION_F64,
                                           .threads = 1,
                                           .n_sequences = 1,
                                           .tokens = 1,
                                           .tile = 1,
                                           .logits = true,
                                           .cache_tokens = 4},
                     false));
    for (int64_t t = 0; t < 4; t++) MUST(runner_token(&r, 1, t));
    CHECK(runner_token(&r, 1, 4) == ERR_ARG, "a fifth token in a memory of four: %s", status_text());
    MUST(runner_token(&r, 1, 0));
    runner_term(&r);
    model_config_term(&c);
}

int main(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(&cases[i]);
    check_too_long();
    return check_end();
}
