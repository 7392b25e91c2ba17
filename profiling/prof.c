/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "profiling/prof.h"
#include <time.h>
#include "profiling/trace_inside.h"

static const char *const kind_names[N_PROF_KINDS] = {"step", "pass", "layer", "op", "seam"};

double prof_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#ifdef BATON_CUDA
#include <nvtx3/nvToolsExt.h>

static nvtxDomainHandle_t domain(void) {
    static nvtxDomainHandle_t made; /* a race makes it twice under one name, which NVTX treats as one */
    if (made) return made;
    const nvtxDomainHandle_t new = nvtxDomainCreateA("baton");
    for (uint32_t k = 0; k < N_PROF_KINDS; k++) nvtxDomainNameCategoryA(new, k + 1, kind_names[k]);
    return made = new;
}

void prof_begin(enum prof_kind kind, const char *name) {
    nvtxEventAttributes_t e = {.version = NVTX_VERSION,
                               .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE,
                               .category = (uint32_t)kind + 1,
                               .messageType = NVTX_MESSAGE_TYPE_ASCII,
                               .message.ascii = name};
    nvtxDomainRangePushEx(domain(), &e);
    trace_range(kind_names[kind], name);
}
void prof_end(void) {
    trace_range(NULL, NULL);
    nvtxDomainRangePop(domain());
}
#else
void prof_begin(enum prof_kind kind, const char *name) { trace_range(kind_names[kind], name); }
void prof_end(void) { trace_range(NULL, NULL); }
#endif
