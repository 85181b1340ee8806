"""One signature, one spec: direct calls, dicts and JSON go through the same checks."""
# pyright: reportArgumentType=false

import copy
import functools
import json
import pickle
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gan_blocks
from gan_blocks import (
    InvalidArgumentsError,
    ReadOnlyArgumentError,
    UnknownBlockError,
    block,
    build,
    to_spec,
)
from gan_blocks.spec import blueprint, recorded_arguments
from gan_blocks.types import (
    AdversarialLoss,
    Constraint,
    Divergence,
    Network,
    Penalty,
    PositiveFloat,
    PositiveInt,
    Schedule,
)


def message(function, *args, **kwargs) -> str:
    with pytest.raises(InvalidArgumentsError) as caught:
        function(*args, **kwargs)
    assert caught.value.__cause__ is None
    shown = not caught.value.__suppress_context__ and caught.value.__context__
    assert not shown, "pydantic's traceback would be shown"
    return str(caught.value)


def test_all_problems_are_named_at_once_with_the_nearest_name():
    text = message(gan_blocks.MLPGenerator, "3", (2, -1), widht=8, depth=2.5)
    assert text == (
        "MLPGenerator cannot be built: latent_dim: should be a valid integer, got '3'; "
        "output_shape.1: should be greater than 0, got -1; depth: should be a valid integer, got 2.5; "
        "widht: unknown argument; did you mean width?"
    )


def test_direct_call_and_build_give_the_same_message():
    spec = {"block": "GradientPenalty", "weight": -1, "one_sided": "yes"}
    arguments = {"weight": -1, "one_sided": "yes"}
    assert message(build, spec) == message(gan_blocks.GradientPenalty, **arguments)


@pytest.mark.parametrize("value", ["3", True, None, 3.5, float("nan"), [3], torch.tensor(3)])
def test_an_integer_is_nothing_else(value):
    assert "latent_dim" in message(gan_blocks.MLPGenerator, value, (2,))


@pytest.mark.parametrize("value", ["3", True, None, float("nan"), float("inf"), 10**400, [3.0], 1j])
def test_a_float_is_finite_and_nothing_else(value):
    assert "gamma" in message(gan_blocks.R1Penalty, value)


def test_numpy_numbers_are_numbers():
    generator = gan_blocks.MLPGenerator(np.int64(3), (np.int32(2),), width=np.uint8(4))
    assert recorded_arguments(generator)["latent_dim"] == 3
    assert type(recorded_arguments(generator)["width"]) is int
    penalty = gan_blocks.R1Penalty(np.float32(0.5))
    assert type(recorded_arguments(penalty)["gamma"]) is float
    json.dumps(to_spec(generator) | to_spec(penalty))


def test_an_integer_is_a_float_and_is_recorded_as_one():
    assert repr(gan_blocks.R1Penalty(5)) == "R1Penalty(gamma=5.0, combine='sum')"


def test_missing_argument_is_named():
    assert "divergence: is required" in message(gan_blocks.FDivergenceLoss)
    assert "output_shape: is required" in message(build, {"block": "MLPGenerator", "latent_dim": 2})


def test_too_many_and_doubled_positional_arguments_are_refused():
    assert "at most 1 positional" in message(gan_blocks.WassersteinLoss, "sum", "mean")
    assert "combine: was given twice" in message(gan_blocks.WassersteinLoss, "sum", combine="mean")


def test_a_size_beyond_the_limits_is_an_error_of_ours_and_one_beyond_memory_torchs():
    with pytest.raises(InvalidArgumentsError, match="latent_dim: should be less than 2147483648"):
        gan_blocks.MLPGenerator(2**31, (2,))
    with pytest.raises(RuntimeError, match=r"size|memory"):
        gan_blocks.MLPGenerator(2**31 - 1, (2**31 - 1, 2**20))


