"""Numbers that change as a training goes on."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gan_blocks.spec import block
from gan_blocks.types import PositiveInt


class _Schedule(nn.Module):
    """From `start` to `end` in so many steps, and `end` from then on."""

    count: Tensor

    def __init__(
        self,
        start: float,
        end: float,
        steps: int,
        share: Callable[[Tensor], Tensor],
        device: torch.device | str | None,
    ) -> None:
        super().__init__()
        self.start = start
        self.end = end
        self.steps = steps
        # How much of the way from start to end is behind, when so much of the time is.
        self._share = share
        self.register_buffer("count", torch.zeros((), dtype=torch.int64, device=device))

    def forward(self) -> Tensor:
        """The present value, a scalar of float32."""
        # float64 where there is one: float32 does not tell the steps beyond 16 million apart.
        exact = torch.float32 if self.count.device.type == "mps" else torch.float64
        return self._value((self.count.to(exact) / self.steps).clamp(max=1.0)).float()

    def at(self, step: int) -> float:
        """The value after so many steps."""
        done = min(max(step / self.steps, 0.0), 1.0)
        return self._value(torch.tensor(done, dtype=torch.float64)).item()

    @torch.no_grad()
    def step(self) -> None:
        """Go on by one step."""
        # A new tensor: what a compiled step keeps of the old one for its backward pass has to stay.
        self.count = self.count + 1

    def _value(self, done: Tensor) -> Tensor:
        share = self._share(done)
        return (1 - share) * self.start + share * self.end


def _along_a_cosine(done: Tensor) -> Tensor:
    return (1 - torch.cos(math.pi * done)) / 2


def _along_a_line(done: Tensor) -> Tensor:
    return done


def _at_once(done: Tensor) -> Tensor:
    return (done >= 1).to(done.dtype)


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class CosineSchedule(_Schedule):
    r"""A number that changes along half a cosine.

    After $t$ of $T$ steps it is

    $$b + (a - b)\, \frac{1 + \cos(\pi\, \min(t/T, 1))}{2}.$$

    The number of steps lies in a buffer: it is saved with `state_dict`, and a compiled step that
    uses the value is not compiled again when it changes. In front of a penalty
    [`Scheduled`][gan_blocks.Scheduled] calls it; elsewhere multiply a term by `schedule()` and call
    `schedule.step()` once in each step of the training.

    Args:
        start: $a$.
        end: $b$, also from then on.
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
        super().__init__(start, end, steps, _along_a_cosine, device)


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class LinearSchedule(_Schedule):
    r"""A number that changes along a line.

    After $t$ of $T$ steps it is $a + (b - a) \min(t/T, 1)$. It is used as
    [`CosineSchedule`][gan_blocks.CosineSchedule].

    Args:
        start: $a$.
        end: $b$, also from then on.
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
        super().__init__(start, end, steps, _along_a_line, device)


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class StepSchedule(_Schedule):
    r"""A number that changes at once.

    It is $a$ for the first $T$ steps and $b$ from then on: with $a = 0$ an adversarial loss that
    sets in once the autoencoder draws something. It is used as
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
        super().__init__(start, end, steps, _at_once, device)
