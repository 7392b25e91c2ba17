/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include "checkpoints/checkpoint.h"
#include "checkpoints/manifest.h"
#include "checkpoints/step_folders.h"

static enum status verify(const char *path) {
    struct checkpoint *c = NULL;
    TRY(checkpoint_open(&c, path));
    checkpoint_close(c);
    return OK;
}

/* Found by its name alone, so a link is not followed. */
static enum status verify_listed(const char *path) {
    struct stat s;
    FAIL_UNLESS(lstat(path, &s) == 0 && S_ISDIR(s.st_mode), ERR_DATA, "%s is not a folder: refused", path);
    return verify(path);
}

static bool names_step(const char *dir) {
    char manifest[PATH_BYTES];
    int64_t step = 0;
    const char *slash = strrchr(dir, '/');
    if (step_parse(slash ? slash + 1 : dir, &step)) return true;
    return path_print(manifest, "%s/" MANIFEST_NAME, dir) == OK && file_exists(manifest);
}

static enum status newest_valid(const char *folder, const struct step_list *l, char path[PATH_BYTES],
                                struct text *skipped) {
    for (int64_t i = 0; i < l->n; i++) {
        TRY(step_print(path, folder, l->step[i]));
        const enum status st = verify_listed(path);
        if (st == OK) return OK;
        if (st == ERR_OOM) return st;
        TRY(text_print(skipped, "skipped step %" PRId64 ": %s\n", l->step[i], status_text()));
    }
    FAIL(ERR_DATA, "%s: none of its %" PRId64 " checkpoints is valid: move them away to start from the beginning.\n%s",
         folder, l->n, skipped->s);
}

enum status checkpoint_find(const char *run_or_step_dir, char path[PATH_BYTES], struct text *skipped) {
    char dir[PATH_BYTES], folder[PATH_BYTES];
    struct step_list l;
    TRY(path_print(dir, "%s", run_or_step_dir));
    for (size_t n = strlen(dir); n > 1 && dir[n - 1] == '/'; n--) dir[n - 1] = '\0';
    if (names_step(dir)) {
        TRY(path_print(path, "%s", dir));
        FAIL_UNLESS(file_is_folder(dir), ERR_MISSING, "%s: no such folder", dir);
        return verify(dir);
    }
    TRY(path_print(folder, "%s/checkpoints", dir));
    TRY(step_list_read(&l, folder));
    FAIL_UNLESS(l.n > 0, ERR_MISSING, "%s: no checkpoint here", folder);
    const enum status st = newest_valid(folder, &l, path, skipped);
    step_list_term(&l);
    if (st == OK) status_clear();
    return st;
}
