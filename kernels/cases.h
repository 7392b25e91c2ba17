/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_CASES_H
#define BATON_KERNELS_CASES_H
/* cases.h - the test table of an op, kernels/<op>/<op>_cases.h, and how a row becomes arguments in memory.
 *
 * A cases file holds, for an op named foo,
 *   struct foo_case            the columns; the first is `const char *why`
 *   foo_cases[], foo_bench[]   rows for the tests, and a few training-like rows for `baton bench`
 *   foo_build(t, a, k)         static inline: sets a's counts and options from row k, t->bound, and names every tensor
 *                              of the row with REALS (`real`), WIDES (dtype_wide(real)) or TENSOR; others are absent
 * and cases.c includes it.  Everything else - values, guard bands, checks, timing - is made from the roles. */
#include "base/ctx.h"

#ifdef __cplusplus
extern "C" {
#endif

enum pass { FORWARD, BACKWARD };
/* What a pass does with a tensor.  IN and OUT together: += or in place.  None: scratch of a hook.  OPTIONAL: the op
 * runs without it. */
enum role {
    F_IN = 1,
    F_OUT = 2,
    F_ADD = 3,
    B_IN = 4,
    B_OUT = 8,
    B_ADD = 12,
    IN = F_IN | B_IN,
    KEPT = F_OUT | B_IN,
    OPTIONAL = 16
};

struct values {
    double lo, hi;         /* uniform in [lo, hi); of integers: lo to hi, both included */
    double spread;         /* not 0: normal with this deviation around lo               */
    const int64_t *list;   /* not NULL: these                                           */
    const double *numbers; /* likewise                                                */
};
#define NORMAL(deviation) ((struct values){0.0, 0.0, (deviation), NULL, NULL})
#define UNIFORM(from, to) ((struct values){(from), (to), 0.0, NULL, NULL})
#define CONSTANT(value)   ((struct values){(value), (value), 0.0, NULL, NULL})
#define LISTED(array)     ((struct values){0.0, 0.0, 0.0, (array), NULL}) /* from case_memory or static */
#define NUMBERS(array)    ((struct values){0.0, 0.0, 0.0, NULL, (array)}) /* likewise */
struct dims {
    int64_t n[4]; /* outermost first; a 0 behind the first means 1 */
};

struct case_tensor {
    const char *name, *gradient; /* gradient: the field of its gradient, or of an output's; "d" + name unless set */
    struct tensor *at;
    unsigned roles;
    struct values values;
    int64_t gap;            /* set by a row with a pitch: elements between rows                              */
    const double *weight;   /* of an output without a gradient field: its elements' weights in the scalar    */
    struct tensor *twin;    /* a second field that is the same memory: an op in place */
    bool rounds;            /* of type `real`: its values are rounded to t->rounded */
    bool any_shape;         /* the op takes any shape here: no error to expect */
    bool any_rows;          /* the op takes any length of dim 0 here */
    bool between;           /* an output that only another op reads, and knows: written or not, and not compared */
    bool rows_by_elements;  /* only the elements of range tell dim 0: a device, which they lie on, cannot check it */
    enum status bad_status; /* not OK: the op must fail so when the last element is bad_value                */
    int64_t bad_value;
    char *block; /* the memory with its guard bands; owned by the trial                           */
};

#define TRIAL_TENSORS 48
#define TRIAL_MEMORY  32
struct trial {
    const struct case_op *op;
    const char *why;
    enum dtype real;
    enum dtype rounded;        /* values of REALS are rounded to it; `real` unless set before trial_fill     */
    void *args;                /* struct <op>                                                            */
    double bound;              /* of match: |f32 - f64|2 / |f64|2 of every output                        */
    double wide_bound;         /* of an F32 output beside BF16; bound unless set                             */
    double roundings;          /* to BF16 in a row, independent, on the way to a BF16 output; 1 unless set   */
    bool no_bf16;              /* the BF16 twin has no kernel of this shape, and must say so                 */
    bool bf16_only;            /* a benchmark of BF16 on GPUs: too long in other types, and to be checked    */
    double grad_bound;         /* of grad; 1e-7 unless set                                             */
    double flops[2], bytes[2]; /* of a pass, for the benchmark; bytes: from the roles unless set */
    /* What must run before a pass of this op, for instance the op that makes its inputs. */
    enum status (*before[2])(struct ctx *c, struct trial *t);
    void *user; /* for the hooks                                                          */
    int n_tensors, n_memory;
    struct case_tensor tensor[TRIAL_TENSORS];
    void *memory[TRIAL_MEMORY];
};

/* For build functions. */
struct case_tensor *case_tensor(struct trial *t, const char *name, struct tensor *at, unsigned roles, struct values v,
                                enum dtype type, struct dims dims);
void *case_memory(struct trial *t, int64_t bytes); /* zeroed, lives as long as the trial */
#define TENSOR(field, roles, values, type, ...)                                                                        \
    case_tensor(t, #field, &a->field, (roles), (values), (type), (struct dims){{__VA_ARGS__}})
#define REALS(field, roles, values, ...)                                                                               \
    case_real(case_tensor(t, #field, &a->field, (roles), (values), t->real, (struct dims){{__VA_ARGS__}}))
#define WIDES(field, roles, values, ...) TENSOR(field, roles, values, dtype_wide(t->real), __VA_ARGS__)
static inline struct case_tensor *case_real(struct case_tensor *x) {
    x->rounds = true;
    return x;
}

/* One op of ops.def with its cases; rows [0, n_cases) are for tests, [n_cases, n_cases + n_bench) for the benchmark. */
struct case_op {
    const char *name;
    unsigned flags; /* enum op_flag */
    int n_cases, n_bench;
    int64_t args_bytes;
    void (*build)(struct trial *t, int row);
    enum status (*run)(struct ctx *c, enum pass p, const void *args);
    int64_t (*work)(const struct ctx *c, const void *args);
};
extern const struct case_op case_ops[];
extern const int n_case_ops;

/* A row of the benchmark that is for a GPU in BF16 alone, larger than its caches: elsewhere it would take minutes. */
bool case_large(const struct case_op *op, int row);
/* Row `row` of the op in memory, every tensor between guard bands. */
enum status trial_open(struct trial *t, const struct case_op *op, int row, enum dtype real);
void trial_close(struct trial *t);
/* Inputs get their values (the same in every type: rounded to F32, or as `rounded` says), everything else NaN. */
void trial_fill(struct trial *t);
/* The hook of the pass, if any, and the pass; c->work is set to an arena of exactly the planned bytes. */
enum status trial_hook(struct trial *t, struct ctx *c, enum pass p);
enum status trial_run(struct trial *t, struct ctx *c, enum pass p);
double trial_bytes(const struct trial *t, enum pass p); /* read once and written once, by role */

struct case_tensor *trial_find(struct trial *t, const char *name); /* NULL: absent in this row */
/* Element i of a tensor in row-major order without the gaps. */
double trial_get(const struct case_tensor *x, int64_t i);
void trial_set(const struct case_tensor *x, int64_t i, double v);
/* The whole block of a tensor, guard bands and gaps included. */
int64_t trial_block_bytes(const struct case_tensor *x);

#ifdef __cplusplus
}
#endif
#endif
