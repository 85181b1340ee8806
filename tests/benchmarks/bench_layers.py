"""Layers beside the code that people write by hand, forward and backward: `make bench`.

In each group the bracketed figures are ratios to the fastest. Minibatch discrimination at batch 256,
1024 features and 100 kernels of 5 takes N^2 B C = 33 million absolute differences, and as many signs
in the backward pass; "limit" does four passes of one operation each over half as many numbers, in
pieces that fit the cache, beside the same matrix products. "extra_info" of the saved results
(`--benchmark-json`) has the memory that a run needs beyond its inputs and outputs, in MiB.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gan_blocks import EMA, MinibatchDiscrimination, VirtualBatchNorm, WithReference

FEATURES, KERNELS, DIM = 1024, 100, 5


def per_sample_loop(m):
    rows = []
    for i in range(len(m)):
        e = torch.exp(-(m - m[i]).abs().sum(2))
        rows.append(e.sum(0) - e[i])
    return torch.stack(rows)


def broadcast(m):
    return torch.exp(-(m[:, None] - m[None]).abs().sum(3)).sum(1) - 1


def limit(m):
    """Half of the pairs, two passes forward and two backward."""
    piece = torch.empty(2**17)
    for _ in range(m.numel() * len(m) // 2 // 2**17):
        for _ in range(4):
            piece.neg_()
    return m.sum(2)


def by_hand(layer, similarities):
    def forward(x):
        return torch.cat([x, similarities(layer._projections(x))], 1)

    return forward


def discriminations():
    layer = MinibatchDiscrimination(FEATURES, KERNELS, DIM)
    return {
        "per-sample loop": by_hand(layer, per_sample_loop),
        "broadcast": by_hand(layer, broadcast),
        "limit": by_hand(layer, limit),
        "ours": layer,
    }


def forward_and_backward(function, x):
    function(x).square().sum().backward()


def peak_memory(name, batch):
    """MiB that one run adds to the most that a process of its own has used."""
    command = [sys.executable, __file__, name, str(batch)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def most_used():
    """MiB, on Linux; `getrusage` would count the parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def print_peak_memory(name, batch):
    torch.set_num_threads(1)
    function, x = discriminations()[name], torch.randn(batch, FEATURES, requires_grad=True)
    forward_and_backward(function, x[:2])
    before = most_used()
    forward_and_backward(function, x)
    print(most_used() - before)


@pytest.mark.benchmark(group="minibatch discrimination, batch 256")
@pytest.mark.parametrize("name", ["per-sample loop", "broadcast", "limit", "ours"])
def bench_minibatch_discrimination(benchmark, name):
    memory = peak_memory(name, 256)
    benchmark.extra_info["memory_mib"] = memory
    print(f"{name}: {memory:.0f} MiB at batch 256")
    function, x = discriminations()[name], torch.randn(256, FEATURES, requires_grad=True)
    benchmark.pedantic(forward_and_backward, (function, x), rounds=10, warmup_rounds=2)


@pytest.mark.benchmark(group="minibatch discrimination, batch 1024")
def bench_minibatch_discrimination_of_a_large_batch(benchmark):
    memory = peak_memory("ours", 1024)
    benchmark.extra_info["memory_mib"] = memory
    print(f"ours: {memory:.0f} MiB at batch 1024")
    layer, x = discriminations()["ours"], torch.randn(1024, FEATURES, requires_grad=True)
    benchmark.pedantic(forward_and_backward, (layer, x), rounds=3, warmup_rounds=1)


def convolutions(norm):
    layers = []
    for before, after in ((1, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), norm(after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256 * 16, 1))


@pytest.mark.benchmark(group="virtual batch norm, batch 64, reference 64, 32 pixels")
@pytest.mark.parametrize("name", ["batch norm on both", "ours"])
def bench_virtual_batch_norm(benchmark, name):
    reference, x = torch.randn(64, 1, 32, 32), torch.randn(64, 1, 32, 32)
    if name == "ours":
        function = WithReference(convolutions(VirtualBatchNorm), reference)
    else:
        network = convolutions(nn.BatchNorm2d)

        def function(x):
            return network(torch.cat([reference, x]))[64:]

    benchmark.pedantic(forward_and_backward, (function, x), rounds=15, warmup_rounds=2)


class Many(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(64)) for _ in range(200))


@pytest.mark.benchmark(group="moving average of 200 tensors of 64")
@pytest.mark.parametrize(
    "name", ["per-parameter loop", "lerp loop", "torch's AveragedModel", "ours"]
)
def bench_moving_average(benchmark, name):
    model, average = Many(), Many()
    ema = EMA(model)
    swa = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
    )

    @torch.no_grad()
    def loop():
        for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
            ours.mul_(0.999).add_(theirs, alpha=0.001)

    @torch.no_grad()
    def lerp_loop():
        for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
            ours.lerp_(theirs, 0.001)

    functions = {
        "per-parameter loop": loop,
        "lerp loop": lerp_loop,
        "torch's AveragedModel": lambda: swa.update_parameters(model),
        "ours": lambda: ema.update(model, samples=64),
    }
    benchmark.pedantic(functions[name], rounds=200, warmup_rounds=5)


if __name__ == "__main__":
    print_peak_memory(sys.argv[1], int(sys.argv[2]))
