/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/arena.h"
#include "base/hash.h"
#include "base/log.h"
#include "checkpoints/checkpoint.h"
#include "checkpoints/manifest.h"
#include "checkpoints/safetensors.h"
#include "checkpoints/save_io.h"
#include "checkpoints/save_ranks.h"
#include "checkpoints/step_folders.h"

/* What the leader must know of a tensor's rows on one rank. */
struct save_note {
    int64_t begin, rows, dim, from, size;
    char xxh3[HASH_HEX];
};
struct save_job {
    const struct save_io *io;
    struct comm *comm; /* NULL: one rank */
    const struct checkpoint_meta *meta;
    const struct state_tensor *list;
    int64_t n;
    int n_ranks, n_shards;
    int64_t *counts;                                             /* of each rank: tensors that it writes        */
    int *shard;                                                  /* of each rank: number of its shard; -1: none */
    char folder[PATH_BYTES];                                     /* RUN/checkpoints */
    char temp[PATH_BYTES], final[PATH_BYTES], aside[PATH_BYTES]; /* below it        */
    struct manifest m;
    struct shard_item *item; /* my tensors, n_items of them */
    int64_t n_items;
    struct save_note *mine, *all;  /* n;  n of each rank      */
    struct shard_sum config, *sum; /* of config.yaml; of each rank's shard */
    char (*name)[48];              /* of each shard */
};

static enum status take(int64_t n, int64_t size, void *out) {
    void *mem = NULL;
    TRY(mem_take((n + 1) * size, &mem));
    memcpy(out, &mem, sizeof mem);
    return OK;
}

/* A tensor of no rows at all has one empty piece, with the leader. */
static bool holds(const struct save_job *j, int rank, int64_t i, int64_t rows) {
    const bool empty = j->list[i].n_dims > 0 && j->list[i].global[0] == 0;
    return empty ? rank == 0 : rows > 0;
}

static enum status fetch(const void *arg, int64_t first, int64_t n, void *out) {
    const struct state_tensor *s = arg;
    return s->memory->get(s->memory->arg, s, first, n, out);
}

static enum status add_to_hash(void *hash, const void *data, int64_t bytes) {
    hash_add(hash, data, bytes);
    return OK;
}

static enum status describe_tensor(struct save_job *j, int64_t i) {
    const struct state_tensor *s = &j->list[i];
    struct hash_stream *hash = NULL;
    ASSERT((s->memory || s->t.space == HOST) && tensor_packed(s->t) && s->begin >= 0 && s->n_dims >= 0 &&
           s->n_dims <= 4);
    j->mine[i] = (struct save_note){.begin = s->begin, .rows = s->elsewhere ? 0 : s->t.shape[0], .dim = s->cut_dim};
    if (s->cut_dim > 0) j->mine[i].from = s->cut_begin, j->mine[i].size = s->t.shape[s->cut_dim];
    if (s->elsewhere || !holds(j, save_rank(j->comm), i, s->t.shape[0])) return OK;
    struct shard_item *item = &j->item[j->n_items++];
    *item = (struct shard_item){.name = s->name, .dtype = s->t.dtype, .n_dims = s->n_dims, .data = s->t.data};
    memcpy(item->shape, s->t.shape, sizeof s->t.shape);
    if (s->memory) item->fetch = fetch, item->arg = s, item->piece = STATE_PIECE;
    TRY(hash_open_xxh3(&hash));
    const enum status st = shard_item_each(item, add_to_hash, hash);
    hash_close(hash, j->mine[i].xxh3);
    return st;
}

/* My part. */
static enum status describe(struct save_job *j) {
    const struct checkpoint_meta *a = j->meta;
    ASSERT(a->step >= 0 && a->tokens >= 0 && a->identity_text && a->config);
    TRY(take(j->n, sizeof *j->item, &j->item));
    TRY(take(j->n, sizeof *j->mine, &j->mine));
    TRY(take(j->n * j->n_ranks, sizeof *j->all, &j->all));
    TRY(take(j->n_ranks, sizeof *j->sum, &j->sum));
    TRY(take(j->n_ranks, sizeof *j->name, &j->name));
    TRY(take(j->n_ranks, sizeof *j->shard, &j->shard));
    TRY(take(j->n_ranks, sizeof *j->counts, &j->counts));
    for (int64_t i = 0; i < j->n; i++) TRY(describe_tensor(j, i));
    return OK;
}

