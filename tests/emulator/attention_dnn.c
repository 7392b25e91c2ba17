/* SPDX-License-Identifier: Apache-2.0 */
/* Stands for kernels/attention/attention_dnn.c where there is no GPU: the same entries and plain batches, by loops, of
 * every case with 64 queries or more; with EMULATED_CUDNN=0 of none. */
#include "kernels/attention/attention_dnn.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "tests/emulator/cuda_runtime.h"

enum status attention_dnn_open(struct device *d) { return (void)d, OK; }
void attention_dnn_close(struct device *d) { (void)d; }
const char *attention_dnn_about(const struct device *d) { return (void)d, "emulated"; }

void attention_dnn_prepare(const struct ctx *c, const struct attention *a) { (void)c, (void)a; }
enum dnn_form attention_dnn_form(const struct ctx *c, const struct attention *a) {
    const char *chosen = getenv("EMULATED_CUDNN");
    const bool none =
        !c->device || c->real != BF16 || c->exact || a->q.shape[0] < 64 || (chosen && !strcmp(chosen, "0"));
    return none ? DNN_NOT : a->plain ? DNN_PLAIN : DNN_ENTRIES;
}

static float bf16_at(const void *data, int64_t i) {
    const uint32_t u = (uint32_t)((const uint16_t *)data)[i] << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static void bf16_set(void *data, int64_t i, float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    ((uint16_t *)data)[i] = (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/* An entry, or a document of a plain batch: where its rows begin, in elements. */
struct item {
    int64_t q, k, v, o, lse, n_queries, n_keys;
};

static struct item entry_of(const struct attention_entries *e, int n) {
    return (struct item){e->q[n], e->k[n], e->v[n], e->o[n], e->lse[n], e->n_queries[n], e->n_keys[n]};
}
/* From shapes alone: a plain batch is read without range, pos and keys. */
static struct item document_of(const struct attention *a, int64_t n) {
    const int64_t T = a->q.shape[0] / (a->range.shape[0] - 1), t = n * T;
    return (struct item){t * a->q.pitch, t * a->k.pitch, t * a->v.pitch, t * a->o.pitch, t * a->lse.pitch, T, T};
}

/* Query i of head h. */
static void one_query(const struct attention *a, const struct item *e, int64_t i, int64_t h, float *weight) {
    const int64_t P = a->head_width, j = h / (a->heads / a->key_heads);
    const int64_t last = e->n_keys - e->n_queries + i, first = a->window > 0 ? last - a->window + 1 : 0;
    const int64_t q = e->q + i * a->q.pitch + h * P, o = e->o + i * a->o.pitch + h * P;
    float top = -INFINITY, sum = 0.0f;
    for (int64_t k = first > 0 ? first : 0; k <= last; k++) {
        float s = 0.0f;
        for (int64_t p = 0; p < P; p++)
            s += bf16_at(a->q.data, q + p) * bf16_at(a->k.data, e->k + k * a->k.pitch + j * P + p);
        weight[k] = (float)a->scale * s;
        top = fmaxf(top, weight[k]);
    }
    for (int64_t k = first > 0 ? first : 0; k <= last; k++) sum += weight[k] = expf(weight[k] - top);
    for (int64_t p = 0; p < P; p++) {
        float x = 0.0f;
        for (int64_t k = first > 0 ? first : 0; k <= last; k++)
            x += weight[k] * bf16_at(a->v.data, e->v + k * a->v.pitch + j * P + p);
        bf16_set(a->o.data, o + p, x / sum);
    }
    ((float *)a->lse.data)[e->lse + i * a->lse.pitch + h] = top + logf(sum);
}

struct pass {
    struct attention a;
    const struct attention_entries *entries;
    void *workspace; /* weights of a query's keys */
};

static void forward(void *arg) {
    const struct pass *p = arg;
    const int64_t items = p->entries ? ATTENTION_ENTRIES : p->a.range.shape[0] - 1;
    memset(p->workspace, 0xff, ATTENTION_DNN_WORKSPACE);
    for (int64_t n = 0; n < items; n++) {
        const struct item e = p->entries ? entry_of(p->entries, (int)n) : document_of(&p->a, n);
        for (int64_t i = 0; i < e.n_queries; i++)
            for (int64_t h = 0; h < p->a.heads; h++) one_query(&p->a, &e, i, h, p->workspace);
    }
}

enum status attention_dnn_forward(struct ctx *c, const struct attention *a, struct attention_entries *entries,
                                  void *workspace) {
    const struct pass p = {*a, entries, workspace};
    ASSERT(a->k.shape[0] * (int64_t)sizeof(float) <= ATTENTION_DNN_WORKSPACE);
    emulated_enqueue(c->stream, forward, &p, sizeof p);
    return OK;
}
