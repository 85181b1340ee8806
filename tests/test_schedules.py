"""Numbers that change from step to step, and penalties that follow them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter

import gan_blocks as gb
from gan_blocks.authoring import Clocked

SCHEDULES = [gb.CosineSchedule, gb.LinearSchedule, gb.StepSchedule]
every = pytest.mark.parametrize("schedule", SCHEDULES)
ends = st.floats(-1e3, 1e3)


@every
@given(ends, ends, st.integers(1, 10**6))
def test_schedule_starts_at_start_and_stays_at_end(schedule, start, end, steps):
    value = schedule(start, end, steps)
    assert value.at(0) == start
    assert value.at(steps) == value.at(steps + 1) == value.at(10 * steps) == end


@every
@given(ends, ends, st.integers(2, 1000), st.data())
def test_schedule_goes_one_way_between_its_ends(schedule, start, end, steps, data):
    value = schedule(start, end, steps)
    t = data.draw(st.integers(0, steps - 1))
    low, high = sorted((start, end))
    room = 1e-12 * (abs(start) + abs(end))
    assert low - room <= value.at(t) <= high + room
    assert (value.at(t + 1) - value.at(t)) * (end - start) >= -room * abs(end - start)


@given(ends, ends, st.integers(1, 1000), st.data())
def test_values_are_those_of_the_formulas(start, end, steps, data):
    t = data.draw(st.integers(0, steps - 1))

    def near(value):
        return pytest.approx(value, rel=1e-9, abs=1e-9)

    cosine = end + (start - end) * (1 + math.cos(math.pi * t / steps)) / 2
    assert gb.CosineSchedule(start, end, steps).at(t) == near(cosine)
    line = start + (end - start) * t / steps
    assert gb.LinearSchedule(start, end, steps).at(t) == near(line)
    assert gb.StepSchedule(start, end, steps).at(t) == start


@every
def test_steps_beyond_the_reach_of_float32_are_told_apart(schedule):
    steps = 20_000_001
    value = schedule(1.0, 0.0, steps)
    for t in (steps - 2, steps - 1, steps):
        value.step_count.fill_(t)
        assert value().item() == pytest.approx(value.at(t), rel=1e-6, abs=0)
    for wrong in (-1, math.nan, None, "3", True):
        with pytest.raises(ValueError, match="step should be a number of at least 0"):
            value.at(wrong)


@every
def test_calls_follow_the_steps(schedule):
    value = schedule(2.0, 0.5, 4)
    for t in range(7):
        assert value().shape == ()
        assert value().dtype == torch.float32
        assert value().item() == pytest.approx(value.at(t), rel=1e-6)
        assert value().item() == value().item(), "asking changes nothing"
        value.step()


@every
def test_schedule_goes_on_from_its_state(schedule):
    value, fresh = schedule(2.0, 0.5, 4), schedule(2.0, 0.5, 4)
    for _ in range(3):
        value.step()
    fresh.load_state_dict(value.state_dict())
    assert fresh().item() == value().item()
    assert value.half().step_count.dtype == torch.int64
    assert fresh().item() == value().item()


def test_scheduled_penalty_is_the_penalty_times_the_schedule_of_its_step():
    real, critic = torch.randn(4, 2), torch.nn.Linear(2, 1)
    penalty = gb.Scheduled(gb.R1Penalty(1.0), gb.CosineSchedule(2.0, 0.2, 3))
    plain = gb.R1Penalty(1.0)(critic, real).item()
    values = []
    for _ in range(5):
        values.append(penalty(critic, real, None).item() / plain)
        penalty.step()
    assert values == pytest.approx([2.0, 1.55, 0.65, 0.2, 0.2])


def test_every_step_counts_for_a_lazy_penalty_inside_a_schedule_and_around_it():
    real, critic = torch.randn(4, 2), torch.nn.Linear(2, 1)
    unit = gb.R1Penalty(1.0)(critic, real).item()

    def values(penalty):
        found = []
        for _ in range(5):
            found.append(penalty(critic, real, None).item() / unit)
            penalty.step()
        return found

    line = gb.LinearSchedule(1.0, 0.0, 4)
    outside = gb.Scheduled(gb.Lazy(gb.R1Penalty(1.0), 2), line)
    assert values(outside) == pytest.approx([2, 0, 1, 0, 0])
    inside = gb.Lazy(gb.Scheduled(gb.R1Penalty(1.0), gb.LinearSchedule(1.0, 0.0, 4)), 2)
    assert values(inside) == pytest.approx([2, 0, 1, 0, 0])


@every
def test_compiled_step_follows_the_schedule_without_being_compiled_again(schedule):
    torch.compiler.reset()
    torch.manual_seed(0)
    real, critic = torch.randn(4, 2), torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    penalty = gb.Scheduled(gb.R1Penalty(1.0), schedule(2.0, 0.5, 4))
    weight, counter = schedule(1.0, 0.0, 3), CompileCounter()

    def step(real):
        return penalty(critic, real, None) + weight() * critic(real).mean()

    def gradient(value):
        parameters = list(critic.parameters())[:1]
        return torch.autograd.grad(value, parameters, retain_graph=True)[0]

    plain, term = gb.R1Penalty(1.0)(critic, real), critic(real).mean()
    for backend in (counter, "aot_eager"):
        compiled = torch.compile(step, backend=backend, fullgraph=True)
        for part in (penalty.schedule, weight):
            part.load_state_dict({"step_count": torch.tensor(0)})  # pyright: ignore
        for t in range(6):
            expected = schedule(2.0, 0.5, 4).at(t) * plain + schedule(1.0, 0.0, 3).at(t) * term
            value = compiled(real)
            torch.testing.assert_close(value, expected)
            gb.step(penalty, weight)
            # A count that is changed in place gives the gradient of the next step.
            torch.testing.assert_close(gradient(value), gradient(expected))
    assert counter.frame_count == 1


def test_a_schedule_of_ones_own_is_clocked():
    class Halving(Clocked):
        def forward(self):
            return 0.5 ** self.step_count.float()

        def at(self, step):
            return 0.5**step

    class Constant:
        def __call__(self):
            return torch.tensor(0.5)

        def at(self, step):
            return 0.5

        def step(self):
            pass

    real, critic = torch.randn(4, 2), torch.nn.Linear(2, 1)
    penalty = gb.Scheduled(gb.R1Penalty(1.0), Halving())
    for gamma in (1.0, 0.5, 0.25):
        torch.testing.assert_close(penalty(critic, real), gb.R1Penalty(gamma)(critic, real))
        penalty.step()
    with pytest.raises(gb.InvalidArgumentsError, match="does not derive from gan_blocks"):
        gb.Scheduled(gb.R1Penalty(), Constant())


@pytest.mark.parametrize("spec", [False, True])
def test_another_auxiliary_block_is_no_schedule(spec):
    other = {"block": "FeatureMatchingLoss"} if spec else gb.FeatureMatchingLoss()
    with pytest.raises(
        gb.InvalidArgumentsError,
        match=r"schedule.* is an auxiliary block|should be a schedule",
    ):
        gb.Scheduled(gb.R1Penalty(), other)  # pyright: ignore[reportArgumentType]


def test_scheduled_penalty_is_a_document():
    spec = {
        "block": "Scheduled",
        "penalty": {"block": "R1Penalty", "gamma": 1.0, "combine": "sum"},
        "schedule": {"block": "CosineSchedule", "start": 2.0, "end": 0.2, "steps": 5},
    }
    assert gb.to_spec(gb.build(spec)) == spec
