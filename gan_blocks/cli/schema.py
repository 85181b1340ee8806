"""`gan-blocks schema`: the JSON Schema of specs, for editors and validators."""

from typing import Any, cast

from gan_blocks._plugins import KINDS
from gan_blocks.cli._app import AsJson, KindArgument, print_json, quiet, stop, tell_failures
from gan_blocks.errors import GanBlocksError
from gan_blocks.registry import registry
from gan_blocks.types import Kind


def schema(kind: KindArgument = None, as_json: AsJson = True) -> None:
    """Print the JSON Schema of the specs of one kind, or of all. It is JSON with or without --json."""
    try:
        with quiet():
            document = registry.json_schema(cast(Kind, kind)) if kind else _of_all_kinds()
    except GanBlocksError as error:
        stop(error)
    print_json(document)
    tell_failures()


def _of_all_kinds() -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    document: dict[str, Any] = {}
    for kind in KINDS:
        document = registry.json_schema(kind)
        definitions |= document["$defs"]
    return {
        "$schema": document["$schema"],
        "anyOf": [{"$ref": f"#/$defs/{kind}"} for kind in KINDS],
        "$defs": definitions,
    }
