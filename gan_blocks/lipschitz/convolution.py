r"""The operator norm of convolutions for maps of a given size: exact if small, else from above.

Of a small map it is the largest singular value of the dense matrix. Of a larger one, padded with
zeros, the convolution is a part of a convolution on a torus. In Fourier space that one is
block-diagonal, with one block for each frequency $\omega$ of the torus,

$$\hat W(\omega)_{o,(i,r)} = \sum_{t:\ r_t = r} W_{o,i,t}\, e^{\mathrm{i} \omega q_t}, \qquad
  d\,t - p = s\,q_t + r_t, \quad 0 \le r_t < s,$$

for stride $s$, dilation $d$ and padding $p$: a map read with stride $s$ is split into its $s$ phases
$r$, which only moves entries. A part of a matrix never has a larger norm than the whole.
"""

import math
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _ntuple

from gan_blocks.lipschitz.bound import lipschitz_rule
from gan_blocks.lipschitz.linear import (
    LARGEST,
    dense_is_cheap,
    dense_norm,
    finite,
    largest_singular_value,
)
from gan_blocks.lipschitz.pooling import nonnegative_norm

Mode = Literal["zeros", "circular", "reflect", "replicate"]
Pads = tuple[tuple[int, int], ...]
"""Of each dimension, before and after."""

_CONVOLUTIONS: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

_FINENESS = 16
"""Coarse frequencies for each pixel of the kernel's extent."""


