"""Historical averaging."""

from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks._checks import check_module
from gan_blocks.authoring import Clocked
from gan_blocks.precision import at_least_float32
from gan_blocks.spec import block


@block(
    double_backward=True,
    distributed=True,
    side="both",
    compares="module",
)
class HistoricalAveraging(Clocked):
    r"""Penalizes the distance of a network's weights from their average over past steps.

    With the parameters $\theta$ of a module, and $\theta_1, \dots, \theta_t$ what they were in the
    optimizer steps before,

    $$\left\|\theta - \frac1t \sum_{i=1}^t \theta_i\right\|^2.$$

    Added to the loss of each player, it makes gradient descent find equilibria that it would circle
    otherwise. Use one instance per module. The first step gives 0.

    It advances with the optimizer of its module: call [`follow`][gan_blocks.follow]`(optimizer, term)`
    once, or `term.step()` after each step. Each step adds the weights of the last forward to the
    average, however often the term was computed. The average can be loaded into a new instance.

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
        ...     term.step()
        0.0
        8.0
        18.0

    Reference:
        Salimans et al., "Improved Techniques for Training GANs", 2016, arXiv:1606.03498, section 3.3.
    """

    average: Tensor
    averaged: Tensor
    last: Tensor | None
    """The weights in the last forward since the step."""

    wide_buffers = ("average", "last")

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(0))
        self.register_buffer("averaged", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", None, persistent=False)

    def forward(self, module: nn.Module) -> Tensor:
        """Return the squared distance of the module's parameters from their average."""
        check_module("module", module)
        parameters = [at_least_float32(p) for p in module.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError(
                f"module should have parameters that require a gradient; this {type(module).__name__} "
                "has none"
            )
        # A copy, even of a single parameter: the optimizer changes it in place.
        theta = torch.cat([p.reshape(-1) for p in parameters])
        for known in (self.average, self.last):
            if known is not None and len(known) not in (0, len(theta)):
                raise ValueError(
                    f"module should be the one of earlier steps, with {len(known)} parameters, got a "
                    f"{type(module).__name__} with {len(theta)}; use one HistoricalAveraging for each "
                    "module"
                )
        if self.training and torch.is_grad_enabled():
            self.note_forward()
            self.refuse_many(theta)
            self.last = theta.detach()
        average = self.average if len(self.average) else theta.detach()
        return (theta - average).square().sum()

    def on_step(self) -> None:
        if self.last is None:
            return
        self.averaged = self.averaged + 1
        before = self.average if len(self.average) else self.last
        self.average = before + (self.last - before) / self.averaged
        self.last = None

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: Any, prefix: str, *args: Any
    ) -> None:
        # A new instance does not know yet how many parameters the average is over.
        saved = state_dict.get(f"{prefix}average")
        if isinstance(saved, Tensor):
            self.average = self.average.new_zeros(saved.shape, dtype=saved.dtype)
        super()._load_from_state_dict(state_dict, prefix, *args)
