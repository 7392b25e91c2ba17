/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_BASE_HASH_H
#define BATON_BASE_HASH_H
/* hash.h - the one door to xxHash (XXH3-128: corruption), libcrypto (SHA-256: identity) and ISA-L (CRC32C: TensorBoard
 * frames).  Hex texts are lower case and end with a NUL. */
#include <stdint.h>
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HASH_HEX   33 /* bytes of a 128-bit hex text   */
#define SHA256_HEX 65 /* bytes of a 256-bit hex text   */

void hash_xxh3(const void *data, int64_t bytes, char hex[HASH_HEX]);
uint32_t hash_crc32c(const void *data, int64_t bytes);

struct hash_stream; /* incremental; one of the two kinds */
enum status hash_open_xxh3(struct hash_stream **out);
enum status hash_open_sha256(struct hash_stream **out);
void hash_add(struct hash_stream *h, const void *data, int64_t bytes);
void hash_close(struct hash_stream *h, char *hex); /* hex: room for the kind, or NULL to drop */
enum status hash_sha256(const void *data, int64_t bytes, char hex[SHA256_HEX]);

#ifdef __cplusplus
}
#endif
#endif
