/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/gemm_cuda.h"

#ifdef BATON_CUDA
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "kernels/device_inside.h"

enum { CANDIDATES = 8, RUNS = 4 };
#define PART_FLOPS 1.5e12 /* at most, of what is timed: about 2 ms */

struct gemm {
    cublasLtHandle_t library;
    void *workspace;
    bool pinned, listing;
    struct gemm_plans plans;
};

_Static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(((struct gemm_plan *)0)->words), "an algorithm is 8 words");

#define BLAS_OUT(call, what)                                                                                           \
    do {                                                                                                               \
        const cublasStatus_t e_ = (call);                                                                              \
        if (e_ != CUBLAS_STATUS_SUCCESS)                                                                               \
            FAIL_OUT(ERR_CUDA, "cuBLASLt: %s: %s; run with precision: f32", (what), cublasLtGetStatusString(e_));      \
    } while (0)
#define CUDA_OUT(call, what)                                                                                           \
    do {                                                                                                               \
        const cudaError_t e_ = (call);                                                                                 \
        if (e_ != cudaSuccess) FAIL_OUT(ERR_CUDA, "%s: %s", (what), cudaGetErrorString(e_));                           \
    } while (0)

enum status gemm_cuda_open(struct device *d) {
    enum status st = OK;
    void *mem = NULL;
    int major = 0, minor = 0, processors = 0;
    TRY(mem_take(sizeof(struct gemm), &mem));
    struct gemm *g = d->gemm = mem;
    TRY_OUT(device_take(GEMM_WORKSPACE, &g->workspace));
    BLAS_OUT(cublasLtCreate(&g->library), "opening");
    CUDA_OUT(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, d->index), "asking the GPU");
    CUDA_OUT(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, d->index), "asking the GPU");
    CUDA_OUT(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, d->index), "asking the GPU");
    snprintf(g->plans.library, sizeof g->plans.library, "cublasLt %zu, compute capability %d.%d, %d multiprocessors",
             cublasLtGetVersion(), major, minor, processors);
out:
    if (st != OK) gemm_cuda_close(d);
    return st;
}

void gemm_cuda_close(struct device *d) {
    struct gemm *g = d->gemm;
    if (!g) return;
    if (g->library) (void)cublasLtDestroy(g->library);
    device_free(g->workspace);
    mem_free(g);
    d->gemm = NULL;
}

void gemm_cuda_pin(struct device *d) {
    struct gemm *g = d->gemm;
    g->pinned = true;
    g->plans.n = 0;
}

void gemm_cuda_list(struct device *d, bool on) { ((struct gemm *)d->gemm)->listing = on; }

/* ---- one product as the library wants it described ---- */

struct call {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t left, right, out;
};

static void call_close(struct call *x) {
    if (x->out) (void)cublasLtMatrixLayoutDestroy(x->out);
    if (x->right) (void)cublasLtMatrixLayoutDestroy(x->right);
    if (x->left) (void)cublasLtMatrixLayoutDestroy(x->left);
    if (x->desc) (void)cublasLtMatmulDescDestroy(x->desc);
    *x = (struct call){0};
}

static enum status call_open(struct call *x, const struct gemm_shape *s) {
    enum status st = OK;
    const struct gemm_columns c = gemm_columns_of(s);
    const cublasOperation_t left = c.trans_left ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t right = c.trans_right ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cudaDataType_t type = s->wide ? CUDA_R_32F : CUDA_R_16BF;
    *x = (struct call){0};
    BLAS_OUT(cublasLtMatmulDescCreate(&x->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
    BLAS_OUT(cublasLtMatmulDescSetAttribute(x->desc, CUBLASLT_MATMUL_DESC_TRANSA, &left, sizeof left), "transposing");
    BLAS_OUT(cublasLtMatmulDescSetAttribute(x->desc, CUBLASLT_MATMUL_DESC_TRANSB, &right, sizeof right), "transposing");
    BLAS_OUT(cublasLtMatrixLayoutCreate(&x->left, CUDA_R_16BF, (uint64_t)c.left_rows, (uint64_t)c.left_cols, c.left_ld),
             "describing a matrix");
    BLAS_OUT(
        cublasLtMatrixLayoutCreate(&x->right, CUDA_R_16BF, (uint64_t)c.right_rows, (uint64_t)c.right_cols, c.right_ld),
        "describing a matrix");
    BLAS_OUT(cublasLtMatrixLayoutCreate(&x->out, type, (uint64_t)c.out_rows, (uint64_t)c.out_cols, c.out_ld),
             "describing a matrix");
out:
    if (st != OK) call_close(x);
    return st;
}

static enum status call_run(const struct gemm *g, const struct call *x, const cublasLtMatmulAlgo_t *algorithm,
                            float alpha, const void *A, const void *B, float beta, void *C, cudaStream_t stream) {
    enum status st = OK;
    BLAS_OUT(cublasLtMatmul(g->library, x->desc, &alpha, B, x->left, A, x->right, &beta, C, x->out, C, x->out,
                            algorithm, g->workspace, GEMM_WORKSPACE, stream),
             "a product");
out:
    return st;
}

/* ---- which algorithms there are ---- */

static enum status limit_search(cublasLtMatmulPreference_t search, const struct gemm_shape *s, bool pinned) {
    enum status st = OK;
    const size_t most = GEMM_WORKSPACE;
    const uint32_t split = pinned ? CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t left = (uint32_t)s->align_b, right = (uint32_t)s->align_a, out = (uint32_t)s->align_c;
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t bytes;
    } set[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most},
               {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &split, sizeof split},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &left, sizeof left},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &right, sizeof right},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &out, sizeof out},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &out, sizeof out}};
    for (size_t i = 0; i < sizeof set / sizeof *set; i++)
        BLAS_OUT(cublasLtMatmulPreferenceSetAttribute(search, set[i].name, set[i].value, set[i].bytes),
                 "limiting the choice of algorithms");
