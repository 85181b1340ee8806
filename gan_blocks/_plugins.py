"""Where blocks come from: hooks of installed packages, modules, classes of a notebook."""

import importlib.metadata
import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

import pluggy
from torch import nn

from gan_blocks import hookspecs
from gan_blocks._arguments import did_you_mean, shown
from gan_blocks.errors import PluginError, UnknownBlockError
from gan_blocks.spec import blueprint
from gan_blocks.types import AdversarialLoss, Kind

GROUP = "gan_blocks"
BUILTIN = "builtin"
KINDS: tuple[Kind, ...] = get_args(Kind)

Found = list[tuple[Kind, type]]

Status = Literal["builtin", "registered", "not loaded", "loaded", "failed", "disabled"]


@dataclass
class PluginInfo:
    """A plugin and what became of it.

    Args:
        name: Its entry-point name, the prefix of its blocks.
        distribution: The package that brings it, with version.
        status: Whether it is loaded.
        error: Why it failed, in one line, with the remedy.
    """

    name: str
    distribution: str = ""
    status: Status = "not loaded"
    error: str = ""


class Plugins:
    """The plugins of one registry: which are installed, what each brings, which have failed.

    Attributes:
        infos: Every plugin by name, installed ones first read when they are first asked for.
    """

    def __init__(self) -> None:
        self.infos: dict[str, PluginInfo] = {}
        self._manager = pluggy.PluginManager("gan_blocks")
        self._manager.add_hookspecs(hookspecs)
        self._entry_points: dict[str, list[importlib.metadata.EntryPoint]] | None = None

    def installed(self) -> dict[str, list[importlib.metadata.EntryPoint]]:
        """Entry points by name, read once; nothing is imported."""
        if self._entry_points is None:
            self._entry_points = {}
            for point in importlib.metadata.entry_points(group=GROUP):
                points = self._entry_points.setdefault(point.name, [])
                if all(_origin(point) != _origin(other) for other in points):
                    points.append(point)
            for name, points in self._entry_points.items():
                origin = " and ".join(sorted(map(_origin, points)))
                status: Status = "not loaded" if _allowed(name) else "disabled"
                self.infos.setdefault(name, PluginInfo(name, origin, status))
        return self._entry_points

    def load(self, name: str, accept: Callable[[Found], None]) -> None:
        """Load one installed plugin once. Whatever goes wrong is remembered, never raised."""
        points, info = self.installed()[name], self.infos[name]
        if info.status != "not loaded":
            return
        try:
            if len(points) > 1:
                raise PluginError(f"{info.distribution} both claim the name {name!r}: keep one")
            if name == BUILTIN or "/" in name:
                raise PluginError(f"the name {name!r} is reserved: its author must choose another")
            accept(self.of_hooks(points[0].load(), name))
            info.status = "loaded"
        except (Exception, SystemExit) as error:
            reason = " ".join(str(error).split())[:300]
            info.status = "failed"
            info.error = reason if isinstance(error, PluginError) else _in_words(error, reason)

    def of(self, plugin: Any, name: str, kind: Kind | None = None) -> Found:
        """The classes of whatever a user registers: a class, several, or a module."""
        if isinstance(plugin, type):
            return [(kind_of(plugin, kind), plugin)]
        if isinstance(plugin, Iterable):
            return [(kind_of(cls, kind), cls) for cls in plugin]
        if _hooks_of(plugin):
            return self.of_hooks(plugin, name)
        if isinstance(plugin, ModuleType):
            return [
                (kind_of(cls, kind), cls)
                for cls in vars(plugin).values()
                if isinstance(cls, type) and blueprint(cls) and cls.__module__ == plugin.__name__
            ]
        raise PluginError(f"{shown(plugin)} is neither a module nor a block class")

    def of_hooks(self, plugin: object, name: str) -> Found:
        """The classes that one plugin's hooks return."""
        version = getattr(plugin, "hook_version", hookspecs.HOOK_VERSION)
        if version != hookspecs.HOOK_VERSION:
            raise PluginError(
                f"it was written for version {version} of the hooks and this gan_blocks has "
                f"version {hookspecs.HOOK_VERSION}: install versions that agree"
            )
        unknown = set(_hooks_of(plugin)) - set(hookspecs.HOOKS.values())
        if unknown:
            hints = [
                f"{hook}{did_you_mean(hook, list(hookspecs.HOOKS.values()))}" for hook in unknown
            ]
            raise PluginError(f"it has a hook that does not exist: {'; '.join(sorted(hints))}")
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)
        try:
            self._manager.register(plugin, name=name)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(" ".join(str(error).split())) from None
        others = [other for other in self._manager.get_plugins() if other is not plugin]
        found: Found = []
        try:
            for kind, hook in hookspecs.HOOKS.items():
                for classes in self._manager.subset_hook_caller(hook, others)():
                    if isinstance(classes, type | str) or not isinstance(classes, Iterable):
                        raise PluginError(
                            f"{hook} should return a list of classes: {shown(classes)}"
                        )
                    found.extend((kind, cls) for cls in classes)
        except BaseException:
            self._manager.unregister(plugin)
            raise
        return found


def check_kind(kind: Any) -> None:
    if kind is not None and kind not in KINDS:
        hint = did_you_mean(str(kind), KINDS)
        raise UnknownBlockError(f"there is no kind {shown(kind)}{hint}")


def _hooks_of(plugin: object) -> tuple[str, ...]:
    """Names of the attributes that ``hookimpl`` has marked."""
    if isinstance(plugin, Iterable):
        return ()
    marked = {k for k, v in inspect.getmembers_static(plugin) if hasattr(v, "gan_blocks_impl")}
    return tuple(sorted(marked))


def kind_of(cls: Any, kind: Kind | None) -> Kind:
    """The kind of a class registered without a hook."""
    check_kind(kind)
    if not isinstance(cls, type) or blueprint(cls) is None:
        raise PluginError(f"{shown(cls)} is not a class decorated with @block")
    if kind is not None:
        return kind
    if issubclass(cls, AdversarialLoss):
        return "loss"
    if all(hasattr(cls, method) for method in ("f", "conjugate", "activation")):
        return "divergence"
    call = getattr(cls, "forward" if issubclass(cls, nn.Module) else "__call__", None)
    names = list(inspect.signature(call).parameters)[1:] if call else []
    if names[:3] == ["critic", "real", "fake"]:
        return "penalty"
    if names == ["module"]:
        return "constraint"
    raise PluginError(
        f"the kind of {cls.__name__} cannot be told from its methods: pass kind=, one of "
        f"{', '.join(KINDS)}"
    )


def _origin(point: importlib.metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _allowed(name: str) -> bool:
    if os.environ.get("GAN_BLOCKS_DISABLE_PLUGINS", "") not in ("", "0"):
        return False
    listed = os.environ.get("GAN_BLOCKS_PLUGINS")
    return listed is None or name in [entry.strip() for entry in listed.split(",")]


def _in_words(error: BaseException, reason: str) -> str:
    return (
        f"{type(error).__name__}: {reason}; repair or uninstall it, or leave it out with "
        "GAN_BLOCKS_PLUGINS"
    )
