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
#include "checkpoints/step_folders.h"

#define SHARD_NAME "shard-00000-of-00001.safetensors"

struct save_job {
    const struct save_io *io;
    const struct checkpoint_meta *meta;
    const struct state_tensor *list;
    int64_t n;
    char folder[PATH_BYTES];                                     /* RUN/checkpoints */
    char temp[PATH_BYTES], final[PATH_BYTES], aside[PATH_BYTES]; /* below it        */
    struct manifest m;
    struct manifest_file file[2]; /* config.yaml, the shard */
    struct shard_sum sum[2];
    struct shard_item *item; /* one a tensor, as are m.tensor, m.piece and hex */
    char (*hex)[HASH_HEX];
};

static enum status take(int64_t n, int64_t size, void *out) {
    void *mem = NULL;
    TRY(mem_take((n + 1) * size, &mem));
    memcpy(out, &mem, sizeof mem);
    return OK;
}

static void describe_tensor(struct save_job *j, int64_t i) {
    const struct state_tensor *s = &j->list[i];
    ASSERT(s->t.space == HOST && tensor_packed(s->t) && s->begin >= 0 && s->n_dims >= 0 && s->n_dims <= 4);
    j->item[i] = (struct shard_item){.name = s->name, .dtype = s->t.dtype, .n_dims = s->n_dims, .data = s->t.data};
    memcpy(j->item[i].shape, s->t.shape, sizeof s->t.shape);
    j->m.tensor[i] = (struct manifest_tensor){
        .name = s->name, .dtype = s->t.dtype, .n_dims = s->n_dims, .first_piece = i, .n_pieces = 1};
    memcpy(j->m.tensor[i].shape, s->global, sizeof s->global);
    hash_xxh3(s->t.data, tensor_bytes(s->t), j->hex[i]);
    j->m.piece[i] = (struct manifest_piece){.file = 1, .begin = s->begin, .rows = s->t.shape[0], .xxh3 = j->hex[i]};
}

/* What will be in the manifest, but for the sums of the files. */
static enum status describe(struct save_job *j) {
    const struct checkpoint_meta *a = j->meta;
    ASSERT(a->step >= 0 && a->tokens >= 0 && a->identity_text && a->config);
    j->m = (struct manifest){.step = a->step,
                             .tokens = a->tokens,
                             .seed = a->seed,
                             .identity = a->identity,
                             .identity_text = a->identity_text,
                             .file = j->file,
                             .n_files = 2,
                             .n_tensors = j->n,
                             .n_pieces = j->n};
    j->file[0] = (struct manifest_file){.name = "config.yaml", .xxh3 = j->sum[0].xxh3};
    j->file[1] = (struct manifest_file){.name = SHARD_NAME, .xxh3 = j->sum[1].xxh3};
    TRY(take(j->n, sizeof *j->item, &j->item));
    TRY(take(j->n, sizeof *j->hex, &j->hex));
    TRY(take(j->n, sizeof *j->m.tensor, &j->m.tensor));
    TRY(take(j->n, sizeof *j->m.piece, &j->m.piece));
    for (int64_t i = 0; i < j->n; i++) describe_tensor(j, i);
    return OK;
}

static void job_term(struct save_job *j) {
    mem_free(j->item);
    mem_free(j->hex);
    mem_free(j->m.tensor);
    mem_free(j->m.piece);
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
    for (int64_t i = 0; i < j->n; i++) need += tensor_bytes(j->list[i].t) + 2 * (int64_t)strlen(j->list[i].name) + 512;
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

static enum status write_files(struct save_job *j) {
    struct text manifest = {0};
    struct shard_sum own;
    char path[PATH_BYTES];
    TRY(path_print(path, "%s/" SHARD_NAME, j->temp));
    TRY(shard_write_through(j->io, path, j->item, j->n, "{\"format\": \"baton\"}", &j->sum[1]));
    TRY(write_text(j, "config.yaml", j->meta->config, (int64_t)strlen(j->meta->config), &j->sum[0]));
    for (int i = 0; i < 2; i++) j->file[i].bytes = j->sum[i].bytes;
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

static enum status write_and_commit(struct save_job *j, bool occupied) {
    TRY(check_room(j));
    enum status st = save_make_folder(j->io, j->temp, false);
    if (st == OK) st = write_files(j);
    if (st == OK) st = read_back(j);
    if (st == OK) st = commit(j, occupied);
    if (st != OK) abandon(j, st);
    else if (occupied) remove_or_warn(j, j->aside);
    return st;
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

enum status checkpoint_save_through(const struct save_io *io, const char *run_dir, const struct checkpoint_meta *meta,
                                    const struct state_tensor *list, int64_t n, int64_t keep) {
    enum status st = OK;
    bool occupied = false, valid = false;
    struct save_job j = {.io = io, .meta = meta, .list = list, .n = n};
    TRY(path_print(j.folder, "%s/checkpoints", run_dir));
    TRY(step_print(j.final, j.folder, meta->step));
    TRY(step_print_mark(j.temp, j.folder, meta->step, "tmp"));
    TRY(step_print_mark(j.aside, j.folder, meta->step, "old"));
    TRY_OUT(make_folders(&j, run_dir));
    TRY_OUT(remove_leftovers(&j));
    TRY_OUT(look_at_existing(&j, &occupied, &valid));
    if (!valid) {
        TRY_OUT(describe(&j));
        TRY_OUT(write_and_commit(&j, occupied));
    }
    if (keep > 0) remove_old(&j, keep);
out:
    job_term(&j);
    return st;
}

enum status checkpoint_save(const char *run_dir, const struct checkpoint_meta *meta, const struct state_tensor *list,
                            int64_t n, int64_t keep) {
    return checkpoint_save_through(&save_io_posix, run_dir, meta, list, n, keep);
}
