/* SPDX-License-Identifier: Apache-2.0 */
#include "data/bpe.h"
#include <inttypes.h>
#include <string.h>
#include "base/arena.h"
#include "data/utf8.h"

enum { CACHE_SLOTS = 1 << 15, CACHE_BYTES = 24, CACHE_IDS = 8, LONG_WORD = 24 };

/* One cached word; 64 bytes, a cache line. */
struct cached {
    uint64_t key[3]; /* its bytes, zeros behind them */
    int16_t n_bytes, n_ids;
    int32_t id[CACHE_IDS];
};
struct symbol {
    int32_t id; /* -1: joined to its left */
    int32_t prev, next;
};
struct bpe_scratch {
    struct cached *cache;
    struct symbol *symbol;
    int64_t n_symbols, symbols_room;
    uint64_t *heap; /* rank << 32 | place, smallest first */
    int64_t n_heap, heap_room;
};

enum status bpe_scratch_init(struct bpe_scratch **out) {
    void *mem = NULL, *cache = NULL;
    *out = NULL;
    TRY(mem_take((int64_t)sizeof(struct bpe_scratch), &mem));
    const enum status st = mem_take(CACHE_SLOTS * (int64_t)sizeof(struct cached), &cache);
    if (st != OK) {
        mem_free(mem);
        return st;
    }
    *out = mem;
    (*out)->cache = cache;
    return OK;
}

void bpe_scratch_term(struct bpe_scratch *s) {
    if (!s) return;
    mem_free(s->cache);
    mem_free(s->symbol);
    mem_free(s->heap);
    mem_free(s);
}

/* Room for n symbols and for all the heap entries they can make: n - 1 at first, and one more with each of n - 1
 * merges, which takes one out and puts at most two in. */
static enum status scratch_room(struct bpe_scratch *s, int64_t n) {
    if (n <= s->symbols_room) return OK;
    const int64_t room = n < 256 ? 256 : n < 65536 ? 2 * n : n;
    void *p = s->symbol;
    TRY(mem_grow(&p, 0, room * (int64_t)sizeof *s->symbol));
    s->symbol = p;
    p = s->heap;
    TRY(mem_grow(&p, 0, 2 * room * (int64_t)sizeof *s->heap));
    s->heap = p;
    s->heap_room = 2 * room;
    s->symbols_room = room;
    return OK;
}

static void heap_push(struct bpe_scratch *s, uint64_t v) {
    ASSERT(s->n_heap < s->heap_room);
    int64_t i = s->n_heap++;
    for (; i > 0 && s->heap[(i - 1) / 2] > v; i = (i - 1) / 2) s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = v;
}

static uint64_t heap_pop(struct bpe_scratch *s) {
    const uint64_t first = s->heap[0], v = s->heap[--s->n_heap];
    int64_t i = 0;
    for (int64_t child; (child = 2 * i + 1) < s->n_heap; i = child) {
        if (child + 1 < s->n_heap && s->heap[child + 1] < s->heap[child]) child++;
        if (s->heap[child] >= v) break;
        s->heap[i] = s->heap[child];
    }
    s->heap[i] = v;
    return first;
}

static const struct pair_slot *merge_at(const struct bpe *b, const struct bpe_scratch *s, int32_t left) {
    const struct symbol *l = &s->symbol[left];
    return l->next < 0 ? NULL : pair_map_find(&b->merges, (uint32_t)l->id, (uint32_t)s->symbol[l->next].id);
}

static void push_merge(const struct bpe *b, struct bpe_scratch *s, int32_t left) {
    const struct pair_slot *m = merge_at(b, s, left);
    if (m) heap_push(s, (uint64_t)m->rank << 32 | (uint32_t)left);
}

static void merge_all(const struct bpe *b, struct bpe_scratch *s) {
    const int32_t n = (int32_t)s->n_symbols;
    s->n_heap = 0;
    for (int32_t i = 0; i < n; i++) {
        s->symbol[i].prev = i - 1;
        s->symbol[i].next = i + 1 < n ? i + 1 : -1;
    }
    for (int32_t i = 0; i + 1 < n; i++) push_merge(b, s, i);
    while (s->n_heap > 0) {
        const uint64_t top = heap_pop(s);
        struct symbol *l = &s->symbol[(uint32_t)top];
        if (l->id < 0) continue;
        const struct pair_slot *m = merge_at(b, s, (int32_t)(uint32_t)top);
        if (!m || (uint64_t)m->rank != top >> 32) continue; /* the pair has changed since */
        struct symbol *r = &s->symbol[l->next];
        l->id = m->id;
        l->next = r->next;
        r->id = -1;
        if (l->next >= 0) s->symbol[l->next].prev = (int32_t)(uint32_t)top;
        if (l->prev >= 0) push_merge(b, s, l->prev);
        push_merge(b, s, (int32_t)(uint32_t)top);
    }
}

/* The unit at s: its character, its id (-1: none) and the bytes it takes. */
static int unit_at(const struct bpe *b, const char *s, int64_t n, uint32_t *code, int32_t *id) {
    if (b->byte_level) {
        *code = b->byte_char[(unsigned char)*s];
        *id = b->byte_id[(unsigned char)*s];
        return 1;
    }
    const int bytes = utf8_next(s, n, code);
    const struct pair_slot *u = pair_map_find(&b->units, 0, *code);
    *id = u ? u->id : -1;
    return bytes;
}

static void push_symbol(struct bpe_scratch *s, int32_t id) { s->symbol[s->n_symbols++].id = id; }

