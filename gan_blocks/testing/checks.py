"""The promises that the kit checks. The names of the functions are the names of the checks."""

import contextlib
import copy
import functools
import io
import json
import pickle
import random
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, get_args, get_origin
from unittest import mock

import annotated_types as limits
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gan_blocks._arguments import did_you_mean, shown
from gan_blocks.authoring import Clocked
from gan_blocks.authoring.clock import step
from gan_blocks.distributed import Draw, _source, process_group
from gan_blocks.errors import InvalidArgumentsError
from gan_blocks.registry import registry
from gan_blocks.spec import recorded_arguments
from gan_blocks.testing import misuse
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
    assert not isinstance(block, Clocked) or not expected.numel() or bool(expected.any()), (
        "the reference of a new block is 0, which tests nothing: give the case steps, such as steps=3"
    )


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


# --- state and threads ---------------------------------------------------------------------------


def _moves(case: Case) -> bool:
    return case.entry.blueprint.capabilities.moves_in_forward


def _stilled(case: Case, block: Any) -> None:
    """Put a block that moves in forward into evaluation mode, where it does not."""
    if _moves(case) and isinstance(block, nn.Module):
        block.eval()


def _state(block: Any) -> dict[str, Any]:
    if not isinstance(block, nn.Module):
        return {}
    # Clocked blocks keep what they have seen since the step in buffers that are not saved.
    unsaved = {
        f"{path}.{name}": buffer
        for path, module in block.named_modules()
        if not isinstance(module, Clocked)
        for name, buffer in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set
    }
    return copy.deepcopy(dict(block.state_dict()) | unsaved)


def _assert_same_state(actual: Any, expected: Any, what: str) -> None:
    mine, other = _state(actual), _state(expected)
    assert mine.keys() == other.keys(), f"{what}: the state is {list(mine)}, was {list(other)}"
    for name, tensor in other.items():
        if isinstance(tensor, Tensor):
            same = torch.equal(torch.nan_to_num(mine[name]), torch.nan_to_num(tensor))
            assert same, f"{what}: {name} changes from {shown(tensor)} to {shown(mine[name])}"


def _training(case: Case, change: Callable[[Tensor], Tensor] = lambda x: x) -> list[Tensor]:
    """Return inputs as in training: they require a gradient."""
    return [
        change(x).requires_grad_(i not in case.detached) if x.is_floating_point() else x
        for i, x in enumerate(case.tensors())
    ]


def _step(block: Any) -> None:
    if isinstance(block, nn.Module):
        step(block)


def _call(case: Case, block: Any, inputs: Sequence[Tensor]) -> Tensor:
    """The result, from the same random numbers, with whatever the call does to the state."""
    with torch.random.fork_rng(devices=[]), _drawing_with(_seeded_draws()):
        torch.manual_seed(SEED)
        return one_tensor(case.call(block, *inputs), "call")


@_applies_when(_always)
def called_twice(case: Case) -> None:
    """Calling it twice gives the result and the state of calling it once; only a step moves it."""
    block, inputs = case.block(dtype=torch.float64), _training(case)
    _stilled(case, block)
    once, twice = copy.deepcopy(block), copy.deepcopy(block)
    expected = _call(case, once, inputs)
    _assert_same_state(once, block, "in forward")
    for _ in range(2):
        torch.testing.assert_close(_call(case, twice, inputs), expected, rtol=0, atol=0)
    _step(once)
    _step(twice)
    _assert_same_state(twice, once, "at the step after two calls instead of one")


