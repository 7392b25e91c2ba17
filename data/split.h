/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DATA_SPLIT_H
#define BATON_DATA_SPLIT_H
/* split.h - pre-tokenizers: patterns (PCRE2: Unicode properties, compiled to machine code) that cut a text into words.
 *
 * The patterns of tokenizer files are written for Oniguruma.  What reads the same in PCRE2 is taken; \s and \S are
 * spelled out as Unicode White_Space; a construct that means something else in PCRE2 is refused by name.  Properties
 * are those of the Unicode version that PCRE2 was built with (10.42: Unicode 14). */
#include "base/file.h"

#ifdef __cplusplus
extern "C" {
#endif

enum split_behavior { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_PREVIOUS, SPLIT_NEXT, SPLIT_CONTIGUOUS };
struct split_step {
    struct pcre2_real_code_8 *code; /* NULL: put a space before a text that has none */
    enum split_behavior behavior;
    bool invert; /* what lies between the matches counts as match */
};
#define SPLIT_STEPS_MAX 8
struct splitter {
    int n_steps;
    struct split_step step[SPLIT_STEPS_MAX];
};
/* where: for messages.  literal: the pattern is a plain text. */
enum status split_compile(struct split_step *step, const char *where, const char *pattern, int64_t bytes, bool literal);
void splitter_term(struct splitter *s);

struct split_scratch;
enum status split_scratch_init(struct split_scratch **out);
void split_scratch_term(struct split_scratch *s);
/* Every word of a valid UTF-8 text, in order, without the empty ones. */
enum status split_words(const struct splitter *s, struct split_scratch *scratch, const char *text, int64_t n,
                        enum status (*word)(void *arg, const char *word, int64_t n), void *arg);
/* Does the pattern match the whole character at s? */
bool split_is(const struct split_step *step, struct split_scratch *scratch, const char *s, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
