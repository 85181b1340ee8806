"""The bound of a linear layer: the largest singular value of its matrix."""

from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks.lipschitz.bound import lipschitz_rule


def finite(weight: Tensor, module: Any) -> Tensor:
    """The weight of a module in float64; refused if it is complex or not finite."""
    if weight.is_complex():
        raise TypeError(f"no Lipschitz bound is known for complex weights, as in {module}")
    weight = weight.detach().cpu().double()
    if not bool(weight.isfinite().all()):
        raise ValueError(f"{module} has weights that are not finite")
    return weight


def matrix_norm(weight: Tensor) -> float:
    """The largest singular value of a matrix in float64, rounded up."""
    # LAPACK's singular values are right to a small multiple of the rounding unit, here made certain.
    rounding = 1 + 8 * max(weight.shape) * torch.finfo(torch.float64).eps
    return float(torch.linalg.matrix_norm(weight, ord=2)) * rounding


@lipschitz_rule(nn.Linear)
def _linear(module: nn.Linear, input_shape: tuple[int, ...]) -> float:
    if not input_shape or input_shape[-1] != module.in_features:
        raise ValueError(f"{module} takes {module.in_features} features, got shape {input_shape}")
    return matrix_norm(finite(module.weight, module))
