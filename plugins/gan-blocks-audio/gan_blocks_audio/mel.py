"""The mel scale."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

MelScale = Literal["slaney", "htk"]
FilterNorm = Literal["area", "peak"]

# Of Slaney's scale: up to 1000 Hz a mel is 200/3 Hz, from there 27 mels are a factor of 6.4.
_HERTZ_PER_MEL = 200 / 3
_BREAK = 1000.0
_LOG_STEP = math.log(6.4) / 27


def _slaney(f: float) -> float:
    if f < _BREAK:
        return f / _HERTZ_PER_MEL
    return _BREAK / _HERTZ_PER_MEL + math.log(f / _BREAK) / _LOG_STEP


def _slaney_inverse(m: float) -> float:
    kink = _BREAK / _HERTZ_PER_MEL
    return m * _HERTZ_PER_MEL if m < kink else _BREAK * math.exp((m - kink) * _LOG_STEP)


def _htk(f: float) -> float:
    return 2595 * math.log10(1 + f / 700)


def _htk_inverse(m: float) -> float:
    return 700 * (10 ** (m / 2595) - 1)


_SCALES: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "slaney": (_slaney, _slaney_inverse),
    "htk": (_htk, _htk_inverse),
}


def mel_filters(
    sample_rate: float,
    window: int,
    num_mels: int,
    f_min: float = 0.0,
    f_max: float | None = None,
    scale: MelScale = "slaney",
    norm: FilterNorm = "area",
) -> Tensor:
    r"""Triangular filters that are equally spaced on the mel scale.

    With $f_0 < f_1 < \dots < f_{n+1}$ equally spaced in mel from `f_min` to `f_max`, filter $k$ rises
    from $f_{k-1}$ to its peak at $f_k$ and falls to $f_{k+1}$:

    $$H_k(f) = c_k \max\left(0, \min\left(\frac{f - f_{k-1}}{f_k - f_{k-1}},
      \frac{f_{k+1} - f}{f_{k+1} - f_k}\right)\right).$$

    A frequency of $f$ Hz has $2595 \log_{10}(1 + f / 700)$ mels in HTK. In Slaney's Auditory Toolbox it
    has $3f/200$ mels up to 1000 Hz, and $15 + 27 \log_{6.4}(f / 1000)$ from there.

    Args:
        sample_rate: In Hz.
        window: Length of the Fourier transform.
        num_mels: $n$.
        f_min: Lower end of the lowest filter, in Hz.
        f_max: Upper end of the highest filter; half the sample rate if left out.
        scale: Which mel scale.
        norm: `area` gives each filter the area 1 over Hz, $c_k = 2 / (f_{k+1} - f_{k-1})$, as librosa;
            `peak` the height $c_k = 1$, as HTK and torchaudio.

    Shape:
        `(num_mels, window/2 + 1)`, in float64: the filters at the frequencies of the transform. A filter
        that lies between two of them is all zeros.

    Raises:
        ValueError: If `f_min` and `f_max` do not rise, or `f_max` is above half the sample rate.

    Example:
        >>> mel_filters(8000, 8, 2, scale="htk", norm="peak").round(decimals=2)
        tensor([[0.0000, 0.6800, 0.0000, 0.0000, 0.0000],
                [0.0000, 0.3200, 0.9100, 0.4500, 0.0000]], dtype=torch.float64)

    Reference:
        Slaney, "Auditory Toolbox", Interval Research technical report 1998-010; Young et al., "The HTK
        Book", section 5.4.
    """
    f_max = sample_rate / 2 if f_max is None else f_max
    if not 0 <= f_min < f_max <= sample_rate / 2:
        raise ValueError(
            f"f_min {f_min} and f_max {f_max} should rise, from 0 to at most half the sample rate, "
            f"{sample_rate / 2}"
        )
    mel, hertz = _SCALES[scale]
    low, high = mel(f_min), mel(f_max)
    edges = [hertz(low + (high - low) * k / (num_mels + 1)) for k in range(num_mels + 2)]
    f = torch.arange(window // 2 + 1, dtype=torch.float64, device="cpu") * sample_rate / window
    filters = []
    for left, peak, right in zip(edges, edges[1:], edges[2:], strict=False):
        rising, falling = (f - left) / (peak - left), (right - f) / (right - peak)
        height = 2 / (right - left) if norm == "area" else 1.0
        filters.append(height * torch.minimum(rising, falling).clamp(min=0))
    return torch.stack(filters)
