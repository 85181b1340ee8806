"""Makes one call of the sweep, and says what became of it.

A cell is one of

- `right`: a result was returned, and the literal reference of the very same arguments, in float64,
  agrees with it;
- `clear`: refused by a `raise` in `gan_blocks`, with TypeError, ValueError or an error of the
  library, whose message has the name of the argument or of the entry point and says what was expected;
- `python`: refused by Python itself, since the call does not fit the signature;
- `own`: an exception of the caller's own, raised in a function of the caller's, that arrived as it was;
- `foreign`: any other exception;
- `wrong`: a result was returned that no reference agrees with, or an argument was changed;
- `hang`: no answer within the limit.
"""

import copy
import dis
import functools
import itertools
import re
import signal
import threading
import traceback
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gan_blocks
from gan_blocks import GanBlocksError
from misuse.kinds import MODES, Inapplicable, Kind, OwnError, family

PACKAGE = Path(gan_blocks.__file__).parent
LIMIT = 10.0
"""Seconds for one call."""

VERDICTS = ("right", "clear", "python", "own", "foreign", "wrong", "hang")

EXPECTATION = re.compile(
    r"\b(should|takes?|needs?|needed|expected|must|pass|give|got|differ|called|choose|known|use|decorate)\b"
)
BINDING = re.compile(
    r"\(\) (missing \d+ required|got (an )?unexpected|got multiple values|got some positional|"
    r"takes (from )?\d+|takes no)"
)


class NoReference(Exception):
    """Nothing is known to be right for these arguments."""


class NoNumbers(Exception):
    """The argument has no numbers, so a result without numbers is right."""


