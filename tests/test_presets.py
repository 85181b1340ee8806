"""Presets: the numbers of their papers, the document that each one is, and the trainer with them."""

import math
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import nn

import gan_blocks
from gan_blocks import Preset, build, preset, presets, registry
from gan_blocks.presets import OptimizerSettings

NAMES = [
    *("apt", "dac", "dcgan", "encodec", "gan", "hifigan", "lsgan", "r3gan", "sngan", "stylegan2"),
    *("vqgan", "wgan", "wgan-gp"),
]
RECONSTRUCTION = ("dac", "encodec", "hifigan", "vqgan")
GENERATION = [name for name in NAMES if name not in RECONSTRUCTION]


def test_names_are_all_of_them():
    assert presets.names() == NAMES
    assert [n for n in NAMES if preset(n).task == "reconstruction"] == list(RECONSTRUCTION)


# --- the published numbers -----------------------------------------------------------------------


def adam(lr, *betas):
    return {"name": "Adam", "lr": lr, "betas": list(betas)}


def block(name, **arguments):
    """A spec with its defaults."""
    return registry.normalise({"block": name, **arguments})


def with_defaults(value):
    """The value, where it is a schedule or a list of some with their defaults."""
    if isinstance(value, list):
        return [with_defaults(item) for item in value]
    return registry.normalise(value) if isinstance(value, dict) else value


def cosine(start, end):
    return {"block": "CosineSchedule", "start": start, "end": end, "steps": 39063}


def scheduled(name):
    penalty = {"block": name, "gamma": 1.0}
    return block("Scheduled", penalty=penalty, schedule=cosine(0.05, 0.005))


VOCODER = ("LeastSquaresLoss", {"discriminator_scale": 1.0, "generator_scale": 1.0})
RISE = {"block": "LinearSchedule", "start": 0.5, "end": 0.7, "steps": 125_000}
FALL = {"block": "LinearSchedule", "start": 2e-4, "end": 0.0, "steps": 50_000}
R3GAN_ADAM = adam(cosine(2e-4, 5e-5), 0.0, cosine(0.9, 0.99))