@_applies_when(_always)
def looking_changes_nothing(case: Case) -> None:
    """A call in evaluation mode or without gradients does not change the state or the next step."""
    block, inputs = case.block(dtype=torch.float64), _training(case)
    if not isinstance(block, nn.Module):
        return
    with torch.no_grad() if not _moves(case) else contextlib.nullcontext():
        unseen, looked_at = copy.deepcopy(block), copy.deepcopy(block)
        if _moves(case):
            looked_at.eval()
        with contextlib.suppress(ValueError, RuntimeError):  # what needs a gradient refuses
            _call(case, looked_at, inputs)
        _assert_same_state(looked_at, block, "without gradients")
        _step(unseen)
        _step(looked_at.train())
        _assert_same_state(looked_at, unseen, "at the step after a call without gradients")
    unseen, looked_at = copy.deepcopy(block), copy.deepcopy(block)
    _call(case, looked_at.eval(), inputs)
    assert not any(m.training for m in looked_at.modules()), "it leaves evaluation mode by itself"
    _assert_same_state(looked_at, block, "in evaluation mode")
    _step(unseen)
    _step(looked_at.train())
    _assert_same_state(looked_at, unseen, "at the step after a call in evaluation mode")


class _Recorded:
    """Draws numbers for a whole batch and then hands out the same ones for its parts."""

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []
        self.generator = _seeded(SEED)
        self.share: tuple[int, int] | None = None
        self.place = 0

    def __call__(self, distribution: Any, shape: Sequence[int], options: dict[str, Any]) -> Tensor:
        if self.share is None:
            self.drawn.append(distribution(shape, **{"generator": self.generator} | options))
            return self.drawn[-1]
        number, parts = self.share
        whole = self.drawn[self.place]
        self.place += 1
        return whole.chunk(parts)[number]


@_applies_when(_always)
def accumulated(case: Case) -> None:
    """A batch in two parts gives what the whole gives, or samples see each other as declared."""
    for parts, whole in _states_of_parts_and_whole(case):
        torch.testing.assert_close(
            parts, whole, msg=lambda text: f"the state after a step depends on the parts: {text}"
        )
    pairs = _whole_and_parts(case)
    if case.entry.blueprint.capabilities.batch_dependent:
        assert _agree(pairs) or sees_mates(case), (
            "two parts of a batch differ from the whole, but not because samples see each other: is a "
            "mean over the batch a sum?"
        )
        return
    for parts, whole in pairs:
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-11)


