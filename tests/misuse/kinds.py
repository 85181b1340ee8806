"""The ways to misuse an argument, a mode or a call."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Inapplicable(Exception):
    """A kind of misuse that this argument does not have."""


@dataclass(frozen=True)
class Kind:
    """One way to misuse an argument.

    Args:
        name: Unique within its family.
        group: What is wrong: type, container, shape, dtype, device, layout, value, mode or signature.
        make: Makes the misused argument of the right one.
        same: Whether the values are those of the right argument, so that the right result is known.
    """

    name: str
    group: str
    make: Callable[[Any], Any]
    same: bool = False


class Subclass(Tensor):
    """A tensor by another class."""


def _dims(count: int, make: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """Applies to tensors of so many dimensions at least."""

    def checked(x: Tensor) -> Any:
        if x.dim() < count:
            raise Inapplicable
        return make(x)

    return checked


def _transposed(x: Tensor) -> Tensor:
    y = x.transpose(0, 1)
    if y.shape == x.shape:
        raise Inapplicable
    return y


def _non_contiguous(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1)[..., 0]


def _inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


def _with_entry(value: float, x: Tensor) -> Tensor:
    y = x.detach().clone()
    y.view(-1)[0] = value
    return y


TYPES: list[Kind] = [
    Kind("None", "type", lambda x: None),
    Kind("a string", "type", lambda x: "tensor"),
    Kind("bytes", "type", lambda x: b"tensor"),
    Kind("an object", "type", lambda x: object()),
    Kind("a function", "type", lambda x: lambda *_: None),
    Kind("a class", "type", lambda x: nn.Linear),
    Kind("the class Tensor", "type", lambda x: Tensor),
    Kind("a dict", "container", lambda x: {"x": x}),
    Kind("an empty dict", "container", lambda x: {}),
    Kind("an empty list", "container", lambda x: []),
    Kind("an empty tuple", "container", lambda x: ()),
    Kind("a list with None", "container", lambda x: [None]),
    Kind("a generator object", "container", lambda x: (y for y in [x])),
]
"""Of any argument."""

NOT_A_TENSOR: list[Kind] = [
    *TYPES,
    Kind("a module", "type", lambda x: nn.Linear(2, 2)),
    Kind("a Python float", "type", lambda x: 0.5),
    Kind("a Python int", "type", lambda x: 3),
    Kind("a bool", "type", lambda x: True),
    Kind("a complex number", "type", lambda x: 1j),
    Kind("a shape", "type", lambda x: x.shape),
    Kind("a NumPy array", "type", lambda x: x.detach().numpy()),
    Kind("a list of numbers", "container", lambda x: x.tolist()),
    Kind("a list of the tensor", "container", lambda x: [x]),
    Kind("a tuple of the tensor", "container", lambda x: (x,)),
    Kind("a tuple of two tensors", "container", lambda x: (x, x)),
    Kind("a nested list", "container", lambda x: [[x]]),
    Kind("a set", "container", lambda x: {x}),
    Kind("a list of strings", "container", lambda x: ["a", "b"]),
]

SHAPES: list[Kind] = [
    Kind("a scalar", "shape", lambda x: x.flatten()[0].clone()),
    Kind("an empty batch", "shape", _dims(1, lambda x: x[:0])),
    Kind("an empty feature", "shape", _dims(2, lambda x: x[:, :0])),
    Kind("a dimension more at the end", "shape", lambda x: x[..., None]),
    Kind("a dimension more in front", "shape", lambda x: x[None]),
    Kind("a sample without batch", "shape", _dims(2, lambda x: x[0])),
    Kind("one sample", "shape", _dims(1, lambda x: x[:1])),
    Kind("a sample more", "shape", _dims(1, lambda x: torch.cat([x, x[:1]]))),
    Kind("a feature more", "shape", _dims(2, lambda x: torch.cat([x, x[:, :1]], 1))),
    Kind("a feature less", "shape", _dims(2, lambda x: x[:, 1:])),
    Kind("transposed", "shape", _dims(2, _transposed)),
    Kind("flattened", "shape", _dims(2, lambda x: x.flatten())),
    Kind("flattened samples", "shape", _dims(3, lambda x: x.flatten(1))),
    Kind("the last dimension less", "shape", _dims(3, lambda x: x[..., 0])),
]

DTYPES: list[Kind] = [
    *(
        Kind(str(dtype).removeprefix("torch."), "dtype", partial(lambda d, x: x.to(d), dtype))
        for dtype in (
            torch.int64,
            torch.uint8,
            torch.bool,
            torch.complex64,
            torch.float16,
            torch.bfloat16,
            torch.float8_e4m3fn,
        )
    ),
    Kind("float64 among float32", "dtype", lambda x: x.double()),
]

LAYOUTS: list[Kind] = [
    Kind("meta among cpu", "device", lambda x: x.to("meta")),
    Kind("non-contiguous", "layout", _non_contiguous, same=True),
    Kind("expanded", "layout", _dims(1, lambda x: x[:1].expand(x.shape))),
    Kind("channels last", "layout", lambda x: _channels_last(x), same=True),
    Kind(
        "a leaf that requires a gradient", "mode", lambda x: x.detach().requires_grad_(), same=True
    ),
    Kind("a result with a gradient", "mode", lambda x: x.requires_grad_() * 1, same=True),
    Kind("an inference tensor", "mode", _inference, same=True),
    Kind("a parameter", "type", lambda x: nn.Parameter(x.detach()), same=True),
    Kind("a subclass", "type", lambda x: x.as_subclass(Subclass), same=True),
    Kind("sparse", "layout", lambda x: x.to_sparse(), same=True),
]


def _channels_last(x: Tensor) -> Tensor:
    if x.dim() != 4:
        raise Inapplicable
    return x.to(memory_format=torch.channels_last)


VALUES: list[Kind] = [
    Kind("a NaN", "value", partial(_with_entry, float("nan"))),
    Kind("an infinity", "value", partial(_with_entry, float("inf"))),
    Kind("a negative infinity", "value", partial(_with_entry, -float("inf"))),
    Kind("1e4 times as large", "value", lambda x: x * 1e4),
    Kind("-1e4 times as large", "value", lambda x: x * -1e4),
    Kind("zeros", "value", torch.zeros_like),
    Kind("all the same", "value", torch.ones_like),
]

TENSOR = [*NOT_A_TENSOR, *SHAPES, *DTYPES, *LAYOUTS, *VALUES]
"""Of an argument that should be a floating-point tensor."""

LABELS = [
    *NOT_A_TENSOR,
    *(kind for kind in SHAPES if kind.name != "all the same"),
    *(
        Kind(str(dtype).removeprefix("torch."), "dtype", partial(lambda d, x: x.to(d), dtype))
        for dtype in (torch.float32, torch.bool, torch.complex64, torch.float16)
    ),
    *(
        Kind(
            str(dtype).removeprefix("torch."),
            "dtype",
            partial(lambda d, x: x.to(d), dtype),
            same=True,
        )
        for dtype in (torch.int32, torch.uint8, torch.int8)
    ),
    Kind("one-hot", "shape", lambda x: torch.nn.functional.one_hot(x, 4)),
    Kind("meta among cpu", "device", lambda x: x.to("meta")),
    Kind("non-contiguous", "layout", _non_contiguous, same=True),
    Kind("an inference tensor", "mode", _inference, same=True),
    Kind("negative", "value", lambda x: x - 10),
    Kind("beyond the classes", "value", lambda x: x + 100),
]
"""Of an argument that should be class labels."""

LIST = [
    *TYPES,
    Kind("a Python float", "type", lambda x: 0.5),
    Kind("a module", "type", lambda x: nn.Linear(2, 2)),
    Kind("a tuple", "container", tuple),
    Kind("a list of one", "container", lambda x: x[:1]),
    Kind("one more", "container", lambda x: [*x, x[0]]),
    Kind("nested", "container", lambda x: [x]),
    Kind("a list of lists", "container", lambda x: [[y] for y in x]),
    Kind("one is None", "container", lambda x: [None, *x[1:]]),
    Kind("one is a list of numbers", "container", lambda x: [[0.5], *x[1:]]),
    Kind("one is a NumPy array", "container", lambda x: [x[0].detach().numpy(), *x[1:]]),
    Kind("in another order", "container", lambda x: x[::-1]),
    Kind("a dict", "container", lambda x: dict(enumerate(x))),
    Kind("one is empty", "shape", lambda x: [x[0][:0], *x[1:]]),
    Kind("one has integers", "dtype", lambda x: [x[0].long(), *x[1:]]),
    Kind("one is complex", "dtype", lambda x: [x[0].to(torch.complex64), *x[1:]]),
    Kind("one is a float64", "dtype", lambda x: [x[0].double(), *x[1:]]),
    Kind("one is a bfloat16", "dtype", lambda x: [x[0].bfloat16(), *x[1:]]),
    Kind("one is meta", "device", lambda x: [x[0].to("meta"), *x[1:]]),
    Kind("one has a NaN", "value", lambda x: [_with_entry(float("nan"), x[0]), *x[1:]]),
]
"""Of an argument that should be a list of tensors."""


def _lazy(_: Any) -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.LazyLinear(2))


def _changed(change: Callable[[Tensor], Tensor], module: nn.Module) -> nn.Module:
    """Its weights changed."""
    module = copy.deepcopy(module)
    for name, weight in list(module.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        parameter = nn.Parameter(change(weight.detach()), weight.requires_grad)
        setattr(module.get_submodule(owner), leaf, parameter)
    return module


MODULE = [
    *TYPES,
    Kind("a tensor", "type", lambda m: torch.ones(2, 2)),
    Kind("a Python float", "type", lambda m: 0.5),
    Kind("a state dict", "container", lambda m: m.state_dict()),
    Kind("its parameters", "container", lambda m: m.parameters()),
    Kind("a list of its parameters", "container", lambda m: list(m.parameters())),
    Kind("a list of the module", "container", lambda m: [m]),
    Kind("a tuple of the module", "container", lambda m: (m,)),
    Kind("its forward", "type", lambda m: m.forward),
    Kind("its class", "type", type),
    Kind("a module without weights", "shape", lambda m: nn.ReLU()),
    Kind("an empty sequence", "container", lambda m: nn.Sequential()),
    Kind("a lazy module", "shape", _lazy),
    Kind("a module of other shapes", "shape", lambda m: nn.Sequential(nn.Linear(7, 5))),
    Kind("on meta", "device", lambda m: copy.deepcopy(m).to("meta")),
    Kind("in float64", "dtype", lambda m: copy.deepcopy(m).double(), same=True),
    Kind("in bfloat16", "dtype", lambda m: copy.deepcopy(m).bfloat16()),
    Kind("in float16", "dtype", lambda m: copy.deepcopy(m).half()),
    Kind("complex", "dtype", partial(_changed, lambda w: w.to(torch.complex64))),
    Kind("a NaN", "value", partial(_changed, partial(_with_entry, float("nan")))),
    Kind("an infinity", "value", partial(_changed, partial(_with_entry, float("inf")))),
    Kind("zeros", "value", partial(_changed, torch.zeros_like)),
    Kind("1e4 times as large", "value", partial(_changed, lambda w: w * 1e4)),
    Kind("frozen", "mode", lambda m: copy.deepcopy(m).requires_grad_(False)),
    Kind("in evaluation mode", "mode", lambda m: copy.deepcopy(m).eval(), same=True),
]
"""Of an argument that should be a module."""


def _critic(change: Callable[[Tensor], Any]) -> Callable[[Any], Any]:
    return lambda critic: lambda x: change(critic(x))


CRITIC = [
    *(kind for kind in TYPES if kind.name != "the class Tensor"),  # which is the identity
    Kind("a tensor", "type", lambda c: torch.ones(4)),
    Kind("a Python float", "type", lambda c: 0.5),
    Kind("a list of the critic", "container", lambda c: [c]),
    Kind("a critic without arguments", "signature", lambda c: lambda: torch.ones(4)),
    Kind("a critic that gives None", "type", _critic(lambda y: None)),
    Kind("a critic that gives a number", "type", _critic(lambda y: 0.5)),
    Kind("a critic that gives a string", "type", _critic(lambda y: "logits")),
    Kind("a critic that gives a NumPy array", "type", _critic(lambda y: y.detach().numpy())),
    Kind("a critic that gives a dict", "container", _critic(lambda y: {"logits": y})),
    Kind("a critic that gives a pair", "container", _critic(lambda y: (y, torch.ones(4, 5)))),
    Kind("a critic that gives an empty list", "container", _critic(lambda y: [])),
    Kind("a critic that gives a list of one", "container", _critic(lambda y: [y]), same=True),
    Kind("a critic that gives a list with None", "container", _critic(lambda y: [y, None])),
    Kind("a critic that gives columns", "shape", _critic(lambda y: y[:, None]), same=True),
    Kind("a critic that gives the mean", "shape", _critic(lambda y: y.mean())),
    Kind("a critic that gives the sum", "shape", _critic(lambda y: y.sum())),
    Kind("a critic that gives a sample less", "shape", _critic(lambda y: y[1:])),
    Kind("a critic that gives no logits", "shape", _critic(lambda y: y[:0])),
    Kind("a critic that gives integers", "dtype", _critic(lambda y: y.long())),
    Kind("a critic that gives bools", "dtype", _critic(lambda y: y > 0)),
    Kind("a critic that gives complex numbers", "dtype", _critic(lambda y: y + 0j)),
    Kind("a critic that gives float64", "dtype", _critic(lambda y: y.double()), same=True),
    Kind("a critic that detaches", "mode", _critic(lambda y: y.detach())),
    Kind("a critic that gives a constant", "value", _critic(lambda y: torch.ones(len(y)))),
    Kind("a critic on meta", "device", _critic(lambda y: y.to("meta"))),
    Kind("a critic that raises", "value", lambda c: _raising),
]
"""Of an argument that should be a critic."""


class OwnError(Exception):
    """What a critic of the caller's own raises; it has to arrive as it is."""


