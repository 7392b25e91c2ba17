/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/space.h"
#include <string.h>
#include "kernels/device_queue.h"

static bool far(const struct ctx *c) { return c->space == DEVICE; }

enum status space_arena_init(const struct ctx *c, struct arena *a, const char *name, int64_t bytes) {
    if (c->paper) return arena_reserve(a, name, bytes);
    return far(c) ? device_arena_init(a, name, bytes) : arena_init(a, name, bytes);
}

void space_arena_term(const struct ctx *c, struct arena *a) {
    if (c->paper) arena_unreserve(a);
    else if (far(c)) device_arena_term(a);
    else arena_term(a);
}

static enum status pinned_init(struct arena *a, const char *name, int64_t bytes,
                               enum status (*take)(int64_t bytes, void **out)) {
    void *base = NULL;
    *a = (struct arena){.name = name};
    if (bytes == 0) return OK;
    TRY(take(arena_round(bytes), &base));
    a->base = base;
    a->size = arena_round(bytes);
    return OK;
}

enum status space_host_init(const struct ctx *c, struct arena *a, const char *name, int64_t bytes) {
    if (!far(c) || c->paper) return arena_init(a, name, bytes);
    return pinned_init(a, name, bytes, device_pinned_take);
}

void space_host_term(const struct ctx *c, struct arena *a) {
    if (!far(c) || c->paper) {
        arena_term(a);
        return;
    }
    device_pinned_free(a->base);
    *a = (struct arena){0};
}

enum status space_store_init(const struct ctx *c, struct arena *a, const char *name, int64_t bytes) {
    if (c->paper) return arena_reserve(a, name, bytes);
    return far(c) ? pinned_init(a, name, bytes, device_store_take) : arena_init(a, name, bytes);
}

void space_store_term(const struct ctx *c, struct arena *a) {
    if (c->paper) arena_unreserve(a);
    else if (!far(c)) arena_term(a);
    else device_store_free(a->base, a->size), *a = (struct arena){0};
}

enum status space_send(struct ctx *c, void *to, const void *from, int64_t bytes) {
    if (to == from || bytes == 0 || c->paper) return OK;
    if (far(c)) return device_send(c->device, to, from, bytes);
    memcpy(to, from, (size_t)bytes);
    return OK;
}

static bool queued(const struct ctx *c) { return far(c) && !c->paper; }
enum status space_mark(struct ctx *c) { return queued(c) ? device_mark(c->device) : OK; }
enum status space_reach(struct ctx *c) { return queued(c) ? device_reach(c->device) : OK; }
enum status space_settle(struct ctx *c) { return queued(c) ? device_settle(c->device) : OK; }

enum status space_fetch(struct ctx *c, void *to, const void *from, int64_t bytes) {
    TRY(space_send(c, to, from, bytes));
    return space_settle(c);
}

enum status space_copy(struct ctx *c, void *to, const void *from, int64_t bytes) {
    return space_fetch(c, to, from, bytes);
}

enum status space_zero(struct ctx *c, void *p, int64_t bytes) {
    if (c->paper) return OK;
    if (far(c)) {
        TRY(space_settle(c));
        TRY(device_fill(p, 0, bytes)); /* on a stream of its own */
        return device_wait();
    }
    if (bytes > 0) memset(p, 0, (size_t)bytes);
    return OK;
}

/* ---- numbers ---- */

static char *element(struct tensor t, int64_t i) { return (char *)t.data + i * dtype_bytes(t.dtype); }

static uint16_t bf16_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u); /* NaN stays one */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static float f32_of(uint16_t x) {
    const uint32_t bits = (uint32_t)x << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

enum { PIECE = 1 << 16 }; /* elements rounded at a time */

void space_round(const float *wide, int64_t n, void *rounded) {
    uint16_t *out = rounded;
    for (int64_t i = 0; i < n; i++) out[i] = bf16_of(wide[i]);
}

enum status space_store(struct ctx *c, struct tensor t, int64_t first, int64_t n, const void *wide,
                        const void *rounded) {
    uint16_t piece[PIECE];
    const bool ready = rounded || t.dtype == dtype_wide(t.dtype);
    ASSERT(tensor_packed(t) && first >= 0 && first + n <= tensor_count(t));
    if (ready) return space_send(c, element(t, first), t.dtype == BF16 ? rounded : wide, n * dtype_bytes(t.dtype));
    const float *x = wide;
    for (int64_t at = 0; at < n; at += PIECE) {
        const int64_t m = n - at < PIECE ? n - at : PIECE;
        space_round(x + at, m, piece);
        TRY(space_copy(c, element(t, first + at), piece, m * (int64_t)sizeof *piece));
    }
    return OK;
}

enum status space_load(struct ctx *c, struct tensor t, int64_t first, int64_t n, void *wide) {
    uint16_t piece[PIECE];
    ASSERT(tensor_packed(t) && first >= 0 && first + n <= tensor_count(t));
    if (t.dtype == dtype_wide(t.dtype)) return space_copy(c, wide, element(t, first), n * dtype_bytes(t.dtype));
    float *x = wide;
    for (int64_t at = 0; at < n; at += PIECE) {
        const int64_t m = n - at < PIECE ? n - at : PIECE;
        TRY(space_copy(c, piece, element(t, first + at), m * (int64_t)sizeof *piece));
        for (int64_t i = 0; i < m; i++) x[at + i] = f32_of(piece[i]);
    }
    return OK;
}

enum status space_numbers(struct ctx *c, struct tensor t, double *out) {
    float piece[PIECE];
    if (t.dtype == F64) return space_copy(c, out, t.data, tensor_bytes(t));
    for (int64_t at = 0, n = tensor_count(t); at < n; at += PIECE) {
        const int64_t m = n - at < PIECE ? n - at : PIECE;
        TRY(space_load(c, t, at, m, piece));
        for (int64_t i = 0; i < m; i++) out[at + i] = (double)piece[i];
    }
    return OK;
}
