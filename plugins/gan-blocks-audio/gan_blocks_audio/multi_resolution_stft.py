"""A discriminator of complex spectrograms at several resolutions."""

from itertools import pairwise
from typing import Annotated, Any

import torch
from annotated_types import MinLen
from torch import Tensor, nn

from gan_blocks import block
from gan_blocks.types import NonNegativeFloat, PositiveInt, Probability
from gan_blocks_audio.convolutions import check_waveform, feature_maps, weight_norm
from gan_blocks_audio.spectrum import Spectrum


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class MultiResolutionSTFTDiscriminator(nn.Module):
    r"""EnCodec's discriminator: convolutions on complex spectrograms of several window lengths.

    For each window of $W$ samples the waveform becomes its short-time Fourier transform with a hop of
    $W/4$, divided by the norm of the window, with the real and the imaginary part as channels. So the
    phase is judged too, which a magnitude hides. 2-d convolutions over time and frequency follow: one of
    3x9, one of 3x9 for each dilation in time with a stride of 2 in frequency, one of 3x3, and one of
    3x3 for the logits. Weights are weight-normalised. The transform is computed in float32 at least,
    under autocast too.

    With `bands` each band of frequencies has hidden layers of its own, and the last layer sees their
    results side by side, as in DAC.

    - EnCodec: the defaults; windows of twice the length at 48 kHz.
    - DAC: `windows=(2048, 1024, 512), dilations=(1, 1, 1), negative_slope=0.1,
      bands=(0, 0.1, 0.25, 0.5, 0.75, 1)`.

    Args:
        windows: The length $W$ of each window, multiples of 4.
        width: Channels of each hidden layer.
        dilations: Dilation in time of each strided layer.
        bands: Rising edges of the bands, as parts of the spectrum; frequencies below the first and
            above the last are left out.
        negative_slope: Slope of the leaky ReLU.
        channels: Channels of the waveform.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, channels, T)` to a list of `(N, 1, frames, f)`, one for each window; $T$ is at least the
        longest window, and there are $\lfloor (T - W) / (W/4) \rfloor + 1$ frames.

    Raises:
        ValueError: If a window is no multiple of 4, the bands do not rise or one of them holds no
            frequency of a window; if waveforms have another number of channels or are too short.

    Example:
        >>> import torch
        >>> from gan_blocks import HingeLoss
        >>> discriminator = MultiResolutionSTFTDiscriminator(windows=(256, 128), width=4)
        >>> real, fake = torch.randn(2, 1, 1024), torch.randn(2, 1, 1024)
        >>> [tuple(logits.shape) for logits in discriminator(real)]
        [(2, 1, 13, 17), (2, 1, 29, 9)]
        >>> total = HingeLoss().discriminator(discriminator(real), discriminator(fake))

    Reference:
        Defossez et al., "High Fidelity Neural Audio Compression" (EnCodec), 2022, arXiv:2210.13438,
        section 3.4 and figure 2; Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN"
        (DAC), 2023, arXiv:2306.06546, section 3.4. The paper of EnCodec prints kernels of 3x8; its code
        has 3x9, which has a centre and is followed here. The code of audiocraft has a slope of 0.3.
        DAC's code pads the waveform by reflection, does not divide by the norm of the window, and
        first takes the mean away and scales each waveform to a peak of 0.8, which is left to the
        caller.
    """

    def __init__(
        self,
        windows: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (2048, 1024, 512, 256, 128),
        width: PositiveInt = 32,
        dilations: tuple[PositiveInt, ...] = (1, 2, 4),
        bands: Annotated[tuple[Probability, ...], MinLen(2)] = (0.0, 1.0),
        negative_slope: NonNegativeFloat = 0.2,
        channels: PositiveInt = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.shortest = max(windows)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.discriminators = nn.ModuleList(
            _WindowDiscriminator(
                window, width, dilations, bands, negative_slope, 2 * channels, options
            )
            for window in windows
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits of each sub-discriminator."""
        return [maps[-1] for maps in self.feature_maps(x)]

    def feature_maps(self, x: Tensor) -> list[list[Tensor]]:
        """The output of each layer of each sub-discriminator; the last ones are the logits."""
        check_waveform(self, x, self.channels, self.shortest)
        return [each(x) for each in self.discriminators]


class _WindowDiscriminator(nn.Module):
    """The layers of one window length: a stack for each band, and a last layer for all."""

    def __init__(
        self,
        window: int,
        width: int,
        dilations: tuple[int, ...],
        bands: tuple[float, ...],
        slope: float,
        channels: int,
        options: dict[str, Any],
    ) -> None:
        super().__init__()
        self.spectrum = Spectrum(window, normalized=True, **options)
        self.slope = slope
        self.edges = [int(edge * (window // 2 + 1)) for edge in bands]
        for (low, high), (start, end) in zip(pairwise(bands), pairwise(self.edges), strict=True):
            if start >= end:
                raise ValueError(
                    f"bands should rise and each hold a frequency: from {low} to {high} there is none "
                    f"of the {window // 2 + 1} frequencies of the window {window}"
                )
        self.stacks = nn.ModuleList(
            nn.ModuleList(
                [
                    weight_norm(nn.Conv2d(channels, width, (3, 9), 1, (1, 4), **options)),
                    *(
                        weight_norm(
                            nn.Conv2d(width, width, (3, 9), (1, 2), (d, 4), (d, 1), **options)
                        )
                        for d in dilations
                    ),
                    weight_norm(nn.Conv2d(width, width, 3, 1, 1, **options)),
                ]
            )
            for _ in self.edges[1:]
        )
        self.last = weight_norm(nn.Conv2d(width, 1, 3, 1, 1, **options))

    def forward(self, x: Tensor) -> list[Tensor]:
        real, imaginary = self.spectrum(x).to(x.dtype).unbind(-1)
        spectrum = torch.cat([real, imaginary], 1)
        maps, ends = [], []
        for stack, (start, end) in zip(self.stacks, pairwise(self.edges), strict=True):
            *hidden, last = feature_maps(
                [*stack.children(), nn.Identity()], spectrum[..., start:end], self.slope
            )
            maps += hidden
            ends.append(last)
        return [*maps, self.last(torch.cat(ends, -1))]