# Name: loss, batch size, critic steps, the generator's optimiser, further settings.
PUBLISHED = {
    "gan": (
        ("NonSaturatingLoss", {"discriminator_scale": 0.5}), 100, 1,
        {"name": "SGD", "lr": 0.1, "momentum": RISE}, {},
    ),
    "dcgan": (("NonSaturatingLoss", {}), 128, 1, adam(2e-4, 0.5, 0.999), {}),
    "wgan": (
        ("WassersteinLoss", {}), 64, 5, {"name": "RMSprop", "lr": 5e-5},
        {"constraint": ("WeightClipper", {"bound": 0.01})},
    ),
    "wgan-gp": (
        ("WassersteinLoss", {}), 64, 5, adam(1e-4, 0.0, 0.9),
        {"penalties": [("GradientPenalty", {"weight": 10.0, "target": 1.0, "one_sided": False})]},
    ),
    "lsgan": (("LeastSquaresLoss", {}), 64, 1, adam(1e-3, 0.5, 0.999), {}),
    "sngan": (
        ("HingeLoss", {}), 64, 5, adam(FALL, 0.0, 0.9),
        {"constraint": ("SpectralNorm", {"n_power_iterations": 1})},
    ),
    "stylegan2": (
        ("NonSaturatingLoss", {}), 32, 1, {**adam(0.0016, 0.0, 0.99**0.8), "eps": 1e-8},
        {"penalties": [("Lazy", {"penalty": {"block": "R1Penalty", "gamma": 10.0}, "every": 16})],
         "ema": 0.5 ** (32 / 10_000)},
    ),
    "r3gan": (
        ("RelativisticLoss", {"comparison": "softplus"}), 512, 1, R3GAN_ADAM,
        {"ema": 0.5 ** (512 / 5_000_000)},
    ),
    "apt": (
        ("NonSaturatingLoss", {}), 9062, 1, {"name": "RMSprop", "lr": 5e-6, "alpha": 0.9},
        {"penalties": [("ApproximateR1Penalty", {"weight": 100.0, "sigma": 0.01})], "ema": 0.995,
         "precision": "bfloat16"},
    ),
    "vqgan": (
        ("HingeLoss", {"discriminator_scale": 0.5}), None, 1, adam(4.5e-6, 0.5, 0.9),
        {"auxiliary": [("AdaptiveWeight", {"weight": 0.8, "maximum": 1e4, "eps": 1e-4})]},
    ),
    "hifigan": (
        VOCODER, 16, 1, {**adam(2e-4, 0.8, 0.99), "name": "AdamW", "weight_decay": 0.01},
        {"auxiliary": [("LayerwiseFeatureMatchingLoss", {"weight": 2.0})]},
    ),
    "dac": (
        VOCODER, 72, 1, {**adam(1e-4, 0.8, 0.99), "name": "AdamW"},
        {"auxiliary": [("LayerwiseFeatureMatchingLoss", {"weight": 2.0, "last_map": False})]},
    ),
    "encodec": (
        ("HingeLoss", {"combine": "mean"}), 64, 1, adam(3e-4, 0.5, 0.9),
        {"auxiliary": [
            ("LayerwiseFeatureMatchingLoss",
             {"relative": True, "layers": "mean", "discriminators": "mean"}),
            ("GradientBalancer",
             {"weights": {"l1": 0.1, "mel": 1.0, "adversarial": 3.0, "features": 3.0},
              "total_norm": 1.0, "decay": 0.999}),
        ]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_the_published_ones(name):
    (loss, arguments), batch_size, critic_steps, optimizer, others = PUBLISHED[name]
    actual = preset(name)
    assert actual.loss == block(loss, **arguments)
    assert (actual.batch_size, actual.critic_steps) == (batch_size, critic_steps)
    optimizer = {key: with_defaults(value) for key, value in optimizer.items()}
    assert actual.generator_optimizer == optimizer
    if name != "stylegan2":
        assert actual.discriminator_optimizer == optimizer
    constraint = others.get("constraint")
    assert actual.constraint == (constraint and block(constraint[0], **constraint[1]))
    if name != "r3gan":
        assert actual.penalties == [block(n, **a) for n, a in others.get("penalties", [])]
    terms = [(item.term, item.weight) for item in actual.auxiliary]
    assert terms == [(block(n, **a), 1.0) for n, a in others.get("auxiliary", [])]
    assert actual.ema == pytest.approx(others.get("ema", 0.0), rel=1e-12)
    assert actual.precision == others.get("precision", "float32")
    assert (actual.adversarial_weight, actual.clip_gradient) == (1.0, None)


def test_stylegan2_has_the_lazy_correction_of_each_side():
    it = preset("stylegan2")
    assert it.generator_optimizer["lr"] == pytest.approx(0.002 * 4 / 5)
    assert it.discriminator_optimizer["lr"] == pytest.approx(0.002 * 16 / 17)
    assert it.discriminator_optimizer["betas"] == pytest.approx([0, 0.99 ** (16 / 17)])
    computed = build(it.penalties[0]).adam(0.002, (0.0, 0.99))
    assert computed["lr"] == pytest.approx(it.discriminator_optimizer["lr"])
    assert list(computed["betas"]) == pytest.approx(it.discriminator_optimizer["betas"])


@pytest.mark.parametrize(
    ("step", "gamma"), [(0, 0.05), (13021, 0.03875), (26042, 0.01625), (39063, 0.005)]
)
def test_r3gan_has_both_penalties_with_gamma_on_a_cosine(step, gamma):
    # R1 and R2 of the critic <w, x> are gamma / 2 |w|^2 each.
    critic, samples = nn.Linear(3, 1), torch.randn(2, 5, 3)
    specs = preset("r3gan").penalties
    assert [spec["penalty"]["block"] for spec in specs] == ["R1Penalty", "R2Penalty"]
    for spec in specs:
        penalty = build(spec["penalty"])(critic, *samples)
        expected = gamma / 2 * critic.weight.square().sum()
        schedule = build(spec["schedule"])
        torch.testing.assert_close(schedule.at(step) * penalty, expected)
    assert specs == [scheduled("R1Penalty"), scheduled("R2Penalty")]


def test_r3gan_s_first_penalty_is_the_scheduled_one():
    critic, (real, fake) = nn.Linear(3, 1), torch.randn(2, 5, 3)
    short = {"block": "CosineSchedule", "start": 0.05, "end": 0.005, "steps": 4}
    for spec in preset("r3gan").penalties:
        penalty = build(spec | {"schedule": short})
        values = []
        for _ in range(6):
            values.append(penalty(critic, real, fake).item())
            penalty.step()
        gammas = [0.0275 + 0.0225 * math.cos(math.pi * min(i, 4) / 4) for i in range(6)]
        norm = critic.weight.square().sum().item()
        assert values == pytest.approx([gamma / 2 * norm for gamma in gammas], rel=1e-5)


@torch.no_grad()
def test_least_squares_has_the_half_of_its_own_source():
    one = torch.ones(4)
    assert build(preset("lsgan").loss).discriminator(0 * one, one) == 1.0
    assert build(preset("hifigan").loss).discriminator([0 * one] * 3, [one] * 3) == 6.0
    assert build(preset("encodec").loss).discriminator([0 * one] * 3, [one] * 3) == 3.0


# --- a document ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_preset_comes_back_from_dict_json_and_toml(name):
    it = preset(name)
    assert Preset.model_validate(it.model_dump()) == it
    assert Preset.model_validate_json(it.model_dump_json()) == it
    assert Preset.model_validate(tomllib.loads(str(it))) == it
    changed = preset(name, title='A "quoted"\nline \\ ü', batch_size=3, clip_gradient=1e-7)
    assert Preset.model_validate(tomllib.loads(str(changed))) == changed != it


@pytest.mark.parametrize("name", NAMES)
def test_file_is_the_document(name):
    table = tomllib.loads((files(presets) / f"{name}.toml").read_text(encoding="utf-8"))
    assert Preset.model_validate({"name": name} | table) == preset(name)


@pytest.mark.parametrize("name", NAMES)
def test_preset_names_paper_code_and_where_they_differ(name):
    it = preset(name)
    assert "arXiv:" in it.paper
    assert it.title
    if name == "apt":
        assert it.code is None
        assert any("No code is public" in note for note in it.notes)
    else:
        assert it.code is not None
        assert it.code.startswith("https://github.com/")
        assert it.differences


@pytest.mark.parametrize("name", NAMES)
def test_every_spec_builds_and_every_optimiser_steps(name):
    it = preset(name)
    build(it.loss, "loss")
    for spec in it.penalties:
        build(spec, "penalty")
    for item in it.auxiliary:
        build(item.term, "auxiliary")
    if it.constraint:
        build(it.constraint, "constraint")
    for table in (it.generator_optimizer, it.discriminator_optimizer):
        weight = nn.Parameter(torch.ones(3))
        optimizer = OptimizerSettings(table).build([weight])
        assert type(optimizer).__name__ == table["name"]
        weight.square().sum().backward()
        optimizer.step()
        assert bool((weight < 1).all())


def test_override_replaces_a_whole_key_and_is_checked():
    it = preset("r3gan", batch_size=64, penalties=[{"block": "R1Penalty", "gamma": 3}])
    assert it.batch_size == 64
    assert it.penalties == [{"block": "R1Penalty", "gamma": 3.0, "combine": "sum"}]
    assert it.loss == preset("r3gan").loss
    table = {"name": "Adam", "lr": 1e-3, "betas": (0.0, 0.9)}
    it = preset("r3gan", generator_optimizer=table)
    assert it.generator_optimizer == {"name": "Adam", "lr": 1e-3, "betas": [0.0, 0.9]}
    assert Preset.model_validate_json(it.model_dump_json()) == it


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"batch_size": 0}, "batch_size: should be greater than 0, got 0"),
        ({"batchsize": 3}, r"batchsize: unknown argument; did you mean batch_size\?"),
        ({"penalties": [{"block": "R1Penalty", "gama": 1}]}, r"penalties\.0\.gama: unknown"),
        ({"penalties": [{"block": "HingeLoss"}]}, r"penalties\.0\.block: 'HingeLoss' is a loss"),
        ({"loss": {"block": "HingLoss"}}, "loss.block: unknown block 'HingLoss'; did you mean"),
        ({"auxiliary": [{"term": {"block": "KL"}}]}, r"auxiliary\.0\.term\.block: 'KL' is a div"),
        ({"ema": 2.0, "critic_steps": "5"}, r"critic_steps: .*; ema: should be less"),
        ({"generator_optimizer": {"name": "Adma"}}, r"generator_optimizer: name .*got 'Adma'"),
        ({"generator_optimizer": {"name": "Adam", "ler": 1}}, "generator_optimizer: .*'ler'"),
        ({"generator_optimizer": {"name": "Adam", "lr": -1.0}}, "generator_optimizer: .*Invalid"),
        (
            {"generator_optimizer": {"name": "Adam", "lr": {"block": "FeatureMatchingLoss"}}},
            "'FeatureMatchingLoss' is an auxiliary block, but a schedule is wanted here: Cosine",
        ),
        (
            {"generator_optimizer": {"name": "Adam", "lr": {"block": "CosineSchedule", "end": 1}}},
            "generator_optimizer: CosineSchedule cannot be built: .*start",
        ),
    ],
)
def test_wrong_override_is_named_with_its_path(overrides, message):
    with pytest.raises(gan_blocks.InvalidArgumentsError, match=f"(?s)the preset r3gan .*{message}"):
        preset("r3gan", **overrides)


