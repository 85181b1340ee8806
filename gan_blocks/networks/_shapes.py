"""Sizes of images and latent vectors, and what is said of others."""

from typing import Annotated, Any

from annotated_types import MinLen
from torch import Tensor

from gan_blocks._checks import check_tensor
from gan_blocks.types import PositiveInt

Widths = Annotated[tuple[PositiveInt, ...], MinLen(1)]


def smallest_map(image_size: int, doublings: int) -> int:
    """The side of the map that becomes the image by so many doublings."""
    side, rest = divmod(image_size, 2**doublings)
    if rest or not side:
        raise ValueError(
            f"image_size should be a multiple of {2**doublings}, for {doublings} doublings, got "
            f"{image_size}; change the number of widths"
        )
    return side


def check_latents(generator: Any, z: Tensor) -> None:
    """Refuse latent vectors of another length."""
    check_tensor("z", z, ("N", generator.latent_dim), of=generator)


def check_images(discriminator: Any, x: Tensor) -> None:
    """Refuse images of another shape."""
    check_tensor("x", x, ("N", *discriminator.image_shape), of=discriminator)
