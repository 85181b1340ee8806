"""The study of mode collapse: its variants, its tables, and that it goes on where it stopped."""

import importlib
import re

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


KERNELS = {"discriminator.minibatch_kernels": 16}
SMOOTHING = {"loss.real_target": 0.9}
VIRTUAL = {"generator.norm": "virtual"}


def of_2016(layer):
    features = {"term": {"block": "FeatureMatchingLoss"}, "layers": [layer], "weight": 1.0}
    matching = {"auxiliary": [features | {"side": "generator"}]}
    return {
        "plain": {},
        "feature matching": matching | {"adversarial_weight": 0},
        "minibatch discrimination": KERNELS,
        "label smoothing": SMOOTHING,
        "virtual batch norm": VIRTUAL,
        "all together": matching | KERNELS | SMOOTHING | VIRTUAL,
    }


FALLING = {"block": "CosineSchedule", "start": 0.5, "end": 0.01, "steps": 2000}
PENALTIES = {
    "penalties": [
        {"block": "Scheduled", "schedule": FALLING}
        | {"penalty": {"block": name, "gamma": 1.0, "combine": "sum"}}
        for name in ("R1Penalty", "R2Penalty")
    ]
}
RELATIVISTIC = {"loss.block": "RelativisticLoss"} | PENALTIES
PACKS_OF_2 = {"packing": 2, "discriminator.input_shape": [4]}
EXPECTED = {
    "ring": of_2016("layers.4"),
    "digits": of_2016("layers.4"),
    "grid": of_2016("layers.6")
    | {
        "packing of 2": PACKS_OF_2,
        "packing of 4": {"packing": 4, "discriminator.input_shape": [8]},
        "R1 and R2": PENALTIES,
        "relativistic, R1, R2": RELATIVISTIC,
        "... and packing of 2": RELATIVISTIC | PACKS_OF_2,
        "... and virtual batch norm": RELATIVISTIC | VIRTUAL,
    },
}
RUNS = [(name, variant) for name in EXPECTED for variant in EXPECTED[name]]


@pytest.mark.parametrize(("name", "variant"), RUNS)
def test_variant_differs_from_plain_in_its_remedies_only(collapse, name, variant):
    assert {name: list(of) for name, of in collapse.VARIANTS.items()} == {
        name: list(of) for name, of in EXPECTED.items()
    }
    plain, changed = (
        collapse.config_of(name, which, seed=3, steps=None).model_dump()
        for which in ("plain", variant)
    )
    for spec in (plain, changed):
        spec["auxiliary"] = [
            {**x, "term": {"block": x["term"]["block"]}} for x in spec["auxiliary"]
        ]
    assert plain["seed"] == 3
    if changed["loss"]["block"] == "RelativisticLoss":  # whose arguments are others
        changed["loss"] = plain["loss"] | {"block": "RelativisticLoss"}
    assert differences(plain, changed) == EXPECTED[name][variant]


@pytest.mark.parametrize("name", EXPECTED)
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
    assert config.packing == 1


def test_schedules_of_the_grid_end_with_its_run(collapse):
    config = collapse.config_of("grid", "plain", seed=0, steps=None)
    for optimizer in (config.generator_optimizer, config.discriminator_optimizer):
        assert optimizer["lr"]["steps"] == FALLING["steps"] == config.steps


def test_run_is_known_by_what_its_config_says_and_not_by_defaults(collapse, monkeypatch):
    runs = [
        (name, variant, seed, steps)
        for name, variant in RUNS
        for seed in (0, 1)
        for steps in (None, 5)
    ]
    digests = [collapse.digest(*run) for run in runs]
    assert len(set(digests)) == len(runs)
    monkeypatch.setattr(collapse, "Config", None)
    assert [collapse.digest(*run) for run in runs] == digests


@pytest.mark.parametrize(("name", "last"), [("ring", 4), ("grid", 6)])
@pytest.mark.parametrize("variant", ["feature matching", "all together"])
def test_features_are_those_of_the_last_hidden_layer(collapse, name, last, variant):
    trainer, _ = collapse.train(collapse.config_of(name, variant, seed=0, steps=1))
    assert trainer.layers == [[f"layers.{last}"]]
    layers = trainer.critic.layers
    assert isinstance(layers[last], torch.nn.LeakyReLU)
    assert not any(isinstance(layer, torch.nn.LeakyReLU) for layer in layers[last + 1 :])


