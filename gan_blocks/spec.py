"""A block is written once: the constructor's signature is the spec.

``@block`` reads the signature of a class and derives a strict pydantic model from it. A direct call,
a dict, JSON, TOML and YAML then go through the same checks, and the JSON schema, the docs and the
conformance kit read the same declaration.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, get_args, get_type_hints, overload

import pydantic
from pydantic import Field, ValidationError
from torch import nn

from gan_blocks._arguments import field_type, problems_of, tell_renamed
from gan_blocks.errors import InvalidArgumentsError, Problem, ReadOnlyArgumentError
from gan_blocks.hookspecs import PAGE
from gan_blocks.types import Compares, Side

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
        batch_dependent: Why a sample's result depends on the other samples of the batch, in words.
            Empty if it does not: then a batch in parts gives the result of the whole batch.
        moves_in_forward: Its buffers change in `forward` in training mode, as those of batch norm and
            of spectral norm do. Whatever else counts or averages is a
            [`Clocked`][gan_blocks.authoring.Clocked] block.
        side: The side whose loss an auxiliary term belongs to.
        compares: What an auxiliary term is called with.
        dtypes: The dtypes of input it accepts.

    Raises:
        TypeError: If a promise is of another type, a reason is missing for instance.
    """

    double_backward: bool = False
    compile: bool = False
    autocast: bool = False
    distributed: bool = False
    batch_dependent: str = ""
    moves_in_forward: bool = False
    side: Side | None = None
    compares: Compares | None = None
    dtypes: tuple[str, ...] = ("float32", "float64")

    def __post_init__(self) -> None:
        if not isinstance(self.batch_dependent, str):
            raise TypeError(
                "batch_dependent should say in words why a sample's result depends on the rest of the "
                'batch, such as "it compares means of the batch", got '
                f"{self.batch_dependent!r}; see {PAGE}"
            )
        for name, words in (("side", get_args(Side)), ("compares", get_args(Compares))):
            value = getattr(self, name)
            if value is not None and value not in words:
                raise TypeError(f"{name} should be one of {', '.join(words)}, got {value!r}")
        if (self.side is None) != (self.compares is None):
            raise TypeError(
                "an auxiliary term declares both side and compares; other blocks neither"
            )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Blueprint:
    """What ``@block`` knows of a class.

    Args:
        cls: The class.
        capabilities: What it promises.
        formerly: Names that it had before.
        renamed: Names that its arguments had before, each with the one of now.

    Attributes:
        parameters: The arguments of the spec in order.
        options: Which of ``device`` and ``dtype`` the constructor takes.
    """

    def __init__(
        self,
        cls: type,
        capabilities: Capabilities,
        formerly: Sequence[str] = (),
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        if not cls.__dictoffset__:
            raise TypeError(
                f"{cls.__name__} has __slots__ and no place for the record of arguments"
            )
        self.cls = cls
        self.capabilities = capabilities
        self.formerly = (formerly,) if isinstance(formerly, str) else tuple(formerly)
        owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
        # A constructor inherited from a block is that block's own, without its checks.
        parent = blueprint(owner)
        self.initialise = parent.initialise if parent else cls.__init__
        self.renamed = (parent.renamed if parent else {}) | dict(renamed or {})
        # Told by the class, since torch.compile puts another function in nn.Module's place.
        self.stock = parent.stock if parent else owner in (object, nn.Module)
        signature = list(inspect.signature(self.initialise).parameters.values())[1:]
        self.parameters = {} if self.stock else {p.name: p for p in signature}
        self.options = tuple(name for name in _OPTIONS if self.parameters.pop(name, None))
        hints = {} if self.stock else get_type_hints(self.initialise, include_extras=True)
        self.types: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(f"{cls.__name__}: {parameter} has no place in a spec; name each")
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise TypeError(f"{cls.__name__}: a spec passes {name!r} by name; drop the slash")
            if name == "block" or name not in hints:
                reason = "is the key of the block's name" if name == "block" else "has no type"
                raise TypeError(f"{cls.__name__}: the argument {name!r} {reason}")
            try:
                self.types[name] = field_type(hints[name])
            except TypeError as error:
                raise TypeError(f"{cls.__name__}: {name}: {error}") from None
        self._check_former_names()

    def _check_former_names(self) -> None:
        for name in self.formerly:
            own = name.split("/") if isinstance(name, str) else [""]
            if name == self.cls.__name__ or len(own) > 2 or not own[-1].isidentifier():
                raise TypeError(
                    f"{self.cls.__name__}: formerly should hold names of classes, or plugin/Class, that "
                    f"this block had before, got {name!r}"
                )
        for old, new in self.renamed.items():
            if new not in self.parameters or old in self.parameters or old == "block":
                raise TypeError(
                    f"{self.cls.__name__}: renamed should lead from a name that no argument has to one "
                    f"that an argument has, got {old!r}: {new!r}"
                )

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
        arguments = self._by_names_of_now(arguments)
        try:
            valid = self.model.model_validate(arguments, context=context)
        except ValidationError as error:
            problems = problems_of(error, list(self.parameters))
            raise InvalidArgumentsError(self.cls.__name__, problems) from None
        return {name: getattr(valid, f"argument_{name}") for name in self.parameters}

    def _by_names_of_now(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        result = dict(arguments)
        for old in [name for name in result if name in self.renamed]:
            new = self.renamed[old]
            if new in result:
                problem = Problem((old,), f"is the former name of {new}, which is given too")
                raise InvalidArgumentsError(self.cls.__name__, [problem])
            tell_renamed(f"the argument {old} of {self.cls.__name__} is called {new} now")
            result[new] = result.pop(old)
        return result

    def construct(self, instance: Any, arguments: dict[str, Any], **options: Any) -> None:
        """Initialise an instance from checked arguments, and record them."""
        own = vars(instance)
        if _READ_ONLY in own:  # __init__ is called a second time
            del own[_READ_ONLY], own[_RECORD]
        # The outermost class records: a block that inherits from a block is its own spec.
        outermost = _RECORD not in own
        if outermost:
            own[_RECORD] = arguments = {name: _frozen(value) for name, value in arguments.items()}
        try:
            self.initialise(instance, **arguments, **options)
        except InvalidArgumentsError:
            raise
        except ValueError as error:
            # A relation between arguments. Anything else is a fault of the class, or of the machine.
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            problem = Problem((), reason)
            raise InvalidArgumentsError(self.cls.__name__, [problem]) from error
        if outermost:
            own[_READ_ONLY] = _read_only_names(instance)


_RECORD = "_block_arguments"
_READ_ONLY = "_block_read_only"


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return FrozenDict({name: _frozen(item) for name, item in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, tuple) else value


def _refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
    raise ReadOnlyArgumentError(
        "this dict is an argument of a block and read-only; build a new block with another one"
    )


class FrozenDict(dict[str, Any]):
    """An argument that is a dict. The block and its record share it, so it cannot be changed."""

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self):
        return type(self), (dict(self),)


def _read_only_names(instance: Any) -> frozenset[str]:
    """The attributes that are arguments, by their names or because they hold the very argument."""
    arguments, attributes = vars(instance)[_RECORD], dict(vars(instance))
    modules = attributes.get("_modules") or {}
    names = {n for cls in type(instance).__mro__ for n in getattr(blueprint(cls), "parameters", ())}
    # A parameter, buffer or child module that only shares an argument's name is state.
    names -= {*attributes.get("_parameters", ()), *attributes.get("_buffers", ())}
    names -= {name for name, child in modules.items() if child is not arguments.get(name)}
    # Python shares small numbers and strings, so their identity proves nothing.
    telling = [
        a for a in arguments.values() if not isinstance(a, bool | int | str | None) and a != ()
    ]
    for name, value in (attributes | modules).items():
        if any(value is argument for argument in telling):
            names.add(name)
    return frozenset(names)


def _with_read_only_arguments(assign: Any) -> Any:
    """A `__setattr__` that refuses what would make a block differ from its record."""

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if name in self.__dict__.get(_READ_ONLY, ()) and not _wraps(
            value, getattr(self, name, None)
        ):
            recorded = self.__dict__[_RECORD]
            now = f"was built with {name}={recorded[name]!r}" if name in recorded else "is built"
            raise ReadOnlyArgumentError(
                f"{type(self).__name__}.{name} is read-only: the block {now}, and its spec says so; "
                "build a new block instead"
            )
        assign(self, name, value)

    __setattr__.guards_arguments = True  # type: ignore[attr-defined]
    return __setattr__


def _wraps(value: Any, block: Any) -> bool:
    """Whether a module is a wrapper around a block, as torch.compile and FSDP put in its place.

    It holds nothing else. A block that holds it, such as `Lazy`, computes something else.
    """
    if not isinstance(value, nn.Module) or not isinstance(block, nn.Module):
        return False
    return value is block or (not blueprint(type(value)) and [*value.children()] == [block])


def blueprint(cls: type) -> Blueprint | None:
    """The blueprint of a class decorated with ``@block``; a subclass is no block by itself."""
    return vars(cls).get("__block__")


def recorded_arguments(instance: Any) -> dict[str, Any]:
    """The validated arguments that a block was built with, defaults filled in."""
    return dict(vars(instance)[_RECORD])


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
    batch_dependent: str = "",
    moves_in_forward: bool = False,
    side: Side | None = None,
    compares: Compares | None = None,
    dtypes: tuple[str, ...] = ("float32", "float64"),
    formerly: Sequence[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> Callable[[T], T]: ...


def block(
    cls: type | None = None,
    /,
    *,
    formerly: Sequence[str] = (),
    renamed: Mapping[str, str] | None = None,
    **capabilities: Any,
) -> Any:
    """Make a class a block: its calls are checked, its arguments recorded, its promises stated.

    A constructor takes only what a config file can hold: numbers, strings, bools, small tuples,
    literals, other blocks. Limits stand in the annotation (``PositiveInt``); a relation between
    arguments is a ``ValueError`` in ``__init__``. Other errors of ``__init__`` stay what they are.
    ``device`` and ``dtype`` may be keyword arguments; they stay outside the spec. Arguments are
    read-only attributes of a built block, so that it always is what its spec says. Nothing is added
    to a forward pass.

    Args:
        cls: The class, when used without parentheses.
        **capabilities: Fields of [`Capabilities`][gan_blocks.spec.Capabilities].
        formerly: Names that the class had before, `"OldName"`, or `"oldplugin/OldName"` if the plugin
            was called otherwise. Specs with such a name still load, with a
            [`RenamedWarning`][gan_blocks.RenamedWarning].
        renamed: Names that arguments had before, `{"old": "new"}`; likewise, in calls too.

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
        gan_blocks.errors.InvalidArgumentsError: Scale cannot be built: factr: unknown
        argument; did you mean factor?
    """
    if cls is None:
        promises = Capabilities(**capabilities)
        return lambda cls: _decorate(Blueprint(cls, promises, formerly, renamed))
    return _decorate(Blueprint(cls, Capabilities()))


def _decorate(plan: Blueprint) -> type:
    cls = plan.cls

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
    if not hasattr(cls.__setattr__, "guards_arguments"):
        cls.__setattr__ = _with_read_only_arguments(cls.__setattr__)
    if issubclass(cls, nn.Module):
        if cls.extra_repr is nn.Module.extra_repr:
            cls.extra_repr = arguments_in_words
    elif cls.__repr__ is object.__repr__:
        cls.__repr__ = __repr__  # type: ignore[assignment]
    return cls
