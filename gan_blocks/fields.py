"""Fields of a user's own pydantic model that hold the spec of a block."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic_core import core_schema

from gan_blocks._arguments import as_validation_error
from gan_blocks.errors import InvalidArgumentsError, UnknownBlockError
from gan_blocks.registry import registry
from gan_blocks.types import Kind


@dataclass(frozen=True)
class _SpecField:
    """Makes a pydantic field hold a normalised spec of one kind."""

    kind: Kind

    def validate(self, value: Any) -> dict[str, Any]:
        try:
            if not hasattr(value, "_block_arguments"):
                return registry.normalise(value, self.kind)
            actual = registry.to_spec(value)
            registry.find(actual["block"], self.kind)
            return actual
        except (InvalidArgumentsError, UnknownBlockError) as error:
            raise as_validation_error(error) from None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        names = [
            name for e in registry.list(self.kind) for name in (e.name, *registry._former_names(e))
        ]
        return {
            "x-gan-blocks-kind": self.kind,
            "type": "object",
            "properties": {"block": {"enum": names}},
            "required": ["block"],
        }


LayerSpec = Annotated[dict[str, Any], _SpecField("layer")]
LossSpec = Annotated[dict[str, Any], _SpecField("loss")]
AuxiliarySpec = Annotated[dict[str, Any], _SpecField("auxiliary")]
ScheduleSpec = Annotated[dict[str, Any], _SpecField("schedule")]
DivergenceSpec = Annotated[dict[str, Any], _SpecField("divergence")]
PenaltySpec = Annotated[dict[str, Any], _SpecField("penalty")]
ConstraintSpec = Annotated[dict[str, Any], _SpecField("constraint")]
NetworkSpec = Annotated[dict[str, Any], _SpecField("network")]
