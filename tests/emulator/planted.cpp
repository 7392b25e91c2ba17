// SPDX-License-Identifier: Apache-2.0
// The emulator's own test: small kernels and streams with one wait or fence left out, each in a process of its own,
// which must end with the text that the case expects; and the same without a mistake, which must be right.
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/ctx.h"
#include "kernels/bulk.cuh"
#include "kernels/wgmma.cuh"

enum { SIDE = 64, DICE = 12 };
enum mistake {
    NONE,
    NO_WAIT,
    NO_COMMIT,
    WAIT_OF_ONE_LESS,
    SUMS_BEFORE_WAIT,
    NO_END,
    NO_FENCE,
    NO_SECOND_FENCE,
    SUMS_BEHIND_FENCE,
    SUMS_UNDER_WAY,
    A_BEHIND_FENCE,
    A_UNDER_WAY,
    NO_SHARED_FENCE,
    NO_FENCE_OF_ONE,
    OPERAND_UNDER_WAY,
    OPERAND_LATE,
    NO_SEND_FENCE,
    NO_SEND_WAIT,
    NO_SEND_COMMIT,
    SENT_TOO_EARLY,
    SEND_UNDER_WAY,
    NO_STREAM_WAIT,
    NO_WAIT_BEFORE_WRITE,
    WAIT_BEFORE_RECORD,
    HOST_READS_EARLY,
    HOST_WRITES_EARLY,
    FILL_NOT_WAITED_FOR,
    ODD_PLACE,
    BEHIND_THE_END
};

