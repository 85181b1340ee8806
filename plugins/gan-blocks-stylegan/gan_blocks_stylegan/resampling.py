"""Doubling and halving of images by a FIR filter."""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor, nn

from gan_blocks import block
from gan_blocks.authoring import check_tensor

Taps = Annotated[tuple[float, ...], MinLen(2)]
"""A filter of one dimension, not normalised."""

BINOMIAL = (1.0, 3.0, 3.0, 1.0)


def line_of(
    taps: tuple[float, ...], device: torch.device | str | None, dtype: torch.dtype | None
) -> Tensor:
    """The filter, scaled to sum 1."""
    total = sum(taps)
    if not total:
        raise ValueError(f"taps should have a sum other than 0, got {taps}")
    return torch.tensor([t / total for t in taps], device=device, dtype=dtype)


def filtered(x: Tensor, line: Tensor, padding: tuple[int, int], stride: int = 1) -> Tensor:
    """Convolution of each channel with the filter in both directions, on zeros before and behind."""
    channels, flipped = x.shape[1], line.to(x.dtype).flip(0)
    kernel = (flipped[:, None] * flipped).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(x, padding * 2), kernel, stride=stride, groups=channels)


def check_maps(block: nn.Module, x: Tensor) -> None:
    check_tensor("x", x, of=block)
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(
            f"{type(block).__name__} takes maps of shape (N, C, H, W), none empty, got {tuple(x.shape)}"
        )


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class Upsample2d(nn.Module):
    r"""Doubles a map: zeros between the pixels, then a low-pass filter.

    With $x_{\uparrow}$ the map with a zero row and a zero column behind each of its own, and a filter
    $f$ of $L$ taps, whose sum is made 1,

    $$y_{ij} = 4 \sum_{a=0}^{L-1} \sum_{b=0}^{L-1} f_a f_b\,
      x_{\uparrow,\; i + \lfloor L/2 \rfloor - 1 - a,\; j + \lfloor L/2 \rfloor - 1 - b},$$

    where pixels outside are 0. The factor makes up for the zeros, so the inside of a constant image
    stays as it is if the even and the odd taps have the same sum. At the edge the filter sees the
    outside. With $[1, 3, 3, 1]$ each new pixel is the mean of its neighbours with weights 9, 3, 3 and 1:
    bilinear interpolation.

    Args:
        taps: $f$ before it is scaled.
        device: Where the filter lies.
        dtype: Its dtype.

    Shape:
        `(N, C, H, W)` to `(N, C, 2H, 2W)`.

    Raises:
        ValueError: If the taps add up to 0, or the map has another shape.

    Example:
        >>> import torch
        >>> Upsample2d()(torch.ones(1, 1, 2, 2))[0, 0]
        tensor([[0.5625, 0.7500, 0.7500, 0.5625],
                [0.7500, 1.0000, 1.0000, 0.7500],
                [0.7500, 1.0000, 1.0000, 0.7500],
                [0.5625, 0.7500, 0.7500, 0.5625]])

    Reference:
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020,
        arXiv:1912.04958, appendix B; padding and gain are those of `upfirdn2d` in its code. The filter
        itself is that of Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019,
        arXiv:1904.11486.
    """

    line: Tensor

    def __init__(
        self,
        taps: Taps = BINOMIAL,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("line", line_of(taps, device, dtype))

    def forward(self, x: Tensor) -> Tensor:
        """The doubled map."""
        check_maps(self, x)
        (_, channels, h, w), line = x.shape, self.line.to(x.dtype)
        # A transposed convolution with stride 2 inserts the zeros without writing them.
        kernel = 4 * (line[:, None] * line).expand(channels, 1, -1, -1)
        y = F.conv_transpose2d(x, kernel, stride=2, groups=channels)
        start = len(line) // 2 - 1
        return y[:, :, start : start + 2 * h, start : start + 2 * w]


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class Downsample2d(nn.Module):
    r"""Halves a map: a low-pass filter, then every other pixel.

    With a filter $f$ of $L$ taps, whose sum is made 1,

    $$y_{ij} = \sum_{a=0}^{L-1} \sum_{b=0}^{L-1} f_a f_b\,
      x_{2i + \lfloor L/2 \rfloor - a,\; 2j + \lfloor L/2 \rfloor - b},$$

    where pixels outside are 0. A constant image stays constant inside. For a symmetric filter of even
    length it is the adjoint of [`Upsample2d`][gan_blocks_stylegan.Upsample2d], divided by 4.

    Args:
        taps: $f$ before it is scaled.
        device: Where the filter lies.
        dtype: Its dtype.

    Shape:
        `(N, C, H, W)` to `(N, C, H / 2, W / 2)`.

    Raises:
        ValueError: If the taps add up to 0, the map has another shape, or a side is odd.

    Example:
        >>> import torch
        >>> Downsample2d()(torch.ones(1, 1, 6, 6))[0, 0]
        tensor([[0.7656, 0.8750, 0.7656],
                [0.8750, 1.0000, 0.8750],
                [0.7656, 0.8750, 0.7656]])

    Reference:
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020,
        arXiv:1912.04958, appendix B; padding and gain are those of `upfirdn2d` in its code. The filter
        itself is that of Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019,
        arXiv:1904.11486.
    """

    line: Tensor

    def __init__(
        self,
        taps: Taps = BINOMIAL,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("line", line_of(taps, device, dtype))

    def forward(self, x: Tensor) -> Tensor:
        """The halved map."""
        check_maps(self, x)
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(f"Downsample2d takes maps of even sides, got {tuple(x.shape)}")
        taps = len(self.line)
        return filtered(x, self.line, ((taps - 1) // 2, (taps - 2) // 2), stride=2)
