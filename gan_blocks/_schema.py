"""JSON Schema of specs.

A spec is told by its block, with `if` and `then`: so a validator names the wrong argument, not the
dozens of blocks that the spec is none of, and an editor offers the arguments of the block that is
there.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import quote

from gan_blocks.spec import Blueprint
from gan_blocks.types import Kind

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OF_THE_FIELD = ("x-gan-blocks-kind", "type", "properties", "required")
"""What a field of blocks says of itself, in whose place the reference stands."""


class Entry(Protocol):
    """What a schema says of a block."""

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def blueprint(self) -> Blueprint: ...
    def schema(self) -> dict[str, Any]: ...


class Blocks(Protocol):
    """What a schema needs of the registry."""

    def list(self, kind: Kind) -> Iterable[Entry]: ...

    def _former_names(self, entry: Any) -> tuple[str, ...]: ...


def of_specs(kinds: Iterable[Kind], blocks: Blocks) -> dict[str, Any]:
    """The schema of one spec of these kinds."""
    kinds, definitions = tuple(kinds), _Definitions(blocks)
    if len(kinds) == 1:
        whole = definitions.reference(kinds[0])
    else:
        whole = definitions.told_by_block([entry for kind in kinds for entry in blocks.list(kind)])
    return {"$schema": DIALECT} | whole | {"$defs": definitions.of(kinds)}


def with_blocks(document: dict[str, Any], blocks: Blocks) -> dict[str, Any]:
    """The schema of a pydantic model, with whole specs in the place of its fields of specs."""
    definitions, kinds = _Definitions(blocks, document.get("$defs", ())), []
    document = definitions.with_references(document, kinds)
    everything = document.pop("$defs", {}) | definitions.of(kinds)
    return {"$schema": DIALECT} | document | {"$defs": everything}


class _Definitions:
    """One for each kind, and for each kind inside a block of it; and one for each block.

    Args:
        blocks: The registry.
        taken: Names that the definitions of a user's model have.
    """

    def __init__(self, blocks: Blocks, taken: Iterable[str] = ()) -> None:
        self.blocks = blocks
        self.taken = set(taken)

    def of(self, kinds: Iterable[Kind]) -> dict[str, Any]:
        definitions: dict[str, Any] = {}
        pending = list(kinds)
        while pending:
            kind = pending.pop()
            if self.key(kind) not in definitions:
                entries = list(self.blocks.list(kind))
                definitions[self.key(kind)] = self.told_by_block(entries)
                definitions |= {self.key(e.name): self.of_block(e, pending) for e in entries}
        return definitions

    def key(self, name: str) -> str:
        key = name.replace("/", ".")  # a slash would part the steps of a reference
        while key in self.taken:
            key = f"gan_blocks.{key}"
        return key

    def reference(self, name: str) -> dict[str, Any]:
        return {"$ref": f"#/$defs/{quote(self.key(name).replace('~', '~0'))}"}

    def told_by_block(self, entries: Iterable[Entry]) -> dict[str, Any]:
        names, rules = [], []
        for entry in entries:
            own = [entry.name, *self.blocks._former_names(entry)]
            names += own
            block = {"properties": {"block": {"enum": own}}, "required": ["block"]}
            rules.append({"if": block, "then": self.reference(entry.name)})
        return {
            "type": "object",
            "properties": {"block": {"enum": names}},
            "required": ["block"],
            # The blocks' own schemas know the others; some editors want to be told.
            "additionalProperties": True,
            "allOf": rules,
        }

    def of_block(self, entry: Entry, kinds: list[Kind]) -> dict[str, Any]:
        schema = self.with_references(entry.schema(), kinds)
        name: dict[str, Any] = {"const": entry.name}
        former_names = self.blocks._former_names(entry)
        if former_names:
            name = {"anyOf": [name, {"enum": list(former_names), "deprecated": True}]}
        schema |= {"title": entry.name, "description": entry.summary}
        schema["properties"] = {"block": name} | schema.get("properties", {})
        schema["required"] = ["block", *schema.get("required", [])]
        _add_former_arguments(schema, entry.blueprint.renamed)
        return schema

    def with_references(self, schema: Any, kinds: list[Kind]) -> Any:
        """References to kinds in the place of the marks that fields of blocks have."""
        if isinstance(schema, list):
            return [self.with_references(each, kinds) for each in schema]
        if not isinstance(schema, dict):
            return schema
        kind = schema.get("x-gan-blocks-kind")
        if kind is None:
            return {key: self.with_references(value, kinds) for key, value in schema.items()}
        kinds.append(kind)
        rest = {key: value for key, value in schema.items() if key not in OF_THE_FIELD}
        return self.reference(kind) | rest


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
