"""A discriminator of waveforms that are folded by several periods."""

from itertools import pairwise
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor, nn

from gan_blocks import block
from gan_blocks.types import PositiveInt
from gan_blocks_audio.convolutions import check_waveform, feature_maps, weight_norm

_SLOPE = 0.1


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class MultiPeriodDiscriminator(nn.Module):
    r"""HiFi-GAN's multi-period discriminator: each part sees every p-th sample of the waveform.

    Sub-discriminator $p$ folds the waveform $x$ into a map with $p$ columns,

    $$X_{i,j} = x_{ip + j}, \qquad 0 \le j < p,$$

    and its convolutions run along the columns only, five rows at a time. So its logits in column $j$
    see the samples $x_j, x_{j+p}, x_{j+2p}, \dots$ and nothing between them; with prime periods the
    parts overlap as little as they can. Every hidden layer but the last one strides three rows;
    weights are weight-normalised; leaky ReLU of slope 0.1. A waveform whose length is no multiple of $p$
    is reflected at its end.

    Args:
        periods: The $p$ of each sub-discriminator.
        width: Unit of the channels; 32 is the paper's.
        multiples: Channels after each hidden layer, in that unit.
        channels: Channels of the waveform.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, channels, T)` to a list of `(N, 1, rows, period)`, one for each period; $T$ is at least the
        largest period.

    Raises:
        ValueError: If waveforms have another number of channels or are too short.

    Example:
        >>> import torch
        >>> from gan_blocks import LeastSquaresLoss
        >>> discriminator = MultiPeriodDiscriminator(periods=(2, 3), width=2)
        >>> real, fake = torch.randn(2, 1, 500), torch.randn(2, 1, 500)
        >>> [tuple(logits.shape) for logits in discriminator(real)]
        [(2, 1, 4, 2), (2, 1, 3, 3)]
        >>> total = LeastSquaresLoss().discriminator(discriminator(real), discriminator(fake))

    Reference:
        Kong, Kim and Bae, "HiFi-GAN: Generative Adversarial Networks for Efficient and High Fidelity
        Speech Synthesis", 2020, arXiv:2010.05646, section 2.3. Kernels, strides and widths are those of
        the authors' code, which flattens its logits; here they keep the shape of their map.
    """

    def __init__(
        self,
        periods: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (2, 3, 5, 7, 11),
        width: PositiveInt = 32,
        multiples: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (1, 4, 16, 32, 32),
        channels: PositiveInt = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.shortest = max(periods)
        widths = [width * multiple for multiple in multiples]
        self.discriminators = nn.ModuleList(
            _PeriodDiscriminator(period, [channels, *widths], device=device, dtype=dtype)
            for period in periods
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits of each sub-discriminator."""
        return [maps[-1] for maps in self.feature_maps(x)]

    def feature_maps(self, x: Tensor) -> list[list[Tensor]]:
        """The output of each layer of each sub-discriminator; the last ones are the logits."""
        check_waveform(self, x, self.channels, self.shortest)
        return [each(x) for each in self.discriminators]


class _PeriodDiscriminator(nn.Module):
    """The layers of one period."""

    def __init__(self, period: int, widths: list[int], **options: Any) -> None:
        super().__init__()
        self.period = period
        strides = [3] * (len(widths) - 2) + [1]
        layers = [
            nn.Conv2d(before, after, (5, 1), (stride, 1), (2, 0), **options)
            for (before, after), stride in zip(pairwise(widths), strides, strict=True)
        ]
        layers.append(nn.Conv2d(widths[-1], 1, (3, 1), 1, (1, 0), **options))
        self.layers = nn.ModuleList(map(weight_norm, layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        missing = -x.shape[-1] % self.period
        x = F.pad(x, (0, missing), "reflect") if missing else x
        return feature_maps(self.layers, x.unflatten(-1, (-1, self.period)), _SLOPE)
