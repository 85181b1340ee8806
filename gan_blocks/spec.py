"""A block is written once: the constructor's signature is the spec.

``@block`` reads the signature of a class and derives a strict pydantic model from it. A direct call,
a dict, JSON, TOML and YAML then go through the same checks, and the JSON schema, the docs and the
conformance kit read the same declaration.
"""

import difflib
import functools
import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import EllipsisType, NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Protocol,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

import pydantic
from pydantic import BeforeValidator, Field, Strict, ValidationError
from pydantic.types import AllowInfNan
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema
from torch import nn

from gan_blocks.errors import InvalidArgumentsError, Problem, UnknownBlockError
from gan_blocks.types import AdversarialLoss, Constraint, Divergence, Kind, Penalty

PROTOCOLS: dict[type, Kind] = {
    AdversarialLoss: "loss",
    Divergence: "divergence",
    Penalty: "penalty",
    Constraint: "constraint",
}
"""An argument annotated with one of these takes a block of that kind."""

_OPTIONS = ("device", "dtype")
"""Where a block is built, not what it is: these stay outside the spec."""


@dataclass(frozen=True)
class Capabilities:
    """What a block promises. The conformance kit tests what is claimed; the docs print it.

    Args:
        double_backward: Its gradient can be differentiated again, as gradient penalties need.
        compile: ``torch.compile(fullgraph=True)`` gives the eager result.
        autocast: It works inside ``torch.autocast`` and stays close to float32.
        distributed: Processes that each hold a part of the batch together give the result and the
            gradient of one process that holds all of it.
        batch_dependent: A sample's result depends on the other samples of the batch, on purpose.
        dtypes: The dtypes of input it accepts.
    """

    double_backward: bool = False
    compile: bool = False
    autocast: bool = False
    distributed: bool = False
    batch_dependent: bool = False
    dtypes: tuple[str, ...] = ("float32", "float64")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Resolver(Protocol):
    """What a nested block needs of the registry."""

    def build(self, spec: Mapping[str, Any], kind: Kind | None = None, **options: Any) -> Any: ...

    def kind_of(self, cls: type) -> Kind | None: ...


resolver: Resolver | None = None
"""The registry that a direct call such as ``FDivergenceLoss({"block": "KL"})`` asks; the registry
sets it, because this module does not import the registry."""


def did_you_mean(name: str, candidates: Sequence[str]) -> str:
    """``; did you mean X?``, or what there is to choose from."""
    lowered = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.55)
    if close:
        return f"; did you mean {lowered[close[0]]}?"
    return f"; choose from {', '.join(candidates)}" if candidates else ""


def shown(value: Any, limit: int = 60) -> str:
    """A value in an error message, cut to a readable length."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def complaint(message: str) -> PydanticCustomError:
    # The text goes through the context: pydantic would read braces in a template as fields.
    return PydanticCustomError("gan_blocks", "{message}", {"message": message})


def as_validation_error(error: InvalidArgumentsError | UnknownBlockError) -> ValidationError:
    """The same problems in pydantic's form, which merges their paths into an outer model's."""
    problems = getattr(error, "problems", [Problem(("block",), str(error))])
    return ValidationError.from_exception_data(
        getattr(error, "name", "block"),
        [
            InitErrorDetails(type=complaint(message), loc=path, input=value)
            for path, message, value in problems
        ],
    )


def problems_of(error: ValidationError, known: Sequence[str] = ()) -> list[Problem]:
    """Pydantic's list of errors in the library's words."""
    problems = []
    for detail in error.errors(include_url=False):
        path, kind, value = detail["loc"], detail["type"], detail["input"]
        if kind == "missing":
            problems.append(Problem(path, "is required but was not given"))
        elif kind == "extra_forbidden":
            hint = did_you_mean(str(path[-1]), known) if known else "; it takes no arguments"
            problems.append(Problem(path, f"unknown argument{hint}", value))
        elif kind == "gan_blocks":
            problems.append(Problem(path, detail["msg"], value))
        else:
            message = detail["msg"].removeprefix("Input ")
            problems.append(Problem(path, f"{message}, got {shown(value)}", value))
    # A wrong item makes its tuple wrong too; the item's own message says it all.
    paths = [problem.path for problem in problems]
    return [p for p in problems if not any(o[: len(p.path)] == p.path != o for o in paths)]


# --- from an annotation of the signature to a field of the model ------------------------------


def _plain_integer(value: Any) -> Any:
    """A NumPy integer is an integer; a bool is not."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return value


def _plain_float(value: Any) -> Any:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise complaint("should be a finite number, got one too large for a float") from None
    return value