def _raising(x: Tensor) -> Tensor:
    raise OwnError("raised by the caller's critic")


NUMBER = [
    *TYPES,
    Kind("a module", "type", lambda n: nn.Linear(2, 2)),
    Kind("a list of the number", "container", lambda n: [n]),
    Kind("a tensor of several", "shape", lambda n: torch.ones(3)),
    Kind("a complex number", "dtype", lambda n: 1j),
    Kind("a NaN", "value", lambda n: float("nan")),
    Kind("an infinity", "value", lambda n: float("inf")),
    Kind("negative", "value", lambda n: -7),
]
"""Of an argument that should be a number."""

INTEGER = [
    *NUMBER,
    Kind("half of one", "dtype", lambda n: 0.5),
    Kind("a fraction", "dtype", lambda n: n + 0.5),
    Kind("zero", "value", lambda n: 0),
    Kind("a bool", "dtype", lambda n: True),
    Kind("a NumPy integer", "type", np.int64, same=True),
]

SHAPE = [
    *TYPES,
    Kind("an integer", "container", lambda s: s[0]),
    Kind("a list", "container", list, same=True),
    Kind("a torch.Size", "container", torch.Size, same=True),
    Kind("a tensor", "type", torch.tensor),
    Kind("floats", "dtype", lambda s: tuple(map(float, s))),
    Kind("strings", "type", lambda s: tuple(map(str, s))),
    Kind("one less", "shape", lambda s: s[1:]),
    Kind("one more", "shape", lambda s: (*s, 1)),
    Kind("with the batch", "shape", lambda s: (4, *s)),
    Kind("negative", "value", lambda s: tuple(-n for n in s)),
    Kind("zero", "value", lambda s: tuple(0 for _ in s)),
    Kind("another size", "value", lambda s: tuple(n + 1 for n in s)),
    Kind("bools", "dtype", lambda s: tuple(True for _ in s)),
]
"""Of an argument that should be a shape."""

