// SPDX-License-Identifier: Apache-2.0
// Boxes of bulk.cuh: they wait in a list of the block until a barrier is waited for.
#include "base/arena.h"
#include "tests/emulator/inside.h"

enum { BOXES = 64 };
struct box {
    unsigned char *to;
    const tensor_map *map;
    int column, row, matrix;
    uint64_t *barrier;
};
static struct box boxes[BOXES];
static int n_boxes;

void emulated_mbarrier_add(uint64_t *b, int arrivals, int bytes) {
    emulated_mbarrier m;
    memcpy(&m, b, sizeof m);
    ASSERT(arrivals <= m.left);
    m.left = (uint16_t)(m.left - arrivals);
    m.bytes += bytes;
    ASSERT(m.bytes >= 0);
    if (m.left == 0 && m.bytes == 0) {
        m.left = m.count;
        m.parity = ~m.parity;
    }
    memcpy(b, &m, sizeof m);
}

// Swizzle of 128 bytes: piece p of row r lies at p ^ (r & 7).
static void copy_box(const struct box *x) {
    const tensor_map *map = x->map;
    for (int r = 0; r < map->box_rows; r++)
        for (int c = 0; c < 64; c++) {
            const int64_t row = x->row + r, col = x->column + c;
            uint16_t v = 0;
            if (row >= 0 && row < map->rows && col >= 0 && col < map->cols && x->matrix < map->matrices)
                memcpy(&v, map->at + 2 * ((x->matrix * map->rows + row) * map->pitch + col), 2);
            memcpy(x->to + 128 * r + 16 * (c / 8 ^ (r & 7)) + c % 8 * 2, &v, 2);
        }
    memcpy(shared_seen + (x->to - emulated_shared), x->to, (size_t)map->box_rows * 128);
    emulated_mbarrier_add(x->barrier, 0, -128 * map->box_rows);
}

void emulated_box_add(void *to, const struct tensor_map *map, int column, int row, int matrix, uint64_t *b) {
    ASSERT(n_boxes < BOXES && (uintptr_t)to % 1024 == 0);
    boxes[n_boxes++] = {(unsigned char *)to, map, column, row, matrix, b};
    memset(to, 0xff, (size_t)map->box_rows * 128);
}

void emulated_mbarrier_wait(uint64_t *b, int parity) {
    for (;;) {
        emulated_mbarrier m;
        int left = 0;
        for (int i = 0; i < n_boxes; i++)
            if (boxes[i].barrier == b) copy_box(&boxes[i]);
            else boxes[left++] = boxes[i];
        n_boxes = left;
        memcpy(&m, b, sizeof m);
        if ((m.parity & 1) != parity) return;
        emulated_pause(b);
    }
}
