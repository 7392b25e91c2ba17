/* SPDX-License-Identifier: Apache-2.0 */
/* A configuration of any bytes.  Lines that begin with "#=" are comments to YAML and overrides to us.  What reads must
 * print to text that reads back to the same; what does not must say where. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/arena.h"
#include "launch/config.h"

#define OVERRIDES_MAX 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool cond, const char *what) {
    if (cond) return;
    fprintf(stderr, "%s: %s\n", what, status_text());
    abort();
}

/* Copies of the overrides in text; their number. */
static int find_overrides(const char *text, char *out[OVERRIDES_MAX]) {
    int n = 0;
    for (const char *s = text; s && n < OVERRIDES_MAX; s = strchr(s, '\n')) {
        s += *s == '\n';
        if (strncmp(s, "#=", 2) != 0) continue;
        const size_t bytes = strcspn(s + 2, "\n");
        void *copy = NULL;
        demand(mem_take((int64_t)bytes + 1, &copy) == OK, "memory");
        memcpy(copy, s + 2, bytes);
        out[n++] = copy;
    }
    return n;
}

static void check_read(const struct config *c) {
    struct config again;
    struct text out = {0};
    const struct config_source back = {.where = "resolved", .text = c->resolved.s, .text_bytes = c->resolved.n};
    demand(config_read(&again, &back, NULL) == OK, "what was resolved does not read back");
    demand(!strcmp(again.resolved.s, c->resolved.s), "it reads back to something else");
    demand(!strcmp(again.identity_hash, c->identity_hash), "its identity changed");
    demand(config_identity_diff(c->identity.s, again.identity.s, &out) == OK && out.n == 0, "identities differ");
    demand(config_identity_diff(c->identity.s, "run.seed: 1\nno.such: key\n", &out) == OK && out.n > 0, "they do not");
    demand(config_print_stack(c, &out) == OK && config_help(&out) == OK, "printing");
    (void)config_check_runnable(c);
    text_term(&out);
    config_term(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct config c;
    struct text errors = {0};
    char *overrides[OVERRIDES_MAX] = {NULL};
    void *copy = NULL;
    demand(mem_take((int64_t)size + 1, &copy) == OK, "memory");
    if (size) memcpy(copy, data, size);
    struct config_source from = {
        .where = "fuzz", .text = copy, .text_bytes = (int64_t)size, .overrides = (const char *const *)overrides};
    from.n_overrides = find_overrides(copy, overrides);
    const enum status st = config_read(&c, &from, &errors);
    demand(st == OK || st == ERR_CONFIG, "neither read nor refused");
    if (st == OK) check_read(&c);
    else demand(errors.n > 0 && errors.s[errors.n - 1] == '\n', "refused without a reason");
    config_term(&c);
    text_term(&errors);
    for (int i = 0; i < from.n_overrides; i++) mem_free(overrides[i]);
    mem_free(copy);
    return 0;
}
