/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_FFN_MOE_H
#define BATON_MODEL_FFN_MOE_H
/* moe.h - what the two files of this mixer share: moe.c declares it, moe_pass.c plans and runs it.
 *
 * Mixture of experts: y_t = sum over the chosen j of w_tj expert_j(u_t), and shared experts beside them.
 *
 * An expert is down(act(up(u))), with SwiGLU down(silu(gate(u)) up(u)).  u is h, or with a latent projection a narrower
 * vector, and y then a projection of the sum.  Every choice is a row of its own: T k rows, grouped by expert, none
 * padded and none dropped, so memory is planned for any routing.  Router and shared experts see h whole.  Experts work
 * on the rows that come to their rank, in one round or several (routed.h).  With a capacity, choices that find their
 * expert full go to one that does not exist, behind the others: rows that nobody computes, and that stay zero. */
#include "kernels/activation/activation.h"
#include "model/seams.h"

enum over { OVER_SEQUENCE, OVER_BATCH };
struct moe_config {
    int64_t experts, top_k, hidden, shared, latent, groups, top_groups, capacity;
    int activation, scores, aux_over; /* enum activation_kind, route_scores, over */
    bool renormalise, bias;
    double scale, bias_rate, aux_loss, z_loss;
};
enum { W_ROUTER, W_BIAS, W_GATE, W_UP, W_DOWN, W_SHARED_UP, W_SHARED_DOWN, W_LATENT_IN, W_LATENT_OUT };
/* Slots: of forward, then of backward alone. */
enum { S_LOGITS, S_W, S_IDS, S_ROW, S_OFFSET, S_LOAD, S_LATENT, S_X, S_UP, S_ACT, S_Y, S_SUM, S_SHARED_UP };
enum { S_SHARED_ACT = S_SHARED_UP + 1, S_GUEST_OFFSET, S_DLOGITS, S_DW, S_DLATENT, S_DSUM, S_DX, S_DUP, S_DACT, S_DY };
enum { S_SHARED_DUP = S_DY + 1, S_SHARED_DACT, S_GUEST_DY, S_GUEST_DX, S_SHARE };
/* With a capacity. */
enum { S_TAKEN = S_SHARE + 1, S_BEFORE, S_COUNT, S_DECAY, S_HOME_X };

static inline bool moe_gated(const struct moe_config *c) { return c->activation == ACT_SWIGLU; }
static inline int64_t moe_width(const struct moe_config *c, int64_t D) { return c->latent ? c->latent : D; }
static inline int64_t moe_up_columns(const struct moe_config *c, int64_t hidden) {
    return moe_gated(c) ? 2 * hidden : hidden;
}
static inline bool moe_balances(const struct moe_config *c) { return c->aux_loss > 0.0 || c->z_loss > 0.0; }

void moe_plan_slots(struct plan *p, const struct layer *l);
enum status moe_plan(struct plan *p, const struct layer *l);
enum status moe_forward(struct step *s, const struct layer *l, struct flow *f, struct saved *v);
enum status moe_backward(struct step *s, const struct layer *l, struct flow *f, struct saved *v);
#endif
