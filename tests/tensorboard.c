/* SPDX-License-Identifier: Apache-2.0 */
/* TensorBoard event files, decoded by a reader of the test's own: frames, checksums, protobuf, and what a reader that
 * honours SessionLog START is left with after a continue. */
#define _DEFAULT_SOURCE
#include <dirent.h>
#include <unistd.h>
#include "base/file.h"
#include "base/hash.h"
#include "launch/tensorboard.h"
#include "tests/check.h"

enum { STEPS_MAX = 64, VALUES_MAX = 16 };
struct seen_value {
    char tag[32];
    float value;
};
struct seen_event {
    double wall_time;
    int64_t step;
    bool start;
    char version[32];
    int n_values;
    struct seen_value value[VALUES_MAX];
};
struct seen_run {
    int n_events, n_files;
    struct seen_event event[STEPS_MAX];
};

/* CRC32C by its definition: one bit at a time, polynomial 0x1edc6f41 reflected. */
static uint32_t crc_by_bits(const unsigned char *p, int64_t n) {
    uint32_t crc = 0xffffffffu;
    for (int64_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
    }
    return ~crc;
}

static void check_crc(void) {
    static const struct {
        const char *text;
        uint32_t crc;
    } cases[] = {{"123456789", 0xe3069283u}, {"", 0u}, {"a", 0xc1d04330u}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const uint32_t got = hash_crc32c(cases[i].text, (int64_t)strlen(cases[i].text));
        CHECK(got == cases[i].crc, "crc32c(\"%s\") is %#x, not %#x", cases[i].text, got, cases[i].crc);
    }
}

static uint64_t little(const unsigned char *p, int n) {
    uint64_t v = 0;
    for (int i = n; i-- > 0;) v = v << 8 | p[i];
    return v;
}

static uint32_t unmasked(uint32_t masked) {
    const uint32_t rotated = masked - 0xa282ead8u;
    return rotated >> 17 | rotated << 15;
}

struct reader {
    const unsigned char *at, *end;
};

static uint64_t read_varint(struct reader *r) {
    uint64_t v = 0;
    for (int shift = 0; shift < 64 && r->at < r->end; shift += 7) {
        v |= (uint64_t)(*r->at & 0x7f) << shift;
        if (*r->at++ < 0x80) return v;
    }
    CHECK(false, "a varint has no end");
    return 0;
}

/* One field: its number; its payload, or its value as 8 little-endian bytes in number. */
static int read_field(struct reader *r, struct reader *payload, uint64_t *number) {
    const uint64_t key = read_varint(r);
    const int wire = key & 7;
    int64_t n = wire == 1 ? 8 : wire == 5 ? 4 : 0;
    if (wire == 0) *number = read_varint(r);
    if (wire == 2) n = (int64_t)read_varint(r);
    CHECK(wire == 0 || wire == 1 || wire == 2 || wire == 5, "wire type %d", wire);
    CHECK(n <= r->end - r->at, "a field of %d bytes leaves its message", (int)n);
    if (n > r->end - r->at) exit(1);
    if (wire == 1 || wire == 5) *number = little(r->at, (int)n);
    *payload = (struct reader){r->at, r->at + n};
    r->at += n;
    return (int)(key >> 3);
}

static void read_text(struct reader r, char *out, size_t room) {
    const size_t n = (size_t)(r.end - r.at) < room - 1 ? (size_t)(r.end - r.at) : room - 1;
    memcpy(out, r.at, n);
    out[n] = '\0';
}

static void read_summary(struct reader r, struct seen_event *e) {
    struct reader value, inner;
    uint64_t bits = 0;
    while (r.at < r.end) {
        CHECK(read_field(&r, &value, &bits) == 1, "a summary holds values alone");
        struct seen_value *v = &e->value[e->n_values++];
        while (value.at < value.end) {
            const int field = read_field(&value, &inner, &bits);
            if (field == 1) read_text(inner, v->tag, sizeof v->tag);
            CHECK(field == 1 || field == 2, "field %d in a value", field);
            if (field == 2) memcpy(&v->value, &(uint32_t){(uint32_t)bits}, sizeof v->value);
        }
    }
}

static void read_event(struct reader r, struct seen_event *e) {
    struct reader payload, inner;
    uint64_t bits = 0;
    while (r.at < r.end) {
        switch (read_field(&r, &payload, &bits)) {
        case 1:
            memcpy(&e->wall_time, &bits, sizeof e->wall_time);
            break;
        case 2:
            e->step = (int64_t)bits;
            break;
        case 3:
            read_text(payload, e->version, sizeof e->version);
            break;
        case 5:
            read_summary(payload, e);
            break;
        case 7:
            CHECK(read_field(&payload, &inner, &bits) == 1 && bits == 1, "session status %d", (int)bits);
            e->start = true;
            break;
        default:
            CHECK(false, "an unknown field in an event");
        }
    }
}

