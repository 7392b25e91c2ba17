/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_PARAM_PARTS_H
#define BATON_MODEL_PARAM_PARTS_H
/* param_parts.h - the logical tensors of a parameter, and where in them lies what this rank holds. */
#include "model/params.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A logical tensor: a section of a parameter, or the whole. */
struct param_part {
    char name[PARAM_NAME + 24];
    int64_t row_begin, rows;    /* of dim 0, among those held here            */
    int64_t whole_begin, whole; /* the first of them in the logical tensor, and its rows */
    int copies, copy;           /* ranks of tensor that hold the same; which of them I am */
};

int param_parts(const struct param *p); /* n_sections, or 1 */
void param_part(const struct param *p, int i, struct param_part *out);
int64_t params_parts(const struct params *ps); /* of all parameters */
/* The parameter that part `at` of all, in their order, belongs to. */
const struct param *params_part_of(const struct params *ps, int64_t at);
/* The dim beyond the first that is cut, and where what is held of it begins; 0: none. */
int param_later_cut(const struct param *p, int64_t *begin);
/* Elements from `held` on that follow each other in the whole, too; *whole: where there. */
int64_t param_run(const struct param *p, int64_t held, int64_t *whole);

#ifdef __cplusplus
}
#endif
#endif
