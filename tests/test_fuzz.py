"""Specs drawn from the declared limits, and broken ones: each builds, or says why not, at once."""

import functools
import json
import os
import time

import jsonschema
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gan_blocks import (
    DivergenceSpec,
    InvalidArgumentsError,
    LossSpec,
    PenaltySpec,
    UnknownBlockError,
    block,
    registry,
    to_spec,
)
from gan_blocks.registry import KINDS, Registry
from gan_blocks.testing.strategies import broken_specs, specs

EXAMPLES = int(os.environ.get("GAN_BLOCKS_FUZZ", "60"))
"""For each kind and test; `make fuzz` has 1,500."""
many = settings(max_examples=EXAMPLES)
few = settings(max_examples=max(5, EXAMPLES // 20))
"""Where each example may build a network of hundreds of layers."""


@functools.cache
def validator(kind):
    """Made when it is first used: other tests register blocks of their own."""
    return jsonschema.Draft202012Validator(registry.json_schema(kind))


def _seconds(spec) -> float:
    """A second on an idle machine; torch's spectral norm takes long on the meta device."""
    return 10 if isinstance(spec, dict) and spec.get("block") == "ResNetDiscriminator" else 2


# The first tensor on the meta device takes a second.
registry.normalise(
    {"block": "EqualizedConv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 1}
)


def normalised(spec, kind):
    """The spec with its defaults, or the error; in less than a second."""
    start = time.process_time()
    try:
        result = registry.normalise(spec, kind)
    except (InvalidArgumentsError, UnknownBlockError) as error:
        result = error
    assert time.process_time() - start < _seconds(spec), spec
    if isinstance(result, InvalidArgumentsError):
        assert result.problems
    assert str(result)
    return result


def is_relation(error) -> bool:
    """Whether the error is of several arguments together, which limits cannot declare."""
    return isinstance(error, InvalidArgumentsError) and all(
        # The path ends at a block: at the outermost, or at one inside.
        not path or path[-1] in ("penalty", "divergence", "schedule")
        for path, *_ in error.problems
    )


@pytest.mark.parametrize("kind", KINDS)
@many
@given(st.data())
def test_what_keeps_the_limits_builds_or_breaks_a_relation(kind, data):
    spec = data.draw(specs(kind))
    result = normalised(spec, kind)
    if isinstance(result, dict):
        again = json.loads(json.dumps(result, allow_nan=False))
        assert again == result
        assert registry.normalise(again, kind) == result, "a normal form"
        assert to_spec(registry.build(spec, kind, device="meta")) == result
    else:
        assert is_relation(result), result


@pytest.mark.parametrize("kind", KINDS)
@few
@given(st.data())
def test_sizes_up_to_the_limits_take_no_time(kind, data):
    try:
        result = normalised(data.draw(specs(kind, largest=None)), kind)
    except (RuntimeError, TypeError) as error:  # torch's own, of a tensor that no memory could hold
        if "overflow" not in str(error).lower():
            raise
    else:
        assert isinstance(result, dict) or is_relation(result), result


@pytest.mark.parametrize("block", ["HingeLoss", "Lazy", "FDivergenceLoss", "NoSuchBlock"])
@pytest.mark.parametrize("key", ["block", "penalty", "divergence", "combine"])
def test_tables_that_hold_another_twice_and_so_on_are_refused_at_once(block, key):
    deep: object = {"block": "KL"}
    for _ in range(60):
        deep = {"block": block, "penalty": deep, "divergence": [deep]}  # 2^60 leaves
    assert isinstance(normalised({"block": block, key: deep}, "loss"), Exception)


@pytest.mark.parametrize("kind", KINDS)
@many
@given(st.data())
def test_broken_specs_are_refused_in_words(kind, data):
    normalised(data.draw(broken_specs(kind)), kind)


def plain(spec) -> bool:
    """Whether JSON can hold it, so that a schema is asked about the same thing."""
    try:
        return json.loads(json.dumps(spec, allow_nan=False)) == spec
    except (TypeError, ValueError):
        return False


@pytest.mark.parametrize("kind", KINDS)
@many
@given(st.data())
def test_schema_accepts_and_refuses_what_build_does(kind, data):
    spec = data.draw(st.one_of(specs(kind), broken_specs(kind)))
    if not plain(spec):
        return
    result = normalised(spec, kind)
    accepted = validator(kind).is_valid(spec)
    if isinstance(result, dict):
        assert accepted, spec
    elif accepted:
        assert is_relation(result), (spec, result)


def test_schema_of_a_config_marks_the_wrong_place_and_nothing_else():
    class Config(pydantic.BaseModel):
        loss: LossSpec
        penalties: list[PenaltySpec] = []

    validator = jsonschema.Draft202012Validator(registry.json_schema(Config))
    config = {
        "loss": {"block": "FDivergenceLoss", "divergence": {"block": "KLL"}},
        "penalties": [
            {"block": "R1Penalty", "gamma": 1},
            {"block": "Lazy", "every": 4, "penalty": {"block": "R1Penalty", "gama": 1}},
            {"block": "GradientPenalty", "target": -1},
        ],
    }
    leaves = []
    pending = list(validator.iter_errors(config))
    while pending:
        error = pending.pop()
        pending += error.context or ()
        leaves += [] if error.context else [(tuple(error.absolute_path), error.validator)]
    assert set(leaves) == {
        (("loss", "divergence", "block"), "enum"),
        (("penalties", 1, "penalty"), "additionalProperties"),
        (("penalties", 2, "target"), "minimum"),
    }


def test_schema_of_a_config_agrees_with_the_config_whatever_its_models_are_called():
    class loss(pydantic.BaseModel):  # as one of the schema's own definitions
        x: LossSpec

    class KL(pydantic.BaseModel):
        y: str

    class Config(pydantic.BaseModel):
        a: loss
        k: KL
        d: DivergenceSpec = pydantic.Field(alias="divergence", deprecated=True)
        penalty: PenaltySpec | None = None
        more: dict[str, list[tuple[LossSpec, int]]] = {}
        child: "Config | None" = None

    schema = registry.json_schema(Config)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    hinge, wrong = {"block": "HingeLoss"}, {"block": "HingeLoss", "x": 1}
    good = {"a": {"x": hinge}, "k": {"y": ""}, "divergence": {"block": "KL"}}
    for config, valid in [
        (good, True),
        (good | {"penalty": None, "child": good}, True),
        (good | {"penalty": {"block": "R1Penalty"}, "more": {"m": [[hinge, 1]]}}, True),
        (good | {"a": hinge}, False),
        (good | {"k": {"block": "KL"}}, False),
        (good | {"divergence": {"y": ""}}, False),
        (good | {"more": {"m": [[wrong, 1]]}}, False),
        (good | {"child": good | {"a": {"x": wrong}}}, False),
    ]:
        assert validator.is_valid(config) == valid, config
        try:
            Config.model_validate(config)
        except pydantic.ValidationError:
            assert not valid, config
        else:
            assert valid, config
    divergence = schema["$defs"]["Config"]["properties"]["divergence"]
    assert divergence["deprecated"], "what the model says of the field stays"


def test_schema_of_a_plugin_whose_name_is_no_word_finds_its_blocks():
    @block
    class Same(nn.Module):
        """Gives back its input."""

        def forward(self, x):
            return x

    ours = Registry()
    ours.register(Same, name="a~b 20%#é", kind="layer")
    validator = jsonschema.Draft202012Validator(ours.json_schema("layer"))
    assert validator.is_valid({"block": "a~b 20%#é/Same"})
    assert not validator.is_valid({"block": "a~b 20%#é/Same", "x": 1})


def test_schema_of_a_class_that_is_no_model_is_refused():
    with pytest.raises(TypeError, match="a kind or a pydantic model is needed, got dict"):
        registry.json_schema(dict)


def test_schema_of_all_kinds_takes_a_spec_of_each_and_no_other():
    validator = jsonschema.Draft202012Validator(registry.json_schema())
    assert all(validator.is_valid({"block": name}) for name in ("KL", "HingeLoss", "R1Penalty"))
    assert not validator.is_valid({"block": "KL", "x": 1})
    assert not validator.is_valid({"block": "Unknown"})
