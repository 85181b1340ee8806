"""Stacked MNIST: the data, the metrics against the loop over their definition, and the whole way."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

N = 26_000


@pytest.fixture(scope="module")
def stacked(examples):
    return examples.stacked_mnist


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_mnist):
    """MNIST files of 100 images that a glance tells apart: the label is the row of a bright line."""
    root = tmp_path_factory.mktemp("mnist")
    images = np.zeros((100, 28, 28))
    for i in range(100):
        images[i, 4 + 2 * (i % 10)] = 200 + i // 10
    write_mnist(root, images)
    return root


@pytest.fixture(scope="module")
def load(examples, root):
    def load(seed=0, image_size=28):
        config = examples.data.DataConfig(
            name="StackedMNIST", root=str(root), image_size=image_size
        )
        return examples.data.load(config, Path(), seed)

    return load


def test_a_stack_is_three_digits_and_its_label_has_them_as_places(load):
    dataset = load()
    images, labels = dataset[torch.arange(200)]
    assert images.shape == (200, 3, 28, 28)
    assert (images.min(), len(dataset)) == (-1, 128_000)
    rows = (images.amax(3).argmax(2) - 4) // 2  # of the bright line, by channel
    assert labels.tolist() == (rows @ torch.tensor([100, 10, 1])).tolist()
    assert (rows[:, 0] != rows[:, 1]).any()
    # One at a time they are the same as in a batch.
    assert torch.equal(dataset[7][0], images[7])
    assert dataset[7][1] == labels[7]


def test_stacks_are_drawn_evenly_and_independently_of_each_other(load, stacked):
    labels = load().tensors[1]
    metrics = stacked.histogram_metrics(labels)
    assert metrics["modes"] == 1000
    # The mean over histograms of n draws among K kinds is (K - 1) / 2n.
    assert metrics["reverse_kl"] == pytest.approx(999 / 2 / len(labels), rel=0.15)


def test_batch_depends_on_seed_and_position_only_and_processes_share_it(examples, load):
    def first(dataset, seed, start=0, process=(0, 1)):
        return next(examples.data.items(dataset, 8, seed, start, process))

    whole = [first(load(), 3, start) for start in range(3)]
    again = examples.data.items(load(), 8, 3)
    for (x, labels), (y, same) in zip(whole, again, strict=False):
        assert torch.equal(x, y)
        assert torch.equal(labels, same)
    parts = [first(load(), 3, 2, (rank, 2))[0] for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole[2][0])
    assert not torch.equal(first(load(1), 3)[0], whole[0][0])
    assert first(load(image_size=32), 3)[0].shape == (8, 3, 32, 32)


def test_data_without_files_names_its_root(examples, tmp_path, monkeypatch):
    from torchvision import datasets

    def offline(self):
        raise OSError("network is unreachable")

    monkeypatch.setattr(datasets.MNIST, "download", offline)
    config = examples.data.DataConfig(name="StackedMNIST", root="nowhere")
    with pytest.raises(
        examples.data.UsageError, match=r"data.root: .*nowhere has no readable MNIST"
    ):
        examples.data.load(config, tmp_path, 0)
    with pytest.raises(ValueError, match="StackedMNIST needs root"):
        examples.data.DataConfig(name="StackedMNIST")


def test_histogram_metrics_equal_the_loop_over_the_definition(stacked):
    labels = torch.randint(0, 40, (500,), generator=torch.Generator().manual_seed(0)) ** 2 % 1000
    counts = [0] * 1000
    for label in labels.tolist():
        counts[label] += 1
    divergence = sum(c / 500 * math.log(c / 500 / (1 / 1000)) for c in counts if c)
    assert stacked.histogram_metrics(labels) == {
        "modes": sum(c > 0 for c in counts),
        "reverse_kl": pytest.approx(divergence, rel=1e-9),
    }


def test_one_mode_has_the_largest_divergence_and_an_even_spread_none(stacked):
    one = stacked.histogram_metrics(torch.full((N,), 7))
    assert one == {"modes": 1, "reverse_kl": pytest.approx(math.log(1000))}
    even = stacked.histogram_metrics(torch.arange(N) % 1000)
    assert even == {"modes": 1000, "reverse_kl": pytest.approx(0, abs=1e-12)}


@pytest.mark.parametrize(
    ("counts", "floor"),
    [
        ([1] * 10, 0.0193),
        # How often each digit occurs among MNIST's 60,000.
        ([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], 0.0236),
    ],
)
def test_divergence_of_a_perfect_sampler_is_that_of_the_table(stacked, counts, floor):
    draws = torch.Generator().manual_seed(0)
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    values = []
    for _ in range(20):
        digits = torch.multinomial(shares, 3 * N, replacement=True, generator=draws).view(3, N)
        labels = 100 * digits[0] + 10 * digits[1] + digits[2]
        values.append(stacked.histogram_metrics(labels)["reverse_kl"])
    assert sum(values) / len(values) == pytest.approx(floor, abs=8e-4)


def test_reading_puts_the_digit_of_each_channel_in_its_place(stacked):
    class Brightest(torch.nn.Module):
        """Says that the digit is the row of the brightest pixel."""

        def forward(self, x):
            assert x.shape[1:] == (1, 10, 4)
            return x.amax((1, 3))

    digits = torch.tensor([[3, 0, 9], [1, 2, 3], [0, 0, 5]] * 300)
    images = torch.zeros(900, 3, 10, 4)
    images[torch.arange(900)[:, None], torch.arange(3), digits, 1] = 20.0
    labels, confidence = stacked.read(Brightest(), images)
    assert labels.tolist() == [309, 123, 5] * 300
    assert confidence == pytest.approx(1)


def test_augmentation_moves_images_a_little_and_leaves_their_size(stacked):
    images = torch.full((64, 1, 28, 28), -1.0)
    images[:, :, 13:15, 13:15] = 1
    torch.manual_seed(0)
    moved = stacked.moved(images)
    assert moved.shape == images.shape
    assert moved[:, :, [0, -1]].max() == pytest.approx(-1)
    mass = (moved + 1).sum(1)
    places = torch.arange(28) - 13.5
    for axis in (1, 2):
        offset = (mass.sum(3 - axis) * places).sum(1) / mass.sum((1, 2))
        assert 1 < offset.abs().max() < 2.5
        assert abs(offset.mean()) < 0.6


def test_augmentation_is_a_turn_a_scale_and_a_shift(stacked, monkeypatch):
    seen, affine_grid = [], stacked.F.affine_grid
    monkeypatch.setattr(
        stacked.F,
        "affine_grid",
        lambda theta, *x, **y: (seen.append(theta), affine_grid(theta, *x, **y))[1],
    )
    torch.manual_seed(0)
    stacked.moved(torch.zeros(500, 1, 28, 28))
    (theta,) = seen
    scale = theta[:, :, :2].det().sqrt()
    turn = theta[:, :, :2] / scale[:, None, None]
    torch.testing.assert_close(turn @ turn.mT, torch.eye(2).expand(500, 2, 2))
    angle = torch.rad2deg(torch.atan2(turn[:, 1, 0], turn[:, 0, 0]))
    pixels = theta[:, :, 2] * 14
    for values, low, high in ((scale, 0.9, 1.1), (angle, -12, 12), (pixels, -2, 2)):
        room = 0.02 * (high - low)
        assert low - 1e-4 <= values.min() <= low + room
        assert high - room <= values.max() <= high + 1e-4


def test_row_of_a_run_has_its_own_metrics_and_that_of_real_images_theirs(stacked):
    found = {"step": 1000, "modes": 961, "reverse_kl": 0.5}
    found |= {"real_modes": 999, "real_reverse_kl": 0.02345}
    rows = stacked.table(found, 128).rows
    assert rows[1] == ["ours, 1,000 steps of 128", "961", "0.500"]
    assert rows[2] == ["real images", "999", "0.0234"]


def test_config_trains_and_is_evaluated_beside_the_published_rows(
    examples, stacked, root, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(stacked, "SAMPLES", 300)
    monkeypatch.setattr(examples.data, "STACKS", 2000)
    train_classifier = stacked.train_classifier
    monkeypatch.setattr(stacked, "train_classifier", lambda *x: train_classifier(*x, steps=120))
    out, docs = tmp_path / "run", tmp_path / "docs"
    for folder in ("results", "images"):
        (docs / folder).mkdir(parents=True)
    config = examples.folder / "configs" / "stacked_mnist.toml"
    settings = ["steps=2", "log_every=1", "batch_size=8", f"data.root={root}"]
    settings += ["generator.width=4", "discriminator.width=4"]
    arguments = [x for setting in settings for x in ("--set", setting)]
    train = [str(config), "--out", str(out), "--device", "cpu", *arguments]
    assert examples.train.main(train) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["classifier_accuracy"] == 1
    assert (metrics["step"], metrics["samples"]) == (2, 300)
    # Few of the modes, since there are 300 samples; and the generator has learnt nothing.
    assert 230 < metrics["real_modes"] < 290
    assert metrics["modes"] < metrics["real_modes"]
    assert metrics["reverse_kl"] > metrics["real_reverse_kl"]
    capsys.readouterr()
    assert stacked.main([str(out), "--docs", str(docs)]) == 0
    assert "| PacGAN, published" in capsys.readouterr().out
    table = (docs / "results/stacked_mnist.md").read_text()
    assert f"| {metrics['modes']} |" in table.replace("  ", "")
    assert (docs / "images/stacked_mnist.png").stat().st_size > 1000
    capsys.readouterr()
    whole = (out / "metrics.json").read_text()
    for damaged in (whole[:50], "{}", "[]"):
        (out / "metrics.json").write_text(damaged)
        assert stacked.main([str(out)]) == 2
        told = capsys.readouterr().err
        assert re.fullmatch(
            r"stacked_mnist.py: .*metrics.json is damaged .*; run evaluate.py .*\n", told
        )
    # Going on needs no other settings than a larger number of steps.
    again = [x.replace("steps=2", "steps=4") for x in train]
    assert examples.train.main([*again, "--resume"]) == 0
    assert json.loads((out / "metrics.json").read_text())["step"] == 4


def test_run_on_other_data_is_refused(examples, stacked, tmp_path, capsys):
    config = examples.folder / "configs" / "ring.toml"
    command = [str(config), "--out", str(tmp_path / "run"), "--device", "cpu", "--set", "steps=1"]
    assert examples.train.main(command) == 0
    capsys.readouterr()
    assert stacked.main([str(tmp_path / "run")]) == 2
    assert "is a run on ring; give one on StackedMNIST\n" in capsys.readouterr().err
