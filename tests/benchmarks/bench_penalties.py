"""Penalties beside the few lines that people write by hand, forward and backward: `make bench`.

The aim is 1.05 times the hand-written form, in time and in memory, and 1.02 where the loss has
computed the logits. In each group the bracketed figures are ratios to the fastest. "limit" is the
forward and backward pass of the loss alone; a penalty differentiates twice, so it costs more.
"extra_info" of the saved results (`--benchmark-json`) has the memory that a run needs beyond its
inputs, in MiB.
"""

import subprocess
import sys

import pytest
import torch
from bench_layers import most_used
from torch import nn

from gan_blocks import GradientPenalty, HingeLoss, R1Penalty

SIZES = {"images": (64, 3, 32, 32), "points": (128, 2)}
loss, r1, gradient_penalty = HingeLoss().discriminator, R1Penalty(10.0), GradientPenalty(10.0)


def critic_of(what):
    torch.manual_seed(0)
    if what == "points":
        hidden = (nn.Linear(2, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh())
        return nn.Sequential(*hidden, nn.Linear(128, 1))
    layers = []
    for before, after in ((3, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256 * 16, 1))


def r1_by_hand(critic, real):
    x = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return 5 * gradient.flatten(1).square().sum(1).mean()


def gradient_penalty_by_hand(critic, real, fake):
    epsilon = torch.rand(len(real), *[1] * (real.dim() - 1))
    x = (epsilon * real + (1 - epsilon) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return 10 * (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def shared_forward_by_hand(critic, real, fake):
    x = real.detach().requires_grad_()
    logits = critic(x)
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return loss(logits, critic(fake)) + 5 * gradient.flatten(1).square().sum(1).mean()


def shared_forward(critic, real, fake):
    x = real.detach().requires_grad_()
    logits = critic(x)
    return loss(logits, critic(fake)) + r1.from_logits(logits, x)


def loss_alone(critic, real, fake):
    return loss(critic(real), critic(fake))


STEPS = {
    "R1, by hand": lambda critic, real, fake: r1_by_hand(critic, real),
    "R1, ours": lambda critic, real, fake: r1(critic, real),
    "WGAN-GP, by hand": gradient_penalty_by_hand,
    "WGAN-GP, ours": gradient_penalty,
    "loss and R1 by one forward, by hand": shared_forward_by_hand,
    "loss and R1 by one forward, ours": shared_forward,
    "loss alone": loss_alone,
}
GROUPS = {"R1": "R1,", "WGAN-GP": "WGAN-GP,", "loss and R1": "loss"}


def run(name, critic, real, fake):
    STEPS[name](critic, real, fake).backward()


def peak_memory(name):
    """MiB that one run adds to the most that a process of its own has used."""
    command = [sys.executable, __file__, name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak_memory(name):
    torch.set_num_threads(1)
    critic, (real, fake) = critic_of("images"), torch.randn(2, *SIZES["images"])
    run(name, critic, real[:2], fake[:2])
    before = most_used()
    run(name, critic, real, fake)
    print(most_used() - before)


@pytest.mark.parametrize("what", SIZES)
@pytest.mark.parametrize("name", STEPS)
def bench_penalty(benchmark, name, what):
    benchmark.group = f"{next(g for g, start in GROUPS.items() if name.startswith(start))}, {what}"
    if what == "images":
        benchmark.extra_info["memory_mib"] = peak_memory(name)
        print(f"{name}: {benchmark.extra_info['memory_mib']:.0f} MiB")
    critic, (real, fake) = critic_of(what), torch.randn(2, *SIZES[what])
    rounds = 300 if what == "points" else 20
    benchmark.pedantic(run, (name, critic, real, fake), rounds=rounds, warmup_rounds=3)


if __name__ == "__main__":
    print_peak_memory(sys.argv[1])
