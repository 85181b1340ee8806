"""What a config file of the trainer may hold.

python examples/config.py > trainer.schema.json
"""

import json
import math
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from data import DataConfig
from gan_blocks import (
    AuxiliarySpec,
    ConstraintSpec,
    LossSpec,
    NetworkSpec,
    PenaltySpec,
    registry,
)
from gan_blocks.presets import names
from gan_blocks.spec import Capabilities
from gan_blocks.types import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from reading import OptimizerSpec

_PAIRS = (
    "samples that belong together, such as an image and its reconstruction, and this trainer draws its "
    "samples from latent vectors"
)
LACKING = {
    "augmented_logits": "logits of samples and of their augmented copies, and this trainer makes none",
    "samples": _PAIRS,
    "feature_lists": f"features of {_PAIRS}",
    "other": "what only its own page describes, by a call of its own",
}
"""What the trainer does not have, by the word for what a term compares."""


class Auxiliary(BaseModel, extra="forbid", strict=True):
    """A further term of the loss of one side.

    A term of the critic's side is called with the logits of real and generated samples, and a term of
    the generator's side with their features or logits. A term that looks at a network, such as
    `OrthogonalRegularizer`, is called with the network of its side.

    Args:
        term: The block.
        side: `critic` or `generator`, for a term that may stand in the loss of either. The others say
            themselves where they belong.
        layers: Layers of the discriminator whose features it compares, each in turn and summed; its
            logits if none is named.
        weight: Factor of the term.
    """

    term: AuxiliarySpec
    side: Literal["critic", "generator"] | None = None
    layers: list[str] = Field([""], min_length=1)
    weight: NonNegativeFloat = 1.0

    @property
    def compares(self) -> str:
        """What the term is called with."""
        return str(self._record.compares)

    @property
    def _record(self) -> Capabilities:
        return registry.find(self.term["block"], "auxiliary").blueprint.capabilities

    @model_validator(mode="after")
    def _has_a_place(self) -> "Auxiliary":
        name, own = self.term["block"], self._record.side
        if self.compares in LACKING:
            raise ValueError(f"{name} compares {LACKING[self.compares]}; use it in your own loop")
        if own == "both" and self.side is None:
            raise ValueError(
                f'{name} may stand in the loss of either side; add side = "critic" or "generator"'
            )
        if own != "both" and self.side not in (None, own):
            raise ValueError(f"{name} belongs to the loss of the {own}; remove side")
        self.side = self.side or own  # type: ignore[assignment]
        if self.side == "critic" and self.compares == "features":
            raise ValueError(
                f"{name} compares features, which this trainer has for the generator's loss only; use "
                "it in your own loop"
            )
        if self.layers != [""] and self.compares != "features":
            raise ValueError(f"{name} compares no layers; remove layers")
        return self


class Average(BaseModel, extra="forbid", strict=True, frozen=True):
    """The moving average of the generator's weights.

    Args:
        half_life: In samples.
        rampup: In the beginning the half-life is this part of the samples so far.
    """

    half_life: PositiveFloat
    rampup: PositiveFloat | None = None


