"""`gan-blocks validate`: whether the specs in a file can be built."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import typer

from gan_blocks._plugins import check_kind
from gan_blocks.cli._app import (
    AsJson,
    complain,
    console,
    kinds_starting_with,
    print_json,
    stop,
)
from gan_blocks.cli._documents import Finding, Key, NoReader, Unreadable, read
from gan_blocks.cli.check import WrongUse, plugins_of
from gan_blocks.errors import (
    GanBlocksError,
    InvalidArgumentsError,
    RenamedWarning,
    UnknownBlockError,
)
from gan_blocks.registry import registry
from gan_blocks.types import Kind


class Report(NamedTuple):
    """How many specs a file has, what is wrong, and which names are old."""

    file: Path
    specs: int
    findings: list[Finding]
    notes: list[Finding]


def validate(
    files: Annotated[list[Path], typer.Argument(help="TOML, YAML or JSON.", metavar="FILE...")],
    kind: Annotated[
        str | None,
        typer.Option(
            help="The kind that the outermost specs have to be of.",
            autocompletion=kinds_starting_with,
        ),
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            help="A file with blocks of your own, or another plugin that is not installed, as for "
            "`check`; may be repeated."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every spec in a file: the file may be one, or hold tables with `block` anywhere.

    All errors are printed at once as FILE:LINE:COLUMN. Nothing is allocated; keys outside of specs
    are not looked at.
    """
    try:
        check_kind(kind)
        for target in plugin or ():
            plugins_of(target)
        reports = [_report(file, cast(Kind | None, kind)) for file in files]
    except (WrongUse, NoReader, OSError, GanBlocksError) as error:
        stop(error)
    # A config may name a preset only; but a check that looked at nothing has not passed.
    empty = not any(report.specs or report.findings for report in reports)
    ok = not empty and not any(report.findings for report in reports)
    if as_json:
        print_json({"ok": ok, "files": [_as_dict(report) for report in reports]})
    else:
        out = console()
        for file, specs, findings, notes in reports:
            for (line, column), path, message in sorted([*findings, *notes], key=lambda f: f.place):
                where = ".".join(map(str, path))
                text = f"{where}: {message}" if where else message
                # The terminal wraps it, so that editors find the place.
                out.print(f"{file}:{line}:{column}: {text}", soft_wrap=True)
            counts = f"{_count(specs, 'spec')}, {_count(len(findings), 'problem')}"
            out.print(f"{file}: {counts}", soft_wrap=True)
    if empty:
        complain('there is no spec: a table with the key "block", such as {"block": "HingeLoss"}')
    raise typer.Exit(0 if ok else 1)


def _report(file: Path, kind: Kind | None) -> Report:
    try:
        document = read(file)
    except Unreadable as error:
        return Report(file, 0, [Finding(error.place, (), str(error))], [])
    specs = list(_specs(document.value))
    findings, notes = list(document.findings), []
    for path, spec in specs:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RenamedWarning)
            problems = list(_problems(spec, path, kind))
        old = [str(w.message) for w in caught if issubclass(w.category, RenamedWarning)]
        notes += [Finding(document.place(path), path, message) for message in dict.fromkeys(old)]
        for key, message in problems:
            value = _value_at(document.value, key)
            hint = _plugin_hint(value) if key[-1:] == ("block",) else ""
            hint += _yaml_hint(value) if file.suffix in (".yaml", ".yml") else ""
            findings.append(Finding(document.place(key), key, message + hint))
    return Report(file, len(specs), sorted(findings, key=lambda finding: finding.place), notes)


def _specs(document: Any) -> Iterator[tuple[Key, Mapping[str, Any]]]:
    """Every outermost table with a `block`, in the order of the file."""
    seen: set[int] = set()  # YAML's aliases can make a table its own child
    pending: list[tuple[Key, Any]] = [((), document)]
    while pending:
        path, value = pending.pop()
        if not isinstance(value, dict | list) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict) and "block" in value:
            yield path, value
            continue
        children = value.items() if isinstance(value, dict) else enumerate(value)
        pending += [((*path, key), child) for key, child in reversed(list(children))]


def _problems(
    spec: Mapping[str, Any], path: Key, kind: Kind | None = None
) -> Iterator[tuple[Key, str]]:
    try:
        registry.normalise(spec, kind)
    except InvalidArgumentsError as error:
        for problem in error.problems:
            yield (*path, *problem.path), problem.message
    except UnknownBlockError as error:
        yield (*path, "block"), str(error)
        # What is inside has not been looked at.
        rest = {key: value for key, value in spec.items() if key != "block"}
        for inner, nested in _specs(rest):
            yield from _problems(nested, (*path, *inner))
    except Exception as error:  # a plugin's constructor
        yield path, f"{spec['block']} cannot be built: {type(error).__name__}: {error}"


def _value_at(document: Any, path: Key) -> Any:
    """What stands at a path; none if that is no path of the document."""
    for part in path:
        try:
            document = document[part]
        except (LookupError, TypeError):
            return None
    return document


def _plugin_hint(name: Any) -> str:
    """A config of the trainer may name files with plugins, but a check runs no code by itself."""
    plugin, slash, _ = name.partition("/") if isinstance(name, str) else ("", "", "")
    if not slash or plugin in {info.name for info in registry.plugins()}:
        return ""
    return f"; if it is in a file of your own, add --plugin {plugin}.py"


def _yaml_hint(value: Any) -> str:
    """YAML 1.1 reads 1e-4 as text."""
    try:
        number = isinstance(value, str) and "e" in value.lower() and float(value)
    except ValueError:
        return ""
    return f"; YAML needs a point in such a number: {float(value):.1e}" if number else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _as_dict(report: Report) -> dict[str, Any]:
    problems, notes = (
        [
            {"line": place.line, "column": place.column, "path": list(path), "message": message}
            for place, path, message in found
        ]
        for found in (report.findings, report.notes)
    )
    return {"file": str(report.file), "specs": report.specs, "problems": problems, "notes": notes}
