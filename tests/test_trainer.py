"""The reference trainer: its training rules, its errors, and that a run can be resumed exactly."""

import json
import math
import os
import random
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import datasets

import gan_blocks

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

@block
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


@pytest.fixture
def write(tmp_path):
    """Writes a config, with replacements, and returns its path."""

    def write(*changes, text=CONFIG, name="config.toml"):
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def trainer(examples, write):
    """A trainer that has not trained yet, and batches for it."""

    def make(*changes):
        file = write(*changes)
        config = examples.reading.read_config(examples.config.Config, file)
        it = examples.train.Trainer(config, file.parent, torch.device("cpu"))
        return it, it.batches()

    return make


@pytest.fixture
def train(examples, tmp_path, capsys):
    """Runs the command and gives its exit status and what it wrote to standard error."""

    def train(config, *arguments, out="out"):
        out = str(tmp_path / out)
        status = examples.train.main([str(config), "--out", out, "--device", "cpu", *arguments])
        return status, capsys.readouterr().err

    return train


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


# --- the rules of training ---------------------------------------------------------------------


def test_generator_gets_no_gradient_in_the_critic_s_step(trainer):
    it, batches = trainer()
    it.critic_step(next(batches), it.latents(16))
    assert all(p.grad is None for p in it.generator.parameters())
    assert all(p.grad is not None for p in it.critic.parameters())


def test_critic_gets_no_gradient_and_does_not_move_in_the_generator_s_step(trainer):
    it, batches = trainer()
    before = [p.clone() for p in it.critic.parameters()]
    it.generator_step(next(batches), it.latents(16))
    assert all(p.grad is None for p in it.critic.parameters())
    assert all(map(torch.equal, before, it.critic.parameters()))
    assert all(p.grad is not None for p in it.generator.parameters())


def test_weights_that_the_critic_froze_stay_frozen_and_the_others_trainable(trainer):
    it, batches = trainer()
    frozen = it.critic_weights.pop(0).requires_grad_(False)
    it.generator_step(next(batches), it.latents(16))
    assert not frozen.requires_grad
    assert all(p.requires_grad for p in it.critic_weights)


def test_generator_s_gradient_is_that_of_the_formula(trainer):
    it, batches = trainer()
    real, z = next(batches), it.latents(16)
    logits = it.critic(it.generator(z))
    loss = nn.functional.softplus(it.critic(*real).detach() - logits).mean()
    expected = torch.autograd.grad(loss, list(it.generator.parameters()))
    it.generator_step(real, z)
    actual = [p.grad for p in it.generator.parameters()]
    torch.testing.assert_close(actual, list(expected))


