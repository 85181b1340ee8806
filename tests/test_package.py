"""What a user installs: the wheel, its dependencies, its start."""

import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# torch without NumPy says so once, when it is imported; that warning is torch's.
STRICT = ["-W", "error", "-W", "ignore:Failed to initialize NumPy:UserWarning"]


def run(*command: str | Path, **options) -> str:
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=900, **options
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*command, "--wheel-dir", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_package_only(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"gan_blocks"}
    assert "gan_blocks/py.typed" in names
    assert "gan_blocks/presets/r3gan.toml" in names
    assert "gan_blocks/cli/template/pyproject.toml" in names
    assert "gan_blocks/cli/template/tests/conftest.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.environment
def test_wheel_works_with_the_core_dependencies_and_the_oldest_torch(wheel, tmp_path):
    venv.create(tmp_path, with_pip=True)
    python = tmp_path / "bin" / "python"
    (oldest,) = re.findall(r"torch>=([\d.]+)", str(PROJECT["dependencies"]))
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(pin for pin in pins if not pin.startswith("torch")))
    run(python, "-m", "pip", "install", "--quiet", "-c", constraints, f"torch=={oldest}.0", wheel)
    code = """
import json, sys
import gan_blocks
assert not {"torchvision", "numpy", "sklearn", "matplotlib", "pytest", "hypothesis"} & set(sys.modules)
loss = gan_blocks.build({"block": "FDivergenceLoss", "divergence": {"block": "KL"}})
assert gan_blocks.build(json.loads(json.dumps(gan_blocks.to_spec(loss)))).divergence.threshold == 1
import gan_blocks.testing, gan_blocks.cli
import torch
logits = torch.zeros(2, requires_grad=True)
print(torch.__version__, float(loss.discriminator(logits, logits).detach()))
"""
    printed = run(python, *STRICT, "-c", code, cwd=tmp_path)
    assert printed.startswith(oldest)
    assert "0.3678" in printed
    assert "HingeLoss" in run(
        python, *STRICT, tmp_path / "bin" / "gan-blocks", "list", cwd=tmp_path
    )


def test_import_adds_at_most_100_ms_to_its_dependencies():
    code = """
import time, torch, pydantic, pluggy
start = time.process_time()  # of this process, not of the clock
import gan_blocks
print(time.process_time() - start)
"""
    # With its bytecode kept, as pip installs it.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
    # The least of several: the rest is what else the machine was doing.
    seconds = min(float(run(sys.executable, "-c", code, env=environment)) for _ in range(6))
    assert seconds < 0.1


def test_import_warns_of_nothing():
    run(sys.executable, *STRICT, "-c", "import gan_blocks, gan_blocks.cli, gan_blocks.testing")


def test_version_is_in_the_changelog():
    import gan_blocks

    assert f"## [{gan_blocks.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_pins_satisfy_the_declared_bounds_and_name_no_place():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    names = [line for line in pins if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+==[\w.+!]+", line) for line in names), names
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in names}
    for requirements in [
        PROJECT["dependencies"],
        *PROJECT["optional-dependencies"].values(),
    ]:
        for requirement in requirements:
            name = re.split(r"[><=\[]", requirement)[0]
            assert name in pinned | {"gan-blocks"}, f"{name} is not pinned"