/* The leader writes one in any case. */
static enum status number_shards(struct save_job *j) {
    TRY(save_gather(j->comm, &j->n_items, sizeof j->n_items, j->counts));
    for (int r = 0; r < j->n_ranks; r++) j->shard[r] = j->counts[r] > 0 || r == 0 ? j->n_shards++ : -1;
    for (int k = 0; k < j->n_shards; k++)
        snprintf(j->name[k], sizeof j->name[k], "shard-%05d-of-%05d.safetensors", k, j->n_shards);
    return OK;
}

static void job_term(struct save_job *j) {
    mem_free(j->item);
    mem_free(j->mine);
    mem_free(j->all);
    mem_free(j->sum);
    mem_free(j->name);
    mem_free(j->counts);
    mem_free(j->shard);
    mem_free(j->m.file);
    mem_free(j->m.tensor);
    mem_free(j->m.piece);
}

/* What will be in the manifest, out of everybody's notes. */
static enum status fill_manifest(struct save_job *j) {
    const struct checkpoint_meta *a = j->meta;
    struct manifest *m = &j->m;
    *m = (struct manifest){.step = a->step,
                           .tokens = a->tokens,
                           .seed = a->seed,
                           .identity = a->identity,
                           .identity_text = a->identity_text,
                           .n_tensors = j->n};
    TRY(take(1 + j->n_shards, sizeof *m->file, &m->file));
    TRY(take(j->n, sizeof *m->tensor, &m->tensor));
    TRY(take(j->n * j->n_ranks, sizeof *m->piece, &m->piece));
    m->file[m->n_files++] =
        (struct manifest_file){.name = "config.yaml", .bytes = j->config.bytes, .xxh3 = j->config.xxh3};
    for (int r = 0; r < j->n_ranks; r++)
        if (j->shard[r] >= 0)
            m->file[m->n_files++] =
                (struct manifest_file){.name = j->name[j->shard[r]], .bytes = j->sum[r].bytes, .xxh3 = j->sum[r].xxh3};
    for (int64_t i = 0; i < j->n; i++) {
        const struct state_tensor *s = &j->list[i];
        struct manifest_tensor *t = &m->tensor[i];
        *t = (struct manifest_tensor){
            .name = s->name, .dtype = s->t.dtype, .n_dims = s->n_dims, .first_piece = m->n_pieces};
        memcpy(t->shape, s->global, sizeof s->global);
        for (int r = 0; r < j->n_ranks; r++) {
            const struct save_note *k = &j->all[r * j->n + i];
            if (!holds(j, r, i, k->rows)) continue;
            m->piece[m->n_pieces++] = (struct manifest_piece){.file = 1 + j->shard[r],
                                                              .begin = k->begin,
                                                              .rows = k->rows,
                                                              .xxh3 = k->xxh3,
                                                              .dim = k->dim,
                                                              .from = k->from,
                                                              .size = k->size};
            t->n_pieces++;
        }
    }
    return OK;
}

/* RUN and RUN/checkpoints; their entries are made durable each time, for a process before us may have died too early.
 */
static enum status make_folders(struct save_job *j, const char *run_dir) {
    TRY(save_make_folder(j->io, run_dir, true));
    TRY(save_make_folder(j->io, j->folder, true));
    return save_sync_folder(j->io, run_dir);
}

/* What cannot be removed now is told, and tried again at the next save. */
static void remove_or_warn(const struct save_job *j, const char *path) {
    if (save_remove_folder(j->io, path) == OK) return;
    log_warn("%s; it stays until the next save", status_text());
    status_clear();
}

static enum status remove_leftovers(struct save_job *j) {
    struct text names = {0};
    char path[PATH_BYTES];
    enum status st = step_leftovers(j->folder, &names);
    for (char *name = names.s, *end; st == OK && name && (end = strchr(name, '\n')); name = end + 1) {
        *end = '\0';
        st = path_print(path, "%s/%s", j->folder, name);
        if (st == OK) remove_or_warn(j, path);
    }
    text_term(&names);
    return st;
}

