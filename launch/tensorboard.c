/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "launch/tensorboard.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/hash.h"

enum wire { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };
enum { EVENT_WALL_TIME = 1, EVENT_STEP = 2, EVENT_FILE_VERSION = 3, EVENT_SUMMARY = 5, EVENT_SESSION_LOG = 7 };
enum { SUMMARY_VALUE = 1, VALUE_TAG = 1, VALUE_SIMPLE = 2, SESSION_STATUS = 1, SESSION_START = 1 };

/* A message being put together; the largest is a step's summary, below 500 bytes. */
struct message {
    int n;
    unsigned char byte[1024];
};

static void put_bytes(struct message *m, const void *bytes, int n) {
    ASSERT(m->n + n <= (int)sizeof m->byte);
    memcpy(m->byte + m->n, bytes, (size_t)n);
    m->n += n;
}

static void put_little(struct message *m, uint64_t v, int n_bytes) {
    for (int i = 0; i < n_bytes; i++) put_bytes(m, &(unsigned char){(unsigned char)(v >> 8 * i)}, 1);
}

static void put_varint(struct message *m, uint64_t v) {
    for (; v >= 0x80; v >>= 7) put_little(m, (v & 0x7f) | 0x80, 1);
    put_little(m, v, 1);
}

static void put_key(struct message *m, int field, enum wire wire) { put_varint(m, (uint64_t)field << 3 | wire); }

static void put_int(struct message *m, int field, int64_t v) {
    put_key(m, field, WIRE_VARINT);
    put_varint(m, (uint64_t)v);
}

static void put_double(struct message *m, int field, double v) {
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_key(m, field, WIRE_FIXED64);
    put_little(m, bits, 8);
}

static void put_float(struct message *m, int field, float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_key(m, field, WIRE_FIXED32);
    put_little(m, bits, 4);
}

static void put_field(struct message *m, int field, const void *bytes, int n) {
    put_key(m, field, WIRE_BYTES);
    put_varint(m, (uint64_t)n);
    put_bytes(m, bytes, n);
}

static uint32_t masked_crc(const void *bytes, int64_t n) {
    const uint32_t c = hash_crc32c(bytes, n);
    return (c >> 15 | c << 17) + 0xa282ead8u;
}

static void begin_event(struct message *m, int64_t step) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    m->n = 0;
    put_double(m, EVENT_WALL_TIME, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    if (step > 0) put_int(m, EVENT_STEP, step);
}

static enum status write_event(struct tensorboard *t, const struct message *event) {
    struct message record = {0};
    put_little(&record, (uint64_t)event->n, 8);
    put_little(&record, masked_crc(record.byte, 8), 4);
    put_bytes(&record, event->byte, event->n);
    put_little(&record, masked_crc(event->byte, event->n), 4);
    return append_record(&t->file, record.byte, record.n);
}

static enum status write_head(struct tensorboard *t, int64_t first_step) {
    static const char version[] = "brain.Event:2";
    struct message event, log = {0};
    begin_event(&event, 0);
    put_field(&event, EVENT_FILE_VERSION, version, (int)sizeof version - 1);
    TRY(write_event(t, &event));
    begin_event(&event, first_step);
    put_int(&log, SESSION_STATUS, SESSION_START);
    put_field(&event, EVENT_SESSION_LOG, log.byte, log.n);
    return write_event(t, &event);
}

void tensorboard_init(struct tensorboard *t) { *t = (struct tensorboard){.file.fd = -1}; }

enum status tensorboard_open(struct tensorboard *t, const char *run_dir, int64_t first_step) {
    char path[PATH_BYTES], host[256] = "unknown";
    struct timespec now;
    tensorboard_init(t);
    clock_gettime(CLOCK_REALTIME, &now);
    gethostname(host, sizeof host - 1);
    TRY(path_print(path, "%s/events.out.tfevents.%010lld.%09ld.%s.%ld", run_dir, (long long)now.tv_sec, now.tv_nsec,
                   host, (long)getpid()));
    TRY(append_open(&t->file, path, true));
    const enum status st = write_head(t, first_step);
    if (st == OK) return OK;
    close(t->file.fd);
    unlink(path);
    tensorboard_init(t);
    return status_pass(st, __FILE__, __LINE__);
}

enum status tensorboard_step(struct tensorboard *t, const struct step_report *s) {
    struct report_value v[REPORT_VALUES];
    struct message event, summary = {0};
    const int n = report_values(s, v);
    for (int i = 1; i < n; i++) { /* value 0 is the step, the event's own field */
        struct message value = {0};
        if (!v[i].known) continue;
        put_field(&value, VALUE_TAG, v[i].key, (int)strlen(v[i].key));
        put_float(&value, VALUE_SIMPLE, (float)v[i].real);
        put_field(&summary, SUMMARY_VALUE, value.byte, value.n);
    }
    begin_event(&event, s->step);
    put_field(&event, EVENT_SUMMARY, summary.byte, summary.n);
    return write_event(t, &event);
}

enum status tensorboard_sync(struct tensorboard *t) { return append_sync(&t->file); }

enum status tensorboard_close(struct tensorboard *t) { return append_close(&t->file); }
