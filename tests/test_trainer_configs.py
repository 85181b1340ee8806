"""What a config may hold, what is said of a wrong one, and those that ship."""

import math
import re
import tomllib

import jsonschema
import pytest
import torch
from trainer_runs import CONFIGS

import gan_blocks


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("steps = 12", "steps = = 12", r"config.toml is not valid TOML: .*line 2"),
        ("steps = 12", "stepps = 12", r"stepps: unknown key; did you mean steps\?"),
        ("steps = 12", "", r"steps: is required"),
        ("steps = 12", 'steps = "12"', r"steps: should be a valid integer"),
        ("steps = 12", "steps = 0", r"steps: should be greater than 0"),
        ("ema = 0.9", "ema = 1.0", r"ema: a decay should lie in \[0, 1\), got 1.0"),
        ("batch_size = 16", "batch_size = 200_000", r"batch_size: 200000 is more than the 100000"),
        ('name = "ring"', 'nmae = "ring"', r"data.nmae: unknown key; did you mean name\?"),
        ('name = "ring"', 'name = "rings"', r"data.name: should be 'digits', 'ring'"),
        ('name = "ring"', 'name = "ring"\nroot = "x"', r"data: ring takes no root; remove it"),
        ('name = "ring"', 'name = "MNIST"', r"data: MNIST needs root"),
        ("gamma = 0.1", "gama = 0.1", r"penalties.0.gama: unknown argument; did you mean gamma\?"),
        ("weight = 1.0", 'weight = "1"', r"penalties.1.weight: should be a valid number"),
        ("RelativisticLoss", "RelativisticLos", r"did you mean RelativisticLoss\?"),
        ("RelativisticLoss", "R1Penalty", r"'R1Penalty' is a penalty, but a loss is wanted"),
        ("RelativisticLoss", "nowhere/Loss", r"loss.block: .*nowhere"),
        ("lr = 1e-3\nbetas", "lr = -1.0\nbetas", r"generator_optimizer: .*Invalid learning rate"),
        ("lr = 1e-3\nbetas", "lrr = 1e-3\nbetas", r"generator_optimizer: .*'lrr'"),
        ('"Adam"\nlr = 1e-3\nb', '"Adm"\nlr = 1e-3\nb', r"generator_optimizer: .*did you mean Adam"),
        ('"Adam"\nlr = 1e-3\nbetas = [0.0, 0.99]', '"LBFGS"', r"LBFGS cannot step: .*closure"),
        ("output_shape = [2]", "output_shape = [3]", r"networks, loss and data do"),
        ("input_shape = [2]", "input_shape = [1, 8, 8]", r"do not fit: .*\(N, 1, 8, 8\)"),
        ("[data]", 'plugins = ["no.py"]\n[data]', r"plugins: .*no.py cannot be used .*No such"),
        ("[data]", 'auxiliary = [{ term = { block = "FeatureMatchingLoss" }, layers = [] }]\n[data]',
         r"auxiliary.0.layers: .*at least 1"),
        ("[data]", 'auxiliary = [{ trem = 1 }]\n[data]', r"auxiliary.0.trem: .* did you mean term"),
    ],
)  # fmt: skip
def test_bad_config_is_refused_in_one_message_that_names_the_place(
    write, train, tmp_path, old, new, expected
):
    status, message = train(write((old, new)))
    assert status == 2
    assert re.search(expected, message), message
    assert "Traceback" not in message
    assert not (tmp_path / "out").exists()


def test_all_problems_of_a_config_are_told_at_once(write, train):
    _, message = train(write(("steps = 12", "stepps = 12"), ("gamma", "gama"), ("width", "widht")))
    for place in ("stepps", "penalties.0.gama", "generator.widht", "discriminator.widht"):
        assert place in message


