"""What users compile: one block of each kind by the default backend, and critics with their penalty."""
# What lies in a module is typed as any tensor or module, and tables of arguments are unpacked.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOptionalMemberAccess=false

import copy
import shutil

import pytest
import torch
from torch import nn

import gan_blocks as gb

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")),
    reason="torch's default backend needs a C++ compiler",
)


def penalised_critic():
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), gb.SelfAttention2d(8), gb.MinibatchStdDev()]
    layers += [nn.Flatten(), nn.Linear(9 * 36, 16), nn.Tanh(), gb.MinibatchDiscrimination(16, 4)]
    critic = nn.Sequential(*layers, nn.Linear(20, 1), nn.Flatten(0))
    nn.init.ones_(critic[2].gamma)
    return critic


def r1_by_autograd(critic, x):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean() / 2


def r1_by_transform(critic, x):
    gradient = torch.func.grad(lambda x: critic(x).sum())(x)
    return gradient.square().sum((1, 2, 3)).mean() / 2


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=needs_compiler)])
def test_a_compiled_penalty_is_the_eager_one_with_its_gradient(backend):
    torch.manual_seed(0)
    torch.compiler.reset()
    critic, x = penalised_critic(), torch.randn(6, 1, 6, 6)
    compiled = torch.compile(r1_by_transform, fullgraph=True, backend=backend)
    losses, gradients = [], []
    for function in (r1_by_autograd, r1_by_transform, compiled):
        loss = function(critic, x)
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, list(critic.parameters()), allow_unused=True))
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        torch.testing.assert_close(loss, losses[0])
        for a, b in zip(gradient, gradients[0], strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


KINDS = {
    "layer": (gb.MinibatchDiscrimination(6, 4), (torch.randn(5, 6),)),
    "network": (gb.R3GANDiscriminator(8, 1, (8, 8), 1, group_width=4), (torch.randn(3, 1, 8, 8),)),
    "auxiliary": (gb.FeatureMatchingLoss(), (torch.randn(4, 3), torch.randn(5, 3))),
    "loss": (gb.RelativisticAverageLoss().discriminator, (torch.randn(4), torch.randn(5))),
    "divergence": (gb.Jeffrey().conjugate, (torch.randn(6),)),
}


@needs_compiler
@pytest.mark.parametrize(("block", "inputs"), KINDS.values(), ids=KINDS)
def test_one_block_of_each_kind_compiles_with_the_default_backend(block, inputs):
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True)
    results = []
    for function in (block, compiled):
        given = [x.clone().requires_grad_() for x in inputs]
        result = function(*given)
        gradients = torch.autograd.grad(result.sum(), given, allow_unused=True)
        results.append([result, *(g for g in gradients if g is not None)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_noise_that_is_lowered_compiles_once():
    torch.compiler.reset()
    noise, counts = gb.GaussianNoise(1.0, anneal_steps=10), []

    def backend(graph, example_inputs):
        counts.append(1)
        return graph.forward

    compiled = torch.compile(noise, fullgraph=True, backend=backend)
    stds = []
    for _ in range(3):
        stds.append(compiled(torch.zeros(10_000)).std().item())
        noise.step()
    assert len(counts) == 1
    assert stds == pytest.approx([1.0, 0.9, 0.8], rel=0.05)


def test_networks_of_an_extractor_and_of_a_reference_compile_to_one_graph():
    torch.compiler.reset()
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), gb.VirtualBatchNorm(4))
    critic, x = gb.WithReference(network, torch.randn(6, 3)), torch.randn(5, 3)
    features = gb.FeatureExtractor(critic, ["network.0", ""])
    for function in (critic, features):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        norm = copy.deepcopy(network[1])
        expected = function(x)
        moved, network[1].running_mean = network[1].running_mean, norm.running_mean
        torch.testing.assert_close(compiled(x), expected)
        torch.testing.assert_close(network[1].running_mean, moved)
        assert network[1].track_running_stats


def test_compiled_extractor_gives_an_output_that_the_network_overwrites():
    torch.compiler.reset()

    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.second(nn.functional.relu_(self.first(x)))

    network, x = Overwriting(), torch.randn(5, 3)
    compiled = torch.compile(
        gb.FeatureExtractor(network, ["first", ""]), fullgraph=True, backend="aot_eager"
    )
    features = compiled(x)
    torch.testing.assert_close(features["first"], network.first(x))
    torch.testing.assert_close(features[""], network(x))