class Unforeseen(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [TypeError, RuntimeError, OverflowError, MemoryError, torch.OutOfMemoryError, Unforeseen],
)
def test_an_error_of_a_constructor_stays_itself(error, registry_as_it_was):
    @block
    class Faulty(nn.Module):
        def __init__(self, size: int = 1) -> None:
            raise error("a fault of the author's")

        def forward(self, x):
            return x

    gan_blocks.registry.register(Faulty, name="faulty", kind="layer")
    for make in (Faulty, lambda: build({"block": "faulty/Faulty"})):
        with pytest.raises(error, match="a fault of the author's") as caught:
            make()
        assert not isinstance(caught.value, InvalidArgumentsError)


@pytest.mark.parametrize("error", [ValueError, UnicodeError])
def test_only_a_value_error_of_a_constructor_is_about_the_arguments(error):
    @block
    class Related:
        def __init__(self, low: int, high: int) -> None:
            raise (
                error("low should be below high\nand more") if error is ValueError else error("low")
            )

    with pytest.raises(InvalidArgumentsError, match="Related cannot be built: low") as caught:
        Related(3, 2)
    assert isinstance(caught.value.__cause__, error)
    assert "more" not in str(caught.value)


def test_a_relation_between_arguments_is_an_error_of_ours():
    with pytest.raises(InvalidArgumentsError, match="nothing to tell apart"):
        gan_blocks.LeastSquaresLoss(fake_target=1.0)


# --- nested blocks -----------------------------------------------------------------------------


def test_nested_block_is_an_instance_or_a_spec():
    for divergence in (gan_blocks.KL(), {"block": "KL"}):
        loss = gan_blocks.FDivergenceLoss(divergence)
        assert isinstance(loss.divergence, gan_blocks.KL)
        assert to_spec(loss)["divergence"] == {"block": "KL"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (gan_blocks.KL, "divergence: takes an instance, not the class: KL(...)"),
        ({"block": "KLL"}, "divergence.block: unknown block 'KLL'; did you mean KL?"),
        ({"block": "HingeLoss"}, "divergence.block: 'HingeLoss' is a loss, but a divergence"),
        ({"name": "KL"}, "divergence.block: is required"),
        ({"block": "KL", "alpha": 2}, "divergence.alpha: unknown argument; it takes no arguments"),
        (gan_blocks.HingeLoss(), "which is a loss"),
        ("TV", 'or a spec of one such as {"block": "TV"}'),
        ("KL", "divergence: should be a divergence or a spec of one"),
        (None, "divergence: should be a divergence or a spec of one"),
    ],
)
def test_error_in_a_nested_block_names_its_path(value, text):
    assert text in message(gan_blocks.FDivergenceLoss, value)
    assert text in message(build, {"block": "FDivergenceLoss", "divergence": value})


def test_an_unregistered_object_with_the_right_methods_is_accepted():
    class Mine(gan_blocks.KL):
        pass

    assert isinstance(Mine(), Divergence)
    loss = gan_blocks.FDivergenceLoss(Mine())
    logits = torch.zeros(3, requires_grad=True)
    assert loss.discriminator(logits, logits).isfinite()
    with pytest.raises(UnknownBlockError, match="a subclass of KL needs its own @block"):
        to_spec(loss)


FITS: dict[str, Any] = {
    "a function": lambda critic, real, fake, *, generator=None: real.mean(),
    "open arguments": lambda *tensors, **options: None,
    "a partial": functools.partial(lambda scale, c, r, f, generator=None: None, 2.0),
    "a signature that cannot be read": min,  # written in C
}


@pytest.mark.parametrize("name", FITS)
def test_any_object_that_is_called_as_a_penalty_is_one(name):
    lazy = gan_blocks.Lazy(FITS[name], every=2)
    assert lazy.penalty is FITS[name]
    with pytest.raises(UnknownBlockError):
        to_spec(lazy)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (print, r"is called as \(\*args, sep=' '"),
        (nn.Linear(2, 2), r"is called as \(input\)"),
        (nn.Module(), "has no call of its own"),
        (lambda critic, real, fake: None, r"is called as \(critic, real, fake\)"),
        (object(), "has no call of its own"),
        (3, "has no call of its own"),
        (gan_blocks.HingeLoss(), "is a loss"),
        (gan_blocks.CosineSchedule(1.0, 0.1, 8), "is a schedule"),
        (gan_blocks.ConsistencyRegularizer(), "is an auxiliary"),
    ],
)
def test_what_is_not_called_as_a_penalty_is_refused_with_the_expected_call(value, text):
    expected = r"expected penalty\(critic, real, fake, generator=\.\.\.\)"
    for wraps in (
        lambda penalty: gan_blocks.Lazy(penalty, every=2),
        lambda penalty: gan_blocks.Scheduled(penalty, gan_blocks.CosineSchedule(1.0, 0.1, 8)),
    ):
        with pytest.raises(InvalidArgumentsError, match=f"penalty: .*{text}.*{expected}"):
            wraps(value)


