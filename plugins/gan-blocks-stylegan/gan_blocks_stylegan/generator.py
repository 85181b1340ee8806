"""StyleGAN2's generator."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks import EqualizedLinear, block
from gan_blocks.authoring import check_tensor
from gan_blocks.distributed import draw
from gan_blocks.types import NonNegativeInt, PositiveFloat, PositiveInt, Probability
from gan_blocks_stylegan.common import activated, widths
from gan_blocks_stylegan.mapping import MappingNetwork
from gan_blocks_stylegan.modulation import ModulatedConv2d
from gan_blocks_stylegan.noise import Noise, NoiseInjection
from gan_blocks_stylegan.resampling import Upsample2d


def _affine(w_dim: int, channels: int, options: dict[str, Any]) -> EqualizedLinear:
    """From a style to the scales of channels, around 1 at the start."""
    layer = EqualizedLinear(w_dim, channels, **options)
    nn.init.ones_(layer.bias)  # type: ignore[arg-type]
    return layer


class _StyledConv(nn.Module):
    """Modulated convolution, noise, bias and activation."""

    def __init__(
        self, before: int, after: int, w_dim: int, side: int, upsample: bool, options: Any
    ) -> None:
        super().__init__()
        self.affine = _affine(w_dim, before, options)
        self.conv = ModulatedConv2d(before, after, 3, upsample=upsample, **options)
        self.noise = NoiseInjection(side, **options)
        self.bias = nn.Parameter(torch.zeros(after, **options))

    def forward(
        self, x: Tensor, w: Tensor, noise: Noise, generator: torch.Generator | None
    ) -> Tensor:
        x = self.noise(self.conv(x, self.affine(w)), noise, generator=generator)
        return activated(x + self.bias[:, None, None].to(x.dtype))


class _ToRGB(nn.Module):
    """A 1x1 convolution with a style, not demodulated."""

    def __init__(self, before: int, channels: int, w_dim: int, options: Any) -> None:
        super().__init__()
        self.affine = _affine(w_dim, before, options)
        self.conv = ModulatedConv2d(before, channels, 1, demodulate=False, **options)
        self.bias = nn.Parameter(torch.zeros(channels, **options))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        y = self.conv(x, self.affine(w))
        return y + self.bias[:, None, None].to(y.dtype)


class _Synthesis(nn.Module):
    """From styles, one for each layer, to images."""

    def __init__(self, channels: int, w_dim: int, maps: list[int], options: Any) -> None:
        super().__init__()
        self.num_layers = 2 * len(maps)
        self.w_dim = w_dim
        self.constant = nn.Parameter(torch.randn(maps[0], 4, 4, **options))
        pairs = [(maps[0], maps[0], 4, False)]
        for i, (before, after) in enumerate(pairwise(maps), 1):
            pairs += [(before, after, 4 * 2**i, True), (after, after, 4 * 2**i, False)]
        self.convs = nn.ModuleList(
            _StyledConv(before, after, w_dim, side, upsample, options)
            for before, after, side, upsample in pairs
        )
        self.to_rgb = nn.ModuleList(_ToRGB(width, channels, w_dim, options) for width in maps)
        self.upsample = Upsample2d(**options)

    def forward(
        self, w: Tensor, *, noise: Noise = "random", generator: torch.Generator | None = None
    ) -> Tensor:
        """Images from styles of shape `(N, layers, w_dim)`."""
        check_tensor("w", w)
        if w.shape[1:] != (self.num_layers, self.w_dim):
            raise ValueError(
                f"the synthesis takes styles of shape (N, {self.num_layers}, {self.w_dim}), one for "
                f"each layer, got {tuple(w.shape)}"
            )
        x = self.constant.expand(len(w), -1, -1, -1)
        x = self.convs[0](x, w[:, 0], noise, generator)
        image = self.to_rgb[0](x, w[:, 1])
        for i in range(1, len(self.to_rgb)):
            x = self.convs[2 * i - 1](x, w[:, 2 * i - 1], noise, generator)
            x = self.convs[2 * i](x, w[:, 2 * i], noise, generator)
            image = self.upsample(image) + self.to_rgb[i](x, w[:, 2 * i + 1])
        return image


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class StyleGAN2Generator(nn.Module):
    r"""StyleGAN2's generator: a constant map, which styles turn into an image.

    [`MappingNetwork`][gan_blocks_stylegan.MappingNetwork] makes a style $w$ from $z$. The synthesis
    starts from a learned map of 4x4 pixels. At each size but the first a
    [`ModulatedConv2d`][gan_blocks_stylegan.ModulatedConv2d] doubles the map, and one more keeps it;
    each is followed by [noise][gan_blocks_stylegan.NoiseInjection], bias and
    $\sqrt2\; \mathrm{lrelu}_{0.2}$, and its style is an affine function of $w$. At each size a 1x1
    convolution adds to the image so far, [doubled][gan_blocks_stylegan.Upsample2d]. The image is not
    bounded.

    A map of side $r$ has $\min(\mathrm{channel\_base} / r, \mathrm{channel\_max})$ channels. There are
    $2 \log_2(\mathrm{image\_size}) - 2$ layers with a style each: the 1x1 convolution of a size has the
    same one as the first convolution of the next.

    **Style mixing.** In training each sample gets a second style with probability `style_mixing`, from
    a layer on that is drawn uniformly; so a layer cannot count on what another was told.

    For [`PathLengthPenalty`][gan_blocks.PathLengthPenalty] make the images in two steps, `w =
    generator.styles(z)` and `generator.synthesis(w)`. Under `DistributedDataParallel` wrap `mapping`
    and `synthesis`, as the authors do, where you call these.

    The paper's configuration F has the defaults, at 1024 pixels.

    Args:
        latent_dim: Length of a latent vector $z \sim N(0, I)$.
        image_size: Pixels of a side, a power of two from 4 on.
        channels: Channels of an image.
        w_dim: Length of a style.
        mapping_depth: Layers of the mapping network.
        lr_multiplier: Speed of learning of the mapping network relative to the rest.
        channel_base: Channels of a map times its side.
        channel_max: Channels of a map at most.
        style_mixing: Probability of a second style in training.
        num_classes: Number of classes; 0 for none.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, latent_dim)`, and labels `(N,)` with classes, to `(N, channels, image_size, image_size)`.

    Raises:
        ValueError: If the size is no power of two or larger than `channel_base`, latent vectors or
            styles have another shape, or labels are missing or needless.

    Example:
        >>> import torch
        >>> from gan_blocks import PathLengthPenalty
        >>> generator = StyleGAN2Generator(16, image_size=16, w_dim=16, channel_base=128)
        >>> generator(torch.randn(2, 16)).shape
        torch.Size([2, 3, 16, 16])
        >>> w = generator.styles(torch.randn(2, 16))
        >>> w.shape
        torch.Size([2, 6, 16])
        >>> penalty = PathLengthPenalty()(generator.synthesis(w), w)

    Reference:
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020,
        arXiv:1912.04958, sections 2 and 4 and appendix B; style mixing and truncation: Karras, Laine and
        Aila, "A Style-Based Generator Architecture", 2019, arXiv:1812.04948, section 3.1 and appendix B.
        The authors draw one crossover for a batch, here each sample has its own.
    """

    def __init__(
        self,
        latent_dim: PositiveInt = 512,
        image_size: PositiveInt = 256,
        channels: PositiveInt = 3,
        w_dim: PositiveInt = 512,
        mapping_depth: PositiveInt = 8,
        lr_multiplier: PositiveFloat = 0.01,
        channel_base: PositiveInt = 32768,
        channel_max: PositiveInt = 512,
        style_mixing: Probability = 0.9,
        num_classes: NonNegativeInt = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        maps = widths(image_size, channel_base, channel_max)
        self.style_mixing = style_mixing
        self.mapping = MappingNetwork(
            latent_dim, w_dim, mapping_depth, lr_multiplier, num_classes=num_classes, **options
        )
        self.synthesis = _Synthesis(channels, w_dim, maps, options)
        self.num_layers = self.synthesis.num_layers

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise: Noise = "random",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""Images from latent vectors.

        Args:
            z: The latent vectors.
            labels: Their classes.
            psi: $\psi$ of the truncation; 1 for none.
            cutoff: How many layers to truncate, from the first; all if left out.
            noise: `"random"`, `"fixed"` or `"none"`, as
                [`NoiseInjection`][gan_blocks_stylegan.NoiseInjection] has it.
            generator: Draws mixing and noise; torch's global one if left out.
        """
        w = self.styles(z, labels, psi=psi, cutoff=cutoff, generator=generator)
        return self.synthesis(w, noise=noise, generator=generator)

    def styles(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        psi: float = 1.0,
        cutoff: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The style of each layer, mixed in training mode: `(N, layers, w_dim)`.

        Arguments as those of the images.
        """
        w = self._for_all_layers(self.mapping(z, labels))
        if self.training and self.style_mixing:
            other = self.mapping.map(
                draw(torch.randn, z.shape, z.device, generator).to(z.dtype), labels
            )
            w = self.mix(w, self._for_all_layers(other), self._crossover(z, generator))
        if psi == 1:
            return w
        truncated = self.mapping.truncate(w[:, :cutoff], psi)
        return truncated if cutoff is None else torch.cat([truncated, w[:, cutoff:]], dim=1)

    def mix(self, first: Tensor, second: Tensor, crossover: int | Tensor) -> Tensor:
        """Styles of the first below the crossover, of the second from there on.

        Args:
            first: `(N, layers, w_dim)`.
            second: Likewise.
            crossover: A layer for all samples, or one for each, `(N,)`.
        """
        layer = torch.arange(self.num_layers, device=first.device)
        below = layer < (crossover[:, None] if isinstance(crossover, Tensor) else crossover)
        return torch.where(below[..., None], first, second)

    def _for_all_layers(self, w: Tensor) -> Tensor:
        return w[:, None].expand(-1, self.num_layers, -1)

    def _crossover(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """Uniform on 1, ..., layers - 1 with the probability of mixing, else behind the last layer."""
        chance, place = draw(torch.rand, (len(z), 2), z.device, generator).unbind(1)
        layer = 1 + (place * (self.num_layers - 1)).long()
        return torch.where(chance < self.style_mixing, layer, self.num_layers)
