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


def same_gram(constraint: Any, weight: Tensor) -> Tensor:
    """The result's products with the original and with itself: a polar factor has U S U^T and I."""
    q = constrained(constraint, weight)
    return torch.cat([q @ weight.T, q @ q.T])


def gram_of_polar_factor(constraint: Any, weight: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(weight @ weight.T)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    return torch.cat([root * constraint.gain, torch.eye(len(root)).to(root) * constraint.gain**2])


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
    ),
    Case(
        {"block": "Orthogonal", "gain": 1.5},
        inputs=lambda make: (make(3, 5),),
        call=same_gram,
        reference=gram_of_polar_factor,
    ),
]