@dataclass(frozen=True)
class Call:
    """A function and right arguments for it."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    by_name: frozenset[str] = frozenset()
    """What is passed by name; all else by position."""

    def made(self, arguments: dict[str, Any], *more: Any, **named: Any) -> Any:
        """The result, with these arguments."""
        positions = [x for name, x in arguments.items() if name not in self.by_name]
        names = {name: x for name, x in arguments.items() if name in self.by_name}
        return self.function(*positions, *more, **names, **named)


@dataclass(frozen=True, eq=False)
class Entry:
    """A public entry point.

    Args:
        name: Such as `HingeLoss.discriminator`.
        kind: The kind of its block, for the table of counts.
        make: Makes a new block and right arguments for one call.
        reference: The literal result for other arguments; tensors come in float64. It may raise.
        ignored: Arguments that the entry point says it does not look at.
        optional: Arguments that may be None.
        defaulted: Arguments that may be left out.
        signature: Whether the number and the names of the arguments are fixed.
        passes_on: Whether it hands its arguments to a network of the caller's, whose errors are its own.
        legal: Kinds of misuse that are none here, each with the reason.
    """

    name: str
    kind: str
    make: Callable[[], Call]
    reference: Callable[[dict[str, Any]], Any]
    ignored: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    defaulted: tuple[str, ...] = ()
    signature: bool = True
    passes_on: bool = False
    legal: dict[str, str] = field(default_factory=dict)


@dataclass
class Cell:
    """One call, and what became of it."""

    entry: str
    kind: str
    argument: str
    misuse: str
    group: str
    verdict: str
    detail: str = ""

    @property
    def name(self) -> str:
        return f"{self.entry}({self.argument}: {self.misuse})"


@functools.cache
def _right(entry: Entry) -> dict[str, Any]:
    return entry.make().arguments


def sweep(entry: Entry) -> Iterator[Cell]:
    """Every misuse of an entry point."""
    right = entry.make()
    known = _expected(entry, right.arguments)
    if known is NoReference:
        raise AssertionError(f"{entry.name} has no reference for right arguments")

    def expected() -> Any:
        return known

    for argument, value in right.arguments.items():
        for kind in family(value, argument):
            yield from _misused(entry, argument, kind, expected)
    for name, mode, precision in MODES:
        yield _cell(
            entry, "", name, "mode", lambda c: c.made(c.arguments), expected, mode, precision
        )
    if entry.signature:
        yield from _signatures(entry, right, expected)


def _misused(entry: Entry, argument: str, kind: Kind, right: Callable[[], Any]) -> Iterator[Cell]:
    if kind.name in entry.legal or (kind.name == "None" and argument in entry.optional):
        return
    seeded(3)
    call = entry.make()
    before = call.arguments[argument]
    try:
        value = kind.make(before)
    except Inapplicable:
        return
    except Exception as error:  # for instance, a constant of this dtype cannot be made
        raise AssertionError(f"{entry.name}, {argument}: {kind.name} cannot be made") from error

    def wanted() -> Any:
        if kind.same or argument in entry.ignored or kind.group == "device":
            return right()  # of a meta tensor the shape alone is compared
        seeded(3)
        again = entry.make().arguments
        again[argument] = kind.make(again[argument])
        expected = _expected(entry, again)
        if expected is NoReference and kind.name.startswith("an empty"):
            return NoNumbers
        return expected

    arguments = call.arguments | {argument: value}
    yield _cell(
        entry, argument, kind.name, kind.group, lambda _: call.made(arguments), wanted,
        given=value,
    )  # fmt: skip


def _signatures(entry: Entry, right: Call, expected: Callable[[], Any]) -> Iterator[Cell]:
    def unknown() -> Any:
        return NoReference

    def one(name: str, call: Callable[[Call], Any], value: Callable[[], Any] = unknown) -> Cell:
        return _cell(entry, "", name, "signature", call, value)

    def without(dropped: str) -> Callable[[Call], Any]:
        """What follows is passed by name, since it would take the place of the dropped one."""

        def call(c: Call) -> Any:
            after = list(c.arguments)[list(c.arguments).index(dropped) :]
            kept = {n: x for n, x in c.arguments.items() if n != dropped}
            return Call(c.function, kept, c.by_name.union(after)).made(kept)

        return call

    names = list(right.arguments)
    for name in names:
        if name not in entry.optional and name not in entry.defaulted:
            value = expected if name in entry.ignored else unknown
            yield one(f"without {name}", without(name), value)
    yield one("an unknown name", lambda c: c.made(c.arguments, nonsense=1))
    yield one("too many positions", lambda c: c.made(c.arguments, None, None, None, None))
    for a, b in itertools.pairwise(names):
        if (a in right.by_name) != (b in right.by_name):
            continue
        if a in entry.ignored and b in entry.ignored:
            continue

        def swapped(arguments: dict[str, Any], a: str = a, b: str = b) -> dict[str, Any]:
            return arguments | {a: arguments[b], b: arguments[a]}

        given = entry.make().arguments
        same_type = isinstance(given[a], Tensor) == isinstance(given[b], Tensor)

        value = functools.partial(_expected, entry, swapped(given)) if same_type else unknown

        if same_type and "swapped" in entry.legal:
            continue
        yield one(f"{a} and {b} swapped", lambda c, s=swapped: c.made(s(c.arguments)), value)


def _expected(entry: Entry, arguments: dict[str, Any]) -> Any:
    """What the reference says; NoReference if it does not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wide = {name: _wide(name, value, entry) for name, value in arguments.items()}
            value = entry.reference(wide)
    except Exception:
        return NoReference
    return value


def _wide(name: str, value: Any, entry: Entry) -> Any:
    """A tensor in float64, contiguous and without history; a number as a tensor."""
    if name in entry.ignored:
        return _right(entry)[name]
    one = isinstance(value, list) and len(value) == 1 and isinstance(value[0], Tensor)
    if one and isinstance(_right(entry)[name], Tensor):
        value = value[0]  # a list of one sub-discriminator
    if isinstance(value, list):
        return [_wide(name, x, entry) for x in value]
    if isinstance(value, np.ndarray):
        value = torch.as_tensor(value)
    if not isinstance(value, Tensor):
        return value
    if value.is_complex():
        raise NoReference
    if value.is_meta:
        return value
    with torch.inference_mode(False):
        value = value.detach().as_subclass(Tensor)
        value = value.to_dense() if value.layout != torch.strided else value
        was = _right(entry)[name]
        counts = isinstance(was, Tensor) and not was.is_floating_point()
        return value.clone(memory_format=torch.contiguous_format).to(
            torch.int64 if counts else torch.float64
        )