/* An estimate from above of all bytes of the new folder: JSON takes a few hundred a tensor. */
static int64_t bytes_needed(const struct save_job *j) {
    int64_t need = 1 << 16;
    for (int64_t i = 0; i < j->n; i++) {
        const struct state_tensor *s = &j->list[i];
        need += tensor_bytes(tensor_4d(NULL, s->t.dtype, s->global)) + 2 * (int64_t)strlen(s->name) + 512;
    }
    return need + (int64_t)(strlen(j->meta->config) + 2 * strlen(j->meta->identity_text));
}

static enum status check_room(const struct save_job *j) {
    const int64_t need = bytes_needed(j);
    int64_t room = 0;
    TRY(save_free_bytes(j->io, j->folder, &room));
    FAIL_UNLESS(room >= need, ERR_IO,
                "%s: the checkpoint of step %" PRId64 " needs %" PRId64 " bytes and %" PRId64
                " are free: nothing was written; free space there or lower checkpoint.keep",
                j->folder, j->meta->step, need, room);
    return OK;
}

static enum status write_text(const struct save_job *j, const char *name, const char *text, int64_t bytes,
                              struct shard_sum *sum) {
    char path[PATH_BYTES];
    struct save_file f = {.fd = -1};
    TRY(path_print(path, "%s/%s", j->temp, name));
    TRY(save_open(&f, j->io, path, bytes));
    enum status st = save_add(&f, text, bytes);
    sum->bytes = f.bytes;
    if (st == OK) st = save_end(&f, sum->xxh3);
    save_drop(&f);
    return st;
}

/* Each rank writes its shard, and the leader learns what is in it. */
static enum status write_shard(struct save_job *j) {
    const int me = save_rank(j->comm);
    struct shard_sum *all = j->sum, mine = {0};
    char path[PATH_BYTES];
    enum status st = OK;
    if (j->shard[me] >= 0) {
        st = path_print(path, "%s/%s", j->temp, j->name[j->shard[me]]);
        if (st == OK) st = shard_write_through(j->io, path, j->item, j->n_items, "{\"format\": \"baton\"}", &mine);
    }
    TRY(save_agree(j->comm, st));
    TRY(save_gather(j->comm, &mine, sizeof mine, all));
    return save_gather(j->comm, j->mine, j->n * (int64_t)sizeof *j->mine, j->all);
}

static enum status write_rest(struct save_job *j) {
    struct text manifest = {0};
    struct shard_sum own;
    TRY(write_text(j, "config.yaml", j->meta->config, (int64_t)strlen(j->meta->config), &j->config));
    TRY(fill_manifest(j));
    enum status st = manifest_print(&j->m, &manifest);
    if (st == OK) st = write_text(j, MANIFEST_NAME, manifest.s, manifest.n, &own);
    text_term(&manifest);
    TRY(st);
    return save_sync_folder(j->io, j->temp);
}

static enum status read_back(const struct save_job *j) {
    struct checkpoint *c = NULL;
    TRY(checkpoint_open(&c, j->temp));
    checkpoint_close(c);
    return OK;
}

/* The new folder takes its name.  If that cannot be made durable it goes back to where it is removed from; an invalid
 * one of the same step is put aside first and comes back. */
static enum status commit(struct save_job *j, bool occupied) {
    if (occupied) TRY(save_rename(j->io, j->final, j->aside));
    enum status st = save_rename(j->io, j->temp, j->final);
    if (st == OK) {
        st = save_sync_folder(j->io, j->folder);
        if (st == OK) return OK;
        j->io->rename(j->final, j->temp);
    }
    if (occupied) j->io->rename(j->aside, j->final);
    return st;
}

/* The first failure's text stays the one that is told. */
static void abandon(const struct save_job *j, enum status st) {
    char why[1024];
    snprintf(why, sizeof why, "%s", status_text());
    if (!file_exists(j->temp) || save_remove_folder(j->io, j->temp) == OK) return;
    status_fail(st, __FILE__, __LINE__, "%s; what was written stays at %s until the next save", why, j->temp);
}

/* Does one of this step stand already?  valid: it is whole and of this run. */
static enum status look_at_existing(const struct save_job *j, bool *occupied, bool *valid) {
    struct checkpoint *c = NULL;
    *valid = false;
    *occupied = file_exists(j->final);
    if (!*occupied) return OK;
    if (checkpoint_open(&c, j->final) != OK) {
        log_warn("%s; it is replaced", status_text());
        status_clear();
        return OK;
    }
    const struct checkpoint_meta *a = checkpoint_about(c);
    *valid = a->tokens == j->meta->tokens && a->seed == j->meta->seed && !strcmp(a->identity, j->meta->identity);
    checkpoint_close(c);
    FAIL_UNLESS(*valid, ERR_ARG, "%s holds a valid checkpoint of another run: set another run.dir", j->final);
    return OK;
}

