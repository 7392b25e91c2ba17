// SPDX-License-Identifier: Apache-2.0
// Copies of bulk.cuh: those to shared memory wait in a list of the block until a barrier is waited for, those to global
// memory in another one until their thread waits.
#include "base/arena.h"
#include "tests/emulator/inside.h"

enum { BOXES = 64, SENDS = 16, SEND_MOST = 64 << 10 };
struct box {
    unsigned char *to;
    tensor_map map; // it may lie in registers of a thread that ends
    int column, row, matrix;
    const void *from; // not NULL: `bytes` side by side
    int bytes;
    uint64_t *barrier;
};
static struct box boxes[BOXES];
static int n_boxes;

struct send {
    float *to;
    const float *from;
    int bytes;
    unsigned thread;
    bool add, committed, taken;
    float was[SEND_MOST / sizeof(float)]; // the source
};
static struct send sends[SENDS]; // the oldest first
static int n_sends;

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
        shared_settle();
    }
    memcpy(b, &m, sizeof m);
}

// Swizzle of 128 bytes: piece p of row r lies at p ^ (r & 7).
static void copy_box(const struct box *x) {
    const tensor_map *map = &x->map;
    if (x->from) {
        memcpy(x->to, x->from, (size_t)x->bytes);
        memcpy(shared_seen + (x->to - emulated_shared), x->to, (size_t)x->bytes);
        emulated_mbarrier_add(x->barrier, 0, -x->bytes);
        return;
    }
    for (int r = 0; r < map->box_rows; r++)
        for (int c = 0; c < 64; c++) {
            const int64_t row = x->row + r, col = x->column + c;
            uint16_t v = 0;
            if (row >= 0 && row < map->rows && col >= 0 && col < map->cols && x->matrix < map->matrices)
                memcpy(&v, map->at + 2 * (x->matrix * map->apart + row * map->pitch + col), 2);
            memcpy(x->to + 128 * r + 16 * (c / 8 ^ (r & 7)) + c % 8 * 2, &v, 2);
        }
    memcpy(shared_seen + (x->to - emulated_shared), x->to, (size_t)map->box_rows * 128);
    emulated_mbarrier_add(x->barrier, 0, -128 * map->box_rows);
}

void emulated_box_add(void *to, const struct tensor_map *map, int column, int row, int matrix, uint64_t *b) {
    ASSERT(n_boxes < BOXES && (uintptr_t)to % 1024 == 0);
    boxes[n_boxes++] = {(unsigned char *)to, *map, column, row, matrix, NULL, 0, b};
    memset(to, 0xff, (size_t)map->box_rows * 128);
}
void emulated_bulk_copy(void *to, const void *from, int bytes, uint64_t *b) {
    ASSERT(n_boxes < BOXES && ((uintptr_t)to | (uintptr_t)from | (uintptr_t)bytes) % 16 == 0);
    boxes[n_boxes++] = {(unsigned char *)to, {}, 0, 0, 0, from, bytes, b};
    memset(to, 0xff, (size_t)bytes);
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

// ---- to global memory ----

void bulk_begin(void) { n_sends = n_boxes = 0; }
void bulk_end(void) {
    for (int i = 0; i < n_sends; i++)
        if (sends[i].thread == thread_index()) emulated_stop("a thread ends while what it sends is under way");
}

void emulated_bulk_send(float *to, const float *from, int bytes, bool add) {
    const size_t offset = (size_t)((const unsigned char *)from - emulated_shared);
    ASSERT(n_sends < SENDS && bytes <= SEND_MOST && ((uintptr_t)to | (uintptr_t)from | (uintptr_t)bytes) % 16 == 0);
    ASSERT(offset + (size_t)bytes <= shared_bytes);
    if (memcmp(shared_seen + offset, from, (size_t)bytes) != 0)
        emulated_stop("a bulk copy sends shared memory that no shared_fence and arrival stand behind");
    struct send *s = &sends[n_sends++];
    s->to = to;
    s->from = from;
    s->bytes = bytes;
    s->thread = thread_index();
    s->add = add;
    s->committed = s->taken = false;
    memcpy(s->was, from, (size_t)bytes);
}

void emulated_bulk_commit(void) {
    for (int i = 0; i < n_sends; i++) sends[i].committed |= sends[i].thread == thread_index();
}

static void finish(const struct send *s) {
    if (!s->add) memcpy(s->to, s->was, (size_t)s->bytes);
    for (size_t i = 0; s->add && i < s->bytes / sizeof(float); i++) s->to[i] += s->was[i];
}

// `done`, or only taken out of shared memory.
void emulated_bulk_wait(bool done) {
    int left = 0;
    for (int i = 0; i < n_sends; i++) {
        struct send *s = &sends[i];
        const bool mine = s->thread == thread_index() && s->committed;
        if (mine && !s->taken && memcmp(s->from, s->was, (size_t)s->bytes) != 0)
            emulated_stop("shared memory changes while a bulk copy sends it");
        if (mine) s->taken = true;
        if (mine && done) finish(s);
        else if (left++ != i) sends[left - 1] = *s;
    }
    n_sends = left;
}
