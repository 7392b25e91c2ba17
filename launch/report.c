/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "launch/report.h"
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/arena.h"
#include "launch/metrics.h"
#include "launch/progress.h"
#include "launch/tensorboard.h"

struct report {
    struct progress progress;
    struct metrics metrics;
    struct tensorboard board;
    bool has_board, board_failed;
};

static struct report_value real_value(const char *key, double v) {
    return (struct report_value){.key = key, .known = isfinite(v), .real = v};
}

static struct report_value count_value(const char *key, int64_t v, bool known) {
    return (struct report_value){.key = key, .known = known, .integer = true, .count = v, .real = (double)v};
}

int report_values(const struct step_report *s, struct report_value out[REPORT_VALUES]) {
    int n = 0;
    out[n++] = count_value("step", s->step, true);
    out[n++] = real_value("loss", s->loss);
    out[n++] = real_value("grad_norm", s->grad_norm);
    out[n++] = real_value("lr", s->lr);
    out[n++] = count_value("tokens", s->tokens, true);
    out[n++] = real_value("tokens_per_s", s->tokens_per_s);
    out[n++] = real_value("flops_per_s", s->flops_per_s);
    out[n++] = real_value("mfu", s->mfu);
    out[n++] = real_value("step_ms", s->step_ms);
    out[n++] = count_value("bytes_peak", s->bytes_peak, s->bytes_peak > 0);
    out[n++] = count_value("skipped", s->skipped, true);
    if (s->experts) {
        out[n++] = real_value("expert_load", s->expert_load);
        out[n++] = real_value("aux_loss", s->aux_loss);
    }
    if (s->drops) out[n++] = count_value("dropped", (int64_t)s->dropped, true);
    if (s->later) out[n++] = real_value("mtp_loss", s->mtp_loss);
    if (s->gauged) {
        out[n++] = real_value("power_w", s->power_w);
        out[n++] = real_value("sm_mhz", s->sm_mhz);
    }
    if (s->validated) out[n++] = real_value("valid_loss", s->valid_loss);
    return n;
}

enum status report_open(struct report **out, const struct report_spec *spec) {
    enum status st = OK;
    void *mem = NULL;
    *out = NULL;
    TRY(mem_take(sizeof **out, &mem));
    struct report *r = mem;
    metrics_init(&r->metrics);
    tensorboard_init(&r->board);
    TRY_OUT(metrics_open(&r->metrics, spec->run_dir, spec->first_step));
    if (spec->tensorboard) {
        TRY_OUT(tensorboard_open(&r->board, spec->run_dir, spec->first_step));
        r->has_board = true;
    }
    progress_open(&r->progress, spec->first_step, spec->n_steps);
    *out = r;
    r = NULL;
out:
    if (r) {
        metrics_close(&r->metrics);
        mem_free(r);
    }
    return st;
}

/* Told once: the events are a view of metrics.jsonl, and training does not end for want of them. */
static void skip_event(struct report *r) {
    if (!r->board_failed) report_warn(r, "%s; events are missing in TensorBoard until then", status_text());
    r->board_failed = true;
    status_clear();
}

enum status report_step(struct report *r, const struct step_report *s) {
    TRY(metrics_step(&r->metrics, s));
    if (r->has_board && tensorboard_step(&r->board, s) != OK) skip_event(r);
    progress_step(&r->progress, s);
    return OK;
}

void report_note(struct report *r, const char *fmt, ...) {
    char text[PATH_BYTES + 256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    progress_note(&r->progress, text);
}

void report_warn(struct report *r, const char *fmt, ...) {
    char text[PATH_BYTES + 1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    progress_warn(&r->progress, text);
}

enum status report_sync(struct report *r) {
    TRY(metrics_sync(&r->metrics));
    if (r->has_board) TRY(tensorboard_sync(&r->board));
    return OK;
}

enum status report_close(struct report *r) {
    if (!r) return OK;
    progress_close(&r->progress);
    const enum status metrics = metrics_close(&r->metrics);
    const enum status board = tensorboard_close(&r->board);
    mem_free(r);
    return metrics != OK ? metrics : board;
}

/* VmHWM, not getrusage: the latter also counts the program that this one replaced by exec.  No stdio: it allocates. */
int64_t report_bytes_peak(void) {
    char text[4096];
    const int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    const ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *at = strstr(text, "\nVmHWM:");
    return at ? strtoll(at + 7, NULL, 10) * 1024 : 0;
}
