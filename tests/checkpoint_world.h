/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_CHECKPOINT_WORLD_H
#define BATON_TESTS_CHECKPOINT_WORLD_H
/* checkpoint_world.h - a small state of every type and odd shape, filled as a function of the step, in a folder of its
 * own: what the tests of checkpoints save, harm and read back. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* mkdtemp */
#endif
#include <inttypes.h>
#include <stdint.h>
#include <unistd.h>
#include "base/file.h"
#include "checkpoints/checkpoint.h"
#include "tests/check.h"

enum { WORLD_TENSORS = 9, WORLD_BYTES = 64 << 10 };
struct world {
    struct state_tensor list[WORLD_TENSORS];
    unsigned char data[WORLD_TENSORS][WORLD_BYTES];
};

static inline unsigned char world_byte(int64_t step, int i, int64_t at) {
    uint64_t x = (uint64_t)step * 0x9e3779b97f4a7c15u + (uint64_t)i * 0xbf58476d1ce4e5b9u + (uint64_t)at;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    return (unsigned char)(x >> 32);
}

/* Any bytes are a value of any type: NaN payloads and denormals must survive too. */
static inline void world_fill(struct world *w, int64_t step) {
    for (int i = 0; i < WORLD_TENSORS; i++)
        for (int64_t at = 0; at < tensor_bytes(w->list[i].t); at++) w->data[i][at] = world_byte(step, i, at);
}

static inline void world_init(struct world *w) {
    static const struct {
        const char *why, *name;
        enum dtype dtype;
        int n_dims;
        int64_t shape[4];
    } rows[WORLD_TENSORS] = {
        {"a matrix of several pages", "param/layers.0.in_proj.weight.z", F32, 2, {37, 91, 1, 1}},
        {"wide reals", "adamw.m/layers.0.in_proj.weight.z", F64, 2, {37, 91, 1, 1}},
        {"an odd count of two-byte values puts what follows on an odd place", "param/a.bf16", BF16, 1, {7, 1, 1, 1}},
        {"halves", "param/b.f16", F16, 3, {3, 1, 5, 1}},
        {"no rows", "param/empty", F32, 2, {0, 5, 1, 1}},
        {"rows of no width", "param/narrow", F64, 2, {4, 0, 1, 1}},
        {"a scalar", "param/scalar", F64, 0, {1, 1, 1, 1}},
        {"integers", "state/counts", I64, 4, {2, 3, 1, 2}},
        {"bytes", "state/bytes", U8, 1, {13, 1, 1, 1}},
    };
    memset(w, 0, sizeof *w);
    for (int i = 0; i < WORLD_TENSORS; i++) {
        struct state_tensor *s = &w->list[i];
        snprintf(s->name, sizeof s->name, "%s", rows[i].name);
        s->n_dims = rows[i].n_dims;
        memcpy(s->global, rows[i].shape, sizeof s->global);
        s->t = tensor_4d(w->data[i], rows[i].dtype, rows[i].shape);
    }
}

static inline struct checkpoint_meta world_meta(int64_t step) {
    struct checkpoint_meta m;
    memset(&m, 0, sizeof m);
    m.step = step;
    m.tokens = step * 4096;
    m.seed = 0xfedcba9876543210u;
    m.identity_text = "model.width: 64\nrun.seed: 1\n";
    m.config = "model: {width: 64}\nrun: {seed: 1}\n";
    memset(m.identity, 'a', 64);
    return m;
}

/* Does path hold the state of that step, bit for bit, under every name? */
static inline void world_check(const char *path, int64_t step, const char *why) {
    static struct world w;
    struct checkpoint *c = NULL;
    world_init(&w);
    for (int i = 0; i < WORLD_TENSORS; i++) memset(w.data[i], 0x5a, WORLD_BYTES);
    MUST(checkpoint_open(&c, path));
    MUST(checkpoint_read(c, w.list, WORLD_TENSORS, true));
    const struct checkpoint_meta *a = checkpoint_about(c), m = world_meta(step);
    CHECK(a->step == step && a->tokens == m.tokens && a->seed == m.seed, "%s: step %" PRId64 " for %" PRId64, why,
          a->step, step);
    CHECK(!strcmp(a->identity, m.identity) && !strcmp(a->identity_text, m.identity_text), "%s: identity", why);
    CHECK(!strcmp(a->config, m.config), "%s: config '%s'", why, a->config);
    for (int i = 0; i < WORLD_TENSORS; i++) {
        const int64_t bytes = tensor_bytes(w.list[i].t);
        for (int64_t at = 0; at < bytes; at++)
            if (w.data[i][at] != world_byte(step, i, at)) {
                CHECK(false, "%s: step %" PRId64 ", %s, byte %" PRId64, why, step, w.list[i].name, at);
                break;
            }
        CHECK(w.data[i][bytes] == 0x5a, "%s: %s: written past its end", why, w.list[i].name);
    }
    checkpoint_close(c);
}

static inline void world_save(const char *run, int64_t step, int64_t keep) {
    static struct world w;
    const struct checkpoint_meta m = world_meta(step);
    world_init(&w);
    world_fill(&w, step);
    MUST(checkpoint_save(run, &m, w.list, WORLD_TENSORS, keep));
}

/* In memory where that is possible: these tests sync files thousands of times. */
static inline void world_folder(char out[PATH_BYTES]) {
    const char *at = getenv("TMPDIR");
    if (!at || !*at) at = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(out, PATH_BYTES, "%s/baton-test-XXXXXX", at);
    if (!mkdtemp(out)) SKIP("no folder can be made at %s", out);
}

#endif
