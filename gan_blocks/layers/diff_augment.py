"""Differentiable augmentation of what a discriminator sees."""

from typing import Literal

import torch
from torch import Tensor, nn

from gan_blocks._checks import check_tensor
from gan_blocks.distributed import draw
from gan_blocks.precision import at_least_float32
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, Probability

Augmentation = Literal["color", "translation", "cutout"]


@block(double_backward=True, compile=True, autocast=True, distributed=True, dtypes=ALL_FLOATS)
class DiffAugment(nn.Module):
    r"""Augments real and generated images before the discriminator, with gradient to the generator.

    With few training images a discriminator learns them by heart. Augmenting the real images alone
    would teach the generator to make augmented ones; here both sides are, and the generator's
    gradient goes through the augmentation. In the order of `policy`, with one draw per image:

    - `color`: brightness $x + (u - \tfrac12)$; saturation $2u\,(x - m) + m$ with $m$ the mean over the
      channels at each pixel; contrast $(u + \tfrac12)(x - m) + m$ with $m$ the mean of the image;
      each $u \sim U[0, 1)$;
    - `translation`: a shift by up to `translation` of the side, in whole pixels, zeros coming in;
    - `cutout`: a square of `cutout` of the side, its centre anywhere in the image, becomes 0.

    Args:
        policy: What is done, in this order.
        translation: Largest shift, as a part of the side.
        cutout: Side of the square, as a part of the image's.

    Shape:
        `(N, C, H, W)` to the same; values in [-1, 1], for which 0 is grey.

    Raises:
        ValueError: If the images or the draw have another shape.

    Example:
        >>> import torch
        >>> from gan_blocks import NonSaturatingLoss, DCGANDiscriminator
        >>> augment, loss = DiffAugment(["translation", "cutout"]), NonSaturatingLoss()
        >>> discriminator = DCGANDiscriminator(image_size=16, width=8)
        >>> real, fake = torch.rand(2, 4, 1, 16, 16) * 2 - 1
        >>> critic_loss = loss.discriminator(
        ...     discriminator(augment(real)), discriminator(augment(fake))
        ... )
        >>> draw = augment.draw(real)  # the same draw for two batches
        >>> real, fake = augment(real, draw), augment(fake, draw)

    Reference:
        Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", 2020,
        arXiv:2006.10738, section 3.2; the ranges are those of the authors' code.
    """

    def __init__(
        self,
        policy: tuple[Augmentation, ...] = ("color", "translation", "cutout"),
        translation: Probability = 0.125,
        cutout: Probability = 0.5,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.translation = translation
        self.cutout = cutout

    def draw(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The random numbers for a batch: seven of $U[0, 1)$ for each image, `(N, 7)`.

        They hold for images of any size; `generator` draws them, torch's own if left out.
        """
        check_tensor("x", x, ("N", ...), of=self)
        return draw(torch.rand, (len(x), 7), x.device, generator)

    def forward(
        self, x: Tensor, draw: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The augmented images, by a draw of their own or the given one."""
        check_tensor("x", x, ("N", "C", "H", "W"), of=self)
        u = self.draw(x, generator=generator) if draw is None else draw
        check_tensor("draw", u, (len(x), 7), of=self)
        if u.device != x.device:
            raise ValueError(
                f"DiffAugment: draw should be on {x.device}, where x is, got {u.device}"
            )
        y, u = at_least_float32(x), u.to(at_least_float32(x).dtype)
        for name in self.policy:
            match name:
                case "color":
                    y = self._colour(y, u[:, :3, None, None, None])
                case "translation":
                    y = self._translated(y, u[:, 3:5])
                case "cutout":
                    y = self._cut(y, u[:, 5:])
        return y.to(x.dtype)

    @staticmethod
    def _colour(x: Tensor, u: Tensor) -> Tensor:
        brightness, saturation, contrast = u.unbind(1)
        x = x + (brightness - 0.5)
        grey = x.mean(1, keepdim=True)
        x = 2 * saturation * (x - grey) + grey
        mean = x.mean((1, 2, 3), keepdim=True)
        return (contrast + 0.5) * (x - mean) + mean

    def _translated(self, x: Tensor, u: Tensor) -> Tensor:
        for dim in (2, 3):
            side = x.shape[dim]
            most = int(side * self.translation + 0.5)
            shift = (u[:, dim - 2] * (2 * most + 1)).floor().long() - most
            source = torch.arange(side, device=x.device) - shift[:, None]
            inside = (source >= 0) & (source < side)
            shape = (len(x), 1, side, 1) if dim == 2 else (len(x), 1, 1, side)
            x = x.take_along_dim(source.clamp(0, side - 1).view(shape), dim) * inside.view(shape)
        return x

    def _cut(self, x: Tensor, u: Tensor) -> Tensor:
        inside = []
        for dim in (2, 3):
            side = x.shape[dim]
            size = int(side * self.cutout + 0.5)
            # The centre is anywhere in the image; that of an even square lies between two pixels.
            centre = (u[:, dim - 2] * (side + 1 - size % 2)).floor()
            distance = torch.arange(side, device=x.device) - (centre[:, None] - size // 2)
            inside.append((distance >= 0) & (distance < size))
        hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return x.masked_fill(hole, 0)
