"""Specs for hypothesis, drawn from the limits that blocks declare.

hypothesis is needed here only: `pip install hypothesis`.
"""

from collections.abc import Callable
from types import EllipsisType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types as limits
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from gan_blocks._arguments import Nested
from gan_blocks.registry import KINDS, Entry, registry
from gan_blocks.types import Kind

Spec = dict[str, Any]


def specs(what: str, *, largest: int | None = 8) -> SearchStrategy[Spec]:
    """Specs of a block, or of any block of a kind, that keep all declared limits.

    Arguments with a default are there or left out; blocks inside are drawn likewise. Relations between
    arguments are not declared, so `build` may still refuse a spec, with an `InvalidArgumentsError`.

    Args:
        what: The name of a block, or a kind such as `"penalty"`.
        largest: Greatest integer, and greatest length of a list, where the limits allow more; so that
            what is built stays small. `None` draws up to the limits.

    Example:
        >>> from hypothesis import given
        >>> from gan_blocks import build, to_spec
        >>> from gan_blocks.testing.strategies import specs
        >>> @given(specs("GradientPenalty"))
        ... def test_spec_comes_back(spec):
        ...     assert to_spec(build(spec)) == to_spec(build(to_spec(build(spec))))
        >>> test_spec_comes_back()
    """
    if what in KINDS:
        names = [entry.name for entry in registry.list(what)]  # type: ignore[arg-type]
        return st.deferred(
            lambda: st.sampled_from(names).flatmap(lambda n: specs(n, largest=largest))
        )
    return _of_block(registry.find(what), largest)


def _of_block(entry: Entry, largest: int | None) -> SearchStrategy[Spec]:
    plan = entry.blueprint
    values = {name: values_of(plan.types[name], largest=largest) for name in plan.parameters}
    needed = [n for n, p in plan.parameters.items() if p.default is p.empty]
    return st.fixed_dictionaries(
        {"block": st.just(entry.name)} | {name: values[name] for name in needed},
        optional={name: value for name, value in values.items() if name not in needed},
    )


def values_of(annotation: Any, *, largest: int | None = 8) -> SearchStrategy[Any]:
    """Values, of JSON's types, that the annotation of an argument allows."""
    base, metadata = annotation, ()
    while hasattr(base, "__metadata__"):
        base, metadata = get_args(base)[0], (*get_args(base)[1:], *metadata)
    nested = next((m for m in metadata if isinstance(m, Nested)), None)
    if nested:
        return _of_kind(nested.kind, largest)
    origin, arguments = get_origin(base), get_args(base)
    if origin in (Union, UnionType):
        return st.one_of([values_of(each, largest=largest) for each in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is dict:
        items = values_of(arguments[1], largest=largest)
        return st.dictionaries(st.text(max_size=8), items, max_size=_length(largest))
    if origin is tuple and arguments[-1] in (EllipsisType, ...):
        least = next((m.min_length for m in metadata if isinstance(m, limits.MinLen)), 0)
        items = values_of(arguments[0], largest=largest)
        return st.lists(items, min_size=least, max_size=max(least, _length(largest)))
    if origin is tuple:
        return st.tuples(*(values_of(each, largest=largest) for each in arguments)).map(list)
    return _scalar(base, metadata, largest)


def _length(largest: int | None) -> int:
    return 8 if largest is None else min(largest, 8)


def _of_kind(kind: Kind, largest: int | None) -> SearchStrategy[Spec]:
    # Leaves first, so that hypothesis finds its way out of blocks within blocks.
    entries = sorted(registry.list(kind), key=_depth)
    return st.deferred(lambda: st.one_of([_of_block(entry, largest) for entry in entries]))


def _depth(entry: Entry) -> bool:
    return any("x-gan-blocks-kind" in p for p in entry.schema().get("properties", {}).values())


def _scalar(base: Any, metadata: tuple[Any, ...], largest: int | None) -> SearchStrategy[Any]:
    simple: dict[Any, Callable[[], SearchStrategy[Any]]] = {
        bool: st.booleans,
        str: lambda: st.text(max_size=8),
        None: st.none,
        NoneType: st.none,
    }
    if base in simple:
        return simple[base]()
    low: Any = None
    high: Any = None
    open_low = open_high = False
    for limit in metadata:
        match limit:
            case limits.Gt(gt=value):
                low, open_low = value, True
            case limits.Ge(ge=value):
                low, open_low = value, False
            case limits.Lt(lt=value):
                high, open_high = value, True
            case limits.Le(le=value):
                high, open_high = value, False
    if base is int:
        low = -(2**31) if low is None else low + open_low
        high = 2**31 - 1 if high is None else high - open_high
        return st.integers(low, high if largest is None else max(low, min(high, largest)))
    return st.floats(
        low,
        high,
        exclude_min=open_low,
        exclude_max=open_high,
        allow_nan=False,
        allow_infinity=False,
    )


def broken_specs(what: Kind, *, largest: int | None = 8) -> SearchStrategy[Any]:
    """What is no spec of a kind, or nearly one: for fuzzing whatever reads specs.

    One thing is wrong: a value of another type, a number that is not finite or far too large, a key too
    many or missing, deep nesting, letters from anywhere. Some of these are allowed by chance.
    """
    return st.one_of(
        specs(what, largest=largest).flatmap(_one_change),
        st.recursive(_ODD, lambda x: st.lists(x, max_size=3) | _tables(x), max_leaves=6),
    )


def _tables(values: SearchStrategy[Any]) -> SearchStrategy[Any]:
    keys = st.sampled_from(["block", "penalty", "divergence", ""]) | st.text(max_size=6)
    return st.dictionaries(keys, values, max_size=3)


def _one_change(spec: Spec) -> SearchStrategy[Any]:
    names = sorted(spec)
    deep: Any = spec
    for _ in range(60):
        deep = {"block": spec["block"], "penalty": deep}
    return st.one_of(
        st.tuples(st.sampled_from(names), _ODD).map(lambda c: spec | {c[0]: c[1]}),
        st.tuples(st.text(max_size=8), _ODD).map(lambda c: spec | {c[0]: c[1]}),
        st.sampled_from(names).map(lambda n: {k: v for k, v in spec.items() if k != n}),
        st.tuples(st.sampled_from(names), _ODD).map(lambda c: spec | {c[0]: [spec[c[0]], c[1]]}),
        st.tuples(st.sampled_from(names), st.just(deep)).map(lambda c: spec | {c[0]: c[1]}),
    )


_ODD: SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, -(10**30), 2**31, 2**31 - 1, 10**400, 1e308, -1e308, 5e-324, -0.0]),
    st.floats(),
    st.text(max_size=12),
    st.binary(max_size=4),
    st.sampled_from(["3", "nan", "KL", "HingeLoss", "a/b", "/", "\ud800", "{x}", "\x00"]),
)
