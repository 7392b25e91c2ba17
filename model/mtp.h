/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_MTP_H
#define BATON_MODEL_MTP_H
/* mtp.h - multi-token prediction: heads behind the stack that predict further tokens, in training alone.
 *
 * h^0_t is the stack's output after its final norm.  Depth j = 1, 2, ... is given token t + j and predicts t + j + 1:
 *
 *   u_t  = W_project [enorm(embedding(token t + j)) | hnorm(h^(j-1)_t)]        (2 D -> D)
 *   h^j  = norm(layers(u))                                                     (residual layers, as those of the stack)
 *   loss = CE + weight / depths sum_j CE_j,      CE_j of head(h^j) over the targets that depth j has
 *
 * Embedding and head are the stack's own.  Depths have weights of their own, or share one set (model.mtp.shared).  Past
 * the end of its document or sequence a token is 0 and its target absent; since layers look back alone, nothing that
 * has a target sees it. names      mtp.layers.<i>: enorm, hnorm and eh_proj with the first layer of a depth,
 * final_layernorm with its last memory     all of it is kept between the passes but what the policy drops of layers,
 * whose inputs are kept; weights and gradients belong to the block of the ends source     the heads of Nemotron-3, as
 * Megatron Core trains them; the idea: DeepSeek-V3, arXiv:2412.19437 */
#include "model/model.h"

enum status mtp_declare(struct model *m); /* behind the ends: layers, names, parameters */
void mtp_plan(struct plan *p, const struct model *m, struct activations *a, int depth); /* into p->saved */
enum status mtp_forward(struct step *s, const struct model *m, struct activations *a, const struct batch *b,
                        const struct loss_out *out);
/* Adds to ends_dout.  f: of ends_flow. */
enum status mtp_backward(struct step *s, const struct model *m, struct activations *a, const struct batch *b,
                         const struct flow *f);
#endif
