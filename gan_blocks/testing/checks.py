"""The promises that the kit checks. The names of the functions are the names of the checks."""

import copy
import functools
import io
import json
import pickle
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, get_args, get_origin

import annotated_types as limits
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gan_blocks._arguments import did_you_mean, shown
from gan_blocks.distributed import _draws, process_group
from gan_blocks.errors import InvalidArgumentsError
from gan_blocks.registry import registry
from gan_blocks.spec import recorded_arguments
from gan_blocks.testing.case import SEED, Case, one_tensor

_FUNCTIONS: dict[str, tuple[Callable[[Case], None], Callable[[Case], bool]]] = {}

CHECKS: dict[str, str] = {}
"""The name of each check with the promise that it checks."""


def _applies_when(applies: Callable[[Case], bool]) -> Callable[[Any], Any]:
    def add(function: Callable[[Case], None]) -> Callable[[Case], None]:
        _FUNCTIONS[function.__name__] = (function, applies)
        CHECKS[function.__name__] = (function.__doc__ or "").partition("\n")[0]
        return function

    return add


def _always(case: Case) -> bool:
    return True


def _claims(capability: str) -> Callable[[Case], bool]:
    return lambda case: getattr(case.entry.blueprint.capabilities, capability)


def _is_differentiable(case: Case) -> bool:
    return case.entry.kind != "constraint"


def names_of_checks(case: Case) -> list[str]:
    """The checks that apply to a case: by what its block claims, less those of `without`.

    Raises:
        TypeError: If it is no case.
        ValueError: If `expected_failures` or `without` names a check that there is not, or that does not
            apply, or if both name it.
    """
    if not isinstance(case, Case):
        raise TypeError(f"a gan_blocks.testing.Case is needed, got {shown(case)}")
    names = [name for name, (_, applies) in _FUNCTIONS.items() if applies(case)]
    for place in ("expected_failures", "without"):
        for name in getattr(case, place):
            if name not in names:
                reason = "does not apply to it" if name in CHECKS else f"is none{_nearest(name)}"
                raise ValueError(f"{case.name}: {place} names the check {name!r}, which {reason}")
    for name in case.without:
        if name in case.expected_failures:
            raise ValueError(f"{case.name}: the check {name!r} is left out, so it cannot fail")
    return [name for name in names if name not in case.without]


def check(case: Case, name: str | None = None) -> None:
    """Check one promise of a block, or all that apply.

    Args:
        case: The block with its inputs and reference.
        name: Which of [`CHECKS`][gan_blocks.testing.CHECKS]; all of
            [`names_of_checks`][gan_blocks.testing.names_of_checks] if left out.

    Raises:
        AssertionError: Saying which promise is broken, for which case, and lines of code that make its
            block and inputs.
        TypeError: If it is no case, or its inputs are no tensors.
        ValueError: If there is no such check, or the inputs cannot be made.
    """
    names = names_of_checks(case)
    if name is not None and name not in CHECKS:
        raise ValueError(f"there is no check {name!r}{_nearest(name)}")
    case.tensors()  # what is wrong with them is no broken promise
    for each in names if name is None else [name]:
        function, _ = _FUNCTIONS[each]
        reason = case.expected_failures.get(each)
        try:
            function(case)
        except Exception as error:
            if reason is None:
                what = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
                raise AssertionError(
                    f"{case.name} breaks {each}: {CHECKS[each]}\n{what}{error}\n\n"
                    f"The case is written at {case.where}. Its block and inputs:\n\n"
                    f"{textwrap.indent(case.snippet(), '    ')}"
                ) from error
        else:
            if reason is not None:
                raise AssertionError(f"{case.name}: {each} was to fail ({reason}), but it passes")


def _nearest(name: Any) -> str:
    return did_you_mean(str(name), list(CHECKS))


# --- what a block is -----------------------------------------------------------------------


