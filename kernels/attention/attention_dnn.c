/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/attention/attention_dnn.h"
#include "kernels/device_inside.h"

#ifdef BATON_CUDNN
#include <cudnn.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* A plan is made from a graph of small operations, whose pattern the library knows: scores = q k^T, times the scale,
 * hidden outside the entry and above the diagonal that ends at both last rows, softmax, times v.  Descriptors live
 * until the handle is closed; nothing of them lies in device memory. */
enum { VERSION_MIN = 90600, PLANS = 32, MADE = 256, OPS = 48, TENSORS = 24, RANK = 4 };

/* What the pack of pointers of a call is filled with. */
enum slot { Q, K, V, O, LSE, N_QUERIES, N_KEYS, AT_Q, AT_K, AT_V, AT_O, AT_LSE, SLOTS, SCALAR = SLOTS };

/* Of N entries, or of the N documents of a plain batch, with T queries and U keys at most. */
struct shape {
    int64_t plain, N, T, U, H, J, P, window, pitch[LSE + 1];
    double scale;
};

union scalar {
    float f;
    int32_t i;
};

struct plan {
    struct shape shape;
    cudnnBackendDescriptor_t plan; /* NULL: the library has none for the shape */
    cudnnBackendDescriptor_t made[MADE], ops[OPS];
    int n_made, n_ops, n_tensors, n_scalars;
    int64_t uid[TENSORS];
    enum slot slot[TENSORS]; /* of the tensor in memory; SCALAR + i: value i */
    union scalar scalar[TENSORS];
    cudnnStatus_t failed;
    char why[256];
};

struct dnn {
    cudnnHandle_t library;
    char about[160];
    int n_plans, next;
    struct plan plans[PLANS];
};

typedef cudnnBackendDescriptor_t descriptor;
static const cudnnDataType_t F = CUDNN_DATA_FLOAT, I = CUDNN_DATA_INT32, B = CUDNN_DATA_BOOLEAN;

/* ---- descriptors: the first failure is kept, and what follows does nothing ---- */

static void note(struct plan *p, cudnnStatus_t st) {
    if (st == CUDNN_STATUS_SUCCESS || p->failed != CUDNN_STATUS_SUCCESS) return;
    p->failed = st;
    snprintf(p->why, sizeof p->why, "%s", cudnnGetErrorString(st));
}

static descriptor make(struct plan *p, cudnnBackendDescriptorType_t type) {
    descriptor d = NULL;
    ASSERT(p->n_made < MADE);
    if (p->failed == CUDNN_STATUS_SUCCESS) note(p, cudnnBackendCreateDescriptor(type, &d));
    if (d) p->made[p->n_made++] = d;
    return d;
}

static void set(struct plan *p, descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                int64_t n, const void *values) {
    if (p->failed == CUDNN_STATUS_SUCCESS) note(p, cudnnBackendSetAttribute(d, name, type, n, values));
}
static void link(struct plan *p, descriptor d, cudnnBackendAttributeName_t name, descriptor to) {
    if (to) set(p, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &to);
}
static void end(struct plan *p, descriptor d) {
    if (p->failed == CUDNN_STATUS_SUCCESS) note(p, cudnnBackendFinalize(d));
}
static void end_op(struct plan *p, descriptor op) {
    ASSERT(p->n_ops < OPS);
    end(p, op);
    p->ops[p->n_ops++] = op;
}

/* ---- tensors ---- */

struct extent {
    int64_t n[RANK], stride[RANK];
};

