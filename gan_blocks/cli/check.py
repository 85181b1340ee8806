"""`gan-blocks check`: the conformance kit on a plugin."""

import importlib
import importlib.util
import itertools
import re
import sys
import tomllib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.padding import Padding
from rich.table import Table

from gan_blocks._arguments import did_you_mean, shown
from gan_blocks._plugins import BUILTIN, is_name
from gan_blocks.cli._app import (
    NARROW,
    AsJson,
    complain,
    console,
    plugins_starting_with,
    print_json,
    stop,
)
from gan_blocks.errors import GanBlocksError
from gan_blocks.registry import Entry, registry
from gan_blocks.spec import blueprint

if TYPE_CHECKING:
    from gan_blocks.testing import Case

WITHOUT_INPUTS = (
    "recorded_arguments_are_complete",
    "spec_round_trip",
    "invalid_arguments_are_refused",
)
"""The checks that need a spec only."""

NOT_CLAIMED = {
    "double_backward": "double_backward",
    "autocast": "autocast",
    "compile_fullgraph": "compile",
    "two_processes": "distributed",
}


class Result(NamedTuple):
    """What one check of one case gave."""

    block: str
    case: str
    check: str
    outcome: str
    reason: str


class WrongUse(Exception):
    """The command was used wrongly."""