out:
    return st;
}

/* Sums in a fixed order: k whole, or its parts added from the workspace in F32.  The search has left out those that add
 * parts in place or in the output's type; an algorithm that does not tell is one of those it let through. */
static bool fixed_order(const cublasLtMatmulAlgo_t *a, bool pinned) {
    int32_t parts = 0;
    uint32_t scheme = 0;
    size_t n = 0;
    if (cublasLtMatmulAlgoConfigGetAttribute(a, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts, sizeof parts, &n) ||
        cublasLtMatmulAlgoConfigGetAttribute(a, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme, &n))
        return true;
    if (parts <= 1 && scheme == CUBLASLT_REDUCTION_SCHEME_NONE) return true;
    return !pinned && parts > 1 && scheme == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
}

static enum status find_algorithms(struct gemm *g, const struct gemm_shape *s, const struct call *x,
                                   cublasLtMatmulAlgo_t out[CANDIDATES], int *n_out) {
    enum status st = OK;
    cublasLtMatmulPreference_t search = NULL;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int n = 0;
    *n_out = 0;
    BLAS_OUT(cublasLtMatmulPreferenceCreate(&search), "choosing an algorithm");
    TRY_OUT(limit_search(search, s, g->pinned));
    const cublasStatus_t e = cublasLtMatmulAlgoGetHeuristic(g->library, x->desc, x->left, x->right, x->out, x->out,
                                                            search, CANDIDATES, found, &n);
    if (e == CUBLAS_STATUS_NOT_SUPPORTED) n = 0; /* told below, with the sizes */
    else BLAS_OUT(e, "choosing an algorithm");
    for (int i = 0; i < n; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS && found[i].workspaceSize <= GEMM_WORKSPACE &&
            fixed_order(&found[i].algo, g->pinned))
            out[(*n_out)++] = found[i].algo;
    if (*n_out == 0)
        FAIL_OUT(ERR_CUDA,
                 "cuBLASLt has no algorithm with sums of fixed order for %" PRId64 " x %" PRId64 " x %" PRId64
                 " in BF16 (pitches %" PRId64 ", %" PRId64 ", %" PRId64 "): run with precision: f32",
                 s->m, s->n, s->k, s->lda, s->ldb, s->ldc);
out:
    if (search) (void)cublasLtMatmulPreferenceDestroy(search);
    return st;
}

static enum status plan_of(struct gemm *g, const struct gemm_shape *s, const struct call *x, struct gemm_plan **out) {
    cublasLtMatmulAlgo_t found[CANDIDATES];
    struct gemm_plan plan = {.shape = *s};
    int n = 0;
    *out = gemm_plans_find(&g->plans, s);
    if (*out) return OK;
    TRY(find_algorithms(g, s, x, found, &n));
    memcpy(plan.words, &found[0], sizeof plan.words);
    TRY(gemm_plans_add(&g->plans, &plan));
    *out = gemm_plans_find(&g->plans, s);
    return OK;
}

static int64_t alignment_of(const void *p) {
    int64_t n = 16;
    while ((uintptr_t)p % (uintptr_t)n) n /= 2;
    return n;
}

