/* SPDX-License-Identifier: Apache-2.0 */
/* Text that continues a prompt: one token at a time, with what lies before it kept by seams_cached. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/rng.h"
#include "data/tokenizer.h"
#include "kernels/space.h"
#include "launch/eval.h"
#include "profiling/prof.h"

struct sample_options {
    int64_t tokens, seed;
    struct eval_choice choice;
    char *tokenizer;
};
#define AT(key) offsetof(struct sample_options, key)
static const struct field fields[] = {
    {"tokens", FIELD_INT, AT(tokens), "200", 1, 1e12, NULL, "tokens to make", true},
    {"temperature", FIELD_REAL, AT(choice.temperature), "0.8", 0, 1e6, NULL, "0: the likeliest token", true},
    {"top_k", FIELD_INT, AT(choice.top_k), "40", 0, 1e12, NULL, "choose among so many; 0: all", true},
    {"seed", FIELD_INT, AT(seed), "1", 0, 9e15, NULL, "of the draws", true},
    {"tokenizer", FIELD_TEXT, AT(tokenizer), "", 0, 0, NULL, "bytes, or a tokenizer.json", true},
    FIELDS_END};

struct sample {
    const struct sample_options *o;
    struct eval_model *model;
    struct tokenizer *tokenizer;
    struct token_list tokens; /* prompt, then what was made     */
    struct runner run;
    struct eval_logit *order; /* (V) scratch of eval_choose     */
    double *logits;           /* (V) of the newest token        */
    int64_t window, printed;  /* tokens: see print_new          */
};

