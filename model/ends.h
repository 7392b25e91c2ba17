/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_ENDS_H
#define BATON_MODEL_ENDS_H
/* ends.h - the two ends of the stack: tokens to x, and x to the loss. */
#include "model/model.h"

/* Slots of activations.ends.  Y and DH are shared by all layers. */
enum { ENDS_X, ENDS_H, ENDS_R, ENDS_Y, ENDS_DX, ENDS_DH, ENDS_DOUT, ENDS_LOGITS, ENDS_LSE, ENDS_PICKED };
/* Of several ranks of tensor: what X, H, Y, DX and DH are of own tokens and of all, and the shards' log-sum-exps. */
enum { ENDS_H_ALL = ENDS_PICKED + 1, ENDS_Y_OWN, ENDS_DY, ENDS_DH_OWN, ENDS_PARTS };

/* y, dx, dy, dh and their own rows; on one rank of tensor these are the same. */
struct flow ends_flow(const struct model *m, const struct activations *a, const struct shard *shard);
/* ids (T); x, dx: own rows.  f: of ends_flow. */
enum status ends_embed(struct step *s, const struct model *m, struct tensor ids, const struct flow *f, struct tensor x);
enum status ends_embed_back(struct step *s, const struct model *m, struct tensor ids, const struct flow *f,
                            struct tensor dx);
/* Head and loss of all rows, tile by tile, with the head's backward behind each tile's forward when a backward pass
 * follows. */
struct loss_rows {
    struct tensor h, dh;             /* own rows: in;  out where backward, before ends_flow's places change */
    struct tensor targets, scale;    /* (T) (1)                    */
    struct tensor total;             /* (1) +=                     */
    struct tensor per_token, logits; /* (T) (T, V) out, or absent  */
};
enum status ends_head(struct step *s, const struct model *m, struct activations *a, const struct flow *f,
                      const struct loss_rows *r);
/* Final norm of ENDS_X, then that: ends_dout holds the gradient of the own rows of ENDS_H. */
enum status ends_loss(struct step *s, const struct model *m, struct activations *a, const struct batch *b,
                      const struct loss_out *out);
struct tensor ends_dout(const struct activations *a, const struct flow *f);
/* f->dx, that of ENDS_X, from it. */
enum status ends_norm_back(struct step *s, const struct model *m, struct activations *a, const struct flow *f);
#endif
