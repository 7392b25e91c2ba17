/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/fill/fill.h"
#include "kernels/device.cuh"

template <typename type> __global__ static void fill_cells(const struct tensor x, type value, int64_t width) {
    FOR_CELLS(t, i, x.shape[0], width)((type *)x.data)[t * x.pitch + i] = value;
}

extern "C" enum status fill_fwd_cuda(struct ctx *c, const struct fill *a) {
    const int64_t *dims = a->x.shape;
    CHECK_THAT(fill, a->x.dtype == F32 || a->x.dtype == F64, "x is %s, F32 or F64 is expected", dtype_name(a->x.dtype));
    const bool deep = dims[2] * dims[3] != 1;
    TRY(check_shape(c, "fill", "x", a->x, a->x.dtype, deep ? 4 : 2, dims));
    const int64_t width = dims[1] * dims[2] * dims[3];
    struct tensor x = a->x;
    if (tensor_packed(x)) x = tensor_2d(x.data, x.dtype, 1, tensor_count(x));
    const int64_t cells = tensor_packed(a->x) ? x.shape[1] : width;
    if (x.dtype == F32) LAUNCH_CELLS(fill_cells<float>, x.shape[0], cells, x, (float)a->value, cells);
    else LAUNCH_CELLS(fill_cells<double>, x.shape[0], cells, x, a->value, cells);
    return OK;
}
NO_BACKWARD(fill)
NO_WORK(fill)
