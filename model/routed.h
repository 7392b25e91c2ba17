/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_ROUTED_H
#define BATON_MODEL_ROUTED_H
/* routed.h - what the seam of experts moves: rows grouped by expert (kernels/group/group.h).
 *
 * The mixer fills in its own tokens' rows.  dispatch puts the rows of this rank's experts in their place, combine
 * brings the results home; each is the other's transpose. */
#include "model/layer.h"

#ifdef __cplusplus
extern "C" {
#endif

struct routed {
    struct tensor offset;       /* (S, E + 1) I64                                 */
    struct tensor x, y, dy, dx; /* (N, W) into and out of the experts, gradients */
};
enum routed_when {
    DISPATCH_X,  /* before the experts' forward: tokens travel   */
    COMBINE_Y,   /* after it: outputs come home                  */
    DISPATCH_DY, /* before their backward: gradients travel      */
    COMBINE_DX,  /* after it: the tokens' gradients come home    */
};
/* Where every rank has all experts, rows stay. */
enum status routed_here(struct step *s, const struct layer *l, struct flow *f, struct routed *r, enum routed_when when);

#ifdef __cplusplus
}
#endif
#endif
