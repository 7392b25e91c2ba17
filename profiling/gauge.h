/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_PROFILING_GAUGE_H
#define BATON_PROFILING_GAUGE_H
/* gauge.h - clocks, power and temperature of one GPU while it works, so that a time can be told from a time at another
 * clock.  A thread samples them through NVML twenty times a second; its library comes with the driver and is loaded by
 * name: where it is absent, or knows nothing of the GPU, there is no gauge, and nothing fails. */
#include <stdint.h>
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Over a stretch of time; NAN: this GPU does not tell. */
struct gauge_means {
    int64_t n;                               /* samples, at least one      */
    double sm_mhz, sm_mhz_least, memory_mhz; /* of the clocks; the lowest  */
    double watts;                            /* by its counter of energy, where it has one */
    double celsius;                          /* the highest                */
    uint64_t limits;                         /* what held the clock back in any sample: bits of NVML */
    double limited;                          /* share of the samples in which anything but idleness did */
};
struct gauge;
/* *out is NULL where there is none, and *why then says so in a few words that stay.  bus_id: of PCI. */
enum status gauge_open(struct gauge **out, const char *bus_id, const char **why);
void gauge_close(struct gauge *g);                       /* accepts NULL */
void gauge_begin(struct gauge *g);                       /* a stretch begins */
void gauge_read(struct gauge *g, struct gauge_means *m); /* since it began, or the last read */
void gauge_all(struct gauge *g, struct gauge_means *m);  /* since it was opened */

/* "1755 MHz (least 1410), memory 3201 MHz, 612 W, 61 C, held back in 40 % by power"; what is unknown is left out. */
#define GAUGE_TEXT 200
void gauge_print(const struct gauge_means *m, char out[GAUGE_TEXT]);

#ifdef __cplusplus
}
#endif
#endif
