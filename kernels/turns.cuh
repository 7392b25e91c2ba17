/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_TURNS_CUH
#define BATON_KERNELS_TURNS_CUH
/* turns.cuh - blocks of threads that add to the same sum, each in its turn, so that two runs have the same bits.
 *
 * A turn counts who has added.  Block n adds after turn_await(turn, n) of one thread and a barrier, block 0 stores;
 * after another barrier one thread says turn_pass(turn, n + 1, true).  sum_add rounds as + does, and since nobody else
 * has the turn its order is the turns'.
 *
 * Blocks start in the order of their numbers, so a block that waits only for lower ones waits for some that run: no
 * deadlock.  A wait that is in vain all the same ends the kernel with an error after seconds. */
#include "kernels/device.cuh"

#ifndef BATON_EMULATED /* tests/emulator/device.h has these: there blocks run one after another */
static inline __device__ bool turn_came(const unsigned *turn, unsigned n) {
    unsigned now;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(turn) : "memory");
    return now == n;
}
static inline __device__ void turn_await(const unsigned *turn, unsigned n) {
    for (unsigned polls = 0; !turn_came(turn, n); polls++) {
        if (polls > 1u << 24) __trap();
        __nanosleep(64);
    }
}
/* Of the threads that come here those with `mine` say it; there is no branch, on which products under way would have
 * to be waited for. */
static inline __device__ void turn_pass(unsigned *turn, unsigned n, bool mine) {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %2, 0; @p st.release.gpu.global.u32 [%0], %1; }" ::"l"(turn), "r"(n),
                 "r"((unsigned)mine)
                 : "memory");
}
static inline __device__ void sum_store(float4 *p, float4 x) { __stcg(p, x); }
static inline __device__ void sum_add(float4 *p, float4 x) {
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(x.x), "f"(x.y), "f"(x.z),
                 "f"(x.w)
                 : "memory");
}
#endif
#endif
