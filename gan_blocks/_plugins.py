"""Where blocks come from: hooks of installed packages, modules, classes of a notebook."""

import importlib
import inspect
import itertools
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any, Literal, get_args

import pluggy

from gan_blocks import _calls, _installed, hookspecs
from gan_blocks._arguments import did_you_mean, shown
from gan_blocks._calls import told_by_methods
from gan_blocks._global_state import settings_watched
from gan_blocks._installed import Installed, Origin
from gan_blocks.errors import PluginError, UnknownBlockError
from gan_blocks.spec import blueprint
from gan_blocks.types import Kind

BUILTIN = "builtin"
KINDS: tuple[Kind, ...] = get_args(Kind)
LARGEST = 10_000
"""No plugin has more classes of one kind; a generator that never ends is cut here."""

Found = list[tuple[Kind, type]]

Status = Literal["builtin", "registered", "not loaded", "loading", "loaded", "failed", "disabled"]

log = logging.getLogger("gan_blocks.plugins")


@dataclass
class PluginInfo:
    """A plugin and what became of it.

    Args:
        name: Its entry-point name, the prefix of its blocks.
        origins: The package that brings it; several if they claim the same name.
        status: Whether it is loaded.
        error: Why it failed, in one line.
        remedy: What to do about it.
        changed: Process-wide settings that changed during its import. They are not restored, since
            another thread may have changed them.
        traceback: Where it failed, for its author.
    """

    name: str
    origins: tuple[Origin, ...] = ()
    status: Status = "not loaded"
    error: str = ""
    remedy: str = ""
    changed: tuple[str, ...] = ()
    traceback: str = field(default="", repr=False)

    @property
    def package(self) -> str:
        return ", ".join(origin.package for origin in self.origins)

    @property
    def version(self) -> str:
        return ", ".join(origin.version for origin in self.origins)

    @property
    def distribution(self) -> str:
        """The package with its version."""
        return " and ".join(map(str, self.origins))

    @property
    def failure(self) -> str:
        """What failed, why, and what to do, in one line."""
        return f"{self.distribution} failed to load: {self.error}; {self.remedy}"