def test_toy_study_writes_runs_tables_and_picture(toy, tmp_path, capsys):
    out, docs = tmp_path / "out", tmp_path / "docs"
    arguments = ["--out", str(out), "--seeds", "1", "--steps", "2", "--docs", str(docs)]
    assert toy.main(arguments) == 0
    printed = capsys.readouterr().out
    rows = toy.read_rows(out / "mode_collapse.csv", toy.FIELDS)
    assert [(row["data"], row["variant"]) for row in rows] == [*RUNS]
    for name in EXPECTED:
        text = (docs / "results" / f"mode_collapse_{name}.md").read_text(encoding="utf-8")
        assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == [
            *(f"| {variant}" for variant in EXPECTED[name]), "| *real samples*",
        ]  # fmt: skip
        assert len({line.count("|") for line in text.splitlines()}) == 1
        assert text in printed
    for picture in ("mode_collapse.png", "mode_collapse_grid.png"):
        assert (docs / "images" / picture).read_bytes().startswith(b"\x89PNG")
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
    arguments = ["--data", "ring", "--data", "digits", "--out", str(tmp_path)]
    arguments += ["--seeds", "1", "--steps", "1"]
    assert toy.main(arguments) == 130
    finished = toy.read_rows(tmp_path / "mode_collapse.csv", toy.FIELDS)
    assert len(finished) == 3

    again = []
    monkeypatch.setattr(toy, "train", lambda config: again.append(config) or train(config))
    assert toy.main(arguments) == 0
    rows = toy.read_rows(tmp_path / "mode_collapse.csv", toy.FIELDS)
    assert rows[:3] == finished
    assert len(rows) == len(trained) + len(again) == 12
    assert not {c.model_dump_json() for c in trained} & {c.model_dump_json() for c in again}

    assert toy.main(arguments) == 0
    assert len(again) == 9
    # Another number of steps is another run.
    assert toy.main([*arguments[:-1], "2"]) == 0
    assert len(again) == 9 + 12
    # The rows of a data set that is left out stay, and so does the picture that shows it.
    kept = (tmp_path / "mode_collapse.png").read_bytes()
    rows = toy.read_rows(tmp_path / "mode_collapse.csv", toy.FIELDS)
    docs = tmp_path / "docs"
    assert toy.main(["--data", "digits", *arguments[4:], "--docs", str(docs)]) == 0
    assert toy.read_rows(tmp_path / "mode_collapse.csv", toy.FIELDS) == rows
    assert (tmp_path / "mode_collapse.png").read_bytes() == kept
    assert sorted(file.name for file in docs.rglob("*.*")) == [
        "mode_collapse.csv", "mode_collapse_digits.md",
    ]  # fmt: skip


def test_stop_while_the_rows_are_written_leaves_the_old_ones(collapse, tmp_path, monkeypatch):
    path = tmp_path / "mode_collapse.csv"
    row = dict.fromkeys(collapse.FIELDS, "1")
    collapse.write_rows([row], path, collapse.FIELDS)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(collapse.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        collapse.write_rows([row, row], path, collapse.FIELDS)
    assert collapse.read_rows(path, collapse.FIELDS) == [row]


STUDIES = {
    "choose": "choose",
    "mixtures": "mixtures",
    "mnist_comparison": "mnist",
    "mode_collapse": "",
}


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "its columns should be .*, got "),
        (b"variant,seed,loss\nplain,0,1\n", "its columns should be .*, got variant,seed,loss"),
        ("short", "zip"),
        (b"\xff\xfe\0", "decode"),
        (b'"', "unexpected end of data"),
    ],
    ids=["empty", "other columns", "short", "no text", "quote"],
)
def test_rows_of_another_version_are_refused_before_a_run(
    examples, tmp_path, capsys, monkeypatch, study, content, what
):
    module = importlib.import_module(study)
    path = tmp_path / f"{STUDIES[study] or study}.csv"
    if content == "short":
        content = (",".join(module.FIELDS) + "\nplain,0\n").encode()
    path.write_bytes(content)
    for name in ("train", "run"):
        monkeypatch.setattr(module, name, None, raising=False)
    assert module.main(["--out", str(tmp_path)]) == 2
    told = (
        rf"{study}.py: {path} cannot be gone on with \(.*{what}.*\); move it away, or choose .*\n"
    )
    assert re.fullmatch(told, capsys.readouterr().err)
    assert path.read_bytes() == content


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("count", ["0", "-3"])
def test_no_runs_and_no_steps_are_refused(examples, tmp_path, capsys, study, count):
    module = importlib.import_module(study)
    for option in ("--seeds",) if study == "mnist_comparison" else ("--seeds", "--steps"):
        assert module.main(["--out", str(tmp_path), option, count]) == 2
        expected = f"{study}.py: {option}: should be 1 or more, got {count}\n"
        assert capsys.readouterr().err == expected
    assert list(tmp_path.iterdir()) == []


def rows_of(collapse, **changes):
    """Two runs of each variant of the ring."""
    return [
        dict.fromkeys(collapse.FIELDS, "")
        | {
            "data": "ring",
            "variant": variant,
            "seed": str(seed),
            "cpu_ms_per_step": str(cost + seed),
        }
        | {"modes": modes, "high_quality": "0.5", "reverse_kl": "0.25"}
        | changes.get(variant.replace(" ", "_"), {})
        for variant, cost in zip(of_2016(""), [2, 2, 6, 2, 5, 11], strict=True)
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