def test_every_kind_of_argument_refuses_what_is_called_otherwise():
    @block
    class Holder:
        def __init__(
            self,
            loss: AdversarialLoss | None = None,
            divergence: Divergence | None = None,
            constraint: Constraint | None = None,
            schedule: Schedule | None = None,
            network: Network | None = None,
        ) -> None: ...

    for name, text in {
        "loss": r"loss\.discriminator\(real_logits, fake_logits\)",
        "divergence": r"divergence\.f\(u\)",
        "constraint": r"constraint\(module\)",
        "schedule": r"schedule\(\)",
        "network": "no nn.Module",
    }.items():
        with pytest.raises(InvalidArgumentsError, match=rf"{name}.*{text}"):
            Holder(**{name: object()})


def test_a_block_holds_a_network_as_a_spec_a_block_or_any_module(registry_as_it_was):
    @block
    class Doubled(nn.Module):
        def __init__(self, network: Network) -> None:
            super().__init__()
            self.network = network

        def forward(self, x):
            return 2 * self.network(x)

    gan_blocks.registry.register(Doubled, name="holder", kind="network")
    inner = {"block": "MLPDiscriminator", "input_shape": [2], "width": 4}
    spec = {"block": "holder/Doubled", "network": inner}
    built = build(spec, "network", dtype=torch.float64)
    assert built(torch.ones(3, 2, dtype=torch.float64)).shape == (3,)
    assert to_spec(built)["network"] == gan_blocks.registry.normalise(inner, "network")
    assert to_spec(build(json.loads(json.dumps(to_spec(built))))) == to_spec(built)
    critic = gan_blocks.MLPDiscriminator((2,))
    assert Doubled(critic).network is critic
    twice = build({"block": "holder/Doubled", "network": spec})
    assert to_spec(twice)["network"]["network"]["block"] == "MLPDiscriminator"
    # A module of one's own works, and only its spec cannot be written.
    own = Doubled(nn.Linear(2, 1))
    assert own(torch.ones(3, 2)).shape == (3, 1)
    with pytest.raises(UnknownBlockError, match="Linear is not a registered block"):
        to_spec(own)
    for wrong, text in {
        nn.Linear: "takes an instance",
        nn.Module(): "has no call of its own",
        gan_blocks.PixelNorm(): "is a layer",
        print: "no nn.Module",
    }.items():
        with pytest.raises(InvalidArgumentsError, match=f"network: .*{text}"):
            Doubled(wrong)
    with pytest.raises(InvalidArgumentsError, match=r"network\.widht: unknown argument"):
        build({"block": "holder/Doubled", "network": inner | {"widht": 3}})


def test_schema_and_strategies_know_what_a_network_holds(registry_as_it_was):
    import jsonschema

    from gan_blocks.testing.strategies import specs

    @block
    class Held(nn.Module):
        def __init__(self, network: Network, weight: PositiveFloat = 1.0) -> None:
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x)

    gan_blocks.registry.register(Held, name="held", kind="layer")
    validator = jsonschema.Draft202012Validator(gan_blocks.registry.json_schema("layer"))
    inner = {"block": "MLPDiscriminator", "input_shape": [2]}
    assert validator.is_valid({"block": "held/Held", "network": inner})
    assert not validator.is_valid({"block": "held/Held", "network": {"block": "PixelNorm"}})
    assert not validator.is_valid({"block": "held/Held"})

    @settings(max_examples=10)
    @given(specs("held/Held"))
    def names_a_network(spec):
        assert gan_blocks.registry.find(spec["network"]["block"]).kind == "network"

    names_a_network()


# --- the decorator -----------------------------------------------------------------------------