class Plugins:
    """The plugins of one registry: which are installed, what each brings, which have failed.

    Plugins are imported one at a time. Other threads wait for the import to finish.

    Attributes:
        infos: Every plugin by name, installed ones first read when they are first asked for.
    """

    def __init__(self) -> None:
        self.infos: dict[str, PluginInfo] = {}
        self._objects: dict[str, Any] = {}
        self._without: dict[str, list[str]] = {}  # entries that a plugin removed from sys.path
        self._installed: dict[str, Installed] | None = None
        self._reading = threading.Lock()
        self._importing = threading.RLock()  # the import of a plugin may load others

    def with_hooks(self, name: str) -> Any:
        """Return the object that implements a plugin's hooks, or None if it is not loaded."""
        return self._objects.get(name)

    def installed(self) -> dict[str, Installed]:
        """What can be loaded, by name; read once, and nothing is imported."""
        with self._reading:
            if self._installed is None:
                trace_if_asked()
                self._installed = self._read_installed()
            return self._installed

    def _read_installed(self) -> dict[str, Installed]:
        found, broken = _installed.installed()
        by_name: dict[str, list[Installed]] = {}
        for each in found:
            by_name.setdefault(each.point.name, []).append(each)
        loadable = {}
        for name, claims in by_name.items():
            info = PluginInfo(name, tuple(sorted(claim.origin for claim in claims)))
            log.debug("found %s: %s", name, info.distribution)
            # A name that nothing may have is kept apart from the plugin of this name.
            key = name if is_name(name) else f"{name!r} of {info.distribution}"
            self.infos.setdefault(key, info)
            if not is_name(name):
                reason = "is no word" if name != BUILTIN else "is reserved"
                _fail(info, f"the name {name!r} {reason}", "its author must choose another")
            elif not _allowed(name):
                info.status = "disabled"
            elif len(claims) > 1:
                both = "both claim" if len(set(info.origins)) > 1 else "twice claim"
                _fail(
                    info,
                    f"{' and '.join(map(str, dict.fromkeys(info.origins)))} {both} the name {name!r}",
                    "keep one, or ask an author to choose another name",
                )
            if is_name(name):
                loadable[name] = claims[0]
        for origin, reason in broken:
            info = PluginInfo(origin.package, (origin,))
            self.infos.setdefault(f"entry points of {origin}", info)
            remedy = f"its metadata is damaged: pip install --force-reinstall {origin.package}"
            _fail(info, f"its entry points cannot be read: {reason}", remedy)
        return loadable

    def load(self, name: str, accept: Callable[[Found], None]) -> None:
        """Load one installed plugin once. Whatever goes wrong is remembered, never raised.

        While it is being imported, a plugin that asks for its own blocks finds none.
        """
        each, info = self.installed()[name], self.infos[name]
        if info.status not in ("not loaded", "loading"):
            return
        with self._importing:
            if info.status != "not loaded":
                return
            version = importlib.import_module("gan_blocks").__version__
            newer = _installed.needs_newer(each.point.dist, version)
            if newer:
                remedy = "update gan_blocks: pip install --upgrade gan-blocks"
                _fail(info, f"it needs gan_blocks {newer}, and this is {version}", remedy)
                return
            info.status = "loading"
            start = time.perf_counter()
            log.debug("loading %s: importing %s", name, each.point.value)
            changed: list[str] = []
            path = list(sys.path)
            try:
                with settings_watched() as changed:
                    if not each.point.pattern.match(each.point.value):
                        raise PluginError(
                            f"its entry point {each.point.value!r} is no module; it should be "
                            "as package.module or package.module:object"
                        )
                    accept(self.of_hooks(each.point.load(), name))
            except KeyboardInterrupt:
                info.status = "not loaded"
                raise
            except BaseException as error:  # SystemExit, and what test runners raise to skip
                reason = _in_words(error)
                text = reason if isinstance(error, PluginError) else f"{_named(error)}: {reason}"
                remedy = self._taken_away(error) or _remedy(error, each)
                _fail(info, text.removesuffix(": "), remedy, _traceback(error))
            else:
                info.status = "loaded"
            info.changed = tuple(changed)
            gone = [entry for entry in path if entry not in sys.path]
            if gone:
                self._without[name] = gone
            for setting in info.changed:
                log.debug("%s changed while %s was imported", setting, name)
            spent = 1000 * (time.perf_counter() - start)
            log.debug("%s %s in %.0f ms %s", info.status, name, spent, info.error)

    def _taken_away(self, error: BaseException) -> str:
        """Suggest a fix if the module is missing because another plugin changed sys.path."""
        if not isinstance(error, ModuleNotFoundError) or not isinstance(error.name, str):
            return ""
        for name, entries in self._without.items():
            if PathFinder.find_spec(error.name.partition(".")[0], entries):
                origin = self.infos[name].distribution
                return (
                    f"it is not at fault: the plugin {name} of {origin} has taken the folder of this "
                    f"module from sys.path; update or uninstall {origin}"
                )
        return ""

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
            told = f"it was written for version {shown(version)} of the hooks, and this gan_blocks has "
            told += f"version {hookspecs.HOOK_VERSION}"
            if version == 1:
                told += f": {', '.join(hookspecs.CHANGES)}; see {hookspecs.PAGE}"
            raise PluginError(told)
        marked = _hooks_of(plugin)
        if not marked:
            raise PluginError(
                f"{shown(plugin)} has no hook: mark a function such as gan_blocks_losses with "
                "hookimpl"
            )
        unknown = set(marked) - set(hookspecs.HOOKS.values())
        if unknown:
            hints = [
                f"{hook}{did_you_mean(hook, list(hookspecs.HOOKS.values()))}" for hook in unknown
            ]
            raise PluginError(f"it has a hook that does not exist: {'; '.join(sorted(hints))}")
        # Each plugin gets its own manager, since threads may register at the same time.
        manager = pluggy.PluginManager("gan_blocks")
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(plugin, name=name)
        except (ValueError, pluggy.PluginValidationError) as error:
            reason = " ".join(str(error).split())
            raise PluginError(f"pluggy refuses it: {reason[:150]}") from None
        found: Found = []
        for kind, hook in hookspecs.HOOKS.items():
            if hook not in marked:
                continue
            log.debug("%s: calling %s()", name, hook)
            for classes in getattr(manager.hook, hook)():
                if isinstance(classes, type | str) or not isinstance(classes, Iterable):
                    raise PluginError(f"{hook} should return a list of classes: {shown(classes)}")
                listed = list(itertools.islice(classes, LARGEST + 1))
                if len(listed) > LARGEST:
                    raise PluginError(f"{hook} returns more than {LARGEST} classes")
                log.debug("%s: %s() returned %s", name, hook, shown(listed, 300))
                found.extend((kind, cls) for cls in listed)
        self._objects[name] = plugin
        return found


