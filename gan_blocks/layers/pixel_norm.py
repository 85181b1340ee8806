"""Pixelwise feature normalisation."""

import torch
from torch import Tensor, nn

from gan_blocks._checks import check_tensor
from gan_blocks.lipschitz import lipschitz_rule
from gan_blocks.precision import at_least_float32
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, PositiveFloat


@block(double_backward=True, compile=True, autocast=True, distributed=True, dtypes=ALL_FLOATS)
class PixelNorm(nn.Module):
    r"""Gives the channels at each pixel the length of a vector of ones.

    For the $C$ channels $x_c$ of one pixel, or of one latent vector,

    $$y_c = \frac{x_c}{\sqrt{\frac1C \sum_j x_j^2 + \epsilon}}.$$

    It keeps the signal of a generator from growing without a statistic of the batch, so no sample
    depends on its batch mates. Half precision is computed in float32, where the squares of float16 fit.

    Args:
        eps: $\epsilon$.

    Shape:
        `(N, C, ...)` to the same.

    Raises:
        ValueError: If there is no dimension of channels.

    Example:
        >>> import torch
        >>> PixelNorm()(torch.tensor([[3.0, 4.0]]))
        tensor([[0.8485, 1.1314]])

    Reference:
        Karras et al., "Progressive Growing of GANs", 2018, arXiv:1710.10196, section 4.2.
    """

    def __init__(self, eps: PositiveFloat = 1e-8) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """The normalised features."""
        check_tensor("x", x, ("N", "C", ...), of=self)
        y = at_least_float32(x)
        return (y * torch.rsqrt(y.square().mean(1, keepdim=True) + self.eps)).to(x.dtype)


@lipschitz_rule(PixelNorm)
def _slope_at_zero(module: PixelNorm, input_shape: tuple[int, ...]) -> float:
    # With r the mean square, the slope is eps (r + eps)^(-3/2) along x and (r + eps)^(-1/2) across.
    return module.eps**-0.5