def test_loss_and_penalties_are_summed_into_one_backward_pass(trainer, monkeypatch):
    it, batches = trainer()
    calls = []
    backward = torch.Tensor.backward

    def counted(tensor, *args, **kwargs):
        calls.append(tensor.item())
        return backward(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", counted)
    real = next(batches)
    state = it.random.state_dict()
    values, fake = it.critic_step(real, it.latents(16))
    assert calls == [values["d_loss"]]
    it.generator_step(real, it.latents(16))
    assert len(calls) == 2

    # The sum, written out from the same random numbers and the same weights.
    other, _ = trainer()
    other.random.load_state_dict(state)
    fake = other.generator(other.latents(16)).detach()
    expected = other.loss.discriminator(other.critic(*real), other.critic(fake))
    for penalty in other.penalties:
        expected += penalty(other.critic, *real, fake, generator=other.random.draws)
    assert values["d_loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_constraint_holds_from_the_start_and_after_each_critic_step(trainer):
    free, batches = trainer()
    it, _ = trainer(("[data]", 'constraint = { block = "WeightClipper", bound = 0.01 }\n\n[data]'))

    def largest(trainer):
        return max(p.abs().max() for p in trainer.critic.parameters())

    assert largest(free) > 0.01
    assert largest(it) <= 0.01
    for _ in range(3):
        it.critic_step(next(batches), it.latents(16))
        assert largest(it) <= 0.01


def test_critic_takes_its_number_of_steps_for_one_of_the_generator(examples, write, tmp_path):
    file = write(("steps = 12", "steps = 4\ncritic_steps = 3"))
    config = examples.reading.read_config(examples.config.Config, file)
    it = examples.train.run(config, tmp_path, tmp_path / "out", torch.device("cpu"), False)
    counts = [
        {int(state["step"]) for state in optimizer.state.values()}
        for optimizer in (it.g_optimizer, it.d_optimizer)
    ]
    assert counts == [{4}, {12}]


def test_sampling_leaves_modes_gradients_and_random_numbers_alone(trainer):
    it, _ = trainer(("width = 8\ndepth = 1\n\n[disc", 'width = 8\nnorm = "batch"\n\n[disc'))
    inner = [m for m in it.ema.modules() if isinstance(m, nn.BatchNorm1d)]
    inner[0].eval()  # a module that its owner keeps in evaluation mode
    state = it.random.state_dict()
    buffers = [b.clone() for b in it.ema.buffers()]
    samples = it.sample(32, seed=0)
    assert not samples.requires_grad
    assert torch.equal(samples, it.sample(32, seed=0))
    assert [m.training for m in inner] == [False, False, False]
    assert all(map(torch.equal, buffers, it.ema.buffers()))
    assert same(state, it.random.state_dict())


def test_samples_come_from_the_average_of_the_generator_s_weights(trainer):
    it, batches = trainer()
    expected = next(it.generator.parameters()).detach().clone()
    for _ in range(3):
        it.generator_step(next(batches), it.latents(16))
        expected = 0.9 * expected + 0.1 * next(it.generator.parameters()).detach()
    torch.testing.assert_close(next(it.ema.parameters()).data, expected)
    z = it.latents(5, seed=3)
    assert torch.equal(it.sample(5, seed=3), it.ema.module(z))


def test_batch_depends_on_the_seed_and_its_number_only(examples):
    dataset = torch.utils.data.TensorDataset(torch.arange(10))
    stream = examples.data.batches(dataset, 3, seed=0)
    drawn = [next(stream).tolist() for _ in range(9)]
    later = examples.data.batches(dataset, 3, seed=0, start=5)
    assert [next(later).tolist() for _ in range(4)] == drawn[5:]
    for epoch in (drawn[:3], drawn[3:6], drawn[6:]):
        assert len({i for batch in epoch for i in batch}) == 9
    assert drawn[:3] != drawn[3:6]
    assert next(examples.data.batches(dataset, 3, seed=1)).tolist() != drawn[0]


@pytest.mark.parametrize("side", ["generator", "discriminator"])
def test_loss_that_is_not_finite_stops_the_run_and_names_term_and_step(
    examples, write, train, monkeypatch, tmp_path, side
):
    from gan_blocks import RelativisticLoss

    original, calls = getattr(RelativisticLoss, side), []

    def poisoned(self, *args):
        # Neither the question whether it needs real logits nor the check before the first step.
        calls.extend([1] if len(args) == 2 and len(args[0]) == 16 else [])
        return original(self, *args) * (math.nan if len(calls) == 7 else 1)

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
    with pytest.raises(
        FloatingPointError, match=r"step 1: the penalty R1Penalty\(gamma=0.1, combine"
    ):
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


# --- a critic that teaches nothing any more --------------------------------------------------------


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


# --- options of the steps ------------------------------------------------------------------------


@pytest.fixture
def forwards(monkeypatch):
    """Counts the forwards of each network class."""
    from gan_blocks import MLPDiscriminator, MLPGenerator

    counts = {"generator": 0, "critic": 0}
    for name, cls in (("generator", MLPGenerator), ("critic", MLPDiscriminator)):

        def counted(self, x, name=name, original=cls.forward):
            counts[name] += 1
            return original(self, x)

        monkeypatch.setattr(cls, "forward", counted)
    return counts


PLAIN = ("RelativisticLoss", "NonSaturatingLoss")
NO_PENALTY = (
    'penalties = [{ block = "R1Penalty", gamma = 0.1 }, '
    '{ block = "GradientPenalty", weight = 1.0 }]',
    "",
)
SELDOM = ("log_every = 1", "log_every = 100")


@pytest.mark.parametrize(
    ("loss", "critic_forwards"), [("NonSaturatingLoss", 3), ("RelativisticLoss", 4)]
)
def test_critic_looks_at_real_samples_again_only_where_the_loss_compares_with_them(
    trainer, forwards, loss, critic_forwards
):
    it, batches = trainer(("RelativisticLoss", loss), NO_PENALTY, SELDOM)
    before = dict(forwards)
    it.train_step([next(batches)])
    assert forwards["critic"] - before["critic"] == critic_forwards
    assert forwards["generator"] - before["generator"] == 2


def test_reused_fakes_are_those_of_the_critic_s_last_step_and_carry_the_gradient(trainer, forwards):
    reuse = ("steps = 12", "steps = 12\nreuse_fakes = true\ncritic_steps = 2")
    it, batches = trainer(PLAIN, NO_PENALTY, SELDOM, reuse)
    reals = [next(batches), next(batches)]
    state = it.random.state_dict()
    it.latents(16)
    z = it.latents(16)  # those of the second critic step
    it.random.load_state_dict(state)
    g = [p.clone().requires_grad_() for p in it.generator.parameters()]
    before = dict(forwards)
    it.train_step(reals)
    assert forwards["generator"] - before["generator"] == 2

    names = [name for name, _ in it.generator.named_parameters()]
    fake = torch.func.functional_call(it.generator, dict(zip(names, g, strict=True)), (z,))
    loss = nn.functional.softplus(-it.critic(fake)).mean()
    expected = torch.autograd.grad(loss, g)
    torch.testing.assert_close([p.grad for p in it.generator.parameters()], list(expected))


def test_generator_is_compared_with_the_batch_of_the_critic_s_last_step(trainer, monkeypatch):
    it, batches = trainer(("steps = 12", "steps = 12\ncritic_steps = 2"))
    reals, seen = [next(batches), next(batches)], []
    look = it.features.forward
    monkeypatch.setattr(it.features, "forward", lambda x: (seen.append(x), look(x))[1])
    it.train_step(reals)
    assert [any(torch.equal(x, real) for x in seen) for (real,) in reals] == [False, True]


MATCHING = (
    "[data]",
    'auxiliary = [{ term = { block = "FeatureMatchingLoss" }, layers = ["layers.0", "layers.2"], '
    "weight = 0.5 }]\n\n[data]",
)


@pytest.mark.parametrize("weight", [0.0, 2.0])
@pytest.mark.parametrize("norm", ["none", "virtual"])
def test_feature_matching_sums_over_its_layers_and_enters_with_its_weight(trainer, weight, norm):
    it, batches = trainer(
        PLAIN,
        MATCHING,
        ("steps = 12", f"steps = 12\nadversarial_weight = {weight}"),
        ("[discriminator]", f'norm = "{norm}"\n\n[discriminator]'),
        ("[loss]", f'norm = "{norm}"\n\n[loss]'),
    )
    (real,), z = next(batches), it.latents(16)
    fake = it.generator(z).detach()

    def look(x):
        seen, inside = {}, it.critic.network if norm == "virtual" else it.critic
        for i in (0, 2):  # the last forward is the one of x, after the reference's
            inside.layers[i].register_forward_hook(lambda m, a, out, i=i: seen.update({i: out}))
        it.critic(x)
        return list(seen.values())

    terms = [(r.mean(0) - f.mean(0)).square().sum() for r, f in zip(look(real), look(fake))]  # noqa: B905
    adversarial = nn.functional.softplus(-it.critic(fake)).mean()
    expected = weight * adversarial + 0.5 * sum(terms)
    values = it.generator_step((real,), z)
    assert values["g_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_two_terms_of_one_block_are_both_added(trainer):
    def loss(*weights):
        items = ", ".join(
            f'{{ term = {{ block = "FeatureMatchingLoss" }}, layers = ["layers.{i}"], weight = {w} }}'
            for i, w in zip((0, 2), weights, strict=True)
        )
        it, batches = trainer(PLAIN, ("[data]", f"auxiliary = [{items}]\n\n[data]"))
        return it.generator_step(next(batches), it.latents(16))["g_loss"]

    neither, both = loss(0.0, 0.0), loss(3.0, 5.0)
    assert both - neither == pytest.approx(loss(3.0, 0.0) + loss(0.0, 5.0) - 2 * neither, rel=1e-4)
    assert loss(3.0, 0.0) > neither


def test_batch_of_one_is_checked_and_trains_with_a_loss_that_pairs(trainer):
    it, batches = trainer(("batch_size = 16", "batch_size = 1"))
    it.check()
    assert math.isfinite(it.train_step([next(batches)])["g_loss"])


def test_run_on_images_with_a_reference_resumes(
    write, train, tmp_path, few_digits, monkeypatch, examples
):
    monkeypatch.setattr(examples.train, "evaluate_run", lambda trainer, out: {})
    config = image_config(write, f'name = "MNIST"\nroot = "{few_digits}"', side=28)
    arguments = ("--set", "discriminator.norm=virtual", "--set", "checkpoint_every=1")
    assert train(config, *arguments) == (0, "")
    assert train(config, *arguments, "--set", "steps=3", "--resume") == (0, "")


def test_order_of_settings_does_not_matter(examples, write):
    settings = ["generator_optimizer.lr=0.5", "generator_optimizer.name=SGD", "data.name=grid"]
    for order in (settings, settings[::-1]):
        config = examples.reading.read_config(examples.config.Config, write(), order)
        assert config.generator_optimizer == {"name": "SGD", "lr": 0.5}


def test_term_that_does_not_fit_its_features_is_refused_before_the_first_step(
    write, train, tmp_path
):
    status, message = train(
        write(("[data]", MATCHING[1].replace('["layers.0", "layers.2"]', '[""]')))
    )
    assert status == 2
    assert "do not fit: real_features should be a batch of features (N, ...)" in message
    assert not (tmp_path / "out").exists()


def test_feature_matching_on_unknown_layers_is_refused(write, train):
    status, message = train(write(("[data]", MATCHING[1].replace("layers.2", "layers.99"))))
    assert status == 2
    assert "auxiliary.layers: the network has no layer 'layers.99'" in message
    assert "layers.0" in message


def test_networks_with_virtual_batch_norm_get_a_reference(trainer, examples):
    from gan_blocks import WithReference

    it, batches = trainer(
        ("[discriminator]", 'norm = "virtual"\n\n[discriminator]'),
        ("[loss]", 'norm = "virtual"\n\n[loss]'),
    )
    assert isinstance(it.critic, WithReference)
    assert torch.equal(it.critic.reference[0], next(batches)[0])
    assert isinstance(it.generator, WithReference)
    assert it.generator.reference[0].shape == (16, 2)
    assert not torch.equal(it.generator.reference[0], it.latents(16, seed=it.config.seed))


def test_gradient_is_clipped_to_its_norm_and_logged_as_it_was(trainer):
    norms, gradients = [], []
    for limit in ("", "\nclip_gradient = 0.01"):
        it, batches = trainer(("steps = 12", "steps = 12" + limit))
        values, _ = it.critic_step(next(batches), it.latents(16))
        norms.append(values["d_gradient"])
        gradients.append(nn.utils.get_total_norm([p.grad for p in it.critic.parameters()]))
    assert norms[1] == norms[0] > 0.01
    assert norms[0] == pytest.approx(gradients[0].item(), rel=1e-6)
    assert gradients[1].item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("reuse", ["false", "true"])
def test_parts_of_a_batch_make_the_step_that_the_whole_makes(trainer, reuse):
    alone = (PLAIN, ("GradientPenalty", "R2Penalty"), ("weight = 1.0", "gamma = 1.0"))
    steps = []
    for parts in (1, 4):
        it, batches = trainer(
            *alone,
            ("batch_size = 16", f"batch_size = 64\naccumulate = {parts}\nreuse_fakes = {reuse}"),
        )
        values = [it.train_step([next(batches)]) for _ in range(2)]
        weights = [p.detach() for n in (it.critic, it.generator) for p in n.parameters()]
        steps.append((values, weights))
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-4, atol=1e-5)


def test_samples_of_a_seed_do_not_depend_on_the_parts_of_a_batch(trainer):
    whole, parts = (
        trainer(("batch_size = 16", f"batch_size = 16\naccumulate = {k}"))[0] for k in (1, 4)
    )
    assert torch.equal(whole.latents(10, seed=3), parts.latents(10, seed=3))


def test_average_takes_the_whole_batch_for_one_step_whatever_its_parts(trainer):
    it, batches = trainer(
        ("ema = 0.9", "ema = { half_life = 16 }"),
        ("batch_size = 16", "batch_size = 16\naccumulate = 4"),
    )
    before = next(it.generator.parameters()).detach().clone()
    it.generator_step(next(batches), it.latents(16))
    now = next(it.generator.parameters()).detach()
    torch.testing.assert_close(next(it.ema.parameters()).data, (before + now) / 2)


def test_schedules_count_steps_of_the_generator_from_0(trainer):
    schedule = '{ block = "LinearSchedule", start = 1.0, end = 3.0, steps = 2 }'
    it, batches = trainer(
        ("lr = 1e-3\nbetas", f"lr = {schedule}\nbetas"),
        ('"Adam"\nlr = 1e-3\n', f'"Adam"\nlr = {schedule}\n'),
        ("steps = 12", "steps = 12\ncritic_steps = 2"),
        NO_PENALTY,
    )
    rates = []
    for _ in range(4):
        it.train_step([next(batches), next(batches)])
        rates.append([x.param_groups[0]["lr"] for x in (it.g_optimizer, it.d_optimizer)])
    assert rates == [[1, 1], [2, 2], [3, 3], [3, 3]]


def test_batch_that_has_no_such_parts_is_refused(write, train):
    status, message = train(write(("batch_size = 16", "batch_size = 16\naccumulate = 3")))
    assert status == 2
    assert "16 cannot be shared by 1 processes in 3 parts; make it a multiple of 3" in message


def test_average_has_a_half_life_in_samples_and_a_number_is_the_decay_of_a_step(examples, write):
    def average(*settings):
        return examples.reading.read_config(examples.config.Config, write(), settings).ema

    assert average("ema=0.5").model_dump() == {"half_life": pytest.approx(16), "rampup": None}
    assert average("ema=0.5", "batch_size=8").half_life == pytest.approx(8)
    assert average("ema=0") is None
    table = average("ema={half_life=500, rampup=0.1}").model_dump()
    assert table == {"half_life": 500, "rampup": 0.1}


def test_without_an_average_samples_come_from_the_generator(trainer):
    it, batches = trainer(("ema = 0.9", ""))
    it.train_step([next(batches)])
    assert "ema" not in it.parts()
    assert torch.equal(it.sample(5, seed=3), it.generator(it.latents(5, seed=3)))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("changes", [[], [("log_every = 1", "log_every = 1\nreuse_fakes = true")]])
def test_compiled_networks_make_the_steps_of_plain_ones(trainer, monkeypatch, changes):
    compiled, compiling = [], nn.Module.compile

    def with_a_quick_backend(module):
        compiled.append(module)
        compiling(module, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", with_a_quick_backend)
    steps = []
    for compile in ("false", "true"):
        it, batches = trainer(("steps = 12", f"steps = 12\ncompile = {compile}"), *changes)
        values = [it.train_step([next(batches)]) for _ in range(3)]
        steps.append((values, it.sample(5, seed=1)))
    assert compiled == [it.generator, it.critic]
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-4, atol=1e-5)


def test_mixed_precision_runs_the_networks_in_bfloat16_and_keeps_float32_weights(trainer):
    it, batches = trainer(("steps = 12", 'steps = 12\nprecision = "bfloat16"'))
    dtypes = set()
    for network in (it.generator, it.critic):
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(lambda m, a, out: dtypes.add(out.dtype))
    values = it.train_step([next(batches)])
    assert torch.bfloat16 in dtypes
    states = [*it.generator.parameters(), *it.critic.parameters(), *it.ema.parameters()]
    assert {p.dtype for p in states} == {torch.float32}
    assert {p.grad.dtype for p in it.critic.parameters()} == {torch.float32}
    other, batches = trainer()
    plain = other.train_step([next(batches)])
    assert values["d_loss"] == pytest.approx(plain["d_loss"], rel=0.02)
    assert values["g_loss"] == pytest.approx(plain["g_loss"], rel=0.02)


# --- classes -------------------------------------------------------------------------------------

CONDITIONAL = """
batch_size = 8
steps = 3
log_every = 1

[data]
name = "digits"

[generator]
block = "ResNetGenerator"
latent_dim = 4
image_size = 8
channels = 1
widths = [4, 4]
num_classes = 10

[discriminator]
block = "ResNetDiscriminator"
channels = 1
widths = [4, 4]
downsamplings = 1
num_classes = 10

[loss]
block = "HingeLoss"

[generator_optimizer]
name = "Adam"

[discriminator_optimizer]
name = "Adam"
"""


@pytest.fixture
def conditional(examples, tmp_path):
    def make(*settings):
        file = tmp_path / "conditional.toml"
        file.write_text(CONDITIONAL)
        config = examples.reading.read_config(examples.config.Config, file, settings)
        return examples.train.Trainer(config, tmp_path, torch.device("cpu"))

    return make


PENALTIES = (
    'penalties=[{block="R1Penalty"}, {block="R2Penalty"}, {block="GradientPenalty"}]',
    "loss.block=RelativisticLoss",
    'auxiliary=[{term={block="FeatureMatchingLoss"}, layers=["pool"]}]',
    "accumulate=2",
)


@pytest.mark.parametrize("settings", [(), PENALTIES], ids=["plain", "penalties"])
def test_each_network_gets_the_labels_of_the_real_samples(conditional, settings):
    it = conditional(*settings)
    it.check()
    x, labels = next(it.batches())
    given = {"generator": [], "critic": []}
    for name, seen in given.items():
        getattr(it, name).register_forward_pre_hook(
            lambda m, inputs, seen=seen: seen.append(inputs[1])
        )
    values = it.train_step([(x, labels)])
    assert all(map(math.isfinite, values.values()))
    for seen in given.values():
        parts = labels.chunk(it.config.accumulate)
        assert all(any(torch.equal(y, part) for part in (*parts, labels)) for y in seen)
        assert len(seen) >= 2


def test_samples_after_the_step_have_the_classes_of_the_critic_s_last_batch(
    conditional, monkeypatch
):
    it, seen = conditional("critic_steps=2"), []
    monkeypatch.setattr(it, "judge", lambda z, labels: seen.append(labels))
    reals = [batch for batch, _ in zip(it.batches(), range(2), strict=False)]
    it.train_step(reals)
    assert [labels.tolist() for labels in seen] == [reals[1][1].tolist()]
    assert reals[0][1].tolist() != reals[1][1].tolist()


def test_rows_of_a_picture_are_classes(conditional, examples):
    it = conditional()
    samples = it.sample(30, seed=0)
    z = it.latents(30, seed=0)
    labels = torch.tensor([0] * 10 + [1] * 10 + [2] * 10)
    with examples.evaluate.evaluation_mode(it.generator):
        assert torch.equal(samples, it.generator(z, labels))
    assert torch.equal(it.sample(30, 0, labels.flip(0))[0], it.sample(30, 0, labels * 0 + 2)[0])


def test_labels_of_the_data_are_those_of_its_samples(conditional):
    it = conditional()
    images, labels = it.dataset.tensors
    for x, y in zip(*next(it.batches()), strict=True):
        (where,) = torch.where((images == x).flatten(1).all(1))
        assert labels[where[0]] == y


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            ["generator.num_classes=0"],
            "generator has 0 classes and the discriminator 10; give both",
        ),
        (
            ["generator.num_classes=7", "discriminator.num_classes=7"],
            "the networks have 7 classes and digits has 10 classes; set num_classes = 10",
        ),
        (["data.name=ring"], "the networks have 10 classes and ring has no labels"),
    ],
)
def test_classes_that_do_not_fit_are_refused(conditional, examples, settings, expected):
    with pytest.raises(examples.data.UsageError, match=expected):
        conditional(*settings).check()


