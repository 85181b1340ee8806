"""Ratios against named baselines in the same run: `make bench`.

In each group the first row is the baseline; the bracketed figures are ratios to the fastest.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gan_blocks


def critic() -> nn.Module:
    return gan_blocks.MLPDiscriminator((1, 28, 28), width=256)


def step(penalty, network):
    def run():
        real, fake = torch.randn(64, 1, 28, 28), torch.randn(64, 1, 28, 28)
        penalty(network, real, fake).backward()

    return run


def minimal_gradient_penalty(network, real, fake):
    epsilon = torch.rand(len(real), 1, 1, 1)
    x = (epsilon * real + (1 - epsilon) * fake).requires_grad_()
    (g,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    return 10 * ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()


def minimal_r1(network, real, fake):
    x = real.requires_grad_()
    (g,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    return 5 * g.square().flatten(1).sum(1).mean()


@pytest.mark.parametrize(
    "penalty",
    [minimal_gradient_penalty, gan_blocks.GradientPenalty()],
    ids=["hand-written", "GradientPenalty"],
)
@pytest.mark.benchmark(group="gradient penalty, forward and backward")
def bench_gradient_penalty(benchmark, penalty):
    benchmark(step(penalty, critic()))


@pytest.mark.parametrize(
    "penalty", [minimal_r1, gan_blocks.R1Penalty()], ids=["hand-written", "R1Penalty"]
)
@pytest.mark.benchmark(group="R1, forward and backward")
def bench_r1(benchmark, penalty):
    benchmark(step(penalty, critic()))


def clip_one_by_one(module: nn.Module) -> None:
    with torch.no_grad():
        for p in module.parameters():
            p.clamp_(-0.01, 0.01)


@pytest.mark.parametrize(
    "clip", [clip_one_by_one, gan_blocks.WeightClipper()], ids=["one by one", "WeightClipper"]
)
@pytest.mark.benchmark(group="clipping 200 small tensors")
def bench_clipping(benchmark, clip):
    module = nn.ModuleList([nn.Linear(16, 16) for _ in range(100)])
    benchmark(clip, module)


def fused_softplus(real, fake):
    softplus = nn.functional.softplus
    return softplus(-real).mean() + softplus(fake).mean()


@pytest.mark.parametrize(
    "loss",
    [fused_softplus, gan_blocks.NonSaturatingLoss().discriminator],
    ids=["hand-written", "NonSaturatingLoss"],
)
@pytest.mark.benchmark(group="non-saturating loss on 1e6 logits, forward and backward")
def bench_non_saturating_loss(benchmark, loss):
    real = torch.randn(1_000_000, requires_grad=True)
    fake = torch.randn(1_000_000, requires_grad=True)
    benchmark(lambda: loss(real, fake).backward())


SPEC = {"block": "GradientPenalty", "weight": 5.0}


@pytest.mark.parametrize(
    "make",
    [lambda: gan_blocks.GradientPenalty(weight=5.0), lambda: gan_blocks.build(SPEC)],
    ids=["constructor", "build"],
)
@pytest.mark.benchmark(group="building a block")
def bench_build(benchmark, make):
    benchmark(make)


PLUGIN = """
from torch import nn
from gan_blocks import block, hookimpl

@block
class Layer(nn.Module):
    def forward(self, x):
        return x

@hookimpl
def gan_blocks_layers():
    return [Layer]
"""


@pytest.fixture
def ten_plugins(tmp_path):
    """A folder with ten installed distributions."""
    for i in range(10):
        (tmp_path / f"plugin_{i}.py").write_text(PLUGIN)
        info = tmp_path / f"plugin_{i}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plugin-{i}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[gan_blocks]\nplugin_{i} = plugin_{i}\n")
    return tmp_path


@pytest.mark.parametrize("what", ["import torch", "gan-blocks list"])
@pytest.mark.benchmark(group="the list of blocks with ten plugins, a process each", min_rounds=5)
def bench_list(benchmark, ten_plugins, what):
    command = [sys.executable, "-c", "import torch"]
    if what != "import torch":
        command = [str(Path(sys.executable).with_name("gan-blocks")), "list"]

    def run():
        return subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": str(ten_plugins)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    out = benchmark(run)
    assert what == "import torch" or "plugin_9/Layer" in out
