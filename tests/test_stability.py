"""What is public stays, or goes with a warning: names, specs of earlier versions, former names."""

import json
import pickle
import warnings
from pathlib import Path

import jsonschema
import pydantic
import pytest
from public_api import HERE, public_api
from torch import nn
from typer.testing import CliRunner

import gan_blocks
from gan_blocks import (
    InvalidArgumentsError,
    LayerSpec,
    PluginError,
    RenamedWarning,
    UnknownBlockError,
    block,
)
from gan_blocks.cli import app
from gan_blocks.registry import KINDS, Registry, registry
from gan_blocks.types import Penalty, PositiveFloat

pytestmark = pytest.mark.usefixtures("registry_as_it_was")

OLD_SPECS = sorted(Path(__file__).parent.glob("specs_written_by/*.json"))


def test_public_api_is_the_committed_one():
    committed = json.loads(HERE.read_text(encoding="utf-8"))
    assert public_api() == committed, (
        "the public interface has changed: follow docs/stability.md, then run "
        "python tests/public_api.py --write"
    )


@pytest.mark.parametrize("file", OLD_SPECS, ids=lambda file: file.stem)
def test_specs_of_earlier_versions_still_build_as_they_were(file):
    for old in json.loads(file.read_text(encoding="utf-8")):
        with warnings.catch_warnings(action="ignore", category=RenamedWarning):
            now = registry.normalise(old)
        # What has been added since has a default that changes nothing; what was there has its value.
        assert set(old) - {"block"} <= set(now) | set(registry.find(now["block"]).blueprint.renamed)
        for name, value in old.items():
            if name in now and now["block"] == old["block"] and not isinstance(value, dict):
                assert now[name] == value, (old, now)


def test_there_is_a_spec_of_every_built_in_block_in_the_first_version():
    names = {spec["block"] for spec in json.loads(OLD_SPECS[0].read_text(encoding="utf-8"))}
    known = {n for e in registry.list() if e.plugin == "builtin" for n in (e.name, *e.former_names)}
    assert names <= known
    assert len(names) > 60


# --- former names --------------------------------------------------------------------------------