def test_missing_config_is_refused(train, tmp_path):
    status, message = train(tmp_path / "none.toml")
    assert status == 2
    assert "none.toml cannot be read (No such file or directory); check the path" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = (", "SyntaxError"),
        ("x = 1", "adds no block"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_broken_plugin_is_refused(write, train, tmp_path, text, expected):
    (tmp_path / "mine.py").write_text(text)
    status, message = train(write(("[data]", 'plugins = ["mine.py"]\n[data]')))
    assert status == 2
    assert "mine.py cannot be used" in message
    assert expected in message


def test_device_that_does_not_exist_is_refused(write, examples, tmp_path, capsys):
    status = examples.train.main([str(write()), "--out", str(tmp_path / "o"), "--device", "gpu9"])
    assert status == 2
    assert "--device gpu9 cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("steps", r"--set steps has no value; write --set KEY=VALUE"),
        ("=3", r"--set =3 cannot be read"),
        ("steps=many", r"steps: should be a valid integer"),
        ("generator.widht=3", r"generator.widht: unknown argument; did you mean width\?"),
        ("generator=3", r"generator: "),
    ],
)
def test_bad_setting_is_refused(write, train, setting, expected):
    status, message = train(write(), "--set", setting)
    assert status == 2
    assert re.search(expected, message), message
    assert "Traceback" not in message


def test_config_lies_over_the_one_that_it_extends(examples, write, tmp_path):
    write(name="base.toml")
    (tmp_path / "middle.toml").write_text(
        'extends = "base.toml"\nsteps = 7\n[generator]\nwidth = 3\n'
    )
    file = tmp_path / "top.toml"
    file.write_text('extends = "middle.toml"\n[generator]\ndepth = 2\n')
    config = examples.reading.read_config(examples.config.Config, file, ["seed=5", "seed=6"])
    assert (config.steps, config.seed) == (7, 6)
    base = examples.reading.read_config(examples.config.Config, tmp_path / "base.toml")
    assert config.generator == base.generator | {"width": 3, "depth": 2}
    assert config.model_dump(exclude={"steps", "seed", "generator"}) == base.model_dump(
        exclude={"steps", "seed", "generator"}
    )


def test_order_of_settings_does_not_matter(examples, write):
    settings = ["generator_optimizer.lr=0.5", "generator_optimizer.name=SGD", "data.name=grid"]
    for order in (settings, settings[::-1]):
        config = examples.reading.read_config(examples.config.Config, write(), order)
        assert config.generator_optimizer == {"name": "SGD", "lr": 0.5}


def test_another_block_or_data_set_takes_the_place_of_the_old_one_whole(examples, write):
    read = lambda *settings: examples.reading.read_config(  # noqa: E731
        examples.config.Config, write(), settings
    )
    config = read('discriminator={block="DCGANDiscriminator", image_size=8}')
    assert config.discriminator == gan_blocks.to_spec(gan_blocks.DCGANDiscriminator(8))
    config = read('data={name="MNIST", root="x"}', "data.image_size=8")
    assert (config.data.name, config.data.root, config.data.image_size) == ("MNIST", "x", 8)
    assert read("data.name=grid").data.root is None
    assert read("data.name=digits", "loss.block=HingeLoss").loss["block"] == "HingeLoss"


def test_value_that_is_no_toml_is_a_string(examples, write):
    file = write(('name = "ring"', 'name = "MNIST"\nroot = "x"'))

    def read(setting):
        return examples.reading.read_config(examples.config.Config, file, [setting]).data.root

    assert read("data.root=/some/path with spaces") == "/some/path with spaces"
    assert read('data.root="quoted"') == "quoted"
    assert read("data.root=a=b") == "a=b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('extends = "loop.toml"', "extends itself"),
        ('extends = "none.toml"', r"none.toml cannot be read \(No such file or directory\)"),
        ("extends = 3", "extends should be the path of a config file, got 3"),
    ],
)
def test_bad_extension_is_refused(train, tmp_path, text, expected):
    (tmp_path / "loop.toml").write_text(text)
    status, message = train(tmp_path / "loop.toml")
    assert status == 2
    assert re.search(expected, message), message


