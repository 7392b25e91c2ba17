/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DIST_AGREE_H
#define BATON_DIST_AGREE_H
/* agree.h - do all ranks run the same thing?  Asked once, at start; all members of the communicator call alike. */
#include "dist/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

#define AGREE_BYTES 128 /* longest text compared, NUL included */

/* text: a hash of what must be the same, such as the configuration.  ERR_CONFIG on all ranks alike, naming the ranks
 * that differ from the most common text (of equally common ones, that of the lower rank). */
enum status agree_same(struct comm *c, const char *what, const char *text);
/* The same question where a difference is only worth a warning: versions of libraries.  The first member prints it. */
enum status agree_warn(struct comm *c, const char *what, const char *text);

#ifdef __cplusplus
}
#endif
#endif
