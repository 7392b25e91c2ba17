/* SPDX-License-Identifier: Apache-2.0 */
#include "data/utf8.h"
#include <string.h>

/* Bytes of the well-formed character at p, or 0 with *bad the length of the part to replace (Unicode table 3-7). */
static int character(const unsigned char *p, int64_t n, int *bad) {
    const unsigned c = p[0];
    if (c < 0x80) return 1;
    *bad = 1;
    if (c < 0xc2 || c > 0xf4) return 0;
    const int bytes = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    const unsigned low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    const unsigned high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (n < 2 || p[1] < low || p[1] > high) return 0;
    for (int i = 2; i < bytes; i++) {
        *bad = i;
        if (i >= n || (p[i] & 0xc0) != 0x80) return 0;
    }
    return bytes;
}

static int64_t valid_bytes(const unsigned char *p, int64_t n, int *bad) {
    int64_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (i + 8 <= n && (memcpy(&eight, p + i, 8), (eight & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        const int many = character(p + i, n - i, bad);
        if (many == 0) break;
        i += many;
    }
    return i;
}

bool utf8_valid(const char *s, int64_t n) {
    int bad = 0;
    return valid_bytes((const unsigned char *)s, n, &bad) == n;
}

enum status utf8_repair(const char *s, int64_t n, struct text *out) {
    while (n > 0) {
        int bad = 0;
        const int64_t good = valid_bytes((const unsigned char *)s, n, &bad);
        TRY(text_add(out, s, good));
        if (good == n) break;
        TRY(text_add(out, "\xef\xbf\xbd", 3));
        s += good + bad;
        n -= good + bad;
    }
    return OK;
}

int utf8_next(const char *s, int64_t n, uint32_t *code) {
    const unsigned char *p = (const unsigned char *)s;
    if (p[0] < 0x80) {
        *code = p[0];
        return 1;
    }
    const int bytes = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    ASSERT(bytes <= n);
    uint32_t c = p[0] & (0x7fu >> bytes);
    for (int i = 1; i < bytes; i++) c = c << 6 | (p[i] & 0x3fu);
    *code = c;
    return bytes;
}

int utf8_put(char out[4], uint32_t code) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    const int bytes = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int i = bytes - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code & 0x3f));
        code >>= 6;
    }
    out[0] = (char)((0xf00 >> bytes & 0xf0) | (int)code);
    return bytes;
}
