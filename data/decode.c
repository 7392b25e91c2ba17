/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "data/decode.h"
#include <string.h>
#include "base/arena.h"
#include "data/bpe.h"
#include "data/utf8.h"

void decoder_term(struct decoder *d) {
    for (int i = 0; i < d->n_steps; i++) {
        text_term(&d->step[i].from);
        text_term(&d->step[i].to);
    }
    *d = (struct decoder){0};
}

enum status pieces_close(struct pieces *p) {
    if (p->n == p->room) {
        const int64_t room = p->room ? 2 * p->room : 256;
        void *mem = p->end;
        TRY(mem_grow(&mem, p->room * (int64_t)sizeof *p->end, room * (int64_t)sizeof *p->end));
        p->end = mem;
        p->room = room;
    }
    p->end[p->n++] = p->text.n;
    return OK;
}

void pieces_term(struct pieces *p) {
    text_term(&p->text);
    mem_free(p->end);
    *p = (struct pieces){0};
}

static const char *piece(const struct pieces *p, int64_t i, int64_t *n) {
    const int64_t begin = i ? p->end[i - 1] : 0;
    *n = p->end[i] - begin;
    return p->text.s ? p->text.s + begin : "";
}

enum status text_replace(const char *s, int64_t n, const struct text *from, const struct text *to, struct text *out) {
    for (const char *found; n > 0 && (found = memmem(s, (size_t)n, from->s, (size_t)from->n));) {
        TRY(text_add(out, s, found - s));
        if (to->n > 0) TRY(text_add(out, to->s, to->n));
        n -= found - s + from->n;
        s = found + from->n;
    }
    return n > 0 ? text_add(out, s, n) : OK;
}

static enum status replace(const struct decode_step *d, const struct pieces *p, struct pieces *out) {
    for (int64_t i = 0; i < p->n; i++) {
        int64_t n;
        const char *s = piece(p, i, &n);
        TRY(text_replace(s, n, &d->from, &d->to, &out->text));
        TRY(pieces_close(out));
    }
    return OK;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that "<0x41>" names; -1 for another text. */
static int byte_named(const char *s, int64_t n) {
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    const int high = hex_digit(s[3]), low = hex_digit(s[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

static enum status close_bytes(struct text *bytes, struct pieces *out) {
    if (bytes->n == 0) return OK;
    const bool valid = utf8_valid(bytes->s, bytes->n);
    if (valid) TRY(text_add(&out->text, bytes->s, bytes->n));
    for (int64_t i = 0; !valid && i < bytes->n; i++) TRY(text_add(&out->text, "\xef\xbf\xbd", 3));
    bytes->n = 0;
    return pieces_close(out);
}

/* A run of byte tokens is their text, or as many U+FFFD where that is no UTF-8. */
static enum status byte_fallback(const struct pieces *p, struct pieces *out) {
    enum status st = OK;
    struct text bytes = {0};
    for (int64_t i = 0; i < p->n; i++) {
        int64_t n;
        const char *s = piece(p, i, &n);
        const int byte = byte_named(s, n);
        const char c = (char)byte;
        if (byte >= 0) {
            TRY_OUT(text_add(&bytes, &c, 1));
            continue;
        }
        TRY_OUT(close_bytes(&bytes, out));
        TRY_OUT(text_add(&out->text, s, n));
        TRY_OUT(pieces_close(out));
    }
    TRY_OUT(close_bytes(&bytes, out));
out:
    text_term(&bytes);
    return st;
}

enum { BYTE_CHARS_END = 0x144 }; /* one past the last character that stands for a byte */

/* A token whose characters all stand for bytes is these bytes, another one is its text; all of them are one text. */
static enum status byte_level(const struct pieces *p, struct pieces *out) {
    enum status st = OK;
    uint32_t chars[256];
    int byte_of[BYTE_CHARS_END];
    struct text bytes = {0};
    byte_chars(chars);
    for (int i = 0; i < BYTE_CHARS_END; i++) byte_of[i] = -1;
    for (int b = 0; b < 256; b++) byte_of[chars[b]] = b;
    for (int64_t i = 0; i < p->n; i++) {
        int64_t n;
        const char *s = piece(p, i, &n);
        const int64_t before = bytes.n;
        bool all = true;
        for (int64_t at = 0; all && at < n;) {
            uint32_t code;
            at += utf8_next(s + at, n - at, &code);
            all = code < BYTE_CHARS_END && byte_of[code] >= 0;
            const char c = all ? (char)byte_of[code] : 0;
            TRY_OUT(text_add(&bytes, &c, 1));
        }
        if (all) continue;
        bytes.n = before;
        TRY_OUT(text_add(&bytes, s, n));
    }
    if (bytes.n > 0) TRY_OUT(utf8_repair(bytes.s, bytes.n, &out->text));
    TRY_OUT(pieces_close(out));
out:
    text_term(&bytes);
    return st;
}

/* Up to `start` times the character on the left, up to `stop` times on the right. */
static enum status strip(const struct decode_step *d, const struct pieces *p, struct pieces *out) {
    for (int64_t i = 0; i < p->n; i++) {
        int64_t n;
        const char *s = piece(p, i, &n);
        const int64_t m = d->from.n;
        for (int64_t k = 0; k < d->start && n >= m && !memcmp(s, d->from.s, (size_t)m); k++) {
            s += m;
            n -= m;
        }
        for (int64_t k = 0; k < d->stop && n >= m && !memcmp(s + n - m, d->from.s, (size_t)m); k++) n -= m;
        TRY(text_add(&out->text, s, n));
        TRY(pieces_close(out));
    }
    return OK;
}

/* What the library does without a decoder: a space between tokens. */
static enum status spaces(const struct pieces *p, struct pieces *out) {
    for (int64_t i = 0; i < p->n; i++) {
        int64_t n;
        const char *s = piece(p, i, &n);
        if (i > 0) TRY(text_add(&out->text, " ", 1));
        TRY(text_add(&out->text, s, n));
    }
    return pieces_close(out);
}

static enum status run_step(const struct decode_step *d, const struct pieces *p, struct pieces *out) {
    switch (d->kind) {
    case DECODE_BYTE_LEVEL:
        return byte_level(p, out);
    case DECODE_REPLACE:
        return replace(d, p, out);
    case DECODE_BYTE_FALLBACK:
        return byte_fallback(p, out);
    case DECODE_STRIP:
        return strip(d, p, out);
    case DECODE_SPACES:
        return spaces(p, out);
    case DECODE_FUSE:
        TRY(text_add(&out->text, p->text.s ? p->text.s : "", p->text.n));
        return pieces_close(out);
    }
    return OK;
}

enum status decoder_run(const struct decoder *d, struct pieces *p, struct text *out) {
    for (int i = 0; i < d->n_steps; i++) {
        struct pieces next = {0};
        const enum status st = run_step(&d->step[i], p, &next);
        pieces_term(p);
        *p = next;
        TRY(st);
    }
    return p->text.n > 0 ? text_add(out, p->text.s, p->text.n) : OK;
}