def test_constructor_that_no_config_file_can_call_is_refused_when_defined():
    with pytest.raises(TypeError, match=r"layer: .* cannot stand in a config file"):

        @block
        class _TakesModule(nn.Module):
            def __init__(self, layer: nn.Module) -> None: ...

    with pytest.raises(TypeError, match="has no place in a spec"):

        @block
        class _TakesAnything:
            def __init__(self, **kwargs: int) -> None: ...

    with pytest.raises(TypeError, match="'x' has no type"):

        @block
        class _Untyped:
            def __init__(self, x) -> None: ...

    with pytest.raises(TypeError, match="a spec passes 'a' by name"):

        @block
        class _PositionalOnly:
            def __init__(self, a: int, /) -> None: ...

    with pytest.raises(TypeError, match="no place for the record"):

        @block
        class _Slots:
            __slots__ = ("a",)

    with pytest.raises(TypeError, match="the key of the block's name"):

        @block
        class _Clash:
            def __init__(self, block: int) -> None: ...


def test_argument_names_that_pydantic_uses_itself_are_free():
    @block
    class Odd:
        def __init__(self, copy: int = 1, model_dim: PositiveInt = 2, json: bool = False) -> None:
            self.total = copy + model_dim

    assert repr(Odd(copy=3)) == "Odd(copy=3, model_dim=2, json=False)"
    assert Odd(3).total == 5


# --- what is written is what runs ----------------------------------------------------------------


@block
class Renames(nn.Module):
    """Keeps an argument under another name, and one nowhere."""

    def __init__(self, factor: float = 2.0, unused: int = 3, names: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.strength = factor
        self.halved = factor / 2
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count = self.count + 1
        return self.strength * x


@block
class PlainClass:
    def __init__(self, clip: PositiveFloat = 1.0, table: dict[str, float] | None = None) -> None:
        self.clip = 0.0
        self.clip = clip
        self.table = table or {}

    def __call__(self, module: nn.Module) -> None: ...


@block
class Widened(gan_blocks.R1Penalty):
    def __init__(self, half: PositiveFloat = 1.0) -> None:
        super().__init__(gamma=2 * half)


class Undecorated(gan_blocks.R1Penalty):
    pass


def again(built):
    """The block, its copies and a block built from its spec, where there is one."""
    yield built
    yield copy.deepcopy(built)
    yield copy.copy(built)
    yield pickle.loads(pickle.dumps(built))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: gan_blocks.R1Penalty(10.0), "gamma"),
        (lambda: gan_blocks.FDivergenceLoss(gan_blocks.KL()), "divergence"),
        (lambda: gan_blocks.Lazy(gan_blocks.R1Penalty(), every=4), "penalty"),
        (lambda: gan_blocks.Lazy(gan_blocks.R1Penalty(), every=4), "every"),
        (lambda: gan_blocks.Lazy(gan_blocks.R1Penalty(), every=4).penalty, "gamma"),
        (lambda: gan_blocks.WeightClipper(0.1), "bound"),
        (lambda: gan_blocks.GradientBalancer({"a": 1.0}), "weights"),
        (Renames, "factor"),
        (Renames, "strength"),
        (Renames, "unused"),
        (Renames, "names"),
        (PlainClass, "clip"),
        (PlainClass, "table"),
        (Widened, "half"),
        (Widened, "gamma"),
        (Undecorated, "gamma"),
    ],
)
def test_an_argument_of_a_built_block_cannot_be_assigned(make, name):
    for built in again(make()):
        before = repr(built), recorded_arguments(built), getattr(built, name, None)
        with pytest.raises(ReadOnlyArgumentError, match=rf"{name} is read-only.*build a new block"):
            setattr(built, name, 7.0)
        assert (repr(built), recorded_arguments(built), getattr(built, name, None)) == before
    assert issubclass(ReadOnlyArgumentError, AttributeError)


