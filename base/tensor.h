/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_BASE_TENSOR_H
#define BATON_BASE_TENSOR_H
/* tensor.h - a view.  It never owns memory, so it is passed by value, sliced freely and never freed.
 *
 * Activations are 2-D, (T tokens, C channels), with a row pitch; heads and groups are counts beside them, so that a
 * slice of a packed projection (z | x | B | C | dt) is an ordinary view.  Tensors of 3 or 4 dims are packed. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum dtype { F64, F32, BF16, F16, I64, I32, I16, I8, U16, U8, BOOL, N_DTYPES };
enum space { HOST, DEVICE };

struct tensor {
    void *data;       /* NULL: absent, for optional arguments                          */
    int64_t shape[4]; /* outermost first; unused trailing dims are 1                   */
    int64_t pitch;    /* elements from one row (dim 0) to the next; packed: the product of the other dims */
    enum dtype dtype;
    enum space space;
};

int64_t dtype_bytes(enum dtype t);
const char *dtype_name(enum dtype t); /* "F32": the spelling of safetensors */
/* The type of what must not be rounded to `real`: F32 beside BF16, else real itself (kernels/README.md). */
enum dtype dtype_wide(enum dtype real);

struct tensor tensor_1d(void *data, enum dtype t, int64_t n);
struct tensor tensor_2d(void *data, enum dtype t, int64_t rows, int64_t cols);
struct tensor tensor_4d(void *data, enum dtype t, const int64_t shape[4]);
/* Packed rows x cols at data, of the type and in the space of t. */
struct tensor tensor_like(struct tensor t, void *data, int64_t rows, int64_t cols);
/* Rows [begin, begin + n) of dim 0; columns [begin, begin + n) of a 2-D view. */
struct tensor tensor_rows(struct tensor t, int64_t begin, int64_t n);
struct tensor tensor_cols(struct tensor t, int64_t begin, int64_t n);
int64_t tensor_count(struct tensor t); /* elements, the gaps of a pitch not counted */
int64_t tensor_bytes(struct tensor t); /* of a packed tensor of this shape          */
bool tensor_packed(struct tensor t);
bool tensor_has(struct tensor t); /* data is not NULL                          */

#ifdef __cplusplus
}
#endif
#endif
