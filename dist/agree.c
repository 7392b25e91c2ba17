/* SPDX-License-Identifier: Apache-2.0 */
#include "dist/agree.h"
#include <stdio.h>
#include <string.h>
#include "base/arena.h"
#include "base/log.h"
#include "dist/collectives.h"
#include "dist/inside.h"

static const char *text_of(const char *all, int i) { return all + (int64_t)i * AGREE_BYTES; }

static enum status gather_texts(struct comm *c, const char *text, char *all) {
    char *mine = all + (int64_t)c->index * AGREE_BYTES;
    struct pending p = {0};
    ASSERT(strlen(text) < AGREE_BYTES);
    strcpy(mine, text); /* the rest is zero */
    TRY(all_gather_even_begin(c, COMM_CONTROL, mine, AGREE_BYTES, all, &p));
    return comm_end(c, &p);
}

static int count_like(const char *all, int size, int of) {
    int n = 0;
    for (int i = 0; i < size; i++) n += !strcmp(text_of(all, i), text_of(all, of));
    return n;
}

/* The member whose text most have. */
static int most_common(const char *all, int size) {
    int best = 0;
    for (int i = 1; i < size; i++)
        if (count_like(all, size, i) > count_like(all, size, best)) best = i;
    return best;
}

/* "configuration differs: rank 2 has ab, rank 5 has ef; 6 others, rank 0 among them, have cd".  False: all agree. */
static bool print_difference(const struct comm *c, const char *what, const char *all, char *out, size_t room) {
    const int best = most_common(all, c->size), same = count_like(all, c->size, best);
    size_t n = (size_t)snprintf(out, room, "%s differs between ranks:", what);
    for (int i = 0, seen = 0; i < c->size && n + AGREE_BYTES + 40 < room; i++)
        if (strcmp(text_of(all, i), text_of(all, best)) != 0)
            n += (size_t)snprintf(out + n, room - n, "%s rank %d has %s", seen++ ? "," : "",
                                  comm_world_rank(c->inside, i), text_of(all, i));
    if (n < room)
        snprintf(out + n, room - n, "; %d of %d ranks, as rank %d, have %s", same, c->size,
                 comm_world_rank(c->inside, best), text_of(all, best));
    return same < c->size;
}

static enum status compare(struct comm *c, const char *what, const char *text, char *out, size_t room, bool *differs) {
    void *all = NULL;
    TRY(mem_take((int64_t)c->size * AGREE_BYTES, &all));
    const enum status st = gather_texts(c, text, all);
    if (st == OK) *differs = print_difference(c, what, all, out, room);
    mem_free(all);
    return st;
}

enum status agree_same(struct comm *c, const char *what, const char *text) {
    char said[900];
    bool differs = false;
    TRY(compare(c, what, text, said, sizeof said, &differs));
    FAIL_UNLESS(!differs, ERR_CONFIG, "%s: start all ranks with the same files and the same command line", said);
    return OK;
}

enum status agree_warn(struct comm *c, const char *what, const char *text) {
    char said[900];
    bool differs = false;
    TRY(compare(c, what, text, said, sizeof said, &differs));
    if (differs && c->index == 0) log_warn("%s: results may differ from those of equal installations", said);
    return OK;
}
