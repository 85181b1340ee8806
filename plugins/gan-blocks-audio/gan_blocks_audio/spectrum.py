"""The short-time Fourier transform."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_blocks.precision import WideBuffers, at_least_float32, without_autocast

Padding = Literal["none", "frame", "centre"]


class Spectrum(WideBuffers):
    r"""The short-time Fourier transform with a Hann window and a hop of a quarter of it.

    With $w_n = \sin^2(\pi n / W)$ and the hop $H = W / 4$,

    $$S_{m,k} = \frac1c \sum_{n=0}^{W-1} w_n\, x_{mH + n}\, e^{-2 \pi i k n / W}, \qquad
      0 \le k \le W / 2,$$

    where $c$ is $\|w\|_2$ if it is normalised, else 1. It is computed in float32 at least, whatever the
    waveform is and whether autocast is on.

    Args:
        window: $W$, a multiple of 4.
        normalized: Whether it is divided by the window's norm.
        padding: How many samples are reflected at each end: none, $(W - H)/2$ (`frame`, which gives
            $T/H$ frames) or $W/2$ (`centre`, frame $m$ is centred at sample $mH$).

    Shape:
        `(..., T)` to `(..., frames, W/2 + 1, 2)`, the real and the imaginary part.
    """

    window: Tensor
    wide_buffers = ("window",)

    def __init__(
        self,
        window: int,
        normalized: bool,
        padding: Padding = "none",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if window % 4:
            raise ValueError(f"a window should be a multiple of 4, for the hop, got {window}")
        self.hop = window // 4
        self.padding = {"none": 0, "frame": (window - self.hop) // 2, "centre": window // 2}[
            padding
        ]
        w = torch.hann_window(window, dtype=torch.float64, device="cpu")
        self.register_buffer(
            "window", constant(w / w.norm() if normalized else w, device, dtype), False
        )

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):
            x = at_least_float32(x)
            flat = x.reshape(-1, 1, x.shape[-1])
            flat = F.pad(flat, (self.padding, self.padding), "reflect") if self.padding else flat
            w = self.window.to(x.dtype)
            size = len(w)
            s = torch.stft(flat[:, 0], size, self.hop, size, w, center=False, return_complex=True)
            # Frequencies come before frames.
            s = s.transpose(-1, -2)
            return torch.view_as_real(s.reshape(*x.shape[:-1], *s.shape[1:]))


def constant(x: Tensor, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    """Numbers computed in float64 on the CPU, as a buffer of a module for this device and dtype."""
    dtype = torch.get_default_dtype() if dtype is None else dtype
    device = torch.get_default_device() if device is None else device
    return x.to(device, torch.float32 if dtype.itemsize < 4 else dtype)
