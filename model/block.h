/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_BLOCK_H
#define BATON_MODEL_BLOCK_H
/* block.h - the frame around every mixer: h = rmsnorm(x), y = mixer(h), x' = x + y. */
#include "model/layer.h"

/* Slots of the frame in every layer's saved; a mixer's own count from 0 and stay below. */
enum { FRAME_X = SAVED_MAX - 4, FRAME_H, FRAME_R, FRAME_ALL };

enum status block_declare(struct layer *l, struct params *ps);
enum status block_plan(struct plan *p, const struct layer *l);
/* flow->x is the layer's FRAME_X; x_next receives the sum. */
enum status block_forward(struct step *s, const struct layer *l, struct flow *f, struct saved *v, struct tensor x_next);
/* Fill the layer's shared slots as forward did, before its backward.  x_next absent: it is still there, or not needed.
 */
enum status block_again(struct step *s, const struct layer *l, struct flow *f, struct saved *v, struct tensor x_next);
/* The normed rows of all tokens: on one rank of tensor its own. */
struct tensor block_h(const struct layer *l, const struct saved *v);
/* flow->dx: gradient of x_next in, of x out. */
enum status block_backward(struct step *s, const struct layer *l, struct flow *f, struct saved *v);
#endif