/* virtual: in no memory. */
static descriptor tensor_of(struct plan *p, cudnnDataType_t type, struct extent x, bool in_memory, enum slot slot,
                            descriptor ragged) {
    const descriptor d = make(p, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    const bool is_virtual = !in_memory, by_value = in_memory && slot >= SCALAR;
    const int64_t align = 16, uid = p->n_made;
    set(p, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(p, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, RANK, x.n);
    set(p, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, RANK, x.stride);
    set(p, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    set(p, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
    set(p, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    set(p, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    link(p, d, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, ragged);
    end(p, d);
    if (in_memory) {
        ASSERT(p->n_tensors < TENSORS);
        p->uid[p->n_tensors] = uid;
        p->slot[p->n_tensors++] = slot;
    }
    return d;
}

static descriptor number(struct plan *p, cudnnDataType_t type, union scalar value) {
    const struct extent one = {{1, 1, 1, 1}, {1, 1, 1, 1}};
    const int i = p->n_scalars++;
    p->scalar[i] = value;
    return tensor_of(p, type, one, true, SCALAR + i, NULL);
}
/* A number of each entry; a plain batch needs none. */
static descriptor of_entries(struct plan *p, cudnnDataType_t type, int64_t n, enum slot slot) {
    const struct extent x = {{n, 1, 1, 1}, {1, 1, 1, 1}};
    return p->shape.plain ? NULL : tensor_of(p, type, x, true, slot, NULL);
}
/* (N, heads, rows, width) of rows with a pitch. */
static descriptor rows_of(struct plan *p, cudnnDataType_t type, int64_t heads, int64_t rows, int64_t width,
                          int64_t pitch, enum slot slot, enum slot offsets, bool transposed) {
    const int64_t N = p->shape.N;
    struct extent x = {{N, heads, rows, width}, {rows * pitch, width, pitch, 1}};
    if (transposed) x = (struct extent){{N, heads, width, rows}, {rows * pitch, width, 1, pitch}};
    const descriptor at = of_entries(p, CUDNN_DATA_INT64, N + 1, offsets);
    return tensor_of(p, type, x, true, slot, at);
}
/* A step between: of every score, or of every query. */
static descriptor between(struct plan *p, cudnnDataType_t type, bool a_query) {
    const int64_t N = p->shape.N, H = p->shape.H, T = p->shape.T, U = a_query ? 1 : p->shape.U;
    const struct extent x = {{N, H, T, U}, {H * T * U, T * U, U, 1}};
    return tensor_of(p, type, x, false, SCALAR, NULL);
}

/* ---- operations ---- */

static void pointwise(struct plan *p, cudnnPointwiseMode_t mode, cudnnDataType_t in, descriptor x, descriptor b,
                      descriptor t, descriptor y, int64_t axis) {
    const descriptor d = make(p, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    const float one = 1.0f;
    set(p, d, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(p, d, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &in);
    if (mode == CUDNN_POINTWISE_GEN_INDEX) set(p, d, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    end(p, d);
    const descriptor op = make(p, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    link(p, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, d);
    link(p, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    link(p, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    link(p, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    link(p, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t);
    set(p, op, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA1, CUDNN_TYPE_FLOAT, 1, &one);
    set(p, op, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA2, CUDNN_TYPE_FLOAT, 1, &one);
    end_op(p, op);
}
/* A new one of all scores. */
static descriptor scores_by(struct plan *p, cudnnPointwiseMode_t mode, cudnnDataType_t in, cudnnDataType_t out,
                            descriptor x, descriptor b, int64_t axis) {
    const descriptor y = between(p, out, false);
    pointwise(p, mode, in, x, b, NULL, y, axis);
    return y;
}
static descriptor row_numbers(struct plan *p, cudnnDataType_t in, descriptor s) {
    return scores_by(p, CUDNN_POINTWISE_GEN_INDEX, in, I, s, NULL, 2);
}
static descriptor key_numbers(struct plan *p, cudnnDataType_t in, descriptor s) {
    return scores_by(p, CUDNN_POINTWISE_GEN_INDEX, in, I, s, NULL, 3);
}
static descriptor hide(struct plan *p, descriptor s, descriptor seen) {
    const descriptor y = between(p, F, false);
    pointwise(p, CUDNN_POINTWISE_BINARY_SELECT, F, s, number(p, F, (union scalar){.f = -INFINITY}), seen, y, -1);
    return y;
}

static void product(struct plan *p, descriptor a, descriptor b, descriptor y, descriptor rows, descriptor cols,
                    descriptor terms) {
    const descriptor d = make(p, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set(p, d, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &F);
    end(p, d);
    const descriptor op = make(p, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    link(p, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    link(p, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    link(p, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, y);
    link(p, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, d);
    link(p, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, rows);
    link(p, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, cols);
    link(p, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, terms);
    end_op(p, op);
}
static descriptor reduce(struct plan *p, cudnnReduceTensorOp_t by, descriptor x) {
    const descriptor y = between(p, F, true), d = make(p, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(p, d, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &F);
    set(p, d, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &by);
    end(p, d);
    const descriptor op = make(p, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    link(p, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, d);
    link(p, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    link(p, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    end_op(p, op);
    return y;
}

/* ---- the graph ---- */

static bool windowed(const struct plan *p) { return p->shape.window > 0 && p->shape.window <= INT32_MAX; }

/* Seen of a plain batch: key <= row; key + window > row. */
static descriptor mask_plain(struct plan *p, descriptor s) {
    descriptor row = row_numbers(p, F, s), key = key_numbers(p, F, s);
    s = hide(p, s, scores_by(p, CUDNN_POINTWISE_CMP_GE, B, B, row, key, -1));
    if (!windowed(p)) return s;
    row = row_numbers(p, F, s);
    key = key_numbers(p, F, s);
    key = scores_by(p, CUDNN_POINTWISE_ADD, F, F, key, number(p, F, (union scalar){.f = (float)p->shape.window}), 3);
    return hide(p, s, scores_by(p, CUDNN_POINTWISE_CMP_GT, B, B, key, row, -1));
}

/* Seen: row < queries and key < keys of the entry; key <= row + keys - queries; key + window > row + keys - queries. */
static descriptor mask(struct plan *p, descriptor s, descriptor queries, descriptor keys) {
    const descriptor inside = between(p, B, false),
                     row_in = scores_by(p, CUDNN_POINTWISE_CMP_LT, B, B, row_numbers(p, I, s), queries, -1),
                     key_in = scores_by(p, CUDNN_POINTWISE_CMP_LT, B, B, key_numbers(p, I, s), keys, -1);
    pointwise(p, CUDNN_POINTWISE_LOGICAL_AND, B, row_in, key_in, NULL, inside, -1);
    s = hide(p, s, inside);
    descriptor row = row_numbers(p, F, s), key = key_numbers(p, F, s);
    row = scores_by(p, CUDNN_POINTWISE_ADD, I, I, row, keys, 3);
    row = scores_by(p, CUDNN_POINTWISE_SUB, I, I, row, queries, 3);
    s = hide(p, s, scores_by(p, CUDNN_POINTWISE_CMP_GE, B, B, row, key, -1));
    if (!windowed(p)) return s;
    row = row_numbers(p, F, s);
    key = key_numbers(p, F, s);
    const descriptor window = number(p, I, (union scalar){.i = (int32_t)p->shape.window});
    key = scores_by(p, CUDNN_POINTWISE_ADD, I, I, key, window, 3);
    key = scores_by(p, CUDNN_POINTWISE_SUB, I, I, key, keys, 3);
    key = scores_by(p, CUDNN_POINTWISE_ADD, I, I, key, queries, 3);
    return hide(p, s, scores_by(p, CUDNN_POINTWISE_CMP_GT, B, B, key, row, -1));
}

static void graph(struct plan *p) {
    const struct shape *x = &p->shape;
    const cudnnDataType_t real = CUDNN_DATA_BFLOAT16;
    const descriptor queries = of_entries(p, I, x->N, N_QUERIES), keys = of_entries(p, I, x->N, N_KEYS),
                     q = rows_of(p, real, x->H, x->T, x->P, x->pitch[Q], Q, AT_Q, false),
                     k = rows_of(p, real, x->J, x->U, x->P, x->pitch[K], K, AT_K, true),
                     v = rows_of(p, real, x->J, x->U, x->P, x->pitch[V], V, AT_V, false);
    descriptor s = between(p, F, false);
    product(p, q, k, s, queries, keys, NULL);
    s = scores_by(p, CUDNN_POINTWISE_MUL, F, F, s, number(p, F, (union scalar){.f = (float)x->scale}), -1);
    s = x->plain ? mask_plain(p, s) : mask(p, s, queries, keys);
    const descriptor top = reduce(p, CUDNN_REDUCE_TENSOR_MAX, s),
                     power = scores_by(p, CUDNN_POINTWISE_EXP, F, F,
                                       scores_by(p, CUDNN_POINTWISE_SUB, F, F, s, top, -1), NULL, -1),
                     sum = reduce(p, CUDNN_REDUCE_TENSOR_ADD, power), log_sum = between(p, F, true),
                     lse = rows_of(p, F, x->H, x->T, 1, x->pitch[LSE], LSE, AT_LSE, false);
    pointwise(p, CUDNN_POINTWISE_LOG, F, sum, NULL, NULL, log_sum, -1);
    pointwise(p, CUDNN_POINTWISE_ADD, F, top, log_sum, NULL, lse, -1);
    const descriptor weight = scores_by(p, CUDNN_POINTWISE_DIV, F, real, power, sum, -1),
                     o = rows_of(p, real, x->H, x->T, x->P, x->pitch[O], O, AT_O, false);
    product(p, weight, v, o, queries, NULL, keys);
}

/* The library's first choice that fits; no measurement, so all ranks and runs choose alike. */
static void choose(struct plan *p, cudnnHandle_t library) {
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    enum { CHOICES = 8 };
    descriptor config[CHOICES];
    int64_t n = 0, bytes = 0, one = 0;
    const descriptor all = make(p, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(p, all, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &library);
    set(p, all, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, p->n_ops, p->ops);
    end(p, all);
    const descriptor heuristic = make(p, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    link(p, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, all);
    set(p, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    end(p, heuristic);
    for (int i = 0; i < CHOICES; i++) config[i] = make(p, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (p->failed != CUDNN_STATUS_SUCCESS) return;
    note(p, cudnnBackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, CHOICES,
                                     &n, config));
    for (int64_t i = 0; i < n && i < CHOICES && p->failed == CUDNN_STATUS_SUCCESS; i++) {
        const descriptor plan = make(p, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
        link(p, plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config[i]);
        if (p->failed != CUDNN_STATUS_SUCCESS || cudnnBackendFinalize(plan) != CUDNN_STATUS_SUCCESS) continue;
        if (cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &one,
                                     &bytes) != CUDNN_STATUS_SUCCESS ||
            bytes > ATTENTION_DNN_WORKSPACE)
            continue;
        p->plan = plan;
        return;
    }
}

static void forget(struct plan *p) {
    for (int i = p->n_made; i > 0; i--) (void)cudnnBackendDestroyDescriptor(p->made[i - 1]);
    *p = (struct plan){0};
}

static struct shape shape_of(const struct attention *a, bool plain) {
    const struct tensor *t[] = {&a->q, &a->k, &a->v, &a->o, &a->lse};
    struct shape x;
    memset(&x, 0, sizeof x); /* compared as bytes */
    x.plain = plain;
    x.N = plain ? a->range.shape[0] - 1 : ATTENTION_ENTRIES;
    x.T = a->q.shape[0] / (plain ? x.N : 1);
    x.U = a->k.shape[0] / (plain ? x.N : 1);
    x.H = a->heads;
    x.J = a->key_heads;
    x.P = a->head_width;
    x.window = a->window;
    x.scale = a->scale;
    for (int i = 0; i <= LSE; i++) x.pitch[i] = t[i]->pitch;
    return x;
}

static struct plan *plan_of(struct dnn *d, const struct attention *a, bool plain) {
    const struct shape x = shape_of(a, plain);
    for (int i = 0; i < d->n_plans; i++)
        if (!memcmp(&d->plans[i].shape, &x, sizeof x)) return &d->plans[i];
    struct plan *p = &d->plans[d->next];
    d->next = (d->next + 1) % PLANS;
    if (d->n_plans < PLANS) d->n_plans++;
    forget(p);
    p->shape = x;
    graph(p);
    choose(p, d->library);
    return p;
}

/* ---- what others call ---- */

enum status attention_dnn_open(struct device *d) {
    void *mem = NULL;
    TRY(mem_take(sizeof(struct dnn), &mem));
    struct dnn *n = d->attention = mem;
    const int version = (int)cudnnGetVersion();
    const cudnnStatus_t st = version < VERSION_MIN ? CUDNN_STATUS_SUCCESS : cudnnCreate(&n->library);
    if (n->library && cudnnSetStream(n->library, d->stream) != CUDNN_STATUS_SUCCESS) {
        (void)cudnnDestroy(n->library);
        n->library = NULL;
    }
    snprintf(n->about, sizeof n->about, "%scuDNN %d.%d.%d%s%s", n->library ? "" : "our own kernels: ", version / 10000,
             version / 100 % 100, version % 100, n->library ? " forward, our own kernels backward" : " does not do: ",
             n->library              ? ""
             : version < VERSION_MIN ? "9.6 is wanted"
                                     : cudnnGetErrorString(st));
    return OK;
}

void attention_dnn_close(struct device *d) {
    struct dnn *n = d->attention;
    if (!n) return;
    for (int i = 0; i < n->n_plans; i++) forget(&n->plans[i]);
    if (n->library) (void)cudnnDestroy(n->library);
    mem_free(n);
    d->attention = NULL;
}

const char *attention_dnn_about(const struct device *d) {
    return d->attention ? ((const struct dnn *)d->attention)->about : "our own kernels";
}

/* NULL: not of this shape. */
static struct dnn *dnn_of(const struct ctx *c, const struct attention *a) {
    struct dnn *d = c->device ? c->device->attention : NULL;
    if (!d || !d->library || c->real != BF16 || c->exact || a->q.shape[0] < ATTENTION_DNN_QUERIES) return NULL;
    return d;
}

void attention_dnn_prepare(const struct ctx *c, const struct attention *a) {
    struct dnn *d = dnn_of(c, a);
    const int64_t T = a->q.shape[0], R = a->range.shape[0] - 1;
    if (!d) return;
    (void)plan_of(d, a, false);
    if (R > 0 && T % R == 0 && a->k.shape[0] == T) (void)plan_of(d, a, true);
}

enum dnn_form attention_dnn_form(const struct ctx *c, const struct attention *a) {
    struct dnn *d = dnn_of(c, a);
    if (!d) return DNN_NOT;
    if (a->plain && plan_of(d, a, true)->plan) return DNN_PLAIN;
    return plan_of(d, a, false)->plan ? DNN_ENTRIES : DNN_NOT;
}

enum status attention_dnn_forward(struct ctx *c, const struct attention *a, struct attention_entries *entries,
                                  void *workspace) {
    struct dnn *d = c->device->attention;
    struct plan *p = plan_of(d, a, !entries);
    void *at[SLOTS] = {[Q] = a->q.data, [K] = a->k.data, [V] = a->v.data, [O] = a->o.data, [LSE] = a->lse.data};
    if (entries) {
        at[N_QUERIES] = entries->n_queries, at[N_KEYS] = entries->n_keys;
        at[AT_Q] = entries->q, at[AT_K] = entries->k, at[AT_V] = entries->v;
        at[AT_O] = entries->o, at[AT_LSE] = entries->lse;
    }
    void *pointers[TENSORS];
    descriptor pack = NULL;
    for (int i = 0; i < p->n_tensors; i++)
        pointers[i] = p->slot[i] < SCALAR ? at[p->slot[i]] : (void *)&p->scalar[p->slot[i] - SCALAR];
    cudnnStatus_t st = cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (!st)
        st = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, p->n_tensors, p->uid);
    if (!st)
        st = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, p->n_tensors,
                                      pointers);
    if (!st) st = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    if (!st) st = cudnnBackendFinalize(pack);
    if (!st) st = cudnnBackendExecute(d->library, p->plan, pack);
    if (pack) (void)cudnnBackendDestroyDescriptor(pack);
    FAIL_UNLESS(!st, ERR_CUDA, "attention: cuDNN: %s; run with precision: f32, or build with -DBATON_CUDNN=OFF",
                cudnnGetErrorString(st));
    return OK;
}
#else
enum status attention_dnn_open(struct device *d) {
    (void)d;
    return OK;
}
void attention_dnn_close(struct device *d) { (void)d; }
const char *attention_dnn_about(const struct device *d) {
    (void)d;
    return "our own kernels: this program was built without cuDNN";
}
void attention_dnn_prepare(const struct ctx *c, const struct attention *a) { (void)c, (void)a; }
enum dnn_form attention_dnn_form(const struct ctx *c, const struct attention *a) {
    (void)c, (void)a;
    return DNN_NOT;
}
enum status attention_dnn_forward(struct ctx *c, const struct attention *a, struct attention_entries *entries,
                                  void *workspace) {
    (void)c, (void)a, (void)entries, (void)workspace;
    FAIL(ERR_CUDA, "this program was built without cuDNN");
}
#endif
