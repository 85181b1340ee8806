"""`gan-blocks show`: one block, its arguments, promises and documentation."""

import inspect
import json
import re
import warnings
from typing import Annotated, Any

import typer

from gan_blocks.cli._app import (
    AsJson,
    blocks_starting_with,
    console,
    print_json,
    stop,
)
from gan_blocks.cli.list import block_as_dict, origin
from gan_blocks.errors import GanBlocksError, RenamedWarning
from gan_blocks.registry import Entry, registry


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A block, such as HingeLoss or plugin/Class.", autocompletion=blocks_starting_with
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show one block: its arguments with limits, what it promises, and its documentation."""
    try:
        with warnings.catch_warnings(action="ignore", category=RenamedWarning):
            entry = registry.find(name)
    except GanBlocksError as error:
        stop(error)
    plugin = next(p for p in registry.plugins() if p.name == entry.plugin)
    if as_json:
        print_json(
            block_as_dict(entry, plugin)
            | {
                "formerly": list(entry.former_names),
                "signature": signature(entry),
                "arguments": arguments(entry),
                "capabilities": entry.blueprint.capabilities.as_dict(),
                "formulas": formulas(entry),
                "reference": reference(entry),
                "documentation": inspect.getdoc(entry.cls) or "",
                "schema": entry.schema(),
            }
        )
        return
    out = console()
    package, version = origin(plugin)
    source = f"{package} {version}".strip()
    out.print(f"{entry.name} ({entry.kind}, from {source})", style="bold")
    out.print(f"\n{signature(entry)}\n")
    for argument, limits in arguments(entry).items():
        out.print(f"  {argument}: {limits}")
    out.print(f"\n  promises: {', '.join(promises(entry)) or 'nothing'}")
    for line in declarations(entry):
        out.print(f"  {line}")
    if entry.former_names:
        out.print(f"  formerly: {', '.join(entry.former_names)}")
    for old, new in entry.blueprint.renamed.items():
        out.print(f"  formerly: {old} for {new}")
    if plugin.changed:
        out.print(f"  changed while its package was imported: {', '.join(plugin.changed)}")
    # The terminal wraps what is too long, so that formulas and code can be copied.
    out.print("\n" + (inspect.getdoc(entry.cls) or "It has no documentation."), soft_wrap=True)


def signature(entry: Entry) -> str:
    """The call, as it stands in the class."""
    parts = []
    for name, parameter in entry.blueprint.parameters.items():
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        parts.append(f"{name}{default}")
    return f"{entry.cls.__name__}({', '.join(parts)})"


def arguments(entry: Entry) -> dict[str, str]:
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


def promises(entry: Entry) -> list[str]:
    """What the block promises, in words."""
    record = entry.blueprint.capabilities.as_dict()
    names = ("double_backward", "compile", "autocast", "distributed")
    return [*(name.replace("_", " ") for name in names if record[name]), *record["dtypes"]]


def declarations(entry: Entry) -> list[str]:
    """What else it declares, one line each."""
    claims = entry.blueprint.capabilities
    lines = [f"depends on the batch: {claims.batch_dependent}"] if claims.batch_dependent else []
    if claims.moves_in_forward:
        lines.append("moves in forward, in training mode")
    if claims.side:
        side = "the loss of either side" if claims.side == "both" else f"the {claims.side}'s loss"
        lines.append(f"belongs to {side}, compares {claims.compares}")
    return lines


def formulas(entry: Entry) -> list[str]:
    """The displayed formulas of the docstring, in LaTeX."""
    found = re.findall(r"\$\$(.+?)\$\$", inspect.getdoc(entry.cls) or "", re.DOTALL)
    return [" ".join(formula.split()) for formula in found]


def reference(entry: Entry) -> str:
    """The section of the docstring that names the source."""
    text = inspect.getdoc(entry.cls) or ""
    match = re.search(r"^References?:\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
    return " ".join(match[1].split()) if match else ""
