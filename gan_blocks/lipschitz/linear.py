"""The bound of a linear layer or of any linear map: the largest singular value of its matrix."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks.lipschitz.bound import lipschitz_rule

LARGEST = 2**23
"""Entries of the matrices that are treated at once."""

_WORK = 2**30
"""Multiplications for the Gram matrix of a linear map: about a second on a slow core."""

_ROUNDING = 1 + 1e-9
"""A Gram matrix of sums of at most `LARGEST` terms in float64 errs by less."""


def finite(weight: Tensor, module: Any) -> Tensor:
    """The weight of a module in float64; refused if complex, not finite, empty or without values."""
    if weight.is_complex():
        raise TypeError(
            f"module should have real weights; no Lipschitz bound is known for complex weights, as in "
            f"{module}"
        )
    if weight.is_meta:
        raise ValueError(
            f"module should have weights with values; those of {module} lie on the meta device"
        )
    if not weight.numel():
        raise ValueError(f"{module} has weights without entries")
    weight = weight.detach().cpu().double()
    if not bool(weight.isfinite().all()):
        raise ValueError(
            f"module should have finite weights; {module} has weights that are not finite"
        )
    return weight


def matrix_norm(weight: Tensor) -> float:
    """The largest singular value of a matrix in float64, rounded up."""
    # LAPACK's singular values are right to a small multiple of the rounding unit, here made certain.
    rounding = 1 + 8 * max(weight.shape) * torch.finfo(torch.float64).eps
    return float(torch.linalg.matrix_norm(weight, ord=2)) * rounding


def largest_singular_value(matrices: Tensor) -> float:
    """Of a batch of matrices, real or complex, rounded up."""
    if matrices.shape[-2] > matrices.shape[-1]:
        matrices = matrices.mT
    eigenvalues = torch.linalg.eigvalsh(matrices @ matrices.mH)
    return math.sqrt(max(float(eigenvalues.max()), 0.0)) * _ROUNDING


def dense_is_cheap(into: tuple[int, ...], out_of: tuple[int, ...], groups: int = 1) -> bool:
    """Whether the matrix of a linear map between these shapes is small enough."""
    small, large = sorted((math.prod(into), math.prod(out_of)))
    return groups * small * large <= LARGEST and groups * small**2 * large <= _WORK


def dense_norm(
    linear: Callable[[Tensor], Tensor],
    into: tuple[int, ...],
    out_of: tuple[int, ...],
    groups: int = 1,
) -> float:
    """The operator norm of a linear map, by the matrix of each group of channels.

    Args:
        linear: The map, on a batch in float64.
        into: The shape of one group of a sample, channels first.
        out_of: The same of what comes out.
        groups: Number of groups, none of which acts on another.
    """
    forwards = math.prod(into) <= math.prod(out_of)
    shape = into if forwards else out_of
    small = math.prod(shape)
    basis = torch.eye(small, dtype=torch.float64).view(small, *shape)
    basis = basis.repeat(1, groups, *[1] * (len(shape) - 1))
    if forwards:
        rows = linear(basis)
    else:
        x = basis.new_zeros(small, groups * into[0], *into[1:], requires_grad=True)
        (rows,) = torch.autograd.grad(linear(x), x, basis)
    return largest_singular_value(rows.reshape(small, groups, -1).transpose(0, 1))


@lipschitz_rule(nn.Linear)
def _linear(module: nn.Linear, input_shape: tuple[int, ...]) -> float:
    if not input_shape or input_shape[-1] != module.in_features:
        raise ValueError(f"{module} takes {module.in_features} features, got shape {input_shape}")
    return matrix_norm(finite(module.weight, module))
