"""Cases of the constraints."""

from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks.testing import Case


def clipped(clipper: Any, weight: Tensor) -> Tensor:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device)
    layer.weight = nn.Parameter(weight.detach().clone())
    clipper(nn.Sequential(layer))
    return layer.weight.detach()


CONSTRAINTS = [
    Case(
        {"block": "WeightClipper", "bound": 0.5},
        inputs=lambda make: (make(4, 3),),
        call=clipped,
        reference=lambda clipper, w: torch.tensor(
            [[min(max(float(x), -0.5), 0.5) for x in row] for row in w], dtype=w.dtype
        ),
    )
]