/* Renamed before it is emptied, so that none is ever seen half gone. */
static void remove_step(const struct save_job *j, int64_t step) {
    char path[PATH_BYTES], aside[PATH_BYTES];
    if (step_print(path, j->folder, step) == OK && step_print_mark(aside, j->folder, step, "old") == OK &&
        save_rename(j->io, path, aside) == OK)
        remove_or_warn(j, aside);
    else log_warn("%s; it stays", status_text());
}

/* Older steps beyond the keep newest sound ones; an unsound one does not count, and goes with those around it.  Newer
 * steps are not ours to judge.  The new one stands by now: what fails here is told and is no failure of the save. */
static void remove_old(const struct save_job *j, int64_t keep) {
    struct step_list l;
    char path[PATH_BYTES];
    int64_t kept = 1;
    if (step_list_read(&l, j->folder) != OK) log_warn("%s; no old checkpoint was removed", status_text());
    for (int64_t i = 0; i < l.n; i++) {
        if (l.step[i] >= j->meta->step) continue;
        if (kept >= keep) remove_step(j, l.step[i]);
        else if (step_print(path, j->folder, l.step[i]) == OK && checkpoint_glance(path) == OK) kept++;
    }
    status_clear();
    step_list_term(&l);
}

/* The leader's part before anybody writes: the folder, or a checkpoint that is there already. */
static enum status prepare(struct save_job *j, const char *run_dir, bool *occupied, bool *valid) {
    TRY(make_folders(j, run_dir));
    TRY(remove_leftovers(j));
    TRY(look_at_existing(j, occupied, valid));
    if (*valid) return OK;
    TRY(check_room(j));
    return save_make_folder(j->io, j->temp, false);
}

static enum status write_and_commit(struct save_job *j, bool occupied) {
    const bool leads = save_rank(j->comm) == 0;
    enum status st = save_agree(j->comm, describe(j));
    if (st == OK) st = number_shards(j);
    if (st == OK) st = write_shard(j);
    if (leads) {
        if (st == OK) st = write_rest(j);
        if (st == OK) st = read_back(j);
        if (st == OK) st = commit(j, occupied);
        if (st != OK) abandon(j, st);
        else if (occupied) remove_or_warn(j, j->aside);
    }
    return st;
}

enum status checkpoint_save_ranks(const struct save_io *io, struct comm *c, const char *run_dir,
                                  const struct checkpoint_meta *meta, const struct state_tensor *list, int64_t n,
                                  int64_t keep) {
    enum status st = OK;
    bool occupied = false, valid = false;
    const bool leads = save_rank(c) == 0;
    struct save_job j = {.io = io, .comm = c, .meta = meta, .list = list, .n = n, .n_ranks = save_n_ranks(c)};
    TRY(path_print(j.folder, "%s/checkpoints", run_dir));
    TRY(step_print(j.final, j.folder, meta->step));
    TRY(step_print_mark(j.temp, j.folder, meta->step, "tmp"));
    TRY(step_print_mark(j.aside, j.folder, meta->step, "old"));
    if (leads) st = prepare(&j, run_dir, &occupied, &valid);
    TRY_OUT(save_tell(c, st, &valid, sizeof valid));
    TRY_OUT(save_tell(c, st, j.temp, sizeof j.temp)); /* the mark in its name is the leader's */
    if (!valid) {
        st = write_and_commit(&j, occupied);
        TRY_OUT(save_agree(c, st));
    }
    if (leads && keep > 0) remove_old(&j, keep);
out:
    job_term(&j);
    return st;
}

enum status checkpoint_save_through(const struct save_io *io, const char *run_dir, const struct checkpoint_meta *meta,
                                    const struct state_tensor *list, int64_t n, int64_t keep) {
    return checkpoint_save_ranks(io, NULL, run_dir, meta, list, n, keep);
}

enum status checkpoint_save(const char *run_dir, const struct checkpoint_meta *meta, const struct state_tensor *list,
                            int64_t n, int64_t keep) {
    return checkpoint_save_through(&save_io_posix, run_dir, meta, list, n, keep);
}
