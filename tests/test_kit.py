"""The conformance kit notices what it is for: each check fails for a block broken on purpose."""

import importlib.metadata
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from cases import CASES
from pydantic import BeforeValidator
from torch import Tensor, nn

from gan_blocks import block, registry
from gan_blocks.testing import CHECKS, Case, check, names_of_checks, parametrize

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


def centred(block: Any, x: Tensor) -> Tensor:
    return doubled(block, x - x.mean(0))


def two_inputs(block: Any, x: Tensor, y: Tensor) -> Tensor:
    return block(x) * y


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
    "two_processes": (SeesItsOwnPart, {"batch_dependent": True}, {"reference": centred}),
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
