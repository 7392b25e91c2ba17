/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: a token file's index and tokens.  Input: u16 (little-endian) bytes of .idx, the .idx, and .bin the rest.
 * Both parts are copied to memory of their exact size, so that the sanitizers see every byte read behind an end. */
#include <stddef.h>
#include <string.h>
#include "base/arena.h"
#include "data/idx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct file_map copy(const uint8_t *data, size_t bytes) {
    void *mem = NULL;
    if (bytes == 0 || mem_take((int64_t)bytes, &mem) != OK) return (struct file_map){0};
    memcpy(mem, data, bytes);
    return (struct file_map){mem, (int64_t)bytes};
}

static void read_documents(const struct token_file *f) {
    int64_t all = 0;
    for (int64_t d = 0; d < f->n_documents; d++) {
        int32_t tokens[64];
        const int64_t n = token_file_length(f, d), some = n < 64 ? n : 64;
        if (token_file_read(f, d, n - some, some, 100, tokens) == OK)
            for (int64_t i = 0; i < some; i++) ASSERT(tokens[i] >= 0 && tokens[i] < 100);
        all += n;
    }
    ASSERT(all == f->n_tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    size_t idx_bytes = data[0] | (size_t)data[1] << 8;
    if (idx_bytes > size - 2) idx_bytes = size - 2;
    struct token_file f = {.prefix = "fuzz"};
    f.idx = copy(data + 2, idx_bytes);
    f.bin = copy(data + 2 + idx_bytes, size - 2 - idx_bytes);
    if (token_file_check(&f) == OK) read_documents(&f);
    mem_free((void *)(uintptr_t)f.idx.data);
    mem_free((void *)(uintptr_t)f.bin.data);
    return 0;
}