# --- what a run writes -------------------------------------------------------------------------


def test_run_writes_log_pictures_board_checkpoint_and_metrics(write, train, tmp_path):
    assert train(write(("log_every = 1", "log_every = 5"))) == (0, "")
    out = tmp_path / "out"
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10]
    names = {"step", "d_loss", "d_gradient", "d_real"}
    names |= {"g_loss", "g_gradient", "d_fake_before", "d_fake_after"}
    names |= {"seconds_per_step", "samples_per_second"}
    assert all(set(line) == names for line in lines)
    assert all(0 < line["d_fake_after"] < 1 for line in lines)
    assert sorted(p.name for p in (out / "samples").iterdir()) == ["0000008.png", "0000012.png"]
    assert (out / "curves.png").stat().st_size > 0
    assert list((out / "tensorboard").iterdir())
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {"step", "modes", "high_quality", "reverse_kl"}
    assert metrics["step"] == 12
    assert not list(out.glob("*.tmp"))


def test_evaluation_of_a_finished_run_gives_its_metrics_again(
    examples, write, train, tmp_path, capsys
):
    train(write())
    expected = (tmp_path / "out" / "metrics.json").read_text()
    assert examples.evaluate.main([str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == expected


def test_plugin_s_loss_and_auxiliary_term_and_a_lazy_penalty_train_and_resume(
    examples, write, train, tmp_path
):
    (tmp_path / "my_blocks.py").write_text(PLUGIN)
    config = write(
        ('block = "RelativisticLoss"', 'block = "my_blocks/SquareLoss"\nscale = 3.0'),
        (
            '{ block = "R1Penalty", gamma = 0.1 }',
            '{ block = "Lazy", penalty = { block = "R1Penalty", gamma = 0.1 }, every = 5 }',
        ),
        (
            "[data]",
            'plugins = ["./my_blocks.py"]\n'
            'auxiliary = [{ term = { block = "my_blocks/Gap" }, weight = 0.5 }]\n\n[data]',
        ),
    )
    assert train(config, "--set", "steps=7") == (0, "")
    assert train(config, "--resume") == (0, "")
    state = parts(tmp_path / "out")
    assert state["auxiliary.0"]["calls"] == 12
    assert state["loss"]["calls"] == 12
    assert state["penalties.0"] == {"_extra_state": 12}
    assert examples.evaluate.main([str(tmp_path / "out"), "--device", "cpu"]) == 0


def test_auxiliary_term_enters_with_its_weight(trainer, tmp_path):
    (tmp_path / "my_blocks.py").write_text(PLUGIN)
    values = []
    for weight in (0.0, 0.5):
        it, batches = trainer(
            (
                "[data]",
                'plugins = ["./my_blocks.py"]\n'
                f'auxiliary = [{{ term = {{ block = "my_blocks/Gap" }}, weight = {weight} }}]\n'
                "\n[data]",
            )
        )
        real, z = next(batches), it.latents(16)
        gap = it.auxiliary[0](it.critic(*real), it.critic(it.generator(z))).item()
        values.append(it.generator_step(real, z)["g_loss"])
    assert values[1] - values[0] == pytest.approx(0.5 * gap, rel=1e-4)


# --- resuming ----------------------------------------------------------------------------------


OPTIONS = [
    (
        "steps = 12",
        'steps = 12\ncritic_steps = 2\nreuse_fakes = true\nprecision = "bfloat16"\nclip_gradient = 1.0',
    ),
    MATCHING,
    ("[discriminator]", 'norm = "virtual"\n\n[discriminator]'),
    ("[loss]", 'norm = "virtual"\nminibatch_kernels = 4\n\n[loss]'),
]


@pytest.mark.parametrize(("stop", "changes"), [("1", []), ("5", []), ("7", []), ("7", OPTIONS)])
def test_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(
    write, train, tmp_path, stop, changes
):
    config = write(*changes)
    assert train(config, out="whole")[0] == 0
    assert train(config, "--set", f"steps={stop}", out="parts")[0] == 0
    torch.rand(5)  # whatever happens in between
    assert train(config, "--resume", out="parts")[0] == 0
    assert same(parts(tmp_path / "whole"), parts(tmp_path / "parts"))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    metrics = [(tmp_path / run / "metrics.json").read_text() for run in ("whole", "parts")]
    assert metrics[0] == metrics[1]


def test_every_random_number_goes_on_where_it_was(examples):
    numbers = examples.checkpoint.RandomNumbers(0, torch.device("cpu"))

    def drawn():
        return [
            random.random(),
            np.random.rand(),  # noqa: NPY002
            torch.rand(()).item(),
            torch.rand((), generator=numbers.draws).item(),
        ]

    drawn()
    state = numbers.state_dict()
    expected, later = drawn(), drawn()
    numbers.load_state_dict(state)
    assert drawn() == expected
    assert all(a != b for a, b in zip(expected, later, strict=True))


def test_run_killed_at_20_moments_goes_on_to_the_last_bit_each_time(write, tmp_path):
    config = write(("steps = 12", "steps = 40"), ("checkpoint_every = 5", "checkpoint_every = 7"))
    script = Path(__file__).with_name("kill_runs.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(config)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.startswith("20 runs killed")


def test_line_of_the_log_that_was_cut_off_is_dropped(write, train, tmp_path):
    config = write()
    assert train(config, "--set", "steps=7") == (0, "")
    with (tmp_path / "out" / "log.jsonl").open("a") as file:
        file.write('{"step": 99999, "d_lo')
    assert train(config, "--resume") == (0, "")
    assert [line["step"] for line in log_of(tmp_path / "out")] == list(range(1, 13))


@pytest.mark.parametrize("line", [b"no json", b"\xff\xfe\x00", b"[1]", b'{"loss": 1}'])
def test_damaged_line_of_the_log_is_named(write, train, tmp_path, line):
    config, path = write(), tmp_path / "out" / "log.jsonl"
    train(config, "--set", "steps=7")
    whole = path.read_bytes()
    path.write_bytes(whole + line + b"\n")
    status, message = train(config, "--resume")
    assert status == 2
    assert re.search(r"log.jsonl is damaged in line 8, .*; delete the line, and go on", message)
    path.write_bytes(whole)
    assert train(config, "--resume") == (0, "")


def test_interrupted_run_says_from_where_it_goes_on(write, train, monkeypatch):
    step = torch.optim.Adam.step

    def interrupted(self, *args):
        if self.state and {int(state["step"]) for state in self.state.values()} == {7}:
            raise KeyboardInterrupt
        return step(self, *args)

    config = write()
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", interrupted)
        status, message = train(config)
    assert status == 130
    assert message == (
        "train.py: stopped after step 7; --resume goes on from the checkpoint of step 5\n"
    )
    assert train(config, "--resume") == (0, "")


def test_folder_that_cannot_be_written_is_told(examples, write, train, monkeypatch, tmp_path):
    config = write()
    (tmp_path / "file").write_text("")
    status, message = train(config, out="file/out")
    assert status == 2
    assert re.search(
        r"file/out cannot be written \(.*Not a directory.*choose another --out", message
    )

    def gone(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(examples.plots, "samples", gone)
        status, message = train(config)
    assert status == 2
    assert re.search(r"out cannot be written \(.*No space.*make room.* --resume goes on", message)
    assert train(config, "--resume") == (0, "")


def test_full_disk_is_told_and_leaves_the_earlier_checkpoints(
    examples, write, train, tmp_path, monkeypatch
):
    config = write()
    train(config)
    names = ("checkpoint.pt", "checkpoint.previous.pt")
    before = [(tmp_path / "out" / name).read_bytes() for name in names]

    def full(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(examples.checkpoint.torch, "save", full)
        status, message = train(config, "--resume", "--set", "steps=20")
    assert status == 2
    assert "the checkpoint of step 15 cannot be written ([Errno 28] No space left" in message
    assert "checkpoint.pt still has an earlier one; make room, and go on with --resume" in message
    assert [(tmp_path / "out" / name).read_bytes() for name in names] == before
    assert not list((tmp_path / "out").glob("*.tmp"))
    assert train(config, "--resume", "--set", "steps=20") == (0, "")


def test_limit_of_the_system_on_the_size_of_a_file_is_told(examples, tmp_path):
    path = tmp_path / "checkpoint.pt"
    state = {"step": 4, "device": "cpu"}
    examples.checkpoint.save(state, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(examples.data.UsageError, match=r"step 5 .*\[Errno 27\] File too large"):
            examples.checkpoint.save({"step": 5, "weights": torch.zeros(100_000)}, path)
        with pytest.raises(examples.data.UsageError, match=r"none yet; make room, and start again"):
            examples.checkpoint.save(
                {"step": 0, "weights": torch.zeros(100_000)}, tmp_path / "x.pt"
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert examples.checkpoint.load(path, torch.device("cpu")) == state


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("steps = 12", "steps = = 12", r"config.toml is not valid TOML: .*line 2"),
        ("steps = 12", "stepps = 12", r"stepps: unknown key; did you mean steps\?"),
        ("steps = 12", "", r"steps: is required"),
        ("steps = 12", 'steps = "12"', r"steps: should be a valid integer"),
        ("steps = 12", "steps = 0", r"steps: should be greater than 0"),
        ("ema = 0.9", "ema = 1.0", r"ema: a decay should lie in \[0, 1\), got 1.0"),
        ("batch_size = 16", "batch_size = 200_000", r"batch_size: 200000 is more than the 100000"),
        ('name = "ring"', 'nmae = "ring"', r"data.nmae: unknown key; did you mean name\?"),
        ('name = "ring"', 'name = "rings"', r"data.name: should be 'digits', 'ring'"),
        ('name = "ring"', 'name = "ring"\nroot = "x"', r"data: ring takes no root; remove it"),
        ('name = "ring"', 'name = "MNIST"', r"data: MNIST needs root"),
        ("gamma = 0.1", "gama = 0.1", r"penalties.0.gama: unknown argument; did you mean gamma\?"),
        ("weight = 1.0", 'weight = "1"', r"penalties.1.weight: should be a valid number"),
        ("RelativisticLoss", "RelativisticLos", r"did you mean RelativisticLoss\?"),
        ("RelativisticLoss", "R1Penalty", r"'R1Penalty' is a penalty, but a loss is wanted"),
        ("RelativisticLoss", "nowhere/Loss", r"loss.block: .*nowhere"),
        ("lr = 1e-3\nbetas", "lr = -1.0\nbetas", r"generator_optimizer: .*Invalid learning rate"),
        ("lr = 1e-3\nbetas", "lrr = 1e-3\nbetas", r"generator_optimizer: .*'lrr'"),
        ('"Adam"\nlr = 1e-3\nb', '"Adm"\nlr = 1e-3\nb', r"generator_optimizer: .*did you mean Adam"),
        ('"Adam"\nlr = 1e-3\nbetas = [0.0, 0.99]', '"LBFGS"', r"LBFGS cannot step: .*closure"),
        ("output_shape = [2]", "output_shape = [3]", r"generator, discriminator, loss and data do"),
        ("input_shape = [2]", "input_shape = [1, 8, 8]", r"do not fit: .*\(N, 1, 8, 8\)"),
        ("[data]", 'plugins = ["no.py"]\n[data]', r"plugins: .*no.py cannot be used .*No such"),
        ("[data]", 'auxiliary = [{ term = { block = "FeatureMatchingLoss" }, layers = [] }]\n[data]',
         r"auxiliary.0.layers: .*at least 1"),
        ("[data]", 'auxiliary = [{ trem = 1 }]\n[data]', r"auxiliary.0.trem: .* did you mean term"),
    ],
)  # fmt: skip
def test_bad_config_is_refused_in_one_message_that_names_the_place(
    write, train, tmp_path, old, new, expected
):
    status, message = train(write((old, new)))
    assert status == 2
    assert re.search(expected, message), message
    assert "Traceback" not in message
    assert not (tmp_path / "out").exists()


def test_all_problems_of_a_config_are_told_at_once(write, train):
    _, message = train(write(("steps = 12", "stepps = 12"), ("gamma", "gama"), ("width", "widht")))
    for place in ("stepps", "penalties.0.gama", "generator.widht", "discriminator.widht"):
        assert place in message


def test_missing_config_is_refused(train, tmp_path):
    status, message = train(tmp_path / "none.toml")
    assert status == 2
    assert "none.toml cannot be read (No such file or directory); check the path" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [("x = (", "SyntaxError"), ("x = 1", "adds no block"), ("1 / 0", "ZeroDivisionError")],
)
def test_broken_plugin_is_refused(write, train, tmp_path, text, expected):
    (tmp_path / "mine.py").write_text(text)
    status, message = train(write(("[data]", 'plugins = ["mine.py"]\n[data]')))
    assert status == 2
    assert "mine.py cannot be used" in message
    assert expected in message


def test_device_that_does_not_exist_is_refused(write, examples, tmp_path, capsys):
    status = examples.train.main([str(write()), "--out", str(tmp_path / "o"), "--device", "gpu9"])
    assert status == 2
    assert "--device gpu9 cannot be used" in capsys.readouterr().err


def test_folder_that_holds_a_run_is_not_overwritten(write, train, tmp_path):
    config = write()
    train(config)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    status, message = train(config)
    assert status == 2
    assert "already holds a run: add --resume, or choose another --out" in message
    assert before == {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}


def test_output_path_that_is_a_file_is_refused(write, train, tmp_path):
    (tmp_path / "out").write_text("mine")
    status, message = train(write())
    assert status == 2
    assert "out" in message
    assert (tmp_path / "out").read_text() == "mine"


def test_resume_without_a_run_is_refused(write, train, tmp_path):
    status, message = train(write(), "--resume")
    assert status == 2
    assert "checkpoint.pt is not there" in message
    assert not (tmp_path / "out").exists()


def test_resume_with_another_config_is_refused_and_names_the_difference(write, train, tmp_path):
    train(write())
    before = (tmp_path / "out" / "checkpoint.pt").read_bytes()
    status, message = train(write(("batch_size = 16", "batch_size = 8")), "--resume")
    assert status == 2
    assert "batch_size was 16 and is 8" in message
    assert "another --out" in message
    assert (tmp_path / "out" / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "zeros", "other", "pickle", "poor"])
def test_damaged_checkpoint_is_refused_and_kept(write, train, tmp_path, damage):
    config = write()
    train(config)
    path = tmp_path / "out" / "checkpoint.pt"
    whole = path.read_bytes()
    if damage == "other":
        torch.save({"weights": torch.ones(3)}, path)
    elif damage == "pickle":
        torch.save(Path("a class that weights_only refuses"), path)
    elif damage == "poor":
        state = torch.load(path, weights_only=True)
        del state["parts"]["critic"]["layers.1.weight"]
        torch.save(state, path)
    else:
        middle = len(whole) // 2
        zeros = whole[:middle] + bytes(512) + whole[middle + 512 :]  # a block that never came
        files = {"empty": b"", "cut": whole[:middle], "noise": b"\x80x", "zeros": zeros}
        path.write_bytes(files[damage])
    before = path.read_bytes()
    status, message = train(config, "--resume")
    assert status == 2
    assert "checkpoint.pt is damaged" in message
    assert "rename checkpoint.previous.pt, the one before it, to checkpoint.pt" in message
    assert "another --out" in message
    assert path.read_bytes() == before
    path.with_name("checkpoint.previous.pt").rename(path)
    assert train(config, "--resume") == (0, "")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("steps", r"--set steps has no value; write --set KEY=VALUE"),
        ("=3", r"--set =3 cannot be read"),
        ("steps=many", r"steps: should be a valid integer"),
        ("generator.widht=3", r"generator.widht: unknown argument; did you mean width\?"),
        ("generator=3", r"generator: "),
    ],
)
def test_bad_setting_is_refused(write, train, setting, expected):
    status, message = train(write(), "--set", setting)
    assert status == 2
    assert re.search(expected, message), message
    assert "Traceback" not in message


# --- configs that extend others, and settings ------------------------------------------------------


def test_config_lies_over_the_one_that_it_extends(examples, write, tmp_path):
    write(name="base.toml")
    (tmp_path / "middle.toml").write_text(
        'extends = "base.toml"\nsteps = 7\n[generator]\nwidth = 3\n'
    )
    file = tmp_path / "top.toml"
    file.write_text('extends = "middle.toml"\n[generator]\ndepth = 2\n')
    config = examples.reading.read_config(examples.config.Config, file, ["seed=5", "seed=6"])
    assert (config.steps, config.seed) == (7, 6)
    base = examples.reading.read_config(examples.config.Config, tmp_path / "base.toml")
    assert config.generator == base.generator | {"width": 3, "depth": 2}
    assert config.model_dump(exclude={"steps", "seed", "generator"}) == base.model_dump(
        exclude={"steps", "seed", "generator"}
    )


def test_another_block_or_data_set_takes_the_place_of_the_old_one_whole(examples, write):
    read = lambda *settings: examples.reading.read_config(  # noqa: E731
        examples.config.Config, write(), settings
    )
    config = read('discriminator={block="DCGANDiscriminator", image_size=8}')
    assert config.discriminator == gan_blocks.to_spec(gan_blocks.DCGANDiscriminator(8))
    config = read('data={name="MNIST", root="x"}', "data.image_size=8")
    assert (config.data.name, config.data.root, config.data.image_size) == ("MNIST", "x", 8)
    assert read("data.name=grid").data.root is None
    assert read("data.name=digits", "loss.block=HingeLoss").loss["block"] == "HingeLoss"


def test_value_that_is_no_toml_is_a_string(examples, write):
    file = write(('name = "ring"', 'name = "MNIST"\nroot = "x"'))

    def read(setting):
        return examples.reading.read_config(examples.config.Config, file, [setting]).data.root

    assert read("data.root=/some/path with spaces") == "/some/path with spaces"
    assert read('data.root="quoted"') == "quoted"
    assert read("data.root=a=b") == "a=b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('extends = "loop.toml"', "extends itself"),
        ('extends = "none.toml"', r"none.toml cannot be read \(No such file or directory\)"),
        ("extends = 3", "extends should be the path of a config file, got 3"),
    ],
)
def test_bad_extension_is_refused(train, tmp_path, text, expected):
    (tmp_path / "loop.toml").write_text(text)
    status, message = train(tmp_path / "loop.toml")
    assert status == 2
    assert re.search(expected, message), message


