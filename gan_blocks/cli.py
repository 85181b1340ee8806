"""The command line: what blocks there are, and what each takes."""

import inspect
import json
import sys
from typing import Annotated, Any, NoReturn, cast

import typer
from rich.console import Console
from rich.table import Table

from gan_blocks._plugins import KINDS
from gan_blocks.errors import GanBlocksError
from gan_blocks.registry import Entry, registry
from gan_blocks.types import Kind

app = typer.Typer(
    help="GAN building blocks for PyTorch.", no_args_is_help=True, pretty_exceptions_enable=False
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("list")
def list_blocks(
    kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join(KINDS)}.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the blocks that can be built here, plugins included."""
    try:
        entries = registry.list(cast(Kind | None, kind))
    except GanBlocksError as error:
        _stop(error)
    failed = [plugin for plugin in registry.plugins() if plugin.status == "failed"]
    if as_json:
        print(json.dumps([_as_dict(entry) for entry in entries], indent=2))
    else:
        table = Table("kind", "name", "what it is", box=None, pad_edge=False)
        for entry in entries:
            table.add_row(entry.kind, entry.name, entry.summary)
        Console().print(table)
    for plugin in failed:
        print(f"{plugin.distribution} failed to load: {plugin.error}", file=sys.stderr)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A block, such as HingeLoss or plugin/Class.")],
    as_json: AsJson = False,
) -> None:
    """Show one block: its arguments with limits, what it promises, and its documentation."""
    try:
        entry = registry.find(name)
    except GanBlocksError as error:
        _stop(error)
    if as_json:
        print(json.dumps(_as_dict(entry), indent=2))
        return
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{entry.name} ({entry.kind}, from {entry.plugin})\n", style="bold")
    for argument, limits in _arguments(entry).items():
        console.print(f"  {argument}: {limits}")
    console.print("\n  promises: " + ", ".join(_promises(entry)))
    console.print("\n" + (inspect.getdoc(entry.cls) or ""))


def _stop(error: Exception) -> NoReturn:
    print(error, file=sys.stderr)
    raise typer.Exit(2)


def _arguments(entry: Entry) -> dict[str, str]:
    """Each argument in words, read from the schema that also checks it."""
    schema = entry.schema()
    words = {}
    for name, field in schema["properties"].items():
        required = "required" if name in schema.get("required", ()) else ""
        default = f"default {json.dumps(field['default'])}" if "default" in field else ""
        words[name] = ", ".join(part for part in (_in_words(field), required, default) if part)
    return words


def _in_words(field: dict[str, Any]) -> str:
    if "x-gan-blocks-kind" in field:
        return f"a {field['x-gan-blocks-kind']}"
    if "enum" in field:
        return " or ".join(map(repr, field["enum"]))
    if "anyOf" in field:
        return " or ".join(_in_words(option) for option in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_in_words(field.get('items', {}))}"
    limits = {
        "exclusiveMinimum": "above",
        "minimum": "at least",
        "exclusiveMaximum": "below",
        "maximum": "at most",
    }
    parts = [f"{word} {field[key]:g}" for key, word in limits.items() if key in field]
    return " ".join([str(field.get("type", "any")), *parts])


def _promises(entry: Entry) -> list[str]:
    record = entry.blueprint.capabilities.as_dict()
    dtypes = record.pop("dtypes")
    return [name.replace("_", " ") for name, claimed in record.items() if claimed] + [*dtypes]


def _as_dict(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "plugin": entry.plugin,
        "summary": entry.summary,
        "capabilities": entry.blueprint.capabilities.as_dict(),
        "schema": entry.schema(),
    }
