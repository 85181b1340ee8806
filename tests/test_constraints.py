"""Clipping of weights."""

import pytest
import torch
from torch import nn

from gan_blocks import MLPDiscriminator, VirtualBatchNorm, WeightClipper


def test_clipping_bounds_every_weight_and_keeps_what_is_inside():
    critic = MLPDiscriminator((6,), width=16)
    before = {name: p.detach().clone() for name, p in critic.named_parameters()}
    WeightClipper(0.1)(critic)
    for name, p in critic.named_parameters():
        assert torch.equal(p, before[name].clamp(-0.1, 0.1))
    assert any((p.abs() == 0.1).any() for p in critic.parameters())
    assert all(p.requires_grad and p.grad_fn is None for p in critic.parameters())


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4),
        nn.LayerNorm(4),
        nn.GroupNorm(2, 4),
        nn.RMSNorm(4),
        nn.InstanceNorm1d(4, affine=True),
        VirtualBatchNorm(4),
    ],
)
def test_normalisation_keeps_its_scale(norm):
    module = nn.Sequential(nn.Linear(4, 4), norm)
    WeightClipper(0.01)(module)
    assert (norm.weight == 1).all()
    assert all(p.abs().max() <= 0.01 for p in next(iter(module)).parameters())


def test_clipping_a_module_without_parameters_does_nothing():
    WeightClipper()(nn.ReLU())


def test_clipping_works_on_every_dtype_and_on_shared_parameters():
    shared = nn.Linear(3, 3).half()
    module = nn.Sequential(shared, shared, nn.Linear(3, 3).double())
    WeightClipper(0.01)(module)
    assert all(p.abs().max() <= 0.0101 for p in module.parameters())