_SCALARS: dict[type, tuple[Any, ...]] = {
    bool: (Strict(),),
    str: (Strict(),),
    int: (Strict(), BeforeValidator(_plain_integer)),
    float: (Strict(), AllowInfNan(False), BeforeValidator(_plain_float)),
}


@dataclass(frozen=True)
class _Nested:
    """A field that holds another block: an instance, or a spec to build it from."""

    kind: Kind
    protocol: type

    def validate(self, value: Any, info: core_schema.ValidationInfo) -> Any:
        blocks = cast(Resolver, (info.context or {}).get("resolver", resolver))
        options = (info.context or {}).get("options", {})
        if isinstance(value, Mapping):
            try:
                return blocks.build(value, self.kind, **options)
            except (InvalidArgumentsError, UnknownBlockError) as error:
                raise as_validation_error(error) from None
        if isinstance(value, type):
            raise complaint(f"takes an instance, not the class: {value.__name__}(...)")
        actual = blocks.kind_of(type(value))
        if isinstance(value, self.protocol) and actual in (self.kind, None):
            return value
        what = f"a {actual}" if actual else "no such block"
        raise complaint(
            f'should be a {self.kind} or a spec of one such as {{"block": NAME}}, '
            f"got {shown(value)}, which is {what}"
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"x-gan-blocks-kind": self.kind}


def _field_type(annotation: Any) -> Any:
    """The annotation with strict scalars. Whatever no config file can hold raises TypeError."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base, *limits = arguments
        if base in _SCALARS:
            # Conversions last: pydantic applies annotations from the inside out.
            return _annotated(base, *_SCALARS[base][:1], *limits, *_SCALARS[base][1:])
        return _annotated(_field_type(base), *limits)
    if annotation in _SCALARS:
        return _annotated(annotation, *_SCALARS[annotation])
    if annotation in PROTOCOLS:
        return _annotated(Any, _Nested(PROTOCOLS[annotation], annotation))
    if origin is Literal or annotation in (None, NoneType, EllipsisType, ...):
        return annotation
    if origin is tuple:
        return tuple[tuple(map(_field_type, arguments))]  # type: ignore[misc]
    if origin in (Union, UnionType):
        return Union[tuple(map(_field_type, arguments))]  # noqa: UP007
    raise TypeError(
        f"{shown(annotation)} cannot stand in a config file: an argument of a block is a number, "
        "a string, a bool, a tuple of those, a Literal, or another block; tensors and networks "
        "arrive through methods"
    )


def _annotated(base: Any, *metadata: Any) -> Any:
    return Annotated[(base, *metadata)]  # type: ignore[misc]


# --- the blueprint of a class ------------------------------------------------------------------


class Blueprint:
    """What ``@block`` knows of a class.

    Args:
        cls: The class.
        capabilities: What it promises.

    Attributes:
        parameters: The arguments of the spec in order.
        options: Which of ``device`` and ``dtype`` the constructor takes.
    """

    def __init__(self, cls: type, capabilities: Capabilities) -> None:
        self.cls = cls
        self.capabilities = capabilities
        self.initialise = cls.__init__
        stock = cls.__init__ in (object.__init__, nn.Module.__init__)
        signature = list(inspect.signature(cls.__init__).parameters.values())[1:]
        self.parameters = {} if stock else {p.name: p for p in signature}
        self.options = tuple(name for name in _OPTIONS if self.parameters.pop(name, None))
        hints = {} if stock else get_type_hints(cls.__init__, include_extras=True)
        self.types: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(f"{cls.__name__}: {parameter} has no place in a spec; name each")
            if name == "block" or name not in hints:
                reason = "is the key of the block's name" if name == "block" else "has no type"
                raise TypeError(f"{cls.__name__}: the argument {name!r} {reason}")
            try:
                self.types[name] = _field_type(hints[name])
            except TypeError as error:
                raise TypeError(f"{cls.__name__}: {name}: {error}") from None

    @functools.cached_property
    def model(self) -> "type[pydantic.BaseModel]":
        """The pydantic model of the arguments, made at the first use."""
        fields: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            default = ... if parameter.default is parameter.empty else parameter.default
            # The alias leaves the argument any name, `copy` or `model_dim` too.
            fields[f"argument_{name}"] = (self.types[name], Field(default, alias=name))
        config = pydantic.ConfigDict(extra="forbid", validate_default=True, title=self.cls.__name__)
        return pydantic.create_model(self.cls.__name__, __config__=config, **fields)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of a direct call by name."""
        positional = [n for n, p in self.parameters.items() if p.kind is not p.KEYWORD_ONLY]
        problems = [
            Problem((name,), "was given twice, by position and by name", kwargs[name])
            for name in positional[: len(args)]
            if name in kwargs
        ]
        if len(args) > len(positional):
            message = f"takes at most {len(positional)} positional arguments, got {len(args)}"
            problems.append(Problem((), message))
        if problems:
            raise InvalidArgumentsError(self.cls.__name__, problems)
        return dict(zip(positional, args, strict=False)) | dict(kwargs)

    def validate(self, arguments: Mapping[str, Any], **context: Any) -> dict[str, Any]:
        """The arguments, checked, with defaults filled in.

        Raises:
            InvalidArgumentsError: With every problem and its place.
        """
        try:
            valid = self.model.model_validate(dict(arguments), context=context)
        except ValidationError as error:
            problems = problems_of(error, list(self.parameters))
            raise InvalidArgumentsError(self.cls.__name__, problems) from None
        return {name: getattr(valid, f"argument_{name}") for name in self.parameters}

    def construct(self, instance: Any, arguments: dict[str, Any], **options: Any) -> None:
        """Initialise an instance from checked arguments, and record them."""
        # The outermost class records: a block that inherits from a block is its own spec.
        instance.__dict__.setdefault("_block_arguments", arguments)
        try:
            self.initialise(instance, **arguments, **options)
        except InvalidArgumentsError:
            raise
        except (ValueError, OverflowError, MemoryError, RuntimeError) as error:
            # A relation between arguments, or a size that torch refuses to allocate.
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            problem = Problem((), reason)
            raise InvalidArgumentsError(self.cls.__name__, [problem]) from error