def test_only_a_wrapper_that_computes_the_same_takes_the_place_of_an_argument():
    lazy = gan_blocks.Lazy(gan_blocks.R1Penalty(gamma=1.0), every=4)
    scheduled = gan_blocks.Scheduled(lazy.penalty, gan_blocks.LinearSchedule(5.0, 5.0, steps=1))
    for other in (scheduled, nn.Sequential(lazy.penalty, nn.Tanh())):
        with pytest.raises(ReadOnlyArgumentError, match="penalty is read-only"):
            lazy.penalty = other
    compiled = torch.compile(lazy.penalty, backend="eager")
    lazy.penalty = compiled
    assert lazy.penalty is compiled


def test_a_dict_that_a_block_was_built_with_cannot_be_changed():
    weights = {"a": 1.0}
    balancer = gan_blocks.GradientBalancer(weights)
    weights["b"] = 2.0
    for built in again(balancer):
        for change in (
            lambda held: held.update(a=3.0),
            lambda held: held.clear(),
            lambda held: held.pop("a"),
            lambda held: held.setdefault("b", 3.0),
            lambda held: held.__setitem__("a", 3.0),
            lambda held: held.__delitem__("a"),
            lambda held: held.__ior__({"a": 3.0}),
        ):
            with pytest.raises(ReadOnlyArgumentError, match="build a new block"):
                change(built.weights)
        assert built.weights == recorded_arguments(built)["weights"] == {"a": 1.0}
        assert to_spec(built)["weights"] == {"a": 1.0}
        assert type(to_spec(built)["weights"]) is dict


def test_what_is_no_argument_can_be_assigned_and_state_moves():
    built = Renames()
    built.halved, built.note = 5.0, "mine"
    built.train(False)
    assert built(torch.ones(2)).tolist() == [2.0, 2.0]
    assert (built.count, built.halved, built.note) == (1, 5.0, "mine")


def test_a_parameter_that_bears_the_name_of_an_argument_is_state():
    @block
    class Layer(nn.Module):
        def __init__(self, bias: bool = True, gamma: PositiveFloat = 1.0) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(2)) if bias else None
            self.gamma = gamma

    layer = Layer(gamma=2)
    layer.bias = nn.Parameter(torch.ones(2))
    for copied in (layer, copy.deepcopy(layer)):
        assert recorded_arguments(copied) == {"bias": True, "gamma": 2.0}
        assert torch.equal(copied.get_parameter("bias"), torch.ones(2))


def test_a_child_that_bears_the_name_of_an_argument_is_state():
    @block
    class Normed(nn.Module):
        def __init__(self, norm: str = "batch") -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2) if norm == "batch" else nn.Identity()

    built, other = Normed(), nn.LayerNorm(2)
    built.norm = other  # pyright: ignore[reportAttributeAccessIssue]
    assert built.norm is other
    assert recorded_arguments(built) == {"norm": "batch"}


def test_an_attribute_that_equals_an_argument_by_chance_can_be_assigned():
    @block
    class Coincides(nn.Module):
        def __init__(
            self, factor: float = 2.5, size: int = 3, word: str = "a", names: tuple[str, ...] = ()
        ) -> None:
            super().__init__()
            self.equal = float(repr(factor))
            self.depth, self.mode, self.seen = 3, "a", ()

    built = Coincides()
    for name, value in (("equal", 1.0), ("depth", 4), ("mode", "b"), ("seen", ("x",))):
        setattr(built, name, value)
        assert getattr(built, name) == value


def test_a_wrapper_may_take_the_place_of_a_nested_block():
    lazy = gan_blocks.Lazy(gan_blocks.R1Penalty(gamma=3), every=2)
    lazy.penalty = torch.compile(lazy.penalty, backend="eager")
    assert to_spec(lazy)["penalty"]["gamma"] == 3.0


def test_another_block_may_not_take_the_place_of_a_nested_block_wrapped_or_not():
    lazy = gan_blocks.Lazy(gan_blocks.R1Penalty(gamma=3), every=2)
    for other in (gan_blocks.R1Penalty(gamma=3), nn.Sequential(gan_blocks.R1Penalty(gamma=3))):
        with pytest.raises(ReadOnlyArgumentError, match="penalty is read-only"):
            lazy.penalty = other


def test_a_constructor_may_run_again_on_the_same_instance():
    penalty = gan_blocks.R1Penalty(1)
    penalty.__init__(gamma=4)
    assert penalty.gamma == recorded_arguments(penalty)["gamma"] == 4.0


