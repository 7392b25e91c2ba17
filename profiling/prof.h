/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_PROFILING_PROF_H
#define BATON_PROFILING_PROF_H
/* prof.h - named ranges around steps, layers, ops and seams: NVTX ranges in the domain "baton" where built with the
 * CUDA Toolkit, nothing elsewhere; ranges of a trace (trace.h) while one is recorded; and the clock. */
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum prof_kind { PROF_STEP, PROF_PASS, PROF_LAYER, PROF_OP, PROF_SEAM, N_PROF_KINDS }; /* categories of ranges */
void prof_begin(enum prof_kind kind, const char *name); /* ranges nest; name must outlive the range */
void prof_end(void);
double prof_seconds(void); /* monotonic */

#ifdef __cplusplus
}
#endif
#endif
