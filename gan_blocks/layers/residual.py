"""Residual blocks that double or halve a map."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_blocks._checks import check_tensor, explains_failures
from gan_blocks.labels import labels_for
from gan_blocks.layers._batch_norm import BatchNorm2d
from gan_blocks.layers.conditional_batch_norm import ConditionalBatchNorm2d
from gan_blocks.lipschitz import lipschitz_bound, lipschitz_rule
from gan_blocks.spec import block
from gan_blocks.types import NonNegativeInt, PositiveInt


def _convolution(before: int, after: int, size: int, gain: float, options: Any) -> nn.Conv2d:
    layer = nn.Conv2d(before, after, size, padding=size // 2, **options)
    nn.init.xavier_uniform_(layer.weight, gain)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="batch norm normalizes by the mean and variance of the batch",
    moves_in_forward=True,
)
class ResidualUp2d(nn.Module):
    r"""A residual block of a generator, which doubles the map.

    Batch norm, ReLU, doubling and 3x3 convolution, then batch norm, ReLU and 3x3 convolution; added
    to them the doubled map through a 1x1 convolution. Doubling repeats each pixel. With classes the
    batch norm is [`ConditionalBatchNorm2d`][gan_blocks.ConditionalBatchNorm2d].

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of the result.
        num_classes: Number of classes; 0 for none.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, in_channels, H, W)`, and labels `(N,)` with classes, to `(N, out_channels, 2H, 2W)`.

    Raises:
        ValueError: If the map has another shape, or labels are missing or needless.

    Example:
        >>> import torch
        >>> ResidualUp2d(8, 4)(torch.randn(2, 8, 4, 4)).shape
        torch.Size([2, 4, 8, 8])

    Reference:
        Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018,
        arXiv:1802.05957, appendix B.4; Gulrajani et al., 2017, arXiv:1704.00028, appendix F.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        out_channels: PositiveInt,
        num_classes: NonNegativeInt = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.norm1 = self._norm(in_channels, options)
        self.conv1 = _convolution(in_channels, out_channels, 3, math.sqrt(2), options)
        self.norm2 = self._norm(out_channels, options)
        self.conv2 = _convolution(out_channels, out_channels, 3, math.sqrt(2), options)
        self.shortcut = _convolution(in_channels, out_channels, 1, 1.0, options)

    def _norm(self, channels: int, options: dict[str, Any]) -> nn.Module:
        if self.num_classes:
            return ConditionalBatchNorm2d(channels, self.num_classes, **options)
        return BatchNorm2d(channels, **options)

    @explains_failures
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The doubled map."""
        check_tensor("x", x, ("N", self.in_channels, "H", "W"), of=self, smallest=1)
        given = labels_for(self, labels, len(x), x.device)
        y = self.norm1(x, *given).relu()
        y = self.conv1(F.interpolate(y, scale_factor=2))
        y = self.conv2(self.norm2(y, *given).relu())
        # A 1x1 convolution and the repetition of pixels may change places; this order is cheaper.
        return y + F.interpolate(self.shortcut(x), scale_factor=2)


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class ResidualDown2d(nn.Module):
    r"""A residual block of a discriminator, which may halve the map.

    ReLU and 3x3 convolution, twice, then the mean over 2x2 pixels; added to them the map through a
    1x1 convolution and the same mean. Where nothing is halved and no channels change, the map itself
    is added. The first block of a network leaves out the first ReLU, so that it sees the image.

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of the result.
        downsample: Whether to halve the map.
        first: Whether it is the first block of a network.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, in_channels, H, W)` to `(N, out_channels, H // 2, W // 2)`, or `(N, out_channels, H, W)`.

    Raises:
        ValueError: If the map has another number of channels, or is too small to be halved.

    Example:
        >>> import torch
        >>> ResidualDown2d(4, 8)(torch.randn(2, 4, 8, 8)).shape
        torch.Size([2, 8, 4, 4])

    Reference:
        Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018,
        arXiv:1802.05957, appendix B.4; Gulrajani et al., 2017, arXiv:1704.00028, appendix F.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        out_channels: PositiveInt,
        downsample: bool = True,
        first: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        hidden = out_channels if first else in_channels
        self.in_channels = in_channels
        self.downsample = downsample
        self.first = first
        self.conv1 = _convolution(in_channels, hidden, 3, math.sqrt(2), options)
        self.conv2 = _convolution(hidden, out_channels, 3, math.sqrt(2), options)
        needed = downsample or in_channels != out_channels
        self.shortcut = (
            _convolution(in_channels, out_channels, 1, 1.0, options) if needed else nn.Identity()
        )

    @explains_failures
    def forward(self, x: Tensor) -> Tensor:
        """The map, halved or not."""
        smallest = 2 if self.downsample else 1
        check_tensor("x", x, ("N", self.in_channels, "H", "W"), of=self, smallest=smallest)
        y = self.conv1(x if self.first else x.relu())
        y = self.conv2(y.relu())
        if self.downsample:
            # The mean and a 1x1 convolution may change places; this order is cheaper.
            return F.avg_pool2d(y, 2) + self.shortcut(F.avg_pool2d(x, 2))
        return y + self.shortcut(x)


@lipschitz_rule(ResidualUp2d)
def _sum_of_doubled(module: ResidualUp2d, input_shape: tuple[int, ...]) -> float:
    doubling = nn.Upsample(scale_factor=2)
    first = nn.Sequential(module.norm1, nn.ReLU(), doubling, module.conv1)
    second = nn.Sequential(module.norm2, nn.ReLU(), module.conv2)
    shortcut = nn.Sequential(module.shortcut, doubling)
    branch = nn.Sequential(first, second)
    return lipschitz_bound(branch, input_shape) + lipschitz_bound(shortcut, input_shape)


@lipschitz_rule(ResidualDown2d)
def _sum_of_halved(module: ResidualDown2d, input_shape: tuple[int, ...]) -> float:
    relu, mean = nn.ReLU(), nn.AvgPool2d(2) if module.downsample else nn.Identity()
    first = nn.Identity() if module.first else relu
    branch = nn.Sequential(first, module.conv1, relu, module.conv2, mean)
    shortcut = nn.Sequential(mean, module.shortcut)
    return lipschitz_bound(branch, input_shape) + lipschitz_bound(shortcut, input_shape)
