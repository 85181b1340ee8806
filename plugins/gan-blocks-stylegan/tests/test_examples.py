"""The examples of the docstrings, of the README and of the folder run."""

import doctest
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1]
FILES = ("discriminator", "generator", "mapping", "modulation", "noise", "resampling")


@pytest.mark.parametrize("name", FILES)
def test_examples_of_docstrings_run(name):
    module = importlib.import_module(f"gan_blocks_stylegan.{name}")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0


def needed(path):
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the tests")
    return path


def test_examples_of_the_readme_run():
    blocks = re.findall(r"```python\n(.*?)```", needed(FOLDER / "README.md").read_text(), re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(block, names)


def test_digits_are_learned_for_two_steps(tmp_path, capsys):
    for package in ("sklearn", "scipy", "torchvision"):
        pytest.importorskip(package)
    path = needed(FOLDER / "examples" / "digits.py")
    spec = importlib.util.spec_from_file_location("digits_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(["--steps", "2", "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "step     2  discriminator" in printed
    assert "nan" not in printed
    for name in ("digits.png", "mixing.png"):
        picture = (tmp_path / name).read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 5_000
