/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_REF_H
#define BATON_KERNELS_REF_H
/* ref.h - what every <op>_ref.c starts with.  Each is compiled twice: real = float gives <op>_fwd_ref, real = double
 * gives <op>_fwd_ref64 (-DBATON_REAL64). */
#include "base/ctx.h"
#include "base/pool.h"
#include "kernels/ops.h"

#ifdef BATON_REAL64
typedef double real;
#define REF(name) name##_ref64
#define REAL      F64
#else
typedef float real;
#define REF(name) name##_ref
#define REAL      F32
#endif

#define WIDE REAL /* on a CPU nothing is rounded to less */

/* Row i of a 2-D view. */
static inline real *row(struct tensor t, int64_t i) { return (real *)t.data + i * t.pitch; }

/* An op that needs no workspace; an op that has no backward. */
#define NO_WORK(op)                                                                                                    \
    int64_t REF(op##_work)(const struct ctx *c, const struct op *a) {                                                  \
        (void)c, (void)a;                                                                                              \
        return 0;                                                                                                      \
    }
#define NO_BACKWARD(op)                                                                                                \
    enum status REF(op##_bwd)(struct ctx * c, const struct op *a) {                                                    \
        (void)c, (void)a;                                                                                              \
        FAIL(ERR_ARG, #op " has no backward");                                                                         \
    }
#define OP(op, flags)                                                                                                  \
    enum status REF(op##_fwd)(struct ctx *, const struct op *);                                                        \
    enum status REF(op##_bwd)(struct ctx *, const struct op *);                                                        \
    int64_t REF(op##_work)(const struct ctx *, const struct op *);
#include "kernels/ops.def"
#undef OP
#endif
