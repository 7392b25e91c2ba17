/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DATA_DECODE_H
#define BATON_DATA_DECODE_H
/* decode.h - decoders: steps over a list of texts, one a token, that end as one text. */
#include "base/file.h"

#ifdef __cplusplus
extern "C" {
#endif

enum decode_kind { DECODE_BYTE_LEVEL, DECODE_REPLACE, DECODE_BYTE_FALLBACK, DECODE_FUSE, DECODE_STRIP, DECODE_SPACES };
struct decode_step {
    enum decode_kind kind;
    struct text from, to; /* REPLACE; STRIP: from, one character */
    int64_t start, stop;  /* STRIP: how many at most             */
};
#define DECODE_STEPS_MAX 8
struct decoder {
    int n_steps;
    struct decode_step step[DECODE_STEPS_MAX];
};
void decoder_term(struct decoder *d);

/* Texts one behind the other; text i ends at end[i]. */
struct pieces {
    struct text text;
    int64_t *end, n, room;
};
enum status pieces_close(struct pieces *p); /* what was added to text since the last call is one more piece */
void pieces_term(struct pieces *p);
/* Appends the text that the pieces decode to; they are used up. */
enum status decoder_run(const struct decoder *d, struct pieces *p, struct text *out);
/* Appends s with every `from` replaced. */
enum status text_replace(const char *s, int64_t n, const struct text *from, const struct text *to, struct text *out);

#ifdef __cplusplus
}
#endif
#endif
