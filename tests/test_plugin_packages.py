"""The packages in plugins/, each built, installed from its wheel, and tested as installed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[1] / "plugins"
NAMES = sorted(folder.name for folder in PLUGINS.iterdir() if (folder / "pyproject.toml").exists())


def run(*command, **options) -> str:
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=900, **options
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module", params=NAMES)
def installed(request, tmp_path_factory) -> tuple[Path, Path]:
    """A copy of the package's source, and the folder that its wheel was installed into."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "site"))
    shutil.copytree(PLUGINS / request.param, source, dirs_exist_ok=True)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", target, source)
    (wheel,) = target.glob("*.whl")
    run(*pip, "install", "--no-deps", "--target", target, wheel)
    return source, target


def test_plugin_passes_its_own_tests_as_installed(installed):
    source, target = installed
    environment = os.environ | {"PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests"]
    printed = run(sys.executable, *command, cwd=source, env=environment)
    assert re.search(r"\d+ passed", printed)
    assert "failed" not in printed


def test_wheel_holds_the_licence_and_says_that_it_is_typed(installed):
    _, target = installed
    (wheel,) = target.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    (package,) = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert f"{package}/py.typed" in names
    (licence,) = (name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
    text = zipfile.ZipFile(wheel).read(licence).decode()
    assert text == (PLUGINS.parent / "LICENSE").read_text(encoding="utf-8")


def test_plugin_is_found_by_its_entry_point_and_uses_the_public_interface_only(installed):
    source, target = installed
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    ((prefix, module),) = project["entry-points"]["gan_blocks"].items()
    code = """
import sys
from gan_blocks import registry
PREFIX = sys.argv[1]
blocks = [entry for entry in registry.list() if entry.plugin == PREFIX]
errors = {info.name: info.error for info in registry.plugins()}
print(len(blocks), blocks[0].cls.__module__.partition(".")[0], errors[PREFIX] or None)
"""
    printed = run(sys.executable, "-c", code, prefix, env=os.environ | {"PYTHONPATH": str(target)})
    count, package, error = printed.split(maxsplit=2)
    assert int(count) >= 1
    assert (package, error.strip()) == (module, "None")
    for file in source.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(
            r"(from|import) gan_blocks[\w.]*\._|from gan_blocks[\w.]* import _", text
        ), file