def seeded(seed: int) -> None:
    """Torch's own random numbers from here on; the caller of the sweep restores them."""
    torch.default_generator.manual_seed(seed)


def _cell(
    entry: Entry,
    argument: str,
    misuse: str,
    group: str,
    call: Callable[[Call], Any],
    expected: Callable[[], Any],
    mode: Callable[[], AbstractContextManager[Any]] = nullcontext,
    precision: str = "",
    given: Any = None,
) -> Cell:
    def cell(verdict: str, detail: str = "") -> Cell:
        return Cell(entry.name, entry.kind, argument, misuse, group, verdict, detail)

    made = entry.make()
    before = _copies(given)
    try:
        with warnings.catch_warnings(), _limit():
            warnings.simplefilter("ignore")
            with mode():
                result = call(made)
    except Hang:
        return cell("hang")
    except OwnError:
        return cell("own")
    except Exception as error:
        # Which of two arguments is the wrong one, where their shapes or devices do not go together?
        either = group in ("shape", "device", "dtype") or not argument
        return cell(*_of_error(error, entry, argument, either))
    if not _unchanged(given, before):
        return cell("wrong", "the argument was changed")
    tolerance = 0.1 if precision else _tolerance(given)
    return cell(*_of_result(result, expected(), tolerance))


def _copies(given: Any) -> Any:
    if isinstance(given, Tensor) and not given.is_meta and given.layout == torch.strided:
        with torch.inference_mode(False):
            return given.detach().clone()
    return None


def _unchanged(given: Any, before: Any) -> bool:
    if before is None:
        return True
    after = given.detach()
    if after.dtype.itemsize == 1 and after.is_floating_point():
        after, before = after.float(), before.float()
    return torch.equal(torch.nan_to_num(after), torch.nan_to_num(before))


def _tolerance(given: Any) -> float:
    """That of the conformance kit for half precision."""
    tensors = list(given) if isinstance(given, list | tuple) else [given]
    if isinstance(given, nn.Module):
        tensors = list(given.parameters())
    dtypes = [x.dtype for x in tensors if isinstance(x, Tensor) and x.is_floating_point()]
    return max([1e-4, *(min(40 * torch.finfo(d).eps, 0.5) for d in dtypes if d.itemsize < 4)])


# --- what a call returned ------------------------------------------------------------------------


def _of_result(result: Any, expected: Any, tolerance: float) -> tuple[str, str]:
    if expected is NoNumbers and isinstance(result, Tensor) and not result.numel():
        return "right", ""
    if expected is NoReference or expected is NoNumbers:
        return "wrong", f"returned {_shown(result)}, and no reference has a result"
    if isinstance(result, Tensor) and isinstance(expected, Tensor):
        if result.is_meta:
            same = result.shape == expected.shape
            return ("right", "") if same else ("wrong", f"meta {_shown(result)}")
        return ("right", "") if agree(result, expected, tolerance) else _differs(result, expected)
    if isinstance(expected, float) and isinstance(result, float | int):
        both = torch.tensor([result, expected], dtype=torch.float64)
        right = agree(both[0], both[1], tolerance)
        return ("right", "") if right else _differs(result, expected)
    right = type(result) is type(expected) and result == expected
    return ("right", "") if right else _differs(result, expected)


def _differs(result: Any, expected: Any) -> tuple[str, str]:
    return "wrong", f"returned {_shown(result)}, should be {_shown(expected)}"