static void wrong(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

// ---- products: out (64, 64) = twice a b^T, once with a in shared memory, once in registers ----

struct fragment {
    uint32_t a[SIDE / 16][4];
};

__global__ static void twice(const uint32_t *a, const uint32_t *b, float *out, enum mistake m) {
    DYNAMIC_PANELS(shared);
    bf16_bits *A = (bf16_bits *)shared, *B = A + SIDE * SIDE;
    const int lane = threadIdx.x % WARP, row = threadIdx.x / WARP * 16 + lane / 4, c = lane % 4 * 2;
    float d[SIDE / 8][4] = {};
    struct fragment f;
    for (int i = threadIdx.x; i < SIDE * SIDE / 2; i += GROUP) {
        const int r = i / (SIDE / 2), col = i % (SIDE / 2) * 2;
        cp_async4(tile_piece<64>(A, r, col) + col % 8, a + i);
        if (m != OPERAND_LATE || i >= GROUP) *(uint32_t *)(tile_piece<64>(B, r, col) + col % 8) = b[i];
    }
    cp_commit();
    cp_wait<0>();
    if (m != NO_SHARED_FENCE && (m != NO_FENCE_OF_ONE || threadIdx.x != 77)) shared_fence();
    __syncthreads();
    for (int k = 0; k < SIDE / 16; k++)
        for (int i = 0; i < 4; i++) f.a[k][i] = tile_pair<64>(A, row + i % 2 * 8, 16 * k + i / 2 * 8 + c);
    const panels at = panels_of(A), bt = panels_of(B);
    if (m != NO_FENCE) wgmma_fence();
    if (m == SUMS_BEHIND_FENCE) d[3][1] += 1.0f;
    for (int k = 0; k < SIDE; k += 16)
        wgmma_shared<SIDE, false, false>(d, rows_at(at, SIDE, 0, k), rows_at(bt, SIDE, 0, k), true);
    wgmma_commit();
    if (m == SUMS_UNDER_WAY) d[3][1] += 1.0f;
    if (m == NO_SECOND_FENCE) {
        wgmma_wait<0>();
        wgmma_settled<SIDE / 8>(d);
        d[3][1] += 1.0f;
    }
    if (m == OPERAND_LATE) *(uint32_t *)(tile_piece<64>(B, threadIdx.x / 32, lane * 2) + lane * 2 % 8) = b[threadIdx.x];
    if (m == A_BEHIND_FENCE) f.a[2][1] ^= 0x80008000;
    for (int k = 0; k < SIDE / 16; k++) wgmma_registers<SIDE, false>(d, f.a[k], rows_at(bt, SIDE, 0, 16 * k));
    if (m != NO_COMMIT) wgmma_commit();
    if (m == A_UNDER_WAY) f.a[2][1] ^= 0x80008000;
    if (m == OPERAND_UNDER_WAY) B[threadIdx.x] = 0;
    if (m == WAIT_OF_ONE_LESS) wgmma_wait<1>();
    else if (m != NO_WAIT && m != NO_END) wgmma_wait<0>();
    if (m != NO_WAIT && m != SUMS_BEFORE_WAIT && m != NO_END) wgmma_settled<SIDE / 8>(d);
    for (int j = 0; j < SIDE / 8; j++)
        for (int e = 0; e < 4; e++) out[(row + e / 2 * 8) * SIDE + 8 * j + c + e % 2] = d[j][e];
    if (m == NO_WAIT) wgmma_wait<0>();
}

static enum status launch_twice(struct ctx *c, const void *a, const void *b, float *out, enum mistake m) {
    LAUNCH_SHARED(twice, 1, GROUP, 2 * SIDE * SIDE * 2, (const uint32_t *)a, (const uint32_t *)b, out, m);
    return OK;
}

static void products(enum mistake m) {
    static bf16_bits a[SIDE * SIDE], b[SIDE * SIDE];
    static float got[SIDE * SIDE];
    struct ctx c = {};
    void *at[3];
    for (int i = 0; i < SIDE * SIDE; i++) {
        a[i] = (bf16_bits)emulated_bf16((float)(i * 7 % 13 - 6));
        b[i] = (bf16_bits)emulated_bf16((float)(i * 5 % 11 - 5));
    }
    for (int i = 0; i < 3; i++) cudaMalloc(&at[i], sizeof got);
    cudaMemcpy(at[0], a, sizeof a, cudaMemcpyDefault);
    cudaMemcpy(at[1], b, sizeof b, cudaMemcpyDefault);
    cudaMemset(at[2], 0xff, sizeof got);
    if (launch_twice(&c, at[0], at[1], (float *)at[2], m) != OK) wrong("the kernel does not start");
    cudaMemcpy(got, at[2], sizeof got, cudaMemcpyDefault);
    for (int i = 0; i < SIDE * SIDE; i++) {
        float sum = 0.0f;
        for (int k = 0; k < SIDE; k++) sum += bf16_float(a[i / SIDE * SIDE + k]) * bf16_float(b[i % SIDE * SIDE + k]);
        if (!(got[i] == 2.0f * sum)) wrong("wrong numbers");
    }
}

// ---- bulk copies: out (GROUP) = 1 + 2 = 3 times the thread's number, by two sends from the same place ----

__global__ static void send(float *out, enum mistake m) {
    DYNAMIC_PANELS(shared);
    float *from = (float *)shared;
    uint64_t *made = (uint64_t *)(from + GROUP), *taken = made + 1;
    if (threadIdx.x == 0) {
        bulk_barrier_init(made, GROUP);
        bulk_barrier_init(taken, 1);
        bulk_barriers_see();
    }
    __syncthreads();
    for (int i = 0; i < 2; i++) {
        bulk_wait(taken, i ^ 1);
        from[threadIdx.x] = (float)((i + 1) * threadIdx.x);
        if (m != NO_SEND_FENCE) shared_fence();
        bulk_arrive(made);
        if (threadIdx.x != 0) continue;
        if (m != SENT_TOO_EARLY) bulk_wait(made, i);
        if (i == 0) bulk_put(out, from, GROUP * 4);
        else bulk_add(out, from, GROUP * 4);
        if (m != NO_SEND_COMMIT) bulk_commit();
        if (m != SEND_UNDER_WAY) bulk_taken();
        bulk_arrive(taken);
        if (m != NO_SEND_WAIT && m != SEND_UNDER_WAY) bulk_done();
    }
    if (m == SEND_UNDER_WAY) bulk_done();
}

static enum status launch_send(struct ctx *c, float *out, enum mistake m) {
    LAUNCH_SHARED(send, 1, GROUP, GROUP * 4 + 16, out, m);
    return OK;
}

static void sends(enum mistake m) {
    static float got[GROUP];
    struct ctx c = {};
    void *out;
    cudaMalloc(&out, sizeof got);
    if (launch_send(&c, (float *)out, m) != OK) wrong("the kernel does not start");
    cudaMemcpy(got, out, sizeof got, cudaMemcpyDefault);
    for (int i = 0; i < GROUP; i++)
        if (!(got[i] == (float)(3 * i))) wrong("wrong numbers");
}

// ---- streams: one makes numbers, the other one works on them, and the host reads the result ----

enum { N = 1024 };

__global__ static void make(float *x, float first) { x[threadIdx.x] = first + (float)threadIdx.x; }
__global__ static void add_one(float *to, const float *from) { to[threadIdx.x] = from[threadIdx.x] + 1.0f; }

static enum status launch_make(struct ctx *c, float *x, float first) {
    LAUNCH(make, dim3(1), dim3(N), x, first);
    return OK;
}
static enum status launch_add_one(struct ctx *c, float *to, const float *from) {
    LAUNCH(add_one, dim3(1), dim3(N), to, from);
    return OK;
}

static void check(const float *x, float first) {
    for (int i = 0; i < N; i++)
        if (!(x[i] == first + (float)i)) wrong("wrong numbers");
}

static void streams(enum mistake m) {
    struct ctx c[2] = {};
    cudaEvent_t made, used;
    void *device[2], *pinned;
    for (int i = 0; i < 2; i++) {
        cudaStream_t s;
        cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
        c[i].stream = s;
        cudaMalloc(&device[i], N * sizeof(float));
    }
    cudaMallocHost(&pinned, N * sizeof(float));
    cudaEventCreate(&made);
    cudaEventCreate(&used);
    float *const x = (float *)device[0], *const y = (float *)device[1], *const host = (float *)pinned;
    for (int round = 0; round < 8; round++) {
        const float first = 10000.0f * (float)round;
        for (int i = 0; i < N; i++) host[i] = first + (float)i;
        cudaMemset(y, 0, N * sizeof(float));
        if (m != FILL_NOT_WAITED_FOR) cudaStreamSynchronize(NULL);
        cudaMemcpyAsync(x, host, N * sizeof(float), cudaMemcpyDefault, c[0].stream);
        if (m != HOST_WRITES_EARLY) cudaStreamSynchronize(c[0].stream);
        host[round] = -1.0f;
        launch_add_one(&c[0], x, x);
        if (m == WAIT_BEFORE_RECORD) cudaStreamWaitEvent(c[1].stream, made, 0);
        cudaEventRecord(made, c[0].stream);
        if (m != NO_STREAM_WAIT && m != WAIT_BEFORE_RECORD) cudaStreamWaitEvent(c[1].stream, made, 0);
        launch_add_one(&c[1], y, x);
        cudaEventRecord(used, c[1].stream);
        if (m != NO_WAIT_BEFORE_WRITE) cudaStreamWaitEvent(c[0].stream, used, 0);
        launch_make(&c[0], x, -5.0f);
        cudaMemcpyAsync(host, y, N * sizeof(float), cudaMemcpyDefault, c[1].stream);
        if (m != HOST_READS_EARLY) cudaStreamSynchronize(c[1].stream);
        check(host, first + 2.0f);
        cudaDeviceSynchronize();
    }
}

// ---- accesses of 16 bytes ----

__global__ static void add_packs(float *x, int from) {
    float4 *at = (float4 *)(x + from) + threadIdx.x;
    at->x += 1.0f, at->y += 1.0f, at->z += 1.0f, at->w += 1.0f;
}
static enum status launch_packs(struct ctx *c, float *x, int from) {
    LAUNCH(add_packs, dim3(1), dim3(N / 4 - 1), x, from);
    return OK;
}

static void packs(enum mistake m) {
    struct ctx c = {};
    void *device, *pinned;
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    c.stream = s;
    cudaMalloc(&device, (N + 8) * sizeof(float)); // ends within a page, were it not put at that page's end
    cudaMallocHost(&pinned, N * sizeof(float));
    launch_make(&c, (float *)device, 0.0f);
    launch_packs(&c, (float *)device, m == ODD_PLACE ? 1 : m == BEHIND_THE_END ? 16 : 0);
    cudaMemcpyAsync(pinned, device, N * sizeof(float), cudaMemcpyDefault, c.stream);
    cudaStreamSynchronize(c.stream);
    const float *x = (const float *)pinned;
    for (int i = 0; i < N; i++)
        if (!(x[i] == (float)i + (i < N - 4 ? 1.0f : 0.0f))) wrong("wrong numbers");
}

// ---- a process for each ----

struct planted {
    const char *why;
    void (*run)(enum mistake);
    enum mistake mistake;
    const char *text; // what it must say; NULL: nothing, it is right
    int least;        // with so many of DICE dice
};
static const char under_way[] = "sums are taken before the wait";
static const struct planted list[] = {
    {"products as they should be", products, NONE, NULL, DICE},
    {"sums are read before the wait", products, NO_WAIT, "wrong numbers", DICE},
    {"a batch that nobody commits is not waited for", products, NO_COMMIT, under_way, DICE},
    {"a wait for all but one batch", products, WAIT_OF_ONE_LESS, under_way, DICE},
    {"the compiler may read sums before a wait that does not name them", products, SUMS_BEFORE_WAIT, "wrong numbers",
     DICE},
    {"a kernel ends without waiting", products, NO_END, "a thread ends while", DICE},
    {"no fence before the first product", products, NO_FENCE, "no wgmma_fence", DICE},
    {"sums were touched after a wait", products, NO_SECOND_FENCE, "no wgmma_fence", DICE},
    {"sums are written after the fence", products, SUMS_BEHIND_FENCE, "behind wgmma_fence", DICE},
    {"sums are written between products", products, SUMS_UNDER_WAY, "sums are written while", DICE},
    {"A is written after the fence", products, A_BEHIND_FENCE, "A are written behind wgmma_fence", DICE},
    {"A is written before the wait", products, A_UNDER_WAY, "registers of A change while", DICE},
    {"stores and copies without a fence", products, NO_SHARED_FENCE, "no shared_fence", DICE},
    {"one thread's copies without a fence", products, NO_FENCE_OF_ONE, "no shared_fence", DICE},
    {"an operand is overwritten before the wait", products, OPERAND_UNDER_WAY, "shared memory", DICE},
    {"an operand is written after the product began", products, OPERAND_LATE, "shared memory", DICE},
    {"bulk copies as they should be", sends, NONE, NULL, DICE},
    {"a bulk copy of stores without a fence", sends, NO_SEND_FENCE, "no shared_fence", DICE},
    {"a bulk copy that nobody waits for", sends, NO_SEND_WAIT, "a thread ends while what it sends", DICE},
    {"a bulk copy that nobody commits is not waited for", sends, NO_SEND_COMMIT, "a thread ends while", DICE},
    {"a bulk copy before all threads have written", sends, SENT_TOO_EARLY, "no shared_fence", DICE - 1},
    {"a bulk copy's source is overwritten", sends, SEND_UNDER_WAY, "while a bulk copy sends it", DICE - 1},
    {"streams as they should be", streams, NONE, NULL, DICE},
    {"a stream reads before the other one has written", streams, NO_STREAM_WAIT, "wrong numbers", 2},
    {"a stream overwrites what the other one reads", streams, NO_WAIT_BEFORE_WRITE, "wrong numbers", 2},
    {"a wait for an event before its record", streams, WAIT_BEFORE_RECORD, "wrong numbers", 2},
    {"the host reads before the copy is there", streams, HOST_READS_EARLY, "wrong numbers", 2},
    {"the host overwrites what is still to be copied", streams, HOST_WRITES_EARLY, "memory of the host stays", DICE},
    {"a fill on the stream NULL, for which no other one waits", streams, FILL_NOT_WAITED_FOR, "wrong numbers", 2},
    {"16 bytes at a multiple of 16", packs, NONE, NULL, DICE},
    {"16 bytes at an odd place", packs, ODD_PLACE, "misaligned address", DICE},
    {"16 bytes behind the end of what was allocated", packs, BEHIND_THE_END, "ended by signal 11", DICE},
};

// What the process says; whether it ended well.
static bool in_process(const struct planted *p, int dice, char *said, size_t room) {
    int ends[2], status = 0;
    if (pipe(ends) != 0) exit(1);
    const pid_t child = fork();
    if (child == 0) {
        char text[16];
        snprintf(text, sizeof text, "%d", dice);
        setenv("EMULATED_DICE", text, 1);
        dup2(ends[1], 2);
        p->run(p->mistake);
        exit(0);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; (got = read(ends[0], said + n, room - 1 - n)) > 0;) n += (size_t)got;
    said[n] = '\0';
    close(ends[0]);
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) snprintf(said + n, room - n, "ended by signal %d", WTERMSIG(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main() {
    int failures = 0;
    for (const struct planted &p : list) {
        char said[1000] = "", last[1000] = "";
        int n = 0;
        for (int dice = 0; dice < DICE; dice++) {
            const bool good = in_process(&p, dice, said, sizeof said);
            if (p.text ? !good && strstr(said, p.text) : good) n++;
            else strcpy(last, said);
        }
        if (n >= p.least) continue;
        fprintf(stderr, "%s: with %d of %d dice, of at least %d; otherwise: %s\n", p.why, n, DICE, p.least, last);
        failures++;
    }
    return failures > 0;
}
