# SPDX-License-Identifier: Apache-2.0
"""The selective scan of mamba-ssm (CUDA, BF16, real A): time forward and forward + backward, and its error.

    PEERS=FOLDER python3 profiling/peers/selective.py [T ...]     FOLDER holds its extension selective_scan_cuda
"""
import os
import sys
import torch
import torch.nn.functional as F
from timing import attempt, median_ms, relative, say

sys.path.insert(0, os.environ.get("PEERS", "."))


def inputs(T, D, N):
    torch.manual_seed(T + D)

    def normal(*shape):
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    return [
        normal(1, D, T),  # x
        normal(1, D, T),  # dt
        -torch.exp(torch.rand(D, N, device="cuda") * 2.8),  # A
        normal(1, 1, N, T),  # B
        normal(1, 1, N, T),  # C
        torch.randn(D, device="cuda"),  # D
        normal(1, D, T),  # z
        torch.rand(D, device="cuda") * 3 - 5,  # dt_bias
    ]


def peer_forward(a):
    import selective_scan_cuda

    return selective_scan_cuda.fwd(*a, True)


def peer_backward(a, kept, dout):
    import selective_scan_cuda

    out, x, _ = kept
    return selective_scan_cuda.bwd(*a, dout, x, out, None, True, False)


def token_by_token(x, dt, A, B, C, D, z, dt_bias):
    """The recurrence: the meaning."""
    dts = F.softplus(dt[0] + dt_bias[:, None])
    h, y = 0.0, []
    for t in range(x.shape[2]):
        h = torch.exp(dts[:, t, None] * A) * h + (dts[:, t] * x[0, :, t])[:, None] * B[0, 0, :, t]
        y.append((h * C[0, 0, :, t]).sum(-1) + D * x[0, :, t])
    return torch.stack(y, -1)[None] * F.silu(z)


def error(D, N, T=256):
    names = "x dt A B C D z dt_bias".split()
    low = inputs(T, D, N)
    high = [k.double().requires_grad_() for k in low]
    kept, out = peer_forward(low), token_by_token(*high)
    dout = torch.randn_like(kept[2])
    out.backward(dout.double())
    dx, ddt, dA, dB, dC, dD, dbias, dz = peer_backward(low, kept, dout)
    grads = [dx, ddt, dA, dB, dC, dD, dz, dbias]
    text = " ".join(f"d{n} {relative(g, h.grad):.2e}" for n, g, h in zip(names, grads, high))
    print(f"peer selective scan error, T {T} D{D} N{N}: out {relative(kept[2], out):.2e} {text}", flush=True)


def time_one(T, D, N):
    a = inputs(T, D, N)
    dout = torch.randn(1, D, T, device="cuda", dtype=torch.bfloat16)
    shape = f"T{T} D{D} N{N}"
    ms = median_ms(lambda: peer_forward(a))
    say("selective scan forward", shape, ms, f"{1e6 * ms / T:.1f} ns/token")
    ms = median_ms(lambda: peer_backward(a, peer_forward(a), dout))
    say("selective scan forward + backward", shape, ms, f"{1e6 * ms / T:.1f} ns/token")


if __name__ == "__main__":
    for T in [int(t) for t in sys.argv[1:]] or [8192, 65536]:
        attempt("selective scan", lambda: time_one(T, 8192, 16))
    attempt("selective scan error", lambda: error(256, 16))
