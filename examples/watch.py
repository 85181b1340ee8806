"""Stops a run that cannot go on, and says why and what to try."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

WINDOW = 200
"""For so many steps in a row a generator must be without a teacher before the run is stopped."""

FLAT = 1e-4
"""The loss is flat where its derivatives by the logits of a batch sum to less; in the losses that are
not, and where the critic is not sure, they sum to about 1/2 or 1."""


class Collapsed(Exception):
    """The critic teaches the generator nothing any more."""


def check_finite(step: int, values: Mapping[str, float], names: Iterable[str]) -> None:
    """Refuse a step of which a term of the loss, or the norm of its gradient, is not finite."""
    for name in names:
        if not math.isfinite(values[name]):
            raise FloatingPointError(
                f"step {step}: {name} is {values[name]}; the last checkpoint is kept. "
                "Try a lower learning rate, a penalty on the discriminator, or another loss"
            )


class Watch:
    """Counts steps in which the generator can learn nothing from the critic.

    There are two such states: the critic gives one and the same number for every sample, or the
    generator's loss is flat at what it gives. A single step may pass through either of them.

    Args:
        config: The config of the run. Where auxiliary terms train the generator too, or the loss has
            weight 0, nothing is counted.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.counts = {"constant": 0, "flat": 0}

    def step(self, step: int, values: dict[str, float]) -> None:
        """Look at a step, and take `spread` and `slope` out of its values.

        Args:
            step: Its number.
            values: With `spread`, the range of the critic's outputs over a batch of real and generated
                samples, and `slope`, the sum of the absolute derivatives of the generator's loss by the
                logits.
        """
        spread, slope = values.pop("spread"), values.pop("slope")
        teaches = any(item.side == "generator" for item in self.config.auxiliary)
        if teaches or not self.config.adversarial_weight:
            return
        for name, now in (("constant", spread == 0), ("flat", slope < FLAT)):
            self.counts[name] = self.counts[name] + 1 if now else 0
            if self.counts[name] == WINDOW:
                raise Collapsed(f"step {step}: {getattr(self, f'_{name}')(values)}")

    def _constant(self, values: dict[str, float]) -> str:
        bound = " a wider bound of the constraint," if self.config.constraint else ""
        return (
            f"for {WINDOW} steps the discriminator has given one and the same number for all "
            "samples, real or generated, so nobody learns from it. Try a lower "
            f"discriminator_optimizer.lr,{bound} or a discriminator with leaky_relu and a norm"
        )

    def _flat(self, values: dict[str, float]) -> str:
        real, fake = values["d_real"], values["d_fake_before"]
        return (
            f"for {WINDOW} steps the generator's loss, {self.config.loss['block']}, has been flat: "
            f"the discriminator is sure of all samples (d_real {real:.2g}, d_fake {fake:.2g}), and "
            "there the generator gets no gradient. Try NonSaturatingLoss or RelativisticLoss, a "
            "penalty on the discriminator such as R1Penalty, or a lower discriminator_optimizer.lr"
        )
