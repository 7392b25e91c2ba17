/* SPDX-License-Identifier: Apache-2.0 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/split.h"
#include <inttypes.h>
#include <pcre2.h>
#include <string.h>
#include "base/arena.h"
#include "data/split_pattern.h"

/* Steps of backtracking that one match may take, for itself and for each byte of the text (a run of white space is
 * walked back once), and bytes of machine stack: a pattern from a file must not run away. */
enum { MATCH_STEPS = 10000000, MATCH_STEPS_PER_BYTE = 16, STACK_BYTES_MAX = 1 << 20 };

struct split_scratch {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    struct text spaced; /* a text with a space put before it */
};

enum status split_compile(struct split_step *step, const char *where, const char *pattern, int64_t bytes,
                          bool literal) {
    enum status st = OK;
    struct text text = {0};
    int code = 0;
    PCRE2_SIZE at = 0;
    PCRE2_UCHAR why[128];
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    FAIL_UNLESS(context, ERR_OOM, "%s: no memory for a pattern", where);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    if (literal) TRY_OUT(text_add(&text, pattern, bytes));
    else TRY_OUT(split_pattern(where, pattern, bytes, &text));
    const uint32_t options = PCRE2_UTF | PCRE2_UCP | (literal ? PCRE2_LITERAL : PCRE2_NEVER_BACKSLASH_C);
    step->code = pcre2_compile((PCRE2_SPTR)(text.s ? text.s : ""), (PCRE2_SIZE)text.n,
                               options & ~(literal ? PCRE2_UCP : 0u), &code, &at, context);
    if (!step->code) {
        pcre2_get_error_message(code, why, sizeof why);
        FAIL_OUT(ERR_DATA, "%s: the pattern '%s' is refused at byte %zu: %s", where, text.s ? text.s : "", at,
                 (char *)why);
    }
    code = pcre2_jit_compile(step->code, PCRE2_JIT_COMPLETE);
    if (code != 0 && code != PCRE2_ERROR_JIT_BADOPTION) { /* BADOPTION: a PCRE2 without JIT interprets, only slower */
        pcre2_get_error_message(code, why, sizeof why);
        FAIL_OUT(ERR_DATA, "%s: the pattern '%s' cannot be compiled: %s", where, text.s, (char *)why);
    }
out:
    if (st != OK) {
        pcre2_code_free(step->code);
        step->code = NULL;
    }
    text_term(&text);
    pcre2_compile_context_free(context);
    return st;
}

void splitter_term(struct splitter *s) {
    for (int i = 0; i < s->n_steps; i++) pcre2_code_free(s->step[i].code);
    *s = (struct splitter){0};
}

enum status split_scratch_init(struct split_scratch **out) {
    void *mem = NULL;
    *out = NULL;
    TRY(mem_take((int64_t)sizeof(struct split_scratch), &mem));
    struct split_scratch *s = mem;
    s->match = pcre2_match_data_create(1, NULL);
    s->context = pcre2_match_context_create(NULL);
    s->stack = pcre2_jit_stack_create(32 << 10, STACK_BYTES_MAX, NULL);
    if (!s->match || !s->context || !s->stack) {
        split_scratch_term(s);
        FAIL(ERR_OOM, "no memory for matching patterns");
    }
    pcre2_jit_stack_assign(s->context, NULL, s->stack);
    *out = s;
    return OK;
}

void split_scratch_term(struct split_scratch *s) {
    if (!s) return;
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    text_term(&s->spaced);
    mem_free(s);
}

struct run {
    const struct splitter *splitter;
    struct split_scratch *scratch;
    enum status (*word)(void *arg, const char *word, int64_t n);
    void *arg;
};

static enum status run_from(const struct run *r, int step, const char *text, int64_t n);

/* Folds the stretches of a text, each a match or what lies between, into pieces, and hands each one on. */
struct fold {
    const struct run *run;
    int step;
    const char *text;
    int64_t begin, end; /* of the piece that may still grow */
    bool open, last_match;
};

