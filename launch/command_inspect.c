/* SPDX-License-Identifier: Apache-2.0 */
/* baton inspect: what a checkpoint, a Hugging Face folder or a safetensors file holds, and whether it is whole. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/arena.h"
#include "checkpoints/checkpoint.h"
#include "checkpoints/hf.h"
#include "checkpoints/manifest.h"
#include "checkpoints/safetensors.h"
#include "launch/command.h"

static void print_tensor(const char *name, enum dtype t, int n_dims, const int64_t *shape) {
    char text[96] = "()";
    size_t at = 0;
    for (int d = 0; d < n_dims; d++)
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%" PRId64 "%s", d ? ", " : "(", shape[d],
                               d + 1 == n_dims ? ")" : "");
    printf("  %-4s  %-20s  %s\n", dtype_name(t), text, name);
}

/* ---- checkpoints of ours ---- */

/* A control character would steer the terminal: shown as '?'. */
static void print_indented(const char *text) {
    bool fresh = true;
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (fresh) printf("  ");
        fresh = *p == '\n';
        putchar((*p < ' ' && *p != '\n' && *p != '\t') || *p == 127 ? '?' : *p);
    }
    if (!fresh) putchar('\n');
}

static void print_piece(const struct manifest *m, const struct manifest_piece *p) {
    printf("          rows %" PRId64 " to %" PRId64, p->begin, p->begin + p->rows);
    if (p->dim > 0) printf(", of dim %" PRId64 " %" PRId64 " to %" PRId64, p->dim, p->from, p->from + p->size);
    printf(" in %s\n", m->file[p->file].name);
}

static void print_manifest(const struct manifest *m) {
    int64_t bytes = 0;
    printf("shards and other files, each of the size and checksum that the manifest says\n");
    for (int64_t i = 0; i < m->n_files; i++) {
        printf("  %12" PRId64 " bytes  xxh3 %s  %s\n", m->file[i].bytes, m->file[i].xxh3, m->file[i].name);
        bytes += m->file[i].bytes;
    }
    printf("tensors\n");
    for (int64_t i = 0; i < m->n_tensors; i++) {
        const struct manifest_tensor *t = &m->tensor[i];
        print_tensor(t->name, t->dtype, t->n_dims, t->shape);
        for (int64_t j = t->first_piece; t->n_pieces > 1 && j < t->first_piece + t->n_pieces; j++)
            print_piece(m, &m->piece[j]);
    }
    printf("%" PRId64 " tensors in %" PRId64 " bytes\n", m->n_tensors, bytes);
}

static enum status inspect_checkpoint(const char *path) {
    struct checkpoint *c = NULL;
    TRY(checkpoint_open(&c, path));
    const struct checkpoint_meta *a = checkpoint_about(c);
    printf("checkpoint %s: whole\n", path);
    printf("step %" PRId64 ", %" PRId64 " tokens, seed %" PRIu64 "\nidentity %s\n", a->step, a->tokens, a->seed,
           a->identity);
    print_manifest(checkpoint_manifest(c));
    printf("config\n");
    print_indented(a->config);
    checkpoint_close(c);
    return OK;
}

static enum status inspect_run(const char *path) {
    char found[PATH_BYTES];
    struct text skipped = {0};
    enum status st = checkpoint_find(path, found, &skipped);
    if (st == OK && skipped.s) printf("%s", skipped.s);
    text_term(&skipped);
    TRY(st);
    return inspect_checkpoint(found);
}

/* ---- files of others ---- */

static bool is_shard(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot && !strcmp(dot, ".safetensors");
}

static enum status inspect_file(const char *path) {
    struct shard_file f;
    TRY(shard_open(&f, path));
    printf("%s: %" PRId64 " tensors in %" PRId64 " bytes\n", path, f.n_entries, f.map.bytes);
    for (int64_t i = 0; i < f.n_entries; i++)
        print_tensor(f.entry[i].name, f.entry[i].dtype, f.entry[i].n_dims, f.entry[i].shape);
    shard_close(&f);
    return OK;
}

/* Names of the folder's safetensors files, each ending with a newline. */
static enum status list_shards(const char *dir, struct text *names, int64_t *n) {
    enum status st = OK;
    DIR *d = opendir(dir);
    FAIL_UNLESS(d, ERR_IO, "cannot open folder %s", dir);
    for (const struct dirent *e; st == OK && (e = readdir(d));)
        if (is_shard(e->d_name)) {
            st = text_print(names, "%s\n", e->d_name);
            ++*n;
        }
    closedir(d);
    return st;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static enum status inspect_shards(const char *dir) {
    struct text names = {0};
    char path[PATH_BYTES], *at;
    int64_t n = 0;
    void *mem = NULL;
    enum status st = list_shards(dir, &names, &n);
    if (st == OK) st = mem_take((n + 1) * (int64_t)sizeof(char *), &mem);
    char **list = mem;
    at = names.s;
    for (int64_t i = 0; st == OK && i < n; i++) {
        list[i] = at;
        at = strchr(at, '\n');
        *at++ = '\0';
    }
    if (st == OK && n > 1) qsort(list, (size_t)n, sizeof *list, by_text);
    for (int64_t i = 0; st == OK && i < n; i++) {
        st = path_print(path, "%s/%s", dir, list[i]);
        if (st == OK) st = inspect_file(path);
    }
    mem_free(mem);
    text_term(&names);
    return st;
}

/* A family that cannot be imported is listed all the same, with the reason. */
static enum status inspect_hf(const char *dir) {
    struct hf_folder *f = NULL;
    struct text yaml = {0};
    printf("Hugging Face folder %s\n", dir);
    if (hf_open(&f, dir) == OK && hf_model_yaml(f, &yaml) == OK) print_indented(yaml.s);
    else printf("  cannot be imported: %s\n", status_text());
    text_term(&yaml);
    hf_close(f);
    status_clear();
    return inspect_shards(dir);
}

static enum status inspect(const char *path) {
    char config[PATH_BYTES];
    TRY(path_print(config, "%s/config.json", path));
    FAIL_UNLESS(file_exists(path), ERR_MISSING, "%s: no such file or folder", path);
    if (!file_is_folder(path)) return inspect_file(path);
    return file_exists(config) ? inspect_hf(path) : inspect_run(path);
}

static enum status run(int argc, char **argv) {
    struct command_line line;
    TRY(command_parse(argc, argv, NULL, 0, &line));
    enum status st = OK;
    if (line.n_words != 1 || line.n_overrides)
        st = status_fail(ERR_CONFIG, __FILE__, __LINE__, "inspect wants one folder or file: baton inspect CHECKPOINT");
    else st = inspect(line.words[0]);
    command_line_term(&line);
    return st;
}

const struct command command_inspect = {
    .name = "inspect",
    .usage = "inspect CHECKPOINT",
    .help =
        "CHECKPOINT is a run folder (its newest valid checkpoint), a checkpoint's folder, a Hugging Face folder or a\n"
        ".safetensors file.  Prints tensors with type and shape, files with size and checksum, step and config;\n"
        "every checksum of a checkpoint is verified first.\n",
    .run = run,
};
