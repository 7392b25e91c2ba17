/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* Clocks and power of a GPU, as a library in NVML's name tells them (fake_gpu/nvml); of one that tells nothing; and no
 * gauge where the GPU or the library is not known. */
#define _GNU_SOURCE
#include "profiling/gauge.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "tests/check.h"

static void pause_ms(int64_t ms) {
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = 1000000 * (ms % 1000)};
    nanosleep(&t, NULL);
}

static struct gauge *open_one(const char *bus) {
    struct gauge *g = NULL;
    const char *why = NULL;
    MUST(gauge_open(&g, bus, &why));
    CHECK(g != NULL || why != NULL, "%s: no gauge, and no word why", bus);
    return g;
}

static void test_known(void) {
    struct gauge_means m, all;
    char text[GAUGE_TEXT];
    struct gauge *g = open_one("0000:01:00.0");
    CHECK(g != NULL, "no gauge over the library of %s", getenv("LD_LIBRARY_PATH"));
    if (!g) return;
    pause_ms(500);
    gauge_read(g, &m);
    CHECK(m.n >= 2, "%lld samples in 500 ms", (long long)m.n);
    CHECK(m.sm_mhz > 1400.0 && m.sm_mhz < 1800.0 && m.sm_mhz_least == 1400.0, "%g MHz, least %g", m.sm_mhz,
          m.sm_mhz_least);
    CHECK(m.memory_mhz == 2619.0 && m.celsius == 61.0, "memory %g MHz, %g C", m.memory_mhz, m.celsius);
    CHECK(fabs(m.watts - 600.0) < 60.0, "%g W of 600 that its counter of energy tells", m.watts);
    CHECK(m.limits == 0x4 && m.limited > 0.0 && m.limited < 1.0, "limits %llx in %g", (unsigned long long)m.limits,
          m.limited);
    gauge_print(&m, text);
    CHECK(strstr(text, "(least 1400), memory 2619 MHz") && strstr(text, "61 C, held back in") &&
              strstr(text, "by power"),
          "'%s'", text);
    gauge_begin(g);
    gauge_read(g, &m); /* no time for a sample of the thread, nor for the counter of energy */
    CHECK(m.n >= 1 && isfinite(m.sm_mhz) && m.watts == 500.0, "%lld samples, %g MHz, %g W", (long long)m.n, m.sm_mhz,
          m.watts);
    gauge_all(g, &all);
    CHECK(all.n > m.n && all.sm_mhz_least == 1400.0, "%lld samples in all", (long long)all.n);
    gauge_close(g);
}

static void test_mute(void) {
    struct gauge_means m;
    char text[GAUGE_TEXT];
    struct gauge *g = open_one("0000:02:00.0");
    CHECK(g != NULL, "no gauge of the mute GPU");
    if (!g) return;
    gauge_read(g, &m);
    CHECK(m.n >= 1 && isnan(m.sm_mhz) && isnan(m.sm_mhz_least) && isnan(m.memory_mhz) && isnan(m.watts) &&
              isnan(m.celsius) && m.limits == 0,
          "it tells %g MHz, %g W", m.sm_mhz, m.watts);
    gauge_print(&m, text);
    CHECK(text[0] == '\0', "'%s'", text);
    gauge_close(g);
}

int main(int argc, char **argv) {
    char again[4200];
    if (argc > 1) {
        CHECK(open_one("0000:7f:00.0") == NULL, "a gauge of a GPU that is not there");
        return check_end();
    }
    test_known();
    test_mute();
    CHECK(open_one("0000:03:00.0") == NULL, "a gauge of a GPU that nobody knows");
    gauge_close(NULL);
    snprintf(again, sizeof again, "LD_LIBRARY_PATH= %s absent", argv[0]);
    CHECK(system(again) == 0, "without the library: see above");
    return check_end();
}
