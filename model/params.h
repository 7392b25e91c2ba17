/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_PARAMS_H
#define BATON_MODEL_PARAMS_H
/* params.h - what the model learns: the single source for initialisation, optimizer, checkpoint and norm.
 *
 * A parameter that packs several matrices (z|x|B|C|dt, q|k|v, gate|up) lists them as sections of dim 0; files hold
 * sections apart ("layers.0.in_proj.weight.z"), so that a split by heads never cuts through a pack.
 * A parameter is declared whole, with its cuts; in the list stands what this rank holds of it.  Names, draws, files and
 * counts speak of the whole, memory of what is held. */
#include <stdbool.h>
#include "base/ctx.h"
#include "base/tensor.h"
#include "model/split.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PARAM_NAME   96
#define SECTIONS_MAX 8

enum init {
    INIT_ZERO,
    INIT_ONE,
    INIT_NORMAL,     /* N(0, std)                                            */
    INIT_NORMAL_OUT, /* N(0, std / sqrt(2 L)): projections into the residual */
    INIT_CONV,       /* U(-1, 1) / sqrt(K), K = the last dim                 */
    INIT_FAN_IN,     /* the same law, of a matrix                            */
    INIT_CONV_BIAS,  /* U(-1, 1) / sqrt(init_scale): init_scale = K          */
    INIT_A_LOG,      /* log U(1, 16)                                         */
    INIT_A_LOG_ROW,  /* log(1 + i), i = 0, 1, ... along the last dim         */
    INIT_DT_BIAS,    /* inverse softplus of a log-uniform dt in [1e-3, 0.1], at least 1e-4 */
};
enum param_kind { PARAM_TRAINED, PARAM_STATE };

struct param {
    char name[PARAM_NAME];
    int64_t shape[4], whole[4]; /* held here; of the whole.  Trailing dims 1 */
    int n_dims;
    int n_sections; /* 0: not packed */
    struct section section[SECTIONS_MAX];
    struct cut cut[N_SPLITS]; /* that of tensor: not along dim 0 where there are sections         */
    bool alike;               /* copies over tensor have one gradient each; else it is their sum */
    enum init init;
    double init_scale;
    bool product;    /* a matrix of products, or a table of rows: its weight has the type of activations; others wide */
    bool decay;      /* weight decay applies */
    double lr_scale; /* 1 unless set         */
    enum param_kind kind;
    int layer;          /* of a STATE that follows the load of this layer's experts,                  */
    double rate;        /* by steps of this size (kernels/nudge/nudge.h); 0: it stays              */
    int n_uses;         /* gradients sum over uses */
    struct tensor w, g; /* where they live, packed; set by the owner of the memory (seams need/done) */
};
struct params {
    struct param *list;
    int n, room;
    struct split split; /* set before anything is declared */
    int64_t n_elements; /* of the whole model              */
};

/* Copy p into the list (name already final) and give its index. */
enum status param_add(struct params *ps, const struct param *p, int *index);
int param_find(const struct params *ps, const char *name); /* -1: none */
int64_t param_count(const struct param *p);                /* held here */
int64_t param_whole(const struct param *p);
/* Give w and g their shapes, without data: a product's w of type real, all else wide. */
void params_shape(struct params *ps, enum dtype real, enum space space);
void params_term(struct params *ps);

#ifdef __cplusplus
}
#endif
#endif
