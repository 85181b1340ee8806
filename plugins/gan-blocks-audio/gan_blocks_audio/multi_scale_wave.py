"""A discriminator of waveforms at several sampling rates."""

import math
from itertools import pairwise
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan_blocks import block
from gan_blocks.types import PositiveInt
from gan_blocks_audio.convolutions import check_waveform, feature_maps, weight_norm

_SLOPE = 0.1
_KERNELS = (15, 41, 41, 41, 41, 41, 5)
_STRIDES = (1, 2, 2, 4, 4, 1, 1)
_GROUPS = (1, 4, 16, 16, 16, 16, 1)


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    moves_in_forward=True,
)
class MultiScaleWaveDiscriminator(nn.Module):
    r"""HiFi-GAN's multi-scale discriminator: the waveform as it is, and at lower rates.

    The first sub-discriminator sees the waveform, each further one the input of the one before at half
    the rate, by the mean over four samples (zeros beyond the ends). Each is a stack of 1-d convolutions
    with long kernels in groups, which sees consecutive samples where
    [`MultiPeriodDiscriminator`][gan_blocks_audio.MultiPeriodDiscriminator] sees distant ones. The first
    is spectrally normalised, the others weight-normalised; leaky ReLU of slope 0.1.

    Args:
        num_scales: Number of sub-discriminators.
        width: Unit of the channels; 128 is the paper's code's.
        multiples: Channels after each of the seven hidden layers, in that unit. Where they are few, a
            layer has as many groups as divide both its channels and the paper's number.
        channels: Channels of the waveform.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, channels, T)` to a list of `(N, 1, t)`, one for each scale: about $T/64$ logits of the first
        scale, and half as many of each further one.

    Raises:
        ValueError: If waveforms have another number of channels or are empty.

    Example:
        >>> import torch
        >>> from gan_blocks import LayerwiseFeatureMatchingLoss
        >>> discriminator = MultiScaleWaveDiscriminator(num_scales=2, width=4)
        >>> real, fake = torch.randn(2, 1, 512), torch.randn(2, 1, 512)
        >>> [tuple(logits.shape) for logits in discriminator(real)]
        [(2, 1, 8), (2, 1, 5)]
        >>> matching = LayerwiseFeatureMatchingLoss(weight=2)
        >>> total = matching(discriminator.feature_maps(real), discriminator.feature_maps(fake))

    Reference:
        Kong, Kim and Bae, "HiFi-GAN", 2020, arXiv:2010.05646, section 2.3, after Kumar et al.,
        "MelGAN", 2019, arXiv:1910.06711. Kernels, strides and groups are those of HiFi-GAN's code, which
        differ from MelGAN's.
    """

    def __init__(
        self,
        num_scales: PositiveInt = 3,
        width: PositiveInt = 128,
        multiples: Annotated[tuple[PositiveInt, ...], Len(7, 7)] = (1, 1, 2, 4, 8, 8, 8),
        channels: PositiveInt = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        widths = [channels, *(width * multiple for multiple in multiples)]
        self.discriminators = nn.ModuleList(
            _ScaleDiscriminator(spectral_norm if i == 0 else weight_norm, widths, device, dtype)
            for i in range(num_scales)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits of each sub-discriminator."""
        return [maps[-1] for maps in self.feature_maps(x)]

    def feature_maps(self, x: Tensor) -> list[list[Tensor]]:
        """The output of each layer of each sub-discriminator; the last ones are the logits."""
        check_waveform(self, x, self.channels)
        maps = []
        for i, each in enumerate(self.discriminators):
            x = F.avg_pool1d(x, 4, 2, padding=2) if i else x
            maps.append(each(x))
        return maps


class _ScaleDiscriminator(nn.Module):
    """The layers of one scale."""

    def __init__(self, norm: Any, widths: list[int], device: Any, dtype: Any) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        shapes = zip(pairwise(widths), _KERNELS, _STRIDES, _GROUPS, strict=True)
        layers = [
            nn.Conv1d(
                before,
                after,
                kernel,
                stride,
                kernel // 2,
                groups=math.gcd(before, after, groups),
                **options,
            )
            for (before, after), kernel, stride, groups in shapes
        ]
        layers.append(nn.Conv1d(widths[-1], 1, 3, 1, 1, **options))
        self.layers = nn.ModuleList(map(norm, layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        return feature_maps(self.layers, x, _SLOPE)
