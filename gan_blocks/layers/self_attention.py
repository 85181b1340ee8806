"""Self-attention over the positions of an image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_blocks._checks import check_tensor, explains_failures
from gan_blocks.precision import at_least_float32, without_autocast
from gan_blocks.spec import block
from gan_blocks.types import PositiveInt


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class SelfAttention2d(nn.Module):
    r"""Lets each position of a map look at all others.

    With $f = W_f x$, $g = W_g x$, $h = W_h x$ by 1x1 convolutions, position $j$ takes from position
    $i$ the share

    $$\beta_{j,i} = \frac{e^{s_{ij}}}{\sum_{k} e^{s_{kj}}}, \qquad s_{ij} = f(x_i)^\top g(x_j),
      \qquad y_j = x_j + \gamma\, W_v \sum_i \beta_{j,i}\, h(x_i).$$

    The shares of a position sum to 1. $\gamma$ starts at 0, so a network begins with what it finds
    near by; until it moves, no other weight of the layer gets a gradient.

    The shares take $N (HW)^2$ numbers: 64 MiB for one image of 64x64 in float32, a quarter of it with
    `pool`. They are computed by plain operations, since fused attention cannot be differentiated
    twice.

    Args:
        in_channels: Channels $C$ of the map.
        key_channels: Channels of $f$ and $g$; $C/8$ if left out, 1 at least.
        value_channels: Channels of $h$; as many as `key_channels` if left out.
        pool: Whether $f$ and $h$ are halved by max pooling, as in the authors' code.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, C, H, W)` to the same.

    Raises:
        ValueError: If the map has another shape, or is too small to be halved.

    Example:
        >>> import torch
        >>> attention = SelfAttention2d(16)
        >>> attention(torch.randn(2, 16, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
        >>> attention.shares(torch.randn(2, 16, 8, 8)).sum(2).allclose(torch.ones(2, 64))
        True

    Reference:
        Zhang et al., "Self-Attention Generative Adversarial Networks", 2019, arXiv:1805.08318,
        section 3. The paper's $h$ has $C/8$ channels; its code takes $C/2$ and pools.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        key_channels: PositiveInt | None = None,
        value_channels: PositiveInt | None = None,
        pool: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        key_channels = key_channels or max(1, in_channels // 8)
        value_channels = value_channels or key_channels

        def convolution(before: int, after: int) -> nn.Conv2d:
            return nn.Conv2d(before, after, 1, bias=False, device=device, dtype=dtype)

        self.in_channels = in_channels
        self.pool = pool
        self.f = convolution(in_channels, key_channels)
        self.g = convolution(in_channels, key_channels)
        self.h = convolution(in_channels, value_channels)
        self.v = convolution(value_channels, in_channels)
        self.gamma = nn.Parameter(torch.zeros((), device=device, dtype=dtype))

    @explains_failures
    def shares(self, x: Tensor) -> Tensor:
        r"""$\beta$: how much each position takes from each other, `(N, HW, positions)`."""
        self._check(x)
        g, f = self.g(x).flatten(2), self._halved(self.f(x)).flatten(2)
        with without_autocast(x):  # products of half precision may leave its range
            return (at_least_float32(g).mT @ at_least_float32(f)).softmax(2)

    @explains_failures
    def forward(self, x: Tensor) -> Tensor:
        """The map with what the positions took from each other."""
        self._check(x)
        h = self._halved(self.h(x)).flatten(2)
        o = h @ self.shares(x).to(h.dtype).mT
        return x + self.gamma * self.v(o.unflatten(2, x.shape[2:]))

    def _check(self, x: Tensor) -> None:
        smallest = 2 if self.pool else 1
        check_tensor("x", x, ("N", self.in_channels, "H", "W"), of=self, smallest=smallest)

    def _halved(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2) if self.pool else x