static enum status fold_flush(struct fold *f) {
    if (!f->open || f->begin == f->end) return OK;
    return run_from(f->run, f->step + 1, f->text + f->begin, f->end - f->begin);
}

static enum status fold_add(struct fold *f, int64_t begin, int64_t end, bool match) {
    const struct split_step *s = &f->run->splitter->step[f->step];
    match = match != s->invert;
    if (s->behavior == SPLIT_REMOVED && match) return OK;
    const bool joins = f->open && ((s->behavior == SPLIT_CONTIGUOUS && match == f->last_match) ||
                                   (s->behavior == SPLIT_PREVIOUS && match && !f->last_match) ||
                                   (s->behavior == SPLIT_NEXT && !match && f->last_match));
    if (!joins) {
        TRY(fold_flush(f));
        f->begin = begin;
    }
    f->end = end;
    f->open = true;
    f->last_match = match;
    return OK;
}

static enum status match_failed(int code, int64_t at, int64_t n) {
    PCRE2_UCHAR why[128];
    pcre2_get_error_message(code, why, sizeof why);
    FAIL(ERR_DATA, "the tokenizer's pattern gives up at byte %" PRId64 " of a text of %" PRId64 ": %s", at, n,
         (char *)why);
}

static int64_t char_bytes(const char *s) {
    const unsigned char c = (unsigned char)*s;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

/* All matches from left to right.  An empty one right behind another does not count; after one the search moves on by
 * a character. */
static enum status run_pattern(const struct run *r, int step, const char *text, int64_t n) {
    const PCRE2_SIZE *found = pcre2_get_ovector_pointer(r->scratch->match);
    struct fold f = {.run = r, .step = step, .text = text};
    int64_t prev = 0, last_end = -1;
    for (int64_t from = 0; from <= n;) {
        const int code = pcre2_match(r->splitter->step[step].code, (PCRE2_SPTR)text, (PCRE2_SIZE)n, (PCRE2_SIZE)from,
                                     PCRE2_NO_UTF_CHECK, r->scratch->match, r->scratch->context);
        if (code == PCRE2_ERROR_NOMATCH) break;
        if (code < 0) return match_failed(code, from, n);
        const int64_t begin = (int64_t)found[0], end = (int64_t)found[1];
        if (begin == end) {
            from = end + (end < n ? char_bytes(text + end) : 1);
            if (end == last_end) continue;
        } else from = end;
        if (prev < begin) TRY(fold_add(&f, prev, begin, false));
        TRY(fold_add(&f, begin, end, true));
        prev = last_end = end;
    }
    if (prev < n) TRY(fold_add(&f, prev, n, false));
    return fold_flush(&f);
}

/* Depth: the steps, of which there are SPLIT_STEPS_MAX at most. */
static enum status run_from(const struct run *r, int step, const char *text, int64_t n) {
    if (step == r->splitter->n_steps) return r->word(r->arg, text, n);
    if (r->splitter->step[step].code) return run_pattern(r, step, text, n);
    if (*text == ' ') return run_from(r, step + 1, text, n);
    struct text *spaced = &r->scratch->spaced;
    spaced->n = 0;
    TRY(text_add(spaced, " ", 1));
    TRY(text_add(spaced, text, n));
    return run_from(r, step + 1, spaced->s, spaced->n);
}

enum status split_words(const struct splitter *s, struct split_scratch *scratch, const char *text, int64_t n,
                        enum status (*word)(void *arg, const char *word, int64_t n), void *arg) {
    const struct run r = {s, scratch, word, arg};
    const int64_t steps = MATCH_STEPS + MATCH_STEPS_PER_BYTE * n;
    pcre2_set_match_limit(scratch->context, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);
    return n == 0 ? OK : run_from(&r, 0, text, n);
}

bool split_is(const struct split_step *step, struct split_scratch *scratch, const char *s, int64_t n) {
    return pcre2_match(step->code, (PCRE2_SPTR)s, (PCRE2_SIZE)n, 0, PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED, scratch->match,
                       scratch->context) > 0;
}
