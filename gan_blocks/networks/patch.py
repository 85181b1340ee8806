"""Discriminators that judge patches of an image."""

import math
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Le
from torch import Tensor, nn

from gan_blocks._checks import check_tensor, explains_failures
from gan_blocks.layers._batch_norm import BatchNorm2d
from gan_blocks.lipschitz import lipschitz_bound, lipschitz_rule
from gan_blocks.networks._lipschitz import in_turn
from gan_blocks.spec import block
from gan_blocks.types import Halvings, PositiveInt

PatchNorm = Literal["instance", "batch", "none"]
_SLOPE = 0.2
NORMS: dict[str, Any] = {"instance": nn.InstanceNorm2d, "batch": BatchNorm2d}


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="batch norm, where it is chosen, normalizes by the mean and variance of the batch",
    moves_in_forward=True,
)
class PatchDiscriminator(nn.Module):
    r"""pix2pix's discriminator: one logit for each of many overlapping patches.

    `depth` convolutions of 4x4 pixels halve the map and double the channels, up to $8$ times `width`;
    one more keeps the map's size but for a pixel, and the last gives the logits. All but the first
    and the last are normalised; leaky ReLU of slope 0.2. With `depth` 3 each logit sees 70x70
    pixels. Weights start from $N(0, 0.02)$.

    Args:
        channels: Channels of an image; with a condition that is an image too, those of both.
        width: Channels after the first layer.
        depth: Number of halvings.
        norm: Normalisation. `instance` keeps the samples apart; `batch` is the paper's, which used it
            at batch size one, where the two are the same but for scale and offset.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, channels, H, W)` to `(N, 1, h, w)`, with $h = \lfloor H / 2^{\mathrm{depth}} \rfloor - 2$.
        Sides of $3 \cdot 2^{\mathrm{depth}}$ pixels at least.

    Raises:
        ValueError: If images have another number of channels or are too small.

    Example:
        >>> import torch
        >>> from gan_blocks import HingeLoss
        >>> discriminator, loss = PatchDiscriminator(width=8), HingeLoss()
        >>> real, fake = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
        >>> discriminator(real).shape
        torch.Size([2, 1, 6, 6])
        >>> total = loss.discriminator(discriminator(real), discriminator(fake))

    Reference:
        Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", 2017,
        arXiv:1611.07004, section 3.2.2 and appendix 6.1.2.
    """

    def __init__(
        self,
        channels: PositiveInt = 3,
        width: PositiveInt = 64,
        depth: Halvings = 3,
        norm: PatchNorm = "instance",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.channels = channels
        self.depth = depth
        widths = [width * min(2**i, 8) for i in range(depth + 1)]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip([channels, *widths], widths, strict=False)):
            stride = 2 if i < depth else 1
            # A normalisation would take an offset away again.
            normalised = bool(i) and norm != "none"
            layer = [nn.Conv2d(before, after, 4, stride, 1, bias=not normalised, **options)]
            layer += [NORMS[norm](after, **options)] if normalised else []
            layers.append(nn.Sequential(*layer, nn.LeakyReLU(_SLOPE)))
        layers.append(nn.Conv2d(widths[-1], 1, 4, 1, 1, **options))
        self.layers = nn.ModuleList(layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    @explains_failures
    def forward(self, x: Tensor) -> Tensor:
        """Logits of patches."""
        return self.feature_maps(x)[-1]

    @explains_failures
    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The output of each layer; the last one is the logits."""
        smallest = 3 * 2**self.depth
        check_tensor("x", x, ("N", self.channels, "H", "W"), of=self, smallest=smallest)
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="batch norm, where it is chosen, normalizes by the mean and variance of the batch",
    moves_in_forward=True,
)
class MultiScaleDiscriminator(nn.Module):
    r"""pix2pixHD's discriminator: one `PatchDiscriminator` for each of several sizes of the image.

    The first sees the image, each further one the image at half the side of the one before, by the mean
    over 3x3 pixels. So the first looks at textures and the last at the whole.

    Args:
        num_scales: Number of discriminators.
        channels: Channels of an image.
        width: Channels after the first layer of each.
        depth: Number of halvings in each.
        norm: Normalisation, as in [`PatchDiscriminator`][gan_blocks.PatchDiscriminator].
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, channels, H, W)` to a list of `(N, 1, h, w)`, one for each discriminator. Sides of
        $(3 \cdot 2^{\mathrm{depth}} - 1) \cdot 2^{\mathrm{num\_scales} - 1} + 1$ pixels at least: 93
        with the defaults, 47 with two scales.

    Raises:
        ValueError: If images have another number of channels or are too small.

    Example:
        >>> import torch
        >>> from gan_blocks import LayerwiseFeatureMatchingLoss, LeastSquaresLoss
        >>> discriminator = MultiScaleDiscriminator(num_scales=2, width=8)
        >>> real, fake = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
        >>> real_maps, fake_maps = discriminator.feature_maps(real), discriminator.feature_maps(fake)
        >>> matching = LayerwiseFeatureMatchingLoss()(real_maps, fake_maps)
        >>> adversarial = LeastSquaresLoss().generator([maps[-1] for maps in fake_maps])

    Reference:
        Wang et al., "High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs",
        2018, arXiv:1711.11585, section 3.2.
    """

    def __init__(
        self,
        num_scales: Annotated[PositiveInt, Le(24)] = 3,
        channels: PositiveInt = 3,
        width: PositiveInt = 64,
        depth: Halvings = 3,
        norm: PatchNorm = "instance",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        # Halving rounds up, and the last discriminator needs 3 * 2^depth.
        self.smallest = (3 * 2**depth - 1) * 2 ** (num_scales - 1) + 1
        self.scales = nn.ModuleList(
            PatchDiscriminator(channels, width, depth, norm, device=device, dtype=dtype)
            for _ in range(num_scales)
        )

    @explains_failures
    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits of patches, of each discriminator."""
        return [maps[-1] for maps in self.feature_maps(x)]

    @explains_failures
    def feature_maps(self, x: Tensor) -> list[list[Tensor]]:
        """The output of each layer of each discriminator; the last ones are the logits."""
        check_tensor("x", x, ("N", self.channels, "H", "W"), of=self, smallest=self.smallest)
        maps = []
        for i, discriminator in enumerate(self.scales):
            x = F.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False) if i else x
            maps.append(discriminator.feature_maps(x))  # type: ignore[operator]
        return maps


lipschitz_rule(PatchDiscriminator)(in_turn("layers"))


@lipschitz_rule(MultiScaleDiscriminator)
def _all_scales(module: MultiScaleDiscriminator, input_shape: tuple[int, ...]) -> float:
    halving = nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)
    scales = (nn.Sequential(*[halving] * i, each) for i, each in enumerate(module.scales))
    return math.hypot(*(lipschitz_bound(scale, input_shape) for scale in scales))
