/* SPDX-License-Identifier: Apache-2.0 */
/* What `baton inspect` prints of a run, a step, a Hugging Face folder and a single file, and how it fails. */
#define _GNU_SOURCE
#include <fcntl.h>
#include "checkpoints/safetensors.h"
#include "launch/command.h"
#include "tests/checkpoint_world.h"

extern const struct command command_inspect;
static char run[PATH_BYTES], said[PATH_BYTES];

/* The command on one path (NULL: on none), its output into *out. */
static enum status inspect(const char *path, char **out) {
    char name[] = "inspect", word[PATH_BYTES], *argv[] = {name, word, NULL};
    int64_t bytes = 0;
    snprintf(word, sizeof word, "%s", path ? path : "");
    fflush(stdout);
    const int kept = dup(1), to = open(said, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (kept < 0 || to < 0 || dup2(to, 1) < 0) exit(1);
    const enum status st = command_inspect.run(path ? 2 : 1, argv);
    fflush(stdout);
    dup2(kept, 1);
    close(kept);
    close(to);
    MUST(file_read(said, 1 << 20, out, &bytes));
    return st;
}

static void prints(const char *why, const char *path, enum status wanted, const char *const *parts) {
    char *out = NULL;
    const enum status st = inspect(path, &out);
    CHECK(st == wanted, "%s: %s: %s", why, status_name(st), status_text());
    for (int i = 0; parts[i]; i++)
        CHECK(strstr(out, parts[i]) || (st != OK && strstr(status_text(), parts[i])), "%s: '%s' is not in\n%s%s", why,
              parts[i], out, st == OK ? "" : status_text());
    file_free(out);
}

#define PARTS(...)                                                                                                     \
    (const char *const[]) { __VA_ARGS__, NULL }

int main(void) {
    char path[PATH_BYTES];
    const float one = 1.0f;
    struct shard_sum sum;
    world_folder(run);
    snprintf(said, sizeof said, "%.900s/said", run);
    prints("an empty folder", run, ERR_MISSING, PARTS("no checkpoint here"));
    world_save(run, 1, 0);
    world_save(run, 2, 0);
    prints("a run", run, OK,
           PARTS("step-00000002: whole", "step 2, 8192 tokens, seed 18364758544493064720", "identity aaaa",
                 "manifest says", "shard-00000-of-00001.safetensors",
                 "  F32   (37, 91)              param/layers.0.in_proj", "  F64   ()                    param/scalar",
                 "9 tensors in ", "config\n  model: {width: 64}\n"));
    snprintf(path, sizeof path, "%.900s/checkpoints/step-00000002/config.yaml", run);
    if (truncate(path, 3) != 0) return 1;
    prints("a run whose newest is damaged", run, OK, PARTS("skipped step 2: ", "cut short", "step-00000001: whole"));
    snprintf(path, sizeof path, "%.900s/checkpoints/step-00000002", run);
    prints("a damaged step", path, ERR_DATA, PARTS("config.yaml", "cut short"));
    snprintf(path, sizeof path, "%.900s/checkpoints/step-00000001/", run);
    prints("a step", path, OK, PARTS("step 1, 4096 tokens"));

    snprintf(path, sizeof path, "%.900s/other", run);
    MUST(file_make_folders(path));
    snprintf(path, sizeof path, "%.900s/other/config.json", run);
    MUST(file_replace(path, "{\"model_type\": \"gpt2\"}", 22));
    snprintf(path, sizeof path, "%.900s/other/model.safetensors", run);
    const struct shard_item item = {.name = "wte", .dtype = F32, .n_dims = 1, .shape = {1, 1, 1, 1}, .data = &one};
    MUST(shard_write(path, &item, 1, NULL, &sum));
    prints("a file", path, OK, PARTS("1 tensors in ", "  F32   (1)                   wte"));
    snprintf(path, sizeof path, "%.900s/other", run);
    prints("a family that is not known", path, OK, PARTS("cannot be imported", "gpt2", "wte"));
    prints("no such path", "/none/such", ERR_MISSING, PARTS("/none/such: no such file or folder"));
    prints("no path", NULL, ERR_CONFIG, PARTS("baton inspect CHECKPOINT"));
    MUST(file_remove_tree(run));
    return check_end();
}