def check_kind(kind: Any) -> None:
    if kind is not None and kind not in KINDS:
        hint = did_you_mean(str(kind), KINDS)
        raise UnknownBlockError(f"there is no kind {shown(kind)}{hint}")


def _hooks_of(plugin: object) -> tuple[str, ...]:
    """Names of the attributes that ``hookimpl`` has marked."""
    marked = {
        options.get("specname") or name
        for name, member in inspect.getmembers_static(plugin)
        if isinstance(options := getattr(member, "gan_blocks_impl", None), dict)
    }
    return tuple(sorted(marked))


def kind_of(cls: Any, kind: Kind | None) -> Kind:
    """The kind of a class registered without a hook."""
    check_kind(kind)
    if not isinstance(cls, type) or blueprint(cls) is None:
        raise PluginError(f"{shown(cls)} is not a class decorated with @block")
    told = kind or _kind_told_by(cls)
    if told is None:
        raise PluginError(
            f"the kind of {cls.__name__} cannot be told from its methods: pass kind=, one of "
            f"{', '.join(KINDS)}, or declare side= and compares= in @block if it is a loss term"
        )
    return told


def _kind_told_by(cls: type) -> Kind | None:
    plan = blueprint(cls)
    return "auxiliary" if plan and plan.capabilities.compares else told_by_methods(cls)


def misfit(kind: Kind, cls: type) -> str:
    """Explain why a class does not fit a kind. Empty if it fits."""
    plan = blueprint(cls)
    reason = _calls.misfit(kind, cls, plan.capabilities.compares if plan else None)
    return f"{reason}; see {hookspecs.PAGE}" if reason else ""


def is_name(name: Any) -> bool:
    """Whether a plugin can have this name."""
    return isinstance(name, str) and name.strip() != "" and "/" not in name and name != BUILTIN


def trace_if_asked() -> None:
    """With ``GAN_BLOCKS_TRACE=1`` what happens to plugins is printed on standard error."""
    if os.environ.get("GAN_BLOCKS_TRACE", "") not in ("", "0") and not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.DEBUG)
        log.propagate = False


def _allowed(name: str) -> bool:
    if os.environ.get("GAN_BLOCKS_DISABLE_PLUGINS", "") not in ("", "0"):
        return False
    listed = os.environ.get("GAN_BLOCKS_PLUGINS")
    return listed is None or name in [entry.strip() for entry in listed.split(",")]


def _fail(info: PluginInfo, error: str, remedy: str, trace: str = "") -> None:
    info.status, info.error, info.remedy, info.traceback = "failed", error, remedy, trace


def _named(error: BaseException) -> str:
    return str(getattr(type(error), "__name__", "an error"))


def _in_words(error: BaseException) -> str:
    """Its message in one line; the message of a stranger's error may fail itself."""
    try:
        text = " ".join(str(error).split())
        # Messages of this library are longer, and end with what to do.
        return text[: 600 if isinstance(error, PluginError) else 300]
    except Exception:
        return "its message cannot be printed"


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        return ""


def _remedy(error: BaseException, each: Installed) -> str:
    package = each.origin.package
    if isinstance(error, ModuleNotFoundError) and isinstance(error.name, str):
        missing, own = error.name.partition(".")[0], each.point.value.partition(".")[0]
        if missing == own.partition(":")[0]:
            return f"reinstall it: pip install --force-reinstall {package}"
        return f"install {missing}, which it needs"
    return f"update, repair or uninstall {package}, or leave it out with GAN_BLOCKS_PLUGINS"
