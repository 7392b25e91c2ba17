/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_PARAM_DRAW_H
#define BATON_MODEL_PARAM_DRAW_H
/* param_draw.h - the numbers that a parameter begins with. */
#include "model/params.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Elements [first, first + n) of w as they begin, F32 or F64, from (seed, name, element of the whole): independent of
 * order, sharding and mesh.  n_layers is the L of INIT_NORMAL_OUT. */
struct param_draw {
    const struct param *param;
    uint64_t seed;
    double std;
    int n_layers;
};
void param_draw(const struct param_draw *d, int64_t first, int64_t n, enum dtype type, void *out);

#ifdef __cplusplus
}
#endif
#endif
