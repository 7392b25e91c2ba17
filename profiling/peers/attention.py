# SPDX-License-Identifier: Apache-2.0
"""PyTorch's causal attention through cuDNN, grouped keys 32 to 8, head width 128, BF16.  Its backward adds to dq by
atomics: two runs differ in bits.

    python3 profiling/peers/attention.py [T ...]
    LEAVE=FOLDER: the tensors of the error and their F64 results, for tests/peers_cuda.c
"""
import os
import sys
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from timing import attempt, leave, median_ms, relative, say


def inputs(T, H=32, J=8, P=128):
    torch.manual_seed(T)
    shapes = (1, H, T, P), (1, J, T, P), (1, J, T, P)
    return [torch.randn(*s, device="cuda", dtype=torch.bfloat16).requires_grad_() for s in shapes]


def run(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def exact(q, k, v):
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    s = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    mask = torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).tril()
    return torch.softmax(s.masked_fill(~mask, float("-inf")), -1) @ v


def error(T=1000):
    low = inputs(T)
    high = [t.detach().double().requires_grad_() for t in low]
    o, z = run(*low), exact(*high)
    do = torch.randn_like(o)
    o.backward(do)
    z.backward(do.double())
    text = " ".join(f"d{n} {relative(a.grad, b.grad):.2e}" for n, a, b in zip("qkv", low, high))
    print(f"peer attention error, T {T}: o {relative(o, z):.2e} {text}", flush=True)
    if "LEAVE" in os.environ:
        tensors = dict(q=low[0], k=low[1], v=low[2], dout=do, o=z, dq=high[0].grad, dk=high[1].grad, dv=high[2].grad)
        rows = {name: t[0].transpose(0, 1) for name, t in tensors.items()}
        leave(os.environ["LEAVE"], (T, 32, 8, 128), rows)


def time_one(T):
    q, k, v = inputs(T)
    do = torch.randn_like(q)
    flops = 2.0 * T * T * 32 * 128
    with torch.no_grad():
        ms = median_ms(lambda: run(q, k, v))
    say("attention forward", f"T{T} H32 J8 P128", ms, f"{flops / ms / 1e9:.0f} TFLOP/s")

    def both():
        run(q, k, v).backward(do)
        q.grad = k.grad = v.grad = None

    ms = median_ms(both)
    say("attention forward + backward", f"T{T} H32 J8 P128", ms, f"{3.5 * flops / ms / 1e9:.0f} TFLOP/s")


if __name__ == "__main__":
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
        attempt("attention error", error)
        for T in [int(t) for t in sys.argv[1:]] or [8192, 32768, 131072]:
            attempt("attention", lambda: time_one(T))
