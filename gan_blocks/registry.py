"""Finds blocks by name, builds them from specs, and loads plugins when they are asked for.

Built-in blocks have bare names, ``HingeLoss``. A plugin's blocks are ``plugin/Class``, ``plugin``
being its name in the entry-point group ``gan_blocks``. A plugin is imported when its prefix is
first asked for; one that fails is remembered, and stops nothing else.
"""

import dataclasses
import inspect
import json
import re
import threading
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any, Literal, cast, overload

import torch
from torch import nn

from gan_blocks import _arguments, _schema
from gan_blocks._arguments import did_you_mean, shown, tell_renamed
from gan_blocks._installed import Origin
from gan_blocks._plugins import BUILTIN, KINDS, PluginInfo, Plugins, check_kind, is_name, misfit
from gan_blocks.errors import InvalidArgumentsError, PluginError, Problem, UnknownBlockError
from gan_blocks.spec import Blueprint, blueprint, recorded_arguments
from gan_blocks.types import (
    AdversarialLoss,
    Constraint,
    Divergence,
    Kind,
    Penalty,
    Schedule,
)

Spec = Mapping[str, Any]
Device = torch.device | str | int | None
Dtype = torch.dtype | None


@dataclass(frozen=True)
class Entry:
    """A block that the registry knows.

    Args:
        name: What a spec calls it.
        kind: Which of the kinds it is.
        cls: The class.
        plugin: Where it came from; ``builtin`` for the library's own.
    """

    name: str
    kind: Kind
    cls: type
    plugin: str

    @property
    def blueprint(self) -> Blueprint:
        return cast(Blueprint, blueprint(self.cls))

    @property
    def former_names(self) -> tuple[str, ...]:
        """What specs may call it too, with a warning."""
        prefix = self.name.rpartition("/")[0]
        full = [n if "/" in n or not prefix else f"{prefix}/{n}" for n in self.blueprint.formerly]
        return tuple(dict.fromkeys(full))

    @property
    def summary(self) -> str:
        """The first sentence of the docstring."""
        first = (inspect.getdoc(self.cls) or "").partition("\n\n")[0]
        return " ".join(first.split())

    def schema(self) -> dict[str, Any]:
        """JSON Schema of its arguments; a nested block is `x-gan-blocks-kind`."""
        return self.blueprint.model.model_json_schema()

    def check(self) -> None:
        """Raise what would break a list or a schema of all blocks later."""
        assert isinstance(self.summary, str)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                json.dumps(self.schema(), allow_nan=False)
            except Exception as error:
                raise PluginError(
                    f"{self.name}: its arguments have no JSON Schema; is a default one that a "
                    f"config file can hold? {type(error).__name__}: {error}"
                ) from error


