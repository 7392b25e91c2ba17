# SPDX-License-Identifier: Apache-2.0
"""A training loop of PyTorch over the layers of configs/bench_nemotron_h_8b_slice.yaml: mamba-ssm's scan and gated norm
(Triton), FLA's convolution, attention through cuDNN, a head in chunks, fused AdamW with BF16 states, clipping.

    PEERS=FOLDER python3 profiling/peers/slice.py [SEQUENCESxTOKENS ...]   FOLDER holds mamba_ssm/ and fla/
"""
import os
import statistics
import sys
import time
import types
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from timing import attempt

peers = os.environ.get("PEERS", ".")
package = types.ModuleType("mamba_ssm")  # its own __init__ wants compiled extensions
package.__path__ = [os.path.join(peers, "mamba_ssm")]
sys.modules["mamba_ssm"] = package
sys.path.append(peers)

WIDTH, VOCAB, PATTERN = 4096, 131072, "M-M-M*M-"
HEADS, P, N, G, CONV = 128, 64, 128, 8, 4
INNER, CHANNELS = HEADS * P, HEADS * P + 2 * G * N


@torch.compile
def relu2(x):
    return F.relu(x).square()


class Mamba2(nn.Module):
    def __init__(self):
        super().__init__()
        self.into = nn.Linear(WIDTH, INNER + CHANNELS + HEADS, bias=False)
        self.conv = nn.Parameter(torch.randn(CHANNELS, CONV) * 0.3)
        self.conv_bias = nn.Parameter(torch.zeros(CHANNELS))
        self.A_log = nn.Parameter(torch.log(torch.rand(HEADS) * 15 + 1))
        self.dt_bias = nn.Parameter(torch.rand(HEADS) * 4 - 6)
        self.D = nn.Parameter(torch.ones(HEADS))
        self.norm = nn.Parameter(torch.ones(INNER))
        self.out = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, h):
        from fla.modules.conv import causal_conv1d
        from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

        z, c, dt = self.into(h).split([INNER, CHANNELS, HEADS], -1)
        c = causal_conv1d(c, self.conv, self.conv_bias, activation="silu")[0]
        x, B, C = c.split([INNER, G * N, G * N], -1)
        y = mamba_chunk_scan_combined(
            x.unflatten(-1, (HEADS, P)), dt, -torch.exp(self.A_log.float()), B.unflatten(-1, (G, N)),
            C.unflatten(-1, (G, N)), int(os.environ.get("CHUNK", 256)), D=self.D, dt_bias=self.dt_bias.float(),
            dt_softplus=True
        ).flatten(-2)
        return self.out(rmsnorm_fn(y, self.norm, None, z=z, eps=1e-5, group_size=INNER // G, norm_before_gate=False))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 48 * 128, bias=False), nn.Linear(4096, WIDTH, bias=False)

    def forward(self, h):
        q, k, v = (t.transpose(1, 2) for t in self.qkv(h).unflatten(-1, (48, 128)).split([32, 8, 8], -2))
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out(o.transpose(1, 2).flatten(-2))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 21504, bias=False), nn.Linear(21504, WIDTH, bias=False)

    def forward(self, h):
        return self.down(relu2(self.up(h)))


class Slice(nn.Module):
    def __init__(self):
        super().__init__()
        kinds = {"M": Mamba2, "*": Attention, "-": Mlp}
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList(kinds[s]() for s in PATTERN)
        self.norms = nn.ModuleList(nn.RMSNorm(WIDTH) for _ in PATTERN + "h")
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)

    def part(self, h, target):
        return F.cross_entropy(self.head(h).float(), target, reduction="sum")

    def forward(self, ids, targets):
        x = self.embedding(ids)
        for norm, layer in zip(self.norms, self.layers):
            x = x + layer(norm(x))
        h, t = self.norms[-1](x).flatten(0, 1), targets.flatten()
        parts = [checkpoint(self.part, a, b, use_reentrant=False) for a, b in zip(h.split(2048), t.split(2048))]
        return sum(parts) / t.numel()


def flops_a_token(T):
    """As ours counts: products, the scan 7 d_in N, causal attention once; three times the forward."""
    products = sum({"M": WIDTH * (INNER + CHANNELS + HEADS) + INNER * WIDTH, "*": WIDTH * 48 * 128 + 4096 * WIDTH,
                    "-": 2 * WIDTH * 21504}[s] for s in PATTERN) + WIDTH * VOCAB
    scans, attentions = PATTERN.count("M") * 7 * INNER * N, PATTERN.count("*") * 2 * T * 4096
    return 3 * (2 * products + scans + attentions)


def main(model, optimizer, sequences, T):
    ids = torch.randint(VOCAB, (sequences, T + 1), device="cuda")
    ms = []
    for _ in range(8):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        model(ids[:, :-1], ids[:, 1:]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        ms.append(1e3 * (time.perf_counter() - begin))
    step, tokens = statistics.median(ms[3:]), sequences * T
    rate = flops_a_token(T) * tokens / step * 1e-9
    print(f"peer slice {sequences} x {T}: {step:.1f} ms a step, {1e3 * tokens / step:.0f} tokens/s, {rate:.0f} TFLOP/s, "
          f"MFU {rate / 989 * 100:.1f} %, first step {ms[0] * 1e-3:.0f} s, "
          f"{torch.cuda.max_memory_allocated() >> 20} MiB", flush=True)


if __name__ == "__main__":
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Slice()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    for shape in sys.argv[1:] or ["4x8192", "1x65536"]:
        sequences, T = (int(n) for n in shape.split("x"))
        attempt(f"slice {shape}", lambda: main(model, optimizer, sequences, T))
