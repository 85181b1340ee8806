"""Fixtures that several test files share."""

import importlib
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trainer_runs import CONFIG

import gan_blocks

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="session")
def examples() -> Iterator[SimpleNamespace]:
    """The modules of `examples/`, which is a folder of scripts and no package."""
    sys.path.insert(0, str(EXAMPLES))
    names = ("checkpoint", "config", "data", "distances", "evaluate", "inception", "plots")
    names += (
        "reading",
        "record",
        "steps",
        "train",
        "watch",
        "fgan_table",
        "dirac_gan",
        "figures",
        "show",
        "stacked_mnist",
    )
    # Threads that wait for each other on a busy machine cost more than they bring to small networks.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    modules = {name: importlib.import_module(name) for name in names}
    yield SimpleNamespace(folder=EXAMPLES, **modules)
    torch.set_num_threads(threads)
    sys.path.remove(str(EXAMPLES))
    for name in names:
        del sys.modules[name]


@pytest.fixture(scope="session")
def write_mnist() -> Callable[[Path, np.ndarray], None]:
    """Writes images, and labels that count from 0 to 9 again and again, as MNIST's files."""

    def write(root: Path, images: np.ndarray) -> None:
        labels = np.arange(len(images)) % 10
        raw = root / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for part in ("train", "t10k"):
            for name, array in (("images-idx3", images), ("labels-idx1", labels)):
                # A magic number, the sizes, the bytes.
                header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
                (raw / f"{part}-{name}-ubyte").write_bytes(
                    header + array.astype(np.uint8).tobytes()
                )

    return write


@pytest.fixture
def registry_as_it_was() -> Iterator[None]:
    """Blocks that a test registers are gone after it."""
    registry = gan_blocks.registry
    entries, by_class = dict(registry._entries), dict(registry._by_class)
    infos = dict(registry._plugins.infos)
    yield
    registry._entries, registry._by_class = entries, by_class
    registry._plugins.infos.clear()
    registry._plugins.infos.update(infos)


@pytest.fixture
def write(tmp_path):
    """Writes the config of a small run, with replacements, and returns its path."""

    def write(*changes, name="config.toml"):
        text = CONFIG
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


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory, write_mnist):
    """A folder with MNIST files of 40 images."""
    root = tmp_path_factory.mktemp("mnist")
    write_mnist(root, np.random.default_rng(0).integers(0, 256, (40, 28, 28)))
    return root