class Registry:
    """All blocks of the process. The library's own is ``gan_blocks.registry``."""

    def __init__(self) -> None:
        # Replaced as a whole, never changed, so that lookups need no lock.
        self._entries: Mapping[str, Entry] = MappingProxyType({})
        self._by_class: Mapping[type, Entry] = MappingProxyType({})
        self._adding = threading.Lock()
        self._plugins = Plugins()

    # --- adding blocks ---------------------------------------------------------------------

    def register_builtin(self, plugin: object) -> None:
        """Register the library's own plugin, whose blocks have bare names. This is done once."""
        if BUILTIN in self._plugins.infos:
            raise PluginError("the built-in blocks are registered already")
        self._plugins.infos[BUILTIN] = PluginInfo(BUILTIN, (Origin("gan_blocks", ""),), "builtin")
        self._add(self._plugins.of_hooks(plugin, BUILTIN), BUILTIN)

    def register(
        self,
        plugin: ModuleType | type | Iterable[type] | object,
        name: str,
        kind: Kind | None = None,
    ) -> None:
        """Register blocks of a notebook or a single file, which then are ``name/Class``.

        Registering the same name again replaces its blocks, so a notebook cell can be run twice.

        Args:
            plugin: A block class or several; or a module: its hooks if it has any, else the block
                classes that it defines.
            name: The prefix.
            kind: The kind of the classes. May be left out for losses, divergences, penalties, schedules
                and constraints, which are told by their methods, and for auxiliary terms, which are told
                by their `side` and `compares`.

        Raises:
            PluginError: If the name is taken or malformed, something is not a block class, or the
                kind cannot be told.

        Example:
            >>> from torch import nn
            >>> from gan_blocks import block, build, registry
            >>> @block
            ... class Double(nn.Module):
            ...     def forward(self, x):
            ...         return 2 * x
            >>> registry.register(Double, name="mine", kind="layer")
            >>> build({"block": "mine/Double"})
            Double()
        """
        if not is_name(name):
            raise PluginError(f"a plugin's name is a word without a slash, got {shown(name)}")
        if name in self._plugins.installed() and self._plugins.infos[name].status != "disabled":
            raise PluginError(
                f"the name {name!r} belongs to the installed package "
                f"{self._plugins.infos[name].distribution}; choose another"
            )
        found = self._plugins.of(plugin, name, kind)
        if not found:
            raise PluginError(
                f"{name!r} adds no block: decorate its classes with @block, or return them from a "
                "hook such as gan_blocks_losses"
            )
        self._add(found, name)
        self._plugins.infos[name] = PluginInfo(name, (Origin("in process", ""),), "registered")

    def _add(self, found: Iterable[tuple[Kind, type]], plugin: str) -> None:
        """Make these the blocks of a plugin, in the place of what it had; all of them or none."""
        prefix = "" if plugin == BUILTIN else f"{plugin}/"
        entries: dict[str, Entry] = {}
        for kind, cls in found:
            if not isinstance(cls, type):
                raise PluginError(f"plugin {plugin!r} returns {shown(cls)}, which is no class")
            plan = blueprint(cls)
            if not isinstance(plan, Blueprint) or plan.cls is not cls:
                raise PluginError(f"{plugin!r}: decorate {cls.__name__} with @block")
            if not cls.__name__.isidentifier():
                raise PluginError(f"plugin {plugin!r}: {shown(cls.__name__)} is no class name")
            reason = misfit(kind, cls)
            if reason:
                raise PluginError(f"plugin {plugin!r}: {reason}")
            name = f"{prefix}{cls.__name__}"
            if name in entries and entries[name].cls is not cls:
                raise PluginError(f"plugin {plugin!r} has two blocks named {cls.__name__}")
            if name in entries and entries[name].kind != kind:
                raise PluginError(
                    f"plugin {plugin!r} has {cls.__name__} as {entries[name].kind} and as {kind}"
                )
            entries[name] = Entry(name, kind, cls, plugin)
        taken = set(entries)
        for entry in entries.values():
            for former in entry.former_names:
                if former in taken:
                    raise PluginError(f"plugin {plugin!r} has two blocks for the name {former!r}")
                taken.add(former)
        if plugin != BUILTIN:
            for entry in entries.values():
                entry.check()
        with self._adding:
            # A class that a second plugin registers again keeps its first name.
            others = {c: e for c, e in self._by_class.items() if e.plugin != plugin}
            by_class = {entry.cls: entry for entry in entries.values()} | others
            kept = {n: e for n, e in self._entries.items() if e.plugin != plugin}
            # Classes first, so that another thread never finds a name whose class is still unknown.
            self._by_class = MappingProxyType(by_class)
            self._entries = MappingProxyType(kept | entries)

    def _load(self, name: str) -> None:
        self._plugins.load(name, lambda found: self._add(found, name))

    def plugins(self, *, load: bool = False) -> list[PluginInfo]:
        """Every plugin with its package and state, the built-in one first.

        Args:
            load: Import those not loaded yet, to see whether they work.
        """
        for name in self._plugins.installed():
            if load:
                self._load(name)
        infos = list(self._plugins.infos.values())
        in_order = sorted(infos, key=lambda info: (info.status != "builtin", info.name))
        return [dataclasses.replace(info) for info in in_order]

    # --- finding blocks --------------------------------------------------------------------

    def list(self, kind: Kind | None = None) -> tuple[Entry, ...]:
        """All blocks, of one kind if it is given, by kind and name; loads every plugin."""
        check_kind(kind)
        self.plugins(load=True)
        entries = [entry for entry in self._entries.values() if kind in (None, entry.kind)]
        return tuple(sorted(entries, key=lambda e: (KINDS.index(e.kind), "/" in e.name, e.name)))

    def find(self, name: str, kind: Kind | None = None) -> Entry:
        """The block with this name.

        Args:
            name: ``HingeLoss``, or ``plugin/Class``.
            kind: The kind it has to be of.

        Raises:
            UnknownBlockError: Naming the nearest block, or the reason why a plugin failed.
        """
        check_kind(kind)
        if not isinstance(name, str):
            raise UnknownBlockError(f"a block's name is a string, got {shown(name)}", name)
        plugin = name.partition("/")[0] if "/" in name else BUILTIN
        if name not in self._entries and plugin in self._plugins.installed():
            self._load(plugin)
        entry = self._entries.get(name) or self._formerly(name, plugin)
        if entry is None:
            raise UnknownBlockError(self._why_unknown(name, plugin, kind), name)
        if kind not in (None, entry.kind):
            named = [e.name for e in self._entries.values() if e.kind == kind]
            raise UnknownBlockError(
                f"{name!r} is {_a(entry.kind)}, but {_a(kind)} is wanted here: {', '.join(named)}",
                name,
            )
        return entry

    def _formerly(self, name: str, plugin: str) -> Entry | None:
        """The block that had this name before."""
        if plugin not in self._plugins.infos:
            self.plugins(load=True)
        claims = [e for e in self._entries.values() if self._may_have_been(e, name)]
        if len(claims) > 1:
            both = " and ".join(sorted(entry.name for entry in claims))
            raise UnknownBlockError(
                f"unknown block {name!r}: {both} say that they were called so; write the one that is "
                "meant",
                name,
            )
        for entry in claims:
            tell_renamed(f"{name!r} is called {entry.name!r} now")
        return claims[0] if claims else None

    def _may_have_been(self, entry: Entry, name: str) -> bool:
        """Whether it says so of a name of its own plugin, or of one that is not there."""
        plugin = name.partition("/")[0] if "/" in name else BUILTIN
        there = plugin in self._plugins.infos and plugin != entry.plugin
        return name in entry.former_names and not there

    def _former_names(self, entry: Entry) -> tuple[str, ...]:
        """Those of its former names that find it."""
        return tuple(
            name
            for name in entry.former_names
            if [e for e in self._entries.values() if self._may_have_been(e, name)] == [entry]
        )

    def _why_unknown(self, name: str, plugin: str, kind: Kind | None) -> str:
        info = self._plugins.infos.get(plugin)
        if info is None:
            close = did_you_mean(plugin, [p for p in list(self._plugins.infos) if p != BUILTIN])
            return (
                f"unknown block {shown(name)}: no plugin named {plugin!r} is installed or "
                f"registered{close}"
            )
        if info.status == "failed":
            return f"unknown block {name!r}: {info.failure}"
        if info.status == "loading":
            return (
                f"unknown block {name!r}: the plugin is being imported, and has no blocks before "
                "its import ends; ask for it later"
            )
        if info.status == "disabled":
            return (
                f"unknown block {name!r}: the plugin is switched off by GAN_BLOCKS_PLUGINS or "
                "GAN_BLOCKS_DISABLE_PLUGINS"
            )
        candidates = [
            e.name for e in self._entries.values() if e.plugin == plugin and kind in (None, e.kind)
        ]
        return f"unknown block {shown(name)}{did_you_mean(name, candidates)}"

    def kind_of(self, cls: type) -> Kind | None:
        """The kind of a registered class; none for any other."""
        entry = self._by_class.get(cls)
        return entry.kind if entry else None

    # --- specs -----------------------------------------------------------------------------

    @overload
    def build(
        self, spec: Spec, kind: Literal["loss"], *, device: Device = None, dtype: Dtype = None
    ) -> AdversarialLoss: ...

    @overload
    def build(
        self, spec: Spec, kind: Literal["divergence"], *, device: Device = None, dtype: Dtype = None
    ) -> Divergence: ...

    @overload
    def build(
        self, spec: Spec, kind: Literal["penalty"], *, device: Device = None, dtype: Dtype = None
    ) -> Penalty: ...

    @overload
    def build(
        self, spec: Spec, kind: Literal["constraint"], *, device: Device = None, dtype: Dtype = None
    ) -> Constraint: ...

    @overload
    def build(
        self, spec: Spec, kind: Literal["schedule"], *, device: Device = None, dtype: Dtype = None
    ) -> Schedule: ...

    @overload
    def build(
        self,
        spec: Spec,
        kind: Literal["layer", "network"],
        *,
        device: Device = None,
        dtype: Dtype = None,
    ) -> nn.Module: ...

    @overload
    def build(
        self, spec: Spec, kind: Kind | None = None, *, device: Device = None, dtype: Dtype = None
    ) -> Any: ...

    def build(
        self,
        spec: Spec,
        kind: Kind | None = None,
        *,
        device: Device = None,
        dtype: Dtype = None,
    ) -> Any:
        """Build a block from its spec.

        Args:
            spec: ``{"block": NAME, ...arguments}``, as read from a dict, JSON, TOML or YAML.
            kind: The kind it has to be of.
            device: Where its tensors go, as torch takes it: `"cuda"`, `0`, a `torch.device`.
            dtype: Their floating dtype.

        Returns:
            The block, as its class called with the same arguments would give it.

        Raises:
            UnknownBlockError: If there is no such block.
            InvalidArgumentsError: Naming every wrong argument, nested ones by their path.
            TypeError: If `device` is no device, or `dtype` no floating dtype.
            ValueError: If torch knows no such device.

        Example:
            >>> from gan_blocks import build
            >>> build({"block": "GradientPenalty", "weight": 5, "one_sided": True})
            GradientPenalty(weight=5.0, target=1.0, one_sided=True, combine='sum')
        """
        entry, arguments = self._split(spec, kind)
        plan = entry.blueprint
        options = {"device": _device(device), "dtype": _dtype(dtype)}
        valid = plan.validate(arguments, resolver=self, options=options)
        instance = object.__new__(entry.cls)
        plan.construct(instance, valid, **{name: options[name] for name in plan.options})
        rest = {k: v for k, v in options.items() if k not in plan.options and v is not None}
        if rest and isinstance(instance, nn.Module):
            instance.to(**rest)
        return instance

    def normalise(self, spec: Mapping[str, Any], kind: Kind | None = None) -> dict[str, Any]:
        """The spec with every default filled in, checked by a build on the meta device."""
        return self.to_spec(self.build(spec, kind, device="meta"))

    def _split(self, spec: Mapping[str, Any], kind: Kind | None) -> tuple[Entry, dict[str, Any]]:
        if not isinstance(spec, Mapping):
            message = 'a spec is a table such as {"block": NAME}; parse text first, got '
            problem = Problem((), message + shown(spec), spec)
            raise InvalidArgumentsError(f"a {kind or 'block'}", [problem])
        if "block" not in spec:
            keys = f"; the keys are {', '.join(map(str, spec))}" if spec else ""
            problem = Problem(("block",), f"is required: it names the block{keys}", dict(spec))
            raise InvalidArgumentsError(f"a {kind or 'block'}", [problem])
        return self.find(spec["block"], kind), {k: v for k, v in spec.items() if k != "block"}

    def to_spec(self, block: Any) -> dict[str, Any]:
        """The spec that builds an equal block: its name and every argument, JSON types only.

        It holds no weights; those are in ``state_dict``.

        Raises:
            UnknownBlockError: If the object's class is not a registered block.

        Example:
            >>> from gan_blocks import FDivergenceLoss, KL, to_spec
            >>> to_spec(FDivergenceLoss(KL()))["divergence"]
            {'block': 'KL'}
        """
        entry = self._by_class.get(type(block)) or self._entry_of_plugin(type(block))
        arguments = recorded_arguments(block)
        return {"block": entry.name} | {k: self._plain(v) for k, v in arguments.items()}

    def _entry_of_plugin(self, cls: type) -> Entry:
        """The entry of a class imported from a plugin's package before the registry loaded it."""
        package = cls.__module__.partition(".")[0]
        for name, (_, point) in self._plugins.installed().items():
            if re.split(r"[.:\s]", point.value, maxsplit=1)[0] == package:
                self._load(name)
        if cls not in self._by_class:
            parents = [base.__name__ for base in cls.__mro__[1:] if blueprint(base)]
            hint = f"; a subclass of {parents[0]} needs its own @block" if parents else ""
            decorate = "" if blueprint(cls) else "decorate it with @block and "
            raise UnknownBlockError(
                f"{cls.__name__} is not a registered block{hint}; {decorate}call "
                f'registry.register({cls.__name__}, name="mine")'
            )
        return self._by_class[cls]

    def _plain(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return [self._plain(item) for item in value]
        if isinstance(value, dict):
            return {name: self._plain(item) for name, item in value.items()}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        return self.to_spec(value)

    def json_schema(self, what: "Kind | type | None" = None) -> dict[str, Any]:
        """JSON Schema (draft 2020-12) of specs, for editors and validators.

        Args:
            what: A kind; or a pydantic model with fields such as `LossSpec`, for a whole config; all
                kinds if left out.

        Raises:
            UnknownBlockError: If there is no such kind.
            TypeError: If it is a class, but no pydantic model.

        Example:
            >>> from pydantic import BaseModel
            >>> from gan_blocks import LossSpec, registry
            >>> class Config(BaseModel):
            ...     loss: LossSpec
            >>> registry.json_schema(Config)["properties"]["loss"]["$ref"]
            '#/$defs/loss'
        """
        if isinstance(what, type):
            if not hasattr(what, "model_json_schema"):
                raise TypeError(
                    f"a kind or a pydantic model is needed, got {what.__name__}; make it a field of one"
                )
            document = what.model_json_schema()  # type: ignore[attr-defined]
            return _schema.with_blocks(document, self)
        check_kind(what)
        return _schema.of_specs((what,) if what else KINDS, self)


def _device(device: Device) -> torch.device | None:
    if device is None or isinstance(device, torch.device):
        return device
    if isinstance(device, bool) or not isinstance(device, int | str):
        raise TypeError(
            f"device should be a string, a number or a torch.device, got {shown(device)}"
        )
    try:
        return torch.device(device)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f'device should be one such as "cpu", "cuda" or 0, got {device!r}: {reason}'
        ) from None


def _dtype(dtype: Dtype) -> torch.dtype | None:
    if dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        return dtype
    raise TypeError(f"dtype should be a floating dtype such as torch.float32, got {shown(dtype)}")


def _a(kind: Kind | None) -> str:
    return "an auxiliary block" if kind == "auxiliary" else f"a {kind}"


registry = Registry()
_arguments.resolver = registry
