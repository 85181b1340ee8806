"""The exponential moving average of weights."""
# What lies in a module is typed as any tensor or module, and tables of arguments are unpacked.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOptionalMemberAccess=false

import copy
import gc
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gan_blocks import EMA, DCGANGenerator, GaussianNoise, SpectralNorm, follow, lipschitz_bound


def one_weight(value):
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def started(value, *arguments, **options):
    """An average that has taken in its first weights."""
    ema = EMA(one_weight(value), *arguments, **options)
    ema.update(one_weight(value), 1)
    return ema


@given(st.integers(1, 500), st.floats(1, 1e5))
def test_after_a_half_life_half_of_the_way_is_gone_at_any_batch_size(batch, half_life):
    ema, target = started(0.0, half_life, rampup=None), one_weight(1.0)
    ema.update(target, batch)
    assert ema.module.weight.item() == pytest.approx(1 - 0.5 ** (batch / half_life), abs=1e-6)


def test_batches_of_any_size_make_the_same_average():
    averages = []
    for batch in (10, 50, 100):
        ema = started(0.0, 200, rampup=None)
        for _ in range(1000 // batch):
            ema.update(one_weight(1.0), batch)
        averages.append(ema.module.weight.item())
    assert averages == pytest.approx([1 - 0.5**5] * 3)


def test_average_of_a_sequence_is_the_weighted_sum():
    values = [0.3, -1.0, 2.0, 5.0]
    ema = started(values[0], half_life=30, rampup=None)
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
    ema.update(Tied(0.0), samples=1)
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
    ema.update(compiled, 1)
    assert type(ema.module) is nn.Linear
    nn.init.constant_(model.weight, 3.0)
    ema.update(compiled, 1)
    assert ema.module.weight == 2.0
    assert ema(torch.ones(1, 1)) == 2.0


def test_other_networks_are_refused():
    ema = EMA(DCGANGenerator(4, 8, width=2))
    with pytest.raises(TypeError, match="real or complex"):
        EMA(nn.Linear(1, 1)).update(nn.Linear(1, 1, dtype=torch.complex64), 1)
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
    with pytest.raises(ValueError, match="integer of at least 1"):
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
    ema.update(model, 1)
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


def test_weights_loaded_after_the_average_was_made_are_not_mixed_with_those_before():
    model = one_weight(100.0)
    ema = EMA(model, half_life=10_000, rampup=None)
    model.load_state_dict({"weight": torch.zeros(1, 1)})
    ema.update(model, 64)
    assert ema.module.weight == 0


def test_average_stays_in_evaluation_mode_whoever_trains_its_parent():
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
            self.ema = EMA(self.network)

    parent, x = Parent(), torch.randn(3, 2)
    before, state = parent.ema(x), copy.deepcopy(parent.ema.state_dict())
    parent.train()
    assert not any(module.training for module in parent.ema.modules())
    assert torch.equal(parent.ema(x), before)
    assert torch.equal(parent.ema(x[:1]), before[:1])
    assert all(torch.equal(state[name], x) for name, x in parent.ema.state_dict().items())
    assert parent.network.training


@pytest.mark.parametrize("input_shape", [None, (2, 8, 8)])
def test_layers_of_an_averaged_spectrally_normalized_network_have_norm_1(input_shape):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Flatten(), nn.Linear(6 * 64, 5))
    SpectralNorm(input_shape=input_shape)(model)
    ema, optimizer = EMA(model, half_life=2000, batch_size=64), torch.optim.Adam(model.parameters())
    follow(optimizer, ema)
    targets = torch.randn(3, 64, 5)
    for step in range(300):
        loss = (model(torch.randn(64, 2, 8, 8)) - targets[step // 100]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    linear = torch.linalg.matrix_norm(ema.module[2].weight, 2)
    assert linear.item() == pytest.approx(1, abs=0.01)
    if input_shape:
        bound = lipschitz_bound(ema.module[:1], input_shape)
        assert bound == pytest.approx(1, abs=0.01)
    else:
        norm = torch.linalg.matrix_norm(ema.module[0].weight.flatten(1), 2)
        assert norm.item() == pytest.approx(1, abs=0.01)


def test_average_follows_the_generators_optimizer():
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ema, by_hand = EMA(model, 100, batch_size=8), EMA(model, 100)
    handle = follow(optimizer, nn.ModuleDict({"average": ema}))
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(8, 2)).square().mean().backward()
        optimizer.step()
        by_hand.update(model, 8)
    assert ema.samples == 40
    assert torch.equal(ema.module.weight, by_hand.module.weight)
    with pytest.raises(RuntimeError, match="EMA follows an optimizer"):
        ema.update(model, 8)
    handle.remove()
    ema.update(model, 8)
    assert ema.samples == 48


def test_an_average_that_cannot_step_by_itself_says_what_it_needs():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="needs batch_size"):
        follow(optimizer, EMA(model))
    with pytest.raises(ValueError, match="needs batch_size"):
        EMA(model).step()
    for other in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        copied = other(EMA(model, batch_size=4))
        with pytest.raises(ValueError, match="is a copy, or its network is gone"):
            copied.step()
        copied.update(model, 4)
    with pytest.raises(ValueError, match="batch_size should be an integer of at least 1, got 0"):
        EMA(model, batch_size=0)
    with pytest.raises(TypeError, match="model should be a module, got dict"):
        EMA({})


def test_a_network_without_its_weights_yet_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"model should have weights .* run it on a batch"):
        EMA(nn.Sequential(nn.LazyLinear(3)))


def test_an_average_does_not_keep_its_network_alive():
    ema = EMA(nn.Linear(2, 2), batch_size=4)
    gc.collect()
    with pytest.raises(ValueError, match="its network is gone"):
        ema.step()


def test_clocked_layers_of_an_averaged_network_have_the_counts_of_the_network():
    model = nn.Sequential(GaussianNoise(1.0, anneal_steps=10), nn.Linear(2, 2))
    ema, optimizer = EMA(model, batch_size=4), torch.optim.SGD(model.parameters(), lr=0.1)
    handle = follow(optimizer, model, ema)
    for _ in range(3):
        model(torch.randn(4, 2)).sum().backward()
        optimizer.step()
    assert int(model[0].step_count) == int(ema.module[0].step_count) == 3
    handle.remove()
    ema.step()  # takes the network's count, which has not moved
    assert int(ema.module[0].step_count) == 3


def test_a_compiled_average_can_be_copied_and_pickled():
    ema = EMA(nn.Linear(2, 2))
    ema.compile(backend="eager")
    x = torch.randn(3, 2)
    for other in (copy.deepcopy(ema), pickle.loads(pickle.dumps(ema))):
        assert torch.equal(other(x), ema.module(x))


def test_weights_of_integers_are_copied():
    model = nn.Linear(2, 2)
    model.codes = nn.Parameter(torch.zeros(3, dtype=torch.int64), requires_grad=False)
    ema = EMA(model)
    ema.update(model, 4)
    model.codes.data += 5
    ema.update(model, 4)
    assert ema.module.codes.tolist() == [5, 5, 5]


def test_weights_that_are_shared_no_more_are_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    ema = EMA(model)
    ema.update(model, 4)
    before = copy.deepcopy(ema.state_dict())
    model[1].weight = nn.Parameter(model[0].weight.detach() + 1)
    with pytest.raises(ValueError, match="should share the parameters that the average shares"):
        ema.update(model, 4)
    assert torch.equal(ema.module[0].weight, before["module.0.weight"])
    assert ema.samples == 4