static int larger_first(const void *a, const void *b) {
    const struct eval_logit *x = a, *y = b;
    if (x->value != y->value) return x->value < y->value ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* The k largest come first, in order.  The others are only looked at, for k is small and n a vocabulary. */
static void select_largest(struct eval_logit *order, int64_t n, int64_t k) {
    qsort(order, (size_t)k, sizeof *order, larger_first);
    for (int64_t i = k; i < n; i++) {
        const struct eval_logit new = order[i];
        int64_t at = k;
        while (at > 0 && larger_first(&new, &order[at - 1]) < 0) at--;
        if (at == k) continue;
        memmove(order + at + 1, order + at, (size_t)(k - 1 - at) * sizeof *order);
        order[at] = new;
    }
}

int32_t eval_choose(const struct eval_choice *how, struct eval_logit *order, int64_t n, double u) {
    double sum = 0.0, passed = 0.0;
    int64_t k = how->top_k > 0 && how->top_k < n ? how->top_k : n;
    if (how->temperature == 0.0) k = 1;
    select_largest(order, n, k);
    if (k == 1) return order[0].id;
    for (int64_t i = 0; i < k; i++) sum += exp((order[i].value - order[0].value) / how->temperature);
    for (int64_t i = 0; i < k; i++) {
        passed += exp((order[i].value - order[0].value) / how->temperature);
        if (u * sum < passed) return order[i].id;
    }
    return order[k - 1].id; /* u * sum rounded up to the whole */
}

static enum status next_token(struct sample *s, int32_t *out) {
    const struct tensor logits = s->run.out.logits;
    const int64_t V = logits.shape[1], i = s->tokens.n;
    TRY(space_numbers(&s->run.ctx, logits, s->logits));
    for (int64_t v = 0; v < V; v++) {
        FAIL_UNLESS(isfinite(s->logits[v]), ERR_DATA,
                    "the model's logits are not finite at token %" PRId64 ": its parameters are damaged", i);
        s->order[v] = (struct eval_logit){s->logits[v], (int32_t)v};
    }
    const double u = rng_uniform((uint64_t)s->o->seed, rng_stream("sample"), (uint64_t)i);
    *out = eval_choose(&s->o->choice, s->order, V, u);
    return OK;
}

static enum status add_token(struct token_list *l, int32_t id) {
    if (l->n == l->room) {
        void *p = l->id;
        const int64_t room = l->room ? 2 * l->room : 256;
        TRY(mem_grow(&p, l->room * 4, room * 4));
        l->id = p;
        l->room = room;
    }
    l->id[l->n++] = id;
    return OK;
}

/* Bytes at the end of the text that begin a UTF-8 character and do not finish it. */
static int64_t unfinished(const struct text *t) {
    for (int64_t back = 1; back <= 3 && back <= t->n; back++) {
        const unsigned char c = (unsigned char)t->s[t->n - back];
        if (c >= 0xf0) return back < 4 ? back : 0;
        if (c >= 0xe0) return back < 3 ? back : 0;
        if (c >= 0xc0) return back < 2 ? back : 0;
        if (c < 0x80) return 0;
    }
    return 0;
}

static bool ends_with_replacement(const struct text *t) {
    return t->n >= 3 && !memcmp(t->s + t->n - 3, "\xef\xbf\xbd", 3);
}

/* A token's text can depend on its neighbours (spaces, characters of several tokens).  So the tokens of a short window
 * are decoded with and without the new ones, and the difference is printed once its last character is whole. */
static enum status print_new(struct sample *s, bool last) {
    enum status st = OK;
    struct text before = {0}, with = {0};
    const int32_t *id = s->tokens.id + s->window;
    TRY_OUT(tokenizer_decode(s->tokenizer, id, s->printed - s->window, &before));
    TRY_OUT(tokenizer_decode(s->tokenizer, id, s->tokens.n - s->window, &with));
    const bool whole = unfinished(&with) == 0 && !ends_with_replacement(&with);
    if ((!whole && !last && s->tokens.n - s->printed < 8) || with.n < before.n) goto out;
    fwrite(with.s + before.n, 1, (size_t)(with.n - before.n), stdout);
    fflush(stdout);
    s->window = s->printed;
    s->printed = s->tokens.n;
out:
    text_term(&before);
    text_term(&with);
    return st;
}

static enum status generate(struct sample *s) {
    const int64_t prompt = s->tokens.n, end = prompt + s->o->tokens;
    const double begin_s = prof_seconds();
    for (int64_t i = 0; i + 1 < end; i++) {
        TRY(runner_token(&s->run, s->tokens.id[i], i));
        if (i + 1 < s->tokens.n) continue;
        int32_t id = 0;
        TRY(next_token(s, &id));
        TRY(add_token(&s->tokens, id));
        TRY(print_new(s, s->tokens.n == end));
    }
    const double seconds = prof_seconds() - begin_s;
    fflush(stdout);
    fprintf(stderr, "\n%" PRId64 " tokens after a prompt of %" PRId64 ": %.1f tokens/s\n", s->o->tokens, prompt,
            (double)(end - 1) / seconds);
    return OK;
}

/* The tokenizer named, or the one the model implies. */
static enum status open_tokenizer(struct sample *s) {
    char path[PATH_BYTES];
    const int64_t V = s->model->config.model.vocab;
    TRY(path_print(path, "%s/tokenizer.json", s->model->path));
    const char *how = s->o->tokenizer;
    if (!*how) how = V == 256 ? "bytes" : path;
    FAIL_UNLESS(how != path || file_exists(path), ERR_CONFIG,
                "the vocabulary is %" PRId64 ", not that of bytes, and %s does not exist: add tokenizer=FILE", V, path);
    TRY(tokenizer_open(&s->tokenizer, how));
    FAIL_UNLESS(tokenizer_vocab(s->tokenizer) <= V, ERR_CONFIG,
                "tokenizer %s has %" PRId64 " tokens, the model %" PRId64 ": it is not this model's", how,
                tokenizer_vocab(s->tokenizer), V);
    return OK;
}

static enum status read_prompt(struct sample *s, const struct eval_files *files) {
    char *text = NULL;
    int64_t bytes = 0;
    enum status st = OK;
    FAIL_UNLESS(!files->prompt || !files->prompt_file, ERR_CONFIG, "--prompt and --prompt-file: give one of the two");
    if (files->prompt_file) TRY(file_read(files->prompt_file, (int64_t)1 << 30, &text, &bytes));
    const char *prompt = files->prompt_file ? text : files->prompt ? files->prompt : "\n";
    if (!files->prompt_file) bytes = (int64_t)strlen(prompt);
    st = tokenizer_encode(s->tokenizer, NULL, prompt, bytes, &s->tokens);
    if (st == OK && s->tokens.n == 0)
        st = status_fail(ERR_CONFIG, __FILE__, __LINE__, "the prompt is empty: a sample continues at least one token");
    if (st == OK) {
        fwrite(prompt, 1, (size_t)bytes, stdout);
        fflush(stdout);
    }
    s->printed = s->tokens.n;
    s->window = s->printed > 8 ? s->printed - 8 : 0;
    file_free(text);
    return st;
}

static enum status load_model(struct sample *s) {
    const struct config *c = &s->model->config;
    const struct runner_spec spec = {.precision = c->train.precision,
                                     .plain = c->kernels.plain == PLAIN_ALLOW,
                                     .device = s->model->device,
                                     .threads = c->train.threads,
                                     .n_sequences = 1,
                                     .tokens = 1,
                                     .tile = 1,
                                     .logits = true,
                                     .cache_tokens = s->tokens.n + s->o->tokens};
    void *mem = NULL;
    TRY(runner_init(&s->run, &c->model, &spec, false));
    TRY(eval_model_read(s->model, &s->run));
    TRY(mem_take(c->model.vocab * (int64_t)sizeof *s->order, &mem));
    s->order = mem;
    TRY(mem_take(c->model.vocab * (int64_t)sizeof *s->logits, &mem));
    s->logits = mem;
    return OK;
}

static enum status run(struct eval_model *m, const void *given, const struct eval_files *files) {
    struct sample s = {.o = given, .model = m};
    enum status st = OK;
    FAIL_UNLESS(!files->json, ERR_CONFIG, "sample writes no --json; perplexity does");
    TRY_OUT(open_tokenizer(&s));
    TRY_OUT(read_prompt(&s, files));
    TRY_OUT(load_model(&s));
    TRY_OUT(generate(&s));
out:
    runner_term(&s.run);
    tokenizer_close(s.tokenizer);
    token_list_term(&s.tokens);
    mem_free(s.order);
    mem_free(s.logits);
    return st;
}

const struct eval_task eval_sample = {
    .name = "sample", .fields = fields, .options_bytes = sizeof(struct sample_options), .run = run};
