/* SPDX-License-Identifier: Apache-2.0 */
/* The file format: what is refused and how it is told, conversions, round trip. */
#define _GNU_SOURCE
#include <stdint.h>
#include <unistd.h>
#include "base/hash.h"
#include "checkpoints/safetensors.h"
#include "tests/check.h"

static char folder[] = "/tmp/baton-test-XXXXXX";

/* A file in memory: header length, header, then n data bytes. */
static int64_t make(unsigned char *out, uint64_t length, const char *header, int64_t data_bytes) {
    const size_t n = strlen(header);
    memcpy(out, &length, 8);
    memcpy(out + 8, header, n);
    memset(out + 8 + n, 7, (size_t)data_bytes);
    return 8 + (int64_t)n + data_bytes;
}

#define A_(dtype, shape, offsets) "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static const struct {
    const char *why, *header;
    int64_t data_bytes, length_off; /* length_off: added to the true header length */
    const char *says;               /* NULL: accepted */
} refusals[] = {
    {"one tensor", A_("F32", "[2,3]", "[0,24]"), 24, 0, NULL},
    {"no tensor at all", "{}", 0, 0, NULL},
    {"metadata alone", "{\"__metadata__\":{\"format\":\"pt\"}}", 0, 0, NULL},
    {"a scalar", A_("F64", "[]", "[0,8]"), 8, 0, NULL},
    {"no rows", A_("F64", "[0,9]", "[0,0]"), 0, 0, NULL},
    {"spaces behind the header", A_("U8", "[1]", "[0,1]") "   ", 1, 0, NULL},
    {"a header of 0 bytes", "", 4, 0, "does not begin"},
    {"a length that wraps", "{}", 0, -3, "at most 100000000"},
    {"a length behind the end", "{}", 0, 1, "behind the end"},
    {"a list", "[]", 0, 0, "begin with '{'"},
    {"a space first", " {}", 0, 0, "begin with '{'"},
    {"not JSON", "{\"a\":}", 0, 0, "not JSON"},
    {"two keys alike", "{\"a\":1,\"a\":1}", 0, 0, "duplicate"},
    {"something behind the value", "{}{}", 0, 0, "not JSON"},
    {"metadata of numbers", "{\"__metadata__\":{\"a\":1}}", 0, 0, "\"a\" is not a text"},
    {"metadata is a list", "{\"__metadata__\":[]}", 0, 0, "not an object"},
    {"an entry that is a list", "{\"a\":[]}", 0, 0, "not exactly"},
    {"no offsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, 0, "not exactly"},
    {"a key too many", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, 0, "not exactly"},
    {"another key", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"offsets\":[0,4]}}", 4, 0, "data_offsets"},
    {"a type that is a number", "{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, 0, "dtype"},
    {"an unknown type", A_("F8_E4M3", "[4]", "[0,4]"), 4, 0, "type F8_E4M3"},
    {"a shape that is a number", A_("F32", "1", "[0,4]"), 4, 0, "shape"},
    {"five dims", A_("F32", "[1,1,1,1,1]", "[0,4]"), 4, 0, "5 dims"},
    {"a negative dim", A_("F32", "[-1]", "[0,4]"), 4, 0, "dim 0"},
    {"a real dim", A_("F32", "[1.0]", "[0,4]"), 4, 0, "dim 0"},
    {"a size that overflows", A_("F32", "[4611686018427387904,4]", "[0,0]"), 0, 0, "overflows"},
    {"a size that overflows, then 0", A_("F32", "[4611686018427387904,4,0]", "[0,0]"), 0, 0, "overflows"},
    {"offsets of one", A_("F32", "[1]", "[4]"), 4, 0, "pair"},
    {"offsets of three", A_("F32", "[1]", "[0,4,8]"), 4, 0, "pair"},
    {"real offsets", A_("F32", "[1]", "[0,4.0]"), 4, 0, "pair"},
    {"offsets turned round", A_("F32", "[1]", "[4,0]"), 4, 0, "from byte 4 to 0"},
    {"negative offsets", A_("F32", "[1]", "[-4,0]"), 4, 0, "from byte -4"},
    {"a span that is no shape's", A_("F32", "[2]", "[0,4]"), 4, 0, "needs 8 bytes"},
    {"data cut short", A_("F32", "[2]", "[0,8]"), 7, 0, "cut short"},
    {"data behind the last", A_("F32", "[2]", "[0,8]"), 9, 0, "belong to none"},
    {"a hole at the begin", A_("F32", "[1]", "[4,8]"), 8, 0, "begins at byte 4"},
    {"an overlap",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[3,5]}}",
     5, 0, "tensor b: its data begins at byte 3"},
    {"the same bytes twice",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
     4, 0, "begins at byte 0"},
    {"an empty one between, any order",
     "{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]},\"e\":{\"dtype\":\"U8\",\"shape\":[0],"
     "\"data_offsets\":[2,2]},\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
     4, 0, NULL},
    {"a name that steers a terminal", "{\"\\u001b[2J\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, 0,
     "control character"},
};