enum status gemm_cuda(struct ctx *c, bool trans_a, bool trans_b, float alpha, struct tensor A, struct tensor B,
                      float beta, struct tensor C) {
    const struct gemm_shape s = {.m = C.shape[0],
                                 .n = C.shape[1],
                                 .k = A.shape[trans_a ? 0 : 1],
                                 .lda = A.pitch,
                                 .ldb = B.pitch,
                                 .ldc = C.pitch,
                                 .trans_a = trans_a,
                                 .trans_b = trans_b,
                                 .wide = C.dtype == F32,
                                 .add = beta != 0.0f,
                                 .align_a = alignment_of(A.data),
                                 .align_b = alignment_of(B.data),
                                 .align_c = alignment_of(C.data)};
    if (s.m == 0 || s.n == 0 || (s.k == 0 && beta == 1.0f)) return OK;
    FAIL_UNLESS(s.k > 0, ERR_ARG, "a product of %" PRId64 " x %" PRId64 " elements sums over nothing", s.m, s.n);
    FAIL_UNLESS(c->device && c->device->gemm, ERR_CUDA, "a product in BF16 needs an opened device in its context");
    struct gemm *g = c->device->gemm;
    struct gemm_plan *plan = NULL;
    enum status st = OK;
    struct call x;
    TRY(call_open(&x, &s));
    TRY_OUT(plan_of(g, &s, &x, &plan));
    if (g->listing) goto out;
    TRY_OUT(call_run(g, &x, (const cublasLtMatmulAlgo_t *)(const void *)plan->words, alpha, A.data, B.data, beta,
                     C.data, c->stream));
out:
    call_close(&x);
    return st;
}

/* ---- measuring ---- */

/* Bytes from a matrix's first element behind its last, to a multiple of 256. */
static int64_t matrix_bytes(int64_t rows, int64_t cols, int64_t ld, int64_t each) {
    return arena_round(((rows - 1) * ld + cols) * each);
}

/* A product being measured: its algorithms run in turns. */
struct trial {
    struct device *device;
    struct call call;
    char *A, *B, *C;
    float beta;
    cudaEvent_t start, end;
    int n;
    cublasLtMatmulAlgo_t algorithm[CANDIDATES];
    float ms[CANDIDATES]; /* the fastest of its runs; 0: none yet */
    bool out[CANDIDATES];
};

static enum status time_run(struct trial *t, int i, float *ms) {
    const struct device *d = t->device;
    enum status st = OK;
    CUDA_OUT(cudaEventRecord(t->start, d->stream), "timing a product");
    TRY_OUT(call_run(d->gemm, &t->call, &t->algorithm[i], 1.0f, t->A, t->B, t->beta, t->C, d->stream));
    CUDA_OUT(cudaEventRecord(t->end, d->stream), "timing a product");
    CUDA_OUT(cudaEventSynchronize(t->end), "a product");
    CUDA_OUT(cudaEventElapsedTime(ms, t->start, t->end), "timing a product");
out:
    return st;
}

/* One run of each that is still in, those out that are slower than the fastest by more than a share. */
static enum status time_round(struct trial *t, float share) {
    float best = 0.0f;
    for (int i = 0; i < t->n; i++) {
        float ms = 0.0f;
        if (!t->out[i]) TRY(time_run(t, i, &ms));
        if (!t->out[i] && (t->ms[i] == 0.0f || ms < t->ms[i])) t->ms[i] = ms;
        if (!t->out[i] && (best == 0.0f || t->ms[i] < best)) best = t->ms[i];
    }
    for (int i = 0; i < t->n; i++) t->out[i] |= t->ms[i] > best * (1.0f + share);
    return OK;
}

/* One run of each uncounted, then RUNS of those that may win. */
static enum status time_algorithms(struct trial *t, int *best) {
    for (int i = 0; i < t->n; i++) {
        cublasLtMatmulHeuristicResult_t about;
        float unused = 0.0f;
        const struct call *x = &t->call;
        const cublasStatus_t fits = cublasLtMatmulAlgoCheck(((struct gemm *)t->device->gemm)->library, x->desc, x->left,
                                                            x->right, x->out, x->out, &t->algorithm[i], &about);
        t->out[i] = fits != CUBLAS_STATUS_SUCCESS || about.workspaceSize > GEMM_WORKSPACE;
        if (!t->out[i]) TRY(time_run(t, i, &unused));
    }
    for (int round = 0; round < RUNS; round++) TRY(time_round(t, round == 0 ? 0.1f : 0.03f));
    *best = 0;
    for (int i = 1; i < t->n; i++)
        if (t->ms[i] > 0.0f && (t->ms[*best] == 0.0f || t->ms[i] < t->ms[*best])) *best = i;
    return OK;
}

