/* SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.h"
#include <isa-l/crc.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <xxhash.h>
#include "base/arena.h"

struct hash_stream {
    XXH3_state_t *xxh3;
    EVP_MD_CTX *sha;
};

static void to_hex(const unsigned char *bytes, int n, char *hex) {
    for (int i = 0; i < n; i++) snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
}

static void xxh3_hex(XXH128_hash_t h, char *hex) {
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, h);
    to_hex(c.digest, 16, hex);
}

void hash_xxh3(const void *data, int64_t bytes, char hex[HASH_HEX]) {
    xxh3_hex(XXH3_128bits(data, (size_t)bytes), hex);
}

uint32_t hash_crc32c(const void *data, int64_t bytes) {
    const unsigned char *p = data;
    uint32_t crc = 0xffffffffu;
    while (bytes > 0) { /* the library counts in int and takes no const */
        const int n = bytes > (1 << 30) ? 1 << 30 : (int)bytes;
        crc = crc32_iscsi((unsigned char *)(uintptr_t)p, n, crc);
        p += n;
        bytes -= n;
    }
    return ~crc;
}

static enum status open_empty(struct hash_stream **out) {
    void *p = NULL;
    TRY(mem_take(sizeof **out, &p));
    *out = p;
    return OK;
}

enum status hash_open_xxh3(struct hash_stream **out) {
    TRY(open_empty(out));
    (*out)->xxh3 = XXH3_createState();
    if ((*out)->xxh3 && XXH3_128bits_reset((*out)->xxh3) == XXH_OK) return OK;
    hash_close(*out, NULL);
    *out = NULL;
    FAIL(ERR_OOM, "cannot start an XXH3 hash: no memory");
}

enum status hash_open_sha256(struct hash_stream **out) {
    TRY(open_empty(out));
    (*out)->sha = EVP_MD_CTX_new();
    if ((*out)->sha && EVP_DigestInit_ex((*out)->sha, EVP_sha256(), NULL) == 1) return OK;
    hash_close(*out, NULL);
    *out = NULL;
    FAIL(ERR_OOM, "cannot start a SHA-256 hash: no memory, or libcrypto lacks it");
}

void hash_add(struct hash_stream *h, const void *data, int64_t bytes) {
    if (h->xxh3) XXH3_128bits_update(h->xxh3, data, (size_t)bytes);
    else ASSERT(EVP_DigestUpdate(h->sha, data, (size_t)bytes) == 1);
}

void hash_close(struct hash_stream *h, char *hex) {
    if (!h) return;
    if (h->xxh3 && hex) xxh3_hex(XXH3_128bits_digest(h->xxh3), hex);
    if (h->sha && hex) {
        unsigned char digest[EVP_MAX_MD_SIZE];
        unsigned n = 0;
        ASSERT(EVP_DigestFinal_ex(h->sha, digest, &n) == 1);
        to_hex(digest, (int)n, hex);
    }
    XXH3_freeState(h->xxh3);
    EVP_MD_CTX_free(h->sha);
    mem_free(h);
}

enum status hash_sha256(const void *data, int64_t bytes, char hex[SHA256_HEX]) {
    struct hash_stream *h = NULL;
    TRY(hash_open_sha256(&h));
    hash_add(h, data, bytes);
    hash_close(h, hex);
    return OK;
}
