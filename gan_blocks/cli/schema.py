"""`gan-blocks schema`: the JSON Schema of specs, for editors and validators."""

from typing import cast

from gan_blocks.cli._app import AsJson, KindArgument, print_json, stop, tell_failures
from gan_blocks.errors import GanBlocksError
from gan_blocks.registry import registry
from gan_blocks.types import Kind


def schema(kind: KindArgument = None, as_json: AsJson = True) -> None:
    """Print the JSON Schema of the specs of one kind, or of all. It is JSON with or without --json."""
    try:
        document = registry.json_schema(cast(Kind | None, kind))
    except GanBlocksError as error:
        stop(error)
    print_json(document)
    tell_failures()