# --- data --------------------------------------------------------------------------------------


def image_config(write, data, side=8, channels=1):
    shape = f"[{channels}, {side}, {side}]"
    return write(
        ('name = "ring"', data),
        ("output_shape = [2]", f"output_shape = {shape}"),
        ("input_shape = [2]", f"input_shape = {shape}"),
        ("steps = 12", "steps = 2"),
        ("batch_size = 16", "batch_size = 4"),
    )


def test_digits_are_1797_images_in_minus_one_to_one(examples):
    dataset = examples.data.load(examples.data.DataConfig(name="digits"), Path(), 0)
    images, labels = dataset.tensors
    assert images.shape == (1797, 1, 8, 8)
    assert (images.min(), images.max()) == (-1, 1)
    assert labels.unique().tolist() == list(range(10))


def test_image_folder_trains_on_images_of_any_size(examples, write, train, tmp_path, capsys):
    random = np.random.default_rng(0)
    for name, size in (("a/1.png", (9, 12)), ("a/2.png", (8, 8)), ("b/3.png", (20, 10)),
                       ("b/4.png", (8, 30))):  # fmt: skip
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    data = 'name = "ImageFolder"\nroot = "images"\nimage_size = 8'
    assert train(image_config(write, data, channels=3)) == (0, "")
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert examples.evaluate.main([str(tmp_path / "out"), "--device", "cpu"]) == 2
    told = capsys.readouterr().err
    assert told == "evaluate.py: ImageFolder has no metrics of its own; add --inception 10000\n"
    assert examples.evaluate.main([str(tmp_path / "out"), "--inception", "-1"]) == 2
    assert capsys.readouterr().err == "evaluate.py: --inception: should be 0 or more, got -1\n"
    (tmp_path / "images" / "b" / "4.png").write_bytes(b"no image")
    status, message = train(image_config(write, data, channels=3), out="other")
    assert status == 2
    assert "4.png" in message


