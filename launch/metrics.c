/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/metrics.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/json.h"
#include "base/log.h"

#define LINE_BYTES 1024

void metrics_init(struct metrics *m) { *m = (struct metrics){.file.fd = -1}; }

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

enum status metrics_step(struct metrics *m, const struct step_report *s) {
    struct report_value value[REPORT_VALUES];
    char line[LINE_BYTES], number[32];
    ASSERT(s->step > m->last_step);
    const int n_values = report_values(s, value);
    int n = 0;
    for (int i = 0; i < n_values; i++) {
        print_value(&value[i], number);
        n += snprintf(line + n, sizeof line - (size_t)n, "%s\"%s\": %s", i ? ", " : "{", value[i].key, number);
        ASSERT(n < LINE_BYTES - 2);
    }
    n += snprintf(line + n, sizeof line - (size_t)n, "}\n");
    TRY(append_record(&m->file, line, n));
    m->last_step = s->step;
    return OK;
}

enum status metrics_sync(struct metrics *m) { return append_sync(&m->file); }

enum status metrics_close(struct metrics *m) { return append_close(&m->file); }
