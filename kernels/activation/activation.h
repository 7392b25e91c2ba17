/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ACTIVATION_H
#define BATON_KERNELS_ACTIVATION_H
/* activation.h - the pointwise part of a feed-forward layer.
 *
 *   relu2      y = max(h, 0)^2                           h (T, F)
 *   gelu       y = h Phi(h), the exact erf form          h (T, F)
 *   gelu_tanh  the tanh approximation                    h (T, F)
 *   swiglu     y = silu(gate) up, h = [gate | up]        h (T, 2 F)
 *   backward   dh from h and dy
 *   shapes     T rows, F channels; all may have a pitch;  types all `real`
 *   errors     ERR_ARG: shapes or types disagree
 *   source     So et al. 2021 (squared ReLU); Hendrycks and Gimpel 2016 (GELU); Shazeer 2020 (SwiGLU) */
#include "base/ctx.h"
enum activation_kind { ACT_RELU2, ACT_SWIGLU, ACT_GELU, ACT_GELU_TANH };
#define ACTIVATION_CHOICES "relu2|swiglu|gelu|gelu_tanh" /* in the order of the enum */
struct activation {
    enum activation_kind kind;
    struct tensor h, y;   /* (T, F or 2 F) in;  (T, F) out */
    struct tensor dy, dh; /* (T, F) in;  (T, F or 2 F) out */
};
#endif
