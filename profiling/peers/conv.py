# SPDX-License-Identifier: Apache-2.0
"""FLA's causal convolution of four taps with SiLU (Triton, BF16): forward, and forward + backward less forward.

    PEERS=FOLDER python3 profiling/peers/conv.py [T ...]     FOLDER holds fla/ of its source tree
"""
import os
import sys
import torch
from timing import attempt, median_ms, say

sys.path.append(os.environ.get("PEERS", "."))


def time_one(T, C=10240, taps=4):
    from fla.modules.conv import causal_conv1d

    torch.manual_seed(T)
    x, dy = (torch.randn(1, T, C, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    w = torch.randn(C, taps, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(C, device="cuda", dtype=torch.bfloat16)
    given = [t.requires_grad_() for t in (x, w, b)]

    def forward():
        return causal_conv1d(x, w, b, activation="silu")[0]

    def both():
        forward().backward(dy)
        for t in given:
            t.grad = None

    with torch.no_grad():
        one = median_ms(forward)
    two = median_ms(both)
    shape = f"T{T} C{C} taps {taps}"
    say("conv1d forward", shape, one, f"{4e-6 * T * C / one:.0f} GB/s read and written")
    say("conv1d backward", shape, two - one, f"{6e-6 * T * C / (two - one):.0f} GB/s")


if __name__ == "__main__":
    for T in [int(t) for t in sys.argv[1:]] or [16384]:
        attempt("conv1d", lambda: time_one(T))
