/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/log.h"
#include "checkpoints/save_io.h"
#include "kernels/space.h"
#include "launch/trainer.h"
#include "model/param_parts.h"

/* My rows of a logical tensor, maybe none: what of the piece lies in that part of its parameter. */
struct listing {
    const char *group;
    const struct sharding_piece *mine;
    struct tensor flat;
    bool elsewhere;
    const struct state_memory *memory;
};

/* The first element of the parameter that is in it goes to *first_element. */
static void list_part(struct state_tensor *s, const struct listing *l, const struct param *p, int part,
                      int64_t *first_element) {
    const struct sharding_piece *mine = l->mine;
    const struct tensor flat = l->flat;
    const int64_t row = param_count(p) / p->shape[0], first = mine->begin / row, end = first + mine->n / row;
    struct param_part piece;
    param_part(p, part, &piece);
    const int64_t from = first > piece.row_begin ? first : piece.row_begin;
    const int64_t piece_end = piece.row_begin + piece.rows, to = end < piece_end ? end : piece_end;
    const int64_t shape[4] = {from < to ? to - from : 0, p->shape[1], p->shape[2], p->shape[3]};
    void *data = shape[0] > 0 ? (char *)flat.data + (from - first) * row * dtype_bytes(flat.dtype) : NULL;
    *s = (struct state_tensor){.n_dims = p->n_dims, .t = tensor_4d(data, flat.dtype, shape), .memory = l->memory};
    s->t.space = flat.space;
    *first_element = from * row;
    if (shape[0] > 0) s->begin = piece.whole_begin + from - piece.row_begin;
    s->elsewhere = l->elsewhere;
    memcpy(s->global, p->whole, sizeof s->global);
    s->global[0] = piece.whole;
    s->cut_dim = param_later_cut(p, &s->cut_begin);
    snprintf(s->name, sizeof s->name, "%s/%s", l->group, piece.name);
}

static enum status get(void *arg, const struct state_tensor *s, int64_t first, int64_t n, void *host) {
    struct trainer *t = arg;
    const int64_t size = dtype_bytes(s->t.dtype);
    return space_copy(&t->run.ctx, host, (const char *)s->t.data + first * size, n * size);
}

/* A weight is a master and its rounded copy. */
static enum status put(void *arg, const struct state_tensor *s, int64_t first, int64_t n, const void *host) {
    struct trainer *t = arg;
    const struct state_place *place = &t->place[s - t->state];
    const int64_t size = dtype_bytes(s->t.dtype);
    if (place->param >= 0) {
        const enum status st = sharding_store(&t->run.shards, place->param, place->first + first, n, host, NULL);
        const enum status settled = space_settle(&t->run.ctx); /* also after a failure: a copy may read host */
        return st != OK ? st : settled;
    }
    return space_copy(&t->run.ctx, (char *)s->t.data + first * size, host, n * size);
}

static void list_param(struct trainer *t, int i) {
    const struct param *p = &t->run.model.params.list[i];
    const struct sharding_piece *mine = &t->run.shards.piece[i];
    const char *groups[] = {"param", "adamw.m", "adamw.v"};
    struct tensor flats[] = {mine->w, mine->m, mine->v};
    for (int k = 0; k < 3; k++) flats[k].dtype = t->run.shards.wide; /* also where this rank has none of it */
    for (int part = 0; part < param_parts(p); part++)
        for (int k = 0; k < 3; k++) {
            const struct listing l = {.group = groups[k],
                                      .mine = mine,
                                      .flat = flats[k],
                                      .elsewhere = sharding_elsewhere(&t->run.shards, i, part),
                                      .memory = runner_apart(&t->run) ? &t->memory : NULL};
            struct state_place *place = &t->place[t->n_state];
            place->param = k == 0 ? i : -1;
            list_part(&t->state[t->n_state++], &l, p, part, &place->first);
        }
}

enum status trainer_list_state(struct trainer *t) {
    const struct params *ps = &t->run.model.params;
    void *mem = NULL, *places = NULL;
    int64_t n = 0;
    for (int i = 0; i < ps->n; i++) n += 3 * param_parts(&ps->list[i]);
    TRY(mem_take(n * (int64_t)sizeof *t->state, &mem));
    t->state = mem;
    TRY(mem_take(n * (int64_t)sizeof *t->place, &places));
    t->place = places;
    t->memory = (struct state_memory){.get = get, .put = put, .arg = t};
    for (int i = 0; i < ps->n; i++) list_param(t, i);
    return OK;
}

/* Metrics of the steps before are on disk first. */
static enum status sync_report(struct trainer *t) {
    const enum status st = t->team.leader ? report_sync(t->report) : OK;
    int64_t failed = st != OK;
    TRY(team_most(&t->team, &failed));
    FAIL_UNLESS(st != OK || !failed, ERR_IO, "the leader could not write the metrics before step %" PRId64, t->step);
    return st;
}

/* Every rank writes its part; where all ranks hold everything, the leader does. */
enum status trainer_save(struct trainer *t) {
    const struct config *c = t->config;
    struct checkpoint_meta meta = {.step = t->step,
                                   .tokens = t->step * c->train.sequences_per_step * c->train.tokens_per_sequence,
                                   .seed = (uint64_t)c->run.seed,
                                   .identity_text = c->identity.s,
                                   .config = c->resolved.s};
    memcpy(meta.identity, c->identity_hash, sizeof meta.identity);
    TRY(sync_report(t));
    TRY(checkpoint_save_ranks(&save_io_posix, &t->team.world, t->run_dir, &meta, t->state, t->n_state,
                              c->checkpoint.keep));
    t->saved_step = t->step;
    return OK;
}

/* A difference is an error, or what a fork records. */
static enum status check_identity(struct trainer *t, const struct checkpoint_meta *about, const char *path,
                                  bool may_differ) {
    if (!strcmp(about->identity, t->config->identity_hash)) return OK;
    text_term(&t->identity_diff);
    TRY(config_identity_diff(t->config->identity.s, about->identity_text, &t->identity_diff));
    FAIL_UNLESS(may_differ, ERR_CONFIG,
                "%s was made by another run:\n%sGive this run a folder of its own with run.dir=..., or start a new run "
                "from that checkpoint with --fork",
                path, t->identity_diff.s ? t->identity_diff.s : "");
    return OK;
}

enum status trainer_find(struct trainer *t, const char *run_dir, bool may_differ, char path[PATH_BYTES]) {
    enum status st = OK;
    struct text skipped = {0};
    struct checkpoint *c = NULL;
    st = checkpoint_find(run_dir, path, &skipped);
    if (skipped.n > 0) log_warn("%.*s", (int)(skipped.n - (skipped.s[skipped.n - 1] == '\n')), skipped.s);
    if (st != OK) goto out;
    TRY_OUT(checkpoint_open(&c, path));
    TRY_OUT(check_identity(t, checkpoint_about(c), path, may_differ));
out:
    checkpoint_close(c);
    text_term(&skipped);
    return st;
}

enum status trainer_load(struct trainer *t, const char *path) {
    struct checkpoint *c = NULL;
    TRY(checkpoint_open(&c, path));
    const enum status st = checkpoint_read(c, t->state, t->n_state, true);
    if (st == OK) t->step = t->saved_step = checkpoint_about(c)->step;
    checkpoint_close(c);
    return st != OK ? st : sharding_publish(&t->run.shards);
}
