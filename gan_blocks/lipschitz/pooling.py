"""The bounds of pooling, resizing and padding."""

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _ntuple

from gan_blocks.lipschitz.bound import Rule, lipschitz_rule
from gan_blocks.lipschitz.linear import dense_is_cheap, dense_norm

_CIRCULAR = (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d)

_ROUNDING = 1 + 1e-12
"""Makes certain what is a sum of a few thousand terms in float64 at most."""


def nonnegative_norm(linear: Callable[[Tensor], Tensor], sizes: tuple[int, ...]) -> float:
    r"""The bound of a linear map with weights of one sign that acts on each channel by itself.

    Exact for small maps. For larger ones by Schur's test, $\|A\|_2 \le \sqrt{\|A\|_\infty \|A\|_1}$,
    whose two norms are the largest entries of $A 1$ and $A^T 1$.

    Args:
        linear: The map, on a batch of one channel.
        sizes: The sizes of the map, without batch and channels.
    """
    ones = torch.ones(1, 1, *sizes, dtype=torch.float64, requires_grad=True)
    rows = linear(ones)
    (columns,) = torch.autograd.grad(rows, ones, torch.ones_like(rows))
    schur = math.sqrt(float(rows.detach().abs().max() * columns.abs().max())) * _ROUNDING
    into, out_of = (1, *sizes), tuple(rows.shape[1:])
    return min(schur, dense_norm(linear, into, out_of)) if dense_is_cheap(into, out_of) else schur


def _sizes(module: nn.Module, input_shape: tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    if len(input_shape) != dimensions + 1:
        raise ValueError(
            f"{module} takes samples of {dimensions + 1} dimensions, channels first, got shape "
            f"{input_shape}"
        )
    return input_shape[1:]


def _nonnegative(dimensions: int, module: nn.Module, input_shape: tuple[int, ...]) -> float:
    sizes = _sizes(module, input_shape, dimensions)
    if isinstance(module, _CIRCULAR) and min(module.padding) < 0:
        raise TypeError(f"{module} takes pixels away and has no rule; use sides of 0 or more")
    try:
        return nonnegative_norm(module, sizes)
    except RuntimeError as error:
        raise ValueError(f"{module} does not take maps of {sizes}: {error}") from error


@lipschitz_rule(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
def _upsample(module: nn.Upsample, input_shape: tuple[int, ...]) -> float:
    if module.mode == "bicubic":
        raise TypeError(f"{module} has weights below 0 and no rule; use another mode")
    return _nonnegative(len(input_shape) - 1, module, input_shape)


def _maximum(counts: list[int]) -> float:
    # Of an output's window only the largest change counts, and an input's change counts once for
    # each window that it lies in; windows are boxes, so the counts of the dimensions multiply.
    return math.sqrt(math.prod(counts))


def _max_pool(dimensions: int, module: Any, input_shape: tuple[int, ...]) -> float:
    _sizes(module, input_shape, dimensions)
    if module.return_indices:
        raise TypeError(f"{module} returns indices too, which have no Lipschitz bound")
    each = _ntuple(dimensions)
    steps = zip(each(module.kernel_size), each(module.stride), each(module.dilation), strict=True)
    # Window o has its points at o * stride + t * dilation: those with the same remainder may meet.
    return _maximum([max(Counter(t * d % s for t in range(k)).values()) for k, s, d in steps])


def _adaptive_max_pool(dimensions: int, module: Any, input_shape: tuple[int, ...]) -> float:
    sizes = _sizes(module, input_shape, dimensions)
    if module.return_indices:
        raise TypeError(f"{module} returns indices too, which have no Lipschitz bound")
    counts = []
    for n, wanted in zip(sizes, _ntuple(dimensions)(module.output_size), strict=True):
        m = n if wanted is None else wanted
        # Window o has the points from floor(o n / m) to ceil((o + 1) n / m).
        windows = (range(o * n // m, -(-(o + 1) * n // m)) for o in range(m))
        counts.append(max(Counter(i for window in windows for i in window).values()))
    return _maximum(counts)


_RULES: dict[Callable[..., float], list[tuple[type[nn.Module], ...]]] = {
    _nonnegative: [
        (
            nn.AvgPool1d,
            nn.AdaptiveAvgPool1d,
            nn.ReflectionPad1d,
            nn.ReplicationPad1d,
            nn.CircularPad1d,
        ),
        (
            nn.AvgPool2d,
            nn.AdaptiveAvgPool2d,
            nn.ReflectionPad2d,
            nn.ReplicationPad2d,
            nn.CircularPad2d,
        ),
        (
            nn.AvgPool3d,
            nn.AdaptiveAvgPool3d,
            nn.ReflectionPad3d,
            nn.ReplicationPad3d,
            nn.CircularPad3d,
        ),
    ],
    _max_pool: [(nn.MaxPool1d,), (nn.MaxPool2d,), (nn.MaxPool3d,)],
    _adaptive_max_pool: [(nn.AdaptiveMaxPool1d,), (nn.AdaptiveMaxPool2d,), (nn.AdaptiveMaxPool3d,)],
}
for _rule, _classes in _RULES.items():
    for _dimensions, _same in enumerate(_classes, 1):
        _for_these: Rule = partial(_rule, _dimensions)
        lipschitz_rule(*_same)(_for_these)
