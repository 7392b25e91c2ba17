/* SPDX-License-Identifier: Apache-2.0 */
#include "data/idx.h"
#include <inttypes.h>
#include <string.h>

static const char magic[9] = "MMIDIDX\0";
enum { HEADER_BYTES = 34, AT_VERSION = 9, AT_TYPE = 17, AT_ENTRIES = 18, AT_STARTS = 26 };

/* The file's arrays follow a header of 34 bytes, so nothing in them is aligned. */
static uint64_t load_u64(const unsigned char *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static int64_t load_i64(const unsigned char *p) {
    int64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static int32_t load_i32(const unsigned char *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static int64_t entry_length(const struct token_file *f, int64_t e) {
    return load_i32(f->idx.data + HEADER_BYTES + 4 * e);
}
static int64_t entry_offset(const struct token_file *f, int64_t e) {
    return load_i64(f->idx.data + HEADER_BYTES + 4 * f->n_entries + 8 * e);
}
static int64_t document_start(const struct token_file *f, int64_t d) {
    return load_i64(f->idx.data + HEADER_BYTES + 12 * f->n_entries + 8 * d);
}
/* Byte of .bin where entry e begins; entry n_entries begins at the end. */
static int64_t entry_byte(const struct token_file *f, int64_t e) {
    return e < f->n_entries ? entry_offset(f, e) : f->bin.bytes;
}

static enum status check_type(struct token_file *f, int code) {
    static const struct {
        int code;
        enum dtype dtype;
    } types[] = {{1, U8}, {2, I8}, {3, I16}, {4, I32}, {5, I64}, {8, U16}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].code == code) {
            f->dtype = types[i].dtype;
            return OK;
        }
    FAIL(ERR_DATA, "%s.idx: token type %d at byte %d is not an integer type (1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 8 u16)",
         f->prefix, code, AT_TYPE);
}

static enum status check_header(struct token_file *f) {
    const unsigned char *p = f->idx.data;
    FAIL_UNLESS(f->idx.bytes >= HEADER_BYTES, ERR_DATA,
                "%s.idx: %" PRId64 " bytes, a header alone has %d: the file is cut off; make it again", f->prefix,
                f->idx.bytes, HEADER_BYTES);
    FAIL_UNLESS(!memcmp(p, magic, sizeof magic), ERR_DATA,
                "%s.idx: does not begin with MMIDIDX: not an index of tokens (baton prepare makes one)", f->prefix);
    FAIL_UNLESS(load_u64(p + AT_VERSION) == 1, ERR_DATA, "%s.idx: version %" PRIu64 " at byte %d, only 1 is known",
                f->prefix, load_u64(p + AT_VERSION), AT_VERSION);
    TRY(check_type(f, p[AT_TYPE]));
    const uint64_t entries = load_u64(p + AT_ENTRIES), starts = load_u64(p + AT_STARTS);
    const uint64_t body = (uint64_t)f->idx.bytes - HEADER_BYTES;
    /* Each count alone is bounded by the file's size first, so the sum below cannot wrap. */
#ifndef BATON_PLANT_IDX /* planted: a looser bound, for the fuzzer to find */
    FAIL_UNLESS(entries <= body / 12 && starts <= body / 8 && 12 * entries + 8 * starts == body, ERR_DATA,
                "%s.idx: %" PRIu64 " entries and %" PRIu64 " document starts do not fill its %" PRId64
                " bytes: the file is cut off or has parts that are not known here; make it again",
                f->prefix, entries, starts, f->idx.bytes);
#else
    FAIL_UNLESS(entries <= body && starts <= body, ERR_DATA, "%s.idx: too many entries", f->prefix);
#endif
    FAIL_UNLESS(starts >= 1, ERR_DATA, "%s.idx: no document starts; even an empty corpus has one", f->prefix);
    f->n_entries = (int64_t)entries;
    f->n_documents = (int64_t)starts - 1;
    return OK;
}

/* Offsets must be the running sum of the lengths: so a document of many entries is one run of bytes. */
static enum status check_entries(struct token_file *f) {
    const int64_t size = dtype_bytes(f->dtype);
    int64_t at = 0;
    for (int64_t e = 0; e < f->n_entries; e++) {
        const int64_t length = entry_length(f, e), offset = entry_offset(f, e);
        FAIL_UNLESS(length >= 0, ERR_DATA, "%s.idx: entry %" PRId64 " has the length %" PRId64, f->prefix, e, length);
        FAIL_UNLESS(offset == at, ERR_DATA,
                    "%s.idx: entry %" PRId64 " begins at byte %" PRId64
                    " of .bin, but the lengths before it end at %" PRId64,
                    f->prefix, e, offset, at);
        FAIL_UNLESS(length <= (f->bin.bytes - at) / size, ERR_DATA,
                    "%s.idx: entry %" PRId64 " has %" PRId64 " tokens from byte %" PRId64 ", but %s.bin has %" PRId64
                    " bytes: the two files are not a pair, or .bin is cut off",
                    f->prefix, e, length, at, f->prefix, f->bin.bytes);
        at += length * size;
    }
    FAIL_UNLESS(at == f->bin.bytes, ERR_DATA,
                "%s.idx: its entries end at byte %" PRId64 " of .bin, which has %" PRId64
                " bytes: the two files are not a pair",
                f->prefix, at, f->bin.bytes);
    f->n_tokens = at / size;
    return OK;
}

static enum status check_documents(const struct token_file *f) {
    FAIL_UNLESS(document_start(f, 0) == 0, ERR_DATA, "%s.idx: document 0 starts at entry %" PRId64 " instead of 0",
                f->prefix, document_start(f, 0));
    for (int64_t d = 0; d < f->n_documents; d++) {
        const int64_t begin = document_start(f, d), end = document_start(f, d + 1);
        FAIL_UNLESS(begin <= end && end <= f->n_entries, ERR_DATA,
                    "%s.idx: document %" PRId64 " has the entries %" PRId64 " to %" PRId64 " of %" PRId64, f->prefix, d,
                    begin, end, f->n_entries);
    }
    FAIL_UNLESS(document_start(f, f->n_documents) == f->n_entries, ERR_DATA,
                "%s.idx: the documents end at entry %" PRId64 " of %" PRId64, f->prefix,
                document_start(f, f->n_documents), f->n_entries);
    return OK;
}

enum status token_file_check(struct token_file *f) {
    TRY(check_header(f));
    TRY(check_entries(f));
    return check_documents(f);
}

static int64_t document_byte(const struct token_file *f, int64_t d) { return entry_byte(f, document_start(f, d)); }

int64_t token_file_length(const struct token_file *f, int64_t document) {
    ASSERT(document >= 0 && document < f->n_documents);
    return (document_byte(f, document + 1) - document_byte(f, document)) / dtype_bytes(f->dtype);
}

static int64_t load_token(enum dtype t, const unsigned char *p) {
    uint16_t u;
    int16_t s;
    switch (t) {
    case U8:
        return *p;
    case I8:
        return (int8_t)*p;
    case U16:
        memcpy(&u, p, sizeof u);
        return u;
    case I16:
        memcpy(&s, p, sizeof s);
        return s;
    case I32:
        return load_i32(p);
    default:
        return load_i64(p);
    }
}

enum status token_file_read(const struct token_file *f, int64_t document, int64_t begin, int64_t n, int64_t vocab,
                            int32_t *out) {
    const int64_t length = token_file_length(f, document), size = dtype_bytes(f->dtype);
    ASSERT(begin >= 0 && n >= 0 && n <= length && begin <= length - n);
    ASSERT(vocab <= INT32_MAX);
    if (n == 0) return OK; /* the mapping of an empty .bin is NULL */
    const unsigned char *p = f->bin.data + document_byte(f, document) + begin * size;
    for (int64_t i = 0; i < n; i++) {
        const int64_t token = load_token(f->dtype, p + i * size);
        FAIL_UNLESS(token >= 0 && token < vocab, ERR_DATA,
                    "%s.bin: document %" PRId64 " has the token %" PRId64 " at position %" PRId64
                    ", outside the vocabulary of %" PRId64 ": these files were made with another tokenizer",
                    f->prefix, document, token, begin + i, vocab);
        out[i] = (int32_t)token;
    }
    return OK;
}
