"""Noise with a learned strength."""

from typing import Literal

import torch
from torch import Tensor, nn

from gan_blocks import block
from gan_blocks.authoring import check_tensor
from gan_blocks.distributed import draw
from gan_blocks.types import PositiveInt

Noise = Literal["random", "fixed", "none"]
"""Drawn anew, the layer's own map, or none."""


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class NoiseInjection(nn.Module):
    r"""Adds one map of noise to all channels, with a strength that is learned.

    $$y_{nchw} = x_{nchw} + \sigma\, \epsilon_{nhw}, \qquad \epsilon_{nhw} \sim N(0, 1),$$

    with one number $\sigma$ for the layer, 0 at the start. It gives a generator the details that are
    random in nature, hair or leaves, so that it need not make them from the latent vector.

    The noise is drawn anew at each call, or given, or left out; or it is the fixed map of the layer,
    which makes the image a function of the latent vector alone.

    Args:
        image_size: Side of the fixed map; without it there is none.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, C, H, W)` to the same; given noise `(N, 1, H, W)` or `(1, 1, H, W)`.

    Raises:
        ValueError: If the fixed map is asked for and there is none of this size, the noise does not fit,
            or the map has another shape.

    Example:
        >>> import torch
        >>> layer, x = NoiseInjection(), torch.zeros(1, 1, 1, 2)
        >>> torch.nn.init.constant_(layer.strength, 0.5).item()
        0.5
        >>> layer(x, noise=torch.tensor([[[[1.0, -3.0]]]])).tolist()
        [[[[0.5, -1.5]]]]
        >>> once = layer(x, generator=torch.Generator().manual_seed(0))
        >>> again = layer(x, generator=torch.Generator().manual_seed(0))
        >>> torch.equal(once, again)
        True

    Reference:
        Karras, Laine and Aila, "A Style-Based Generator Architecture", 2019, arXiv:1812.04948,
        section 2, where each channel has a strength; one for the layer: Karras et al., "Analyzing and
        Improving the Image Quality of StyleGAN", 2020, arXiv:1912.04958, appendix B.
    """

    fixed: Tensor | None

    def __init__(
        self,
        image_size: PositiveInt | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros((), device=device, dtype=dtype))
        fixed = None
        if image_size is not None:
            fixed = torch.randn(image_size, image_size, device=device, dtype=dtype)
        self.register_buffer("fixed", fixed)

    def forward(
        self,
        x: Tensor,
        noise: Tensor | Noise = "random",
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The map with noise.

        Args:
            x: The map.
            noise: `"random"`, `"fixed"`, `"none"`, or the noise itself.
            generator: Draws the random noise; torch's global one if left out.
        """
        check_tensor("x", x, of=self)
        if x.dim() != 4:
            raise ValueError(
                f"NoiseInjection takes maps of shape (N, C, H, W), got {tuple(x.shape)}"
            )
        if isinstance(noise, str):
            if noise == "none":
                return x
            noise = self._own(x, noise, generator)
        elif not isinstance(noise, Tensor):
            raise TypeError(
                f'noise should be "random", "fixed", "none" or a tensor, got {type(noise).__name__}'
            )
        elif (
            noise.dim() != 4
            or noise.shape[1:] != (1, *x.shape[2:])
            or len(noise) not in (1, len(x))
        ):
            raise ValueError(
                f"noise for maps {tuple(x.shape)} should have shape {(len(x), 1, *x.shape[2:])}, or "
                f"1 in the place of {len(x)}, got {tuple(noise.shape)}"
            )
        return x + (self.strength * noise).to(x.dtype)

    def _own(self, x: Tensor, noise: str, generator: torch.Generator | None) -> Tensor:
        if noise == "random":
            return draw(torch.randn, (len(x), 1, *x.shape[2:]), x.device, generator).to(x.dtype)
        if noise != "fixed":
            raise ValueError(
                f'noise should be "random", "fixed", "none" or a tensor, got {noise!r}'
            )
        if self.fixed is None or self.fixed.shape != x.shape[2:]:
            have = "none" if self.fixed is None else f"one of {tuple(self.fixed.shape)}"
            raise ValueError(
                f"fixed noise for maps {tuple(x.shape)} is asked for, the layer has {have}; build it "
                "with their image_size"
            )
        return self.fixed