def test_changing_the_dict_of_recorded_arguments_changes_no_record():
    penalty = gan_blocks.R1Penalty(1)
    recorded_arguments(penalty)["gamma"] = 3.0
    assert to_spec(penalty)["gamma"] == 1.0


def test_blocks_compile_though_their_arguments_are_read_only():
    built = Renames(factor=3.0)
    compiled = torch.compile(built, fullgraph=True, backend="eager")
    assert compiled(torch.ones(2)).tolist() == [3.0, 3.0]
    assert built.count == 1


def test_a_block_that_inherits_from_a_block_records_its_own_arguments():
    @block
    class Parent(nn.Module):
        def __init__(self, size: PositiveInt = 1) -> None:
            super().__init__()
            self.size = size

    @block
    class Child(Parent):
        def __init__(self, half: PositiveInt = 4) -> None:
            super().__init__(size=2 * half)

    assert recorded_arguments(Child(3)) == {"half": 3}
    assert Child(3).size == 6
    assert "half=3" in repr(Child(3))


def test_a_constructor_inherited_from_a_block_is_kept():
    @block
    class Child(gan_blocks.R1Penalty):
        pass

    assert repr(Child(3)) == "Child(gamma=3.0, combine='sum')"
    assert "Child cannot be built: gama: unknown argument" in message(Child, gama=3)


def test_a_block_without_a_constructor_is_inherited_after_a_compilation():
    @block
    class Parent(nn.Module):
        def forward(self, x):
            return 2 * x

    # The first compilation of a process replaces nn.Module's own constructor.
    assert torch.compile(Parent(), backend="eager")(torch.ones(1)) == 2

    @block
    class Child(Parent):
        pass

    assert repr(Child()) == "Child()"
    assert recorded_arguments(Child()) == {}
    assert "size: unknown argument" in message(Child, size=3)


def test_wrong_default_is_an_error():
    @block
    class Wrong:
        def __init__(self, size: PositiveInt = 0) -> None: ...

    assert "size: should be greater than 0, got 0" in message(Wrong)


def test_class_keeps_its_type_signature_and_documentation():
    import inspect

    assert list(inspect.signature(gan_blocks.GradientPenalty).parameters) == [
        "weight",
        "target",
        "one_sided",
        "combine",
    ]
    assert "Gulrajani" in (gan_blocks.GradientPenalty.__doc__ or "")
    assert gan_blocks.GradientPenalty.__name__ == "GradientPenalty"


def test_every_block_states_a_first_sentence_a_shape_or_example_and_a_source():
    for entry in gan_blocks.registry.list():
        if entry.plugin != "builtin":
            continue  # another test's
        text = entry.cls.__doc__ or ""
        assert entry.summary.endswith("."), entry.name
        assert "$" not in entry.summary, f"{entry.name}: the summary is shown in a terminal"
        for section in ("Example:", "Reference:"):
            assert section in text, f"{entry.name} has no {section}"
        for name in entry.blueprint.parameters:
            assert f"        {name}: " in text, f"{entry.name} does not explain {name}"


# --- specs as data -----------------------------------------------------------------------------

numbers = st.floats(0, 1e6).filter(lambda x: x == x)


@given(numbers, numbers, st.booleans())
def test_json_round_trip_is_exact(weight, target, one_sided):
    spec = {
        "block": "GradientPenalty",
        "weight": weight,
        "target": target,
        "one_sided": one_sided,
        "combine": "mean",
    }
    assert to_spec(build(json.loads(json.dumps(spec)))) == spec


