/* SPDX-License-Identifier: Apache-2.0 */
#include "base/tensor.h"

int64_t dtype_bytes(enum dtype t) {
    static const int8_t bytes[N_DTYPES] = {8, 4, 2, 2, 8, 4, 2, 1, 2, 1, 1};
    ASSERT((unsigned)t < N_DTYPES);
    return bytes[t];
}

const char *dtype_name(enum dtype t) {
    static const char *const names[N_DTYPES] = {"F64", "F32", "BF16", "F16", "I64", "I32",
                                                "I16", "I8",  "U16",  "U8",  "BOOL"};
    ASSERT((unsigned)t < N_DTYPES);
    return names[t];
}

enum dtype dtype_wide(enum dtype real) { return real == BF16 ? F32 : real; }

struct tensor tensor_1d(void *data, enum dtype t, int64_t n) {
    return (struct tensor){.data = data, .shape = {n, 1, 1, 1}, .pitch = 1, .dtype = t};
}

struct tensor tensor_2d(void *data, enum dtype t, int64_t rows, int64_t cols) {
    return (struct tensor){.data = data, .shape = {rows, cols, 1, 1}, .pitch = cols, .dtype = t};
}

struct tensor tensor_4d(void *data, enum dtype t, const int64_t shape[4]) {
    return (struct tensor){.data = data,
                           .shape = {shape[0], shape[1], shape[2], shape[3]},
                           .pitch = shape[1] * shape[2] * shape[3],
                           .dtype = t};
}

struct tensor tensor_like(struct tensor t, void *data, int64_t rows, int64_t cols) {
    struct tensor out = tensor_2d(data, t.dtype, rows, cols);
    out.space = t.space;
    return out;
}

struct tensor tensor_rows(struct tensor t, int64_t begin, int64_t n) {
    ASSERT(begin >= 0 && n >= 0 && begin + n <= t.shape[0]);
    if (t.data) t.data = (char *)t.data + begin * t.pitch * dtype_bytes(t.dtype);
    t.shape[0] = n;
    return t;
}

struct tensor tensor_cols(struct tensor t, int64_t begin, int64_t n) {
    ASSERT(begin >= 0 && n >= 0 && begin + n <= t.shape[1] && t.shape[2] == 1 && t.shape[3] == 1);
    if (t.data) t.data = (char *)t.data + begin * dtype_bytes(t.dtype);
    t.shape[1] = n;
    return t;
}

int64_t tensor_count(struct tensor t) { return t.shape[0] * t.shape[1] * t.shape[2] * t.shape[3]; }
int64_t tensor_bytes(struct tensor t) { return tensor_count(t) * dtype_bytes(t.dtype); }
bool tensor_packed(struct tensor t) { return t.pitch == t.shape[1] * t.shape[2] * t.shape[3]; }
bool tensor_has(struct tensor t) { return t.data != NULL; }