@_applies_when(_always)
def recorded_arguments_are_complete(case: Case) -> None:
    """Every argument is recorded, defaults filled in, and shown by repr."""
    block = case.block()
    recorded = recorded_arguments(block)
    names = list(case.entry.blueprint.parameters)
    assert list(recorded) == names, f"recorded are {list(recorded)}, and the arguments are {names}"
    for name, value in recorded.items():
        assert f"{name}={value!r}" in repr(block), f"{name}={value!r} is not in {block!r}"


@_applies_when(_always)
def spec_round_trip(case: Case) -> None:
    """The spec survives JSON and builds a block with the same spec."""
    spec = registry.to_spec(case.block())
    again = json.loads(json.dumps(spec, allow_nan=False))
    assert again == spec, f"JSON makes {again} of {spec}"
    for built in (
        registry.to_spec(registry.build(again, case.entry.kind)),
        registry.normalise(case.spec, case.entry.kind),
    ):
        assert built == spec, f"the spec is {spec}, and that of a block built from it {built}"


@_applies_when(_always)
def invalid_arguments_are_refused(case: Case) -> None:
    """What the declared limits forbid is refused, naming the argument."""
    plan = case.entry.blueprint
    right = registry.to_spec(case.block())
    broken: list[tuple[str, dict[str, Any]]] = [
        (name, {**right, name: value})
        for name in plan.parameters
        for value in _violations(plan.types[name])
    ]
    broken.append(("no_such_argument", {**right, "no_such_argument": 1}))
    for name, parameter in plan.parameters.items():
        if parameter.default is parameter.empty:
            broken.append((name, {k: v for k, v in right.items() if k != name}))
    for name, spec in broken:
        try:
            registry.build(spec, device="meta")
        except InvalidArgumentsError as error:
            named = any(problem.path[:1] == (name,) for problem in error.problems)
        else:
            raise AssertionError(f"{spec} was accepted")
        assert named, f"{name} is wrong in {spec}, but the error does not name it"


def _violations(annotation: Any) -> Iterator[Any]:
    """Values that an annotation forbids."""
    base, metadata = annotation, []
    if hasattr(annotation, "__metadata__"):
        base, *metadata = get_args(annotation)
    bound: Any  # a number of the annotated type
    yield object()
    if base in (int, float):
        yield from ("3", True, None, float("nan"), float("inf"), -float("inf"))
    if base is int:
        yield 2.5
    if base is float:
        yield 10**400
    if base is bool:
        yield from (1, "true")
    if base is str or get_origin(base) is not None:
        yield "no such choice"
    for limit in metadata:
        match limit:
            case limits.Gt(gt=bound):
                yield from (bound, bound - 1)
            case limits.Ge(ge=bound):
                yield bound - 1
            case limits.Lt(lt=bound):
                yield bound
            case limits.Le(le=bound):
                yield bound + 1
            case limits.MinLen():
                yield ()


@_applies_when(_always)
def copies_agree(case: Case) -> None:
    """A deepcopy and a state_dict loaded into a new block compute the same."""
    block, inputs = case.block(dtype=torch.float64), case.tensors()
    expected = case.run(block, *inputs)
    copies = [copy.deepcopy(block)]
    if isinstance(block, nn.Module):
        buffer = io.BytesIO()
        torch.save(block.state_dict(), buffer)
        buffer.seek(0)
        fresh = registry.build(case.spec, dtype=torch.float64)
        fresh.load_state_dict(torch.load(buffer, weights_only=True))
        copies.append(fresh)
    for other in copies:
        _assert_equal(case.run(other, *inputs), expected)


@_applies_when(_always)
def pickled_copy_agrees(case: Case) -> None:
    """A block that was pickled and read again computes the same."""
    block, inputs = case.block(dtype=torch.float64), case.tensors()
    expected = case.run(block, *inputs)
    _assert_equal(case.run(pickle.loads(pickle.dumps(block)), *inputs), expected)


# --- what a block computes -----------------------------------------------------------------


