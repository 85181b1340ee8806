"""Cases of the constraints."""

from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks.testing import Case


def constrained(constraint: Any, weight: Tensor) -> Tensor:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device)
    layer.weight = nn.Parameter(weight.detach().clone())
    constraint(nn.Sequential(layer))
    return layer.eval().weight.detach()


def polar_factor(weight: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(weight @ weight.T)
    return vectors @ torch.diag(1 / values.sqrt()) @ vectors.T @ weight


ROWS = {
    "batch_mates": "the rows of a weight are not samples",
    "accumulated": "likewise",
}

CONSTRAINTS = [
    Case(
        {"block": "WeightClipper", "bound": 0.5},
        inputs=lambda make: (make(4, 3),),
        call=constrained,
        reference=lambda clipper, w: torch.tensor(
            [[min(max(float(x), -0.5), 0.5) for x in row] for row in w], dtype=w.dtype
        ),
    ),
    Case(
        {"block": "SpectralNorm", "n_power_iterations": 200},
        inputs=lambda make: (make(4, 3),),
        call=constrained,
        reference=lambda constraint, w: w / torch.linalg.eigvalsh(w @ w.T)[-1].sqrt(),
        expected_failures=ROWS,
    ),
    Case(
        {"block": "Orthogonal", "gain": 1.5},
        inputs=lambda make: (make(3, 5),),
        call=constrained,
        reference=lambda constraint, w: constraint.gain * polar_factor(w),
        expected_failures=ROWS,
    ),
]