def test_mnist_is_read_from_its_files_and_scaled(
    examples, write, train, tmp_path, monkeypatch, write_mnist
):
    monkeypatch.setattr(examples.train, "evaluate_run", lambda trainer, out: {})
    pixels = np.zeros((6, 28, 28))
    pixels[:, 14:] = 255
    write_mnist(tmp_path / "files", pixels)
    data = 'name = "MNIST"\nroot = "files"'
    config = image_config(write, data, side=28)
    assert train(config) == (0, "")
    dataset = examples.data.load(
        examples.data.DataConfig(name="MNIST", root="files"), tmp_path, seed=0
    )
    batch = next(examples.data.batches(dataset, 4, seed=0))
    assert batch.shape == (4, 1, 28, 28)
    assert (batch[:, :, :14] == -1).all()
    assert (batch[:, :, 14:] == 1).all()


@pytest.mark.skipif("GAN_BLOCKS_MNIST" not in os.environ, reason="GAN_BLOCKS_MNIST is not set")
def test_mnist_of_the_user_trains_and_is_evaluated(write, train, tmp_path):
    data = f'name = "MNIST"\nroot = "{os.environ["GAN_BLOCKS_MNIST"]}"'
    assert train(image_config(write, data, side=28)) == (0, "")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["classifier_accuracy"] >= 0.97


