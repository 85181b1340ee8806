"""A small run of the trainer for its tests, ways to change it, and what it leaves on disk."""

import json
from pathlib import Path

import torch

CONFIG = """
steps = 12
batch_size = 16
ema = 0.9
log_every = 1
sample_every = 8
checkpoint_every = 5
penalties = [{ block = "R1Penalty", gamma = 0.1 }, { block = "GradientPenalty", weight = 1.0 }]

[data]
name = "ring"

[generator]
block = "MLPGenerator"
latent_dim = 2
output_shape = [2]
width = 8
depth = 1

[discriminator]
block = "MLPDiscriminator"
input_shape = [2]
width = 8
depth = 1

[loss]
block = "RelativisticLoss"

[generator_optimizer]
name = "Adam"
lr = 1e-3
betas = [0.0, 0.99]

[discriminator_optimizer]
name = "Adam"
lr = 1e-3
"""

PLUGIN = '''
import torch
from torch import nn
from gan_blocks import block, hookimpl

@block
class SquareLoss(nn.Module):
    """Counts its calls in its state."""
    def __init__(self, scale: float = 2.0):
        super().__init__()
        self.scale = scale
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
    def discriminator(self, real_logits, fake_logits):
        self.calls += 1
        return self.scale * ((real_logits - 1).square().mean() + fake_logits.square().mean())
    def generator(self, fake_logits, real_logits=None):
        return self.scale * (fake_logits - 1).square().mean()

@block(side="generator", compares="logits")
class Gap(nn.Module):
    """Counts its calls in its state."""
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
    def forward(self, real_logits, fake_logits):
        self.calls += 1
        return (real_logits.mean() - fake_logits.mean()).abs()

@hookimpl
def gan_blocks_losses():
    return [SquareLoss]

@hookimpl
def gan_blocks_auxiliary():
    return [Gap]
'''

PLAIN = ("RelativisticLoss", "NonSaturatingLoss")
NO_PENALTY = (
    'penalties = [{ block = "R1Penalty", gamma = 0.1 }, '
    '{ block = "GradientPenalty", weight = 1.0 }]',
    "",
)
MATCHING = (
    "[data]",
    'auxiliary = [{ term = { block = "FeatureMatchingLoss" }, layers = ["layers.0", "layers.2"], '
    "weight = 0.5 }]\n\n[data]",
)

CONFIGS = sorted((Path(__file__).parents[1] / "examples/configs").glob("*.toml"))


def parts(out):
    return torch.load(out / "checkpoint.pt", weights_only=True)["parts"]


def log_of(run):
    """The log but for the times."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in x.items() if "second" not in k} for x in lines]


def same(a, b):
    """Whether two nested states are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def image_config(write, data, side=8, channels=1):
    shape = f"[{channels}, {side}, {side}]"
    return write(
        ('name = "ring"', data),
        ("output_shape = [2]", f"output_shape = {shape}"),
        ("input_shape = [2]", f"input_shape = {shape}"),
        ("steps = 12", "steps = 2"),
        ("batch_size = 16", "batch_size = 4"),
    )