@given(
    st.dictionaries(
        st.text(max_size=8) | st.sampled_from(["block", "gamma", "divergence"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text(max_size=8)
            | st.sampled_from(["R1Penalty", "KL", "FDivergenceLoss"]),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["block", "gamma", "x"]), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_any_document_builds_or_raises_an_error_of_ours(document):
    try:
        built = build(document)
    except gan_blocks.GanBlocksError:
        return
    assert to_spec(built)["block"] == document["block"]


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ([], "a spec is a table such as"),
        ("HingeLoss", "a spec is a table such as"),
        ({}, "block: is required"),
        ({"block": 3}, "a block's name is a string, got 3"),
        ({"block": "HingeLos"}, "did you mean HingeLoss?"),
        ({"block": "hingeloss"}, "did you mean HingeLoss?"),
        ({"block": ""}, "unknown block ''"),
    ],
)
def test_wrong_documents_say_what_is_expected(document, text):
    with pytest.raises((UnknownBlockError, InvalidArgumentsError)) as caught:
        build(document)
    assert text in str(caught.value)


def test_kind_is_checked():
    with pytest.raises(UnknownBlockError, match="'KL' is a divergence, but a loss is wanted here"):
        build({"block": "KL"}, "loss")
    with pytest.raises(UnknownBlockError, match=r"there is no kind 'los'; did you mean loss\?"):
        build({"block": "KL"}, "los")  # pyright: ignore


class Moved(nn.Module):
    """Remembers where it was moved."""

    def to(self, **options: Any) -> Any:  # pyright: ignore
        self.__dict__["moved"] = options
        return self

    def forward(self, x):
        return x


@block
class WithoutDevice(Moved):
    def __init__(self, size: int = 1) -> None:
        super().__init__()


@block
class WithDevice(Moved):
    def __init__(self, *, device: torch.device | None = None) -> None:
        super().__init__()
        self.made = device


@pytest.fixture
def movable(registry_as_it_was):
    gan_blocks.registry.register([WithoutDevice, WithDevice], name="movable", kind="layer")


@pytest.mark.parametrize("device", [0, "cuda:0", torch.device("cuda", 0), "cuda", "meta", "cpu"])
def test_every_spelling_of_a_device_reaches_the_block(device, movable):
    wanted = torch.device("cuda", 0) if device == 0 else torch.device(device)
    assert build({"block": "movable/WithoutDevice"}, device=device).moved == {"device": wanted}
    built = build({"block": "movable/WithDevice"}, device=device, dtype=torch.float64)
    assert built.made == wanted
    assert built.moved == {"dtype": torch.float64}


def test_without_device_and_dtype_nothing_is_moved(movable):
    assert not hasattr(build({"block": "movable/WithoutDevice"}), "moved")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_0_is_the_first_gpu():
    for device in (0, "cuda", torch.device("cuda", 0)):
        for spec in (
            {"block": "MLPDiscriminator", "input_shape": [2]},
            {"block": "HistoricalAveraging"},
        ):
            tensors = list(build(spec, device=device).state_dict().values())
            assert {tensor.device for tensor in tensors} == {torch.device("cuda", 0)}


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"device": "gpu"}, ValueError, "device should be one such as .*'gpu'"),
        (
            {"device": 0.5},
            TypeError,
            "device should be a string, a number or a torch.device, got 0.5",
        ),
        ({"device": True}, TypeError, "device should be .* got True"),
        ({"dtype": torch.int64}, TypeError, "dtype should be a floating dtype .* got torch.int64"),
        ({"dtype": "float32"}, TypeError, "dtype should be a floating dtype .* got 'float32'"),
    ],
)
def test_what_is_no_device_or_dtype_is_refused(options, error, text):
    with pytest.raises(error, match=text):
        build({"block": "R1Penalty"}, **options)  # pyright: ignore


def test_device_and_dtype_go_to_the_block_and_stay_out_of_the_spec():
    spec = {"block": "MLPDiscriminator", "input_shape": [2]}
    network = build(spec, dtype=torch.float64, device="meta")
    weight = next(network.parameters())
    assert (weight.dtype, weight.device.type) == (torch.float64, "meta")
    assert not {"device", "dtype"} & set(to_spec(network))
    direct = gan_blocks.MLPDiscriminator((2,), device="meta")
    assert next(direct.parameters()).is_meta


