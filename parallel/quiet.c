/* SPDX-License-Identifier: Apache-2.0 */
#include "parallel/quiet.h"
#include <string.h>
#include "parallel/inside.h"

#define USE(u) (1u << COMM_##u)
const struct quiet_kind quiet_kinds[QUIET_KINDS] = {
    {"hand-off", USE(CARRY) | USE(HALO)},
    {"attention", USE(KEYS) | USE(SWAP)},
    {"tensor", USE(TENSOR)},
    {"experts", USE(EXPERT)},
    {"parameters", USE(PARAMS)},
    {"gradients", USE(GRADS)},
    {"all", (1u << N_COMM_USES) - 1},
};

void seams_mesh_quiet(struct seams_mesh *m, unsigned uses) {
    m->quiet = uses;
    for (struct sharding *h = m->spec.shards; h; h = h->experts) h->quiet = uses;
}

bool seams_mesh_is_quiet(const struct seams_mesh *m) { return m->quiet != 0; }

static struct tensor numbers(const struct step *s, enum dtype type, const void *at, int64_t bytes) {
    struct tensor t = tensor_2d(NULL, type, 1, bytes / dtype_bytes(type));
    memcpy(&t.data, &at, sizeof at);
    t.space = s->ctx->space;
    return t;
}

static enum status repeat(struct step *s, enum dtype type, const struct transfer *from, const struct transfer *to) {
    for (int64_t at = 0; at < to->recv_bytes; at += from->send_bytes) {
        const int64_t n = least(from->send_bytes, to->recv_bytes - at);
        TRY(rows_copy(s, numbers(s, type, from->send, n), numbers(s, type, (char *)to->recv + at, n)));
    }
    return OK;
}

/* Receives take the sends in turn, and what a rank sends itself it has. */
enum status quiet_list(struct step *s, enum dtype type, const struct transfer *list, int n) {
    int next = 0;
    for (int i = 0; i < n; i++) {
        const struct transfer *to = &list[i], *from = to->send_bytes > 0 ? to : NULL;
        if (to->recv_bytes == 0) continue;
        for (int k = 0; k < n && !from; k++) {
            const struct transfer *t = &list[(next + k) % n];
            if (t->send_bytes == 0) continue;
            from = t;
            next = (next + k + 1) % n;
        }
        TRY(from ? repeat(s, type, from, to) : rows_zero(s, numbers(s, type, to->recv, to->recv_bytes)));
    }
    return OK;
}

enum status list_begin(struct step *s, struct comm *c, enum comm_use use, struct pending *p) {
    struct seams_mesh *m = mesh_of(s);
    if (is_quiet(m->quiet, use)) return quiet_list(s, m->spec.real, m->list, m->n_list);
    return comm_begin(c, use, m->list, m->n_list, p);
}

enum status list_end(struct comm *c, struct pending *p) { return p->flight ? comm_end(c, p) : OK; }