@block(formerly=("Factor", "older/Factor"), renamed={"factr": "factor", "by": "factor"})
class Scale(nn.Module):
    """Multiplies."""

    def __init__(self, factor: PositiveFloat, offset: float = 0.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


@pytest.fixture
def mine():
    ours = Registry()
    ours.register(Scale, name="mine", kind="layer")
    return ours


def test_new_names_warn_of_nothing(mine):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mine.build({"block": "mine/Scale", "factor": 2})
        Scale(2)


@pytest.mark.parametrize("name", ["mine/Factor", "older/Factor"])
def test_former_name_of_a_block_builds_it_and_warns_at_the_line_of_the_caller(mine, name):
    with pytest.warns(RenamedWarning, match=f"'{name}' is called 'mine/Scale' now") as caught:
        built = mine.build({"block": name, "factor": 2})
    assert caught[0].filename == __file__
    assert mine.to_spec(built) == {"block": "mine/Scale", "factor": 2.0, "offset": 0.0}


def test_former_name_of_an_argument_works_in_specs_and_calls(mine):
    with pytest.warns(RenamedWarning, match="argument factr of Scale is called factor") as caught:
        built = mine.build({"block": "mine/Scale", "factr": 3})
    assert caught[0].filename == __file__
    assert mine.to_spec(built)["factor"] == 3
    with pytest.warns(RenamedWarning, match="argument by of Scale is called factor") as caught:
        assert Scale(by=4).factor == 4  # type: ignore[reportCallIssue]
    assert caught[0].filename == __file__


def test_both_names_of_an_argument_are_refused(mine):
    for given in ({"factr": 1, "factor": 2}, {"factr": 1, "by": 2}):
        with (
            pytest.raises(InvalidArgumentsError, match="former name of factor, which is given too"),
            warnings.catch_warnings(action="ignore", category=RenamedWarning),
        ):
            mine.build({"block": "mine/Scale", **given})


def test_former_name_with_a_wrong_value_names_the_argument_of_now(mine):
    with pytest.warns(RenamedWarning), pytest.raises(InvalidArgumentsError, match="factor: should"):
        mine.build({"block": "mine/Scale", "factr": -1})


def test_former_name_inside_another_block():
    @block(formerly="OldPenalty", renamed={"strength": "weight"})
    class NewPenalty(nn.Module):
        """Nothing."""

        def __init__(self, weight: PositiveFloat = 1.0) -> None:
            super().__init__()

        def forward(self, critic, real, fake, *, generator=None):
            return real.sum() * 0

    registry.register(NewPenalty, name="renaming", kind="penalty")
    old = {"block": "renaming/OldPenalty", "strength": 2}
    with pytest.warns(RenamedWarning) as caught:
        spec = registry.normalise({"block": "Lazy", "penalty": old, "every": 4})
    assert len(caught) == 2
    assert spec["penalty"] == {"block": "renaming/NewPenalty", "weight": 2.0}
    assert issubclass(NewPenalty, Penalty)


def test_nobody_takes_the_names_of_a_plugin_that_is_there(mine):
    @block
    class Factor(nn.Module):
        """Another's."""

        def forward(self, x):
            return x

    mine.register(Factor, name="older", kind="layer")
    assert mine.find("older/Factor").cls is Factor
    mine.register(Scale, name="older", kind="layer")  # now without it
    with pytest.warns(RenamedWarning):
        assert mine.find("older/Factor").name == "older/Scale"


def agree(ours, spec):
    """Whether a spec builds; the schema has to say the same."""
    try:
        with warnings.catch_warnings(action="ignore", category=RenamedWarning):
            ours.build(spec)
        builds = True
    except (UnknownBlockError, InvalidArgumentsError):
        builds = False
    assert jsonschema.Draft202012Validator(ours.json_schema("layer")).is_valid(spec) == builds
    return builds


def test_schema_gives_no_plugin_the_names_of_another_that_is_there(mine):
    @block
    class Factor(nn.Module):
        """Another's, without arguments."""

        def forward(self, x):
            return x

    @block
    class Other(nn.Module):
        """Not called so."""

        def forward(self, x):
            return x

    assert agree(mine, {"block": "older/Factor", "factor": 1})
    mine.register(Factor, name="older", kind="layer")
    assert agree(mine, {"block": "older/Factor"})
    mine.register(Other, name="older", kind="layer")
    assert not agree(mine, {"block": "older/Factor", "factor": 1})


def test_former_name_that_two_plugins_claim_is_refused_with_both(mine):
    @block(formerly="older/Factor")
    class Rival(nn.Module):
        """Says so too."""

        def forward(self, x):
            return x

    mine.register(Rival, name="a", kind="layer")
    with pytest.raises(
        UnknownBlockError, match="a/Rival and mine/Scale say that they were called so"
    ):
        mine.find("older/Factor")
    assert not agree(mine, {"block": "older/Factor"})
    assert agree(mine, {"block": "mine/Factor", "factor": 1})


def test_block_that_inherits_a_constructor_inherits_its_former_arguments(mine):
    @block(renamed={"shift": "offset"})
    class Scale2(Scale):
        """Multiplies too."""

    @block
    class Scale3(Scale2):
        """Likewise."""

    mine.register([Scale2, Scale3], name="heirs", kind="layer")
    for name in ("Scale2", "Scale3"):
        old = {"block": f"heirs/{name}", "factr": 2, "shift": 1}
        assert agree(mine, old)
        with pytest.warns(RenamedWarning):
            built = mine.build(old)
        assert mine.to_spec(built) == {"block": f"heirs/{name}", "factor": 2.0, "offset": 1.0}


def test_warning_as_error_leaves_a_build_inside_pydantic_as_it_is():
    class Config(pydantic.BaseModel):
        layer: LayerSpec

    registry.register(Scale, name="mine", kind="layer")
    with (
        pytest.raises(RenamedWarning, match="factr"),
        warnings.catch_warnings(action="error", category=RenamedWarning),
    ):
        Config.model_validate({"layer": {"block": "mine/Scale", "factr": 1}})


def test_former_name_that_another_block_of_the_plugin_has_is_refused(mine):
    @block
    class Factor(nn.Module):
        """Of the same plugin."""

        def forward(self, x):
            return x

    with pytest.raises(PluginError, match="two blocks for the name 'two/Factor'"):
        mine.register([Scale, Factor], name="two", kind="layer")


def test_former_names_of_built_in_blocks_cannot_be_claimed(mine):
    @block(formerly="HingeLoss")
    class Other(nn.Module):
        """Another."""

        def forward(self, x):
            return x

    mine.register(Other, name="claims", kind="layer")
    with pytest.raises(UnknownBlockError):
        mine.find("HingeLoss")  # this registry has no built-in blocks
    assert mine.find("claims/Other").former_names == ("claims/HingeLoss",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formerly": "Wrong"}, "formerly should hold"),
        ({"formerly": "a/b/C"}, "formerly should hold"),
        ({"formerly": ["no name"]}, "formerly should hold"),
        ({"formerly": [None]}, "formerly should hold"),
        ({"renamed": {"old": "missing"}}, "renamed should lead"),
        ({"renamed": {"factor": "offset"}}, "renamed should lead"),
        ({"renamed": {"block": "factor"}}, "renamed should lead"),
    ],
)
def test_impossible_former_names_are_refused_where_they_are_written(options, message):
    with pytest.raises(TypeError, match=message):

        @block(**options)
        class Wrong(nn.Module):
            """Wrong."""

            def __init__(self, factor: float = 1.0, offset: float = 0.0) -> None:
                super().__init__()


