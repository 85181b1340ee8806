"""Weight clipping of the first WGAN paper."""

import torch
from torch import Tensor, nn

from gan_blocks.spec import block
from gan_blocks.types import PositiveFloat

# pyright: reportPrivateImportUsage=false


@block()
class WeightClipper:
    r"""Clips the weights and biases of a module to a box, in place.

    Every entry is clipped to $[-c, c]$. Call it after **every** step of the critic's optimiser. The
    Lipschitz constant of a multilayer perceptron clipped this way has a bound that depends on its
    widths only; [`lipschitz_bound`][gan_blocks.lipschitz_bound] gives a number. Scales and offsets
    of normalisation layers, which are known by their `eps`, are left alone: clipped to 0.01 they
    would switch the layer off.

    Args:
        bound: $c$.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> critic = nn.Linear(4, 1)
        >>> clip = WeightClipper(bound=0.01)
        >>> clip(critic)
        >>> bool(critic.weight.abs().max() <= 0.01)
        True

    Reference:
        Arjovsky, Chintala and Bottou, "Wasserstein GAN", 2017, arXiv:1701.07875, algorithm 1, line 7.
    """

    def __init__(self, bound: PositiveFloat = 0.01) -> None:
        self.bound = bound

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> None:
        """Clip the parameters.

        Args:
            module: The critic.
        """
        parameters: list[Tensor] = [
            parameter
            for part in module.modules()
            if not hasattr(part, "eps")
            for parameter in part.parameters(recurse=False)
        ]
        if parameters:
            torch._foreach_clamp_min_(parameters, -self.bound)
            torch._foreach_clamp_max_(parameters, self.bound)