def _agree(pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
    return all(a.shape == b.shape and torch.allclose(a, b, 1e-9, 1e-11) for a, b in pairs)


def _whole_and_parts(case: Case) -> list[tuple[Tensor, Tensor]]:
    """The results of two parts put together and that of the whole batch, and gradients of a scalar."""
    inputs = case.tensors()
    batch, rest = _batch_and_rest(case, inputs)
    if not batch or min(len(x) for x in batch) < 2:
        return []
    batch = tuple(x[: len(x) // 2 * 2] for x in batch)
    block, source = case.block(dtype=torch.float64), _Recorded()
    if not case.entry.blueprint.capabilities.batch_dependent:
        _stilled(case, block)

    def value(*tensors: Tensor) -> tuple[Tensor, list[Tensor]]:
        source.place = 0
        with torch.random.fork_rng(devices=[]), _drawing_with(source):
            torch.manual_seed(SEED)
            return _objective_of(case, copy.deepcopy(block), tensors)

    whole, by_whole = value(*batch, *rest)
    parts = []
    for number in range(2):
        source.share = (number, 2)
        parts.append(value(*(x.chunk(2)[number] for x in batch), *rest))
    (first, by_first), (second, by_second) = parts
    if whole.dim():
        return [
            (torch.cat([first, second]) if first.dim() else torch.stack([first, second]), whole)
        ]
    pairs = [((first + second) / 2, whole)]
    for i, (a, b, both) in enumerate(zip(by_first, by_second, by_whole, strict=True)):
        pairs.append((torch.cat([a, b]) / 2 if i < len(batch) else (a + b) / 2, both))
    return pairs


def _states_of_parts_and_whole(case: Case) -> list[tuple[Tensor, Tensor]]:
    """The state of a clocked block after a step on two parts of a batch, and on the whole."""
    inputs = _training(case)
    batch, rest = _batch_and_rest(case, tuple(inputs))
    blocks = [case.block(dtype=torch.float64), case.block(dtype=torch.float64)]
    if not isinstance(blocks[0], Clocked) or not batch or min(len(x) for x in batch) < 2:
        return []
    batch = tuple(x.detach()[: len(x) // 2 * 2] for x in batch)
    source = _Recorded()

    def call(block: Any, samples: Sequence[Tensor]) -> None:
        source.place = 0
        with torch.random.fork_rng(devices=[]), _drawing_with(source):
            torch.manual_seed(SEED)
            given = [
                x.clone().requires_grad_(y.requires_grad)
                for x, y in zip(samples, inputs, strict=False)
            ]
            case.call(block, *given, *rest)

    call(blocks[0], batch)
    for number in range(2):
        source.share = (number, 2)
        call(blocks[1], [x.chunk(2)[number] for x in batch])
    for block in blocks:
        block.step()
    whole, parts = map(_state, blocks)
    return [(parts[name], x) for name, x in whole.items() if isinstance(x, Tensor)]


def sees_mates(case: Case) -> bool:
    """Return whether the first sample's result depends on the other samples of the batch.

    For a scalar result, compare its gradient with respect to the first sample. If there is no gradient,
    compare the whole batch with the mean of two parts.
    """
    batch, rest = _batch_and_rest(case, case.tensors())
    block = case.block(dtype=torch.float64)

    def of_first(factor: float) -> Tensor:
        """Return the first sample's result after the others are reversed and scaled."""
        samples = [torch.cat([x[:1], _times(x[1:].flip(0), factor)]) for x in batch]
        with _drawing_with(_seeded_draws()):
            result, gradients = _objective_of(case, copy.deepcopy(block), (*samples, *rest))
        if result.dim():
            return result[:1]
        return torch.cat([g[:1].flatten() for g in gradients[: len(batch)]])

    first = of_first(1.0)
    if not first.any():
        return not _agree(_whole_and_parts(case))
    return any(not _agree([(of_first(factor), first)]) for factor in (2.0, -1.0, 5.0))


def _times(x: Tensor, factor: float) -> Tensor:
    return factor * x if x.is_floating_point() else x


def _objective_of(case: Case, block: Any, tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The result and, of a scalar, its gradient with respect to the inputs and the weights."""
    inputs = [
        x.clone().requires_grad_(x.is_floating_point() and i not in case.detached)
        for i, x in enumerate(tensors)
    ]
    result = one_tensor(case.call(block, *inputs), "call")
    variables = [*inputs, *_weights(block).values()]
    if result.dim() or not result.requires_grad:
        return result.detach(), [torch.zeros_like(x) for x in variables]
    wanted = [x for x in variables if x.requires_grad]
    found = iter(torch.autograd.grad(result, wanted, allow_unused=True))
    gradients = [next(found) if x.requires_grad else None for x in variables]
    zeros = [torch.zeros_like(x) for x in variables]
    return result.detach(), [z if g is None else g for g, z in zip(gradients, zeros, strict=True)]


@_applies_when(_always)
def threads(case: Case) -> None:
    """Threads that share a block each get their own results."""
    block = case.block(dtype=torch.float64)
    _stilled(case, block)
    given = [_training(case, lambda x, k=k: x * (1 + k / 8)) for k in range(_THREADS)]

    def results(k: int) -> list[Tensor]:
        with _drawing_with(_seeded_draws()):
            return [one_tensor(case.call(block, *given[k]), "call") for _ in range(3)]

    alone = [results(k) for k in range(_THREADS)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            together = [
                each.result(timeout=60)
                for each in [pool.submit(results, k) for k in range(_THREADS)]
            ]
    finally:
        sys.setswitchinterval(interval)
    for ours, expected in zip(together, alone, strict=True):
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, equal_nan=True)


_THREADS = 4

_GLOBALS = (
    (torch, "manual_seed"),
    (torch, "seed"),
    (torch, "set_rng_state"),
    (torch.random, "set_rng_state"),
    (torch.random, "manual_seed"),
    (torch, "set_default_dtype"),
    (torch, "set_default_device"),
    (torch, "set_num_threads"),
    (torch, "use_deterministic_algorithms"),
    (torch, "set_float32_matmul_precision"),
    (torch.backends.mkldnn, "set_flags"),
    (random, "seed"),
    (random, "setstate"),
)


@_applies_when(_always)
def process_is_left_alone(case: Case) -> None:
    """A call changes no process-wide setting, not even temporarily."""
    block, inputs = case.block(dtype=torch.float64), _training(case)
    touched: list[str] = []

    def watched(owner: Any, name: str) -> Any:
        original = getattr(owner, name)

        def setter(*args: Any, **kwargs: Any) -> Any:
            touched.append(f"{owner.__name__}.{name}")
            return original(*args, **kwargs)

        return setter

    with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
        torch.manual_seed(SEED)
        filters = list(warnings.filters)
        with contextlib.ExitStack() as stack:
            for owner, name in _GLOBALS:
                stack.enter_context(mock.patch.object(owner, name, watched(owner, name)))
            case.call(block, *inputs)
            if not torch.is_grad_enabled():
                touched.append("torch.set_grad_enabled")
            if warnings.filters != filters:
                touched.append("warnings.simplefilter")
    assert not touched, f"it calls {', '.join(dict.fromkeys(touched))}, which other threads see"


@_applies_when(_always)
def wrong_arguments_are_refused(case: Case) -> None:
    """A non-tensor or an empty tensor raises the block's own TypeError or ValueError."""
    block, inputs = case.block(), case.tensors(torch.float32)
    recorder = misuse.Recorder(block)
    with contextlib.suppress(TypeError):  # a call that looks at the block's class
        case.run(recorder, *inputs)
    for place, right in misuse.tensors_of(recorder).items():
        if _is_unused(case, block, inputs, place, right):
            continue
        for kind, make in misuse.WRONG.items():
            if not right.is_floating_point() and kind == "complex numbers":
                continue
            wrong = make(right)
            what = f"argument {place} of {recorder.calls[0][0]}, {kind}"
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    result = case.run(misuse.Recorder(block, {place: wrong}), *inputs)
            except Exception as error:
                if fault := misuse.fault_of(error):
                    raise AssertionError(
                        f"{what}: {type(error).__name__}: {error}\nThe error {fault}"
                    ) from error
            else:
                empty = isinstance(wrong, Tensor) and not result.numel()
                assert empty or _is_right(case, block, inputs, right, wrong, result), (
                    f"{what}: returned {shown(result)} instead of an error"
                )


def _is_unused(case: Case, block: Any, inputs: Sequence[Tensor], place: str, right: Tensor) -> bool:
    """Whether another tensor in this place changes nothing, as generated samples do not in R1."""
    other = {place: 2 * right + 1 if right.is_floating_point() else right.flip(0)}
    try:
        changed = case.run(misuse.Recorder(block, other), *inputs)
    except Exception:
        return False
    return torch.equal(changed, case.run(misuse.Recorder(block), *inputs))


def _is_right(
    case: Case, block: Any, inputs: Sequence[Tensor], right: Tensor, wrong: Any, result: Tensor
) -> bool:
    """Whether the reference of the very same arguments agrees, as where an argument is not used."""
    replaced = [wrong if x is right else x for x in inputs]
    try:
        expected = case.run_reference(block, *replaced)
        wide = torch.promote_types(expected.dtype, torch.float64)
        return torch.allclose(result.to(wide), expected.to(wide), 1e-4, 1e-5)
    except Exception:
        return False


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
    with _drawing_with(_seeded_draws()):
        result = one_tensor(case.call(block, *inputs), "call")
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


@contextmanager
def _drawing_with(source: Draw) -> Iterator[None]:
    """Draw the numbers of blocks from this source, unless they are given a generator."""
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)


def _seeded_draws() -> Draw:
    """A source with a generator of its own; torch's is shared by all threads."""
    generator = _seeded(SEED)

    def source(distribution: Any, shape: Sequence[int], options: dict[str, Any]) -> Tensor:
        return distribution(shape, **{"generator": generator} | options)

    return source


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