@_applies_when(_always)
def literal_reference(case: Case) -> None:
    """It computes what the formula says, in float64."""
    block, inputs = case.block(dtype=torch.float64), case.tensors()
    actual = case.run(block, *inputs)
    expected = case.run_reference(block, *inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@_applies_when(_always)
def inputs_are_untouched(case: Case) -> None:
    """The caller's tensors keep their values and their place in the graph."""
    block, inputs = case.block(dtype=torch.float64), case.tensors()
    before = [x.clone() for x in inputs]
    case.run(block, *inputs)
    for i, (x, y) in enumerate(zip(inputs, before, strict=True)):
        torch.testing.assert_close(
            x, y, rtol=0, atol=0, equal_nan=True, msg=lambda text, i=i: f"input {i}: {text}"
        )
        assert not x.requires_grad, f"input {i} requires a gradient now"
        assert x.grad is None, f"input {i} has a gradient now"


@_applies_when(_always)
def dtypes_are_followed(case: Case) -> None:
    """Each claimed dtype gives a result of it, or of float32 from a half, close to float64's."""
    block, inputs = case.block(dtype=torch.float64), case.tensors()
    expected = case.run(block, *inputs)
    for name in case.entry.blueprint.capabilities.dtypes:
        dtype = getattr(torch, name)
        cast = copy.deepcopy(block)
        if isinstance(cast, nn.Module):
            cast.to(dtype)
        actual = case.run(cast, *(x.to(dtype) if x.is_floating_point() else x for x in inputs))
        allowed = {dtype} | ({torch.float32} if dtype.itemsize < 4 else set())
        assert actual.dtype in allowed, f"the result is {actual.dtype} where all else is {dtype}"
        tolerance = 40 * torch.finfo(dtype).eps
        torch.testing.assert_close(
            actual.double(), expected.double(), rtol=tolerance, atol=tolerance
        )


@_applies_when(_always)
def meta_device(case: Case) -> None:
    """It runs on the meta device: no tensor of its own lies on a fixed device."""
    expected = case.run(case.block(), *case.tensors(torch.float32))
    actual = case.run(case.block(device="meta"), *case.tensors(torch.float32, "meta"))
    assert actual.is_meta, f"the result lies on {actual.device}"
    assert actual.shape == expected.shape, f"{actual.shape}, and {expected.shape} on the CPU"


@_applies_when(lambda case: not case.entry.blueprint.capabilities.batch_dependent)
def batch_mates(case: Case) -> None:
    """A sample's result does not depend on the other samples of its batch."""
    block, inputs = case.block(dtype=torch.float64), case.tensors()
    whole = case.run(block, *inputs)
    batch, rest = _batch_and_rest(case, inputs)
    if whole.dim() and len(whole) and all(len(x) == len(whole) for x in batch):
        samples = range(len(whole))
        alone = [case.run(block, *(x[i : i + 1] for x in batch), *rest) for i in samples]
        torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-9, atol=1e-11)


@_applies_when(_always)
def permutation(case: Case) -> None:
    """Permuting the samples permutes the results, or leaves a scalar as it is."""
    block, inputs = case.block(dtype=torch.float64), case.tensors()
    expected = case.run(block, *inputs)
    batch, rest = _batch_and_rest(case, inputs)
    orders = {len(x): torch.randperm(len(x), generator=_seeded(3)) for x in batch}
    actual = case.run(block, *(x[orders[len(x)]] for x in batch), *rest)
    if expected.dim() and len(expected) in orders:
        expected = expected[orders[len(expected)]]
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


