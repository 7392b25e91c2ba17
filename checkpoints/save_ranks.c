/* SPDX-License-Identifier: Apache-2.0 */
#include "checkpoints/save_ranks.h"
#include <stdio.h>
#include <string.h>
#include "base/arena.h"

struct note {
    int status; /* enum status */
    char text[1020];
};

int save_rank(const struct comm *c) { return c ? c->index : 0; }
int save_n_ranks(const struct comm *c) { return c ? c->size : 1; }

static void write_note(struct note *n, enum status st) {
    *n = (struct note){.status = (int)st};
    if (st != OK) snprintf(n->text, sizeof n->text, "%s", status_text());
}

static enum status read_note(const struct note *n, int rank) {
    FAIL_UNLESS(n->status == OK, (enum status)n->status, "rank %d: %.*s", rank, (int)sizeof n->text - 1, n->text);
    return OK;
}

enum status save_gather(struct comm *c, const void *mine, int64_t bytes, void *all) {
    struct pending p = {0};
    if (!c) {
        memcpy(all, mine, (size_t)bytes);
        return OK;
    }
    TRY(all_gather_even_begin(c, COMM_CONTROL, mine, bytes, all, &p));
    return comm_end(c, &p);
}

enum status save_agree(struct comm *c, enum status st) {
    struct note mine;
    void *mem = NULL;
    if (!c) return st;
    write_note(&mine, st);
    TRY(mem_take(c->size * (int64_t)sizeof mine, &mem));
    const struct note *all = mem;
    enum status heard = save_gather(c, &mine, sizeof mine, mem);
    for (int r = 0; r < c->size && heard == OK && st == OK; r++) heard = read_note(&all[r], r);
    mem_free(mem);
    return st != OK ? st : heard;
}

static enum status broadcast(struct comm *c, void *data, int64_t bytes) {
    struct pending p = {0};
    TRY(broadcast_begin(c, COMM_CONTROL, 0, data, bytes, &p));
    return comm_end(c, &p);
}

enum status save_tell(struct comm *c, enum status st, void *data, int64_t bytes) {
    struct note n;
    if (!c) return st;
    write_note(&n, st);
    const enum status told = broadcast(c, &n, sizeof n);
    if (c->index == 0 && st != OK) return st;
    TRY(told);
    TRY(read_note(&n, 0));
    return broadcast(c, data, bytes);
}
