/* SPDX-License-Identifier: Apache-2.0 */
/* Row-major products as the column-major ones that a library is asked for, against OpenBLAS, and the table of chosen
 * algorithms as text. */
#include "kernels/gemm_plans.h"
#include "base/arena.h"
#include "base/rng.h"
#include <math.h>
#include <string.h>
#include "tests/check.h"

static const struct {
    const char *why;
    struct gemm_shape s;
} shapes[] = {
    {"one number", {.m = 1, .n = 1, .k = 1, .lda = 1, .ldb = 1, .ldc = 1}},
    {"plain", {.m = 3, .n = 5, .k = 7, .lda = 7, .ldb = 5, .ldc = 5}},
    {"plain, pitches", {.m = 3, .n = 5, .k = 7, .lda = 9, .ldb = 11, .ldc = 13}},
    {"A transposed: a gradient of a weight", {.m = 4, .n = 6, .k = 5, .lda = 8, .ldb = 7, .ldc = 6, .trans_a = 1}},
    {"B transposed: a product with a weight", {.m = 4, .n = 6, .k = 5, .lda = 5, .ldb = 9, .ldc = 10, .trans_b = 1}},
    {"both", {.m = 2, .n = 3, .k = 4, .lda = 3, .ldb = 6, .ldc = 5, .trans_a = 1, .trans_b = 1}},
    {"one row", {.m = 1, .n = 6, .k = 5, .lda = 7, .ldb = 9, .ldc = 10, .trans_b = 1}},
};

void gemm_ref64(bool, bool, int64_t, int64_t, int64_t, double, const double *, int64_t, const double *, int64_t, double,
                double *, int64_t); /* kernels/gemm.h in its F64 build */

#define ROOM 512

/* BLAS' meaning of column-major matrices: element (i, j) of X lies at i + j ld. */
static double column_product(const struct gemm_columns *c, int64_t k, const double *left, const double *right,
                             int64_t i, int64_t j) {
    double sum = 0.0;
    for (int64_t l = 0; l < k; l++)
        sum += left[c->trans_left ? l + i * c->left_ld : i + l * c->left_ld] *
               right[c->trans_right ? j + l * c->right_ld : l + j * c->right_ld];
    return sum;
}

static void product(const char *why, const struct gemm_shape *s) {
    double A[ROOM], B[ROOM], C[ROOM] = {0}, D[ROOM] = {0};
    const struct gemm_columns c = gemm_columns_of(s);
    for (int i = 0; i < ROOM; i++) {
        A[i] = rng_normal(1, 1, (uint64_t)i);
        B[i] = rng_normal(1, 2, (uint64_t)i);
    }
    gemm_ref64(s->trans_a, s->trans_b, s->m, s->n, s->k, 1.0, A, s->lda, B, s->ldb, 0.0, C, s->ldc);
    CHECK(c.left_ld >= c.left_rows && c.right_ld >= c.right_rows && c.out_ld >= c.out_rows,
          "%s: a column is longer than the way to the next", why);
    CHECK((c.trans_left ? c.left_rows : c.left_cols) == s->k && (c.trans_right ? c.right_cols : c.right_rows) == s->k,
          "%s: the inner sizes are not k", why);
    for (int64_t j = 0; j < c.out_cols; j++)
        for (int64_t i = 0; i < c.out_rows; i++) D[i + j * c.out_ld] = column_product(&c, s->k, B, A, i, j);
    for (int i = 0; i < ROOM; i++)
        CHECK(fabs(C[i] - D[i]) < 1e-13, "%s: element %d is %g, column-major %g", why, i, C[i], D[i]);
}

static struct gemm_plans plans, other;

static void text_and_back(void) {
    char *text = NULL, *again = NULL;
    strcpy(plans.library, "a library 1.2, for a device");
    strcpy(other.library, plans.library);
    for (uint64_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct gemm_plan p = {.shape = shapes[i].s, .measured = i != 1};
        for (uint64_t w = 0; w < GEMM_WORDS; w++) p.words[w] = i == 2 ? UINT64_MAX : i * 1000003u + w;
        MUST(gemm_plans_add(&plans, &p));
    }
    MUST(gemm_plans_print(&plans, &text));
    MUST(gemm_plans_read(&other, text));
    CHECK(other.n == plans.n - 1, "%lld plans are read, one was not measured", (long long)other.n);
    CHECK(!gemm_plans_find(&other, &shapes[1].s), "a plan that was not measured is written");
    for (uint64_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct gemm_plan *p = gemm_plans_find(&plans, &shapes[i].s), *q = gemm_plans_find(&other, &shapes[i].s);
        if (i != 1) CHECK(p && q && !memcmp(p, q, sizeof *p), "%s: the plan comes back changed", shapes[i].why);
    }
    MUST(gemm_plans_print(&other, &again));
    CHECK(!strcmp(text, again), "the text of what was read differs");
    mem_free(text);
    mem_free(again);
}

static void bad_text(void) {
    static const struct {
        const char *why, *text;
        enum status want;
    } bad[] = {
        {"nothing", "", ERR_MISSING},
        {"another version", "a library 1.3, for a device\n", ERR_MISSING},
        {"a longer name", "a library 1.2, for a device too\n", ERR_MISSING},
        {"half a shape", "a library 1.2, for a device\n1 2 3\n", ERR_DATA},
        {"a word too few", "a library 1.2, for a device\n1 1 1 1 1 1 0 0 0 0 2 2 2 1 2 3 4 5 6 7\n", ERR_DATA},
        {"a word too many", "a library 1.2, for a device\n1 1 1 1 1 1 0 0 0 0 2 2 2 1 2 3 4 5 6 7 8 9\n", ERR_DATA},
        {"letters", "a library 1.2, for a device\n1 1 1 x\n", ERR_DATA},
        {"cut off", "a library 1.2, for a device\n1 1 1 1 1 1 0 0 0 0 2 2 2 1 2 3 4 5 6 7 8", ERR_DATA},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        status_clear();
        const enum status st = gemm_plans_read(&other, bad[i].text);
        CHECK(st == bad[i].want, "%s: %s, not %s", bad[i].why, status_name(st), status_name(bad[i].want));
    }
}

static void full(void) {
    struct gemm_plan p = {.shape = {.m = 1}};
    enum status st = OK;
    for (plans.n = 0; st == OK && p.shape.m <= GEMM_PLANS + 1; p.shape.m++) st = gemm_plans_add(&plans, &p);
    CHECK(st == ERR_ARG && plans.n == GEMM_PLANS, "a full table takes %lld plans", (long long)plans.n);
}

int main(void) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) product(shapes[i].why, &shapes[i].s);
    text_and_back();
    bad_text();
    full();
    return check_end();
}
