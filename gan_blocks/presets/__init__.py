"""Settings that belong together, named after the paper that they come from.

Each preset is a TOML file beside this module, to read and to copy.
"""

import json
import re
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gan_blocks._arguments import did_you_mean, problems_of, shown
from gan_blocks.errors import InvalidArgumentsError, UnknownPresetError
from gan_blocks.fields import AuxiliarySpec, ConstraintSpec, LossSpec, PenaltySpec
from gan_blocks.presets.optimizers import OptimizerSettings, OptimizerTable
from gan_blocks.types import NonNegativeFloat, PositiveFloat, PositiveInt, Probability

__all__ = ["OptimizerSettings", "Preset", "Term", "names", "preset"]

_FOLDER = files(__name__)
_DOCUMENTATION = ("name", "title", "paper", "code", "differences", "notes", "task")


class Term(BaseModel, extra="forbid", strict=True, frozen=True, defer_build=True):
    """A term of the generator's loss.

    Attributes:
        term: The block.
        layers: Layers of the discriminator whose features it compares, its output by default.
        weight: Factor of the term.
    """

    term: AuxiliarySpec
    layers: list[str] = Field([""], min_length=1)
    weight: NonNegativeFloat = 1.0


class Preset(BaseModel):
    """The settings of one paper: specs of blocks, optimisers, and where they come from.

    A plain document: `str` gives it as TOML, and `model_dump` and `model_dump_json` as a dict and as
    JSON, which `Preset.model_validate` and `Preset.model_validate_json` take back.

    Attributes:
        name: Its name.
        title: What is trained on what.
        paper: The paper, with the sections.
        code: The authors' code; none if it is not public.
        differences: Where paper and code differ, and which of them is followed here.
        notes: What belongs to the method and is not held here, such as networks.
        task: `generation` from latent vectors, or `reconstruction`, where the generator gets the
            sample that it has to give back, as in a codec.
        loss: The adversarial loss.
        penalties: Added to the discriminator's loss.
        constraint: Applied to the discriminator when it is made, and after each of its steps.
        adversarial_weight: Factor of the loss in the generator's step.
        auxiliary: Further terms of the generator's loss, or what weighs them.
        generator_optimizer: A table for [`OptimizerSettings`][gan_blocks.presets.OptimizerSettings].
        discriminator_optimizer: Likewise.
        critic_steps: Steps of the discriminator for each one of the generator.
        batch_size: Samples of a batch, over all processes; none if the source leaves it open.
        clip_gradient: Largest norm of a gradient.
        precision: `bfloat16` is mixed precision.
        ema: Decay of the moving average of the generator's weights, at this batch size.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)

    name: str
    title: str
    paper: str
    code: str | None = None
    differences: list[str] = []
    notes: list[str] = []
    task: Literal["generation", "reconstruction"] = "generation"
    batch_size: PositiveInt | None = None
    critic_steps: PositiveInt = 1
    adversarial_weight: NonNegativeFloat = 1.0
    clip_gradient: PositiveFloat | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    ema: Probability = 0.0
    loss: LossSpec
    penalties: list[PenaltySpec] = []
    constraint: ConstraintSpec | None = None
    auxiliary: list[Term] = []
    generator_optimizer: OptimizerTable
    discriminator_optimizer: OptimizerTable

    def settings(self) -> dict[str, Any]:
        """The settings alone, without what documents them: keys of the trainer's config."""
        open_ = {"batch_size"} if self.batch_size is None else set()
        return self.model_dump(exclude={*_DOCUMENTATION, *open_})

    def __str__(self) -> str:
        """The preset as TOML, without what has its default."""
        fields = type(self).model_fields
        kept = {k: v for k, v in self.model_dump().items() if v != fields[k].default}
        tables = {key: kept.pop(key) for key in list(kept) if isinstance(kept[key], dict)}
        sections = [f"\n[{key}]\n{_lines(table)}" for key, table in tables.items()]
        return _lines(kept) + "".join(sections)


def names() -> list[str]:
    """The names of all presets."""
    return sorted(f.name.removesuffix(".toml") for f in _FOLDER.iterdir() if f.name[-5:] == ".toml")


def preset(name: str, /, **overrides: Any) -> Preset:
    """The preset of a name.

    Args:
        name: Such as `"r3gan"`; [`names`][gan_blocks.presets.names] lists them.
        **overrides: Keys that take the place of its own, whole.

    Raises:
        UnknownPresetError: If there is no such preset.
        InvalidArgumentsError: Naming every override that is wrong.

    Example:
        >>> from gan_blocks import build, preset
        >>> settings = preset("wgan-gp", batch_size=32)
        >>> build(settings.penalties[0])
        GradientPenalty(weight=10.0, target=1.0, one_sided=False, combine='sum')
        >>> settings.critic_steps, settings.generator_optimizer["betas"]
        (5, [0.0, 0.9])
    """
    if name not in names():
        raise UnknownPresetError(f"unknown preset {shown(name)}{did_you_mean(str(name), names())}")
    import tomllib  # here, since few who import the library need it

    table = tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    try:
        return Preset.model_validate({"name": name} | table | overrides)
    except ValidationError as error:
        problems = problems_of(error, list(Preset.model_fields))
        raise InvalidArgumentsError(f"the preset {name}", problems) from None


def _lines(table: dict[str, Any]) -> str:
    return "".join(f"{pair}\n" for pair in _pairs(table))


def _pairs(table: dict[str, Any]) -> list[str]:
    """`key = value` of each item; TOML has no null, so what is None is left out."""
    keys = {key: key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key) for key in table}
    return [f"{keys[key]} = {_toml(value)}" for key, value in table.items() if value is not None]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(_pairs(value)) + " }"
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, str | dict) for item in value):
            return "[\n" + "".join(f"    {_toml(item)},\n" for item in value) + "]"
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)  # JSON has no infinity
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