def test_missing_image_folder_is_refused(write, train, tmp_path):
    data = 'name = "ImageFolder"\nroot = "nowhere"\nimage_size = 8'
    status, message = train(image_config(write, data, channels=3))
    assert status == 2
    assert re.search(r"data.root: .*nowhere.* one folder of images per class", message)
    assert not (tmp_path / "out").exists()


def test_data_that_cannot_be_downloaded_is_refused(write, train, monkeypatch, tmp_path):

    def offline(self):
        raise OSError("network is unreachable")

    monkeypatch.setattr(datasets.MNIST, "download", offline)
    status, message = train(image_config(write, 'name = "FashionMNIST"\nroot = "files"', side=28))
    assert status == 2
    assert "has no readable FashionMNIST, and it cannot be downloaded" in message
    assert "network is unreachable" in message
    assert not (tmp_path / "out").exists()


def test_torchvision_is_imported_only_when_it_is_asked_for(examples):
    code = f"""
import sys
import tomllib
sys.path.insert(0, {str(examples.folder)!r})
import train
sys.exit("torchvision" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- the configs that ship -----------------------------------------------------------------------


CONFIGS = sorted((Path(__file__).parents[1] / "examples" / "configs").glob("*.toml"))


@pytest.fixture(scope="module")
def few_digits(tmp_path_factory, write_mnist):
    """A folder with MNIST files of 40 images."""
    root = tmp_path_factory.mktemp("mnist")
    write_mnist(root, np.random.default_rng(0).integers(0, 256, (40, 28, 28)))
    return root


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_shipped_config_trains(examples, file, few_digits):
    settings = ["batch_size=4", "log_every=1"]
    if examples.reading.read_config(examples.config.Config, file).data.name.endswith("MNIST"):
        settings.append(f"data.root={few_digits}")
    config = examples.reading.read_config(examples.config.Config, file, settings)
    trainer = examples.train.Trainer(config, file.parent, torch.device("cpu"))
    trainer.check()
    batches = trainer.batches()
    values = trainer.train_step([next(batches) for _ in range(config.critic_steps)])
    assert all(map(math.isfinite, values.values()))
    assert values["g_gradient"] > 0


@pytest.mark.parametrize("file", [f for f in CONFIGS if f.stem.endswith("_small")], ids=str)
def test_small_form_differs_from_the_large_one_in_size_and_pace_only(examples, file):
    large = file.with_name(file.name.replace("_small", ""))
    read = lambda f: examples.reading.read_config(examples.config.Config, f)  # noqa: E731
    a, b = read(large).model_dump(), read(file).model_dump()
    for config in (a, b):
        for table, key in (
            ("data", "image_size"), ("generator", "image_size"), ("discriminator", "image_size"),
            ("generator", "width"), ("discriminator", "width"),
        ):  # fmt: skip
            assert config[table].pop(key) > 0
        for key in ("steps", "ema"):
            config.pop(key)
        (config["constraint"] or {"bound": 1}).pop("bound")
        for side in ("generator_optimizer", "discriminator_optimizer"):
            assert config[side].pop("lr") > 0
        for item in config["auxiliary"]:  # the last hidden layer has another number
            item.pop("layers")
    assert a == b


CONFIGS = sorted((Path(__file__).parents[1] / "examples/configs").glob("*.toml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_schema_of_configs_takes_those_that_ship(examples, file):
    validator = jsonschema.Draft202012Validator(examples.config.schema())
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    validator.validate(table)
    assert not validator.is_valid(table | {"stepz": 1})
    if not {"extends", "preset"} & set(table):
        assert not validator.is_valid(table | {"loss": {"block": "HingLoss"}})
        assert not validator.is_valid({key: table[key] for key in table if key != "loss"})
