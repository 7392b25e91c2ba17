/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/fill/fill.h"
#include "kernels/packs.cuh"

template <typename type> __global__ static void fill_cells(const struct tensor x, type value, int64_t width) {
    FOR_CELLS(t, i, x.shape[0], width)((type *)x.data)[t * x.pitch + i] = value;
}

/* Writes 4 or 2 bytes an element, 16 at a time where rows allow it: `bits` fills 4. */
template <typename type>
static enum status fill_bits(struct ctx *c, struct tensor x, int64_t cells, type value, uint32_t bits) {
    const int64_t pack = 16 / (int64_t)sizeof value;
    if (!packs_fit(x) || cells % pack) {
        LAUNCH_CELLS(fill_cells<type>, x.shape[0], cells, x, value, cells);
        return OK;
    }
    x.pitch /= pack;
    LAUNCH_CELLS(fill_cells<uint4>, x.shape[0], cells / pack, x, make_uint4(bits, bits, bits, bits), cells / pack);
    return OK;
}

static enum status fill_bf16(struct ctx *c, struct tensor x, int64_t cells, float value) {
    uint32_t u;
    memcpy(&u, &value, sizeof u);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    const uint32_t half = nan ? 0x7fffu : (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    return fill_bits(c, x, cells, (bf16_bits)half, half | half << 16);
}

static enum status fill_f32(struct ctx *c, struct tensor x, int64_t cells, float value) {
    uint32_t u;
    memcpy(&u, &value, sizeof u);
    return fill_bits(c, x, cells, value, u);
}

extern "C" enum status fill_fwd_cuda(struct ctx *c, const struct fill *a) {
    const int64_t *dims = a->x.shape;
    CHECK_THAT(fill, a->x.dtype == REAL || a->x.dtype == WIDE || a->x.dtype == F64,
               "x is %s, %s, %s or F64 is expected", dtype_name(a->x.dtype), dtype_name(REAL), dtype_name(WIDE));
    const bool deep = dims[2] * dims[3] != 1;
    TRY(check_shape(c, "fill", "x", a->x, a->x.dtype, deep ? 4 : 2, dims));
    const int64_t width = dims[1] * dims[2] * dims[3];
    struct tensor x = a->x;
    if (tensor_packed(x)) x = tensor_2d(x.data, x.dtype, 1, tensor_count(x));
    const int64_t cells = tensor_packed(a->x) ? x.shape[1] : width;
    if (x.dtype == BF16) return fill_bf16(c, x, cells, (float)a->value);
    if (x.dtype == F32) return fill_f32(c, x, cells, (float)a->value);
    LAUNCH_CELLS(fill_cells<double>, x.shape[0], cells, x, a->value, cells);
    return OK;
}
NO_BACKWARD(fill)
NO_WORK(fill)