OTHER = [
    *TYPES,
    Kind("a Python float", "type", lambda x: 0.5),
    Kind("an integer", "type", lambda x: 3),
    Kind("a bool", "type", lambda x: True),
    Kind("a tensor", "type", lambda x: torch.ones(2, 2)),
    Kind("a module", "type", lambda x: nn.Linear(2, 2)),
    Kind("a list of it", "container", lambda x: [x]),
]
"""Of an argument that is none of these, such as a random generator or a dict of losses."""

MODES: list[tuple[str, Callable[[], AbstractContextManager[Any]], str]] = [
    ("under no_grad", torch.no_grad, ""),
    ("under inference_mode", torch.inference_mode, ""),
    ("under enable_grad", torch.enable_grad, ""),
    ("under bfloat16 autocast", lambda: torch.autocast("cpu", torch.bfloat16), "bfloat16"),
    ("under float16 autocast", lambda: torch.autocast("cpu", torch.float16), "float16"),
    ("with default dtype float64", lambda: _default_dtype(torch.float64), ""),
]
"""Surroundings of a call with right arguments, and the precision that they leave."""


class _default_dtype:
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *_: Any) -> None:
        torch.set_default_dtype(self.before)


def family(value: Any, name: str) -> list[Kind]:
    """The kinds of misuse that an argument has."""
    if isinstance(value, Tensor):
        return TENSOR if value.is_floating_point() else LABELS
    if isinstance(value, nn.Module):
        return MODULE
    if isinstance(value, bool):
        return OTHER
    if isinstance(value, int):
        return INTEGER
    if isinstance(value, float):
        return NUMBER
    if isinstance(value, list) and all(isinstance(x, Tensor) for x in value):
        return LIST
    if isinstance(value, tuple) and all(isinstance(x, int) for x in value):
        return SHAPE
    if name == "critic":
        return CRITIC
    return OTHER


def everything() -> Iterator[tuple[str, Kind]]:
    """Each kind, with the family that it is in."""
    families = {
        "tensor": TENSOR,
        "labels": LABELS,
        "list": LIST,
        "module": MODULE,
        "critic": CRITIC,
        "number": INTEGER,
        "shape": SHAPE,
        "other": OTHER,
    }
    for name, kinds in families.items():
        for kind in kinds:
            yield name, kind


nothing = nullcontext
