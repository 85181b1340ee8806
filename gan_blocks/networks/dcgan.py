"""DCGAN's generator and discriminator."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from gan_blocks._checks import explains_failures
from gan_blocks.layers._batch_norm import BatchNorm2d
from gan_blocks.layers.minibatch_discrimination import MinibatchDiscrimination
from gan_blocks.layers.virtual_batch_norm import VirtualBatchNorm
from gan_blocks.lipschitz import lipschitz_rule
from gan_blocks.networks._lipschitz import in_turn
from gan_blocks.networks._shapes import check_images, check_latents
from gan_blocks.spec import block
from gan_blocks.types import NonNegativeInt, PositiveInt

Norm = Literal["batch", "virtual", "layer", "none"]

NORMS: dict[str, Any] = {
    "batch": BatchNorm2d,
    "virtual": VirtualBatchNorm,
    "layer": lambda channels, **options: nn.GroupNorm(1, channels, **options),
}


def stages_of(image_size: int) -> tuple[int, int]:
    """The smallest map's size, 4 to 7, and the number of doublings from there to the image."""
    size, doublings = image_size, 0
    while size % 2 == 0 and size >= 8:
        size, doublings = size // 2, doublings + 1
    if not (4 <= size <= 7 and 8 <= image_size <= 128):
        sizes = sorted(s * 2**k for s in (4, 5, 6, 7) for k in range(1, 6) if s * 2**k <= 128)
        allowed = ", ".join(map(str, sizes))
        raise ValueError(f"image_size should be one of {allowed}, got {image_size}")
    return size, doublings


def _normalised(channels: int, norm: Norm, options: dict[str, Any]) -> list[nn.Module]:
    return [] if norm == "none" else [NORMS[norm](channels, **options)]


@torch.no_grad()
def _initialise(network: nn.Module) -> None:
    """Weights from N(0, 0.02), scales of normalisation layers from N(1, 0.02), offsets 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm | VirtualBatchNorm):
            nn.init.normal_(module.weight, 1.0, 0.02)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="batch norm, where it is chosen, normalizes by the mean and variance of the batch",
    moves_in_forward=True,
)
class DCGANGenerator(nn.Module):
    r"""The generator of DCGAN: transposed convolutions from a latent vector to an image.

    The first layer makes a map of 4 to 7 pixels; each further one doubles it. The number of
    channels halves at each step down to `width`; at 64 pixels it goes 512, 256, 128, 64. Each layer
    but the last is normalised and rectified; the last ends in tanh, so images lie in [-1, 1]. No
    layer but the normalisation has an offset.

    Args:
        latent_dim: Length of a latent vector $z \sim N(0, I)$.
        image_size: Pixels of a side: 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112 or
            128.
        channels: Channels of an image.
        width: Channels before the last layer.
        norm: Normalisation; `virtual` needs [`WithReference`][gan_blocks.WithReference].
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, latent_dim)` to `(N, channels, image_size, image_size)`.

    Raises:
        ValueError: If the size of the image is none of these, or latent vectors have another length.

    Example:
        >>> import torch
        >>> generator = DCGANGenerator(image_size=28, width=8)
        >>> generator(torch.randn(2, 100)).shape
        torch.Size([2, 1, 28, 28])

    Reference:
        Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional
        Generative Adversarial Networks", 2015, arXiv:1511.06434, section 3 and figure 1.
    """

    def __init__(
        self,
        latent_dim: PositiveInt = 100,
        image_size: PositiveInt = 64,
        channels: PositiveInt = 1,
        width: PositiveInt = 64,
        norm: Norm = "batch",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        smallest, doublings = stages_of(image_size)
        widths = [width * 2**i for i in reversed(range(doublings))]
        plain: dict[str, Any] = {"bias": False, **options}
        layers: list[nn.Module] = [nn.Unflatten(1, (latent_dim, 1, 1))]
        for i, (before, after) in enumerate(zip([latent_dim, *widths], widths, strict=False)):
            shape = (4, 2, 1) if i else (smallest, 1, 0)
            layers += [nn.ConvTranspose2d(before, after, *shape, **plain)]
            layers += [*_normalised(after, norm, options), nn.ReLU()]
        layers += [nn.ConvTranspose2d(width, channels, 4, 2, 1, **plain), nn.Tanh()]
        self.latent_dim = latent_dim
        self.layers = nn.Sequential(*layers)
        _initialise(self)

    @explains_failures
    def forward(self, z: Tensor) -> Tensor:
        """Images from latent vectors."""
        check_latents(self, z)
        return self.layers(z)


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="batch norm and minibatch discrimination, where they are chosen, mix the batch",
    moves_in_forward=True,
)
class DCGANDiscriminator(nn.Module):
    r"""The discriminator of DCGAN: strided convolutions from an image to one logit.

    Each layer halves the map and doubles the channels, from `width`; at 64 pixels they go 64, 128, 256,
    512. Each layer but the first is normalised, all have leaky ReLU of slope 0.2, and the last map
    of 4 to 7 pixels becomes one logit. No sigmoid: the losses take logits.

    With `minibatch_kernels` the last map is flattened and goes through
    [`MinibatchDiscrimination`][gan_blocks.MinibatchDiscrimination] before the logit. To
    judge several images together, [`pack`][gan_blocks.pack] them first: `channels` is then that of a
    pack.

    Args:
        image_size: Pixels of a side: 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112 or
            128.
        channels: Channels of an image.
        width: Channels after the first layer.
        norm: Normalisation. `batch` mixes the samples: use `layer` or `none` with a gradient penalty,
            `none` with weight clipping. `virtual` needs [`WithReference`][gan_blocks.WithReference].
        minibatch_kernels: Number of similarities of minibatch discrimination; 0 for none.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, channels, image_size, image_size)` to `(N,)`.

    Raises:
        ValueError: If the size of the image is none of these, or images have another shape.

    Example:
        >>> import torch
        >>> discriminator = DCGANDiscriminator(image_size=28, width=8, minibatch_kernels=10)
        >>> discriminator(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2])

    Reference:
        Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional
        Generative Adversarial Networks", 2015, arXiv:1511.06434, section 3.
    """

    def __init__(
        self,
        image_size: PositiveInt = 64,
        channels: PositiveInt = 1,
        width: PositiveInt = 64,
        norm: Norm = "batch",
        minibatch_kernels: NonNegativeInt = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        smallest, doublings = stages_of(image_size)
        widths = [width * 2**i for i in range(doublings)]
        plain: dict[str, Any] = {"bias": False, **options}
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip([channels, *widths], widths, strict=False)):
            layers += [nn.Conv2d(before, after, 4, 2, 1, **plain)]
            layers += _normalised(after, norm, options) if i else []
            layers += [nn.LeakyReLU(0.2)]
        if minibatch_kernels:
            features = widths[-1] * smallest**2
            layers += [
                nn.Flatten(),
                MinibatchDiscrimination(features, minibatch_kernels, **options),
                nn.Linear(features + minibatch_kernels, 1, **options),
            ]
        else:
            layers += [nn.Conv2d(widths[-1], 1, smallest, 1, 0, **plain)]
        self.image_shape = (channels, image_size, image_size)
        self.layers = nn.Sequential(*layers, nn.Flatten(0))
        _initialise(self)

    @explains_failures
    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        check_images(self, x)
        return self.layers(x)


lipschitz_rule(DCGANGenerator, DCGANDiscriminator)(in_turn("layers"))
