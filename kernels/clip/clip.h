/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_CLIP_H
#define BATON_KERNELS_CLIP_H
/* clip.h - what a step's sums say, decided where they are: the factor on its gradients, or that the step is skipped.
 *
 *   norm = sqrt(sum_i squares_i), ascending        loss = total scale
 *   knobs[KNOB_SKIP] = 1 where norm or loss is not finite, else 0
 *   knobs[KNOB_CLIP] = limit / norm where limit > 0 and norm > limit, else 1
 *   report = {norm, loss, skip, the first i whose squares_i is not finite (-1: none)}; with the same sums, every rank
 *   decides alike
 *   shapes     m parameters;  types all F64
 *   errors     ERR_ARG: shapes or types disagree
 *   source     clipping by global norm: Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063 */
#include "kernels/adamw/adamw.h"
enum clip_report { REPORT_NORM, REPORT_LOSS, REPORT_SKIP, REPORT_BAD, N_REPORT };
struct clip {
    struct tensor squares, total, scale; /* (m) (1) (1) in               */
    struct tensor knobs, report;         /* (N_KNOBS) +=, (N_REPORT) out */
    double limit;
};
#endif
