/* SPDX-License-Identifier: Apache-2.0
 * A fuzz target over files and folders of inputs, each once, without libFuzzer: replay_<name> PATH... */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "base/arena.h"
#include "base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The target sees a block of exactly the input's size, so that a sanitizer sees the first byte behind it. */
static enum status replay_file(const char *path) {
    struct file_map m;
    void *copy = NULL;
    enum status st = OK;
    TRY(file_map_open(&m, path));
    TRY_OUT(mem_take(m.bytes ? m.bytes : 1, &copy));
    if (m.bytes) memcpy(copy, m.data, (size_t)m.bytes);
    LLVMFuzzerTestOneInput(copy, (size_t)m.bytes);
out:
    mem_free(copy);
    file_map_close(&m);
    return st;
}

static enum status replay_folder(const char *path, int64_t *n_files) {
    DIR *d = opendir(path);
    FAIL_UNLESS(d, ERR_MISSING, "cannot open the folder %s", path);
    enum status st = OK;
    for (struct dirent *e; st == OK && (e = readdir(d));) {
        char inner[PATH_BYTES];
        if (e->d_name[0] == '.') continue;
        st = path_print(inner, "%s/%s", path, e->d_name);
        if (st == OK) st = replay_file(inner);
        if (st == OK) ++*n_files;
    }
    closedir(d);
    return st;
}

int main(int argc, char **argv) {
    int64_t n_files = 0;
    enum status st = OK;
    for (int i = 1; st == OK && i < argc; i++) {
        if (file_is_folder(argv[i])) st = replay_folder(argv[i], &n_files);
        else if ((st = replay_file(argv[i])) == OK) n_files++;
    }
    if (st == OK && n_files > 0) return 0;
    fprintf(stderr, "replay: %s\n",
            st == OK ? "no input was found: name files or folders that hold some" : status_text());
    return 1;
}
