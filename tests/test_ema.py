"""The moving average of weights."""
# What lies in a module is typed as any tensor or module, and tables of arguments are unpacked.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOptionalMemberAccess=false

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gan_blocks import EMA, DCGANGenerator


def one_weight(value):
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


@given(st.integers(1, 500), st.floats(1, 1e5))
def test_after_a_half_life_half_of_the_way_is_gone_at_any_batch_size(batch, half_life):
    ema, target = EMA(one_weight(0.0), half_life, rampup=None), one_weight(1.0)
    ema.update(target, batch)
    assert ema.module.weight.item() == pytest.approx(1 - 0.5 ** (batch / half_life), abs=1e-6)


def test_batches_of_any_size_make_the_same_average():
    averages = []
    for batch in (10, 50, 100):
        ema = EMA(one_weight(0.0), 200, rampup=None)
        for _ in range(1000 // batch):
            ema.update(one_weight(1.0), batch)
        averages.append(ema.module.weight.item())
    assert averages == pytest.approx([1 - 0.5**5] * 3)


def test_average_of_a_sequence_is_the_weighted_sum():
    values = [0.3, -1.0, 2.0, 5.0]
    ema = EMA(one_weight(values[0]), half_life=30, rampup=None)
    for value in values[1:]:
        ema.update(one_weight(value), samples=15)
    beta = 0.5**0.5
    expected = values[0]
    for value in values[1:]:
        expected = beta * expected + (1 - beta) * value
    assert ema.module.weight.item() == pytest.approx(expected)


def test_ramp_up_forgets_the_start():
    ema = EMA(one_weight(100.0), half_life=1e9)
    assert ema.decay(32) == 0.0
    ema.update(one_weight(1.0), 32)
    assert ema.module.weight == 1.0
    # Then the half-life is a twentieth of what was seen.
    assert ema.decay(16) == pytest.approx(0.5 ** (16 / (0.05 * 32)))
    short = EMA(one_weight(0.0), half_life=10)
    short.samples = 10**6
    assert short.decay(10) == pytest.approx(0.5)


def test_buffers_are_copied_and_nothing_is_shared():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    ema = EMA(model)
    model(3 + torch.randn(8, 1, 4, 4))
    ema.update(model, 8)
    for name, buffer in model.named_buffers():
        assert torch.equal(ema.module.get_buffer(name), buffer)
    model[1].running_mean.fill_(-7)
    assert not (ema.module[1].running_mean == -7).any()
    assert not any(p.requires_grad for p in ema.parameters())
    assert not ema.module.training
    assert model.training


def test_shared_weights_move_once():
    class Tied(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.first = one_weight(value)
            self.second = nn.Linear(1, 1, bias=False)
            self.second.weight = self.first.weight

    ema = EMA(Tied(0.0), half_life=1, rampup=None)
    ema.update(Tied(1.0), samples=1)
    assert ema.module.first.weight == 0.5
    assert ema.module.second.weight is ema.module.first.weight


def test_state_goes_into_a_fresh_average():
    model = one_weight(0.0)
    ema = EMA(model, half_life=100)
    for value in (1.0, 2.0):
        ema.update(one_weight(value), 10)
    fresh = EMA(model, half_life=100)
    fresh.load_state_dict(ema.state_dict())
    for average in (ema, fresh, copy.deepcopy(ema)):
        average.update(one_weight(3.0), 10)
    assert fresh.samples == ema.samples == 30
    assert torch.equal(fresh.module.weight, ema.module.weight)


def test_wrapped_and_compiled_networks_are_averaged():
    model = one_weight(1.0)
    compiled = torch.compile(model, backend="eager")
    ema = EMA(compiled, half_life=1, rampup=None)
    assert type(ema.module) is nn.Linear
    nn.init.constant_(model.weight, 3.0)
    ema.update(compiled, 1)
    assert ema.module.weight == 2.0
    assert ema(torch.ones(1, 1)) == 2.0


def test_other_networks_are_refused():
    ema = EMA(DCGANGenerator(4, 8, width=2))
    with pytest.raises(ValueError, match="other parameters"):
        ema.update(DCGANGenerator(4, 8, width=3), 1)
    with pytest.raises(ValueError, match="other buffers"):
        EMA(nn.BatchNorm1d(3)).update(nn.BatchNorm1d(3, track_running_stats=False), 1)
    for arguments in ((0,), (-1.0,), (float("nan"),), (10, 0.0)):
        with pytest.raises(ValueError, match="greater than 0"):
            EMA(nn.Linear(1, 1), *arguments)


@pytest.mark.parametrize("samples", [0, -5, 2.5, float("nan"), torch.tensor(5), None])
def test_samples_are_a_positive_integer(samples):
    ema = EMA(one_weight(0.0), half_life=10, rampup=None)
    with pytest.raises(ValueError, match="integer of 1 at least"):
        ema.update(one_weight(1.0), samples)
    assert ema.module.weight == 0
    assert ema.samples == 0


def test_weights_are_matched_by_name():
    model = nn.BatchNorm1d(4)
    ema = EMA(model, half_life=1, rampup=None)
    weight = model.weight
    del model.weight
    model.weight = weight  # now behind the offset
    ema.update(model, 1)
    assert (ema.module.weight == 1).all()
    assert (ema.module.bias == 0).all()


def test_average_in_float32_of_a_network_in_half_precision_moves_by_little_steps():
    model = one_weight(0.0).bfloat16()
    ema = EMA(model, half_life=10_000, rampup=None).float()
    nn.init.ones_(model.weight)
    for _ in range(100):
        ema.update(model, 1)
    assert ema.module.weight.item() == pytest.approx(1 - 0.5**0.01, rel=1e-3)


def test_wrappers_come_off_in_any_order():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    wrapped = torch.compile(nn.DataParallel(model), backend="eager")
    ema = EMA(wrapped)
    assert type(ema.module) is nn.Sequential
    ema.update(wrapped, 4)
    ema.update(nn.DataParallel(model), 4)
    assert list(ema.module.state_dict()) == list(model.state_dict())
    assert not ema.training
