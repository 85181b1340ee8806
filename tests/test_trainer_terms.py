"""Auxiliary terms of the trainer: each in the loss of its side, with what it compares."""

import re

import pytest
import torch
from torch import nn
from trainer_runs import PLAIN

import gan_blocks


def entry(text):
    return ("[data]", f"auxiliary = [{text}]\n\n[data]")


LECAM = '{ term = { block = "LeCamRegularizer", weight = 2.0 }, weight = 0.5 }'
ORTHOGONAL = '{{ term = {{ block = "OrthogonalRegularizer", weight = 1.0 }}, side = "{side}" }}'


def test_term_of_the_critic_is_added_to_its_loss_only(trainer):
    it, batches = trainer(entry(LECAM))
    plain, _ = trainer()
    (real,), z = next(batches), it.latents(16)
    plain.latents(16)
    logits = it.critic(real).detach(), it.critic(it.generator(z)).detach()
    expected = 0.5 * gan_blocks.LeCamRegularizer(weight=2.0)(*logits).item()
    assert expected > 0
    d, d_plain = it.critic_step((real,), z)[0], plain.critic_step((real,), z)[0]
    assert d["d_loss"] - d_plain["d_loss"] == pytest.approx(expected, rel=1e-4)
    g, g_plain = it.generator_step((real,), z), plain.generator_step((real,), z)
    assert it.watch.counts == {"constant": 0, "flat": 0}
    assert g.keys() == g_plain.keys()


@pytest.mark.parametrize("side", ["critic", "generator"])
def test_term_of_either_side_looks_at_the_network_of_the_side_that_the_config_names(trainer, side):
    it, batches = trainer(entry(ORTHOGONAL.format(side=side)))
    plain, _ = trainer()
    (real,), z = next(batches), it.latents(16)
    plain.latents(16)
    expected = gan_blocks.OrthogonalRegularizer(weight=1.0)(getattr(it, side)).item()
    steps = [
        (t.critic_step((real,), z)[0]["d_loss"], t.generator_step((real,), z)["g_loss"])
        for t in (it, plain)
    ]
    d, g = (a - b for a, b in zip(*steps, strict=True))
    if side == "critic":
        assert d == pytest.approx(expected, rel=1e-4)
    else:
        assert (d, g) == (pytest.approx(0, abs=1e-6), pytest.approx(expected, rel=1e-4))


def test_historical_averaging_averages_the_weights_of_its_side_once_per_step(trainer):
    it, batches = trainer(
        entry('{ term = { block = "HistoricalAveraging" }, side = "critic" }'),
        ("steps = 12", "steps = 12\ncritic_steps = 2\naccumulate = 4"),
    )
    seen = []
    for _ in range(3):
        for _ in range(2):
            seen.append(nn.utils.parameters_to_vector(it.critic.parameters()).detach())
            it.critic_step(next(batches), it.latents(16))
        it.generator_step(next(batches), it.latents(16))
    (term,) = it.auxiliary
    assert (int(term.averaged), int(term.step_count)) == (6, 6)
    torch.testing.assert_close(term.average, torch.stack(seen).mean(0))


def test_a_critic_s_term_does_not_stop_the_watch(trainer, examples):
    for text, counted in ((LECAM, 1), (ORTHOGONAL.format(side="generator"), 0)):
        it, _ = trainer(entry(text))
        it.watch.step(1, {"spread": 0.0, "slope": 1.0})
        assert it.watch.counts["constant"] == counted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{ term = { block = "ConsistencyRegularizer" } }',
         r"ConsistencyRegularizer compares logits of samples and of their augmented copies, and this "
         r"trainer makes none; use it in your own loop"),
        ('{ term = { block = "LayerwiseFeatureMatchingLoss" } }',
         r"LayerwiseFeatureMatchingLoss compares features of samples that belong together"),
        ('{ term = { block = "PathLengthPenalty" } }', r"PathLengthPenalty compares what only its own"),
        ('{ term = { block = "AdaptiveWeight" } }', r"AdaptiveWeight compares what only its own"),
        ('{ term = { block = "GradientBalancer", weights = { l1 = 1.0 } } }', r"Balancer compares"),
        ('{ term = { block = "OrthogonalRegularizer" } }', r'add side = "critic" or "generator"'),
        ('{ term = { block = "LeCamRegularizer" }, side = "generator" }',
         r"LeCamRegularizer belongs to the loss of the critic; remove side"),
        ('{ term = { block = "FeatureMatchingLoss" }, side = "critic" }',
         r"FeatureMatchingLoss belongs to the loss of the generator; remove side"),
        ('{ term = { block = "LeCamRegularizer" }, layers = ["layers.0"] }',
         r"LeCamRegularizer compares no layers; remove layers"),
        ('{ term = { block = "CosineSchedule", start = 1.0, end = 0.0, steps = 3 } }',
         r"'CosineSchedule' is a schedule, but an? auxiliary"),
        ('{ term = { block = "R1Penalty" } }', r"'R1Penalty' is a penalty, but an? auxiliary"),
        ('{ term = { block = "LeCamRegularizer" }, side = "both" }', r"should be 'critic' or 'gen"),
    ],
)  # fmt: skip
def test_term_that_has_no_place_is_refused_with_what_it_compares(
    write, train, tmp_path, text, expected
):
    status, message = train(write(entry(text)))
    assert status == 2
    assert re.search(rf"auxiliary.0[.\w]*: .*{expected}", message), message
    assert not (tmp_path / "out").exists()


def test_terms_that_cannot_look_at_the_network_are_refused_before_the_first_step(write, train):
    sub_critics = '{ term = { block = "LeCamRegularizer", discriminators = 3 } }'
    status, message = train(write(entry(sub_critics)))
    assert status == 2
    assert "do not fit: LeCamRegularizer keeps averages of 3 sub-discriminators" in message


def test_real_logits_are_computed_for_the_generator_where_the_signature_requires_them(
    examples, trainer
):
    needs = examples.steps.needs_real_logits

    class Optional(nn.Module):
        def generator(self, fake_logits, *, real_logits=None):
            assert real_logits is None, "nobody asked for it"
            return fake_logits.mean()

    class Required(nn.Module):
        def generator(self, fake_logits, real_logits):
            return (fake_logits - real_logits).mean()

    class Without(nn.Module):
        def generator(self, fake_logits):
            raise ValueError("a loss that fails is not asked")

    assert [needs(loss()) for loss in (Optional, Required, Without)] == [False, True, False]
    for name, needed in (("RelativisticLoss", True), ("NonSaturatingLoss", False)):
        it, _ = trainer((PLAIN[0], name))
        assert it.g_side.needs_real is needed


def test_names_of_terms_are_made_once(trainer, monkeypatch):
    it, batches = trainer(entry(LECAM))
    for kind in (gan_blocks.R1Penalty, gan_blocks.LeCamRegularizer):
        monkeypatch.setattr(kind, "__repr__", lambda self: pytest.fail("a repr in a step"))
    it.train_step([next(batches)])
