"""From the annotation of an argument to a checked field, and what is wrong with a value in words."""

import difflib
import numbers
import reprlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType, NoneType, UnionType
from typing import Annotated, Any, Literal, Protocol, Union, cast, get_args, get_origin

from pydantic import BeforeValidator, Strict, ValidationError
from pydantic.types import AllowInfNan
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from gan_blocks._calls import expected_call, misfit_of_object
from gan_blocks.errors import (
    InvalidArgumentsError,
    Problem,
    RenamedWarning,
    UnknownBlockError,
)
from gan_blocks.types import (
    AdversarialLoss,
    Constraint,
    Divergence,
    Kind,
    Network,
    Penalty,
    Schedule,
)

PROTOCOLS: tuple[tuple[Any, Kind], ...] = (
    (AdversarialLoss, "loss"),
    (Divergence, "divergence"),
    (Penalty, "penalty"),
    (Constraint, "constraint"),
    (Schedule, "schedule"),
    (Network, "network"),
)
"""An argument annotated with one of these takes a block of that kind."""


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


_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxstring, _brief.maxother, _brief.maxlong = 4, 60, 60, 60


def shown(value: Any, limit: int = 60) -> str:
    """A value in an error message, cut to a readable length."""
    try:
        # A table that holds another one twice, and so on, has a repr without end.
        nested = isinstance(value, Mapping | list | tuple | set | frozenset)
        text = _brief.repr(value) if nested else repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def tell_renamed(message: str) -> None:
    """Warn, at the line of the caller outside of this library and of pydantic."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(f"{message}; the former name will not work for ever", RenamedWarning, level)


_INSIDE = ("gan_blocks", "pydantic", "pydantic_core")


def complaint(message: str) -> PydanticCustomError:
    # The text goes through the context: pydantic would read braces in a template as fields.
    return PydanticCustomError("gan_blocks", "{message}", {"message": message})


def as_validation_error(error: InvalidArgumentsError | UnknownBlockError) -> ValidationError:
    """The same problems in pydantic's form, which merges their paths into an outer model's."""
    unknown = isinstance(error, UnknownBlockError)
    problems = (Problem(("block",), str(error), error.name),) if unknown else error.problems
    return ValidationError.from_exception_data(
        "block",
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
class Nested:
    """A field that holds another block: an instance, or a spec to build it from."""

    kind: Kind

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
        if isinstance(value, str):
            raise complaint(
                f'should be a {self.kind} or a spec of one such as {{"block": "{value}"}}'
            )
        actual = blocks.kind_of(type(value))
        if actual == self.kind:
            return value
        # An object of a class that nobody registered may serve as well, if it is called alike.
        what = misfit_of_object(self.kind, value)
        if actual:
            article = "an" if actual == "auxiliary" else "a"
            what = f"is {article} {actual}; expected {expected_call(self.kind)}"
        if not what:
            return value
        raise complaint(
            f'should be a {self.kind} or a spec of one such as {{"block": NAME}}, '
            f"got {shown(value)}, which {what}"
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"x-gan-blocks-kind": self.kind}


def field_type(annotation: Any) -> Any:
    """The annotation with strict scalars. Whatever no config file can hold raises TypeError."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    for protocol, kind in PROTOCOLS:
        if annotation == protocol:
            return _annotated(Any, Nested(kind))
    if origin is Annotated:
        base, *limits = arguments
        if base in _SCALARS:
            # Conversions last: pydantic applies annotations from the inside out.
            return _annotated(base, *_SCALARS[base][:1], *limits, *_SCALARS[base][1:])
        return _annotated(field_type(base), *limits)
    if annotation in _SCALARS:
        return _annotated(annotation, *_SCALARS[annotation])
    if origin is Literal or annotation in (None, NoneType, EllipsisType, ...):
        return annotation
    if origin is tuple:
        return tuple[tuple(map(field_type, arguments))]  # type: ignore[misc]
    if origin is dict and arguments[0] is str:
        return dict[tuple(map(field_type, arguments))]  # type: ignore[misc]
    if origin in (Union, UnionType):
        return Union[tuple(map(field_type, arguments))]  # noqa: UP007
    raise TypeError(
        f"{shown(annotation)} cannot stand in a config file: an argument of a block is a number, "
        "a string, a bool, a tuple or a dict by name of those, a Literal, or another block, which "
        "gan_blocks.types has the annotations of, such as Penalty or Network; tensors arrive through "
        "methods"
    )


def _annotated(base: Any, *metadata: Any) -> Any:
    return Annotated[(base, *metadata)]  # type: ignore[misc]
