"""A penalty whose weight changes."""

import torch
from torch import Tensor, nn

from gan_blocks.spec import block
from gan_blocks.types import Critic, Penalty, Schedule


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class Scheduled(nn.Module):
    r"""A penalty times a number that changes as the training goes on.

    The first call has the schedule's value at step 0, the next one that at step 1, and so on; in
    evaluation mode the schedule stands still. So one call belongs to one step of the critic. Give
    the penalty the weight 1, and the schedule's values are the weight.

    Around [`Lazy`][gan_blocks.Lazy] every step counts; inside it, only those on which the penalty is
    due. The count lies in a buffer: it is saved, and a compiled step is not compiled again when it
    changes.

    Args:
        penalty: Which penalty.
        schedule: What it is multiplied by.

    Shape:
        As the penalty's.

    Example:
        >>> import torch
        >>> from gan_blocks import CosineSchedule, MLPDiscriminator, R1Penalty, Scheduled
        >>> critic, real = MLPDiscriminator((2,)), torch.randn(8, 2)
        >>> penalty = Scheduled(R1Penalty(gamma=1.0), CosineSchedule(2.0, 0.2, steps=100))
        >>> torch.testing.assert_close(penalty(critic, real), 2 * R1Penalty(gamma=1.0)(critic, real))

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
        """The penalty, its weight and the schedule's value included.

        Args:
            critic: The critic, or any function of a batch.
            real: Real samples.
            fake: Generated samples.
            generator: Passed on.
        """
        value = self.penalty(critic, real, fake, generator=generator)  # type: ignore[arg-type]
        weight = self.schedule()
        if self.training:
            self.schedule.step()
        return weight * value
