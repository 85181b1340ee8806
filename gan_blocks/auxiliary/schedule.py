"""Numbers that change during training."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gan_blocks.authoring import Clocked
from gan_blocks.spec import block
from gan_blocks.types import PositiveInt


class _Schedule(Clocked):
    """Goes from `start` to `end` in a number of steps and stays there."""

    def __init__(
        self,
        start: float,
        end: float,
        steps: int,
        progress: Callable[[Tensor], Tensor],
        device: torch.device | str | None,
    ) -> None:
        super().__init__(device=device)
        self.start = start
        self.end = end
        self.steps = steps
        # Maps elapsed time in [0, 1] to progress in [0, 1].
        self._progress = progress

    def forward(self) -> Tensor:
        """Return the current value, a float32 scalar."""
        self.note_forward()
        # float32 cannot tell steps beyond 16 million apart; MPS has no float64.
        exact = torch.float32 if self.step_count.device.type == "mps" else torch.float64
        return self._value((self.step_count.to(exact) / self.steps).clamp(max=1.0)).float()

    def at(self, step: int) -> float:
        """Return the value after `step` steps.

        Raises:
            ValueError: If `step` is not a number of at least 0.
        """
        if not isinstance(step, int | float) or isinstance(step, bool) or not step >= 0:
            raise ValueError(f"step should be a number of at least 0, got {step!r}")
        elapsed = min(step / self.steps, 1.0)
        return self._value(torch.tensor(elapsed, dtype=torch.float64)).item()

    def _value(self, elapsed: Tensor) -> Tensor:
        progress = self._progress(elapsed)
        return (1 - progress) * self.start + progress * self.end


def _cosine_progress(elapsed: Tensor) -> Tensor:
    return (1 - torch.cos(math.pi * elapsed)) / 2


def _linear_progress(elapsed: Tensor) -> Tensor:
    return elapsed


def _step_progress(elapsed: Tensor) -> Tensor:
    return (elapsed >= 1).to(elapsed.dtype)


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class CosineSchedule(_Schedule):
    r"""A number that changes along half a cosine.

    After $t$ of $T$ optimizer steps it is

    $$b + (a - b)\, \frac{1 + \cos(\pi\, \min(t/T, 1))}{2}.$$

    [`Scheduled`][gan_blocks.Scheduled] multiplies a penalty by it. Elsewhere multiply a term of the loss
    by `schedule()`. It advances with an optimizer: call [`follow`][gan_blocks.follow]`(optimizer,
    schedule)` once, or `schedule.step()` after each step. Calling it changes nothing. The number of
    steps is a buffer, so it is saved, and a compiled step is not compiled again when it changes.

    Args:
        start: $a$.
        end: $b$, the value after $T$ steps.
        steps: $T$.
        device: Where the buffer is made.

    Shape:
        No input; the result is a scalar.

    Example:
        >>> from gan_blocks import CosineSchedule
        >>> weight = CosineSchedule(start=2.0, end=0.2, steps=4)
        >>> [round(weight.at(t), 2) for t in range(6)]
        [2.0, 1.74, 1.1, 0.46, 0.2, 0.2]
        >>> weight.step()
        >>> weight()
        tensor(1.7364)

    Reference:
        Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017,
        arXiv:1608.03983, equation 5, without restarts; for the weight of R1 and R2: Huang et al.,
        2024, arXiv:2501.05441, appendix D.
    """

    def __init__(
        self,
        start: float,
        end: float,
        steps: PositiveInt,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(start, end, steps, _cosine_progress, device)


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class LinearSchedule(_Schedule):
    r"""A number that changes along a line.

    After $t$ of $T$ optimizer steps it is $a + (b - a) \min(t/T, 1)$. Use it as
    [`CosineSchedule`][gan_blocks.CosineSchedule].

    Args:
        start: $a$.
        end: $b$, the value after $T$ steps.
        steps: $T$.
        device: Where the buffer is made.

    Shape:
        No input; the result is a scalar.

    Example:
        >>> from gan_blocks import LinearSchedule
        >>> weight = LinearSchedule(start=0.0, end=1.0, steps=4)
        >>> [weight.at(t) for t in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]

    Reference:
        Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018,
        arXiv:1802.05957, whose code lets the learning rate fall to 0 along a line.
    """

    def __init__(
        self,
        start: float,
        end: float,
        steps: PositiveInt,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(start, end, steps, _linear_progress, device)


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class StepSchedule(_Schedule):
    r"""A number that jumps from one value to another.

    It is $a$ for the first $T$ optimizer steps and $b$ from then on. With $a = 0$ it switches an
    adversarial loss on once the autoencoder reconstructs well. Use it as
    [`CosineSchedule`][gan_blocks.CosineSchedule].

    Args:
        start: $a$.
        end: $b$.
        steps: $T$.
        device: Where the buffer is made.

    Shape:
        No input; the result is a scalar.

    Example:
        >>> from gan_blocks import StepSchedule
        >>> weight = StepSchedule(start=0.0, end=0.8, steps=3)
        >>> [weight.at(t) for t in range(5)]
        [0.0, 0.0, 0.0, 0.8, 0.8]

    Reference:
        Esser, Rombach and Ommer, "Taming Transformers for High-Resolution Image Synthesis" (VQGAN),
        2021, arXiv:2012.09841, section 3.1: the discriminator sets in after a number of steps.
    """

    def __init__(
        self,
        start: float,
        end: float,
        steps: PositiveInt,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(start, end, steps, _step_progress, device)
