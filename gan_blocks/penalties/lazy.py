"""A penalty that is applied every k steps."""

from typing import Any

import torch
from torch import Tensor

from gan_blocks._checks import check_generator, type_name
from gan_blocks._input_gradient import check_critic
from gan_blocks.authoring import Clocked
from gan_blocks.spec import block
from gan_blocks.types import Critic, Penalty, PositiveInt


@block(double_backward=True, autocast=True, distributed=True)
class Lazy(Clocked):
    r"""Lazy regularization: applies a penalty only every k steps, k times as strong.

    On the first optimizer step it gives $k$ times the penalty, on the next $k - 1$ steps it gives 0
    without running the critic, and so on. On average the gradient is that of the penalty on every step,
    at $1/k$ of its cost. All forwards of one step agree, so the parts of an accumulated batch are
    treated alike.

    It advances with the critic's optimizer: call [`follow`][gan_blocks.follow]`(optimizer, penalty)`
    once, or `penalty.step()` after each step. A compiled step is compiled twice, with the penalty and
    without.

    StyleGAN2 gives the penalty an Adam step of its own, so $k + 1$ steps instead of $k$. To compensate,
    it multiplies the learning rate by $c = k/(k+1)$ and raises both $\beta$ to the power $c$.
    [`adam`][gan_blocks.Lazy.adam] computes them for a loop that does so. There, step the penalty by hand
    once per iteration. A penalty that is added to the loss needs no compensation.

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
        >>> for _ in range(5):
        ...     print(bool(penalty(critic, real, fake) > 0), end=" ")
        ...     penalty.step()
        True False False False True

    Reference:
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020,
        arXiv:1912.04958, section 3.1 and appendix B.
    """

    def __init__(self, penalty: Penalty, every: PositiveInt = 16) -> None:
        super().__init__()
        self.penalty = penalty
        self.every = every
        self._set_count(0)

    def is_due(self) -> bool:
        """Return whether the penalty is computed in the present step."""
        return self._due

    def on_step(self) -> None:
        self._set_count(self._count + 1)

    def _set_count(self, count: int) -> None:
        # A copy of `step_count` in Python: reading the buffer would wait for the device.
        self._count = count
        self._due = count % self.every == 0

    def forward(
        self,
        critic: Critic,
        real: Tensor,
        fake: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the penalty times `every` where it is due, else 0."""
        samples = [x for x in (real, fake) if isinstance(x, Tensor)]
        check_critic(critic)
        check_generator(generator)
        if not samples:
            raise TypeError(f"real should be a tensor of samples, got {type_name(real)}")
        self.note_forward(required=True)
        if not self._due:
            return torch.zeros((), device=samples[0].device)
        return self.every * self.penalty(critic, real, fake, generator=generator)  # type: ignore[arg-type]

    def adam(self, lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> dict[str, Any]:
        """Return Adam's arguments, adjusted as in StyleGAN2.

        Args:
            lr: The learning rate without lazy regularization.
            betas: The betas without it.
        """
        c = self.every / (self.every + 1)
        return {"lr": c * lr, "betas": (betas[0] ** c, betas[1] ** c)}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._set_count(int(self.step_count))