static void test_refusals(void) {
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        unsigned char bytes[512];
        const int64_t n = make(bytes, strlen(refusals[i].header) + (uint64_t)refusals[i].length_off, refusals[i].header,
                               refusals[i].data_bytes);
        status_clear();
        const enum status st = shard_check("made", bytes, n);
        CHECK(st == (refusals[i].says ? ERR_DATA : OK), "%s: %s: %s", refusals[i].why, status_name(st), status_text());
        if (refusals[i].says)
            CHECK(strstr(status_text(), refusals[i].says) && strstr(status_text(), "made"),
                  "%s: '%s' does not say '%s'", refusals[i].why, status_text(), refusals[i].says);
        for (int64_t cut = 0; cut < n && !refusals[i].says; cut++)
            CHECK(shard_check("made", bytes, cut) == ERR_DATA, "%s: cut to %d bytes", refusals[i].why, (int)cut);
    }
}

static void write_and_open(struct shard_file *f, const struct shard_item *items, int64_t n, const char *name) {
    char path[PATH_BYTES], hex[HASH_HEX];
    struct shard_sum sum;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    MUST(shard_write(path, items, n, "{\"format\": \"pt\"}", &sum));
    CHECK(shard_write(path, items, n, NULL, &sum) == ERR_IO && strstr(status_text(), "exists"), "an existing file: %s",
          status_text());
    MUST(shard_open(f, path));
    hash_xxh3(f->map.data, f->map.bytes, hex);
    CHECK(f->map.bytes == sum.bytes && !strcmp(hex, sum.xxh3), "size or sum of what was written");
}

static void test_reals(void) {
    static const uint16_t half[] = {0x0000, 0x8000, 0x3c00, 0xc000, 0x7bff, 0x0001,
                                    0x03ff, 0x0400, 0x7c00, 0xfc00, 0x3555};
    static const double as_f16[] = {0.0,       -0.0,    1.0,      -2.0,      65504.0,   0x1p-24,
                                    0x3ffp-24, 0x1p-14, INFINITY, -INFINITY, 0x1.554p-2};
    static const double as_bf16[] = {0x0.0p+0,
                                     -0x0.0p+0,
                                     0x1.0000000000000p-7,
                                     -0x1.0000000000000p+1,
                                     0x1.fe00000000000p+120,
                                     0x1.0000000000000p-133};
    enum { N = sizeof half / sizeof *half };
    const double wide[4] = {1.0 / 3.0, 1e300, -0.0, 0x1.000001p0};
    const uint8_t odd[3] = {1, 2, 3};
    const struct shard_item items[] = {
        {.name = "odd", .dtype = U8, .n_dims = 1, .shape = {3, 1, 1, 1}, .data = odd},
        {.name = "f16", .dtype = F16, .n_dims = 1, .shape = {N, 1, 1, 1}, .data = half},
        {.name = "bf16", .dtype = BF16, .n_dims = 1, .shape = {N, 1, 1, 1}, .data = half},
        {.name = "f64", .dtype = F64, .n_dims = 2, .shape = {2, 2, 1, 1}, .data = wide},
    };
    struct shard_file f;
    double d[N];
    float s[N];
    write_and_open(&f, items, 4, "reals");
    MUST(shard_read(&f, shard_find(&f, "f16"), 0, N, F64, d));
    for (int i = 0; i < N; i++)
        CHECK(d[i] == as_f16[i] && signbit(d[i]) == signbit(as_f16[i]), "half %x: %a for %a", half[i], d[i], as_f16[i]);
    MUST(shard_read(&f, shard_find(&f, "bf16"), 0, N, F64, d));
    for (int i = 0; i < 6; i++) CHECK(d[i] == as_bf16[i], "bf16 %x: %a for %a", half[i], d[i], as_bf16[i]);
    MUST(shard_read(&f, shard_find(&f, "f64"), 0, 4, F32, s));
    CHECK(s[0] == 1.0f / 3.0f && isinf(s[1]) && signbit(s[2]) && s[3] == 1.0f, "F64 to F32: %a %a %a %a", (double)s[0],
          (double)s[1], (double)s[2], (double)s[3]);
    MUST(shard_read(&f, shard_find(&f, "f64"), 3, 1, F64, d));
    CHECK(d[0] == wide[3], "one element: %a", d[0]);
    CHECK(shard_read(&f, shard_find(&f, "f64"), 3, 2, F64, d) == ERR_ARG, "an element too many");
    CHECK(shard_read(&f, shard_find(&f, "odd"), 0, 3, F32, s) == ERR_DATA, "integers as reals");
    CHECK(shard_read(&f, shard_find(&f, "f64"), 0, 4, BF16, s) == ERR_ARG, "F64 as BF16");
    CHECK(!shard_find(&f, "none") && f.entry[0].begin % 8 == 0, "names, or data off its place");
    shard_close(&f);
}

