"""What the references of layers and networks do with one image, pixel by pixel."""

import itertools
from typing import Any

import torch
from torch import Tensor


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    pad: int = 0,
    groups: int = 1,
) -> Tensor:
    """A convolution of one image (C, H, W)."""
    k, h, w = weight.shape[-1], x.shape[1], x.shape[2]
    rows, columns = (h + 2 * pad - k) // stride + 1, (w + 2 * pad - k) // stride + 1
    pixels = []
    for a, b in itertools.product(range(rows), range(columns)):
        total = torch.zeros(len(weight), dtype=x.dtype) if bias is None else bias
        for i, j in itertools.product(range(k), range(k)):
            y, z = a * stride - pad + i, b * stride - pad + j
            if 0 <= y < h and 0 <= z < w:
                parts = zip(weight[:, :, i, j].chunk(groups), x[:, y, z].chunk(groups), strict=True)
                total = total + torch.cat([matrix @ pixel for matrix, pixel in parts])
        pixels.append(total)
    return torch.stack(pixels, 1).view(-1, rows, columns)


def by_layer(layer: Any, x: Tensor) -> Tensor:
    """A batch through a torch convolution, with the layer's numbers."""
    arguments = layer.weight, layer.bias, layer.stride[0], layer.padding[0], layer.groups
    return torch.stack([convolved(image, *arguments) for image in x])


def repeated(x: Tensor) -> Tensor:
    """Each pixel becomes a square of four."""
    rows = [x[:, :, i // 2] for i in range(2 * x.shape[2])]
    wide = torch.stack(rows, 2)
    return torch.stack([wide[:, :, :, j // 2] for j in range(2 * x.shape[3])], 3)


def halved(x: Tensor) -> Tensor:
    """The mean of each square of four."""
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    means = [
        x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].sum((2, 3)) / 4
        for i in range(rows)
        for j in range(columns)
    ]
    return torch.stack(means, 2).view(len(x), -1, rows, columns)


def rectified(x: Tensor, slope: float = 0.0) -> Tensor:
    return torch.where(x > 0, x, slope * x)


def standardised(x: Tensor, over: tuple[int, ...], eps: float = 1e-5) -> Tensor:
    """Minus the mean, over the root of the biased variance."""
    count = x.numel() / x.sum(over).numel()
    means = x.sum(over, keepdim=True) / count
    variances = ((x - means) ** 2).sum(over, keepdim=True) / count
    return (x - means) / (variances + eps) ** 0.5


def batch_normalised(layer: Any, x: Tensor) -> Tensor:
    scale, offset = layer.weight.view(1, -1, 1, 1), layer.bias.view(1, -1, 1, 1)
    return standardised(x, (0, 2, 3)) * scale + offset


def group_normalised(layer: Any, x: Tensor) -> Tensor:
    scale, offset = layer.weight.view(1, -1, 1, 1), layer.bias.view(1, -1, 1, 1)
    return standardised(x, (1, 2, 3)) * scale + offset