/* The same product with less of its longest sides: where tiles fill a GPU many times, algorithms stand to each other as
 * they do in the whole, and their time does not grow with the tokens of a sequence. */
static struct gemm_shape part_of(const struct gemm_shape *s) {
    struct gemm_shape part = *s;
    while (2.0 * (double)part.m * (double)part.n * (double)part.k > PART_FLOPS) {
        int64_t *const longest = part.m >= part.n && part.m >= part.k ? &part.m : part.n >= part.k ? &part.n : &part.k;
        *longest = (*longest / 2 + 255) / 256 * 256;
    }
    return part;
}

static enum status measure_plan(struct trial *t, struct gemm_plan *p, char *scratch, int64_t bytes) {
    const struct gemm_shape part = part_of(&p->shape), *s = &part;
    const int64_t a = matrix_bytes(s->trans_a ? s->k : s->m, s->trans_a ? s->m : s->k, s->lda, 2);
    const int64_t b = matrix_bytes(s->trans_b ? s->n : s->k, s->trans_b ? s->k : s->n, s->ldb, 2);
    const int64_t c = matrix_bytes(s->m, s->n, s->ldc, s->wide ? 4 : 2);
    enum status st = OK;
    struct call whole = {0};
    int best = 0;
    p->measured = true;
    if (a + b + c + 768 > bytes) return OK;
    /* Addresses aligned as in use, and no better: 256-byte places moved by the alignment. */
    *t = (struct trial){.device = t->device, .start = t->start, .end = t->end, .beta = s->add ? 1.0f : 0.0f};
    t->A = scratch + s->align_a % 16, t->B = scratch + a + 256 + s->align_b % 16;
    t->C = scratch + a + b + 512 + s->align_c % 16;
    CUDA_OUT(cudaMemsetAsync(scratch, 0x3c, (size_t)(a + b + c + 768), t->device->stream), "filling scratch memory");
    TRY_OUT(call_open(&whole, &p->shape));
    TRY_OUT(find_algorithms(t->device->gemm, &p->shape, &whole, t->algorithm, &t->n));
    TRY_OUT(call_open(&t->call, s));
    TRY_OUT(time_algorithms(t, &best));
    memcpy(p->words, &t->algorithm[best], sizeof p->words);
out:
    call_close(&whole);
    call_close(&t->call);
    return st;
}

enum status gemm_cuda_measure(struct device *d, void *scratch, int64_t bytes) {
    struct gemm *g = d->gemm;
    enum status st = OK;
    struct trial t = {.device = d};
    CUDA_OUT(cudaEventCreate(&t.start), "making an event");
    CUDA_OUT(cudaEventCreate(&t.end), "making an event");
    for (int64_t i = 0; i < g->plans.n && !g->pinned; i++)
        if (!g->plans.plan[i].measured) TRY_OUT(measure_plan(&t, &g->plans.plan[i], scratch, bytes));
out:
    if (t.start) (void)cudaEventDestroy(t.start);
    if (t.end) (void)cudaEventDestroy(t.end);
    return st;
}

enum status gemm_cuda_export(struct device *d, char **text) {
    return gemm_plans_print(&((struct gemm *)d->gemm)->plans, text);
}

enum status gemm_cuda_import(struct device *d, const char *text) {
    struct gemm *g = d->gemm;
    return g->pinned ? OK : gemm_plans_read(&g->plans, text);
}
#else
#define NO_CUDA() FAIL(ERR_CUDA, "this program was built without CUDA: run with --device cpu, or build with a toolkit")

enum status gemm_cuda_open(struct device *d) {
    (void)d;
    NO_CUDA();
}
void gemm_cuda_close(struct device *d) { (void)d; }
enum status gemm_cuda(struct ctx *c, bool trans_a, bool trans_b, float alpha, struct tensor A, struct tensor B,
                      float beta, struct tensor C) {
    (void)c, (void)trans_a, (void)trans_b, (void)alpha, (void)A, (void)B, (void)beta, (void)C;
    NO_CUDA();
}
void gemm_cuda_pin(struct device *d) { (void)d; }
void gemm_cuda_list(struct device *d, bool on) { (void)d, (void)on; }
enum status gemm_cuda_measure(struct device *d, void *scratch, int64_t bytes) {
    (void)d, (void)scratch, (void)bytes;
    NO_CUDA();
}
enum status gemm_cuda_export(struct device *d, char **text) {
    (void)d, (void)text;
    NO_CUDA();
}
enum status gemm_cuda_import(struct device *d, const char *text) {
    (void)d, (void)text;
    NO_CUDA();
}
#endif