@pytest.mark.parametrize("name", ["r3gn", "R3GAN", "../presets/r3gan", 3])
def test_unknown_name_is_refused_and_a_near_one_offered(name):
    with pytest.raises(gan_blocks.UnknownPresetError, match="unknown preset") as caught:
        preset(name)
    assert ("did you mean r3gan?" in str(caught.value)) == (name in ("r3gn", "R3GAN"))


def test_preset_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        preset("gan").batch_size = 3  # type: ignore[misc]


# --- schedules in an optimiser -----------------------------------------------------------------


def test_optimizer_follows_its_schedules_as_a_function_of_the_step():
    settings = OptimizerSettings(preset("r3gan").generator_optimizer)
    optimizer = settings.build([nn.Parameter(torch.ones(1))])
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"]) == (2e-4, (0.0, 0.9))
    settings.update(optimizer, 39063)
    assert group["lr"] == pytest.approx(5e-5)
    assert group["betas"] == pytest.approx((0.0, 0.99))
    settings.update(optimizer, 0)
    assert (group["lr"], group["betas"]) == (2e-4, (0.0, 0.9))


def test_update_leaves_what_has_no_schedule_alone():
    settings = OptimizerSettings(preset("sngan").generator_optimizer)
    optimizer = settings.build([nn.Parameter(torch.ones(1))])
    optimizer.param_groups[0]["betas"] = (0.1, 0.2)
    settings.update(optimizer, 25_000)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    assert optimizer.param_groups[0]["betas"] == (0.1, 0.2)