def test_schema_takes_former_names_and_marks_them(mine):
    schema = mine.json_schema("layer")
    validator = jsonschema.Draft202012Validator(schema)
    for spec, valid in [
        ({"block": "mine/Scale", "factor": 1}, True),
        ({"block": "mine/Factor", "factor": 1}, True),
        ({"block": "older/Factor", "factr": 1, "offset": 2}, True),
        ({"block": "mine/Scale", "by": 1}, True),
        ({"block": "mine/Scale", "by": -1}, False),
        ({"block": "mine/Scale"}, False),
        ({"block": "mine/Scale", "by": 1, "factor": 1}, False),
        ({"block": "mine/Scale", "by": 1, "factr": 1}, False),
    ]:
        assert validator.is_valid(spec) == valid, spec
        with warnings.catch_warnings(action="ignore", category=RenamedWarning):
            try:
                mine.build(spec)
            except InvalidArgumentsError:
                assert not valid, spec
            else:
                assert valid, spec
    option = schema["$defs"]["mine.Scale"]
    assert option["properties"]["factr"]["deprecated"]
    assert option["properties"]["block"]["anyOf"][1]["deprecated"]


def test_validate_tells_old_names_with_their_place_and_passes(tmp_path):
    registry.register(Scale, name="mine", kind="layer")
    file = tmp_path / "old.toml"
    file.write_text(
        '[first]\nblock = "mine/Scale"\nfactor = 1\n\n[second]\nblock = "mine/Factor"\nby = 1\n'
    )
    result = CliRunner().invoke(app, ["validate", str(file)])
    assert result.exit_code == 0, result.output
    assert f"{file}:5:1: second: 'mine/Factor' is called 'mine/Scale' now" in result.stdout
    assert f"{file}:5:1: second: the argument by of Scale is called factor now" in result.stdout
    report = json.loads(CliRunner().invoke(app, ["validate", "--json", str(file)]).stdout)
    assert report["ok"]
    assert [note["line"] for note in report["files"][0]["notes"]] == [5, 5]


def test_show_finds_a_block_by_its_former_name():
    registry.register(Scale, name="mine", kind="layer")
    shown = CliRunner().invoke(app, ["show", "mine/Factor"]).stdout
    assert "mine/Scale (layer, from in process)" in shown
    assert "formerly: mine/Factor, older/Factor" in shown
    assert "formerly: factr for factor" in shown


def test_errors_survive_pickling_as_processes_pass_them_on():
    for spec in ({"block": "HingLoss"}, {"block": "HingeLoss", "x": 1}):
        with pytest.raises(gan_blocks.GanBlocksError) as caught:
            gan_blocks.build(spec)
        again = pickle.loads(pickle.dumps(caught.value))
        assert str(again) == str(caught.value)
        assert type(again) is type(caught.value)


def test_kinds_are_the_eight():
    assert KINDS == (
        "layer",
        "loss",
        "auxiliary",
        "schedule",
        "divergence",
        "penalty",
        "constraint",
        "network",
    )
