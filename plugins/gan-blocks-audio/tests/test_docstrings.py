"""The examples of the docstrings run."""

import doctest
import importlib
import pkgutil

import gan_blocks_audio
import pytest

MODULES = [each.name for each in pkgutil.iter_modules(gan_blocks_audio.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(f"gan_blocks_audio.{name}")
    failed, tried = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0
    assert tried > 0 or name in ("convolutions", "spectrum")