# --- the trainer ---------------------------------------------------------------------------------

CONFIG = """
preset = "{name}"
steps = {steps}
batch_size = 8
log_every = 1
sample_every = 50
checkpoint_every = 3

[data]
name = "ring"

[generator]
block = "MLPGenerator"
latent_dim = 2
output_shape = [2]
width = 8
depth = 1

[discriminator]
block = "MLPDiscriminator"
input_shape = [2]
width = 8
depth = 1
"""


@pytest.fixture
def read(examples, tmp_path):
    """Reads a config that names a preset, with more lines at its top."""

    def read(name, top="", steps=6, end=""):
        file = tmp_path / "config.toml"
        file.write_text(top + CONFIG.format(name=name, steps=steps) + end)
        return examples.reading.read_config(examples.config.Config, file)

    return read


@pytest.mark.parametrize("name", GENERATION)
def test_trainer_takes_a_step_with_every_preset_for_generation(examples, read, tmp_path, name):
    config, it = read(name), preset(name)
    assert config.loss == it.loss
    assert config.penalties == it.penalties
    assert config.discriminator_optimizer == it.discriminator_optimizer
    assert config.critic_steps == it.critic_steps
    assert (config.ema is None) == (it.ema == 0)
    assert config.batch_size == 8
    trainer = examples.train.Trainer(config, tmp_path, torch.device("cpu"))
    batches = trainer.batches()
    before = [p.detach().clone() for p in trainer.generator.parameters()]
    for _ in range(2):
        values = trainer.train_step([next(batches) for _ in range(config.critic_steps)])
        assert all(map(math.isfinite, values.values()))
    assert not all(map(torch.equal, before, trainer.generator.parameters()))


def test_config_lies_over_its_preset_as_over_a_file_that_it_extends(read):
    config = read(
        "r3gan",
        'penalties = []\nloss = { block = "HingeLoss" }\n',
        end="\n[generator_optimizer]\nlr = { steps = 10 }\n"
        '[discriminator_optimizer]\nname = "SGD"\nlr = 0.5\n',
    )
    assert config.penalties == []
    assert config.loss["block"] == "HingeLoss"
    table = preset("r3gan").generator_optimizer
    assert config.generator_optimizer == table | {"lr": table["lr"] | {"steps": 10}}
    assert (table["lr"]["start"], table["lr"]["steps"]) == (2e-4, 39063)
    assert config.discriminator_optimizer == {"name": "SGD", "lr": 0.5}