static void test_integers(void) {
    const int64_t i64[3] = {INT64_MIN, -5, (int64_t)1 << 40};
    const uint16_t u16[2] = {65535, 0};
    const int8_t i8[1] = {-128};
    const struct shard_item items[] = {
        {.name = "i64", .dtype = I64, .n_dims = 1, .shape = {3, 1, 1, 1}, .data = i64},
        {.name = "u16", .dtype = U16, .n_dims = 1, .shape = {2, 1, 1, 1}, .data = u16},
        {.name = "i8", .dtype = I8, .n_dims = 1, .shape = {1, 1, 1, 1}, .data = i8},
    };
    struct shard_file f;
    int64_t w[3];
    int32_t n[3];
    write_and_open(&f, items, 3, "integers");
    MUST(shard_read(&f, shard_find(&f, "u16"), 0, 2, I64, w));
    CHECK(w[0] == 65535 && w[1] == 0, "U16 to I64: %d", (int)w[0]);
    MUST(shard_read(&f, shard_find(&f, "i8"), 0, 1, I32, n));
    CHECK(n[0] == -128, "I8 to I32: %d", n[0]);
    MUST(shard_read(&f, shard_find(&f, "i64"), 1, 1, I32, n));
    CHECK(n[0] == -5, "I64 to I32: %d", n[0]);
    CHECK(shard_read(&f, shard_find(&f, "i64"), 0, 3, I32, n) == ERR_DATA && strstr(status_text(), "tensor i64"),
          "I64 that does not fit: %s", status_text());
    shard_close(&f);
}

static void test_writer(void) {
    const struct shard_item twice[2] = {{.name = "a", .dtype = U8, .n_dims = 1, .shape = {0, 1, 1, 1}},
                                        {.name = "a", .dtype = U8, .n_dims = 1, .shape = {0, 1, 1, 1}}};
    struct shard_sum sum;
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/twice", folder);
    CHECK(shard_write(path, twice, 2, NULL, &sum) == ERR_ARG && strstr(status_text(), "called a"), "two alike: %s",
          status_text());
    snprintf(path, sizeof path, "%s/none/x", folder);
    CHECK(shard_write(path, twice, 1, NULL, &sum) == ERR_IO && strstr(status_text(), path), "no folder: %s",
          status_text());
}

int main(void) {
    if (!mkdtemp(folder)) SKIP("no folder can be made at /tmp");
    test_refusals();
    test_reals();
    test_integers();
    test_writer();
    MUST(file_remove_tree(folder));
    return check_end();
}
