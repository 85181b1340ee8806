"""Settings of an optimiser as a table, in which a number may be a schedule."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import AfterValidator
from torch import nn

from gan_blocks._arguments import complaint, did_you_mean, shown
from gan_blocks.registry import registry

Table = dict[str, Any]
_LAST = 2**31
"""After the last step of every schedule."""


class OptimizerSettings:
    """The settings of an optimiser, some of which may follow a schedule.

    Args:
        table: `name`, a class of `torch.optim`, and its arguments. Each number, also one in a list,
            may be the spec of a schedule, such as
            `{"block": "CosineSchedule", "start": 2e-4, "end": 5e-5, "steps": 1000}`.

    Raises:
        ValueError: If there is no such optimiser, a spec is of no schedule, or the optimiser does not
            take the values, the last ones of a schedule among them.
        GanBlocksError: If a spec is wrong.

    Example:
        >>> import torch
        >>> settings = OptimizerSettings({"name": "Adam", "lr": 1e-3, "betas": [0.0, 0.99]})
        >>> optimiser = settings.build(torch.nn.Linear(2, 1).parameters())
        >>> optimiser.param_groups[0]["betas"]
        (0.0, 0.99)
    """

    def __init__(self, table: Mapping[str, Any]) -> None:
        names = [
            n for n, c in vars(torch.optim).items() if isinstance(c, type) and n != "Optimizer"
        ]
        self.name = table.get("name")
        if self.name not in names:
            raise ValueError(
                f"name should be an optimiser of torch.optim, got {shown(self.name)}"
                + did_you_mean(str(self.name), names)
            )
        self._arguments = {key: _built(table[key]) for key in table if key != "name"}
        self._scheduled = [key for key, v in self._arguments.items() if _has_schedule(v)]
        for step, when in ((0, ""), (_LAST, " at the end of its schedules")):
            try:
                getattr(torch.optim, self.name)([nn.Parameter(torch.zeros(2, 2))], **self.at(step))
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"torch.optim.{self.name} cannot be built{when}: {error}"
                ) from None

    def at(self, step: int) -> Table:
        """The arguments at a step, each schedule replaced by its value."""
        return {key: _at(value, step) for key, value in self._arguments.items()}

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser, with the values of step 0."""
        return getattr(torch.optim, str(self.name))(parameters, **self.at(0))

    def update(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Give the optimiser the values of a step; a function of the step alone.

        Args:
            optimizer: What `build` gave.
            step: How many steps there were before.
        """
        values = {key: _at(self._arguments[key], step) for key in self._scheduled}
        for group in optimizer.param_groups:
            group.update(values)


def _built(value: Any) -> Any:
    if isinstance(value, Mapping):
        return registry.build(value, "schedule")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_built(item) for item in value]
    return value


def _has_schedule(value: Any) -> bool:
    return hasattr(value, "at") or (isinstance(value, list) and any(map(_has_schedule, value)))


def _at(value: Any, step: int) -> Any:
    if isinstance(value, list):
        return tuple(_at(item, step) for item in value)
    return value.at(step) if hasattr(value, "at") else value


def _normalised(value: Any) -> Any:
    """The value as a document holds it: lists, and specs with their defaults filled in."""
    if isinstance(value, Mapping):
        return registry.normalise(value, "schedule")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_normalised(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise complaint(f"takes numbers, strings and specs of schedules, got {shown(value)}")


def _check(table: Table) -> Table:
    """The table as a document."""
    try:
        OptimizerSettings(table)
    except (TypeError, ValueError, LookupError) as error:
        raise complaint(str(error)) from None
    return {key: _normalised(value) for key, value in table.items()}


OptimizerTable = Annotated[Table, AfterValidator(_check)]
"""A field that holds the settings of an optimiser."""
