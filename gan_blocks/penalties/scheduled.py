"""A penalty whose weight changes."""

import torch
from torch import Tensor

from gan_blocks.authoring import Clocked
from gan_blocks.spec import block
from gan_blocks.types import Critic, Penalty, Schedule


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class Scheduled(Clocked):
    r"""Multiplies a penalty by a schedule.

    In the first optimizer step the factor is the schedule's value at step 0, in the next one that at
    step 1, and so on. Give the penalty the weight 1, and the schedule's values are the weight.

    It advances with the critic's optimizer: call [`follow`][gan_blocks.follow]`(optimizer, penalty)`
    once, or `penalty.step()` after each step. Around [`Lazy`][gan_blocks.Lazy] or inside it, every step
    counts.

    Args:
        penalty: Which penalty.
        schedule: Its factor, such as [`CosineSchedule`][gan_blocks.CosineSchedule]. A schedule of your
            own derives from [`Clocked`][gan_blocks.authoring.Clocked].

    Shape:
        As the penalty's.

    Raises:
        ValueError: If the schedule is not clocked, so that it would stay at its first value.

    Example:
        >>> import torch
        >>> from gan_blocks import CosineSchedule, MLPDiscriminator, R1Penalty, Scheduled
        >>> critic, real = MLPDiscriminator((2,)), torch.randn(8, 2)
        >>> penalty = Scheduled(R1Penalty(gamma=1.0), CosineSchedule(2.0, 0.2, steps=100))
        >>> torch.testing.assert_close(penalty(critic, real), 2 * R1Penalty(gamma=1.0)(critic, real))
        >>> penalty.step()

    Reference:
        Huang et al., "The GAN is dead; long live the GAN! A Modern GAN Baseline", 2024,
        arXiv:2501.05441, appendix D, with a cosine for the weight of R1 and R2.
    """

    def __init__(self, penalty: Penalty, schedule: Schedule) -> None:
        super().__init__()
        self.penalty = penalty
        self.schedule = schedule

    def forward(
        self,
        critic: Critic,
        real: Tensor,
        fake: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the penalty times the schedule's current value.

        Args:
            critic: The critic, or any function of a batch.
            real: Real samples.
            fake: Generated samples.
            generator: Passed on.
        """
        self.note_forward(required=True)
        return self.schedule() * self.penalty(critic, real, fake, generator=generator)  # type: ignore[arg-type]
