"""Constraints beside the code that people write by hand: `make bench`.

The clipper's aim is a quarter of a per-parameter loop on 200 small tensors. "limit" is the two foreach
operations alone, without looking for the parameters; on a CPU each runs one kernel after the other, so
that it is the cost of 400 small kernels. The spectral norms are forward and backward passes of a
critic in training; its plain form is the baseline.
"""
# pyright: reportPrivateImportUsage=false

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from gan_blocks import Orthogonal, SpectralNorm, WeightClipper


class Many(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(64)) for _ in range(200))


MODULES = {
    "a list of 200 tensors of 64": Many,
    "100 linear layers of 8": lambda: nn.Sequential(*[nn.Linear(8, 8) for _ in range(100)]),
}


@pytest.mark.parametrize("name", ["per-parameter loop", "limit", "ours", "ours, by name"])
@pytest.mark.parametrize("what", MODULES)
def bench_clipping(benchmark, what, name):
    benchmark.group = f"clipping {what}"
    critic = MODULES[what]()
    parameters = list(critic.parameters())

    def loop():
        for p in critic.parameters():
            p.data.clamp_(-0.01, 0.01)

    @torch.no_grad()
    def limit():
        torch._foreach_clamp_min_(parameters, -0.01)
        torch._foreach_clamp_max_(parameters, 0.01)

    clip, clip_by_name = WeightClipper(0.01), WeightClipper(0.01, include=("*weight*",))
    functions = {
        "per-parameter loop": loop,
        "limit": limit,
        "ours": lambda: clip(critic),
        "ours, by name": lambda: clip_by_name(critic),
    }
    benchmark.pedantic(functions[name], rounds=300, warmup_rounds=10)


def critic_of_images():
    layers = []
    for before, after in ((3, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256 * 16, 1))


def torchs(critic):
    for layer in critic:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            parametrizations.spectral_norm(layer)


@pytest.mark.benchmark(group="spectral norm, batch 64, 32 pixels")
@pytest.mark.parametrize("name", ["plain", "torch's", "ours", "ours, of the convolutions"])
def bench_spectral_norm(benchmark, name):
    critic, x = critic_of_images(), torch.randn(64, 3, 32, 32)
    constraints = {
        "plain": lambda critic: None,
        "torch's": torchs,
        "ours": SpectralNorm(),
        "ours, of the convolutions": SpectralNorm(input_shape=(3, 32, 32)),
    }
    constraints[name](critic)
    benchmark.pedantic(lambda: critic(x).sum().backward(), rounds=10, warmup_rounds=2)


@pytest.mark.benchmark(group="orthogonal weights of a critic for 32 pixels")
@pytest.mark.parametrize("name", ["decompositions alone", "ours"])
def bench_orthogonal(benchmark, name):
    critic = critic_of_images()
    weights = [copy.deepcopy(p.detach()).flatten(1) for p in critic.parameters() if p.dim() > 1]
    constraint = Orthogonal()

    def decompositions():
        for w in weights:
            torch.linalg.svd(w, full_matrices=False)

    functions = {"decompositions alone": decompositions, "ours": lambda: constraint(critic)}
    benchmark.pedantic(functions[name], rounds=5, warmup_rounds=1)