class _Axis(NamedTuple):
    """A convolution along one dimension."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def outputs(self) -> int:
        room = self.size + self.before + self.after - self.dilation * (self.kernel - 1)
        return (room - 1) // self.stride + 1

    @property
    def wraps(self) -> bool:
        """Whether circular padding makes it a part of a convolution on the map's own torus."""
        return self.size % self.stride == 0 and self.outputs <= self.size // self.stride

    @property
    def taps(self) -> tuple[Tensor, Tensor]:
        """The offsets $q_t$ and phases $r_t$ of the taps."""
        position = self.dilation * torch.arange(self.kernel) - self.before
        return position // self.stride, position % self.stride

    def torus(self, mode: Mode) -> int:
        """The side of a torus, in strides, on which no output meets the map's other end."""
        if mode == "circular":
            return self.size // self.stride
        offsets, inputs = self.taps[0], -(-self.size // self.stride)
        first, last = int(offsets.min()), self.outputs + int(offsets.max())
        return max(inputs, self.outputs, inputs - first, last)

    def waves(self, torus: int) -> tuple[Tensor, float]:
        """The exponentials of each frequency, phase and tap, and what the symbol may be in between.

        Many frequencies are replaced by a coarse grid. The symbol between two singular vectors has
        exponents that span some extent D, so by Bernstein and Szegö it falls from its largest
        absolute value no faster than cos(D x / 2), and a grid of N frequencies comes within pi / N.
        """
        offsets, phases = self.taps
        offsets = offsets - offsets.min()
        step = max(math.gcd(*offsets.tolist()), 1)
        extent = int(offsets.max()) // step
        count, margin = torus, 1.0
        if torus > _FINENESS * extent:
            count, offsets = max(_FINENESS * extent, 1), offsets // step
            margin = 1 / math.cos(math.pi * extent / (2 * count))
        turns = (torch.arange(count)[:, None] * offsets % count).double() / count
        waves = torch.polar(torch.ones_like(turns), 2 * math.pi * turns)
        return waves[:, None] * (torch.arange(self.stride)[:, None] == phases), margin


def convolution_norm(
    weight: Tensor,
    input_shape: tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | Pads = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    mode: Mode = "zeros",
) -> float:
    """A bound on the operator norm of a convolution, exact for small maps.

    Args:
        weight: Of shape `(out_channels, in_channels / groups, ...)`, finite, in float64.
        input_shape: Channels and sizes of the map.
        stride: As of `torch.nn.Conv2d`.
        padding: As of `torch.nn.Conv2d`, or a pair for each dimension.
        dilation: As of `torch.nn.Conv2d`.
        groups: As of `torch.nn.Conv2d`.
        mode: How the map is padded, as of `torch.nn.Conv2d`.
    """
    dimensions, channels = weight.dim() - 2, weight.shape[1] * groups
    if len(input_shape) != dimensions + 1 or input_shape[0] != channels:
        raise ValueError(
            f"a convolution of {dimensions} dimensions and {channels} channels does not take samples "
            f"of shape {input_shape}"
        )
    each = _ntuple(dimensions)
    pads = [p if isinstance(p, tuple) else (p, p) for p in each(padding)]
    axes = [
        _Axis(*of_axis, *pad)
        for *of_axis, pad in zip(
            input_shape[1:], weight.shape[2:], each(stride), each(dilation), pads, strict=True
        )
    ]
    if min(axis.outputs for axis in axes) < 1:
        raise ValueError(
            f"a kernel of {tuple(weight.shape[2:])} does not fit samples of shape {input_shape}"
        )
    size = float(weight.abs().max())
    if not size:
        return 0.0
    weight = weight / size  # squares neither overflow nor vanish
    # Taps that fall on one entry may cancel, to within the rounding of their sum.
    cancelled = torch.finfo(torch.float64).eps * float(weight.abs().sum())
    return size * (_norm(weight, axes, groups, mode) + cancelled)


def _norm(weight: Tensor, axes: list[_Axis], groups: int, mode: Mode) -> float:
    into = (weight.shape[1], *(axis.size for axis in axes))
    out_of = (len(weight) // groups, *(axis.outputs for axis in axes))
    flat = [pad for axis in reversed(axes) for pad in (axis.before, axis.after)]

    def padded(x: Tensor) -> Tensor:
        return F.pad(x, flat, "constant" if mode == "zeros" else mode)

    strides, dilations = [axis.stride for axis in axes], [axis.dilation for axis in axes]

    def convolution(x: Tensor) -> Tensor:
        of_dimension = _CONVOLUTIONS[len(axes)]
        return of_dimension(padded(x), weight, None, strides, 0, dilations, groups)

    if dense_is_cheap(into, out_of, groups):
        return dense_norm(convolution, into, out_of, groups)
    if mode == "zeros" or (mode == "circular" and all(axis.wraps for axis in axes)):
        return _fourier_norm(weight, axes, groups, mode)
    inner = [
        axis._replace(size=axis.size + axis.before + axis.after, before=0, after=0) for axis in axes
    ]
    return nonnegative_norm(padded, into[1:]) * _norm(weight, inner, groups, "zeros")


def _fourier_norm(weight: Tensor, axes: list[_Axis], groups: int, mode: Mode) -> float:
    """From the blocks of all frequencies of the torus, or of a coarse grid of them."""
    waves, margins = zip(*(axis.waves(axis.torus(mode)) for axis in axes), strict=True)
    counts = [len(wave) for wave in waves]
    # The block of -omega is the conjugate of that of omega.
    grid = [torch.arange(count) for count in (*counts[:-1], counts[-1] // 2 + 1)]
    frequencies = torch.cartesian_prod(*grid).view(-1, len(axes))
    kernels = weight.view(groups, -1, weight.shape[1], math.prod(weight.shape[2:]))
    kernels = kernels.to(torch.complex128)
    phases = math.prod(axis.stride for axis in axes)
    norms = []
    for some in frequencies.split(max(LARGEST // (4 * weight.numel() * phases), 1)):
        wave = torch.ones(len(some), 1, 1, dtype=torch.complex128)
        for of_axis, index in zip(waves, some.T, strict=True):
            product = wave[:, :, None, :, None] * of_axis[index][:, None, :, None, :]
            wave = product.flatten(3).flatten(1, 2)
        block = torch.einsum("goik,frk->fgoir", kernels, wave).flatten(3)
        norms.append(largest_singular_value(block if block.imag.any() else block.real))
    return max(norms) * math.prod(margins)


def transposed_convolution_norm(
    weight: Tensor,
    input_shape: tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    output_padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> float:
    """The same of a transposed convolution, which is the adjoint of a convolution.

    Args:
        weight: Of shape `(in_channels, out_channels / groups, ...)`, finite, in float64.
        input_shape: Channels and sizes of the map.
        stride: As of `torch.nn.ConvTranspose2d`.
        padding: As of `torch.nn.ConvTranspose2d`.
        output_padding: As of `torch.nn.ConvTranspose2d`.
        dilation: As of `torch.nn.ConvTranspose2d`.
        groups: As of `torch.nn.ConvTranspose2d`.
    """
    dimensions = weight.dim() - 2
    if len(input_shape) != dimensions + 1 or input_shape[0] != len(weight):
        raise ValueError(
            f"a transposed convolution of {dimensions} dimensions and {len(weight)} channels does not "
            f"take samples of shape {input_shape}"
        )
    s, p, extra, d = map(_ntuple(dimensions), (stride, padding, output_padding, dilation))
    outputs = [
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, k, s, p, extra, d in zip(
            input_shape[1:], weight.shape[2:], s, p, extra, d, strict=True
        )
    ]
    shape = (weight.shape[1] * groups, *outputs)
    pads = tuple((before, before - more) for before, more in zip(p, extra, strict=True))
    return convolution_norm(weight, shape, stride, pads, dilation, groups)


@lipschitz_rule(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _convolution(module: Any, input_shape: tuple[int, ...]) -> float:
    padding = module.padding
    if padding == "valid":
        padding = 0
    elif padding == "same":
        extents = [d * (k - 1) for k, d in zip(module.kernel_size, module.dilation, strict=True)]
        padding = tuple((extent // 2, extent - extent // 2) for extent in extents)
    return convolution_norm(
        finite(module.weight, module),
        input_shape,
        module.stride,
        padding,
        module.dilation,
        module.groups,
        module.padding_mode,
    )


@lipschitz_rule(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def _transposed_convolution(module: Any, input_shape: tuple[int, ...]) -> float:
    return transposed_convolution_norm(
        finite(module.weight, module),
        input_shape,
        module.stride,
        module.padding,
        module.output_padding,
        module.dilation,
        module.groups,
    )
