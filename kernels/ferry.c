/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ferry.h"
#include <string.h>

#ifdef BATON_CUDA
#include <cuda_runtime.h>

/* A copy engine takes the copies of all streams in turn: a small one waits for a piece of a large one, not for all. */
enum { PIECE_BYTES = 64 << 20 };

#define CUDA(call, what)                                                                                               \
    do {                                                                                                               \
        const cudaError_t e_ = (call);                                                                                 \
        FAIL_UNLESS(e_ == cudaSuccess, ERR_CUDA, "%s: %s", (what), cudaGetErrorString(e_));                            \
    } while (0)

static enum status make_event(void **event) {
    CUDA(cudaEventCreateWithFlags((cudaEvent_t *)event, cudaEventDisableTiming), "an event of copies to the host");
    return OK;
}

static enum status open_streams(struct ferry *f) {
    for (int way = 0; way < N_FERRY_WAYS; way++) {
        CUDA(cudaStreamCreateWithFlags((cudaStream_t *)&f->stream[way], cudaStreamNonBlocking),
             "a stream of copies to the host");
        TRY(make_event(&f->reached[way]));
        for (int i = 0; i < FERRY_LANES; i++) TRY(make_event(&f->over[way][i]));
    }
    return OK;
}

static void close_event(void *event) {
    if (event) (void)cudaEventDestroy(event);
}

static void close_streams(struct ferry *f) {
    for (int way = 0; way < N_FERRY_WAYS; way++) {
        if (f->stream[way]) {
            (void)cudaStreamSynchronize(f->stream[way]);
            (void)cudaStreamDestroy(f->stream[way]);
        }
        close_event(f->reached[way]);
        for (int i = 0; i < FERRY_LANES; i++) close_event(f->over[way][i]);
    }
}

static enum status begin(struct ferry *f, struct ctx *c, enum ferry_way way, int lane, char *to, const char *from,
                         int64_t bytes) {
    CUDA(cudaEventRecord(f->reached[way], c->stream), "the begin of a copy to the host");
    CUDA(cudaStreamWaitEvent(f->stream[way], f->reached[way], 0), "the begin of a copy to the host");
    for (int64_t at = 0; at < bytes; at += PIECE_BYTES)
        CUDA(cudaMemcpyAsync(to + at, from + at, (size_t)(bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES),
                             cudaMemcpyDefault, f->stream[way]),
             "a copy between the GPU's memory and the host's");
    CUDA(cudaEventRecord(f->over[way][lane], f->stream[way]), "the end of a copy to the host");
    return OK;
}

static enum status end(struct ferry *f, struct ctx *c, enum ferry_way way, int lane) {
    CUDA(cudaStreamWaitEvent(c->stream, f->over[way][lane], 0), "the end of a copy to the host");
    return OK;
}
#else
#define NONE() FAIL(ERR_CUDA, "this program was built without CUDA: run with --device cpu")
static enum status open_streams(struct ferry *f) {
    (void)f;
    NONE();
}
static void close_streams(struct ferry *f) { ASSERT(!f->stream[0]); }
static enum status begin(struct ferry *f, struct ctx *c, enum ferry_way way, int lane, char *to, const char *from,
                         int64_t bytes) {
    (void)f, (void)c, (void)way, (void)lane, (void)to, (void)from, (void)bytes;
    NONE();
}
static enum status end(struct ferry *f, struct ctx *c, enum ferry_way way, int lane) {
    (void)f, (void)c, (void)way, (void)lane;
    NONE();
}
#endif

enum status ferry_init(struct ferry *f, const struct ctx *c) {
    *f = (struct ferry){0};
    if (c->space != DEVICE || c->paper) return OK;
    const enum status st = open_streams(f);
    if (st != OK) ferry_term(f);
    return st;
}

void ferry_term(struct ferry *f) {
    close_streams(f);
    *f = (struct ferry){0};
}

enum status ferry_begin(struct ferry *f, struct ctx *c, enum ferry_way way, int lane, void *to, const void *from,
                        int64_t bytes) {
    ASSERT(lane >= 0 && lane < FERRY_LANES);
    if (c->paper) return OK;
    if (c->space == DEVICE) return begin(f, c, way, lane, to, from, bytes);
    memcpy(to, from, (size_t)bytes);
    return OK;
}

enum status ferry_end(struct ferry *f, struct ctx *c, enum ferry_way way, int lane) {
    ASSERT(lane >= 0 && lane < FERRY_LANES);
    return c->space == DEVICE && !c->paper ? end(f, c, way, lane) : OK;
}
