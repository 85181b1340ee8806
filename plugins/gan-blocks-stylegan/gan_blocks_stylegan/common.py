"""What several files of this package share; not part of its interface."""

import math

import torch.nn.functional as F
from torch import Tensor


def activated(x: Tensor) -> Tensor:
    r"""Leaky ReLU of slope 0.2, times $\sqrt2$, which about keeps the mean square."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


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
