"""The conformance kit notices what it is for: each check fails for a block broken on purpose."""

import importlib.metadata
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from cases import CASES
from pydantic import BeforeValidator
from torch import Tensor, nn

from gan_blocks import RenamedWarning, block, registry
from gan_blocks.authoring import Averaging, Clocked
from gan_blocks.testing import CHECKS, Case, check, names_of_checks, parametrize
from gan_blocks.types import PositiveFloat

pytestmark = pytest.mark.usefixtures("registry_as_it_was")

EVERYTHING: dict[str, Any] = {"double_backward": True, "compile": True, "autocast": True} | {
    "distributed": True
}


class Doubling(nn.Module):
    """Twice its input; what is broken inherits from it."""

    def __init__(self, offset: float = 0.25) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.5, -0.5]))
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"x should be floating-point numbers, got {type(x).__name__}")
        return 2 * (x * self.weight).tanh() + self.offset


def doubled(block: Any, x: Tensor) -> Tensor:
    return torch.stack([2 * (row * block.weight).tanh() + block.offset for row in x])


class ForgetsArguments(Doubling):
    def __init__(self, offset: float = 0.25) -> None:
        super().__init__(offset)

    def extra_repr(self) -> str:
        return ""


class CountsItsArguments(Doubling):
    def __init__(self, offset: float = 0.25) -> None:
        super().__init__(offset)
        self.__dict__["_block_arguments"]["offset"] += 1


class TakesText(Doubling):
    def __init__(self, offset: Annotated[float, BeforeValidator(lambda x: float(str(x)[:1]))]):
        super().__init__(offset)


class HidesAWeight(Doubling):
    def __init__(self, offset: float = 0.25) -> None:
        super().__init__(offset)
        self.hidden = [torch.randn(()).item()]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.hidden[0]


class PicklesHalf(Doubling):
    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state | {"offset": 0})


