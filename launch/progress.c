/* SPDX-License-Identifier: Apache-2.0 */
#define _DEFAULT_SOURCE
#include "launch/progress.h"
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "base/log.h"
#include "profiling/prof.h"

struct line {
    char *text;
    int n;
};

__attribute__((format(printf, 2, 3))) static void add(struct line *l, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    l->n += vsnprintf(l->text + l->n, (size_t)(PROGRESS_BYTES - l->n), fmt, ap);
    va_end(ap);
    if (l->n > PROGRESS_BYTES - 1) l->n = PROGRESS_BYTES - 1;
}

/* Three digits and a prefix: 12.3k; the unit follows with `gap` before the prefix. */
static void add_rate(struct line *l, double v, const char *gap, const char *unit) {
    static const char *const prefix[] = {"", "k", "M", "G", "T", "P", "E"};
    int i = 0;
    if (!isfinite(v)) {
        add(l, "  ?%s%s", gap, unit);
        return;
    }
    for (; v >= 999.5 && i < 6; i++) v /= 1000.0;
    add(l, "  %.*f%s%s%s", v < 9.995 ? 2 : v < 99.95 ? 1 : 0, v, gap, prefix[i], unit);
}

static void add_duration(struct line *l, double seconds) {
    if (!isfinite(seconds)) return;
    const int64_t s = (int64_t)(seconds + 0.5), m = s / 60, h = m / 60, d = h / 24;
    if (d > 0) add(l, "  ETA %" PRId64 "d%02" PRId64 "h", d, h % 24);
    else if (h > 0) add(l, "  ETA %" PRId64 "h%02" PRId64 "m", h, m % 60);
    else if (m > 0) add(l, "  ETA %" PRId64 "m%02" PRId64 "s", m, s % 60);
    else add(l, "  ETA %" PRId64 "s", s);
}

void progress_print(char out[PROGRESS_BYTES], const struct step_report *s, int64_t n_steps, double eta_s) {
    struct line l = {.text = out};
    const double mib = (double)s->bytes_peak / (1 << 20);
    add(&l, "step %" PRId64 "/%" PRId64 "  loss %.4f  grad %#.3g  lr %.2e", s->step, n_steps, s->loss, s->grad_norm,
        s->lr);
    add_rate(&l, s->tokens_per_s, "", " tok/s");
    add_rate(&l, s->flops_per_s, " ", "FLOP/s");
    if (s->bytes_peak > 0) add(&l, mib < 10240.0 ? "  %.0f MiB" : "  %.1f GiB", mib < 10240.0 ? mib : mib / 1024.0);
    add_duration(&l, eta_s);
    if (isfinite(s->mfu)) add(&l, "  mfu %.1f%%", 100.0 * s->mfu);
    if (s->experts) add(&l, "  load %.2f", s->expert_load);
    if (s->drops) add(&l, "  dropped %.0f", s->dropped);
    if (s->validated) add(&l, "  valid %.4f", s->valid_loss);
    if (s->skipped) add(&l, "  SKIPPED");
}

void progress_open(struct progress *p, int64_t first_step, int64_t n_steps) {
    *p = (struct progress){.first_step = first_step, .n_steps = n_steps, .begin_s = prof_seconds()};
    p->stay_s = p->begin_s;
    p->terminal = isatty(STDOUT_FILENO) == 1;
    struct winsize size = {0};
    p->columns = p->terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

static void clear_line(struct progress *p) {
    if (!p->line_open) return;
    fputs("\r\033[K", stdout);
    fflush(stdout);
    p->line_open = false;
}

void progress_note(struct progress *p, const char *text) {
    clear_line(p);
    log_note("%s", text);
}

void progress_warn(struct progress *p, const char *text) {
    clear_line(p);
    log_warn("%s", text);
}

static bool stays(const struct progress *p, const struct step_report *s, double now_s) {
    return !p->terminal || s->step == p->first_step || s->step >= p->n_steps || s->validated || s->skipped ||
           now_s - p->stay_s >= PROGRESS_STAY_S;
}

void progress_step(struct progress *p, const struct step_report *s) {
    char text[PROGRESS_BYTES];
    const double now_s = prof_seconds();
    const int64_t done = s->step - p->first_step + 1, left = p->n_steps > s->step ? p->n_steps - s->step : 0;
    progress_print(text, s, p->n_steps, (now_s - p->begin_s) / (double)done * (double)left);
    if (stays(p, s, now_s)) {
        progress_note(p, text);
        p->stay_s = now_s;
        return;
    }
    /* One column stays free: a full last column makes some terminals wrap. */
    printf("\r%.*s\033[K\r", p->columns - 1, text); /* a warning from elsewhere begins at the margin */
    fflush(stdout);
    p->line_open = true;
}

void progress_close(struct progress *p) { clear_line(p); }
