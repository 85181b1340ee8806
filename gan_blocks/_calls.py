"""The call signature of each kind of block, and checks that a class or an object fits it."""

import inspect
from typing import Any, NamedTuple, get_args

from torch import nn

from gan_blocks.authoring import Clocked
from gan_blocks.types import Compares, Divergence, Kind, Side


class Call(NamedTuple):
    """One method that every block of a kind has, and its arguments.

    Args:
        method: Its name. Empty if the object itself is called.
        arguments: Positional arguments. None if each block has its own signature.
        keywords: Keyword arguments.
        optional: Keyword arguments that a block may leave out of its signature.
    """

    method: str
    arguments: tuple[str, ...] | None = ()
    keywords: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def of(self, name: str) -> str:
        """Return the call as code, such as `loss.generator(fake_logits, real_logits=...)`."""
        passed = [f"{key}=..." for key in (*self.keywords, *self.optional)]
        arguments = ", ".join(
            [*("...",) * (self.arguments is None), *(self.arguments or ()), *passed]
        )
        return f"{name}{'.' if self.method else ''}{self.method}({arguments})"


_FREE = Call("", None)

CALLS: dict[Kind, tuple[Call, ...]] = {
    "layer": (_FREE,),
    "network": (_FREE,),
    "auxiliary": (_FREE,),
    "loss": (
        Call("discriminator", ("real_logits", "fake_logits")),
        Call("generator", ("fake_logits",), optional=("real_logits",)),
    ),
    "schedule": (Call(""), Call("at", ("step",)), Call("step")),
    "divergence": (
        *(Call(name, ("u",)) for name in ("f", "derivative")),
        Call("conjugate", ("t",)),
        *(Call(name, ("v",)) for name in ("activation", "conjugate_of_activation")),
        Call("bound", ("real", "fake")),
        Call("optimal_critic", ("log_ratio",)),
        Call("between", ("p", "q")),
    ),
    "penalty": (Call("", ("critic", "real", "fake"), ("generator",)),),
    "constraint": (Call("", ("module",)),),
}

_NOT_CLOCKED = (
    "does not derive from gan_blocks.authoring.Clocked, which advances it with an optimizer"
)

_TERMS: dict[Compares, tuple[str, ...]] = {
    "features": ("real_features", "fake_features"),
    "feature_lists": ("real_features", "fake_features"),
    "logits": ("real_logits", "fake_logits"),
    "augmented_logits": ("logits", "augmented_logits"),
    "samples": ("real", "fake"),
    "module": ("module",),
}
"""The arguments of an auxiliary term by what it compares. With `other` the signature is free."""


def expected_call(kind: Kind) -> str:
    """Return the call of a kind as code, such as `penalty(critic, real, fake, generator=...)`."""
    return " and ".join(call.of(kind) for call in CALLS[kind])


def told_by_methods(cls: type) -> Kind | None:
    """Infer the kind of a class from its methods. None if they do not determine it."""
    names: dict[Kind, tuple[str, ...]] = {
        "loss": ("discriminator", "generator"),
        "divergence": ("f", "conjugate", "activation"),
        "schedule": ("at", "step"),
    }
    for kind, methods in names.items():
        if all(_of_class(cls, method) for method in methods):
            return kind
    signature = _signature(_of_class(cls, ""))
    parameters = [*signature.parameters] if signature else []
    if parameters[:3] == ["critic", "real", "fake"]:
        return "penalty"
    return "constraint" if parameters == ["module"] else None


def misfit(kind: Kind, cls: type, compares: Compares | None = None) -> str:
    """Explain why a class does not fit a kind and which call is expected. Empty if it fits."""
    if kind in ("layer", "network") and not issubclass(cls, nn.Module):
        return f"{cls.__name__} is no nn.Module, so it is no {kind}"
    if kind == "auxiliary" and compares is None:
        if told_by_methods(cls) == "schedule":
            return (
                f"{cls.__name__} has the methods at and step of a schedule, so it is no {kind}: return "
                "it from gan_blocks_schedules"
            )
        return (
            f"{cls.__name__} does not say which side's loss it belongs to and what it compares: add "
            f'@block(side="generator", compares="features"); side is one of '
            f"{', '.join(get_args(Side))}, compares one of {', '.join(get_args(Compares))}"
        )
    calls = CALLS[kind]
    if kind == "auxiliary" and compares in _TERMS:
        calls = (Call("", _TERMS[compares]),)
    for call in calls:
        reason = _misfit(_of_class(cls, call.method), call)
        if reason:
            return f"{cls.__name__} {reason}, so it is no {kind}; expected {call.of(kind)}"
    if kind == "schedule" and not issubclass(cls, Clocked):
        return f"{cls.__name__} {_NOT_CLOCKED}, so it is no {kind}"
    return ""


def misfit_of_object(kind: Kind, value: Any) -> str:
    """Explain why an object, such as a function, does not fit a kind. Empty if it fits."""
    if kind == "network" and not isinstance(value, nn.Module):
        return "is no nn.Module"
    for call in CALLS[kind]:
        reason = _misfit(_of_object(value, call.method), call)
        if reason:
            return f"{reason}; expected {call.of(kind)}"
    if kind == "schedule" and not isinstance(value, Clocked):
        return _NOT_CLOCKED
    if kind == "divergence" and not isinstance(value, Divergence):
        return "has no threshold, the value of its derivative at 1"
    return ""


def _misfit(method: Any, call: Call) -> str:
    if method is None:
        return f"has no {call.method}" if call.method else "has no call of its own"
    signature = _signature(method)
    if call.arguments is None or signature is None or _binds(signature, call):
        return ""
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    written = signature.replace(parameters=bare, return_annotation=signature.empty)
    return f"is called as {call.method}{written}"


def _signature(method: Any) -> inspect.Signature | None:
    """Return the signature, or None if it is unavailable, as for functions written in C."""
    try:
        return inspect.signature(method)
    except (TypeError, ValueError):
        return None


def _binds(signature: inspect.Signature, call: Call) -> bool:
    arguments = [None] * len(call.arguments or ())
    always = dict.fromkeys(call.keywords)
    for keywords in ({}, dict.fromkeys(call.optional)):
        try:
            signature.bind(*arguments, **always, **keywords)
        except TypeError:
            continue
        return True
    return False


def _of_class(cls: type, name: str) -> Any:
    """Return a method bound to a placeholder `self`, or None if the class does not define it.

    Looks in the `__dict__` of each base, because `getattr(cls, "__call__")` finds the metaclass's.
    """
    names = (name,) if name else ("__call__", "forward")[: 1 + issubclass(cls, nn.Module)]
    for base in cls.__mro__:
        for each in names:
            if base not in (object, nn.Module) and each in vars(base):
                return _without_self(vars(base)[each])
    return None


def _without_self(member: Any) -> Any:
    if isinstance(member, staticmethod):
        return member.__func__
    if isinstance(member, classmethod):
        return member.__func__.__get__(object())
    if inspect.isfunction(member):
        return member.__get__(object())
    # Accept any other descriptor: what it returns is known only once there is an instance.
    return member if callable(member) or hasattr(member, "__get__") else None


def _of_object(value: Any, name: str) -> Any:
    if name:
        method = getattr(value, name, None)
    elif isinstance(value, nn.Module):
        # The instance may have a `forward` of its own that overrides the class's.
        method = vars(value).get("forward") or _of_class(type(value), "")
    else:
        method = value
    return method if callable(method) or hasattr(method, "__get__") else None
