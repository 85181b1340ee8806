"""Feature matching layer by layer, between samples that belong together."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gan_blocks._logits import combined
from gan_blocks.distributed import mean
from gan_blocks.precision import at_least_float32
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, Combine, NonNegativeFloat, PositiveFloat

Maps = Sequence[Tensor] | Mapping[str, Tensor]
"""The maps of one discriminator, layer by layer, as a list or as a FeatureExtractor gives them."""

Features = Maps | Sequence[Maps]
"""The maps of one discriminator, or one such list per sub-discriminator."""


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="`relative` divides by the mean size of the batch's real maps",
    side="generator",
    compares="feature_lists",
    dtypes=ALL_FLOATS,
)
class LayerwiseFeatureMatchingLoss(nn.Module):
    r"""The distance of a sample from its reconstruction in every layer of the discriminators.

    With the map $F_k^l$ of layer $l$ in sub-discriminator $k$, a real sample $x$ and what the
    generator made for this very sample, $\hat x$,

    $$w \sum_k \sum_l w_l\, \mathrm{mean}\left|F_k^l(x) - F_k^l(\hat x)\right|,$$

    where the sums may be means. The real side is detached. It is for vocoders, codecs and
    image-to-image models, where $x$ and $\hat x$ belong together; for a generator of latent
    vectors use [`FeatureMatchingLoss`][gan_blocks.FeatureMatchingLoss].

    | Source | Settings |
    |---|---|
    | HiFi-GAN | `weight=2` |
    | DAC | `weight=2, last_map=False` |
    | pix2pixHD | `weight=40, layers="mean", discriminators="mean", last_map=False` |
    | EnCodec | `relative=True, layers="mean", discriminators="mean"` |

    Args:
        weight: $w$; pix2pixHD's 40 is its factor 10 times the 4 of its code.
        distance: `l1` is the mean absolute difference, `l2` the mean square.
        layers: Whether the layers of one discriminator are summed or averaged.
        discriminators: Likewise for the sub-discriminators.
        last_map: Whether the last map of each discriminator, mostly its logits, is compared too.
        layer_weights: $w_l$ for the compared layers, the same in each discriminator; all 1 if left
            out.
        relative: Whether each layer's distance is divided by the mean size of its real map, the
            mean absolute value or for `l2` the mean square, over the batch of all processes. A map of
            zeros has the scale 1.

    Shape:
        Two lists of tensors, or lists of such lists, the same shapes in both; dictionaries, as
        [`FeatureExtractor`][gan_blocks.FeatureExtractor] returns them, do as well. The result is a
        scalar of at least float32.

    Raises:
        ValueError: If the lists or the shapes differ, or nothing is left to compare.
        TypeError: If a map is not a floating-point tensor.

    Example:
        >>> import torch
        >>> loss = LayerwiseFeatureMatchingLoss(weight=2)
        >>> real = [[torch.ones(4, 8), torch.zeros(4, 1)], [torch.ones(4, 3)]]
        >>> fake = [[torch.zeros(4, 8), torch.zeros(4, 1)], [torch.full((4, 3), 0.5)]]
        >>> loss(real, fake)
        tensor(3.)

    Reference:
        Wang et al., "High-Resolution Image Synthesis and Semantic Manipulation with Conditional
        GANs" (pix2pixHD), 2018, arXiv:1711.11585, equation 4; Kong et al., "HiFi-GAN", 2020,
        arXiv:2010.05646, section 2.4; Defossez et al., "High Fidelity Neural Audio Compression"
        (EnCodec), 2022, arXiv:2210.13438, equation 2.
    """

    def __init__(
        self,
        weight: PositiveFloat = 1.0,
        distance: Literal["l1", "l2"] = "l1",
        layers: Combine = "sum",
        discriminators: Combine = "sum",
        last_map: bool = True,
        layer_weights: tuple[NonNegativeFloat, ...] | None = None,
        relative: bool = False,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.distance = distance
        self.layers: Combine = layers
        self.discriminators: Combine = discriminators
        self.last_map = last_map
        self.layer_weights = layer_weights
        self.relative = relative

    def forward(self, real_features: Features, fake_features: Features) -> Tensor:
        """The distance; its gradient goes to the generated side only."""
        real, fake = (
            _nested("real_features", real_features),
            _nested("fake_features", fake_features),
        )
        if len(real) != len(fake):
            raise ValueError(
                f"real_features come from {len(real)} sub-discriminators and fake_features from "
                f"{len(fake)}"
            )
        terms = [self._of_one(k, r, f) for k, (r, f) in enumerate(zip(real, fake, strict=True))]
        return self.weight * combined(terms, self.discriminators)

    def _of_one(self, k: int, real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
        if len(real) != len(fake):
            raise ValueError(
                f"sub-discriminator {k} has {len(real)} real maps and {len(fake)} generated ones"
            )
        end = len(real) if self.last_map else len(real) - 1
        if end < 1:
            raise ValueError(
                f"sub-discriminator {k} has {len(real)} maps, so there is nothing to compare"
                + ("" if self.last_map else " without the last")
            )
        weights = (1.0,) * end if self.layer_weights is None else self.layer_weights
        if len(weights) != end:
            raise ValueError(
                f"there are {len(weights)} layer_weights for {end} maps of sub-discriminator {k}"
            )
        pairs = zip(weights, real[:end], fake[:end], strict=True)
        return combined([w * self._of_layer(r, f) for w, r, f in pairs], self.layers)

    def _of_layer(self, real: Tensor, fake: Tensor) -> Tensor:
        if real.shape != fake.shape:
            raise ValueError(
                f"a real map {tuple(real.shape)} and its generated one {tuple(fake.shape)} should be "
                "of one shape, sample by sample"
            )
        real, fake = at_least_float32(real).detach(), at_least_float32(fake)
        size = torch.abs if self.distance == "l1" else torch.square
        value = size(real - fake).mean()
        if not self.relative:
            return value
        scale = mean(size(real))
        return value / torch.where(scale > 0, scale, 1)


def _nested(name: str, features: Features) -> list[list[Tensor]]:
    """A list per sub-discriminator, of checked maps."""
    single = isinstance(features, Mapping) or (
        isinstance(features, list | tuple) and all(isinstance(x, Tensor) for x in features)
    )
    nested: Any = [features] if single else features
    if not isinstance(nested, list | tuple) or not nested or not nested[0]:
        raise ValueError(
            f"{name} should be a list of the maps of one discriminator, or one such list per "
            f"sub-discriminator, got {type(features).__name__}"
        )
    return [_checked(name, maps) for maps in nested]


def _checked(name: str, maps: Any) -> list[Tensor]:
    """The maps of one sub-discriminator."""
    if not isinstance(maps, list | tuple | Mapping):
        raise TypeError(f"{name} should hold tensors in lists, got {type(maps).__name__}")
    tensors = list(maps.values()) if isinstance(maps, Mapping) else list(maps)
    for x in tensors:
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} should hold tensors in lists, got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"{name} should be floating point, got {x.dtype}")
        if x.numel() == 0:
            raise ValueError(f"{name} holds an empty map of shape {tuple(x.shape)}")
    return tensors
