"""Helpers that two or more blocks share."""

from collections.abc import Callable
from math import inf, isfinite

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal


def softplus(x: Tensor) -> Tensor:
    r"""$\log(1 + e^x)$.

    PyTorch's default switches to $x$ at 20, where the difference is still $2 \cdot 10^{-9}$; at 50
    it is below the rounding of float64.
    """
    return F.softplus(x, threshold=50.0)


def log_expm1(y: Tensor) -> Tensor:
    r"""$\log(e^y - 1)$, the inverse of the softplus, for $y \ge 0$."""
    return y + (-torch.expm1(-y)).log()


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return x.float() if x.dtype.itemsize < 4 else x


def f_divergence(
    f: Callable[[Tensor], Tensor], slope_at_infinity: float, p: Tensor, q: Tensor
) -> Tensor:
    r"""$\sum_x q\, f(p/q)$ over the last dimension, with $0 f(p/0) = p \lim_{u\to\infty} f(u)/u$."""
    if p.shape != q.shape or p.dim() == 0:
        raise ValueError(
            f"p {tuple(p.shape)} and q {tuple(q.shape)} should be of one shape (..., n)"
        )
    for name, x in (("p", p), ("q", q)):
        if not x.is_floating_point():
            raise TypeError(f"{name} should be floating point, got {x.dtype}")
        tolerance = x.shape[-1] * torch.finfo(x.dtype).eps * 8
        if not bool((x >= 0).all() & ((x.sum(-1) - 1).abs() <= tolerance).all()):
            raise ValueError(
                f"{name} is no distribution: entries >= 0 that sum to 1 are needed; of densities on a "
                "grid take log_density.softmax(-1)"
            )
    there = q > 0
    u = torch.where(there, p, 1) / torch.where(there, q, 1)
    beyond = torch.where(there, 0, p)
    # An infinite slope as a constant: inf times a gradient of 0 would be NaN.
    beyond = (
        slope_at_infinity * beyond
        if isfinite(slope_at_infinity)
        else torch.where(beyond > 0, inf, 0.0)
    )
    return torch.where(there, q * f(u), beyond).sum(-1)


def log_affinity(alpha: float, p: Normal, q: Normal) -> Tensor:
    r"""$\log \int p^\alpha q^{1-\alpha}$ of normal distributions, infinite where the integral is.

    The integrand is a Gaussian of precision $s^2 / (\sigma_p^2 \sigma_q^2)$ with
    $s^2 = \alpha \sigma_q^2 + (1 - \alpha) \sigma_p^2$, if that is positive.
    """
    s2 = alpha * q.variance + (1 - alpha) * p.variance
    finite = s2 > 0
    s2 = torch.where(finite, s2, 1)
    log_integral = (
        (1 - alpha) * p.stddev.log()
        + alpha * q.stddev.log()
        - s2.log() / 2
        - alpha * (1 - alpha) * (p.mean - q.mean).square() / (2 * s2)
    )
    return torch.where(finite, log_integral, inf)
