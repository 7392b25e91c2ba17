/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/gemm.h"
#include <cblas.h>
#include <stdio.h>
#include "kernels/rows.h"

/* Before main: a later call would race with products that already run, and the library makes its name in one buffer for
 * all threads. */
static char library[256];
__attribute__((constructor)) static void library_on_one_thread(void) {
    openblas_set_num_threads(1);
    snprintf(library, sizeof library, "%s", openblas_get_config());
}

void REF(gemm_library_threads)(int n) { openblas_set_num_threads(n); }
const char *REF(gemm_library)(void) { return library; }

static blasint narrow(int64_t n) {
    ASSERT(n >= 0 && n <= INT32_MAX);
    return (blasint)n;
}

void REF(gemm)(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, real alpha, const real *A, int64_t lda,
               const real *B, int64_t ldb, real beta, real *C, int64_t ldc) {
    if (m == 0 || n == 0) return;
    const CBLAS_TRANSPOSE ta = trans_a ? CblasTrans : CblasNoTrans, tb = trans_b ? CblasTrans : CblasNoTrans;
#ifdef BATON_REAL64
    cblas_dgemm(CblasRowMajor, ta, tb, narrow(m), narrow(n), narrow(k), alpha, A, narrow(lda), B, narrow(ldb), beta, C,
                narrow(ldc));
#else
    cblas_sgemm(CblasRowMajor, ta, tb, narrow(m), narrow(n), narrow(k), alpha, A, narrow(lda), B, narrow(ldb), beta, C,
                narrow(ldc));
#endif
}

enum { TILE = 512, TILES_WANTED = 16 };

struct product {
    bool trans_a, trans_b;
    real alpha, beta;
    struct tensor A, B, C;
    int64_t k, tile_m, tile_n, tiles_n;
};

static void one_tile(void *arg, int64_t item, int worker) {
    const struct product *p = arg;
    (void)worker;
    const int64_t i = item / p->tiles_n * p->tile_m, j = item % p->tiles_n * p->tile_n;
    const int64_t m = least(p->tile_m, p->C.shape[0] - i), n = least(p->tile_n, p->C.shape[1] - j);
    const real *A = p->trans_a ? row(p->A, 0) + i : row(p->A, i), *B = p->trans_b ? row(p->B, j) : row(p->B, 0) + j;
    real *C = row(p->C, i) + j;
    REF(gemm)(p->trans_a, p->trans_b, m, n, p->k, p->alpha, A, p->A.pitch, B, p->B.pitch, p->beta, C, p->C.pitch);
}

/* 512 x 512, where OpenBLAS reaches its full speed; 256 in a small product, so that there are tiles to share. */
static void cut_tiles(struct product *p) {
    p->tile_m = p->tile_n = TILE;
    const int64_t m = p->C.shape[0], n = p->C.shape[1];
    if (ceil_div(m, p->tile_m) * ceil_div(n, p->tile_n) < TILES_WANTED) p->tile_n = TILE / 2;
    if (ceil_div(m, p->tile_m) * ceil_div(n, p->tile_n) < TILES_WANTED) p->tile_m = TILE / 2;
    p->tiles_n = ceil_div(n, p->tile_n);
}

void REF(matmul)(struct ctx *c, bool trans_a, bool trans_b, real alpha, struct tensor A, struct tensor B, real beta,
                 struct tensor C) {
    struct product p = {.trans_a = trans_a, .trans_b = trans_b, .alpha = alpha, .beta = beta, .A = A, .B = B, .C = C};
    p.k = trans_a ? A.shape[0] : A.shape[1];
    if (p.k == 0 && beta == 1) return; /* a sum over no tokens: A and B may lack data */
    cut_tiles(&p);
    pool_run(c->pool, ceil_div(C.shape[0], p.tile_m) * p.tiles_n, one_tile, &p);
}
