# SPDX-License-Identifier: Apache-2.0
"""The chunked SSD scan of mamba-ssm (Triton): time forward and forward + backward, and its error.

    PEERS=FOLDER CHUNKS="128 256" SHAPE=H,P,N,G python3 profiling/peers/ssd.py [T ...]
    PEERS: a folder with mamba_ssm/ of its source tree.  With SHAPE that shape is timed, otherwise 128,64,128,8, and then
    the error is measured.
    LEAVE=FOLDER: the tensors of the error and their F64 results, for tests/peers_cuda.c
"""
import os
import sys
import types
import torch
import torch.nn.functional as F
from timing import attempt, leave, median_ms, relative, say

package = types.ModuleType("mamba_ssm")  # its own __init__ wants compiled extensions
package.__path__ = [os.path.join(os.environ.get("PEERS", "."), "mamba_ssm")]
sys.modules["mamba_ssm"] = package


def inputs(T, H, P, N, G, dtype):
    torch.manual_seed(T + H)

    def normal(*shape):
        return torch.randn(*shape, device="cuda").to(torch.bfloat16).to(dtype)

    return {
        "x": normal(1, T, H, P),
        "dt": normal(1, T, H),
        "A": -torch.exp(torch.rand(H, device="cuda") * 3 - 1).to(torch.float64 if dtype == torch.float64 else torch.float32),
        "B": normal(1, T, G, N),
        "C": normal(1, T, G, N),
        "D": torch.randn(H, device="cuda", dtype=torch.float64 if dtype == torch.float64 else torch.float32),
        "dt_bias": (torch.rand(H, device="cuda") * 5 - 5).to(torch.float64 if dtype == torch.float64 else torch.float32),
    }


def peer(a, Q):
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined(
        a["x"], a["dt"], a["A"], a["B"], a["C"], Q, D=a["D"], dt_bias=a["dt_bias"], dt_softplus=True
    )


def token_by_token(a):
    """The recurrence in F64: the meaning."""
    T, H = a["x"].shape[1:3]
    per_group = H // a["B"].shape[2]
    dt = F.softplus(a["dt"][0] + a["dt_bias"])
    S, y = 0.0, []
    for t in range(T):
        B, C = (a[k][0, t].repeat_interleave(per_group, 0) for k in "BC")
        S = torch.exp(dt[t] * a["A"])[:, None, None] * S + (dt[t][:, None] * a["x"][0, t])[:, :, None] * B[:, None, :]
        y.append((S * C[:, None, :]).sum(-1) + a["D"][:, None] * a["x"][0, t])
    return torch.stack(y)[None]


def error(H, P, N, G, Q, T=1000):
    names = ["x", "dt", "A", "B", "C", "D", "dt_bias"]
    low, high = inputs(T, H, P, N, G, torch.bfloat16), inputs(T, H, P, N, G, torch.float64)
    for k in names:
        high[k] = low[k].double()
    for a in (low, high):
        for k in names:
            a[k].requires_grad_()
    y, z = peer(low, Q), token_by_token(high)
    dy = torch.randn_like(y)
    y.backward(dy)
    z.backward(dy.double())
    text = " ".join(f"d{k} {relative(low[k].grad, high[k].grad):.2e}" for k in names)
    print(f"peer ssd error, T {T} H{H} P{P} N{N} G{G} Q{Q}: y {relative(y, z):.2e} {text}", flush=True)
    if "LEAVE" in os.environ:
        given = {k: low[k] for k in ("x", "dt", "B", "C", "D", "dt_bias")}
        want = {f"d{k}": high[k].grad for k in ("x", "dt", "B", "C", "D", "dt_bias")}
        want["dA_log"] = high["A"].grad * high["A"]
        given["A_log"] = torch.log(-low["A"])
        leave(os.environ["LEAVE"], (T, H, P, N, G, Q), {**given, **want, "dy": dy, "y": z})


def time_one(T, H, P, N, G, Q):
    a = inputs(T, H, P, N, G, torch.bfloat16)
    dy = torch.randn(1, T, H, P, device="cuda", dtype=torch.bfloat16)
    shape = f"T{T} H{H} P{P} N{N} G{G} Q{Q}"
    with torch.no_grad():
        ms = median_ms(lambda: peer(a, Q))
    say("ssd forward", shape, ms, f"{1e6 * ms / T:.1f} ns/token")
    for k in a:
        a[k].requires_grad_()

    def both():
        peer(a, Q).backward(dy)
        for k in a:
            a[k].grad = None

    ms = median_ms(both)
    say("ssd forward + backward", shape, ms, f"{1e6 * ms / T:.1f} ns/token")


if __name__ == "__main__":
    lengths = [int(t) for t in sys.argv[1:]] or [8192, 65536]
    shape = [int(n) for n in os.environ.get("SHAPE", "128,64,128,8").split(",")]
    for T in lengths:
        for Q in [int(q) for q in os.environ.get("CHUNKS", "128 256").split()]:
            attempt("ssd", lambda: time_one(T, *shape, Q))
    if "SHAPE" not in os.environ:
        attempt("ssd error", lambda: error(32, 64, 128, 8, 128))