def test_average_has_a_half_life_in_samples_and_a_number_is_the_decay_of_a_step(examples, write):
    def average(*settings):
        return examples.reading.read_config(examples.config.Config, write(), settings).ema

    assert average("ema=0.5").model_dump() == {"half_life": pytest.approx(16), "rampup": None}
    assert average("ema=0.5", "batch_size=8").half_life == pytest.approx(8)
    assert average("ema=0") is None
    table = average("ema={half_life=500, rampup=0.1}").model_dump()
    assert table == {"half_life": 500, "rampup": 0.1}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_shipped_config_trains(examples, file, few_digits):
    settings = ["batch_size=4", "log_every=1"]
    if examples.reading.read_config(examples.config.Config, file).data.name.endswith("MNIST"):
        settings.append(f"data.root={few_digits}")
    config = examples.reading.read_config(examples.config.Config, file, settings)
    trainer = examples.train.Trainer(config, file.parent, torch.device("cpu"))
    trainer.check()
    batches = trainer.batches()
    values = trainer.train_step([next(batches) for _ in range(config.critic_steps)])
    assert all(map(math.isfinite, values.values()))
    assert values["g_gradient"] > 0


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_shipped_config_tells_in_bfloat16_nearly_what_it_tells_in_float32(
    examples, file, few_digits
):
    settings = ["batch_size=8", "log_every=1", "critic_steps=1"]
    if examples.reading.read_config(examples.config.Config, file).data.name.endswith("MNIST"):
        settings += [f"data.root={few_digits}", "generator.width=8", "discriminator.width=8"]
    told = []
    for precision in ("float32", "bfloat16"):
        config = examples.reading.read_config(
            examples.config.Config, file, [*settings, f"precision={precision}"]
        )
        trainer = examples.train.Trainer(config, file.parent, torch.device("cpu"))
        batches = trainer.batches()
        told.append([trainer.train_step([next(batches)]) for _ in range(3)])
    assert all(math.isfinite(value) for values in told[1] for value in values.values())
    assert told[1][0] != told[0][0]
    assert told[1][0] == pytest.approx(told[0][0], rel=0.06, abs=1e-4)
    # Adam's first steps turn rounding of a gradient near 0 into whole steps.
    for name in ("d_loss", "g_loss"):
        assert told[1][2][name] == pytest.approx(told[0][2][name], rel=0.1, abs=0.05)


@pytest.mark.parametrize("file", [f for f in CONFIGS if f.stem.endswith("_small")], ids=str)
def test_small_form_differs_from_the_large_one_in_size_and_pace_only(examples, file):
    large = file.with_name(file.name.replace("_small", ""))
    read = lambda f: examples.reading.read_config(examples.config.Config, f)  # noqa: E731
    a, b = read(large).model_dump(), read(file).model_dump()
    for config in (a, b):
        for table, key in (
            ("data", "image_size"), ("generator", "image_size"), ("discriminator", "image_size"),
            ("generator", "width"), ("discriminator", "width"),
        ):  # fmt: skip
            assert config[table].pop(key) > 0
        for key in ("steps", "ema"):
            config.pop(key)
        (config["constraint"] or {"bound": 1}).pop("bound")
        for side in ("generator_optimizer", "discriminator_optimizer"):
            assert config[side].pop("lr") > 0
        for item in config["auxiliary"]:  # the last hidden layer has another number
            item.pop("layers")
    assert a == b


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_schema_of_configs_takes_those_that_ship(examples, file):
    validator = jsonschema.Draft202012Validator(examples.config.schema())
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    validator.validate(table)
    assert not validator.is_valid(table | {"stepz": 1})
    if not {"extends", "preset"} & set(table):
        assert not validator.is_valid(table | {"loss": {"block": "HingLoss"}})
        assert not validator.is_valid({key: table[key] for key in table if key != "loss"})
