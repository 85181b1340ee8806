"""Helpers that two or more blocks share."""

from collections.abc import Callable
from math import inf, isfinite

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal

from gan_blocks._checks import check_tensor
from gan_blocks.precision import at_least_float32


def softplus(x: Tensor) -> Tensor:
    r"""$\log(1 + e^x)$.

    PyTorch's default switches to $x$ at 20, where the difference is still $2 \cdot 10^{-9}$; at 50
    it is below the rounding of float64.
    """
    return F.softplus(x, threshold=50.0)


def log_softplus(x: Tensor) -> Tensor:
    r"""$\log \log(1 + e^x)$, without underflow for negative $x$."""
    low = x < -30  # there log(1 + e^x) is e^x to 13 digits
    return torch.where(low, x, softplus(torch.where(low, 0, x)).log())


def inverse_log_softplus(s: Tensor) -> Tensor:
    r"""$\log(e^{e^s} - 1)$: the $x$ at which `log_softplus` is $s$."""
    low = s < -30
    y = torch.where(low, 0, s).exp()
    return torch.where(low, s, y + (-torch.expm1(-y)).log())


def f_divergence(
    f: Callable[[Tensor], Tensor], slope_at_infinity: float, p: Tensor, q: Tensor
) -> Tensor:
    r"""$\sum_x q\, f(p/q)$ over the last dimension, with $0 f(p/0) = p \lim_{u\to\infty} f(u)/u$."""
    for name, x in (("p", p), ("q", q)):
        check_tensor(name, x, empty=False)
        if x.is_meta:
            raise ValueError(f"{name} should have values, got a tensor on the meta device")
    if p.shape != q.shape or p.dim() == 0:
        raise ValueError(
            f"p {tuple(p.shape)} and q {tuple(q.shape)} should be of one shape (..., n)"
        )
    for name, x in (("p", p), ("q", q)):
        off = (x.double().sum(-1) - 1).abs() > 16 * torch.finfo(x.dtype).eps
        if not bool((x >= 0).all() & ~off.any()):
            raise ValueError(
                f"{name} is no distribution: it should have entries >= 0 that sum to 1; of densities "
                "on a grid take log_density.softmax(-1)"
            )
    dtype = at_least_float32(p).dtype
    p, q = p.double(), q.double()
    both = (p > 0) & (q > 0)
    u = torch.where(both, p, 1) / torch.where(both, q, 1)
    alone = _times(float(f(p.new_zeros(()))), torch.where(p > 0, 0, q))
    beyond = _times(slope_at_infinity, torch.where(q > 0, 0, p))
    return (torch.where(both, q * f(u), 0) + alone + beyond).sum(-1).to(dtype)


def _times(slope: float, mass: Tensor) -> Tensor:
    """An infinite slope as a constant: inf times a gradient of 0 would be NaN."""
    return slope * mass if isfinite(slope) else torch.where(mass > 0, slope, 0.0)


def log_affinity(alpha: float, p: Normal, q: Normal) -> Tensor:
    r"""$\log \int p^\alpha q^{1-\alpha}$ of normal distributions, infinite where the integral is.

    With $r = \sigma_q^2 / \sigma_p^2 - 1$ the integrand is a Gaussian of precision
    $(1 + \alpha r) / \sigma_q^2$, if that is positive. All terms vanish with $\alpha$, none by
    cancellation; near 1 the two sides are swapped.
    """
    if alpha > 0.5:
        alpha, p, q = 1 - alpha, q, p
    r = (q.stddev - p.stddev) * (q.stddev + p.stddev) / p.variance
    finite = 1 + alpha * r > 0
    r = torch.where(finite, r, 0)
    z2 = (p.mean - q.mean).square() / (p.variance * (1 + alpha * r))
    log_integral = alpha * r.log1p() - (alpha * r).log1p() - alpha * (1 - alpha) * z2
    return torch.where(finite, log_integral / 2, inf)
