"""The study of losses and regularisers: fair, and a stopped one goes on."""

import csv
import importlib

import pytest
import torch

import gan_blocks
from gan_blocks import registry


@pytest.fixture(scope="module")
def choose(examples):
    return importlib.import_module("choose")


def test_variants_differ_in_loss_penalties_and_constraint_only(choose):
    plain = choose.config_of([], 0, None).model_dump()
    for settings in (choose.LOSSES | choose.REGULARISERS).values():
        config = choose.config_of(settings, 0, None).model_dump()
        changed = {key for key in plain if config[key] != plain[key]}
        assert changed <= {"loss", "penalties", "constraint"}


def test_every_loss_is_compared_with_the_same_penalty(choose):
    names = {name.split(",")[0] for name in choose.LOSSES}
    assert names == {e.name for e in registry.list("loss") if e.plugin == "builtin"}
    for name, settings in choose.LOSSES.items():
        (spec,) = choose.config_of(settings, 0, None).penalties
        assert spec["block"] == "R1Penalty"
        assert spec["gamma"] == (10.0 if name.endswith("gamma 10") else 1.0)


def test_approximate_penalty_is_as_strong_as_r1(choose):
    (spec,) = choose.config_of(choose.REGULARISERS["ApproximateR1Penalty"], 0, None).penalties
    approximate = gan_blocks.build(spec)
    assert 2 * approximate.weight * approximate.sigma**2 == pytest.approx(1.0)


def test_toy_study_writes_tables_and_repeats_no_finished_run(choose, tmp_path, monkeypatch):
    # What judges samples has tests of its own, and takes longer than these runs.
    def judge(x):
        return {"frechet_distance": x.std().item(), "classes": 3, "rarest_class": 0.1}

    real = {"frechet_distance": 1.0, "rarest_class": 0.2}
    monkeypatch.setattr(choose.mode_collapse, "metrics_of", lambda name: (judge, real))
    losses = {"HingeLoss": choose.LOSSES["HingeLoss"]}
    regularisers = {name: choose.REGULARISERS[name] for name in ("none", "R1Penalty")}
    monkeypatch.setattr(choose, "GROUPS", {"losses": losses, "regularisers": regularisers})
    docs = tmp_path / "docs"
    for folder in ("results", "images"):
        (docs / folder).mkdir(parents=True)
    arguments = ["--seeds", "2", "--steps", "4", "--out", str(tmp_path), "--docs", str(docs)]
    assert choose.main(arguments) == 0
    with (tmp_path / "choose.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"]) for row in rows] == [
        (variant, seed) for seed in "01" for variant in losses | regularisers
    ]
    for row in rows:  # each quarter was judged by itself
        assert len({row[name] for name in choose.DISTANCES}) == len(choose.DISTANCES)
    text = (docs / "results" / "choose_regularisers.md").read_text()
    assert text.count("±") == 6
    assert "| none " in text
    assert (docs / "images" / "choose_regularisers.png").stat().st_size > 1000

    monkeypatch.setattr(choose, "run", lambda config: pytest.fail("a finished run is repeated"))
    assert choose.main(arguments) == 0


def test_run_keeps_what_was_said_after_each_quarter_and_the_cost_of_a_step(choose, monkeypatch):
    trained, clock = [], [0.0]

    class Trainer:
        def __init__(self, *arguments):
            self.step = 0

        def check(self):
            pass

        def batches(self):
            return iter(range(100))

        def train_step(self, reals):
            trained.extend(reals)
            self.step += 1
            clock[0] += 0.25

        def sample(self, n, seed):
            clock[0] += 100  # which no step has cost
            return torch.tensor(float(self.step))

    def judge(x):
        return {
            "frechet_distance": 10 * x.item(),
            "classes": x.item(),
            "rarest_class": x.item() / 8,
        }

    monkeypatch.setattr(choose, "Trainer", Trainer)
    monkeypatch.setattr(choose.time, "process_time", lambda: clock[0])
    monkeypatch.setattr(choose.mode_collapse, "metrics_of", lambda name: (judge, {}))
    row = choose.run(choose.config_of([], 0, 8))
    assert trained == list(range(8))
    assert row == dict(zip(choose.DISTANCES, [20, 40, 60, 80], strict=True)) | {
        "ms_per_step": 250,
        "classes": 8,
        "rarest_class": 1,
    }


def test_table_and_picture_show_the_means_that_a_hand_computes(choose, monkeypatch):
    monkeypatch.setattr(choose, "GROUPS", {"regularisers": {"none": [], "other": []}})
    real = {"frechet_distance": 3.0, "rarest_class": 0.08}
    monkeypatch.setattr(choose.mode_collapse, "metrics_of", lambda name: (None, real))
    distances = {"none": [(90, 70, 60, 40), (90, 90, 70, 60)], "other": [(80, 40, 30, 20)] * 2}
    rows = [
        dict(zip(choose.DISTANCES, map(str, each), strict=True))
        | {"variant": variant, "steps": "400", "rarest_class": str(0.01 + 0.02 * seed)}
        for variant, runs in distances.items()
        for seed, each in enumerate(runs)
    ]
    assert [row[1:4] for row in choose.table("regularisers", rows).rows[1:]] == [
        ["80 ± 10", "50 ± 10", "0.020 ± 0.010"],
        ["40 ± 0", "20 ± 0", "0.020 ± 0.010"],
        ["3", "3", "0.080"],
    ]
    lines = choose.picture("regularisers", rows).axes[0].lines
    assert {line.get_label(): line.get_xydata().tolist() for line in lines} == {
        "none": [[100, 90], [200, 80], [300, 65], [400, 50]],
        "other": [[100, 80], [200, 40], [300, 30], [400, 20]],
    }