@pytest.mark.parametrize("how", ["in the file", "on the command line"])
def test_preset_lies_over_what_a_config_extends(examples, tmp_path, how):
    base = Path(__file__).parents[1] / "examples" / "configs" / "digits.toml"
    file, settings = tmp_path / "config.toml", ["batch_size=7"]
    file.write_text(f'extends = "{base.as_posix()}"\npreset = "wgan-gp"\n')
    if how == "on the command line":
        file, settings = base, ["preset=wgan-gp", *settings]
    config = examples.reading.read_config(examples.config.Config, file, settings)
    it = preset("wgan-gp")
    assert config.loss == it.loss
    assert config.penalties == it.penalties
    assert config.generator_optimizer == it.generator_optimizer
    assert (config.critic_steps, config.ema, config.batch_size) == (5, None, 7)
    assert config.data.name == "digits"


def test_preset_without_a_constraint_takes_away_that_of_the_file_it_lies_over(examples, tmp_path):
    base = Path(__file__).parents[1] / "examples" / "configs" / "digits_wgan.toml"
    settings = ["preset=lsgan"]
    config = examples.reading.read_config(examples.config.Config, base, settings)
    assert config.constraint is None


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_trainer_refuses_presets_for_reconstruction(examples, read, name):
    with pytest.raises(examples.data.UsageError, match=f"{name} is for reconstruction, where"):
        read(name)


def test_trainer_names_a_wrong_preset(examples, read):
    with pytest.raises(examples.data.UsageError, match=r"preset: .*did you mean wgan-gp\?"):
        read("wgangp")


def test_run_with_schedules_goes_on_exactly_after_a_stop(examples, read, tmp_path):
    end = "\n[generator_optimizer]\nlr = { start = 0.1, steps = 6 }\n"
    config, cpu = read("r3gan", end=end), torch.device("cpu")
    whole = examples.train.run(config, tmp_path, tmp_path / "whole", cpu, False)
    first = read("r3gan", end=end, steps=3)
    examples.train.run(first, tmp_path, tmp_path / "parts", cpu, False)
    again = examples.train.run(config, tmp_path, tmp_path / "parts", cpu, True)
    assert all(map(torch.equal, whole.generator.parameters(), again.generator.parameters()))
    assert all(map(torch.equal, whole.critic.parameters(), again.critic.parameters()))
    settings = OptimizerSettings(config.generator_optimizer)
    assert again.g_optimizer.param_groups[0]["lr"] == settings.at(5)["lr"] != settings.at(0)["lr"]


def test_run_with_a_spectral_norm_goes_on_exactly_after_a_stop(examples, read, tmp_path):
    config, cpu = read("sngan"), torch.device("cpu")
    whole = examples.train.run(config, tmp_path, tmp_path / "whole", cpu, False)
    examples.train.run(read("sngan", steps=3), tmp_path, tmp_path / "parts", cpu, False)
    again = examples.train.run(config, tmp_path, tmp_path / "parts", cpu, True)
    assert all(map(torch.equal, whole.critic.parameters(), again.critic.parameters()))


RISING = {"block": "LinearSchedule", "start": 0.9, "end": 1.5, "steps": 2}


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (
            {"name": "Adam", "betas": [0.5, RISING]},
            "Adam cannot be built at the end of its schedules: Invalid beta",
        ),
        (
            {
                "name": "SGD",
                "lr": {"block": "LinearSchedule", "start": 0.1, "end": -1.0, "steps": 2},
            },
            "SGD cannot be built at the end of its schedules: Invalid learning rate",
        ),
        (
            {"name": "Adam", "lr": torch.tensor(0.1)},
            "takes numbers, strings and specs of schedules",
        ),
        ({"name": "Adam", "lr": -1.0}, "Adam cannot be built: Invalid learning rate"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_both_ends_of_a_schedule_are_tried_before_the_first_step(table, text):
    with pytest.raises(gan_blocks.InvalidArgumentsError, match=text):
        preset("gan", generator_optimizer=table)


def test_numbers_and_letters_that_toml_writes_in_another_way():
    settings = preset(
        "gan", title='a\x7f\u2028"b\\n', generator_optimizer={"name": "Adam", "eps": float("inf")}
    )
    again = tomllib.loads(str(settings))
    assert Preset.model_validate(again) == settings