static void read_file(struct seen_run *run, const char *path) {
    struct file_map map;
    MUST(file_map_open(&map, path));
    for (int64_t at = 0; at < map.bytes;) {
        const unsigned char *p = map.data + at;
        CHECK(map.bytes - at >= 16, "a torn record at %d", (int)at);
        if (map.bytes - at < 16) break;
        const int64_t n = (int64_t)little(p, 8);
        CHECK(unmasked((uint32_t)little(p + 8, 4)) == crc_by_bits(p, 8), "CRC of a length at %d", (int)at);
        CHECK(n <= map.bytes - at - 16, "a record of %d bytes at %d", (int)n, (int)at);
        if (n > map.bytes - at - 16) break;
        CHECK(unmasked((uint32_t)little(p + 12 + n, 4)) == crc_by_bits(p + 12, n), "CRC of a payload at %d", (int)at);
        read_event((struct reader){p + 12, p + 12 + n}, &run->event[run->n_events++]);
        at += 16 + n;
    }
    file_map_close(&map);
}

enum { FILES_MAX = 4 };

static int by_name(const void *a, const void *b) { return strcmp(a, b); }

static void read_run(struct seen_run *run, const char *folder) {
    char name[FILES_MAX][256], path[PATH_BYTES];
    DIR *d = opendir(folder);
    CHECK(d, "cannot open %s", folder);
    if (!d) return;
    for (struct dirent *e; run->n_files < FILES_MAX && (e = readdir(d));)
        if (strstr(e->d_name, "tfevents")) snprintf(name[run->n_files++], sizeof *name, "%s", e->d_name);
    closedir(d);
    qsort(name, (size_t)run->n_files, sizeof *name, by_name);
    for (int i = 0; i < run->n_files; i++) {
        MUST(path_print(path, "%s/%s", folder, name[i]));
        read_file(run, path);
    }
}

static struct step_report made(int64_t step, double loss) {
    return (struct step_report){.step = step,
                                .loss = loss,
                                .grad_norm = NAN,
                                .lr = 1e-3,
                                .tokens = 1000 * step,
                                .mfu = NAN,
                                .bytes_peak = 12345,
                                .validated = step == 3,
                                .valid_loss = 1.25};
}

static void start(const char *folder, int64_t first, int64_t last, double loss) {
    struct tensorboard t;
    MUST(tensorboard_open(&t, folder, first));
    for (int64_t s = first; s <= last; s++) {
        const struct step_report one = made(s, loss + (double)s);
        MUST(tensorboard_step(&t, &one));
    }
    MUST(tensorboard_sync(&t));
    MUST(tensorboard_close(&t));
}

static const float *value_of(const struct seen_event *e, const char *tag) {
    for (int i = 0; i < e->n_values; i++)
        if (!strcmp(e->value[i].tag, tag)) return &e->value[i].value;
    return NULL;
}

static void check_values(const struct seen_event *e) {
    const float *loss = value_of(e, "loss"), *tokens = value_of(e, "tokens"), *valid = value_of(e, "valid_loss");
    CHECK(tokens && *tokens == 1000.0f * (float)e->step, "step %d: tokens", (int)e->step);
    CHECK(loss && *loss == (e->step < 4 ? 100.0f : 200.0f) + (float)e->step, "step %d: loss", (int)e->step);
    CHECK((valid != NULL) == (e->step == 3) && (!valid || *valid == 1.25f), "step %d: valid_loss", (int)e->step);
    CHECK(!value_of(e, "grad_norm") && !value_of(e, "mfu"), "step %d: an unknown value is there", (int)e->step);
    CHECK(value_of(e, "skipped") && value_of(e, "bytes_peak"), "step %d: a value is missing", (int)e->step);
    CHECK(e->wall_time > 1.6e9 && e->wall_time < 1e11, "step %d: wall time %g", (int)e->step, e->wall_time);
}

/* Steps 1 to 5, then a continue from the checkpoint of step 3: what is left is 1 2 3 of the first start, 4 to 8 of the
 * second. */
static void check_continue(const char *folder) {
    struct seen_run run = {0};
    int64_t next = 1;
    start(folder, 1, 5, 100.0);
    start(folder, 4, 8, 200.0);
    read_run(&run, folder);
    CHECK(run.n_files == 2 && run.n_events == 2 + 5 + 2 + 5, "%d files, %d events", run.n_files, run.n_events);
    for (int i = 0; i < run.n_events; i++) {
        const struct seen_event *e = &run.event[i];
        int64_t purge_from = INT64_MAX;
        for (int j = i + 1; j < run.n_events; j++)
            if (run.event[j].start && run.event[j].step < purge_from) purge_from = run.event[j].step;
        if (*e->version) CHECK(!strcmp(e->version, "brain.Event:2"), "version %s", e->version);
        if (e->n_values == 0 || e->step >= purge_from) continue;
        CHECK(e->step == next, "step %d, not %d", (int)e->step, (int)next);
        check_values(e);
        next++;
    }
    CHECK(next == 9, "%d steps are left, not 8", (int)next - 1);
    CHECK(*run.event[0].version && run.event[1].start && run.event[1].step == 1, "the head of the first file");
}

int main(void) {
    char folder[64];
    snprintf(folder, sizeof folder, "/tmp/baton-tensorboard-%ld", (long)getpid());
    MUST(file_make_folders(folder));
    check_crc();
    check_continue(folder);
    MUST(file_remove_tree(folder));
    return check_end();
}