def _batch_and_rest(
    case: Case, inputs: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    batch = inputs[: case.batched]
    for i, x in enumerate(batch):
        if not x.dim():
            raise ValueError(f"input {i} is a scalar and has no batch; say so with batched={i}")
    return batch, inputs[len(batch) :]


# --- under the conditions people train in ----------------------------------------------------


@_applies_when(_is_differentiable)
def gradient(case: Case) -> None:
    """Its gradient by inputs and weights is the derivative (float64, finite differences)."""
    function, variables = _function_of_inputs_and_weights(case)
    torch.autograd.gradcheck(function, variables)


@_applies_when(lambda case: bool(case.detached))
def detached_inputs(case: Case) -> None:
    """Inputs that it looks at only, such as generated samples in a penalty, get no gradient."""
    inputs = [x.requires_grad_() for x in case.tensors()]
    case.run(case.block(dtype=torch.float64), *inputs).sum().backward()
    for i in case.detached:
        assert inputs[i].grad is None, f"input {i} got a gradient"


@_applies_when(_claims("double_backward"))
def double_backward(case: Case) -> None:
    """Its gradient can be differentiated again, rightly (float64, finite differences)."""
    function, variables = _function_of_inputs_and_weights(case)
    torch.autograd.gradgradcheck(function, variables)


_CLOSE = 12 * torch.finfo(torch.bfloat16).eps


@_applies_when(_claims("autocast"))
def autocast(case: Case) -> None:
    """Under bfloat16 autocast result and gradient are finite and close to float32's."""
    result, *gradients = _result_and_gradients(case, case.block())
    with torch.autocast("cpu", torch.bfloat16):
        mixed, *mixed_gradients = _result_and_gradients(case, case.block())
    for what, many, wanted in (
        ("result", [mixed], [result]),
        ("gradient", mixed_gradients, gradients),
    ):
        assert len(many) == len(wanted), f"{len(many)} gradients, and {len(wanted)} in float32"
        if wanted:
            a, b = (torch.cat([x.double().flatten() for x in each]) for each in (many, wanted))
            assert a.isfinite().all(), f"the {what} is not finite"
            # As a whole: a small part may be all rounding.
            error = float((a - b).norm() / b.norm().clamp(min=1e-6))
            assert error < _CLOSE, f"the {what} is off by {error:.3f} of its norm"


@_applies_when(_claims("compile"))
def compile_fullgraph(case: Case) -> None:
    """torch.compile(fullgraph=True) gives the eager result and gradient."""
    block = case.block()
    eager = _result_and_gradients(case, block)
    torch.compiler.reset()
    compiled = torch.compile(case.call, fullgraph=True, backend="aot_eager")
    actual = _result_and_gradients(case, block, compiled)
    for a, b in zip(actual, eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@_applies_when(_claims("distributed"))
def two_processes(case: Case) -> None:
    """Two processes with half of the batch each give what one gives on the whole, and its gradient."""
    inputs, block = list(case.tensors()), case.block(dtype=torch.float64)
    batched = len(_batch_and_rest(case, tuple(inputs))[0])
    halves = [len(x) // 2 for x in inputs[:batched]]
    if 0 in halves or not dist.is_available() or not dist.is_gloo_available():
        return
    parts = [list(inputs), list(inputs)]
    for i, half in enumerate(halves):
        inputs[i] = inputs[i][: 2 * half]
        parts[0][i], parts[1][i] = inputs[i].split(half)
    whole, expected = _objective(case, copy.deepcopy(block), inputs)
    blocks = [copy.deepcopy(block), copy.deepcopy(block)]

    def process(rank: int) -> tuple[Tensor, list[Tensor]]:
        with process_group(groups[rank]):
            return _objective(case, blocks[rank], parts[rank], rank)

    groups = _gloo_groups(2)
    try:
        with ThreadPoolExecutor(2) as pool:
            (first, by_first), (second, by_second) = pool.map(process, (0, 1))
    except Exception:
        _gloo_groups.cache_clear()  # a collective that one process left is of no use any more
        raise
    united = torch.cat([first, second]) if whole.dim() else (first + second) / 2
    torch.testing.assert_close(united, whole, rtol=1e-9, atol=1e-11)
    for i, (a, b, both) in enumerate(zip(by_first, by_second, expected, strict=True)):
        united = torch.cat([a, b]) if i < batched else a + b
        torch.testing.assert_close(united, both, rtol=1e-7, atol=1e-9)


@functools.cache
def _gloo_groups(count: int) -> list[Any]:
    """A process group's ends for so many threads: real collectives, and no case has to travel."""
    attempts = 3  # gloo gives up easily on a busy machine
    while True:
        store: Any = dist.HashStore()  # type: ignore[attr-defined]

        def connect(rank: int, store: Any = store) -> Any:
            return dist.ProcessGroupGloo(store, rank, count, timedelta(seconds=30))

        try:
            with ThreadPoolExecutor(count) as pool:
                return list(pool.map(connect, range(count)))
        except RuntimeError:
            attempts -= 1
            if not attempts:
                raise


def _objective(
    case: Case, block: Any, inputs: list[Tensor], rank: int | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The result, and gradients of a scalar of it; two scalars add up to the whole one."""
    inputs = [
        x.clone().requires_grad_(x.is_floating_point() and i not in case.detached)
        for i, x in enumerate(inputs)
    ]
    variables = [*inputs, *_weights(block).values()]
    draws = _draws.set(_seeded(SEED))  # torch's own generator is shared by all threads
    try:
        result = one_tensor(case.call(block, *inputs), "call")
    finally:
        _draws.reset(draws)
    if result.dim():
        at = torch.arange(result.numel()) + (rank or 0) * result.numel()
        value = (result * at.cos().to(result.dtype).view_as(result)).sum()
    else:
        value = result if rank is None else result / 2
    if not value.requires_grad:
        return result, [torch.zeros_like(x) for x in variables]
    wanted = [x for x in variables if x.requires_grad]
    gradients = iter(torch.autograd.grad(value, wanted, allow_unused=True))
    found = [next(gradients) if x.requires_grad else None for x in variables]
    zeros = [torch.zeros_like(x) for x in variables]
    return result.detach(), [z if g is None else g for g, z in zip(found, zeros, strict=True)]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def _weights(block: Any) -> dict[str, Tensor]:
    return dict(block.named_parameters()) if isinstance(block, nn.Module) else {}


@contextmanager
def _substituted(block: Any, weights: dict[str, Tensor]) -> Iterator[None]:
    """The module computes with these tensors in the place of its parameters."""
    before = _weights(block)
    try:
        for name, tensor in weights.items():
            owner, _, leaf = name.rpartition(".")
            block.get_submodule(owner)._parameters[leaf] = tensor
        yield
    finally:
        for name, tensor in before.items():
            owner, _, leaf = name.rpartition(".")
            block.get_submodule(owner)._parameters[leaf] = tensor


def _function_of_inputs_and_weights(
    case: Case,
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    block = case.block(dtype=torch.float64)
    names, values = list(_weights(block)), list(_weights(block).values())
    inputs = case.tensors()
    variables = [
        x.requires_grad_(x.is_floating_point() and i not in case.detached)
        for i, x in enumerate(inputs)
    ]
    variables += [w.detach().clone().requires_grad_(w.requires_grad) for w in values]
    if not any(x.requires_grad for x in variables):
        raise ValueError(
            "there is nothing to differentiate by, no weight and no input of real numbers; leave the "
            "check out, without={NAME: REASON}"
        )

    def function(*tensors: Tensor) -> Tensor:
        weights = dict(zip(names, tensors[len(inputs) :], strict=True))
        with _substituted(block, weights):
            return case.run(block, *tensors[: len(inputs)])

    return function, tuple(variables)


def _result_and_gradients(
    case: Case, block: Any, call: Callable[..., Tensor] | None = None
) -> list[Tensor]:
    inputs = [x.requires_grad_(x.is_floating_point()) for x in case.tensors(torch.float32)]
    variables = [x for x in [*inputs, *_weights(block).values()] if x.requires_grad]
    result = case._seeded(call or case.call, "call", block, *inputs)
    if not result.requires_grad:
        return [result]
    gradients = torch.autograd.grad(result.float().sum(), variables, allow_unused=True)
    return [result.detach(), *(g for g in gradients if g is not None)]
