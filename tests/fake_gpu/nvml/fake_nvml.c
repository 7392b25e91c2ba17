/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
/* As much of NVML as profiling/gauge.c calls, for a GPU of these habits: its clock goes between 1400 and 1800 MHz, it
 * says 500 W and spends 600, and its power holds it back half of the time.  A second one tells nothing. */
#include <string.h>
#include <time.h>

enum { NOT_SUPPORTED = 3, NOT_FOUND = 6 };
static int cards[2], n_open;

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **device);
int nvmlDeviceGetClockInfo(void *device, int kind, unsigned *mhz);
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts);
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules);
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius);
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *bits);

int nvmlInit_v2(void) {
    n_open++;
    return 0;
}

int nvmlShutdown(void) { return --n_open < 0; }

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **device) {
    const int mute = !strcmp(bus_id, "0000:02:00.0");
    if (n_open < 1 || (!mute && strcmp(bus_id, "0000:01:00.0") && strcmp(bus_id, "emulated"))) return NOT_FOUND;
    *device = &cards[mute];
    return 0;
}

int nvmlDeviceGetClockInfo(void *device, int kind, unsigned *mhz) {
    static unsigned n;
    if (device != &cards[0] || (kind != 1 && kind != 2)) return NOT_SUPPORTED;
    *mhz = kind == 2 ? 2619 : n++ % 2 ? 1800 : 1400;
    return 0;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    *milliwatts = 500000;
    return device == &cards[0] ? 0 : NOT_SUPPORTED;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    *millijoules = (unsigned long long)(600e3 * ((double)t.tv_sec + 1e-9 * (double)t.tv_nsec));
    return device == &cards[0] ? 0 : NOT_SUPPORTED;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    *celsius = 61;
    return device == &cards[0] && sensor == 0 ? 0 : NOT_SUPPORTED;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *bits) {
    static unsigned n;
    *bits = n++ % 2 ? 0x4 : 0x1;
    return device == &cards[0] ? 0 : NOT_SUPPORTED;
}
