"""The tutorial: its script runs, and its notebook and its page are that script's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "tutorial.py"
NOTEBOOK = ROOT / "examples" / "tutorial.ipynb"
PAGE = ROOT / "docs" / "tutorial.md"
IMAGE = re.compile(r"!\[(.*?)\]\((.*?)\)", re.DOTALL)


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture
def run_script(tmp_path):
    """Runs the script in a folder of its own, on the MNIST in `tmp_path / root`."""

    def run(root):
        (tmp_path / "work").mkdir()
        changes = {
            "GAN_BLOCKS_MNIST": str(tmp_path / root),
            "GAN_BLOCKS_TUTORIAL_STEPS": "2",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        }
        return subprocess.run(
            [sys.executable, str(SCRIPT)],
            cwd=tmp_path / "work",
            env={**os.environ, **changes},
            capture_output=True,
            text=True,
        )

    return run


def files_of_the_repository():
    command = ["git", "status", "--short", "--untracked-files=all", "examples"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout


def test_the_script_runs_to_the_end_and_leaves_nothing_in_the_repository(
    run_script, write_mnist, tmp_path
):
    write_mnist(tmp_path / "mnist", np.random.default_rng(0).integers(0, 256, (80, 28, 28)))
    before = files_of_the_repository()
    result = run_script("mnist")
    assert result.returncode == 0, result.stderr
    pictures = {path.name for path in tmp_path.glob("work/runs/tutorial-*/*.png")}
    assert pictures == set(re.findall(r'OUT / "([\w-]+\.png)"', SCRIPT.read_text("utf-8")))
    assert files_of_the_repository() == before


def test_without_mnist_there_is_one_message_and_nothing_is_computed(run_script, tmp_path):
    result = run_script("nowhere")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "The tutorial needs MNIST. data.root: " in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.glob("work/*")) == []


def test_the_notebook_has_the_cells_of_the_script(notebook):
    cells = jupytext.read(SCRIPT).cells
    assert [(c.cell_type, c.source) for c in notebook.cells] == [
        (c.cell_type, c.source) for c in cells
    ]


def test_the_notebook_was_run_from_top_to_bottom_without_an_error(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data"}
    assert [o for o in outputs if o.output_type == "stream" and o.name == "stderr"] == []


def test_the_page_has_the_cells_of_the_script_and_the_outputs_of_the_notebook(notebook):
    page = PAGE.read_text(encoding="utf-8")
    position = 0
    for cell in notebook.cells:
        texts = [f"```python\n{cell.source}\n```" if cell.cell_type == "code" else cell.source]
        for output in cell.get("outputs", []):
            text = output.text if output.output_type == "stream" else output.data["text/plain"]
            texts.append(text.strip().partition("\n")[0])
        for text in texts:
            found = page.find(text, position)
            assert found >= 0, f"not on the page, or not in order: {text}"
            position = found + len(text)


def test_every_picture_of_the_page_is_small_and_has_words():
    pictures = IMAGE.findall(PAGE.read_text(encoding="utf-8"))
    files = {PAGE.parent / path for _, path in pictures}
    assert files == set((PAGE.parent / "images" / "tutorial").iterdir())
    assert all(file.stat().st_size < 120_000 for file in files)
    assert all(len(words.split()) >= 5 for words, _ in pictures)


@pytest.mark.parametrize("file", [NOTEBOOK, PAGE], ids=lambda file: file.name)
def test_no_output_holds_a_path_of_the_machine(file):
    paths = r"(?:^|[\s\"'(=:])(?:/(?:home|root|tmp|usr|opt|var|work|mnt|Users)/|[A-Z]:\\)"
    assert re.findall(paths, file.read_text(encoding="utf-8")) == []
