"""The comparison on MNIST at toy size: it goes on where it was, and shows what it found."""

import csv
import importlib
import os
import re
import signal

import numpy as np
import pytest


@pytest.fixture(scope="module")
def comparison(examples):
    return importlib.import_module("mnist_comparison")


@pytest.fixture
def toy(comparison, examples, write_mnist, tmp_path, monkeypatch):
    """Noise in place of digits, a classifier that has hardly seen it, and four steps at most."""
    root = tmp_path / "files"
    write_mnist(root, np.random.default_rng(0).integers(0, 256, (80, 28, 28)))
    monkeypatch.setenv("GAN_BLOCKS_MNIST", str(root))
    methods = {method: (name, 4) for method, (name, _) in comparison.METHODS.items()}
    monkeypatch.setattr(comparison, "METHODS", methods)
    monkeypatch.setattr(examples.evaluate, "IMAGES", 60)
    train_classifier = examples.evaluate.train_classifier
    monkeypatch.setattr(
        examples.evaluate, "train_classifier", lambda *x: train_classifier(*x, steps=2)
    )
    cost = comparison.cost
    monkeypatch.setattr(comparison, "cost", lambda trainer: cost(trainer, steps=1))
    comparison.real_images.cache_clear()
    yield tmp_path / "out"
    comparison.real_images.cache_clear()


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_study_goes_on_from_a_smaller_part_and_writes_table_and_pictures(
    comparison, examples, toy, tmp_path, capsys
):
    docs = tmp_path / "docs"
    for folder in ("results", "images"):
        (docs / folder).mkdir(parents=True)
    assert comparison.main(["--out", str(toy), "--part", "0.5"]) == 0
    first = rows_of(toy / "mnist.csv")
    assert [(row["method"], row["steps"]) for row in first] == [
        (method, "2") for method in comparison.METHODS
    ]
    # The last method was not finished.
    lines = (toy / "mnist.csv").read_text().splitlines(keepends=True)
    (toy / "mnist.csv").write_text("".join(lines[:-1]))
    trained = []
    for method in comparison.METHODS:
        trained.append((comparison.folder_of(toy, method, 0) / "checkpoint.pt").stat().st_mtime)
    arguments = ["--out", str(toy), "--docs", str(docs)]
    assert comparison.main([*arguments, "--part", "0.5"]) == 0
    again = rows_of(toy / "mnist.csv")
    assert again[:-1] == first[:-1]
    same = [key for key in first[-1] if key != "ms_per_step"]
    assert [again[-1][key] for key in same] == [first[-1][key] for key in same]
    for method, time in zip(comparison.METHODS, trained, strict=True):
        path = comparison.folder_of(toy, method, 0) / "checkpoint.pt"
        assert path.stat().st_mtime == time, "a finished run was trained again"
    assert comparison.main(arguments) == 0
    assert [row["steps"] for row in rows_of(docs / "results/mnist.csv")] == ["2"] * 4 + ["4"] * 4
    table = (docs / "results/mnist.md").read_text()
    # Two of the four take five critic steps with each of theirs.
    for line, images in zip(table.splitlines()[2:], ("128", "640", "640", "128"), strict=False):
        assert f"|     4 | {images:>16} |" in line
    assert "| real images" in table
    for name in ("mnist", "mnist_losses", "mnist_tutorial"):
        assert (docs / "images" / f"{name}.png").stat().st_size > 1000
    capsys.readouterr()
    assert comparison.main(["--out", str(toy), "--part", "1.5"]) == 2
    assert "--part: should be above 0, and 1 at most, got 1.5" in capsys.readouterr().err
    # A longer run is not that of a smaller part.
    assert comparison.main(["--out", str(toy), "--part", "0.25"]) == 2
    told = capsys.readouterr().err
    assert re.fullmatch(
        r"mnist_comparison.py: --part: .* is at step 4, and 0.25 of .* is 1; .*\n", told
    )
    assert len(rows_of(toy / "mnist.csv")) == 8


def test_study_that_is_stopped_says_that_the_same_command_goes_on(
    comparison, toy, monkeypatch, capsys
):
    step = comparison.train.Trainer.train_step

    def interrupted(self, reals):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, reals)

    with monkeypatch.context() as patch:
        patch.setattr(comparison.train.Trainer, "train_step", interrupted)
        assert comparison.main(["--out", str(toy)]) == 143
    assert capsys.readouterr().err.endswith(
        "mnist_comparison.py: stopped after step 1; the same command goes on from the checkpoint of "
        "step 1\n"
    )
    assert comparison.main(["--out", str(toy)]) == 0
    assert len(rows_of(toy / "mnist.csv")) == len(comparison.METHODS)


def test_run_killed_before_its_first_checkpoint_begins_anew(comparison, toy):
    for method in comparison.METHODS:
        folder = comparison.folder_of(toy, method, 0)
        folder.mkdir(parents=True)
        (folder / "checkpoint.tmp").write_bytes(b"half")
    assert comparison.main(["--out", str(toy), "--part", "0.25"]) == 0
    assert len(rows_of(toy / "mnist.csv")) == len(comparison.METHODS)


def test_methods_differ_in_what_the_page_says_and_in_nothing_else(comparison):
    configs = [comparison.config_of(method, 0, 1) for method in comparison.METHODS]
    for key in ("data", "generator", "batch_size", "ema", "auxiliary", "precision"):
        values = [getattr(config, key) for config in configs]
        assert all(value == values[0] for value in values), key
    norms = [config.discriminator["norm"] for config in configs]
    assert norms == ["batch", "none", "layer", "none"]
    assert len({config.discriminator["width"] for config in configs}) == 1
    # The schedules of R3GAN's preset end with the run.
    ends = [penalty["schedule"]["steps"] for penalty in configs[-1].penalties]
    assert ends == [configs[-1].steps] * 2
