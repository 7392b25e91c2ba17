/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/metrics.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/json.h"
#include "base/log.h"

#define LINE_BYTES 1024

void metrics_init(struct metrics *m) {
    m->file.fd = -1;
    m->last_step = m->n_held = 0;
}

/* The step of one line, or 0 if it is not a metrics line. */
static int64_t step_of_line(const char *line, int64_t bytes) {
    json_t *object = NULL;
    int64_t step = 0;
    if (json_read_text("metrics.jsonl", line, bytes, &object) != OK ||
        json_int("metrics.jsonl", object, "step", &step) != OK) {
        status_clear();
        step = 0;
    }
    json_decref(object);
    return step;
}

struct kept {
    struct text lines;
    int64_t n, first, last; /* lines, and their first and last step */
};

static enum status keep_lines(struct kept *k, const struct file_map *map, int64_t first_step) {
    const char *at = (const char *)map->data, *end = at + map->bytes;
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        if (!newline) return OK;
        const int64_t step = step_of_line(at, newline - at);
        if (step > k->last && step < first_step) {
            TRY(text_add(&k->lines, at, newline + 1 - at));
            if (k->n++ == 0) k->first = step;
            k->last = step;
        }
        at = newline + 1;
    }
    return OK;
}

/* Rewrites the file without the lines of first_step and later; a kill at any moment leaves the old file or the new. */
static enum status trim(const char *path, int64_t first_step, int64_t *last_step) {
    enum status st = OK;
    struct kept kept = {0};
    struct file_map map = {0};
    *last_step = 0;
    if (!file_exists(path)) return file_replace(path, "", 0);
    TRY_OUT(file_map_open(&map, path));
    TRY_OUT(keep_lines(&kept, &map, first_step));
    if (kept.lines.n != map.bytes) TRY_OUT(file_replace(path, kept.n ? kept.lines.s : "", kept.lines.n));
    if (kept.n > 0 && (kept.last != first_step - 1 || kept.n != kept.last - kept.first + 1))
        log_warn("%s: some steps before %" PRId64 " are missing", path, first_step);
    *last_step = kept.last;
out:
    file_map_close(&map);
    text_term(&kept.lines);
    return st;
}

enum status metrics_open(struct metrics *m, const char *run_dir, int64_t first_step) {
    char path[PATH_BYTES];
    ASSERT(first_step >= 1);
    metrics_init(m);
    TRY(path_print(path, "%s/metrics.jsonl", run_dir));
    TRY(trim(path, first_step, &m->last_step));
    return append_open(&m->file, path, false);
}

static void print_value(const struct report_value *v, char out[32]) {
    if (!v->known) memcpy(out, "null", 5);
    else if (!strcmp(v->key, "skipped")) strcpy(out, v->count ? "true" : "false");
    else if (v->integer) snprintf(out, 32, "%" PRId64, v->count);
    else json_print_real(out, v->real);
}

static int print_line(char line[LINE_BYTES], const struct step_report *s) {
    struct report_value value[REPORT_VALUES];
    char number[32];
    const int n_values = report_values(s, value);
    int n = 0;
    for (int i = 0; i < n_values; i++) {
        print_value(&value[i], number);
        n += snprintf(line + n, LINE_BYTES - (size_t)n, "%s\"%s\": %s", i ? ", " : "{", value[i].key, number);
        ASSERT(n < LINE_BYTES - 2);
    }
    return n + snprintf(line + n, LINE_BYTES - (size_t)n, "}\n");
}

static enum status write_held(struct metrics *m) {
    if (m->n_held > 0) TRY(append_record(&m->file, m->held, m->n_held));
    m->n_held = 0;
    return OK;
}

enum status metrics_step(struct metrics *m, const struct step_report *s) {
    char line[LINE_BYTES];
    ASSERT(s->step > m->last_step);
    const int n = print_line(line, s);
    const bool waited = m->n_held > 0;
    if (m->n_held + n > METRICS_HELD) TRY(write_held(m));
    memcpy(m->held + m->n_held, line, (size_t)n);
    m->n_held += n;
    m->last_step = s->step;
    if (write_held(m) == OK) return OK;
    if (!waited)
        log_warn("%s; training goes on, and the lines from step %" PRId64 " on are held in memory until then",
                 status_text(), s->step);
    status_clear();
    return OK;
}

enum status metrics_sync(struct metrics *m) {
    TRY(write_held(m));
    return append_sync(&m->file);
}

enum status metrics_close(struct metrics *m) {
    const enum status st = m->file.fd < 0 ? OK : write_held(m);
    const enum status closed = append_close(&m->file);
    return st != OK ? st : closed;
}
