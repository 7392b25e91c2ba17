/* SPDX-License-Identifier: Apache-2.0 */
#include "data/idx.h"
#include <string.h>

enum status token_file_open(struct token_file *f, const char *prefix) {
    enum status st = OK;
    char path[PATH_BYTES];
    memset(f, 0, sizeof *f);
    TRY(path_print(f->prefix, "%s", prefix));
    TRY(path_print(path, "%s.idx", prefix));
    FAIL_UNLESS(file_exists(path), ERR_MISSING,
                "%s does not exist: data are named by the prefix of a .bin and .idx pair, which baton prepare makes",
                path);
    TRY(file_map_open(&f->idx, path));
    TRY_OUT(path_print(path, "%s.bin", prefix));
    TRY_OUT(file_map_open(&f->bin, path));
    TRY_OUT(token_file_check(f));
out:
    if (st != OK) token_file_close(f);
    return st;
}

void token_file_close(struct token_file *f) {
    file_map_close(&f->idx);
    file_map_close(&f->bin);
    f->n_entries = f->n_documents = f->n_tokens = 0;
}
