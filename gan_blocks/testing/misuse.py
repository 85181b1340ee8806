"""Wrong arguments for a block's call, and what a right answer to them is."""

import dis
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks.errors import GanBlocksError

WRONG: dict[str, Callable[[Tensor], Any]] = {
    "None": lambda x: None,
    "a string": lambda x: "tensor",
    "an object": lambda x: object(),
    "a class": lambda x: nn.Linear,
    "a module": lambda x: nn.Linear(2, 2),
    "a number": lambda x: 0.5,
    "a list of numbers": lambda x: x.tolist(),
    "a dict": lambda x: {"x": x},
    "an empty list": lambda x: [],
    "a tuple with features": lambda x: (x, x),
    "complex numbers": lambda x: x.to(torch.complex64),
    "an empty batch": lambda x: x[:0] if x.dim() else None,
}
"""Ways to misuse a tensor."""


class Recorder:
    """Stands for a block in the call of a case: notes how it is called, or puts other arguments in."""

    def __init__(self, block: Any, instead: dict[str, Any] | None = None) -> None:
        self._block, self._instead = block, instead
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __deepcopy__(self, _: Any) -> "Recorder":
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._called("__call__", args, kwargs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._block, name)
        if name.startswith("_") or name in ("eval", "train", "step") or not callable(value):
            return value
        return lambda *args, **kwargs: self._called(name, args, kwargs)

    def _called(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.calls.append((name, args, kwargs))
        if self._instead is not None:
            args = tuple(self._instead.get(str(i), x) for i, x in enumerate(args))
            kwargs = {key: self._instead.get(key, x) for key, x in kwargs.items()}
        return (self._block if name == "__call__" else getattr(self._block, name))(*args, **kwargs)


def tensors_of(recorder: Recorder) -> dict[str, Tensor]:
    """Return the tensors of the recorded call, by position or name; none if there were several calls."""
    if len(recorder.calls) != 1:
        return {}
    _, args, kwargs = recorder.calls[0]
    given = {str(i): x for i, x in enumerate(args)} | kwargs
    return {key: x for key, x in given.items() if isinstance(x, Tensor)}


def fault_of(error: Exception) -> str:
    """Return why an error is a poor answer to a wrong argument, or an empty string.

    A good one is a TypeError, a ValueError or an error of this library, has a message, and comes from a
    `raise` statement outside of torch.
    """
    if not isinstance(error, TypeError | ValueError | GanBlocksError):
        return f"is a {type(error).__name__}, and should be a TypeError or a ValueError"
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return ""
    file = Path(last.tb_frame.f_code.co_filename)
    operation = dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]]
    if operation != "RAISE_VARARGS" or file.is_relative_to(Path(torch.__file__).parent):
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"comes from inside, {Path(where.filename).name} line {where.lineno}: check first"
    return "" if str(error).strip() else "says nothing"
