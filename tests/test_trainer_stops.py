"""What stops a run of the trainer: what is not finite, a critic that teaches nothing, a signal."""

import functools
import importlib
import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer_runs import MATCHING, NO_PENALTY, log_of, parts, same

import gan_blocks


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """A script starts what runs in the background such that it ignores Ctrl-C; not these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("side", ["generator", "discriminator"])
def test_loss_that_is_not_finite_stops_the_run_and_names_term_and_step(
    examples, write, train, monkeypatch, tmp_path, side
):
    from gan_blocks import RelativisticLoss

    original, calls = getattr(RelativisticLoss, side), []

    @functools.wraps(original)
    def poisoned(self, *args, **options):
        calls.append(1)  # the check looks at the discriminator once
        return original(self, *args, **options) * (
            math.nan if len(calls) == (8 if side == "discriminator" else 7) else 1
        )

    monkeypatch.setattr(RelativisticLoss, side, poisoned)
    status, message = train(write())
    assert status == 1
    assert f"step 7: the {side}'s loss is nan" in message
    assert "lower learning rate" in message
    state = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 5


def test_penalty_that_is_not_finite_is_named(trainer, monkeypatch):
    it, batches = trainer()
    monkeypatch.setattr(
        it.penalties[0], "_penalty", lambda gradients: gradients[0].sum() * math.inf
    )
    with pytest.raises(FloatingPointError, match=r"step 1: penalties.0 \(R1Penalty\) is -?inf"):
        it.critic_step(next(batches), it.latents(16))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_gradient_that_is_not_finite_stops_the_run_before_the_weights_take_it(
    trainer, monkeypatch, poison
):
    it, batches = trainer()
    next(it.critic.parameters()).register_hook(lambda gradient: gradient * poison)
    before = [p.clone() for p in it.critic.parameters()]
    with pytest.raises(FloatingPointError, match="step 1: the gradient's norm is"):
        it.critic_step(next(batches), it.latents(16))
    assert all(map(torch.equal, before, it.critic.parameters()))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            [
                "loss.block=MinimaxLoss",
                "discriminator_optimizer.lr=0.1",
                "generator_optimizer.lr=0.0",
            ],
            r"step \d+: for 20 steps the generator's loss, MinimaxLoss, has been flat: the "
            r"discriminator is sure of all samples \(d_real 1, d_fake \S+\), .* Try NonSaturatingLoss",
        ),
        (
            ["loss.block=WassersteinLoss", 'constraint={block="WeightClipper", bound=1e-30}'],
            r"step 20: for 20 steps the discriminator has given one and the same number for all "
            r"samples, .* a wider bound of the constraint,",
        ),
    ],
    ids=["flat", "constant"],
)
def test_collapsed_critic_stops_the_run_and_says_what_to_try(
    examples, write, train, monkeypatch, tmp_path, settings, expected
):
    monkeypatch.setattr(examples.watch, "WINDOW", 20)
    arguments = [x for setting in settings for x in ("--set", setting)]
    long = (("steps = 12", "steps = 2000"), ("sample_every = 8", "sample_every = 4000"))
    status, message = train(write(NO_PENALTY, *long), *arguments)
    assert status == 1
    assert re.search(expected, message), message
    assert "Traceback" not in message
    assert (tmp_path / "out" / "checkpoint.pt").exists()


def test_one_step_in_which_the_generator_learns_begins_the_count_anew(examples, trainer):
    watch = examples.watch.Watch(trainer()[0].config)
    told = {"d_real": 1.0, "d_fake_before": 0.0}
    for step in range(1, 1000):
        slope = 1e-3 if step % examples.watch.WINDOW == 0 else 0.0
        watch.step(step, {"spread": 1.0, "slope": slope} | told)
    with pytest.raises(examples.watch.Collapsed, match="step 1000: for 200 steps"):
        watch.step(1000, {"spread": 1.0, "slope": 0.0} | told)


@pytest.mark.parametrize(
    ("even", "odd", "expected"),
    [
        (
            (1.0, 0.99e-4),
            (1.0, 0.99e-4),
            r"RelativisticLoss, .* flat: .*\(d_real 0.9, d_fake 0.2\)",
        ),
        ((1.0, 1.01e-4), (1.0, 1.01e-4), ""),
        ((1e-9, 1.0), (1e-9, 1.0), ""),
        ((0.0, 1.0), (0.0, 0.0), "one and the same number .* discriminator_optimizer.lr, or a"),
        ((0.0, 1.0), (1.0, 0.0), ""),
    ],
    ids=["flat", "hardly flat", "narrow", "constant", "in turn"],
)
def test_critic_has_collapsed_where_it_is_constant_or_the_loss_is_flat(
    examples, trainer, even, odd, expected
):
    watch = examples.watch.Watch(trainer()[0].config)

    def look(step):
        spread, slope = odd if step % 2 else even
        watch.step(step, {"spread": spread, "slope": slope, "d_real": 0.9, "d_fake_before": 0.2})

    for step in range(1, 200):
        look(step)
    if expected:
        with pytest.raises(examples.watch.Collapsed, match=f"step 200: .*{expected}"):
            look(200)
    else:
        look(200)


@pytest.mark.parametrize("teacher", [True, False])
def test_generator_with_another_teacher_or_without_the_loss_is_left_alone(
    examples, trainer, teacher
):
    without = ("steps = 12", "steps = 12\nadversarial_weight = 0")
    watch = examples.watch.Watch(trainer(MATCHING if teacher else without)[0].config)
    for step in range(1000):
        values = {"spread": 0.0, "slope": 0.0, "d_real": 1.0}
        watch.step(step, values)
        assert values == {"d_real": 1.0}


def test_slope_and_spread_are_those_of_their_definitions(examples):
    fake, real = torch.tensor([-1.0, 2.0], requires_grad=True), torch.tensor([5.0, 0.0])
    loss = gan_blocks.NonSaturatingLoss()
    expected = (1 - fake.sigmoid()).mean()
    torch.testing.assert_close(examples.steps.slope(loss.generator(fake), fake), expected)
    other = torch.tensor([0.5], requires_grad=True)
    both = examples.steps.slope(loss.generator([fake, other]), [fake, other])
    torch.testing.assert_close(both, expected + 1 - other[0].sigmoid())
    assert examples.steps.spread(real, fake) == 6
    assert examples.steps.spread([real, real * 0], [fake, fake * 0 + 10]) == 10


def test_realness_is_the_mean_probability_and_half_precision_does_not_round_it(examples):
    logits = torch.tensor([-1.0, 0.5, 2.0])
    expected = (logits.sigmoid().sum() / 3).item()
    for outputs in (logits, logits.bfloat16(), [logits[:2], logits[2:].view(1, 1)]):
        assert examples.steps.realness(outputs).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
def test_run_that_is_asked_to_stop_ends_with_a_checkpoint_of_its_step(
    examples, write, train, tmp_path, number, status
):
    seldom = (("every = 5", "every = 50"), ("sample_every = 8", "sample_every = 1_000_000"))
    config, out = write(*seldom), tmp_path / "out"
    command = [sys.executable, str(examples.folder / "train.py"), str(config), "--device", "cpu"]
    run = subprocess.Popen(
        [*command, "--out", str(out), "--set", "steps=1_000_000"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (out / "checkpoint.previous.pt").exists():
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(number)
    message = run.communicate(timeout=100)[1]
    assert run.returncode == status
    told = r"train.py: stopped after step (\d+); --resume goes on from the checkpoint of step \1\n"
    found = re.fullmatch(told, message)
    assert found, message
    step = int(found[1])
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == step
    assert train(config, "--resume", "--set", f"steps={step + 3}") == (0, "")
    assert [line["step"] for line in log_of(out)] == list(range(1, step + 4))


def test_stop_between_two_checkpoints_changes_no_bit(examples, write, train, monkeypatch, tmp_path):
    config, record = write(), examples.record.Record.step

    def asked(self, *arguments):
        if self.trainer.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return record(self, *arguments)

    assert train(config, out="whole") == (0, "")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(examples.record.Record, "step", asked)
        status, message = train(config)
    assert (status, message) == (
        143,
        "train.py: stopped after step 7; --resume goes on from the checkpoint of step 7\n",
    )
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert train(config, "--resume") == (0, "")
    assert same(parts(tmp_path / "whole"), parts(tmp_path / "out"))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "out")


def test_signal_that_the_process_ignores_stays_ignored(examples, trainer):
    stopping = importlib.import_module("stopping")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping.Stop(trainer()[0].accelerator) as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.asked() is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.asked() is stopping.Terminated
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_second_interrupt_does_not_wait_for_the_step_and_says_from_where_it_goes_on(
    write, train, monkeypatch, tmp_path
):
    step = torch.optim.Adam.step

    def interrupted(self, *args):
        if self.state and {int(state["step"]) for state in self.state.values()} == {7}:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    config = write()
    message = "train.py: stopped after step 7; --resume goes on from the checkpoint of step 5\n"
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", interrupted)
        assert train(config) == (130, message)
        assert train(config, "--resume") == (130, message)
    assert train(config, "--resume") == (0, "")
    log = log_of(tmp_path / "out")
    assert [line["step"] for line in log] == list(range(1, 13))

    folder = tmp_path / "out" / "tensorboard"
    files = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    for i, file in enumerate(files):  # they are read by name, of which the first part is the second
        file.rename(folder / f"tfevents.{i}")
    board = EventAccumulator(str(folder)).Reload()
    assert set(board.Tags()["scalars"]) >= set(log[0]) - {"step"}
    for name in set(log[0]) - {"step"}:
        told = {event.step: event.value for event in board.Scalars(name)}
        assert len(told) == len(board.Scalars(name))
        assert told == pytest.approx({line["step"]: line[name] for line in log}, rel=1e-6)
