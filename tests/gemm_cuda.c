/* SPDX-License-Identifier: Apache-2.0 */
/* labels: gpu1 */
/* Choosing algorithms for products on a GPU: the text of measured choices makes another handle compute the same bits,
 * what comes from elsewhere is refused, pinned handles agree, a large product is listed without being computed and
 * measured on a part, and every choice is right. */
#include "kernels/gemm_cuda.h"
#include <math.h>
#include <string.h>
#include "kernels/device.h"
#include "tests/check.h"

enum { M = 192, N = 320, K = 256, SCRATCH = 4 << 20 };

/* Small integers: BF16 holds them, and every order of the sums gives the same. */
static uint16_t bf16_of(int i) {
    const float f = (float)i;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return (uint16_t)(u >> 16);
}
static int a_at(int i, int k) { return (i * 7 + k * 3) % 9 - 4; }
static int b_at(int k, int j) { return (k * 5 + j) % 7 - 3; }

struct matrices {
    struct tensor A, B, C;
};

static struct tensor on_device(const void *from, enum dtype type, int64_t rows, int64_t cols) {
    void *p = NULL;
    MUST(device_take(rows * cols * dtype_bytes(type), &p));
    struct tensor t = tensor_2d(p, type, rows, cols);
    t.space = DEVICE;
    if (from) MUST(device_copy(p, from, tensor_bytes(t)));
    return t;
}

static void matrices_open(struct matrices *x) {
    static uint16_t a[M * K], b[K * N];
    for (int i = 0; i < M * K; i++) a[i] = bf16_of(a_at(i / K, i % K));
    for (int i = 0; i < K * N; i++) b[i] = bf16_of(b_at(i / N, i % N));
    *x = (struct matrices){on_device(a, BF16, M, K), on_device(b, BF16, K, N), on_device(NULL, F32, M, N)};
    MUST(device_wait());
}

/* C = A B, then C += A B. */
static void multiply(struct device *d, const struct matrices *x) {
    struct ctx c = {.device = d, .stream = device_stream(d), .real = BF16, .space = DEVICE};
    MUST(gemm_cuda(&c, false, false, 1.0f, x->A, x->B, 0.0f, x->C));
    MUST(gemm_cuda(&c, false, false, 1.0f, x->A, x->B, 1.0f, x->C));
    MUST(device_wait());
}

static void result_is_right(const struct matrices *x, const char *what) {
    static float out[M * N];
    MUST(device_copy(out, x->C.data, tensor_bytes(x->C)));
    for (int i = 0; i < M * N; i++) {
        int sum = 0;
        for (int k = 0; k < K; k++) sum += a_at(i / N, k) * b_at(k, i % N);
        if (out[i] == 2.0f * (float)sum) continue;
        CHECK(out[i] == 2.0f * (float)sum, "%s: element %d is %g, not %g", what, i, (double)out[i], 2.0 * sum);
        return;
    }
}

/* Sums of nines, exact in any order. */
static void large_is_right(struct device *d) {
    enum { SIDE = 12288, SUM = 8192, ROOM = 1 << 30 }; /* 2.5 TFLOP */
    static float out[SIDE];
    void *scratch = NULL;
    struct ctx c = {.device = d, .stream = device_stream(d), .real = BF16, .space = DEVICE};
    const struct tensor A = on_device(NULL, BF16, SIDE, SUM), B = on_device(NULL, BF16, SUM, SIDE);
    const struct tensor C = on_device(NULL, F32, SIDE, SIDE);
    MUST(device_take(ROOM, &scratch));
    MUST(device_fill(A.data, 0x40, tensor_bytes(A))); /* 3 */
    MUST(device_fill(B.data, 0x40, tensor_bytes(B)));
    MUST(device_fill(C.data, 0, tensor_bytes(C)));
    gemm_cuda_list(d, true);
    MUST(gemm_cuda(&c, false, false, 1.0f, A, B, 0.0f, C));
    gemm_cuda_list(d, false);
    MUST(gemm_cuda_measure(d, scratch, ROOM));
    MUST(device_copy(out, C.data, sizeof out));
    CHECK(out[0] == 0.0f, "a product was computed, not listed: %g", (double)out[0]);
    MUST(gemm_cuda(&c, false, false, 1.0f, A, B, 0.0f, C));
    MUST(device_wait());
    for (int64_t row = 0; row < SIDE; row++) {
        MUST(device_copy(out, tensor_rows(C, row, 1).data, sizeof out));
        for (int i = 0; i < SIDE; i++)
            CHECK(out[i] == 9.0f * SUM, "row %d, column %d: %g", (int)row, i, (double)out[i]);
    }
    device_free(A.data);
    device_free(B.data);
    device_free(C.data);
    device_free(scratch);
}

int main(void) {
    struct device *first = NULL, *second = NULL, *pinned = NULL;
    struct matrices x;
    void *scratch = NULL;
    char *text = NULL, *again = NULL;
    if (device_count() == 0) SKIP("no GPU here, or built without CUDA");
    MUST(device_open(&first, 0));
    MUST(device_open(&second, 0));
    MUST(device_open(&pinned, 0));
    MUST(device_take(SCRATCH, &scratch));
    matrices_open(&x);
    multiply(first, &x);
    result_is_right(&x, "the first algorithm offered");
    MUST(gemm_cuda_measure(first, scratch, SCRATCH));
    multiply(first, &x);
    result_is_right(&x, "the fastest algorithm");
    MUST(gemm_cuda_export(first, &text));
    MUST(gemm_cuda_import(second, text));
    MUST(gemm_cuda_export(second, &again));
    CHECK(!strcmp(text, again) && strlen(text) > 200, "two shapes were measured, and this is read back: %s", again);
    multiply(second, &x);
    result_is_right(&x, "an algorithm read back");
    text[0] = '#';
    CHECK(gemm_cuda_import(second, text) == ERR_MISSING, "choices of another library are taken");
    gemm_cuda_pin(pinned);
    multiply(pinned, &x);
    result_is_right(&x, "the pinned algorithm");
    large_is_right(first);
    mem_free(text);
    mem_free(again);
    device_free(scratch);
    device_close(first);
    device_close(second);
    device_close(pinned);
    return check_end();
}
