"""A penalty on some steps only."""

from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks.spec import block
from gan_blocks.types import Critic, Penalty, PositiveInt


@block(double_backward=True, autocast=True, distributed=True)
class Lazy(nn.Module):
    r"""Lazy regularisation: a penalty on some steps only, and stronger there.

    The first call gives $k$ times the penalty, the next $k - 1$ calls give 0 without touching the
    critic, and so on. On average the gradient is that of the penalty on every step, at $1/k$ of its
    cost. The number of calls lies in `state_dict`, and stands still in evaluation mode. It is a Python
    number, so a compiled step would be compiled for each of its values: compile the step with the
    penalty and the one without, and choose by [`is_due`][gan_blocks.Lazy.is_due].

    StyleGAN2 steps Adam for the penalty by itself, so $k + 1$ times where it would step $k$ times. To
    make up for it, it multiplies the learning rate by $c = k/(k+1)$ and raises both $\beta$ to the power
    $c$; [`adam`][gan_blocks.Lazy.adam] computes them. A penalty that is added to the loss adds no step.

    Args:
        penalty: Which penalty.
        every: $k$; 16 for R1 in StyleGAN2.

    Shape:
        As the penalty's.

    Example:
        >>> import torch
        >>> from gan_blocks import MLPDiscriminator, R1Penalty
        >>> critic, penalty = MLPDiscriminator((2,)), Lazy(R1Penalty(gamma=1.0), every=4)
        >>> real, fake = torch.randn(2, 8, 2)
        >>> [bool(penalty(critic, real, fake) > 0) for _ in range(5)]
        [True, False, False, False, True]
        >>> optimiser = torch.optim.Adam(critic.parameters(), **penalty.adam(2e-3, (0.0, 0.99)))

    Reference:
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020,
        arXiv:1912.04958, section 3.1 and appendix B.
    """

    def __init__(self, penalty: Penalty, every: PositiveInt = 16) -> None:
        super().__init__()
        self.penalty = penalty
        self.every = every
        self.calls = 0

    def is_due(self) -> bool:
        """Whether the next call computes the penalty."""
        return self.calls % self.every == 0

    def forward(
        self,
        critic: Critic,
        real: Tensor,
        fake: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The penalty times `every` where it is due, else 0."""
        samples = [x for x in (real, fake) if isinstance(x, Tensor)]
        if not samples:
            raise TypeError("the penalty needs a tensor of samples, got neither real nor fake ones")
        if self.is_due():
            value = self.every * self.penalty(critic, real, fake, generator=generator)  # type: ignore[arg-type]
        else:
            value = torch.zeros((), device=samples[0].device)
        if self.training:
            self.calls += 1
        return value

    def adam(self, lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> dict[str, Any]:
        """Adam's arguments, adjusted as in StyleGAN2.

        Args:
            lr: The learning rate without lazy regularisation.
            betas: Likewise.
        """
        c = self.every / (self.every + 1)
        return {"lr": c * lr, "betas": (betas[0] ** c, betas[1] ** c)}

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls = int(state)
