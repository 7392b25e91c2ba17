/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_BALANCE_H
#define BATON_KERNELS_BALANCE_H
/* balance.h - auxiliary losses of a router.
 *
 *   q          softmax(l) over the experts, or sigmoid(l) / (sum of sigmoids + 1e-20)
 *   f_g,e      load_g,e / sum over e of load_g,e: the part of sequence g's choices that expert e got (0: no choices)
 *   forward    loss += sum over t of  aux E sum_e f_g(t),e q_t,e  +  z logsumexp(l_t)^2
 *   backward   dlogits += its gradient; load is a constant
 *   aux and z come divided by the tokens they are a mean over.  With aux = c k / T and one sequence this is E sum_e f P
 *   of Fedus et al. as Hugging Face has it (f there counts each of k choices by itself); with c / T and a sequence a
 *   row it is the loss by sequence of DeepSeek-V3 and Megatron.
 *   shapes     T tokens, E experts; of R ranges, [g R/G, (g + 1) R/G) make sequence g of G.  load holds the whole
 *              sequences, also where other ranks hold tokens of them; logits, dlogits may have a pitch
 *   types      range I64; load, loss F64; the rest wide
 *   errors     ERR_ARG: shapes, types, options or ranges disagree
 *   source     Fedus et al. 2021; Zoph et al. 2022 (z-loss); DeepSeek-AI 2024 */
#include "kernels/route/route.h"
struct balance {
    enum route_scores scores;
    double aux, z;
    struct tensor logits, range, load; /* (T, E) (R + 1) (G, E) in */
    struct tensor loss, dlogits;       /* (1) +=;  (T, E) +=       */
};
#endif
