/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a manifest, the seal aside, which no fuzzer would guess.  What is accepted prints as a sealed manifest
 * that opens and prints the same again; a sealed text with a byte changed does not open. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "checkpoints/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void print_twice(const struct manifest *m) {
    struct manifest again = {0};
    struct text first = {0}, second = {0};
    ASSERT(manifest_print(m, &first) == OK);
    ASSERT(manifest_open(&again, "printed", first.s, first.n) == OK);
    ASSERT(manifest_print(&again, &second) == OK);
    ASSERT(first.n == second.n && !memcmp(first.s, second.s, (size_t)first.n));
    manifest_close(&again);
    first.s[first.n / 2] ^= 1;
    ASSERT(manifest_open(&again, "changed", first.s, first.n) != OK);
    text_term(&first);
    text_term(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct manifest m = {0};
    if (manifest_parse(&m, "input", (const char *)data, (int64_t)size) == OK) print_twice(&m);
    manifest_close(&m);
    return 0;
}
