"""`gan-blocks list`: which blocks can be built here."""

from typing import Annotated, Any, cast

import typer
from rich.table import Table

import gan_blocks
from gan_blocks._plugins import PluginInfo
from gan_blocks.cli._app import (
    NARROW,
    AsJson,
    KindArgument,
    complain,
    console,
    print_json,
    stop,
    tell_failures,
)
from gan_blocks.errors import GanBlocksError
from gan_blocks.registry import Entry, registry
from gan_blocks.types import Kind

Row = tuple[str, str, str, str, str, str]
"""Kind, name, package, version, status, summary."""


def list_blocks(
    kind: KindArgument = None,
    text: Annotated[
        str, typer.Option("--text", help="Only blocks with this text in the name or summary.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the blocks that can be built here, plugins included."""
    try:
        entries = registry.list(cast(Kind | None, kind))
        entries = tuple(e for e in entries if text.lower() in f"{e.name} {e.summary}".lower())
    except GanBlocksError as error:
        stop(error)
    plugins = {plugin.name: plugin for plugin in registry.plugins()}
    broken = [p for p in plugins.values() if p.status in ("failed", "disabled")]
    if as_json:
        blocks = [block_as_dict(entry, plugins[entry.plugin]) for entry in entries]
        print_json({"blocks": blocks, "plugins": [as_dict(p) for p in plugins.values()]})
    else:
        rows = [_row(entry, plugins[entry.plugin]) for entry in entries]
        _print(rows + [("-", f"{p.name}/...", p.package, p.version, p.status, "") for p in broken])
    if text and not entries:
        complain(f"no block has {text!r} in its name or summary")
    tell_failures()


def _row(entry: Entry, plugin: PluginInfo) -> Row:
    package, version = origin(plugin)
    return (entry.kind, entry.name, package, version, plugin.status, entry.summary)


def _print(rows: list[Row]) -> None:
    out = console()
    if out.width < NARROW:
        for kind, name, package, version, status, _ in rows:
            out.print(name, overflow="fold")
            out.print(f"  {kind}, {package} {version}, {status}", overflow="fold")
        return
    titles = ["kind", "name", "package", "version", "status"]
    # The summary needs a wide terminal.
    wide = out.width >= 2 * NARROW
    table = Table(box=None, pad_edge=False)
    for title in titles + ["what it is"] * wide:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row[: None if wide else 5])
    out.print(table)


def origin(plugin: PluginInfo) -> tuple[str, str]:
    """Package and version."""
    if plugin.status == "builtin":
        return "gan_blocks", gan_blocks.__version__
    return plugin.package, plugin.version


def as_dict(plugin: PluginInfo) -> dict[str, Any]:
    package, version = origin(plugin)
    return {
        "name": plugin.name,
        "package": package,
        "version": version,
        "status": plugin.status,
        "error": plugin.error,
        "remedy": plugin.remedy,
        "changed_settings": list(plugin.changed),
    }


def block_as_dict(entry: Entry, plugin: PluginInfo) -> dict[str, Any]:
    package, version = origin(plugin)
    return {
        "name": entry.name,
        "kind": entry.kind,
        "plugin": entry.plugin,
        "package": package,
        "version": version,
        "status": plugin.status,
        "summary": entry.summary,
    }
