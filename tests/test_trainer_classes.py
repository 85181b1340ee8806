"""The trainer with labels."""

import math

import pytest
import torch

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
    with examples.evaluate.without_training(it.generator):
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
