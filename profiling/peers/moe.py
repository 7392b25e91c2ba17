# SPDX-License-Identifier: Apache-2.0
"""torch's grouped matmul in BF16 (torch._grouped_mm): the products of a layer of experts, rows grouped by expert.

    python3 profiling/peers/moe.py [T D WIDTH EXPERTS TOP_K]     default 32768 4096 1024 64 8
"""
import sys
import torch
from timing import attempt, median_ms, say


def offsets(T, E, k):
    torch.manual_seed(1)
    ids = torch.rand(T, E, device="cuda").topk(k).indices
    return torch.bincount(ids.flatten(), minlength=E).cumsum(0).to(torch.int32)


def main():
    T, D, F, E, k = (int(x) for x in sys.argv[1:6]) if len(sys.argv) > 5 else (32768, 4096, 1024, 64, 8)
    N, ends = T * k, offsets(T, E, k)

    def normal(*shape):
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    x, h, dh, dy = normal(N, D), normal(N, F), normal(N, F), normal(N, D)
    up, down = normal(E, F, D), normal(E, D, F)
    products = {
        "up y": lambda: torch._grouped_mm(x, up.transpose(1, 2), offs=ends),
        "up dx": lambda: torch._grouped_mm(dh, up, offs=ends),
        "up dw": lambda: torch._grouped_mm(dh.t(), x, offs=ends),
        "down y": lambda: torch._grouped_mm(h, down.transpose(1, 2), offs=ends),
        "down dx": lambda: torch._grouped_mm(dy, down, offs=ends),
        "down dw": lambda: torch._grouped_mm(dy.t(), h, offs=ends),
    }
    shape, total = f"T{T} D{D} F{F} E{E} k{k}", []

    def measure(name):
        ms = median_ms(products[name])
        total.append(ms)
        say(f"grouped_mm {name}", shape, ms, f"{2e-9 * N * D * F / ms:.0f} TFLOP/s")

    for name in products:
        attempt(name, lambda: measure(name))
    say(f"grouped_mm, {len(total)} products", shape, sum(total), f"{2e-9 * len(total) * N * D * F / sum(total):.0f} TFLOP/s")


main()
