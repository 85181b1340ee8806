"""The study of mixtures: a stack of seeds is as many networks, and a stopped study goes on."""

import csv
import importlib
import math

import pytest
import torch

from gan_blocks import NonSaturatingLoss, R1Penalty


@pytest.fixture(scope="module")
def mixtures(examples):
    return importlib.import_module("mixtures")


def test_each_network_of_a_stack_has_the_gradient_that_it_has_alone(mixtures):
    torch.manual_seed(0)
    critic = mixtures.critic_of(3).double()
    real, fake = torch.randn(2, 3 * 4, 2, dtype=torch.float64)

    def objective(network, real, fake):
        loss = NonSaturatingLoss().discriminator(network(real), network(fake))
        return loss + R1Penalty(2.0)(network, real)

    together = torch.autograd.grad(3 * objective(critic, real, fake), list(critic.parameters()))
    for seed in range(3):
        alone = mixtures.critic_of(1)
        state = {name: value[seed : seed + 1] for name, value in critic.state_dict().items()}
        alone.double().load_state_dict(state)
        own = slice(4 * seed, 4 * seed + 4)
        loss = objective(alone, real[own], fake[own])
        gradients = torch.autograd.grad(loss, list(alone.parameters()))
        for mine, all_seeds in zip(gradients, together, strict=True):
            torch.testing.assert_close(mine[0], all_seeds[seed])


def test_study_writes_a_row_for_each_seed_and_goes_on_where_it_was(mixtures, tmp_path, capsys):
    arguments = ["--data", "ring", "--seeds", "2", "--steps", "3", "--out", str(tmp_path)]
    docs = tmp_path / "docs"
    for folder in ("results", "images"):
        (docs / folder).mkdir(parents=True)
    assert mixtures.main([*arguments, "--docs", str(docs)]) == 0
    path = tmp_path / "mixtures.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["seed"]) for row in rows] == [
        (method, seed) for method in mixtures.METHODS for seed in "01"
    ]
    # The last method was not finished.
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]))
    assert mixtures.main(arguments) == 0
    with path.open() as file:
        again = list(csv.DictReader(file))
    assert again[:-2] == rows[:-2]
    same = ("modes", "high_quality", "reverse_kl")
    assert [[row[m] for m in same] for row in again] == [[row[m] for m in same] for row in rows]
    shown = (docs / "results/mixtures_ring.md").read_text()
    assert "| PacGAN2, published" in shown
    assert "modes of 8" in shown
    assert (docs / "images/mixtures_ring.png").stat().st_size > 1000


def test_training_moves_the_samples_to_the_modes(mixtures, examples):
    means, _ = examples.data.modes("grid")
    far = []
    for steps in (1, 150):
        x, _ = mixtures.train("grid", "relativistic, R1 and R2", 2, steps)
        assert x.shape == (2, examples.evaluate.POINTS, 2)
        far.append(torch.cdist(x.flatten(0, 1), means).min(1).values.mean())
    assert far[1] < 0.8 * far[0]
    # The samples lie among the modes, not at one of them.
    assert math.isclose(float(x.mean()), 0, abs_tol=1)
    assert x.std() > 1.5


def test_published_rows_are_those_of_the_paper_and_need_no_run(mixtures):
    rows = [
        {"method": method, "seed": "0", "ms_per_step": "1.0", "modes": "25"}
        | {"high_quality": "0.5", "reverse_kl": "None"}
        for method in mixtures.METHODS
    ]
    text = repr(mixtures.table("grid", rows))
    assert "| none |" in text.replace("  ", "")
    assert "17.3" in text
    assert "0.913" in text
