"""Historical averaging."""

from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks.precision import at_least_float32
from gan_blocks.spec import block


@block(
    double_backward=True,
    distributed=True,
    side="both",
    compares="module",
)
class HistoricalAveraging(nn.Module):
    r"""Holds a player's weights near their average over the past.

    With the parameters $\theta$ of a module, and $\theta_1, \dots, \theta_t$ what they were at the
    calls before,

    $$\left\|\theta - \frac1t \sum_{i=1}^t \theta_i\right\|^2.$$

    Added to the loss of each player, it makes gradient descent find equilibria that it would circle
    otherwise. Use one instance per module. Each call in training mode adds $\theta$ to the average
    afterwards; the first one gives 0. The average is in `state_dict`, which loads into a new
    instance too.

    Shape:
        Takes a module; the result is a scalar of at least float32.

    Raises:
        ValueError: If the module has no parameters to train, or another number of them than before.

    Example:
        >>> import torch
        >>> module, term = torch.nn.Linear(2, 1, bias=False), HistoricalAveraging()
        >>> for w in (1.0, 3.0, 5.0):
        ...     _ = torch.nn.init.constant_(module.weight, w)
        ...     print(term(module).item())
        0.0
        8.0
        18.0

    Reference:
        Salimans et al., "Improved Techniques for Training GANs", 2016, arXiv:1606.03498, section 3.3.
    """

    average: Tensor
    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(0))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, module: nn.Module) -> Tensor:
        """The squared distance of the module's parameters from their average."""
        parameters = [at_least_float32(p) for p in module.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError(
                f"this {type(module).__name__} has no parameters that require a gradient"
            )
        theta = torch.cat([p.reshape(-1) for p in parameters])
        if not len(self.average):
            self.average = torch.zeros_like(theta)
        elif len(theta) != len(self.average):
            raise ValueError(
                f"this {type(module).__name__} has {len(theta)} parameters, and the average is over "
                f"{len(self.average)}; use one HistoricalAveraging for each module"
            )
        average = torch.where(self.steps > 0, self.average, theta.detach())
        distance = (theta - average).square().sum()
        if self.training:
            self.steps = self.steps + 1
            self.average = average + (theta.detach() - average) / self.steps
        return distance

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: Any, prefix: str, *args: Any
    ) -> None:
        # A new instance does not know yet how many parameters the average is over.
        saved = state_dict.get(f"{prefix}average")
        if isinstance(saved, Tensor):
            self.average = self.average.new_zeros(saved.shape, dtype=saved.dtype)
        super()._load_from_state_dict(state_dict, prefix, *args)