def check(
    target: Annotated[
        str,
        typer.Argument(
            help="A plugin, its package, a module, a file, or a folder with a pyproject.toml.",
            autocompletion=plugins_starting_with,
            metavar="PACKAGE_OR_MODULE",
        ),
    ],
    cases: Annotated[
        str | None,
        typer.Option(
            "--cases",
            help="Where its cases are: a module or a file, with :NAME if they are not CASES. "
            "If left out, the plugin's attribute `cases`.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only this check; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every promise of a plugin's blocks, as the tests of the built-in blocks do."""
    try:
        plugins = plugins_of(target)
        offered = _cases_at(cases) if cases else [c for p in plugins for c in _cases_of(p)]
    except (WrongUse, GanBlocksError) as error:
        stop(error)
    failed = {info.name: info for info in registry.plugins() if info.status == "failed"}
    for name in plugins:
        if name in failed:
            complain(f"plugin {name}: {failed[name].failure}")
    blocks = [entry for entry in registry.list() if entry.plugin in plugins]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            results = list(_results(blocks, offered, only))
        except WrongUse as error:
            stop(error)
    forgotten = sorted({where for name in plugins for where in _forgotten(name)})
    broken = any(result.outcome == "fail" for result in results)
    ok = not broken and not any(name in failed for name in plugins)
    if as_json:
        rows = [result._asdict() for result in results]
        print_json({"ok": ok, "plugins": plugins, "results": rows, "forgotten": forgotten})
    else:
        _print(results)
        if not blocks:
            complain(f"{', '.join(plugins)} has no block that could be checked")
        for where in forgotten:
            complain(f"{where} is decorated with @block, but no hook returns it")
    raise typer.Exit(0 if ok else 1)


# --- which plugin ------------------------------------------------------------------------------


def plugins_of(target: str) -> list[str]:
    """The names of the plugins that are meant; those that are not installed get registered."""
    path = Path(target)
    if path.is_dir() and (path / "pyproject.toml").is_file():
        return _plugins_of_folder(path)
    infos = registry.plugins()
    installed = registry._plugins.installed()
    by_package = [i.name for i in infos if _plain(target) in map(_plain, i.package.split(", "))]
    by_module = [n for n, each in installed.items() if _module_of(each.point.value) == target]
    found = [i.name for i in infos if i.name == target] or by_package or by_module
    found = [name for name in found if name != BUILTIN]
    for name in found:
        registry._load(name)
    if not found and path.is_dir() and not _is_package(target):
        raise WrongUse(
            f"the folder {target!r} has no pyproject.toml: give the folder of a package, which has one, "
            "a file, or the name of a module"
        )
    return found or [_registered(_imported(target), path.stem if path.is_file() else target)]


def _plugins_of_folder(folder: Path) -> list[str]:
    """The plugins that the package in a folder would bring."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        points = project["project"]["entry-points"]["gan_blocks"]
    except (KeyError, TypeError):
        points = {}
    except ValueError as error:
        raise WrongUse(f"{folder / 'pyproject.toml'}: {error}") from None
    if not points:
        raise WrongUse(f"{folder / 'pyproject.toml'} has no [project.entry-points.gan_blocks]")
    if not isinstance(points, dict) or not all(isinstance(v, str) and v for v in points.values()):
        raise WrongUse(
            f"{folder / 'pyproject.toml'}: project.entry-points.gan_blocks should be a table of lines "
            f'such as name = "module", got {shown(points)}'
        )
    sys.path[:0] = [str(folder.resolve()), str((folder / "src").resolve())]
    for name, value in points.items():
        if name in registry._plugins.installed():
            registry._load(name)
        else:
            plugin = _imported(_module_of(value))
            for attribute in filter(None, value.partition(":")[2].strip().split(".")):
                if not hasattr(plugin, attribute):
                    raise WrongUse(f"{value}: there is no {attribute}")
                plugin = getattr(plugin, attribute)
            _registered(plugin, name)
    return list(points)


def _is_package(target: str) -> bool:
    """Whether a folder is also a module's name, and the module is more than a namespace."""
    return target.isidentifier() and getattr(_imported(target), "__file__", None) is not None


def _imported(target: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")  # as python -m does
    path = Path(target)
    try:
        if path.suffix == ".py" and path.is_file():
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec
            assert spec.loader
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
            return module
        return importlib.import_module(target)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == target.partition(".")[0]:
            names = [info.name for info in registry.plugins() if info.name != BUILTIN]
            hint = did_you_mean(target, names)
            if (folder := Path(f"gan-blocks-{target}")).is_dir():
                hint = f"; it is not installed, but there is its folder: gan-blocks check {folder}"
            raise WrongUse(
                f"there is no plugin, package, module or folder {target!r}{hint}"
            ) from None
        raise WrongUse(f"{target} cannot be imported: {type(error).__name__}: {error}") from error


_REGISTERED: dict[str, Any] = {}


def _registered(plugin: Any, name: str) -> str:
    """The name under which a module that is no installed plugin has its blocks."""
    name = name.rpartition(".")[2]
    if not is_name(name):
        raise WrongUse(f"{name!r} cannot be the name of a plugin")
    try:
        registry.register(plugin, name=name)
    except GanBlocksError as error:
        raise WrongUse(f"{name}: {error}") from None
    _REGISTERED[name] = plugin
    return name


def _module_of(value: str) -> str:
    return value.partition(":")[0].strip()


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _forgotten(name: str) -> Iterator[str]:
    """Blocks in the plugin's package that none of its hooks returns."""
    plugin = _plugin(name)
    package = str(getattr(plugin, "__name__", type(plugin).__module__)).partition(".")[0]
    known = {id(entry.cls) for entry in registry.list()}
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == package and isinstance(module, ModuleType):
            for cls in list(vars(module).values()):
                own = isinstance(cls, type) and cls.__module__ == module_name
                if own and blueprint(cls) and id(cls) not in known:
                    yield f"{module_name}.{cls.__name__}"
    for folder in getattr(sys.modules.get(package), "__path__", []):
        for file in sorted(Path(folder).rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            module_name = ".".join((package, *parts)).removesuffix(".__init__")
            # What is not imported is read, not run.
            if module_name not in sys.modules:
                text = file.read_text(encoding="utf-8", errors="replace")
                for found in re.finditer(r"^@block\b.*\n(?:@.*\n)*class (\w+)", text, re.MULTILINE):
                    yield f"{module_name}.{found[1]}"


def _plugin(name: str) -> Any:
    """The object that has the hooks."""
    return _REGISTERED.get(name) or registry._plugins.with_hooks(name)


# --- which cases -------------------------------------------------------------------------------


def _cases_of(name: str) -> "list[Case]":
    """What the plugin's attribute `cases` holds: cases, a function, a module or `module:NAME`."""
    return _as_cases(getattr(_plugin(name), "cases", None), f"the attribute cases of {name}")


def _cases_at(where: str) -> "list[Case]":
    target, _, name = where.partition(":")
    module, name = _imported(target), name or "CASES"
    if not hasattr(module, name):
        raise WrongUse(f"{where}: {target} has no {name}")
    return _as_cases(getattr(module, name), where)


def _as_cases(offered: Any, where: str) -> "list[Case]":
    from gan_blocks.testing import Case

    if offered is None:
        return []
    try:
        if isinstance(offered, str):
            return _cases_at(offered)
        if isinstance(offered, ModuleType):
            offered = offered.CASES  # type: ignore[attr-defined]
        if callable(offered):
            offered = offered()
        if not isinstance(offered, Iterable) or isinstance(offered, str):
            raise WrongUse(f"{where}: should be a list of cases, got {shown(offered)}")
        offered = list(offered)
    except WrongUse:
        raise
    except (Exception, SystemExit) as error:
        raise WrongUse(f"{where}: {type(error).__name__}: {error}") from error
    for case in offered:
        if not isinstance(case, Case):
            raise WrongUse(f"{where}: {shown(case)} is no gan_blocks.testing.Case")
    return offered


# --- the checks --------------------------------------------------------------------------------


def _results(blocks: list[Entry], cases: "list[Case]", only: list[str] | None) -> Iterator[Result]:
    from gan_blocks.testing import CHECKS

    wanted = list(CHECKS)
    for name in only or ():
        if name not in wanted:
            raise WrongUse(f"there is no check {name!r}{did_you_mean(name, wanted)}")
    wanted = [name for name in wanted if not only or name in only]
    for case in cases:
        yield from _of_case(case, wanted)
    covered = {case.spec["block"] for case in cases}
    for entry in blocks:
        if covered.isdisjoint({entry.name, *entry.former_names}):
            yield from _without_case(entry, wanted)


def _of_case(case: "Case", wanted: list[str]) -> Iterator[Result]:
    from gan_blocks.testing import names_of_checks

    try:
        block, name, apply = case.spec["block"], case.name, names_of_checks(case)
        case.tensors()
    except (Exception, SystemExit) as error:
        reason = f"the case at {case.where} is wrong: {error}"
        yield Result(case.spec["block"], case.name, "-", "fail", reason)
        return
    for each in wanted:
        if each in apply:
            yield Result(block, name, each, *_outcome(case, each))
        else:
            reason = case.without.get(each) or _why_not(each)
            yield Result(block, name, each, "skip", reason)


def _outcome(case: "Case", name: str) -> tuple[str, str]:
    from gan_blocks.testing import check as run

    try:
        run(case, name)
    except KeyboardInterrupt:
        raise
    except AssertionError as error:
        return "fail", str(error)
    except BaseException as error:
        return "fail", f"{case.name} breaks {name}: {type(error).__name__}: {error}"
    if name in case.expected_failures:
        return "skip", f"expected to fail: {case.expected_failures[name]}"
    return "pass", ""


def _why_not(name: str) -> str:
    if name in NOT_CLAIMED:
        return f"not claimed: @block({NOT_CLAIMED[name]}=True)"
    if name == "batch_mates":
        return "the block is batch_dependent"
    if name == "detached_inputs":
        return "the case has no detached inputs"
    return "does not apply to a block of this kind"


def _without_case(entry: Entry, wanted: list[str]) -> Iterator[Result]:
    """A block that its plugin has no case for: what can be checked without inputs."""
    from gan_blocks.testing import Case

    required = [n for n, p in entry.blueprint.parameters.items() if p.default is p.empty]
    case = Case({"block": entry.name}, inputs=lambda make: (), reference=lambda block: block)
    for name in wanted:
        if name not in WITHOUT_INPUTS:
            yield Result(entry.name, entry.name, name, "skip", "the plugin has no case for it")
        elif required:
            reason = f"the plugin has no case for it, and it needs {', '.join(required)}"
            yield Result(entry.name, entry.name, name, "skip", reason)
        else:
            yield Result(entry.name, entry.name, name, *_outcome(case, name))


def _print(results: list[Result]) -> None:
    out = console()
    for case, rows in itertools.groupby(results, key=lambda result: result.case):
        out.print(case, style="bold")
        table = Table(box=None, pad_edge=False, show_header=False)
        for _ in range(4):
            table.add_column(overflow="fold")
        for row in rows:
            reason = row.reason if row.outcome == "skip" else ""
            if out.width < NARROW:
                out.print(f"  {row.outcome}  {row.check}", overflow="fold")
                if reason:
                    out.print(Padding(reason, (0, 0, 0, 8)), overflow="fold")
            else:
                table.add_row("", row.outcome, row.check, reason)
        if table.row_count:
            out.print(table)
    for result in results:
        if result.outcome == "fail":
            out.print(f"\n{result.reason}", soft_wrap=True)
    counts = {
        outcome: sum(result.outcome == outcome for result in results)
        for outcome in ("pass", "fail", "skip")
    }
    out.print(f"\n{counts['pass']} passed, {counts['fail']} failed, {counts['skip']} skipped")
