/* SPDX-License-Identifier: Apache-2.0 */
/* Stands for kernels/gemm_cuda.c where there is no GPU: the same products, plainly, through the same description of
 * column-major matrices.  Nothing is chosen or measured. */
#include "kernels/gemm_cuda.h"
#include <string.h>
#include "kernels/device_inside.h"
#include "tests/emulator/cuda_runtime.h"

/* What a run has listed before its first step is all that it asks for later. */
struct gemm {
    bool listing, listed;
    struct gemm_plans plans;
};

enum status gemm_cuda_open(struct device *d) {
    TRY(mem_take(sizeof(struct gemm), &d->gemm));
    memset(d->gemm, 0, sizeof(struct gemm));
    return OK;
}

void gemm_cuda_close(struct device *d) {
    mem_free(d->gemm);
    d->gemm = NULL;
}

void gemm_cuda_pin(struct device *d) { (void)d; }
void gemm_cuda_list(struct device *d, bool on) {
    struct gemm *g = d->gemm;
    g->listing = on;
    g->listed = true;
}

enum status gemm_cuda_measure(struct device *d, void *scratch, int64_t bytes) {
    return (void)d, (void)scratch, (void)bytes, OK;
}
static struct gemm_plans none = {.library = "no library"};
enum status gemm_cuda_export(struct device *d, char **text) { return (void)d, gemm_plans_print(&none, text); }
enum status gemm_cuda_import(struct device *d, const char *text) { return (void)d, gemm_plans_read(&none, text); }

static float bf16_at(const void *data, int64_t i) {
    uint16_t half;
    memcpy(&half, (const char *)data + 2 * i, sizeof half);
    const uint32_t u = (uint32_t)half << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static void bf16_set(void *data, int64_t i, float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    const uint16_t half = nan ? 0x7fff : (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
    memcpy((char *)data + 2 * i, &half, sizeof half);
}

struct product {
    struct gemm_shape shape;
    float alpha, beta;
    struct tensor A, B, C;
};

static void multiply(void *arg) {
    const struct product *p = arg;
    const struct gemm_shape *s = &p->shape;
    const struct tensor A = p->A, B = p->B, C = p->C;
    const struct gemm_columns x = gemm_columns_of(s);
    for (int64_t j = 0; j < x.out_cols; j++)
        for (int64_t i = 0; i < x.out_rows; i++) {
            const int64_t at = i + j * x.out_ld;
            float sum = 0.0f;
            for (int64_t k = 0; k < s->k; k++)
                sum += bf16_at(B.data, x.trans_left ? k + i * x.left_ld : i + k * x.left_ld) *
                       bf16_at(A.data, x.trans_right ? j + k * x.right_ld : k + j * x.right_ld);
            sum *= p->alpha;
            if (C.dtype == F32) ((float *)C.data)[at] = p->beta == 0.0f ? sum : sum + p->beta * ((float *)C.data)[at];
            else bf16_set(C.data, at, p->beta == 0.0f ? sum : sum + p->beta * bf16_at(C.data, at));
        }
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
                                 .add = beta != 0.0f};
    struct gemm *g = c->device ? c->device->gemm : NULL;
    const struct gemm_plan plan = {.shape = s};
    if (s.m == 0 || s.n == 0 || (s.k == 0 && beta == 1.0f)) return OK;
    if (g && g->listing) return gemm_plans_find(&g->plans, &s) ? OK : gemm_plans_add(&g->plans, &plan);
    ASSERT(!g || !g->listed || gemm_plans_find(&g->plans, &s));
    const struct product p = {s, alpha, beta, A, B, C};
    emulated_enqueue(c->stream, multiply, &p, sizeof p);
    return OK;
}
