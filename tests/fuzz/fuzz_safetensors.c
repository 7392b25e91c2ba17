/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a safetensors file.  What is accepted covers the file to its last byte, so one byte less is refused. */
#include <stddef.h>
#include <stdint.h>
#include "checkpoints/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (shard_check("input", data, (int64_t)size) == OK) ASSERT(shard_check("input", data, (int64_t)size - 1) != OK);
    return 0;
}
