# SPDX-License-Identifier: Apache-2.0
"""What the scripts of this folder share: medians by CUDA events, and one line a measurement."""
import os
import statistics
import torch


def median_ms(f, rounds=7, warm=3):
    """Milliseconds of one call on the device: the median of `rounds` after `warm` calls."""
    for _ in range(warm):
        f()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        f()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def say(name, shape, ms, more=""):
    print(f"peer {name} {shape}: {ms:.4f} ms {more}", flush=True)


def leave(folder, sizes, tensors):
    """Tensors as files for tests/peers_cuda.c, each packed; BF16 as it is, what is F64 in F64."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "sizes"), "w") as f:
        f.write(" ".join(str(n) for n in sizes) + "\n")
    for name, t in tensors.items():
        t = t.detach().cpu().contiguous()
        (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy().tofile(os.path.join(folder, name))


def attempt(name, f):
    """A peer that cannot run here says so, and the others go on."""
    try:
        f()
    except Exception as e:  # whatever a peer raises
        print(f"peer {name}: not run: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}", flush=True)
    torch.cuda.empty_cache()


def relative(x, y):
    return ((x.double() - y.double()).norm() / y.double().norm()).item()
