/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_TOKEN_LOSS_H
#define BATON_KERNELS_TOKEN_LOSS_H
/* token_loss.h - the loss of each token, in nats, and its sum.
 *
 *   forward    loss_t = lse_t - picked_t where target_t >= 0, else 0;    total += sum_t loss_t, ascending, F64
 *   shards     with parts, the log-sum-exps of n shards of a vocabulary, lse_t = log sum_i exp(parts_it) is an output
 *   shapes     T tokens;  types targets I32, total (1) F64, the rest wide
 *   errors     ERR_ARG: shapes or types disagree
 *   absent     loss: only the sum is wanted */
#include "base/ctx.h"
struct token_loss {
    struct tensor lse, picked, targets; /* (T) each, in    */
    struct tensor parts;                /* (n, T) in, or absent */
    struct tensor loss, total;          /* (T) out; (1) += */
};
#endif
