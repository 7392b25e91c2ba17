/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_EMULATOR_BULK_H
#define BATON_TESTS_EMULATOR_BULK_H
/* bulk.h - kernels/bulk.cuh, emulated: included by device.h.  A box is copied when somebody waits for its barrier;
 * until then its place holds NaN.  What goes back to global memory gets there when its thread has waited for it; the
 * program ends where its source changes before bulk_taken, or was written by stores that no shared_fence and arrival
 * stand behind, and where a thread ends before that wait. */
#ifdef __cplusplus
#include "base/status.h"
#include "tests/emulator/cuda_runtime.h"

struct tensor_map {
    const char *at;
    int64_t cols, rows, matrices, pitch, apart;
    int box_rows;
};
/* What lies in the 8 bytes of a barrier. */
struct emulated_mbarrier {
    uint16_t count, left;
    int32_t parity : 1, bytes : 31;
};
void emulated_box_add(void *to, const struct tensor_map *map, int column, int row, int matrix, uint64_t *b);
void emulated_bulk_copy(void *to, const void *from, int bytes, uint64_t *b);
void emulated_bulk_send(float *to, const float *from, int bytes, bool add);
void emulated_bulk_commit(void);
void emulated_bulk_wait(bool done);
void emulated_mbarrier_add(uint64_t *b, int arrivals, int bytes);
void emulated_mbarrier_wait(uint64_t *b, int parity);

static inline void bulk_barrier_init(uint64_t *b, int count) {
    const emulated_mbarrier m = {(uint16_t)count, (uint16_t)count, 0, 0};
    memcpy(b, &m, sizeof m);
}
static inline void bulk_barriers_see() {}
static inline void bulk_arrive(uint64_t *b) { emulated_mbarrier_add(b, 1, 0); }
static inline void bulk_expect(uint64_t *b, int bytes) { emulated_mbarrier_add(b, 1, bytes); }
static inline void bulk_wait(uint64_t *b, int parity) { emulated_mbarrier_wait(b, parity); }
static inline void bulk_fetch(void *to, const tensor_map *map, int column, int row, int matrix, uint64_t *b) {
    emulated_box_add(to, map, column, row, matrix, b);
}
static inline void bulk_copy(void *to, const void *from, int bytes, uint64_t *b) {
    emulated_bulk_copy(to, from, bytes, b);
}
static inline void bulk_turn() {}
static inline void bulk_put(float *to, const float *from, int bytes) { emulated_bulk_send(to, from, bytes, false); }
static inline void bulk_add(float *to, const float *from, int bytes) { emulated_bulk_send(to, from, bytes, true); }
static inline void bulk_commit() { emulated_bulk_commit(); }
static inline void bulk_taken() { emulated_bulk_wait(false); }
static inline void bulk_done() { emulated_bulk_wait(true); }
static inline void bulk_prefetch(const void *at, int bytes) { ASSERT(((uintptr_t)at | (uintptr_t)bytes) % 16 == 0); }
static inline enum status tensor_map_apart(tensor_map *map, const void *at, int64_t cols, int64_t rows,
                                           int64_t matrices, int64_t pitch, int64_t apart, int box_rows) {
    FAIL_UNLESS((uintptr_t)at % 16 == 0 && pitch % 8 == 0 && apart % 8 == 0 && cols > 0 && rows > 0 && box_rows <= 256,
                ERR_CUDA, "a matrix that the hardware does not copy");
    *map = {(const char *)at, cols, rows, matrices, pitch, apart, box_rows};
    return OK;
}
static inline enum status tensor_map_make(tensor_map *map, const void *at, int64_t cols, int64_t rows, int64_t matrices,
                                          int64_t pitch, int box_rows) {
    return tensor_map_apart(map, at, cols, rows, matrices, pitch, pitch * rows, box_rows);
}
#endif
#endif
