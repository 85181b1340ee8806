"""The residual networks of SN-GAN."""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as spectrally_normalised

from gan_blocks._checks import check_tensor, explains_failures
from gan_blocks.labels import labels_for
from gan_blocks.layers._batch_norm import BatchNorm2d
from gan_blocks.layers.projection_head import ProjectionHead
from gan_blocks.layers.residual import ResidualDown2d, ResidualUp2d
from gan_blocks.lipschitz import lipschitz_rule
from gan_blocks.networks._lipschitz import in_turn
from gan_blocks.networks._shapes import Widths, check_latents, smallest_map
from gan_blocks.spec import block
from gan_blocks.types import NonNegativeInt, PositiveInt


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="batch norm normalizes by the mean and variance of the batch",
    moves_in_forward=True,
)
class ResNetGenerator(nn.Module):
    r"""The residual generator of SN-GAN, from a latent vector to an image of any size.

    A linear map makes a small map of `widths[0]` channels;
    [`ResidualUp2d`][gan_blocks.ResidualUp2d] doubles it once for each further width; batch norm, ReLU
    and a 3x3 convolution end in tanh, so images lie in [-1, 1]. With classes each batch norm of the
    blocks has a scale and an offset for every class. The first map's side is
    $\mathrm{image\_size} / 2^{\mathrm{len(widths)} - 1}$.

    The paper's widths: 32 pixels `(256, 256, 256, 256)`, 48 pixels `(512, 256, 128, 64)`, 128 pixels
    `(1024, 1024, 512, 256, 128, 64)`.

    Args:
        latent_dim: Length of a latent vector $z \sim N(0, I)$.
        image_size: Pixels of a side.
        channels: Channels of an image.
        widths: Channels of the first map and of each doubled one.
        num_classes: Number of classes; 0 for none.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, latent_dim)`, and labels `(N,)` with classes, to `(N, channels, image_size, image_size)`.

    Raises:
        ValueError: If the size is no multiple of 2 to the number of doublings, latent vectors have
            another shape, or labels are missing or needless.

    Example:
        >>> import torch
        >>> generator = ResNetGenerator(image_size=28, channels=1, widths=(32, 16, 16), num_classes=10)
        >>> generator(torch.randn(2, 128), torch.tensor([3, 1])).shape
        torch.Size([2, 1, 28, 28])

    Reference:
        Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018,
        arXiv:1802.05957, appendix B.4, tables 4 to 6; with classes: Miyato and Koyama, "cGANs with
        Projection Discriminator", 2018, arXiv:1802.05637, figure 14.
    """

    def __init__(
        self,
        latent_dim: PositiveInt = 128,
        image_size: PositiveInt = 32,
        channels: PositiveInt = 3,
        widths: Widths = (256, 256, 256, 256),
        num_classes: NonNegativeInt = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        side = smallest_map(image_size, len(widths) - 1)
        if num_classes and len(widths) == 1:
            raise ValueError(
                "classes act in the blocks that double the map: give two widths at least"
            )
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.first = nn.Sequential(
            nn.Linear(latent_dim, widths[0] * side**2, **options),
            nn.Unflatten(1, (widths[0], side, side)),
        )
        self.blocks = nn.ModuleList(
            ResidualUp2d(before, after, num_classes, **options)
            for before, after in itertools.pairwise(widths)
        )
        self.last = nn.Sequential(
            BatchNorm2d(widths[-1], **options),
            nn.ReLU(),
            nn.Conv2d(widths[-1], channels, 3, padding=1, **options),
            nn.Tanh(),
        )
        for layer in (self.first[0], self.last[2]):
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @explains_failures
    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images from latent vectors."""
        check_latents(self, z)
        given = labels_for(self, labels, len(z), z.device)
        x = self.first(z)
        for up in self.blocks:
            x = up(x, *given)
        return self.last(x)


class _SumOfPixels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu().sum((2, 3))


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    moves_in_forward=True,
)
class ResNetDiscriminator(nn.Module):
    r"""The residual discriminator of SN-GAN, from an image of any size to one logit.

    One [`ResidualDown2d`][gan_blocks.ResidualDown2d] for each width, of which the first
    `downsamplings` halve the map; then ReLU, the sum over all pixels, and a linear map to the logit,
    or with classes a [`ProjectionHead`][gan_blocks.ProjectionHead]. All weights are spectrally
    normalised by `torch.nn.utils.parametrizations`, which takes one power iteration at each forward
    in training mode; of a convolution it normalises the matrix of its reshaped weights, whose norm is
    not that of the operator.

    The paper's widths: 32 pixels `(128, 128, 128, 128)` with 2 halvings, 48 pixels
    `(64, 128, 256, 512, 1024)` with 4, 128 pixels `(64, 128, 256, 512, 1024, 1024)` with 5.

    Args:
        channels: Channels of an image.
        widths: Channels after each block.
        downsamplings: How many blocks halve the map, from the first on.
        num_classes: Number of classes; 0 for none.
        spectral_norm: Whether to normalise the weights. Such a network cannot be pickled: torch allows
            its `state_dict` only.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, channels, H, W)`, and labels `(N,)` with classes, to `(N,)`. Sides of
        $2^{\mathrm{downsamplings}}$ pixels at least.

    Raises:
        ValueError: If there are more halvings than blocks, images have another number of channels or
            are too small, or labels are missing or needless.

    Example:
        >>> import torch
        >>> from gan_blocks import FeatureExtractor
        >>> discriminator = ResNetDiscriminator(channels=1, widths=(16, 16, 32))
        >>> discriminator(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2])
        >>> layers = ["blocks.0", "blocks.2", "pool", ""]  # the last one is the network itself
        >>> maps = FeatureExtractor(discriminator, layers)  # in one forward
        >>> [tuple(x.shape) for x in maps(torch.rand(2, 1, 28, 28)).values()]
        [(2, 16, 14, 14), (2, 32, 7, 7), (2, 32), (2,)]

    Reference:
        Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018,
        arXiv:1802.05957, appendix B.4, tables 4 to 6; with classes: Miyato and Koyama, "cGANs with
        Projection Discriminator", 2018, arXiv:1802.05637, figure 14.
    """

    def __init__(
        self,
        channels: PositiveInt = 3,
        widths: Widths = (128, 128, 128, 128),
        downsamplings: NonNegativeInt = 2,
        num_classes: NonNegativeInt = 0,
        spectral_norm: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if downsamplings > len(widths):
            raise ValueError(
                f"{downsamplings} downsamplings need as many widths, got {len(widths)}"
            )
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.channels = channels
        self.downsamplings = downsamplings
        self.num_classes = num_classes
        pairs = zip((channels, *widths), widths, strict=False)
        self.blocks = nn.Sequential(
            *(
                ResidualDown2d(before, after, i < downsamplings, first=not i, **options)
                for i, (before, after) in enumerate(pairs)
            )
        )
        self.pool = _SumOfPixels()
        if num_classes:
            self.head: nn.Module = ProjectionHead(widths[-1], num_classes, **options)
        else:
            self.head = nn.Linear(widths[-1], 1, **options)
            nn.init.xavier_uniform_(self.head.weight)
            nn.init.zeros_(self.head.bias)
        if spectral_norm:
            for layer in list(self.modules()):
                if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                    spectrally_normalised(layer)

    @explains_failures
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits of images."""
        smallest = 2**self.downsamplings
        check_tensor("x", x, ("N", self.channels, "H", "W"), of=self, smallest=smallest)
        given = labels_for(self, labels, len(x), x.device)
        return self.head(self.pool(self.blocks(x)), *given).flatten()


lipschitz_rule(ResNetGenerator)(in_turn("first", "blocks", "last"))
lipschitz_rule(ResNetDiscriminator)(in_turn("blocks", "pool", "head"))


@lipschitz_rule(_SumOfPixels)
def _sum_of_pixels(module: _SumOfPixels, input_shape: tuple[int, ...]) -> float:
    return math.sqrt(math.prod(input_shape[1:]))
