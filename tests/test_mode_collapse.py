"""The study of mode collapse: its variants, its tables, and that it goes on where it stopped."""

import importlib
import itertools

import pytest
import torch


@pytest.fixture(scope="module")
def collapse(examples):
    return importlib.import_module("mode_collapse")


@pytest.fixture
def toy(collapse, examples, monkeypatch):
    """Few samples and a classifier that has hardly learned."""
    few = examples.evaluate.train_classifier
    monkeypatch.setattr(examples.evaluate, "train_classifier", lambda x, y: few(x, y, steps=2))
    monkeypatch.setattr(examples.evaluate, "POINTS", 100)
    collapse.metrics_of.cache_clear()
    yield collapse
    collapse.metrics_of.cache_clear()


def differences(old, new, path=""):
    """The paths at which two tables differ, with the new values."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return {} if old == new else {path: new}
    found = {}
    for key in {**old, **new}:
        found |= differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    return found


FEATURES = {"term": {"block": "FeatureMatchingLoss"}, "layers": ["layers.4"], "weight": 1.0}
MATCHING = {"auxiliary": [FEATURES]}
KERNELS = {"discriminator.minibatch_kernels": 16}
SMOOTHING = {"loss.real_target": 0.9}
VIRTUAL = {"generator.norm": "virtual"}
EXPECTED = {
    "plain": {},
    "feature matching": MATCHING | {"adversarial_weight": 0},
    "minibatch discrimination": KERNELS,
    "label smoothing": SMOOTHING,
    "virtual batch norm": VIRTUAL,
    "all together": MATCHING | KERNELS | SMOOTHING | VIRTUAL,
}


@pytest.mark.parametrize("name", ["ring", "digits"])
@pytest.mark.parametrize("variant", EXPECTED)
def test_variant_differs_from_plain_in_its_remedies_only(collapse, name, variant):
    assert list(collapse.VARIANTS) == list(EXPECTED)
    plain, changed = (
        collapse.config_of(name, which, seed=3, steps=None).model_dump()
        for which in ("plain", variant)
    )
    for spec in (plain, changed):
        spec["auxiliary"] = [
            {**x, "term": {"block": x["term"]["block"]}} for x in spec["auxiliary"]
        ]
    assert plain["seed"] == 3
    assert differences(plain, changed) == EXPECTED[variant]


@pytest.mark.parametrize("name", ["ring", "digits"])
def test_plain_game_has_no_remedy(collapse, name):
    config = collapse.config_of(name, "plain", seed=0, steps=None)
    assert (config.penalties, config.constraint, config.auxiliary) == ([], None, [])
    assert (config.adversarial_weight, config.critic_steps, config.ema) == (1, 1, None)
    assert config.loss["block"] == "NonSaturatingLoss"
    assert config.loss.get("real_target", 1) == 1
    assert (
        config.generator.get("norm", "none") == config.discriminator.get("norm", "none") == "none"
    )
    assert config.discriminator.get("minibatch_kernels", 0) == 0


@pytest.mark.parametrize("variant", ["feature matching", "all together"])
def test_features_are_those_of_the_last_hidden_layer(collapse, variant):
    trainer, _ = collapse.train(collapse.config_of("ring", variant, seed=0, steps=1))
    assert trainer.layers == [["layers.4"]]
    layers = trainer.critic.layers
    assert isinstance(layers[4], torch.nn.LeakyReLU)
    assert not any(isinstance(layer, torch.nn.LeakyReLU) for layer in layers[5:])


def test_toy_study_writes_runs_tables_and_picture(toy, tmp_path, capsys):
    out, docs = tmp_path / "out", tmp_path / "docs"
    arguments = ["--out", str(out), "--seeds", "1", "--steps", "2", "--docs", str(docs)]
    assert toy.main(arguments) == 0
    printed = capsys.readouterr().out
    rows = toy.read_rows(out / "mode_collapse.csv")
    assert [(row["data"], row["variant"]) for row in rows] == [
        *itertools.product(["ring", "digits"], EXPECTED)
    ]
    for name in ("ring", "digits"):
        text = (docs / "results" / f"mode_collapse_{name}.md").read_text(encoding="utf-8")
        assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == [
            *(f"| {variant}" for variant in EXPECTED), "| *real samples*",
        ]  # fmt: skip
        assert len({line.count("|") for line in text.splitlines()}) == 1
        assert text in printed
    assert (docs / "images" / "mode_collapse.png").read_bytes().startswith(b"\x89PNG")
    copied = (docs / "results" / "mode_collapse.csv").read_text(encoding="utf-8")
    assert copied == (out / "mode_collapse.csv").read_text(encoding="utf-8")


def test_stopped_study_goes_on_and_repeats_no_finished_run(toy, tmp_path, monkeypatch):
    trained, train = [], toy.train

    def stop_before_the_fourth(config):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(config)
        return train(config)

    monkeypatch.setattr(toy, "train", stop_before_the_fourth)
    arguments = ["--out", str(tmp_path), "--seeds", "1", "--steps", "1"]
    assert toy.main(arguments) == 130
    finished = toy.read_rows(tmp_path / "mode_collapse.csv")
    assert len(finished) == 3

    again = []
    monkeypatch.setattr(toy, "train", lambda config: again.append(config) or train(config))
    assert toy.main(arguments) == 0
    rows = toy.read_rows(tmp_path / "mode_collapse.csv")
    assert rows[:3] == finished
    assert len(rows) == len(trained) + len(again) == 12
    assert not {toy.digest(c) for c in trained} & {toy.digest(c) for c in again}

    assert toy.main(arguments) == 0
    assert len(again) == 9
    # Another number of steps is another run.
    assert toy.main([*arguments[:-1], "2"]) == 0
    assert len(again) == 9 + 12


def test_stop_while_the_rows_are_written_leaves_the_old_ones(collapse, tmp_path, monkeypatch):
    path = tmp_path / "mode_collapse.csv"
    row = dict.fromkeys(collapse.FIELDS, "1")
    collapse.write_rows([row], path, collapse.FIELDS)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(collapse.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        collapse.write_rows([row, row], path, collapse.FIELDS)
    assert collapse.read_rows(path) == [row]


def rows_of(collapse, **changes):
    """Two runs of each variant of the ring."""
    return [
        dict.fromkeys(collapse.FIELDS, "")
        | {"data": "ring", "variant": variant, "seed": str(seed), "cpu_ms_per_step": str(cost)}
        | {"modes": modes, "high_quality": "0.5", "reverse_kl": "0.25"}
        | changes.get(variant.replace(" ", "_"), {})
        for variant, cost in zip(EXPECTED, [2, 2, 6, 2, 5, 11], strict=True)
        for seed, modes in enumerate(["4", "7"])
    ]


REAL = {"modes": 8, "high_quality": 0.989, "reverse_kl": 0.0014}


def test_table_has_the_means_and_standard_errors_that_a_hand_computes(collapse):
    # Of 4 and 7: the mean is 5.5, the deviation 3 / sqrt 2, and the standard error 1.5.
    lines = collapse.table("ring", rows_of(collapse), REAL).splitlines()
    assert lines == [
        "| | modes of 8 | high quality | reverse KL | cost of a step |",
        "|---|---|---|---|---|",
        "| plain | 5.5 ± 1.5 | 0.500 ± 0.000 | 0.250 ± 0.000 | 1.0 |",
        "| feature matching | 5.5 ± 1.5 | 0.500 ± 0.000 | 0.250 ± 0.000 | 1.0 |",
        "| minibatch discrimination | 5.5 ± 1.5 | 0.500 ± 0.000 | 0.250 ± 0.000 | 3.0 |",
        "| label smoothing | 5.5 ± 1.5 | 0.500 ± 0.000 | 0.250 ± 0.000 | 1.0 |",
        "| virtual batch norm | 5.5 ± 1.5 | 0.500 ± 0.000 | 0.250 ± 0.000 | 2.5 |",
        "| all together | 5.5 ± 1.5 | 0.500 ± 0.000 | 0.250 ± 0.000 | 5.5 |",
        "| *real samples* | 8.0 | 0.989 | 0.001 | |",
    ]


def test_runs_without_a_divergence_are_counted(collapse):
    rows = rows_of(collapse, label_smoothing={"reverse_kl": ""})
    rows[0]["reverse_kl"] = ""
    lines = collapse.table("ring", rows, REAL).splitlines()
    assert lines[2].endswith("| 0.250 (1 without) | 1.0 |")
    assert lines[5].endswith("| none | 1.0 |")


def test_mean_of_one_run_has_no_error(collapse):
    assert collapse.mean_and_error([2.0], ".1f") == "2.0"
    # 1, 2, 6: mean 3, variance 7, standard error sqrt(7 / 3).
    assert collapse.mean_and_error([1.0, 2.0, 6.0], ".3f") == "3.000 ± 1.528"