def blueprint(cls: type) -> Blueprint | None:
    """The blueprint of a class decorated with ``@block``; a subclass is no block by itself."""
    return vars(cls).get("__block__")


def recorded_arguments(instance: Any) -> dict[str, Any]:
    """The validated arguments that a block was built with, defaults filled in."""
    return instance.__dict__["_block_arguments"]


T = TypeVar("T", bound=type)


@overload
def block(cls: T, /) -> T: ...


@overload
def block(
    *,
    double_backward: bool = False,
    compile: bool = False,
    autocast: bool = False,
    distributed: bool = False,
    batch_dependent: bool = False,
    dtypes: tuple[str, ...] = ("float32", "float64"),
) -> Callable[[T], T]: ...


def block(cls: type | None = None, /, **capabilities: Any) -> Any:
    """Make a class a block: its calls are checked, its arguments recorded, its promises stated.

    A constructor takes only what a config file can hold: numbers, strings, bools, small tuples,
    literals, other blocks. Limits stand in the annotation (``PositiveInt``); a relation between
    arguments is a ``ValueError`` in ``__init__``. ``device`` and ``dtype`` may be keyword
    arguments; they stay outside the spec. Nothing is added to a forward pass.

    Args:
        cls: The class, when used without parentheses.
        **capabilities: Fields of [`Capabilities`][gan_blocks.spec.Capabilities].

    Example:
        >>> from torch import nn
        >>> from gan_blocks import block
        >>> from gan_blocks.types import PositiveFloat
        >>> @block(double_backward=True)
        ... class Scale(nn.Module):
        ...     def __init__(self, factor: PositiveFloat = 2.0) -> None:
        ...         super().__init__()
        ...         self.factor = factor
        ...     def forward(self, x):
        ...         return self.factor * x
        >>> Scale(3)
        Scale(factor=3.0)
        >>> Scale(factr=3)
        Traceback (most recent call last):
        gan_blocks.errors.InvalidArgumentsError: Scale cannot be built: factr: unknown argument; \
did you mean factor?
    """
    if cls is None:
        return functools.partial(_decorate, capabilities=Capabilities(**capabilities))
    return _decorate(cls, Capabilities())


def _decorate(cls: type, capabilities: Capabilities) -> type:
    plan = Blueprint(cls, capabilities)

    @functools.wraps(plan.initialise)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in plan.options if name in kwargs}
        plan.construct(self, plan.validate(plan.bind(args, kwargs)), **options)

    def arguments_in_words(self: Any) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in recorded_arguments(self).items())

    def __repr__(self: Any) -> str:
        return f"{type(self).__name__}({arguments_in_words(self)})"

    cls.__init__ = __init__
    cls.__block__ = plan  # type: ignore[attr-defined]
    if issubclass(cls, nn.Module):
        if cls.extra_repr is nn.Module.extra_repr:
            cls.extra_repr = arguments_in_words
    elif cls.__repr__ is object.__repr__:
        cls.__repr__ = __repr__  # type: ignore[assignment]
    return cls
