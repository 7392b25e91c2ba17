/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "checkpoints/safetensors.h"

static int by_name(const void *name, const void *entry) {
    return strcmp(name, ((const struct shard_entry *)entry)->name);
}

const struct shard_entry *shard_find(const struct shard_file *f, const char *name) {
    if (!f->n_entries) return NULL;
    return bsearch(name, f->entry, (size_t)f->n_entries, sizeof *f->entry, by_name);
}

/* Elements converted at a time, through the widest type of their kind: every narrower value is exact there, and places
 * in a file need not be aligned. */
enum { BLOCK = 512 };

static double from_f16(uint16_t h) {
    const uint32_t sign = (uint32_t)(h >> 15) << 31, exponent = (h >> 10) & 31u, fraction = h & 1023u;
    uint32_t bits = sign | (exponent + 112u) << 23 | fraction << 13;
    float v;
    if (exponent == 0) return (sign ? -1.0 : 1.0) * (double)fraction * 0x1p-24;
    if (exponent == 31) bits = sign | 0x7f800000u | fraction << 13;
    memcpy(&v, &bits, 4);
    return (double)v;
}

static double from_bf16(uint16_t h) {
    const uint32_t bits = (uint32_t)h << 16;
    float v;
    memcpy(&v, &bits, 4);
    return (double)v;
}

#define WIDEN(type, expression)                                                                                        \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
        type v;                                                                                                        \
        memcpy(&v, in + i * (int64_t)sizeof v, sizeof v);                                                              \
        out[i] = (expression);                                                                                         \
    }                                                                                                                  \
    return true

static bool widen_real(enum dtype t, const unsigned char *in, int64_t n, double *out) {
    switch (t) {
    case F64:
        WIDEN(double, v);
    case F32:
        WIDEN(float, (double)v);
    case BF16:
        WIDEN(uint16_t, from_bf16(v));
    case F16:
        WIDEN(uint16_t, from_f16(v));
    default:
        return false;
    }
}

static bool widen_integer(enum dtype t, const unsigned char *in, int64_t n, int64_t *out) {
    switch (t) {
    case I64:
        WIDEN(int64_t, v);
    case I32:
        WIDEN(int32_t, v);
    case I16:
        WIDEN(int16_t, v);
    case I8:
        WIDEN(int8_t, v);
    case U16:
        WIDEN(uint16_t, v);
    case U8:
        WIDEN(uint8_t, v);
    default:
        return false;
    }
}

static bool convert_reals(enum dtype from, const unsigned char *in, int64_t n, enum dtype to, void *out, int64_t at) {
    double wide[BLOCK];
    if (!widen_real(from, in, n, wide)) return false;
    for (int64_t i = 0; i < n; i++) {
        if (to == F64) ((double *)out)[at + i] = wide[i];
        else ((float *)out)[at + i] = (float)wide[i];
    }
    return true;
}

static enum status convert_integers(const struct shard_file *f, const struct shard_entry *e, const unsigned char *in,
                                    int64_t n, enum dtype to, void *out, int64_t at) {
    int64_t wide[BLOCK];
    FAIL_UNLESS(widen_integer(e->dtype, in, n, wide), ERR_DATA, "%s: tensor %s: %s does not become %s", f->path,
                e->name, dtype_name(e->dtype), dtype_name(to));
    for (int64_t i = 0; i < n; i++) {
        FAIL_UNLESS(to == I64 || (wide[i] >= INT32_MIN && wide[i] <= INT32_MAX), ERR_DATA,
                    "%s: tensor %s: %" PRId64 " does not fit into I32", f->path, e->name, wide[i]);
        if (to == I64) ((int64_t *)out)[at + i] = wide[i];
        else ((int32_t *)out)[at + i] = (int32_t)wide[i];
    }
    return OK;
}

enum status shard_read(const struct shard_file *f, const struct shard_entry *e, int64_t first, int64_t n, enum dtype to,
                       void *out) {
    const int64_t size = dtype_bytes(e->dtype), count = e->bytes / size;
    FAIL_UNLESS(first >= 0 && n >= 0 && first <= count && n <= count - first, ERR_ARG,
                "%s: tensor %s: elements %" PRId64 " to %" PRId64 " asked of %" PRId64, f->path, e->name, first,
                first + n, count);
    if (n == 0) return OK;
    const unsigned char *in = f->map.data + e->begin + first * size;
    if (to == e->dtype) {
        memcpy(out, in, (size_t)(n * size));
        return OK;
    }
    const bool real = to == F64 || to == F32;
    FAIL_UNLESS(real || to == I64 || to == I32, ERR_ARG, "%s: tensor %s: %s does not become %s", f->path, e->name,
                dtype_name(e->dtype), dtype_name(to));
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t block = n - at < BLOCK ? n - at : BLOCK;
        if (!real) TRY(convert_integers(f, e, in + at * size, block, to, out, at));
        else if (!convert_reals(e->dtype, in + at * size, block, to, out, at))
            FAIL(ERR_DATA, "%s: tensor %s: %s does not become %s", f->path, e->name, dtype_name(e->dtype),
                 dtype_name(to));
    }
    return OK;
}
