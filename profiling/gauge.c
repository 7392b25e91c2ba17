/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "profiling/gauge.h"
#include <dlfcn.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "base/arena.h"
#include "profiling/prof.h"

/* As much of NVML's interface as is used, by its reference: the header is not part of the CUDA runtime.  All return 0
 * where they succeed. */
typedef void *nvml_device;
enum { NVML_CLOCK_SM = 1, NVML_CLOCK_MEMORY = 2, NVML_TEMPERATURE_GPU = 0, NVML_LIMIT_IDLE = 1 };
static const struct {
    uint64_t bits;
    const char *name;
} limit_names[] = {{0x04 | 0x80, "power"},
                   {0x20 | 0x40, "heat"},
                   {0x08, "hardware"},
                   {0x10, "other GPUs"},
                   {0x02 | 0x100, "settings"}};

#define FUNCTIONS(F)                                                                                                   \
    F(init, nvmlInit_v2, (void))                                                                                       \
    F(shutdown, nvmlShutdown, (void))                                                                                  \
    F(find, nvmlDeviceGetHandleByPciBusId_v2, (const char *bus_id, nvml_device *))                                     \
    F(clock, nvmlDeviceGetClockInfo, (nvml_device, int kind, unsigned *mhz))                                           \
    F(power, nvmlDeviceGetPowerUsage, (nvml_device, unsigned *milliwatts))                                             \
    F(energy, nvmlDeviceGetTotalEnergyConsumption, (nvml_device, unsigned long long *millijoules))                     \
    F(temperature, nvmlDeviceGetTemperature, (nvml_device, int sensor, unsigned *celsius))                             \
    F(limits, nvmlDeviceGetCurrentClocksThrottleReasons, (nvml_device, unsigned long long *bits))
#define POINTER(field, name, arguments) int(*field) arguments;
struct nvml {
    void *library;
    FUNCTIONS(POINTER)
};

/* Sums over samples; of each quantity, only those that were told. */
struct sums {
    int64_t n, n_sm, n_memory, n_watts, n_limited;
    double sm, sm_least, memory, watts, celsius;
    uint64_t limits;
    double begin_s, begin_joules; /* NAN: no counter of energy */
};
#define PERIOD_NS 50000000
struct gauge {
    struct nvml nvml;
    nvml_device device;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool begun, stop;
    struct sums now, all;
};

static bool load(struct nvml *v) {
    v->library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!v->library) return false;
#define FIND(field, name, arguments)   *(void **)&v->field = dlsym(v->library, #name);
#define MISSES(field, name, arguments) || !v->field
    FUNCTIONS(FIND)
    return !(0 FUNCTIONS(MISSES));
}

static double number(int failed, const unsigned *value, double scale) { return failed ? NAN : scale * *value; }

static double joules(const struct gauge *g) {
    unsigned long long mj = 0;
    return g->nvml.energy(g->device, &mj) ? NAN : 1e-3 * (double)mj;
}

static void begin(const struct gauge *g, struct sums *s) {
    *s =
        (struct sums){.sm_least = INFINITY, .celsius = -INFINITY, .begin_s = prof_seconds(), .begin_joules = joules(g)};
}

static void add(double x, int64_t *n, double *sum) {
    if (isnan(x)) return;
    *n += 1;
    *sum += x;
}

static void sample(struct gauge *g) {
    unsigned sm = 0, memory = 0, mw = 0, celsius = 0;
    unsigned long long limits = 0;
    const struct nvml *v = &g->nvml;
    const double sm_mhz = number(v->clock(g->device, NVML_CLOCK_SM, &sm), &sm, 1.0);
    const double memory_mhz = number(v->clock(g->device, NVML_CLOCK_MEMORY, &memory), &memory, 1.0);
    const double watts = number(v->power(g->device, &mw), &mw, 1e-3);
    const double degrees = number(v->temperature(g->device, NVML_TEMPERATURE_GPU, &celsius), &celsius, 1.0);
    if (v->limits(g->device, &limits)) limits = 0;
    struct sums *const both[] = {&g->now, &g->all};
    for (int i = 0; i < 2; i++) {
        struct sums *s = both[i];
        s->n++;
        add(sm_mhz, &s->n_sm, &s->sm);
        add(memory_mhz, &s->n_memory, &s->memory);
        add(watts, &s->n_watts, &s->watts);
        s->sm_least = fmin(s->sm_least, sm_mhz);
        s->celsius = fmax(s->celsius, degrees);
        s->limits |= limits;
        s->n_limited += (limits & ~(unsigned long long)NVML_LIMIT_IDLE) != 0;
    }
}