def agree(result: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether shape, places that are not finite, and numbers agree."""
    if result.shape != expected.shape:
        return False
    if expected.is_meta:
        return False
    with torch.inference_mode(False):
        a, b = (
            torch.nan_to_num(x.detach().to_dense().to(torch.float64), 3e300, 2e300, -2e300)
            for x in (result, expected)
        )
        if not a.numel():
            return True
        # What float64 holds may be beyond the range of the result.
        if result.is_floating_point() and result.dtype.itemsize > 1:
            largest = torch.finfo(result.dtype).max
            b = torch.where((b.abs() > largest) & (b.abs() < 1e299), b.sign() * 2e300, b)
        special = (a.abs() > 1e299) | (b.abs() > 1e299)
        if bool((a[special] != b[special]).any()):
            return False
        a, b = a[~special], b[~special]
        if not a.numel():
            return True
        return float((a - b).abs().max()) <= tolerance * max(float(b.abs().max()), 1e-6)


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        if value.is_meta or value.numel() > 4:
            return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
        return str(value.tolist())
    return f"{type(value).__name__} {str(value)[:60]}"


# --- what a call raised --------------------------------------------------------------------------


def _of_error(error: Exception, entry: Entry, argument: str, either: bool) -> tuple[str, str]:
    frames = list(traceback.walk_tb(error.__traceback__))
    frame, line = frames[-1]
    last: types.TracebackType = error.__traceback__  # type: ignore[assignment]
    while last.tb_next:
        last = last.tb_next
    file = Path(frame.f_code.co_filename)
    text = f"{type(error).__name__}: {str(error)[:200]!r}"
    where = f"{file.name}:{line} {frame.f_code.co_name}"
    if isinstance(error, TypeError) and BINDING.search(str(error)) and not _raises(last):
        return "python", text
    if _of_the_caller(frames, entry):
        return "own", text
    if not (file.is_relative_to(PACKAGE) and _raises(last)):
        ours = [f for f, _ in frames if Path(f.f_code.co_filename).is_relative_to(PACKAGE)]
        inside = f", from {ours[-1].f_code.co_name} of ours" if ours else ""
        return "foreign", f"{text} at {where}{inside}"
    if not isinstance(error, TypeError | ValueError | GanBlocksError):
        return "foreign", f"of another type: {text} at {where}"
    names = {argument, *re.split(r"[.]", re.sub(r"\[\]|/.*", "", entry.name))} - {""}
    names |= set(_right(entry)) if either else set()
    if not any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(error)) for name in names):
        return "foreign", f"does not name {argument}: {text} at {where}"
    if not EXPECTATION.search(str(error)):
        return "foreign", f"does not say what was expected: {text} at {where}"
    return "clear", text


def _of_the_caller(frames: list[Any], entry: Entry) -> bool:
    """Whether a function of the caller's, which the entry point called, or its network failed."""
    files = [Path(frame.f_code.co_filename) for frame, _ in frames]
    ours = [i for i, file in enumerate(files) if file.is_relative_to(PACKAGE)]
    after = files[ours[-1] + 1 :] if ours else []
    if any(file.is_relative_to(Path(__file__).parent) for file in after):
        return True
    # In the forward of a layer of torch's: it is below a call of a module that the wrapper made.
    names = [frame.f_code.co_name for frame, _ in frames[ours[-1] + 1 :]] if ours else []
    return entry.passes_on and "forward" in names


def _raises(last: types.TracebackType) -> bool:
    """Whether the error was raised by a statement of this frame, not by something that it called."""
    code = last.tb_frame.f_code.co_code
    return dis.opname[code[last.tb_lasti]] == "RAISE_VARARGS"


# --- calls that do not come back -----------------------------------------------------------------


class Hang(BaseException):
    """The limit is over."""


@contextmanager
def _limit() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- the whole table -----------------------------------------------------------------------------


def counts(cells: Iterable[Cell]) -> dict[str, Counter[str]]:
    """How many cells of each verdict, by kind of block."""
    table: dict[str, Counter[str]] = {}
    for cell in cells:
        table.setdefault(cell.kind, Counter())[cell.verdict] += 1
    return table


def share_of_ours(count: Counter[str]) -> float:
    """Of the refusals that are not Python's own, how many are clear."""
    refused = count["clear"] + count["foreign"]
    return count["clear"] / refused if refused else 1.0


def fresh(block: Any) -> Any:
    """A copy that one call may change."""
    return copy.deepcopy(block)
