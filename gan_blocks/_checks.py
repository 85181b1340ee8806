"""Argument checks that blocks run before they compute anything.

They read only types, dtypes, devices and shapes. Reading a value would synchronize with the device.
"""

import functools
import inspect
import sys
import warnings
from collections.abc import Callable
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor, nn

Dimensions = tuple[int | str | EllipsisType, ...]
"""A size, a letter for any size, or an ellipsis for any number of dimensions at either end."""

_ANY: Dimensions = (...,)
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_tensor(
    name: str,
    x: Any,
    shape: Dimensions = _ANY,
    *,
    of: Any = None,
    floating: bool = True,
    smallest: int = 0,
    empty: bool = True,
) -> None:
    """Raise an error unless `x` is a dense tensor of this shape.

    Args:
        name: The name of the argument.
        x: The value that was passed.
        shape: For instance `("N", 3, "H", "W")` or `("N", ...)`.
        of: The block that takes the argument, for the message.
        floating: Whether it must have a floating-point dtype.
        smallest: The minimum size of each dimension after the first two.
        empty: Whether it may be empty.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{_of(of)}{name} should be a tensor, got {type_name(x)}")
    if floating and x.dtype not in _FLOATS:
        raise TypeError(
            f"{_of(of)}{name} should be floating point, float16 at least, got {x.dtype}"
        )
    if x.layout != torch.strided:
        raise TypeError(
            f"{_of(of)}{name} should be a dense tensor, got {x.layout}: call to_dense()"
        )
    fits = (shape == _ANY or _fits(x.shape, shape)) and (empty or x.numel() > 0)
    if not fits or (smallest and min(x.shape[2:]) < smallest):
        least = f", {' and '.join(map(str, shape[2:]))} at least {smallest}" if smallest else ""
        if shape == (...,):
            wanted, came = "not be empty", f"shape {tuple(x.shape)}"
        elif not shape:
            wanted, came = "be a scalar", f"shape {tuple(x.shape)}"
        else:
            wanted = f"have shape {shown_shape(shape)}{least}{'' if empty else ', not empty'}"
            came = str(tuple(x.shape))
        raise ValueError(f"{_of(of)}{name} should {wanted}, got {came}")


def _of(block: Any) -> str:
    return f"{type(block).__name__}: " if block is not None else ""


def type_name(x: Any) -> str:
    """Return the type of `x` for a message. If `x` is itself a class, say so."""
    return f"the class {x.__name__}" if isinstance(x, type) else type(x).__name__


def shown_shape(shape: Dimensions) -> str:
    """Format a shape for a message, for instance `(N, 3, ...)`."""
    parts = ["..." if n is ... else str(n) for n in shape]
    return f"({', '.join(parts)}{',' if len(parts) == 1 and parts != ['...'] else ''})"


def _fits(actual: tuple[int, ...], shape: Dimensions) -> bool:
    if shape and shape[0] is ...:
        actual, shape = actual[::-1], shape[::-1]
    count = len(shape)
    if count and shape[-1] is ...:
        count -= 1
        if len(actual) < count:
            return False
    elif len(actual) != count:
        return False
    for i in range(count):  # noqa: SIM110, all() takes twice as long
        if not isinstance(shape[i], str) and actual[i] != shape[i]:
            return False
    return True


def check_module(name: str, module: Any, *, of: Any = None) -> None:
    """Raise an error unless `module` is a module whose weights are initialized."""
    if not isinstance(module, nn.Module):
        hint = " itself" if isinstance(module, list | tuple) else ""
        raise TypeError(f"{_of(of)}{name} should be a module{hint}, got {type_name(module)}")
    for weight in module.parameters():
        if nn.parameter.is_lazy(weight):
            raise ValueError(
                f"{_of(of)}{name} should have weights with a shape, got lazy ones: run it on a batch"
            )


def check_generator(generator: Any) -> None:
    """Raise an error unless `generator` is a `torch.Generator` or None.

    In a GAN "generator" also means the network, so the two are easily confused.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            "generator should be a torch.Generator, which draws random numbers, or None, got "
            f"{type(generator).__name__}"
        )


def check_count(name: str, count: Any, least: int = 1) -> None:
    """Raise an error unless `count` is an integer of at least `least`."""
    # Under torch.compile a size may be a SymInt, which is not an int.
    if isinstance(count, bool) or not isinstance(count, int | torch.SymInt) or count < least:
        raise ValueError(f"{name} should be an integer of at least {least}, got {count!r}")


def explains_failures(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Make a `forward` that fails say which argument does not match the weights.

    The check runs only after a failure. Offloading, sharding or quantization may change the dtype and
    the device of a weight right before its layer runs.
    """
    names = list(inspect.signature(forward).parameters)[1:]

    @functools.wraps(forward)
    def explained(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return forward(self, *args, **kwargs)
        except (RuntimeError, IndexError) as error:
            if torch.compiler.is_compiling():
                raise
            given = dict(zip(names, args, strict=False)) | kwargs
            for name, x in given.items():
                if isinstance(x, Tensor):
                    _explain(self, name, x, error)
            raise

    return explained


def _explain(module: nn.Module, name: str, x: Tensor, error: Exception) -> None:
    owner = type(module).__name__
    if x.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(
            f"{owner}: {name} was made under torch.inference_mode, so nothing can be differentiated "
            f"through it: pass {name}.clone(), or call the block under inference_mode too"
        ) from error
    weight = next((p for p in module.parameters() if p.is_floating_point()), x)
    if x.device != weight.device:
        raise ValueError(
            f"{owner}: {name} should be on {weight.device}, where the weights are, got {x.device}"
        ) from error
    if x.is_floating_point() and x.dtype != weight.dtype:
        raise TypeError(
            f"{owner}: {name} should be {weight.dtype}, as the weights are, got {x.dtype}; cast one "
            "of them, or use autocast"
        ) from error
    if isinstance(error, IndexError) and not x.is_floating_point():
        raise ValueError(
            f"{owner}: {name} should be numbers of classes, from 0 on, got {x.min()} to {x.max()}"
        ) from error


def is_batched(x: Tensor) -> bool:
    """Whether a tensor is batched by `torch.vmap`, so that its values cannot be read."""
    try:
        torch.zeros((), dtype=x.dtype, device=x.device).copy_(x.detach().sum())
    except RuntimeError:
        return True
    return False


def warn_caller(message: str) -> None:
    """Attribute a warning to the caller's line, the first one outside gan_blocks and torch."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in ("gan_blocks", "torch")
