"""The pictures of the theory pages: `make figures`."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def test_every_figure_is_drawn_small_and_in_the_documentation(examples, tmp_path):
    script = str(examples.folder / "figures.py")
    command = [sys.executable, script, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    drawn = {path.name: path for path in tmp_path.glob("*.png")}
    assert set(drawn) == {f"{draw.__name__}.png" for draw in examples.figures.FIGURES}
    for name, path in drawn.items():
        assert 5_000 < path.stat().st_size < 60_000
        assert (IMAGES / name).exists()


def test_a_figure_is_the_same_file_each_time(examples, tmp_path):
    for name in ("one.png", "two.png"):
        examples.show.save(examples.figures.label_smoothing(), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize(("theta", "distance"), [(0.0, 0.0), (0.1, math.log(2)), (-2, math.log(2))])
def test_jensen_shannon_of_two_points_does_not_say_how_far_they_are(examples, theta, distance):
    found = examples.figures.jensen_shannon_of_points(torch.tensor(theta, dtype=torch.float64))
    assert found.item() == pytest.approx(distance, abs=1e-12)
