"""JSON Schema of specs.

A spec is told by its block, with `if` and `then`: so a validator names the wrong argument, not the
dozens of blocks that the spec is none of, and an editor offers the arguments of the block that is
there.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from gan_blocks.spec import Blueprint
from gan_blocks.types import Kind

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Entry(Protocol):
    """What a schema says of a block."""

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def former_names(self) -> tuple[str, ...]: ...
    @property
    def blueprint(self) -> Blueprint: ...
    def schema(self) -> dict[str, Any]: ...


Blocks = Callable[[Kind], Iterable[Entry]]
"""All blocks of a kind."""


def of_specs(kinds: Iterable[Kind], blocks: Blocks) -> dict[str, Any]:
    """The schema of one spec of these kinds."""
    kinds = tuple(kinds)
    if len(kinds) == 1:
        whole = {"$ref": f"#/$defs/{kinds[0]}"}
    else:
        whole = _told_by_block([entry for kind in kinds for entry in blocks(kind)])
    return {"$schema": DIALECT} | whole | {"$defs": _definitions(kinds, blocks)}


def with_blocks(document: dict[str, Any], blocks: Blocks) -> dict[str, Any]:
    """The schema of a pydantic model, with whole specs in the place of its fields of specs."""
    kinds: list[Kind] = []
    document = _with_references(document, kinds)
    definitions = document.pop("$defs", {}) | _definitions(kinds, blocks)
    return {"$schema": DIALECT} | document | {"$defs": definitions}


def _definitions(kinds: Iterable[Kind], blocks: Blocks) -> dict[str, Any]:
    """One for each kind, and for each kind inside a block of it; and one for each block."""
    definitions: dict[str, Any] = {}
    pending = list(kinds)
    while pending:
        kind = pending.pop()
        if kind not in definitions:
            entries = list(blocks(kind))
            definitions[kind] = _told_by_block(entries)
            definitions |= {_key(entry): _of_block(entry, pending) for entry in entries}
    return definitions


def _told_by_block(entries: Iterable[Entry]) -> dict[str, Any]:
    names, rules = [], []
    for entry in entries:
        own = [entry.name, *entry.former_names]
        names += own
        block = {"properties": {"block": {"enum": own}}, "required": ["block"]}
        rules.append({"if": block, "then": {"$ref": f"#/$defs/{_key(entry)}"}})
    return {
        "type": "object",
        "properties": {"block": {"enum": names}},
        "required": ["block"],
        # The blocks' own schemas know the others; some editors want to be told.
        "additionalProperties": True,
        "allOf": rules,
    }


def _key(entry: Entry) -> str:
    return entry.name.replace("/", ".")  # a slash would part the steps of a reference


def _of_block(entry: Entry, kinds: list[Kind]) -> dict[str, Any]:
    schema = _with_references(entry.schema(), kinds)
    name: dict[str, Any] = {"const": entry.name}
    if entry.former_names:
        name = {"anyOf": [name, {"enum": list(entry.former_names), "deprecated": True}]}
    schema |= {"title": entry.name, "description": entry.summary}
    schema["properties"] = {"block": name} | schema.get("properties", {})
    schema["required"] = ["block", *schema.get("required", [])]
    _add_former_arguments(schema, entry.blueprint.renamed)
    return schema


def _with_references(schema: Any, kinds: list[Kind]) -> Any:
    """References to kinds in the place of the marks that fields of blocks have."""
    if isinstance(schema, list):
        return [_with_references(each, kinds) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("x-gan-blocks-kind")
    if kind is None:
        return {key: _with_references(value, kinds) for key, value in schema.items()}
    kinds.append(kind)
    rest = ("default", "title", "description")
    return {"$ref": f"#/$defs/{kind}"} | {key: schema[key] for key in rest if key in schema}


def _add_former_arguments(schema: dict[str, Any], renamed: Mapping[str, str]) -> None:
    """One of the names of an argument, if it is required, and never two."""
    properties, rules = schema["properties"], []
    for new in dict.fromkeys(renamed.values()):
        names = [new, *(old for old, now in renamed.items() if now == new)]
        for old in names[1:]:
            properties[old] = properties[new] | {"deprecated": True, "description": f"now {new}"}
        each = [{"required": [name]} for name in names]
        if new in schema["required"]:
            schema["required"].remove(new)
            rules.append({"oneOf": each})
        else:
            rules.append({"oneOf": [*each, {"not": {"anyOf": each}}]})
    if rules:
        schema["allOf"] = rules
