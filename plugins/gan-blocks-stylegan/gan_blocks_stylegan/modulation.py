"""Convolution with a style."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_blocks import block
from gan_blocks.authoring import check_tensor
from gan_blocks.types import PositiveFloat, PositiveInt
from gan_blocks_stylegan.resampling import BINOMIAL, filtered, line_of


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class ModulatedConv2d(nn.Module):
    r"""A convolution whose weights are scaled by a style of each sample, then normalised.

    With weights $w_{oikl}$ of learning rate equalised, $w = W / \sqrt{\mathrm{in\_channels}\, k^2}$ and
    $W \sim N(0, 1)$, and a style $s_i$ for each input channel, the sample is convolved with

    $$w'_{oikl} = s_i\, w_{oikl}, \qquad
      w''_{oikl} = \frac{w'_{oikl}}{\sqrt{\sum_{ikl} {w'_{oikl}}^2 + \epsilon}}.$$

    For inputs that are independent with variance 1 the second step, demodulation, makes the variance of
    each output channel 1: a style says how much a channel counts, not how large the result is. So it
    takes the place of instance normalisation, without that one's droplets.

    The factors of $w''$ depend on $i$ or on $o$ alone, so they are put on the input and on the output
    of one convolution that all samples share. That is the same number to rounding, and needs neither
    weights for each sample, $N$ times the memory, nor a convolution of $N$ groups, which is slow and
    slower still when it is differentiated twice.

    With `upsample` the map is doubled first, as by [`Upsample2d`][gan_blocks_stylegan.Upsample2d], and
    convolved with what the filter has spread beyond its edge.

    Args:
        in_channels: Channels of an input.
        out_channels: Channels of an output.
        kernel_size: $k$, odd; the map keeps its size.
        demodulate: Whether to use $w''$; else $w'$.
        upsample: Whether to double the map.
        eps: $\epsilon$.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, in_channels, H, W)` and styles `(N, in_channels)` to `(N, out_channels, H, W)`, or
        `(N, out_channels, 2H, 2W)`.

    Raises:
        ValueError: If the kernel is even, or maps or styles have another shape.

    Example:
        >>> import torch
        >>> layer = ModulatedConv2d(8, 4, 3, upsample=True)
        >>> layer(torch.randn(2, 8, 16, 16), torch.randn(2, 8)).shape
        torch.Size([2, 4, 32, 32])

    Reference:
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020,
        arXiv:1912.04958, section 2.2, equations 1 and 3. Its later PyTorch code leaves out the factor
        of $w$ where it demodulates, which differs by $\epsilon$ only, and flips the kernel where it
        doubles, which renames the weights.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        out_channels: PositiveInt,
        kernel_size: PositiveInt,
        demodulate: bool = True,
        upsample: bool = False,
        eps: PositiveFloat = 1e-8,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size should be odd, got {kernel_size}")
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.randn(shape, **options))
        self.scale = 1 / math.sqrt(in_channels * kernel_size**2)
        self.demodulate = demodulate
        self.upsample = upsample
        self.eps = eps
        self.line: Tensor | None
        self.register_buffer("line", line_of(BINOMIAL, **options) if upsample else None)

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        """The convolution, each sample with its style."""
        check_tensor("x", x, of=self)
        check_tensor("styles", styles, of=self)
        channels = self.weight.shape[1]
        if x.dim() != 4 or x.shape[1] != channels or styles.shape != x.shape[:2]:
            raise ValueError(
                f"ModulatedConv2d takes maps of shape (N, {channels}, H, W) and styles "
                f"(N, {channels}), got {tuple(x.shape)} and {tuple(styles.shape)}"
            )
        w = self.weight * self.scale
        y = self._convolved(x * styles[:, :, None, None], w)
        if self.demodulate:
            # A sum over i of s_i^2 times the sum over k, l of w_oikl^2.
            squares = F.linear(styles.square(), w.square().sum((2, 3)))
            y = y * torch.rsqrt(squares + self.eps)[:, :, None, None].to(y.dtype)
        return y

    def _convolved(self, x: Tensor, w: Tensor) -> Tensor:
        half = w.shape[2] // 2
        if self.line is None:
            return F.conv2d(x, w, padding=half)
        # Convolutions may change places: on the small map first, into its doubled raster, then the
        # filter, with gain 4. The transposed one reads the kernel backwards.
        y = F.conv_transpose2d(x, w.transpose(0, 1).flip(2, 3), stride=2)
        return 4 * filtered(y, self.line, (2 - half, 2 - half))
