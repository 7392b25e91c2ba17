# SPDX-License-Identifier: Apache-2.0
"""PyTorch's products at the sizes of Nemotron-H 8B, cross entropy behind a head, fused AdamW, a copy of memory.

    python3 profiling/peers/dense.py
"""
import torch
from timing import attempt, median_ms, say


def normal(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def copy(n=1 << 30):
    a, b = normal(n // 2), normal(n // 2)
    ms = median_ms(lambda: b.copy_(a))
    say("copy", f"{n >> 20} MiB", ms, f"{2e-6 * n / ms:.0f} GB/s read and written")


def product(name, T, I, O):
    x, w = normal(T, I), normal(O, I)
    ms = median_ms(lambda: torch.nn.functional.linear(x, w))
    say(f"linear {name}", f"T{T} I{I} O{O}", ms, f"{2e-9 * T * I * O / ms:.0f} TFLOP/s")


def head(T=16384, D=4096, V=131072):
    x, w = normal(T, D).requires_grad_(), normal(V, D).requires_grad_()
    target = torch.randint(V, (T,), device="cuda")

    def step():
        torch.nn.functional.cross_entropy(torch.nn.functional.linear(x, w), target).backward()
        x.grad = w.grad = None

    say("head + cross entropy, forward + backward", f"T{T} D{D} V{V}", median_ms(step, rounds=5))


def adamw(n=1 << 28):
    p = torch.randn(n, device="cuda", requires_grad=True)
    p.grad = torch.randn(n, device="cuda")
    ms = median_ms(torch.optim.AdamW([p], fused=True).step)
    say("adamw, F32", f"{n} elements", ms, f"{28e-6 * n / ms:.0f} GB/s")


if __name__ == "__main__":
    attempt("copy", copy)
    for name, I, O in (("in_proj", 4096, 18560), ("out_proj", 8192, 4096), ("mlp up", 4096, 21504), ("mlp down", 21504, 4096)):
        attempt("linear", lambda: product(name, 16384, I, O))
    attempt("head", head)
    attempt("adamw", adamw)
