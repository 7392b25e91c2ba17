/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include "base/arena.h"
#include "base/rng.h"
#include "data/bpe.h"

static int64_t pair_place(const struct pair_map *m, uint64_t key) {
    const uint64_t mixed = key * 0x9e3779b97f4a7c15u; /* the golden ratio: neighbours end far apart */
    int64_t i = (int64_t)((mixed ^ mixed >> 32) & (uint64_t)(m->n_slots - 1));
    while (m->slot[i].key != key && m->slot[i].key != PAIR_NONE) i = (i + 1) & (m->n_slots - 1);
    return i;
}

static enum status pair_map_grow(struct pair_map *m) {
    struct pair_map wide = {.n = m->n, .n_slots = m->n_slots ? 2 * m->n_slots : 256};
    void *mem = NULL;
    TRY(mem_take(wide.n_slots * (int64_t)sizeof *wide.slot, &mem));
    wide.slot = mem;
    for (int64_t i = 0; i < wide.n_slots; i++) wide.slot[i].key = PAIR_NONE;
    for (int64_t i = 0; i < m->n_slots; i++)
        if (m->slot[i].key != PAIR_NONE) wide.slot[pair_place(&wide, m->slot[i].key)] = m->slot[i];
    mem_free(m->slot);
    *m = wide;
    return OK;
}

enum status pair_map_put(struct pair_map *m, uint32_t high, uint32_t low, int32_t rank, int32_t id) {
    const uint64_t key = (uint64_t)high << 32 | low;
    ASSERT(key != PAIR_NONE);
    if (2 * (m->n + 1) > m->n_slots) TRY(pair_map_grow(m));
    struct pair_slot *slot = &m->slot[pair_place(m, key)];
    m->n += slot->key == PAIR_NONE;
    *slot = (struct pair_slot){key, rank, id};
    return OK;
}

const struct pair_slot *pair_map_find(const struct pair_map *m, uint32_t high, uint32_t low) {
    if (m->n_slots == 0) return NULL;
    const struct pair_slot *slot = &m->slot[pair_place(m, (uint64_t)high << 32 | low)];
    return slot->key == PAIR_NONE ? NULL : slot;
}

static int64_t word_place(const struct word_map *m, const char *s, int64_t n) {
    uint64_t mixed = (uint64_t)n;
    for (int64_t i = 0; i < n; i += 8) {
        uint64_t eight = 0;
        memcpy(&eight, s + i, (size_t)(n - i < 8 ? n - i : 8));
        mixed = rng_bits(mixed, eight, (uint64_t)i);
    }
    int64_t i = (int64_t)(mixed & (uint64_t)(m->n_slots - 1));
    while (m->slot[i].used && (m->slot[i].n != n || memcmp(m->text.s + m->slot[i].at, s, (size_t)n) != 0))
        i = (i + 1) & (m->n_slots - 1);
    return i;
}

static enum status word_map_grow(struct word_map *m) {
    struct word_map wide = *m;
    void *mem = NULL;
    wide.n_slots = m->n_slots ? 2 * m->n_slots : 256;
    TRY(mem_take(wide.n_slots * (int64_t)sizeof *wide.slot, &mem));
    wide.slot = mem;
    for (int64_t i = 0; i < m->n_slots; i++)
        if (m->slot[i].used) wide.slot[word_place(&wide, m->text.s + m->slot[i].at, m->slot[i].n)] = m->slot[i];
    mem_free(m->slot);
    *m = wide;
    return OK;
}

enum status word_map_put(struct word_map *m, const char *s, int64_t n, int32_t id) {
    if (2 * (m->n + 1) > m->n_slots) TRY(word_map_grow(m));
    const int64_t at = m->text.n, i = word_place(m, s, n);
    if (!m->slot[i].used) TRY(text_add(&m->text, s, n));
    m->n += !m->slot[i].used;
    m->slot[i] = (struct word_slot){m->slot[i].used ? m->slot[i].at : at, n, id, true};
    return OK;
}

int32_t word_map_find(const struct word_map *m, const char *s, int64_t n) {
    if (m->n_slots == 0) return -1;
    const struct word_slot *slot = &m->slot[word_place(m, s, n)];
    return slot->used ? slot->id : -1;
}

void bpe_term(struct bpe *b) {
    mem_free(b->units.slot);
    mem_free(b->merges.slot);
    mem_free(b->joints.slot);
    mem_free(b->words.slot);
    text_term(&b->words.text);
    *b = (struct bpe){0};
}

/* Printable Latin-1 stands for itself; the others follow each other from U+0100 on. */
void byte_chars(uint32_t out[256]) {
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; b++) {
        const bool itself = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        out[b] = itself ? b : next++;
    }
}
