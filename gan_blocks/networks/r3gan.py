"""The normalisation-free networks of R3GAN."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_blocks._checks import explains_failures
from gan_blocks.labels import labels_for
from gan_blocks.lipschitz import (
    convolution_norm,
    finite,
    lipschitz_bound,
    lipschitz_rule,
    output_shape,
    transposed_convolution_norm,
)
from gan_blocks.networks._lipschitz import in_turn
from gan_blocks.networks._shapes import Widths, check_images, check_latents, smallest_map
from gan_blocks.spec import block
from gan_blocks.types import NonNegativeInt, PositiveDepth, PositiveInt

_SLOPE = 0.2
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))
"""Keeps the variance through a leaky ReLU."""


def _initialised(layer: Any, gain: float = 1.0) -> Any:
    """Weights from N(0, gain^2 / fan_in)."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    return layer


class _BiasedActivation(nn.Module):
    def __init__(self, channels: int, options: dict[str, Any]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, **options))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias[:, None, None], _SLOPE)


class _Bottleneck(nn.Module):
    """x plus 1x1, grouped 3x3 and 1x1 convolution, the last of which starts at 0.

    `depth` is the number of such blocks in the network: the first two start with
    $L^{-1/4}$ of the variance-keeping scale, as Fixup has it for branches of three layers.
    """

    def __init__(
        self, width: int, expansion: int, group_width: int, depth: int, options: Any
    ) -> None:
        super().__init__()
        wide, gain = width * expansion, _GAIN * depth**-0.25
        if wide % group_width:
            raise ValueError(
                f"width {width} times expansion {expansion} should be a multiple of group_width "
                f"{group_width}"
            )
        plain: dict[str, Any] = {"bias": False, **options}
        grouped = nn.Conv2d(wide, wide, 3, padding=1, groups=wide // group_width, **plain)
        self.layers = nn.Sequential(
            _initialised(nn.Conv2d(width, wide, 1, **plain), gain),
            _BiasedActivation(wide, options),
            _initialised(grouped, gain),
            _BiasedActivation(wide, options),
            _initialised(nn.Conv2d(wide, width, 1, **plain), 0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _filter(x: Tensor) -> Tensor:
    """[1, 3, 3, 1] in both directions with sum 1, for each channel."""
    line = torch.tensor([0.125, 0.375, 0.375, 0.125], dtype=x.dtype, device=x.device)
    return (line[:, None] * line).expand(x.shape[1], 1, 4, 4)


class _Up(nn.Module):
    """Another number of channels, where needed, and twice the side, interpolated."""

    def __init__(self, before: int, after: int, options: dict[str, Any]) -> None:
        super().__init__()
        plain: dict[str, Any] = {"bias": False, **options}
        self.linear = (
            nn.Identity() if before == after else _initialised(nn.Conv2d(before, after, 1, **plain))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return F.conv_transpose2d(x, 4 * _filter(x), stride=2, padding=1, groups=x.shape[1])


class _Down(nn.Module):
    """Half the side, smoothed, and another number of channels, where needed."""

    def __init__(self, before: int, after: int, options: dict[str, Any]) -> None:
        super().__init__()
        plain: dict[str, Any] = {"bias": False, **options}
        self.linear = (
            nn.Identity() if before == after else _initialised(nn.Conv2d(before, after, 1, **plain))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.conv2d(x, _filter(x), stride=2, padding=1, groups=x.shape[1]))


class _GenerativeBasis(nn.Module):
    """A learned map for each channel, times a linear function of the latent vector."""

    def __init__(self, latent_dim: int, width: int, side: int, options: dict[str, Any]) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.randn(width, side, side, **options))
        self.linear = _initialised(nn.Linear(latent_dim, width, bias=False, **options))

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z)[:, :, None, None] * self.basis


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class R3GANGenerator(nn.Module):
    r"""R3GAN's generator: a modern residual network without any normalisation.

    A learned map of `widths[0]` channels is scaled by a linear function of the latent vector. Each
    stage has `blocks_per_stage` bottlenecks (1x1, grouped 3x3 and 1x1 convolution, with leaky ReLU
    of slope 0.2 between) and the next one starts at twice the side, by bilinear interpolation. A
    1x1 convolution makes the image, which is not bounded. The last convolution of each bottleneck
    starts at 0, so the network starts as a linear map of $z$. With classes a learned vector of
    `latent_dim` is appended to $z$.

    The paper's networks: CIFAR-10 `widths=(768, 768, 768, 768)`; FFHQ at 64 pixels
    `(768, 768, 768, 768, 768)`; both with two blocks in each stage.

    Args:
        latent_dim: Length of a latent vector $z \sim N(0, I)$.
        image_size: Pixels of a side; the first map has
            $\mathrm{image\_size} / 2^{\mathrm{len(widths)} - 1}$.
        channels: Channels of an image.
        widths: Channels of each stage, from the smallest map to the image's size.
        blocks_per_stage: Bottlenecks in a stage.
        expansion: Channels within a bottleneck, as a multiple of the stage's.
        group_width: Channels of one group of the 3x3 convolution.
        num_classes: Number of classes; 0 for none.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, latent_dim)`, and labels `(N,)` with classes, to `(N, channels, image_size, image_size)`.

    Raises:
        ValueError: If the size does not fit the number of widths, a width times `expansion` is no
            multiple of `group_width`, latent vectors have another shape, or labels are missing or
            needless.

    Example:
        >>> import torch
        >>> generator = R3GANGenerator(image_size=28, channels=1, widths=(32, 32, 16))
        >>> generator(torch.randn(2, 64)).shape
        torch.Size([2, 1, 28, 28])

    Reference:
        Huang et al., "The GAN is dead; long live the GAN! A Modern GAN Baseline", 2024,
        arXiv:2501.05441, section 4 and config E, with details of the authors' code.
    """

    def __init__(
        self,
        latent_dim: PositiveInt = 64,
        image_size: PositiveInt = 32,
        channels: PositiveInt = 3,
        widths: Widths = (768, 768, 768, 768),
        blocks_per_stage: PositiveDepth = 2,
        expansion: PositiveInt = 2,
        group_width: PositiveInt = 16,
        num_classes: NonNegativeInt = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        side = smallest_map(image_size, len(widths) - 1)
        depth = blocks_per_stage * len(widths)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        if num_classes:
            self.classes = nn.Embedding(num_classes, latent_dim, **options)
            nn.init.normal_(self.classes.weight, std=num_classes**-0.5)
        length = 2 * latent_dim if num_classes else latent_dim
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            layers.append(
                _Up(widths[i - 1], width, options)
                if i
                else _GenerativeBasis(length, width, side, options)
            )
            layers += [
                _Bottleneck(width, expansion, group_width, depth, options)
                for _ in range(blocks_per_stage)
            ]
        layers.append(_initialised(nn.Conv2d(widths[-1], channels, 1, bias=False, **options)))
        self.layers = nn.Sequential(*layers)

    @explains_failures
    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images from latent vectors."""
        check_latents(self, z)
        codes = [self.classes(each) for each in labels_for(self, labels, len(z), z.device)]
        return self.layers(torch.cat([z, *codes], dim=1))


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class R3GANDiscriminator(nn.Module):
    r"""R3GAN's discriminator: the generator's mirror image, from an image to one logit.

    A 1x1 convolution, then stages of bottlenecks as in
    [`R3GANGenerator`][gan_blocks.R3GANGenerator], each at half the side of the one before, by
    smoothing with $[1, 3, 3, 1]$. A learned map for each channel weighs the last map's pixels, and
    a linear map makes the logit; with classes it makes a vector of `widths[0]`, whose product with
    the class's is the logit.

    Made to be trained with [`RelativisticLoss`][gan_blocks.RelativisticLoss],
    [`R1Penalty`][gan_blocks.R1Penalty] and [`R2Penalty`][gan_blocks.R2Penalty].

    Args:
        image_size: Pixels of a side; the last map has
            $\mathrm{image\_size} / 2^{\mathrm{len(widths)} - 1}$.
        channels: Channels of an image.
        widths: Channels of each stage, from the image's size to the smallest map.
        blocks_per_stage: Bottlenecks in a stage.
        expansion: Channels within a bottleneck, as a multiple of the stage's.
        group_width: Channels of one group of the 3x3 convolution.
        num_classes: Number of classes; 0 for none.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, channels, image_size, image_size)`, and labels `(N,)` with classes, to `(N,)`.

    Raises:
        ValueError: If the size does not fit the number of widths, a width times `expansion` is no
            multiple of `group_width`, images have another shape, or labels are missing or needless.

    Example:
        >>> import torch
        >>> discriminator = R3GANDiscriminator(image_size=28, channels=1, widths=(16, 32, 32))
        >>> discriminator(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2])

    Reference:
        Huang et al., "The GAN is dead; long live the GAN! A Modern GAN Baseline", 2024,
        arXiv:2501.05441, section 4 and config E, with details of the authors' code.
    """

    def __init__(
        self,
        image_size: PositiveInt = 32,
        channels: PositiveInt = 3,
        widths: Widths = (768, 768, 768, 768),
        blocks_per_stage: PositiveDepth = 2,
        expansion: PositiveInt = 2,
        group_width: PositiveInt = 16,
        num_classes: NonNegativeInt = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        plain: dict[str, Any] = {"bias": False, **options}
        side = smallest_map(image_size, len(widths) - 1)
        depth = blocks_per_stage * len(widths)
        self.image_shape = (channels, image_size, image_size)
        self.num_classes = num_classes
        layers: list[nn.Module] = [_initialised(nn.Conv2d(channels, widths[0], 1, **plain))]
        for i, width in enumerate(widths):
            layers += [_Down(widths[i - 1], width, options)] if i else []
            layers += [
                _Bottleneck(width, expansion, group_width, depth, options)
                for _ in range(blocks_per_stage)
            ]
        last = widths[-1]
        layers += [
            _initialised(nn.Conv2d(last, last, side, groups=last, **plain)),
            nn.Flatten(),
            _initialised(nn.Linear(last, widths[0] if num_classes else 1, **plain)),
        ]
        self.layers = nn.Sequential(*layers)
        if num_classes:
            self.classes = nn.Embedding(num_classes, widths[0], **options)
            nn.init.normal_(self.classes.weight, std=num_classes**-0.5)

    @explains_failures
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits of images."""
        check_images(self, x)
        y = self.layers(x)
        for each in labels_for(self, labels, len(x), x.device):
            y = y * self.classes(each)
        return y.sum(1)


lipschitz_rule(R3GANGenerator, R3GANDiscriminator)(in_turn("layers"))


@lipschitz_rule(_BiasedActivation)
def _slope(module: _BiasedActivation, input_shape: tuple[int, ...]) -> float:
    return 1.0


@lipschitz_rule(_Bottleneck)
def _sum(module: _Bottleneck, input_shape: tuple[int, ...]) -> float:
    return 1 + lipschitz_bound(module.layers, input_shape)


_ONE_CHANNEL = torch.empty(1, 1, 0, 0, dtype=torch.float64)
"""On which the smoothing filter is asked for; it is the same for all channels."""


@lipschitz_rule(_Up)
def _up(module: _Up, input_shape: tuple[int, ...]) -> float:
    one = (1, *input_shape[1:])
    smoothed = transposed_convolution_norm(4 * _filter(_ONE_CHANNEL), one, stride=2, padding=1)
    return lipschitz_bound(module.linear, input_shape) * smoothed


@lipschitz_rule(_Down)
def _down(module: _Down, input_shape: tuple[int, ...]) -> float:
    one = (1, *input_shape[1:])
    smoothed = convolution_norm(_filter(_ONE_CHANNEL), one, stride=2, padding=1)
    halved = output_shape(nn.AvgPool2d(2), input_shape)
    return smoothed * lipschitz_bound(module.linear, halved)


@lipschitz_rule(_GenerativeBasis)
def _basis(module: _GenerativeBasis, input_shape: tuple[int, ...]) -> float:
    lengths = finite(module.basis, module).flatten(1).norm(dim=1)
    return float(lengths.max()) * lipschitz_bound(module.linear, input_shape)
