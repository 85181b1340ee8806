"""The package that `gan-blocks new-plugin` writes: it builds, installs, and its tests pass."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gan_blocks
from gan_blocks.cli import app

ROOT = Path(__file__).parent.parent


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def python(*arguments: str | Path, path: str | Path = "", cwd: Path | None = None) -> str:
    """What a new interpreter prints."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "package"
    result = run("new-plugin", "my-own", "--directory", str(folder))
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def site(package, tmp_path_factory) -> Path:
    """A site folder with the wheel of the package in it."""
    site = tmp_path_factory.mktemp("site")
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    python(*command, "--target", site, package)
    return site


def test_nothing_of_the_shipped_name_is_left(package):
    files = [path for path in package.rglob("*") if path.is_file()]
    assert len(files) == 10
    assert not [path for path in package.rglob("*") if "template" in path.name]
    assert not [path for path in files if "template" in path.read_text("utf-8")]
    assert (package / "gan_blocks_my_own" / "__init__.py").is_file()


def test_its_tests_pass_before_it_is_installed(package):
    printed = python("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=package)
    assert " passed" in printed
    assert "failed" not in printed


def test_its_example_runs(package):
    python("-m", "pytest", "-q", "--doctest-modules", "gan_blocks_my_own", cwd=package)


def test_its_wheel_brings_the_block_by_entry_point(site):
    code = """
import gan_blocks
loss = gan_blocks.build({"block": "my-own/ExponentialLoss", "temperature": 2})
print(loss, gan_blocks.to_spec(loss), type(loss).__module__)
"""
    assert python("-c", code, path=site) == (
        "ExponentialLoss(temperature=2.0) {'block': 'my-own/ExponentialLoss', 'temperature': 2.0} "
        "gan_blocks_my_own.exponential_loss\n"
    )


def test_its_wheel_is_typed_and_brings_its_licence(site):
    assert (site / "gan_blocks_my_own" / "py.typed").is_file()
    (metadata,) = site.glob("*.dist-info")
    licence = (metadata / "licenses" / "LICENSE").read_text("utf-8")
    assert "the authors of gan-blocks-my-own" in licence


def test_its_source_archive_holds_nothing_else_of_the_folder(package, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    (copy / ".env").write_text("KEY=secret")
    (copy / "runs").mkdir()
    (copy / "runs" / "log.jsonl").write_text("{}")
    python("-m", "hatchling", "build", "--target", "sdist", cwd=copy)
    (archive,) = (copy / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.split("/", 1)[1] for name in opened.getnames()}
    written = {p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file()}
    assert names == {name for name in written if "cache" not in name} | {"PKG-INFO"}


def test_it_asks_for_this_version_or_a_later_one(package):
    project = tomllib.loads((package / "pyproject.toml").read_text("utf-8"))["project"]
    minor = ".".join(gan_blocks.__version__.split(".")[:2])
    assert f"gan-blocks>={minor}" in project["dependencies"]


def test_a_block_imported_directly_knows_its_spec_name(site):
    code = """
from gan_blocks_my_own import ExponentialLoss
import gan_blocks
print(gan_blocks.to_spec(ExponentialLoss())["block"])
"""
    assert python("-c", code, path=site) == "my-own/ExponentialLoss\n"


@pytest.mark.parametrize("target", ["my-own", "gan-blocks-my-own", "gan_blocks_my_own"])
def test_check_finds_the_installed_plugin_by_each_of_its_names(target, site, tmp_path):
    command = ["check", target, "--only", "literal_reference", "--json"]
    code = f"import sys; sys.argv[1:] = {command!r}; from gan_blocks.cli import app; app()"
    document = json.loads(python("-c", code, path=site, cwd=tmp_path))
    assert document["plugins"] == ["my-own"]
    assert [row["outcome"] for row in document["results"]] == ["pass", "pass"]


def test_a_name_or_folder_that_is_taken_is_refused(package, tmp_path, monkeypatch):
    before = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
    result = run("new-plugin", "other", "--directory", str(package))
    assert (result.exit_code, "is not empty" in result.stderr) == (2, True)
    assert before == {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
    monkeypatch.chdir(tmp_path)
    for name in ("builtin", "Upper", "a/b", "a b", "-a", "a--b", "1a", ""):
        result = run("new-plugin", "--", name)
        assert result.exit_code == 2, name
        assert result.stderr
    (tmp_path / "file").write_text("mine")
    assert run("new-plugin", "fine", "--directory", "file").exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    result = run("new-plugin", "fine", "--directory", str(tmp_path / "empty"), "--json")
    document = json.loads(result.stdout)
    assert document["name"] == "fine"
    assert all((tmp_path / "empty" / file).is_file() for file in document["files"])
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
