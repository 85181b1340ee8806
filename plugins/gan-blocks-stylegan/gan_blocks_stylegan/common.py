"""What several files of this package share; not part of its interface."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def activated(x: Tensor) -> Tensor:
    r"""Leaky ReLU of slope 0.2, times $\sqrt2$, which about keeps the mean square."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def drawn(
    distribution: Callable[..., Tensor],
    shape: Sequence[int],
    like: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Numbers from `torch.rand` or `torch.randn`, in float32 first: the same in every precision."""
    # The compiler takes no generator, not even None.
    given = {} if generator is None else {"generator": generator}
    return distribution(shape, device=like.device, dtype=torch.float32, **given).to(like.dtype)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Within it, operations on the device of x keep the dtypes they are given."""
    device = x.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def check_labels(conditional: Any, labels: Tensor | None, count: int) -> None:
    """Refuse labels that are missing, needless or of another shape."""
    name, classes = type(conditional).__name__, conditional.num_classes
    if classes and labels is None:
        raise ValueError(f"{name} has {classes} classes: pass the labels of the samples too")
    if labels is None:
        return
    if not classes:
        raise ValueError(f"{name} has no classes; build it with num_classes, or pass no labels")
    if labels.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"labels should be integers, the number of each class, got {labels.dtype}")
    if labels.shape != (count,):
        raise ValueError(
            f"labels should have shape ({count},), one for each sample, got {tuple(labels.shape)}"
        )


def widths(image_size: int, base: int, most: int) -> list[int]:
    """Channels of the maps of side 4, 8, ..., image_size: inversely proportional to the side."""
    doublings = image_size.bit_length() - 3
    if image_size != 4 * 2 ** max(doublings, 0):
        raise ValueError(f"image_size should be a power of two from 4 on, got {image_size}")
    if base < image_size:
        raise ValueError(
            f"channel_base should be image_size or more, which gives one channel at the last map; "
            f"got {base} for {image_size}"
        )
    return [min(base // (4 * 2**i), most) for i in range(doublings + 1)]
