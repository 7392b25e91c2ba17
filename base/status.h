/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_BASE_STATUS_H
#define BATON_BASE_STATUS_H
/* status.h - the contract of failure.
 *
 * A function that can fail returns enum status and nothing else; results leave through out-pointers.  The first
 * failure is recorded, per thread, with its place and a text that says what to do; every TRY it passes adds a
 * frame.  Only launch/ prints the record and ends the job.  A bug is not a failure: ASSERT, on in release. */

#ifdef __cplusplus
extern "C" {
#endif

enum status {
    OK = 0,
    ERR_ARG,     /* a shape, type, space or option disagrees                 */
    ERR_CONFIG,  /* the user's configuration or command line (exit code 2)   */
    ERR_DATA,    /* a file's content is not what its format promises         */
    ERR_IO,      /* the operating system refused                             */
    ERR_OOM,     /* memory, or an arena planned too small                    */
    ERR_MISSING, /* something optional here does not exist                   */
    ERR_CUDA,
    ERR_COMM,    /* a rank or link was lost (exit code 4)                    */
    ERR_TIMEOUT, /* a deadline passed (exit code 4)                          */
    ERR_STOPPED, /* a signal asked to stop (exit code 3)                     */
};

/* Record a failure (printf text: what is wrong, where, and what to do) and return st.  A record that is already
 * there for this thread is replaced: call status_fail only where the failure begins. */
enum status status_fail(enum status st, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Add a frame to the record and return st. */
enum status status_pass(enum status st, const char *file, int line);
/* The text of this thread's record ("" if none), and the places it passed. */
const char *status_text(void);
const char *status_trace(void);
const char *status_name(enum status st);
void status_clear(void);

void status_assert(const char *cond, const char *file, int line) __attribute__((noreturn));

#define FAIL(st_, ...) return status_fail((st_), __FILE__, __LINE__, __VA_ARGS__)
#define FAIL_UNLESS(cond, st_, ...)                                                                                    \
    do {                                                                                                               \
        if (!(cond)) return status_fail((st_), __FILE__, __LINE__, __VA_ARGS__);                                       \
    } while (0)
/* In a function that owns something: local `enum status st = OK;` and a label `out:`. */
#define FAIL_OUT(st_, ...)                                                                                             \
    do {                                                                                                               \
        st = status_fail((st_), __FILE__, __LINE__, __VA_ARGS__);                                                      \
        goto out;                                                                                                      \
    } while (0)
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        enum status s_ = (call);                                                                                       \
        if (s_ != OK) return status_pass(s_, __FILE__, __LINE__);                                                      \
    } while (0)
#define TRY_OUT(call)                                                                                                  \
    do {                                                                                                               \
        if ((st = (call)) != OK) {                                                                                     \
            status_pass(st, __FILE__, __LINE__);                                                                       \
            goto out;                                                                                                  \
        }                                                                                                              \
    } while (0)
#define ASSERT(cond) ((cond) ? (void)0 : status_assert(#cond, __FILE__, __LINE__))

#ifdef __cplusplus
}
#endif
#endif
