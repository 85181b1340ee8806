"""Numbers that papers printed, from the examples that reproduce them."""

import subprocess
import sys

import pytest
import torch

NAMES = ["KL", "reverse KL", "Jensen-Shannon", "Jeffrey", "Pearson"]


@pytest.mark.parametrize("name", NAMES)
def test_least_divergence_by_quadrature_is_that_of_the_f_gan_paper(examples, name):
    table = examples.fgan_table
    found, paper = table.by_quadrature(table.DIVERGENCES[name]), table.PUBLISHED[name]
    assert found.value == pytest.approx(paper.value, abs=4e-4)
    assert found.mean == pytest.approx(paper.mean, abs=3e-4)
    assert found.std == pytest.approx(paper.std, abs=8e-4)


@pytest.mark.parametrize("name", NAMES)
def test_bound_of_a_hardly_trained_critic_lies_below_the_divergence(examples, name):
    table = examples.fgan_table
    trained = table.by_training(table.DIVERGENCES[name], steps=3, batch=64)
    assert trained.bound < trained.exact


def test_table_of_the_f_gan_paper_is_printed_and_drawn(examples, tmp_path):
    script = str(examples.folder / "fgan_table.py")
    command = [sys.executable, script, "--train", "--steps", "2", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained, `FDivergenceLoss`") == 5
    assert (tmp_path / "fgan_table.md").read_text(encoding="utf-8") in done.stdout
    assert (tmp_path / "fgan_table.png").stat().st_size > 10_000
    failed = subprocess.run([*command, "--steps", "1"], capture_output=True, text=True)
    assert "--steps should be at least 2, got 1" in failed.stderr


def test_games_of_the_dirac_gan_have_the_eigenvalues_of_theory(examples):
    dirac = examples.dirac_gan
    found = {name: dirac.words(dirac.eigenvalues(*game)) for name, game in dirac.GAMES.items()}
    assert found == {
        "non-saturating": "0 +- 0.5i",
        "non-saturating, R1": "-0.25 +- 0.433i",
        "non-saturating, R1 critical": "-0.5, -0.5",
        "relativistic, R1 and R2": "-0.25 +- 0.433i",
        "least squares": "0 +- 0.707i",
        "hinge": "0 +- 1i",
        "Wasserstein": "0 +- 1i",
        "Wasserstein, gradient penalty": "no equilibrium",
        "Wasserstein, clipped": "0 +- 1i",
    }


def test_trajectories_of_the_dirac_gan_do_what_the_eigenvalues_say(examples):
    dirac = examples.dirac_gan

    def distances(name, **options):
        path = dirac.trajectory(*dirac.GAMES[name], 800, 0.05, **({"clip": False} | options))
        return torch.tensor(path).norm(dim=1)

    assert distances("non-saturating, R1")[-100:].max() < 1e-3
    assert distances("non-saturating, R1 critical")[-100:].max() < 1e-3
    circle = distances("Wasserstein")
    assert 0.9 < circle.min() < circle.max() < 1.1
    assert 0.4 < distances("Wasserstein, clipped", clip=True)[-200:].min() < 0.6
    assert distances("Wasserstein, gradient penalty")[-1] > 1.9


def test_dirac_gan_writes_its_table_and_picture(examples, tmp_path):
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "images").mkdir()
    script, docs = str(examples.folder / "dirac_gan.py"), str(tmp_path / "docs")
    command = [sys.executable, script, "--steps", "20", "--out", str(tmp_path), "--docs", docs]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "docs" / "results" / "dirac_gan.md").exists()
    assert (tmp_path / "docs" / "images" / "dirac_gan.png").exists()
