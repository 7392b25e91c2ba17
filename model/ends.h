/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_ENDS_H
#define BATON_MODEL_ENDS_H
/* ends.h - the two ends of the stack: tokens to x, and x to the loss. */
#include "model/model.h"

/* Slots of activations.ends.  Y and DH are shared by all layers. */
enum { ENDS_X, ENDS_H, ENDS_R, ENDS_Y, ENDS_DX, ENDS_DH, ENDS_DOUT, ENDS_LOGITS, ENDS_LSE, ENDS_PICKED };

enum status ends_embed(struct step *s, const struct model *m, const struct batch *b, struct tensor x);
enum status ends_embed_back(struct step *s, const struct model *m, const struct batch *b, struct tensor dx);
/* Head and loss of some rows, tile by tile, with the head's backward behind each tile's forward when a backward pass
 * follows. */
struct loss_rows {
    struct tensor x, targets;       /* (T, D) (T)                     */
    struct tensor scale, dx;        /* (1);  (T, D) out where backward */
    struct tensor total, per_token; /* (1) +=; (T) out, or absent     */
};
enum status ends_tiles(struct step *s, const struct model *m, struct activations *a, const struct loss_rows *r);
/* Final norm of ENDS_X, then that: ENDS_DOUT, where prediction heads add to it, else ENDS_DH, holds the gradient of
 * ENDS_H. */
enum status ends_loss(struct step *s, const struct model *m, struct activations *a, const struct batch *b,
                      const struct loss_out *out);
struct tensor ends_dout(const struct activations *a);
/* ENDS_DX from it. */
enum status ends_norm_back(struct step *s, const struct model *m, struct activations *a);
#endif