class Config(BaseModel):
    """What a config file may hold. A block is a table such as `{block = "HingeLoss"}`.

    Args:
        plugins: Python files with blocks of one's own, relative to the config file. The classes of
            `my_blocks.py` are then named `my_blocks/Class`.
        generator_optimizer: Numbers may be schedules. These count train steps, whatever `critic_steps`.
        penalties: In the discriminator's loss. The `steps` of schedules inside count steps of its
            optimizer, `critic_steps` in each train step.
        adversarial_weight: Factor of the loss in the generator's step; with 0 the auxiliary terms of the
            generator's side alone train it.
        auxiliary: Further terms. The `steps` inside are those of the optimizer of the term's side.
        batch_size: Samples of a batch, over all processes.
        accumulate: In how many parts a batch goes through the networks, to save memory. Blocks that
            look at the whole batch see a part of it.
        packing: How many samples the discriminator is shown as one. Its `channels` or `input_shape` is
            that of such a pack.
        critic_steps: Steps of the discriminator for each one of the generator.
        reuse_fakes: Whether the generator's step takes the samples of the discriminator's last step
            instead of drawing new ones, which saves a forward of the generator.
        clip_gradient: Largest norm of the gradient of each side; a longer one is shortened to it.
        precision: `bfloat16` is mixed precision: weights, losses and penalties stay in float32.
        compile: Whether torch compiles both networks, which takes a minute in the first step. Penalties
            run the discriminator as it was written.
        ema: The average of the generator's weights that samples are drawn with, such as
            `{half_life = 20_000}`. A number is the decay of a step, which is turned into a half-life at
            this batch size; 0 is no average.
        log_every: Steps between two lines of the log; likewise for samples and checkpoints.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    data: DataConfig
    generator: NetworkSpec
    discriminator: NetworkSpec
    loss: LossSpec
    generator_optimizer: OptimizerSpec
    discriminator_optimizer: OptimizerSpec
    penalties: list[PenaltySpec] = []
    constraint: ConstraintSpec | None = None
    adversarial_weight: NonNegativeFloat = 1.0
    auxiliary: list[Auxiliary] = []
    plugins: list[str] = []
    steps: PositiveInt
    batch_size: PositiveInt = 128
    accumulate: PositiveInt = 1
    packing: PositiveInt = 1
    critic_steps: PositiveInt = 1
    reuse_fakes: bool = False
    clip_gradient: PositiveFloat | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    ema: Average | None = None
    seed: NonNegativeInt = 0
    log_every: PositiveInt = 50
    sample_every: PositiveInt = 1000
    checkpoint_every: PositiveInt = 1000

    @field_validator("generator")
    @classmethod
    def _takes_latent_vectors(cls, spec: dict[str, Any]) -> dict[str, Any]:
        if "latent_dim" not in spec:
            raise ValueError("needs an argument latent_dim, the length of its latent vectors")
        return spec

    @field_validator("ema", mode="before")
    @classmethod
    def _in_samples(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, int | float):
            return value
        if not 0 <= value < 1:
            raise ValueError(f"a decay should lie in [0, 1), got {value}")
        batch_size = info.data.get("batch_size", 1)
        half_life = batch_size * math.log(0.5) / math.log(value) if value else 0
        return {"half_life": half_life, "rampup": None} if half_life else None

    @model_validator(mode="after")
    def _one_number_of_classes(self) -> "Config":
        counts = [spec.get("num_classes", 0) for spec in (self.generator, self.discriminator)]
        if counts[0] != counts[1]:
            raise ValueError(
                f"the generator has {counts[0]} classes and the discriminator {counts[1]}; give both "
                "the same num_classes, or choose networks that take classes"
            )
        if self.packing > 1 and self.num_classes:
            raise ValueError(
                "packing joins samples, whose labels differ; set packing = 1, or choose networks "
                "without num_classes"
            )
        return self

    @property
    def num_classes(self) -> int:
        """Classes of the networks; 0 if they take no labels."""
        return self.generator.get("num_classes", 0)


def schema() -> dict[str, Any]:
    """JSON Schema of config files, for editors.

    A file that extends another one or names a preset may hold parts only, of which it knows the keys.
    """
    whole = registry.json_schema(Config)
    dialect, definitions = whole.pop("$schema"), whole.pop("$defs")
    whole["properties"]["ema"]["anyOf"].append(
        {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
    )
    partial = {"extends": {"type": "string"}, "preset": {"enum": list(names())}}
    del whole["additionalProperties"]
    return {
        "$schema": dialect,
        "type": "object",
        "properties": partial | dict.fromkeys(whole["properties"], True),
        "additionalProperties": False,
        "if": {"anyOf": [{"required": [key]} for key in partial]},
        "else": whole,
        "$defs": definitions,
    }


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