static void *watch(void *arg) {
    struct gauge *g = arg;
    struct timespec at;
    pthread_mutex_lock(&g->lock);
    while (!g->stop) {
        sample(g);
        clock_gettime(CLOCK_MONOTONIC, &at);
        at.tv_nsec += PERIOD_NS;
        at.tv_sec += at.tv_nsec / 1000000000;
        at.tv_nsec %= 1000000000;
        (void)pthread_cond_timedwait(&g->ended, &g->lock, &at);
    }
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

static bool start(struct gauge *g) {
    pthread_condattr_t monotonic;
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&g->ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    begin(g, &g->now);
    g->all = g->now;
    g->begun = pthread_create(&g->thread, NULL, watch, g) == 0;
    return g->begun;
}

enum status gauge_open(struct gauge **out, const char *bus_id, const char **why) {
    void *mem = NULL;
    *out = NULL;
    TRY(mem_take(sizeof **out, &mem));
    struct gauge *g = mem;
    if (!load(&g->nvml)) *why = "the library of NVML (libnvidia-ml.so.1) is not found";
    else if (g->nvml.init()) *why = "NVML does not start";
    else if (g->nvml.find(bus_id, &g->device)) {
        *why = "NVML does not know this GPU";
        (void)g->nvml.shutdown();
    } else if (start(g)) {
        *out = g;
        return OK;
    } else {
        *why = "no thread for its samples";
        (void)g->nvml.shutdown();
    }
    if (g->nvml.library) dlclose(g->nvml.library);
    mem_free(g);
    return OK;
}

void gauge_close(struct gauge *g) {
    if (!g) return;
    pthread_mutex_lock(&g->lock);
    g->stop = true;
    pthread_cond_signal(&g->ended);
    pthread_mutex_unlock(&g->lock);
    pthread_join(g->thread, NULL);
    pthread_cond_destroy(&g->ended);
    pthread_mutex_destroy(&g->lock);
    (void)g->nvml.shutdown();
    dlclose(g->nvml.library);
    mem_free(g);
}

static double mean(double sum, int64_t n) { return n > 0 ? sum / (double)n : NAN; }

static void means(const struct gauge *g, const struct sums *s, struct gauge_means *m) {
    const double spent = joules(g) - s->begin_joules, seconds = prof_seconds() - s->begin_s;
    *m = (struct gauge_means){.n = s->n,
                              .sm_mhz = mean(s->sm, s->n_sm),
                              .sm_mhz_least = s->n_sm > 0 ? s->sm_least : NAN,
                              .memory_mhz = mean(s->memory, s->n_memory),
                              .watts = mean(s->watts, s->n_watts),
                              .celsius = isfinite(s->celsius) ? s->celsius : NAN,
                              .limits = s->limits & ~(uint64_t)NVML_LIMIT_IDLE,
                              .limited = mean((double)s->n_limited, s->n)};
    if (spent > 0.0 && seconds >= 4e-9 * PERIOD_NS) m->watts = spent / seconds; /* the counter moves in steps */
}

static void tell(struct gauge *g, struct sums *s, struct gauge_means *m) {
    pthread_mutex_lock(&g->lock);
    if (s->n == 0) sample(g);
    means(g, s, m);
    if (s == &g->now) begin(g, s);
    pthread_mutex_unlock(&g->lock);
}

void gauge_begin(struct gauge *g) {
    pthread_mutex_lock(&g->lock);
    begin(g, &g->now);
    pthread_mutex_unlock(&g->lock);
}

void gauge_read(struct gauge *g, struct gauge_means *m) { tell(g, &g->now, m); }
void gauge_all(struct gauge *g, struct gauge_means *m) { tell(g, &g->all, m); }

void gauge_print(const struct gauge_means *m, char out[GAUGE_TEXT]) {
    int n = 0;
#define PUT(...) n += snprintf(out + n, (size_t)(GAUGE_TEXT - n), __VA_ARGS__)
    out[0] = '\0';
    if (!isnan(m->sm_mhz)) PUT("%s%.0f MHz (least %.0f)", n ? ", " : "", m->sm_mhz, m->sm_mhz_least);
    if (!isnan(m->memory_mhz)) PUT("%smemory %.0f MHz", n ? ", " : "", m->memory_mhz);
    if (!isnan(m->watts)) PUT("%s%.0f W", n ? ", " : "", m->watts);
    if (!isnan(m->celsius)) PUT("%s%.0f C", n ? ", " : "", m->celsius);
    if (m->limits == 0) return;
    PUT("%sheld back in %.0f %% of samples by", n ? ", " : "", 100.0 * m->limited);
    const int before = n;
    for (size_t i = 0; i < sizeof limit_names / sizeof *limit_names; i++)
        if (m->limits & limit_names[i].bits) PUT("%s %s", n > before ? "," : "", limit_names[i].name);
    if (n == before) PUT(" 0x%" PRIx64, m->limits);
#undef PUT
}