def test_a_spec_is_built_once_and_so_is_what_it_holds(registry_as_it_was):
    built: list[str] = []

    @block
    class Inner:
        def __init__(self, gamma: float = 1.0) -> None:
            built.append("inner")

        def __call__(self, critic, real, fake, *, generator=None): ...

    @block
    class Outer:
        def __init__(
            self, one: Penalty, two: Penalty | None = None, more: tuple[Penalty, ...] = ()
        ) -> None:
            built.append("outer")

        def __call__(self, critic, real, fake, *, generator=None): ...

    gan_blocks.registry.register([Inner, Outer], name="counted")
    inner = {"block": "counted/Inner"}
    build({"block": "counted/Outer", "one": inner, "two": inner, "more": [inner, inner]}, "penalty")
    assert sorted(built) == 4 * ["inner"] + ["outer"]


def test_building_draws_what_the_plain_constructor_draws():
    torch.manual_seed(0)
    plain = gan_blocks.MLPDiscriminator((2,))
    torch.manual_seed(0)
    built = build({"block": "MLPDiscriminator", "input_shape": [2]})
    for a, b in zip(plain.parameters(), built.parameters(), strict=True):
        assert torch.equal(a, b)


def test_checking_a_spec_draws_nothing_from_the_random_state():
    before = torch.get_rng_state()
    gan_blocks.registry.normalise({"block": "MLPDiscriminator", "input_shape": [2]})
    assert torch.equal(torch.get_rng_state(), before)


def test_errors_pickle():
    with pytest.raises(InvalidArgumentsError) as caught:
        gan_blocks.HingeLoss(combine="x")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.problems) == (str(caught.value), caught.value.problems)


# --- fields of somebody else's model -------------------------------------------------------------


class Config(pydantic.BaseModel, extra="forbid", arbitrary_types_allowed=True):
    loss: gan_blocks.LossSpec
    penalties: list[gan_blocks.PenaltySpec] = []
    constraint: gan_blocks.ConstraintSpec | None = None


def test_spec_field_holds_a_plain_document_with_defaults_filled_in():
    config = Config(loss={"block": "HingeLoss"}, penalties=[gan_blocks.R1Penalty(gamma=2)])
    assert config.model_dump() == {
        "loss": {"block": "HingeLoss", "discriminator_scale": 1.0, "combine": "sum"},
        "penalties": [{"block": "R1Penalty", "gamma": 2.0, "combine": "sum"}],
        "constraint": None,
    }
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_errors_of_spec_fields_merge_into_the_outer_path():
    with pytest.raises(pydantic.ValidationError) as caught:
        Config.model_validate(
            {
                "loss": {"block": "FDivergenceLoss", "divergence": {"block": "KLL"}},
                "penalties": [{"block": "R1Penalty", "gama": 1}, {"block": "HingeLoss"}, 3],
                "constraint": gan_blocks.HingeLoss(),
            }
        )
    places = {error["loc"]: error["msg"] for error in caught.value.errors()}
    assert "did you mean KL?" in places["loss", "divergence", "block"]
    assert "did you mean gamma?" in places["penalties", 0, "gama"]
    assert "a penalty is wanted here" in places["penalties", 1, "block"]
    assert "a spec is a table" in places["penalties", 2]
    assert "a constraint is wanted here" in places["constraint", "block"]


def test_spec_field_checks_relations_between_arguments_without_building_weights():
    with pytest.raises(pydantic.ValidationError, match="nothing to tell apart"):
        Config.model_validate({"loss": {"block": "LeastSquaresLoss", "real_target": 0}})


def test_spec_field_has_a_json_schema():
    names = Config.model_json_schema()["properties"]["loss"]["properties"]["block"]["enum"]
    assert "HingeLoss" in names
    assert "KL" not in names


# --- JSON Schema ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["loss", "divergence", "penalty", "constraint", "network", "schedule"]
)
def test_json_schema_accepts_the_specs_of_all_blocks_of_its_kind(kind):
    import jsonschema
    from cases import CASES

    schema = gan_blocks.registry.json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for case in CASES:
        assert validator.is_valid(json.loads(json.dumps(case.spec))) == (case.entry.kind == kind)
        assert not validator.is_valid({**case.spec, "no_such_argument": 1})


def test_subclass_is_no_block_by_itself():
    class Sub(gan_blocks.HingeLoss):
        pass

    assert blueprint(Sub) is None
    assert Sub().combine == "sum"
    with pytest.raises(InvalidArgumentsError):
        Sub(combine="x")
