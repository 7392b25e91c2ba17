/* SPDX-License-Identifier: Apache-2.0 */
/* A line is whole however long it is, warnings say that they are, and quiet silences notes alone. */
#define _POSIX_C_SOURCE 200809L
#include "base/log.h"
#include <unistd.h>
#include "base/arena.h"
#include "base/file.h"
#include "tests/check.h"

int main(void) {
    static const int lengths[] = {0, 1, 100, 4078, 4079, 4080, 4094, 4095, 4096, 4097, 10000, 100000};
    char path[] = "/tmp/baton_log_XXXXXX", *text = NULL;
    int64_t bytes = 0;
    void *mem = NULL;
    const int fd = mkstemp(path), screen = dup(STDERR_FILENO);
    if (fd < 0) SKIP("no temporary file can be made");
    dup2(fd, STDOUT_FILENO);
    MUST(mem_take(100001, &mem));
    char *word = mem;
    for (size_t i = 0; i < 2 * (sizeof lengths / sizeof *lengths); i++) {
        const int n = lengths[i / 2], warn = (int)(i % 2);
        memset(word, 'x', (size_t)n);
        word[n] = '\0';
        CHECK(ftruncate(fd, 0) == 0 && dup2(fd, STDERR_FILENO) >= 0 && lseek(fd, 0, SEEK_SET) == 0, "no stream");
        if (warn) log_warn("%s!", word);
        else log_note("%s!", word);
        dup2(screen, STDERR_FILENO);
        MUST(file_read(path, 1 << 20, &text, &bytes));
        const int64_t head = warn ? 16 : 0;
        CHECK(bytes == head + n + 2 && !memcmp(text, "baton: warning: ", (size_t)head) && text[bytes - 2] == '!' &&
                  text[bytes - 1] == '\n',
              "%d characters: %d bytes", n, (int)bytes);
        file_free(text);
    }
    CHECK(ftruncate(fd, 0) == 0, "no stream");
    log_quiet(1);
    log_note("silent");
    log_quiet(0);
    MUST(file_size(path, &bytes));
    CHECK(bytes == 0, "a silenced note has %d bytes", (int)bytes);
    mem_free(mem);
    unlink(path);
    return check_end();
}
