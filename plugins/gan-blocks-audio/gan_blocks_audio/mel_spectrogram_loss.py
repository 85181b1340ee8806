"""The distance of mel spectrograms."""

from typing import Annotated, Any, Literal

import torch
from annotated_types import MinLen
from torch import Tensor, nn

from gan_blocks import block
from gan_blocks.authoring import check_tensor
from gan_blocks.precision import WideBuffers, without_autocast
from gan_blocks.types import ALL_FLOATS, Combine, NonNegativeFloat, PositiveFloat, PositiveInt
from gan_blocks_audio.mel import FilterNorm, MelScale, mel_filters
from gan_blocks_audio.spectrum import (
    Padding,
    Spectrum,
    constant,
)

_EPSILON = 1e-9


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    side="generator",
    compares="samples",
    dtypes=ALL_FLOATS,
)
class MelSpectrogramLoss(nn.Module):
    r"""The distance between the mel spectrograms of a waveform and of its reconstruction.

    For each window of $W$ samples let $M(x)$ be the mel spectrogram: the magnitude
    $\sqrt{|S|^2 + 10^{-9}}$ of the short-time Fourier transform with a hop of $W/4$, or its power
    $|S|^2$, weighted by the [filters][gan_blocks_audio.mel_filters] $H$. The loss of real $x$ and
    generated $\hat x$ is

    $$w \sum_W \Big( w_\mathrm{lin}\, \mathrm{mean}\,|M(x) - M(\hat x)|
      + w_\mathrm{log}\, \mathrm{mean}\,d\big(\log M(x), \log M(\hat x)\big) \Big),$$

    where $d$ is the absolute difference or its square, the logarithm has a floor, and the sum over
    windows may be a mean. The real side is detached. It is computed in float32 at least, under autocast
    too.

    The sources differ in almost everything, so it is all named; a weight is worth nothing without it.

    - HiFi-GAN: `weight=45`.
    - DAC: `weight=15, sample_rate=44100, windows=(32, 64, 128, 256, 512, 1024, 2048),
      num_mels=(5, 10, 20, 40, 80, 160, 320), log_base="10", padding="centre"`.
    - EnCodec: `sample_rate=24000, windows=(32, 64, 128, 256, 512, 1024, 2048), num_mels=(64,),
      mel_scale="htk", filter_norm="peak", spectrum="power", normalized=True, linear_weight=1,
      log_distance="l2", log_base="10", floor_by="add", windows_combine="mean", empty_bands="keep"`.

    Args:
        sample_rate: In Hz.
        windows: The length $W$ of each window, multiples of 4.
        num_mels: Number of filters of each window, or one number for all.
        f_min: Lower end of the lowest filter, in Hz.
        f_max: Upper end of the highest filter; half the sample rate if left out.
        mel_scale: `slaney` or `htk`.
        filter_norm: Whether each filter has the `area` or the `peak` 1.
        spectrum: Whether the filters weight the `magnitude` or the `power`.
        normalized: Whether the transform is divided by the norm of its window.
        padding: How many samples are reflected at each end: `none`, $3W/8$ (`frame`) or $W/2$
            (`centre`).
        linear_weight: $w_\mathrm{lin}$.
        log_weight: $w_\mathrm{log}$.
        log_distance: $d$, `l1` or `l2` (the mean square).
        log_base: `e` or `10`.
        floor: What the logarithm is taken of at least.
        floor_by: Whether the floor is taken by `clamp`, or `add`ed.
        windows_combine: Whether the windows are summed or averaged.
        weight: $w$.
        empty_bands: Narrow filters of a short window can lie between two frequencies of the transform
            and hear nothing. `refuse` them, or `keep` them, where they count in the mean and add
            nothing; EnCodec's settings have 70 of them.
        device: Where the filters are made.
        dtype: Their dtype, float32 at least.

    Shape:
        Two tensors `(..., T)` of one shape; $T$ is at least the longest window. The result is a scalar
        of at least float32.

    Raises:
        ValueError: If a window is no multiple of 4, there are neither one nor as many `num_mels` as
            windows, the frequencies do not rise, both weights are 0, or a filter is empty and not to be
            kept; if the waveforms differ in shape, are empty or shorter than a window.
        TypeError: If they are no floating-point tensors.

    Example:
        >>> import torch
        >>> loss = MelSpectrogramLoss(sample_rate=16000, windows=(256,), num_mels=(20,))
        >>> tone = torch.sin(2 * torch.pi * 440 / 16000 * torch.arange(4000))
        >>> loss(tone, tone)
        tensor(0.)
        >>> louder = loss(tone, 2.718281828 * tone)

    Reference:
        Kong, Kim and Bae, "HiFi-GAN", 2020, arXiv:2010.05646, section 2.4 (its code's filters
        reach to half the sample rate in the loss, and to 8 kHz in the generator's input); Kumar
        et al., "High-Fidelity Audio Compression with Improved RVQGAN" (DAC), 2023, arXiv:2306.06546,
        section 3.5; Defossez et al., "High Fidelity Neural Audio Compression" (EnCodec), 2022,
        arXiv:2210.13438, section 3.4. The $10^{-9}$ is HiFi-GAN's; DAC's code has none, and the floor
        of its logarithm lies above. The paper of EnCodec prints the L2 norm where its code has the mean
        square of logarithms, followed here; the code has windows of 64 to 1024 and `f_min=64`.
    """

    def __init__(
        self,
        sample_rate: PositiveInt = 22050,
        windows: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (1024,),
        num_mels: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (80,),
        f_min: NonNegativeFloat = 0.0,
        f_max: PositiveFloat | None = None,
        mel_scale: MelScale = "slaney",
        filter_norm: FilterNorm = "area",
        spectrum: Literal["magnitude", "power"] = "magnitude",
        normalized: bool = False,
        padding: Padding = "frame",
        linear_weight: NonNegativeFloat = 0.0,
        log_weight: NonNegativeFloat = 1.0,
        log_distance: Literal["l1", "l2"] = "l1",
        log_base: Literal["e", "10"] = "e",
        floor: PositiveFloat = 1e-5,
        floor_by: Literal["clamp", "add"] = "clamp",
        windows_combine: Combine = "sum",
        weight: PositiveFloat = 1.0,
        empty_bands: Literal["refuse", "keep"] = "refuse",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(num_mels) not in (1, len(windows)):
            raise ValueError(
                f"num_mels should be one number, or one for each of the {len(windows)} windows, "
                f"got {len(num_mels)}"
            )
        if not linear_weight and not log_weight:
            raise ValueError("linear_weight and log_weight are both 0; nothing is left to compare")
        self.linear_weight = linear_weight
        self.log_weight = log_weight
        self.squared = log_distance == "l2"
        self.log = torch.log if log_base == "e" else torch.log10
        self.floor = floor
        self.clamped = floor_by == "clamp"
        self.averaged = windows_combine == "mean"
        self.weight = weight
        self.shortest = max(windows)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.spectrograms = nn.ModuleList()
        counts = num_mels * len(windows) if len(num_mels) == 1 else num_mels
        for window, count in zip(windows, counts, strict=True):
            filters = mel_filters(sample_rate, window, count, f_min, f_max, mel_scale, filter_norm)
            empty = (filters.sum(1) == 0).nonzero().flatten().tolist()
            if empty and empty_bands == "refuse":
                raise ValueError(
                    f"of the {count} mel filters of the window {window}, {len(empty)} lie between two "
                    f"frequencies of the transform and would hear nothing, the first of them number "
                    f"{empty[0]}; take fewer num_mels or a longer window, or empty_bands='keep'"
                )
            transform = Spectrum(window, normalized, padding, **options)
            self.spectrograms.append(_MelSpectrogram(transform, filters, spectrum, **options))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """The distance; its gradient goes to the generated side only."""
        self._check(real, fake)
        terms = []
        for spectrogram in self.spectrograms:
            terms.append(self._distance(spectrogram(real.detach()), spectrogram(fake)))
        total = torch.stack(terms).mean() if self.averaged else torch.stack(terms).sum()
        return self.weight * total

    def log_mel_spectrograms(self, x: Tensor) -> list[Tensor]:
        """The logarithms that are compared, `(..., num_mels, frames)` for each window.

        They are a vocoder's input, if its generator is to hear what the loss hears.
        """
        return [self._logarithm(each(x)).transpose(-1, -2) for each in self.spectrograms]

    def _distance(self, real: Tensor, fake: Tensor) -> Tensor:
        """Of the mel spectrograms of one window."""
        terms = []
        if self.linear_weight:
            terms.append(self.linear_weight * (real - fake).abs().mean())
        if self.log_weight:
            difference = self._logarithm(real) - self._logarithm(fake)
            size = difference.square() if self.squared else difference.abs()
            terms.append(self.log_weight * size.mean())
        return torch.stack(terms).sum()

    def _logarithm(self, mel: Tensor) -> Tensor:
        return self.log(mel.clamp(min=self.floor) if self.clamped else mel + self.floor)

    def _check(self, real: Tensor, fake: Tensor) -> None:
        for name, x in (("real", real), ("fake", fake)):
            check_tensor(name, x, of=self)
        if real.shape != fake.shape:
            raise ValueError(
                f"real {tuple(real.shape)} and fake {tuple(fake.shape)} should be of one shape, sample "
                "by sample"
            )
        if real.dim() == 0 or real.numel() == 0 or real.shape[-1] < self.shortest:
            raise ValueError(
                "MelSpectrogramLoss takes waveforms of shape (..., T), not empty, T at least the "
                f"longest window, {self.shortest}, got {tuple(real.shape)}"
            )


class _MelSpectrogram(WideBuffers):
    """The mel spectrogram of one window, `(..., frames, num_mels)`."""

    filters: Tensor
    wide_buffers = ("filters",)

    def __init__(
        self, transform: Spectrum, filters: Tensor, spectrum: str, *, device: Any, dtype: Any
    ) -> None:
        super().__init__()
        self.transform = transform
        self.power = spectrum == "power"
        self.register_buffer("filters", constant(filters, device, dtype), False)

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):
            power = self.transform(x).square().sum(-1)
            strength = power if self.power else (power + _EPSILON).sqrt()
            return strength @ self.filters.to(strength.dtype).T
