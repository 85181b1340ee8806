"""Fixtures that several test files share."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="session")
def examples() -> Iterator[SimpleNamespace]:
    """The modules of `examples/`, which is a folder of scripts and no package."""
    sys.path.insert(0, str(EXAMPLES))
    names = ("checkpoint", "config", "data", "evaluate", "plots", "reading", "train")
    # Threads that wait for each other on a busy machine cost more than they bring to small networks.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    modules = {name: importlib.import_module(name) for name in names}
    yield SimpleNamespace(folder=EXAMPLES, **modules)
    torch.set_num_threads(threads)
    sys.path.remove(str(EXAMPLES))
    for name in names:
        del sys.modules[name]