class IsThreefold(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        return 1.5 * super().forward(x)


class ChangesItsInput(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        result = super().forward(x)
        x.detach().add_(1)
        return result


class AlwaysDouble(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).double()


class StaysOnTheCPU(Doubling):
    def __init__(self, offset: float = 0.25) -> None:
        super().__init__(offset)
        self.constant = torch.zeros(2, device="cpu")

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.constant.to(x.dtype)


class LooksAtItsMates(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class CountsSamples(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(len(x), device=x.device, dtype=x.dtype)
        return super().forward(x) + places[:, None]


class DetachesHalf(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * (x.detach() * self.weight).tanh() + self.offset


class _OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return gradient * (1 - x.detach().tanh().square())


class DifferentiatesOnce(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * _OnceOnly.apply(x * self.weight) + self.offset  # type: ignore[operator]


class LosesDigits(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        z = x @ torch.diag(self.weight)  # half precision under autocast
        return 2 * ((z + 300) - 300).tanh() + self.offset


class AsksForAValue(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0 if x.sum().item() > 100 else 0.0)


class SeesItsOwnPart(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class CountsItsCalls(Doubling):
    """Grows by each call in training mode."""

    calls: Tensor

    def __init__(self, offset: float = 0.25) -> None:
        super().__init__(offset)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        result = super().forward(x) + self.calls
        if self.training:
            self.calls += 1
        return result


class _Averages(Averaging):
    """Adds the average of the steps before to twice its input."""

    mean: Tensor
    wide_buffers = (*Averaging.wide_buffers, "mean")

    def __init__(self, offset: float = 0.25) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.weight = nn.Parameter(torch.tensor([1.5, -0.5]))
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        result = Doubling.forward(self, x)  # type: ignore[arg-type]
        self.pool(x.mean(), len(x))
        return result + self.mean

    def commit(self, value: Tensor, seen: Tensor) -> None:
        self.mean = torch.where(seen, value, self.mean).to(self.mean)


class CommitsInEvaluation(_Averages):
    def pool(self, value: Tensor, samples: Tensor | float) -> None:
        self._pool(value.to(self.pooled), samples)


class CommitsInForward(_Averages):
    def forward(self, x: Tensor) -> Tensor:
        result = super().forward(x)
        self.on_step()
        return result


class AddsUpItsCalls(_Averages):
    """Takes the sum over its calls for the mean."""

    def pool(self, value: Tensor, samples: Tensor | float) -> None:
        if self.training and torch.is_grad_enabled():
            self.pooled = self.pooled + value.detach()
            self.pooled_samples = self.pooled_samples + 1


class PoolsWithoutGradients(_Averages):
    def pool(self, value: Tensor, samples: Tensor | float) -> None:
        if self.training:
            self._pool(value.detach().to(self.pooled), samples)


class PoolsInEvaluation(_Averages):
    def pool(self, value: Tensor, samples: Tensor | float) -> None:
        if torch.is_grad_enabled():
            self._pool(value.detach().to(self.pooled), samples)


class CountsInEvaluation(CountsItsCalls):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            self.calls += 1
        return Doubling.forward(self, x)


class GrowsInSecret(Doubling):
    """Grows by each call, without a state that tells."""

    def __init__(self, offset: float = 0.25) -> None:
        super().__init__(offset)
        self.secret = 0

    def forward(self, x: Tensor) -> Tensor:
        self.secret += 1
        return super().forward(x) + self.secret


class KeepsItsInput(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        self.kept = [x]
        time.sleep(1e-4)
        return super().forward(self.kept[0])


class RewindsRandomNumbers(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.rand(1)
        return super().forward(x)


class SwallowsTypeErrors(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        try:
            return super().forward(x)
        except TypeError:
            return 0 * self.weight


class LeavesItToTorch(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.tanh(x * self.weight) + self.offset


class SumsTheBatch(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sum()


def centred(block: Any, x: Tensor) -> Tensor:
    return doubled(block, x - x.mean(0))


def two_inputs(block: Any, x: Tensor, y: Tensor) -> Tensor:
    return block(x) * y


class CountsUnsaved(Doubling):
    n: Tensor

    def __init__(self, offset: float = 0.25) -> None:
        super().__init__(offset)
        self.register_buffer("n", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.n = self.n + 1
        return super().forward(x)


class TrainsItself(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        self.train()
        return super().forward(x)


class TurnsGradientsOff(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        torch.set_grad_enabled(False)
        return y


class SilencesWarnings(Doubling):
    def forward(self, x: Tensor) -> Tensor:
        warnings.simplefilter("ignore")
        return super().forward(x)


class KeepsTheLastPart(_Averages):
    def pool(self, value: Tensor, samples: Tensor | float) -> None:
        if self.training and torch.is_grad_enabled():
            self.pooled, self.pooled_samples = value.detach(), torch.ones_like(value)


BROKEN: dict[str, tuple[type, dict[str, Any], dict[str, Any]]] = {
    # check: the class, what it claims, how its case differs
    "recorded_arguments_are_complete": (ForgetsArguments, {}, {}),
    "spec_round_trip": (CountsItsArguments, {}, {}),
    "invalid_arguments_are_refused": (TakesText, {}, {}),
    "copies_agree": (HidesAWeight, {}, {}),
    "pickled_copy_agrees": (PicklesHalf, {}, {}),
    "literal_reference": (IsThreefold, {}, {}),
    "inputs_are_untouched": (ChangesItsInput, {}, {}),
    "dtypes_are_followed": (AlwaysDouble, {}, {}),
    "meta_device": (StaysOnTheCPU, {}, {}),
    "batch_mates": (LooksAtItsMates, {}, {}),
    "permutation": (CountsSamples, {}, {}),
    "gradient": (DetachesHalf, {}, {}),
    "detached_inputs": (
        Doubling,
        {},
        {"call": two_inputs, "detached": (1,), "inputs": lambda make: (make(4, 2), make(4, 2))},
    ),
    "double_backward": (DifferentiatesOnce, {}, {}),
    "autocast": (LosesDigits, {}, {}),
    "compile_fullgraph": (AsksForAValue, {}, {}),
    "two_processes": (SeesItsOwnPart, {"batch_dependent": "a mean"}, {"reference": centred}),
    "called_twice": (CountsItsCalls, {}, {}),
    "looking_changes_nothing": (CommitsInEvaluation, {}, {}),
    "accumulated": (LooksAtItsMates, {}, {}),
    "threads": (KeepsItsInput, {}, {}),
    "process_is_left_alone": (RewindsRandomNumbers, {}, {}),
    "wrong_arguments_are_refused": (SwallowsTypeErrors, {}, {}),
}


def registered(cls: type, name: str, **claims: Any) -> str:
    """A new subclass as a block, so that each test has one of its own."""
    body = {"__init__": cls.__init__, "__module__": __name__, "__qualname__": cls.__name__}
    made = block(**EVERYTHING | claims)(type(cls.__name__, (cls,), body))
    globals()[cls.__name__] = made if name == "pickled_copy_agrees" else cls  # for pickle
    registry.register(made, name=f"kit-{name}", kind="layer")
    return f"kit-{name}/{cls.__name__}"


def case_of(name: str, cls: type, claims: dict[str, Any], differs: dict[str, Any]) -> Case:
    spec = {"block": registered(cls, name, **claims), "offset": 0.25}
    usual: dict[str, Any] = {"inputs": lambda make: (make(4, 2),), "reference": doubled}
    return Case(spec, **usual | differs)


def test_every_check_has_a_block_that_breaks_it():
    assert set(BROKEN) == set(CHECKS)


def test_page_lists_every_check_with_its_promise():
    page = (Path(__file__).parents[1] / "docs/testing.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE)) == CHECKS


@pytest.mark.parametrize("name", BROKEN)
def test_block_broken_on_purpose_is_noticed(name):
    case = case_of(name, *BROKEN[name])
    with pytest.raises(AssertionError) as caught:
        check(case, name)
    message = str(caught.value)
    assert message.startswith(f"{case.name} breaks {name}: {CHECKS[name]}\n")
    assert f"{__file__}:" in message


class Warming(Clocked):
    """Twice its input, as much as the steps have warmed it."""

    def __init__(self, offset: float = 0.25) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.5, -0.5]))
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return self.step_count * Doubling.forward(self, x)  # type: ignore[arg-type]


def test_a_case_tests_a_later_state_of_a_clocked_block():
    wrong = {"reference": lambda block, x: 7 * block.step_count * doubled(block, x)}
    right = {"reference": lambda block, x: block.step_count * doubled(block, x)}
    with pytest.raises(AssertionError, match="the reference of a new block is 0"):
        check(case_of("warming", Warming, {}, wrong), "literal_reference")
    with pytest.raises(AssertionError, match="not close"):
        check(case_of("warming", Warming, {}, wrong | {"steps": 3}), "literal_reference")
    check(case_of("warming", Warming, {}, right | {"steps": 3}), "literal_reference")


@pytest.mark.parametrize(
    ("name", "cls", "claims", "message"),
    [
        ("called_twice", CommitsInForward, {}, "in forward: mean changes from"),
        ("looking_changes_nothing", CountsItsCalls, {}, "without gradients: calls changes from"),
        ("called_twice", CountsUnsaved, {}, "in forward: .n changes from"),
        ("looking_changes_nothing", TrainsItself, {}, "leaves evaluation mode by itself"),
        ("process_is_left_alone", TurnsGradientsOff, {}, "torch.set_grad_enabled"),
        ("process_is_left_alone", SilencesWarnings, {}, "warnings.simplefilter"),
        (
            "accumulated",
            KeepsTheLastPart,
            {"batch_dependent": "a mean"},
            "the state after a step depends on the parts",
        ),
        ("called_twice", AddsUpItsCalls, {}, "after two calls instead of one: mean changes from"),
        ("called_twice", GrowsInSecret, {}, "not equal"),
        ("looking_changes_nothing", CountsItsCalls, {}, r"\nwithout gradients: calls changes from"),
        ("looking_changes_nothing", CountsInEvaluation, {}, r"\nin evaluation mode: calls changes"),
        (
            "looking_changes_nothing",
            PoolsWithoutGradients,
            {},
            "step after a call without gradients",
        ),
        ("looking_changes_nothing", PoolsInEvaluation, {}, "step after a call in evaluation mode"),
        ("accumulated", SumsTheBatch, {}, "not close"),
        (
            "accumulated",
            SumsTheBatch,
            {"batch_dependent": "a pretext"},
            "mean over the batch a sum",
        ),
        (
            "wrong_arguments_are_refused",
            LeavesItToTorch,
            {},
            "(?s)0 of __call__, None: .* from inside",
        ),
    ],
)
def test_other_blocks_broken_on_purpose_are_noticed_too(name, cls, claims, message):
    with pytest.raises(AssertionError, match=message):
        check(case_of("other", cls, claims, {}), name)


class RunningMean(Doubling):
    """Has running statistics, as batch norm has."""

    mean: Tensor

    def __init__(self, offset: float = 0.25) -> None:
        super().__init__(offset)
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        doubled = super().forward(x)
        if self.training:
            self.mean = self.mean + (x.detach().mean(0) - self.mean) / 2
        return doubled + self.mean


def beside_the_running_mean(block: Any, x: Tensor) -> Tensor:
    mean = block.mean / 2 + x.mean(0).detach() / 2
    return torch.stack([2 * (row * block.weight).tanh() + block.offset + mean for row in x])


def test_layer_with_running_statistics_passes_when_it_says_so():
    claims = {"moves_in_forward": True, "batch_dependent": "the mean of the batch moves it"}
    detached = dict.fromkeys(("gradient", "double_backward"), "no gradient goes through it")
    differs = {"reference": beside_the_running_mean, "without": detached | {"two_processes": "own"}}
    case = case_of("running", RunningMean, claims, differs)
    globals()["RunningMean"] = registry.find(case.spec["block"]).cls
    check(case)
    silent = case_of("silent", RunningMean, {"batch_dependent": "the mean of the batch"}, {})
    with pytest.raises(AssertionError, match="in forward: mean changes"):
        check(silent, "called_twice")


@pytest.mark.parametrize("name", CHECKS)
def test_block_that_is_right_passes(name):
    case = case_of("right", Doubling, {}, {})
    globals()["Doubling"] = registry.find(case.spec["block"]).cls
    if name in names_of_checks(case):
        check(case, name)


@pytest.mark.parametrize("case", CASES[::7], ids=lambda case: case.name)
def test_snippet_of_a_failure_makes_the_same_block_and_inputs(case):
    scope: dict[str, Any] = {}
    exec(case.snippet(), scope)
    for ours, given in zip(scope["inputs"], case.tensors(), strict=True):
        torch.testing.assert_close(ours, given, rtol=0, atol=0)
    assert registry.to_spec(scope["block"]) == registry.to_spec(case.block())


def test_failure_shows_code_that_runs():
    case = case_of("shown", IsThreefold, {}, {})
    with pytest.raises(AssertionError) as caught:
        check(case)
    shown = re.split(r"Its block and inputs:\n\n", str(caught.value))[1]
    scope: dict[str, Any] = {}
    exec("\n".join(line[4:] for line in shown.splitlines()), scope)
    wrong = scope["block"](*scope["inputs"])
    torch.testing.assert_close(wrong, 1.5 * doubled(scope["block"], *scope["inputs"]))


def test_unknown_check_is_refused_with_the_nearest():
    case = case_of("unknown", Doubling, {}, {})
    with pytest.raises(ValueError, match=r"no check 'literal_refrence'; did you mean literal_ref"):
        check(case, "literal_refrence")
    for place in ("expected_failures", "without"):
        wrong = case_of("unknown", Doubling, {}, {place: {"gradiant": "a reason"}})
        with pytest.raises(ValueError, match=rf"{place} names .*'gradiant'.*did you mean gradient"):
            names_of_checks(wrong)
        needless = case_of("unknown", Doubling, {}, {place: {"detached_inputs": "a reason"}})
        with pytest.raises(ValueError, match="'detached_inputs', which does not apply"):
            parametrize([needless])


def test_expected_failures_are_strict():
    case = case_of("strict", IsThreefold, {}, {"expected_failures": {"literal_reference": "why"}})
    check(case, "literal_reference")
    case = case_of("strict", Doubling, {}, {"expected_failures": {"literal_reference": "why"}})
    with pytest.raises(AssertionError, match=r"was to fail \(why\), but it passes"):
        check(case, "literal_reference")


def test_checks_left_out_with_a_reason_do_not_run():
    case = case_of("without", IsThreefold, {}, {"without": {"literal_reference": "why"}})
    assert "literal_reference" not in names_of_checks(case)
    assert len(names_of_checks(case)) == len(names_of_checks(case_of("all", Doubling, {}, {}))) - 1


# --- cases that are wrong, and odd ones ------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"spec": {"blok": "HingeLoss"}}, 'spec should be a table such as {"block": NAME}, got {'),
        ({"spec": "HingeLoss"}, "spec should be a table"),
        ({"inputs": (torch.ones(2),)}, "inputs should be a function, got (tensor"),
        ({"reference": None}, "reference should be a function, got None"),
        ({"detached": 1}, "detached should be a tuple of places, such as (1,), got 1"),
        ({"steps": -1}, "steps should be an integer of at least 0, got -1"),
        ({"without": ["gradient"]}, "without should give each name of a check its reason"),
        ({"expected_failures": {"gradient": ""}}, "expected_failures should give each"),
    ],
)
def test_case_that_cannot_be_is_refused_where_it_is_written(wrong, message):
    right: dict[str, Any] = {"spec": {"block": "PixelNorm"}, "inputs": lambda make: (make(2, 3),)}
    with pytest.raises(TypeError, match=re.escape(message)):
        Case(**right | {"reference": doubled} | wrong)


@pytest.mark.parametrize(
    ("differs", "error", "message"),
    [
        ({"inputs": lambda make: make(4, 2)}, TypeError, "tensors, got Tensor; a comma is missing"),
        ({"inputs": lambda make: (make(4, 2), 2.0)}, TypeError, "tensors, got Tensor, float"),
        ({"inputs": lambda make: make["x"]}, ValueError, "cannot be made: TypeError: 'function'"),
        ({"detached": (1,)}, ValueError, r"detached is \(1,\), of 1 inputs"),
        ({"batched": 2}, AssertionError, "input 1 is a scalar and has no batch; say .* batched=1"),
        ({"call": lambda block, *inputs: inputs}, AssertionError, "call .* should return a tensor"),
        ({"reference": lambda block, *inputs: 1.0}, AssertionError, "reference .* tensor, got 1.0"),
        ({"call": lambda block, *inputs: {}["w"]}, AssertionError, "^KeyError: 'w'"),
    ],
)
def test_wrong_case_is_told_in_words_whatever_is_checked(differs, error, message):
    if "batched" in differs:
        differs = differs | {"inputs": lambda make: (make(4, 2), make()), "call": two_inputs}
    case = case_of("told", Doubling, {}, differs)
    name = "literal_reference" if "reference" in differs else "permutation"
    with pytest.raises(error, match=re.compile(message, re.MULTILINE)):
        check(case, name)


def test_what_is_no_case_is_refused():
    for wrong in (None, "HingeLoss", {"block": "HingeLoss"}):
        with pytest.raises(TypeError, match=r"a gan_blocks.testing.Case is needed, got"):
            check(wrong)  # type: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no case, so nothing would be tested"):
        parametrize([])
    both = {"without": {"gradient": "a reason"}, "expected_failures": {"gradient": "another"}}
    with pytest.raises(ValueError, match="'gradient' is left out, so it cannot fail"):
        names_of_checks(case_of("both", Doubling, {}, both))


def test_nothing_to_differentiate_by_is_said():
    @block
    class Codes(nn.Module):
        """One number for each of four classes."""

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(x, 4).double()

    registry.register(Codes, name="kit-codes", kind="layer")
    case = Case(
        {"block": "kit-codes/Codes"},
        inputs=lambda make: (torch.tensor([1, 2]),),
        reference=lambda block, x: torch.eye(4, dtype=torch.float64)[x],
    )
    with pytest.raises(AssertionError, match=r"nothing to differentiate by.*leave the check out"):
        check(case, "gradient")
    with pytest.raises(AssertionError, match=r"the result is torch.float64 where .* torch.float32"):
        check(case, "dtypes_are_followed")


def of_one_draw(make: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    x = make(4, 2)
    return x, x[:2], x[:1].expand(2, 2), make(3, 2).requires_grad_() * 1


def test_inputs_may_share_storage_or_be_in_a_graph():
    case = Case(
        {"block": registered(Doubling, "shares"), "offset": 1},
        inputs=of_one_draw,
        call=lambda block, *inputs: torch.cat([block(x) for x in inputs]).mean(),
        reference=lambda block, *inputs: doubled(block, torch.cat(inputs)).mean(),
        without={"two_processes": "the parts differ in size", "compile_fullgraph": "slow"},
    )
    globals()["Doubling"] = registry.find(case.spec["block"]).cls
    check(case)


def test_batch_may_be_empty():
    case = case_of("empty", Doubling, {}, {"inputs": lambda make: (make(0, 2),)})
    check(replace(case, reference=lambda block, x: x), "literal_reference")
    check(case, "batch_mates")


def test_case_with_former_names_is_checked_as_one_with_those_of_now():
    @block(formerly="Before", renamed={"strength": "weight"})
    class Now(nn.Module):
        """Scales."""

        def __init__(self, weight: PositiveFloat) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x

    registry.register(Now, name="kit-now", kind="layer")
    case = Case(
        {"block": "kit-now/Before", "strength": 2.0},
        inputs=lambda make: (make(3),),
        reference=lambda block, x: 2 * x,
    )
    with pytest.warns(RenamedWarning):
        check(case, "invalid_arguments_are_refused")
    with pytest.warns(RenamedWarning):
        check(case, "spec_round_trip")


class OddWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
        self.none = nn.Parameter(torch.ones(0, 3))

    def forward(self, x):
        return x


def test_weights_of_integers_stay_as_they_are_and_there_may_be_none():
    made = Case(
        {"block": registered(OddWeights, "odd")},
        inputs=lambda make: (),
        reference=lambda block: torch.ones(()),
    ).block()
    assert made.whole.tolist() == [1, 1]
    assert made.none.shape == (0, 3)


@pytest.mark.parametrize(
    "inputs",
    [
        lambda make: (make(3), make(4))[::-1],
        lambda make: (make(3), torch.tensor([float("nan"), float("inf"), -float("inf")])),
        lambda make: (torch.zeros(0, 3), make(0, 2), make()),
        lambda make: (make(3) > 0, make(2).bfloat16(), torch.complex(make(3), make(3))),
        lambda make: (make(3), make(4))[1:],
    ],
)
def test_snippet_makes_the_same_inputs_whatever_they_are(inputs):
    case = Case({"block": "PixelNorm"}, inputs=inputs, reference=doubled)
    scope: dict[str, Any] = {}
    exec(case.snippet(), scope)
    for ours, given in zip(scope["inputs"], case.tensors(), strict=True):
        torch.testing.assert_close(ours, given, rtol=0, atol=0, equal_nan=True)


def test_snippet_of_many_numbers_stays_short_and_says_that_they_differ():
    text = Case(
        {"block": "Lazy", "penalty": registry.build({"block": "R1Penalty"})},
        inputs=lambda make: (make(30_000).sigmoid(), make(2)),
        reference=doubled,
    ).snippet()
    assert len(text) < 600
    assert "# What has more than 1000 numbers is another draw" in text
    scope: dict[str, Any] = {}
    exec(text, scope)
    assert [x.shape for x in scope["inputs"]] == [(30_000,), (2,)]


def test_place_of_a_case_is_where_it_or_its_copy_is_written():
    case = case_of("place", Doubling, {}, {})
    for written in (case, replace(case, note="again")):
        assert written.where.startswith(f"{__file__}:")


def test_plain_integers_may_be_of_any_size():
    @block
    class Seeded(nn.Module):
        """Adds its seed."""

        def __init__(self, seed: int = 0) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x

    registry.register(Seeded, name="seeded", kind="layer")
    make: Callable[..., Any] = lambda make: (make(3),)  # noqa: E731
    case = Case({"block": "seeded/Seeded"}, inputs=make, reference=lambda block, x: x)
    check(case, "invalid_arguments_are_refused")


def test_nothing_of_the_kit_is_loaded_by_pytest_itself():
    entry_points = importlib.metadata.distribution("gan-blocks").entry_points
    assert not [point for point in entry_points if point.group == "pytest11"]
