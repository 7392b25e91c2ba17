/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_PROFILING_TRACE_INSIDE_H
#define BATON_PROFILING_TRACE_INSIDE_H
/* trace_inside.h - between prof.c, trace.c and cupti.c. */
#include "profiling/trace.h"

/* From prof_begin and prof_end; free while nothing is recorded.  name NULL: the innermost range ends. */
void trace_range(const char *category, const char *name);

enum trace_kind { TRACE_KERNEL, TRACE_COPY, TRACE_PEER_COPY, TRACE_HOST_COPY, TRACE_FILL };
struct trace_record {
    enum trace_kind kind;
    const char *name; /* of a kernel, as the compiler calls it; lives as long as its module */
    int device, stream;
    int64_t begin_ns, end_ns, bytes;
};
/* CUPTI: records come in through trace_add, in any order.  *found: its library is there. */
enum status cupti_begin(bool *found);
enum status cupti_end(void);
int64_t trace_now_ns(void);
void trace_add(const struct trace_record *r);
#endif
