"""Layers with an equalised learning rate."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_blocks._checks import check_tensor, explains_failures
from gan_blocks.lipschitz import convolution_norm, finite, lipschitz_rule, matrix_norm
from gan_blocks.spec import block
from gan_blocks.types import NonNegativeInt, PositiveFloat, PositiveInt


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class EqualizedLinear(nn.Module):
    r"""A linear map whose weights are scaled when they are used, not when they are drawn.

    $$y = \frac{g\,\lambda}{\sqrt{\mathrm{in\_features}}}\, W x + \lambda b, \qquad
      W_{ij} \sim N(0, 1/\lambda^2), \quad b = 0 \text{ at the start}.$$

    The map begins as He's initialisation would have it. But all weights of a network are of order
    1, so an optimiser whose steps do not depend on the size of the gradient, such as Adam, moves
    layers of any width at the same relative speed.

    Args:
        in_features: Length of an input.
        out_features: Length of an output.
        bias: Whether to add $b$.
        gain: $g$, for instance $\sqrt2$ before a ReLU.
        lr_multiplier: $\lambda$, the speed of this layer's learning relative to the others; 0.01 in
            StyleGAN's mapping network.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(..., in_features)` to `(..., out_features)`.

    Example:
        >>> import torch
        >>> EqualizedLinear(512, 64)(torch.randn(2, 512)).shape
        torch.Size([2, 64])

    Reference:
        Karras et al., "Progressive Growing of GANs", 2018, arXiv:1710.10196, section 4.1; the
        multiplier: Karras, Laine and Aila, "A Style-Based Generator Architecture", 2019,
        arXiv:1812.04948, appendix C.
    """

    def __init__(
        self,
        in_features: PositiveInt,
        out_features: PositiveInt,
        bias: bool = True,
        gain: PositiveFloat = 1.0,
        lr_multiplier: PositiveFloat = 1.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = (out_features, in_features)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = (
            nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        )
        self.lr_multiplier = lr_multiplier
        self.scale = gain * lr_multiplier / math.sqrt(in_features)
        nn.init.normal_(self.weight, std=1 / lr_multiplier)

    @explains_failures
    def forward(self, x: Tensor) -> Tensor:
        """The linear map."""
        check_tensor("x", x, (..., self.weight.shape[1]), of=self)
        bias = None if self.bias is None else self.bias * self.lr_multiplier
        return F.linear(x, self.weight * self.scale, bias)


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class EqualizedConv2d(nn.Module):
    r"""A convolution whose weights are scaled when they are used, not when they are drawn.

    As [`EqualizedLinear`][gan_blocks.EqualizedLinear], with
    $\mathrm{in\_channels} \cdot \mathrm{kernel\_size}^2$ in the place of the number of features:

    $$y = \frac{g\,\lambda}{\sqrt{\mathrm{in\_channels} \cdot k^2}}\, W * x + \lambda b, \qquad
      W \sim N(0, 1/\lambda^2).$$

    Args:
        in_channels: Channels of an input.
        out_channels: Channels of an output.
        kernel_size: $k$, the side of the kernel in pixels.
        stride: Step of the kernel in pixels.
        padding: Zeros on each side, in pixels.
        bias: Whether to add $b$.
        gain: $g$, for instance $\sqrt2$ before a ReLU.
        lr_multiplier: $\lambda$, the speed of this layer's learning relative to the others.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, in_channels, H, W)` to `(N, out_channels, H', W')`, as `torch.nn.Conv2d`.

    Example:
        >>> import torch
        >>> EqualizedConv2d(3, 8, 3, padding=1)(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 8, 16, 16])

    Reference:
        Karras et al., "Progressive Growing of GANs", 2018, arXiv:1710.10196, section 4.1.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        out_channels: PositiveInt,
        kernel_size: PositiveInt,
        stride: PositiveInt = 1,
        padding: NonNegativeInt = 0,
        bias: bool = True,
        gain: PositiveFloat = 1.0,
        lr_multiplier: PositiveFloat = 1.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = (
            nn.Parameter(torch.zeros(out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.stride, self.padding = stride, padding
        self.lr_multiplier = lr_multiplier
        self.scale = gain * lr_multiplier / math.sqrt(in_channels * kernel_size**2)
        nn.init.normal_(self.weight, std=1 / lr_multiplier)

    @explains_failures
    def forward(self, x: Tensor) -> Tensor:
        """The convolution."""
        side = max(self.weight.shape[2] - 2 * self.padding, 1)
        check_tensor("x", x, ("N", self.weight.shape[1], "H", "W"), of=self, smallest=side)
        bias = None if self.bias is None else self.bias * self.lr_multiplier
        return F.conv2d(x, self.weight * self.scale, bias, self.stride, self.padding)


@lipschitz_rule(EqualizedLinear)
def _linear_bound(module: EqualizedLinear, input_shape: tuple[int, ...]) -> float:
    if not input_shape or input_shape[-1] != module.weight.shape[1]:
        raise ValueError(
            f"EqualizedLinear takes {module.weight.shape[1]} features, got shape {input_shape}"
        )
    return module.scale * matrix_norm(finite(module.weight, module))


@lipschitz_rule(EqualizedConv2d)
def _convolution_bound(module: EqualizedConv2d, input_shape: tuple[int, ...]) -> float:
    weight = finite(module.weight, module)
    return module.scale * convolution_norm(weight, input_shape, module.stride, module.padding)