/* A character as the tokens of its bytes; false if one of them is missing. */
static bool push_bytes(const struct bpe *b, struct bpe_scratch *s, uint32_t code) {
    char utf8[4];
    const int n = utf8_put(utf8, code);
    if (!b->byte_fallback) return false;
    for (int i = 0; i < n; i++)
        if (b->fallback_id[(unsigned char)utf8[i]] < 0) return false;
    for (int i = 0; i < n; i++) push_symbol(s, b->fallback_id[(unsigned char)utf8[i]]);
    return true;
}

/* An unknown character waits for those behind it, which fuse_unk lets it swallow.  A character spelled in bytes does
 * not end the wait: the library's order, kept as it is. */
static enum status make_symbols(const struct bpe *b, struct bpe_scratch *s, const char *text, int64_t n) {
    bool unk_waits = false;
    s->n_symbols = 0;
    for (int64_t at = 0; at < n;) {
        uint32_t code;
        int32_t id;
        at += unit_at(b, text + at, n - at, &code, &id);
        if (id >= 0) {
            if (unk_waits) push_symbol(s, b->unk);
            unk_waits = false;
            push_symbol(s, id);
        } else if (!push_bytes(b, s, code) && b->unk != UNK_NONE) {
            FAIL_UNLESS(b->unk != UNK_ABSENT, ERR_DATA,
                        "U+%04" PRIX32 " is not in the vocabulary, and neither is the tokenizer's unk_token", code);
            if (unk_waits && !b->fuse_unk) push_symbol(s, b->unk);
            unk_waits = true;
        }
    }
    if (unk_waits) push_symbol(s, b->unk);
    return OK;
}

static enum status encode_piece(const struct bpe *b, struct bpe_scratch *s, const char *text, int64_t n,
                                struct token_list *out) {
    FAIL_UNLESS(n < INT32_MAX / 2, ERR_DATA, "a word of %" PRId64 " bytes; at most %d are tokenized as one", n,
                INT32_MAX / 2);
    TRY(scratch_room(s, b->byte_level && b->byte_fallback ? 2 * n : n)); /* the bytes of U+0080 and above are two */
    TRY(make_symbols(b, s, text, n));
    TRY(token_list_room(out, s->n_symbols));
    if (s->n_symbols == 0) return OK;
    merge_all(b, s);
    for (int32_t i = 0; i >= 0; i = s->symbol[i].next) out->id[out->n++] = s->symbol[i].id;
    return OK;
}

/* Bytes of the first piece of text: up to the first place that no merge can join. */
static int64_t piece_bytes(const struct bpe *b, const char *text, int64_t n) {
    uint32_t before, code;
    int32_t before_id, id;
    int64_t at = unit_at(b, text, n, &before, &before_id);
    while (at < n) {
        const int bytes = unit_at(b, text + at, n - at, &code, &id);
        if (before_id >= 0 && id >= 0 && !pair_map_find(&b->joints, before, code)) break;
        at += bytes;
        before = code;
        before_id = id;
    }
    return at;
}

static struct cached *cache_slot(struct bpe_scratch *s, const char *text, int64_t n, uint64_t key[3]) {
    key[0] = key[1] = key[2] = 0;
    memcpy(key, text, (size_t)n);
    uint64_t h = key[0] * 0x9e3779b97f4a7c15u + key[1] * 0xbf58476d1ce4e5b9u + key[2] * 0x94d049bb133111ebu;
    h = (h ^ h >> 32) * 0x9e3779b97f4a7c15u;
    return &s->cache[h >> 49];
}
_Static_assert(CACHE_SLOTS == 1 << (64 - 49), "the cache index takes the upper 15 bits");

static enum status encode_cached(const struct bpe *b, struct bpe_scratch *s, const char *text, int64_t n,
                                 struct token_list *out) {
    if (n > CACHE_BYTES) return encode_piece(b, s, text, n, out);
    uint64_t key[3];
    struct cached *c = cache_slot(s, text, n, key);
    if (c->n_bytes == n && c->key[0] == key[0] && c->key[1] == key[1] && c->key[2] == key[2]) {
        TRY(token_list_room(out, CACHE_IDS));
        memcpy(out->id + out->n, c->id, sizeof c->id);
        out->n += c->n_ids;
        return OK;
    }
    const int64_t before = out->n;
    const int32_t whole = b->ignore_merges ? word_map_find(&b->words, text, n) : -1;
    if (whole >= 0) {
        TRY(token_list_room(out, 1));
        out->id[out->n++] = whole;
    } else TRY(encode_piece(b, s, text, n, out));
    if (out->n - before > CACHE_IDS) return OK;
    memcpy(c->key, key, sizeof key);
    c->n_bytes = (int16_t)n;
    c->n_ids = (int16_t)(out->n - before);
    if (c->n_ids > 0) memcpy(c->id, out->id + before, (size_t)c->n_ids * sizeof *c->id);
    return OK;
}

enum status bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *word, int64_t n,
                       struct token_list *out) {
    if (n <= LONG_WORD) return n == 0 ? OK : encode_cached(b, s, word, n, out);
    const int32_t whole = b->ignore_merges ? word_map_find(&b->words, word, n) : -1;
    if (whole >= 0) {
        TRY(token_list_room(out, 1));
        out->id[out->n++] = whole;
        return OK;
    }
    while (n > 0) {
        const int64_t piece = piece_bytes(b, word, n);
        /* With ignore_merges the cache is of whole words: a piece may be a token that its merges never make. */
        TRY((b->ignore_merges ? encode_piece : encode_cached)(b, s, word, piece, out));
        word += piece;
        n -= piece;
    }
    return OK;
}
