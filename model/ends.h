/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_ENDS_H
#define BATON_MODEL_ENDS_H
/* ends.h - the two ends of the stack: tokens to x, and x to the loss. */
#include "model/model.h"

/* Slots of activations.ends.  Y and DH are shared by all layers. */
enum { ENDS_X, ENDS_H, ENDS_R, ENDS_Y, ENDS_DX, ENDS_DH, ENDS_LOGITS, ENDS_LSE, ENDS_PICKED };
/* Of several ranks of tensor: what X, H, Y, DX and DH are of own tokens and of all, and the shards' log-sum-exps. */
enum { ENDS_H_ALL = ENDS_PICKED + 1, ENDS_Y_OWN, ENDS_DY, ENDS_DH_OWN, ENDS_PARTS };

/* y, dx, dy, dh and their own rows; on one rank of tensor these are the same. */
struct flow ends_flow(const struct model *m, const struct activations *a, const struct shard *shard);
/* f: of ends_flow. */
enum status ends_embed(struct step *s, const struct model *m, const struct batch *b, const struct flow *f,
                       struct tensor x);
enum status ends_embed_back(struct step *s, const struct model *m, const struct batch *b, const struct flow *f);
/* Final norm of ENDS_X, then head and loss tile by tile, with the head's backward behind each tile's forward when a
 * backward pass follows: ENDS_DX then holds the gradient of ENDS_X. */
enum status ends_loss(struct step *s, const struct model *m, struct activations *a, const struct batch *b,
                      const struct loss_out *out);
#endif
