"""The Jensen-Shannon divergence with unequal weights."""

import math

import torch
from torch import Tensor

from gan_blocks._math import inverse_log_softplus, log_softplus, softplus
from gan_blocks.divergences.base import FDivergence
from gan_blocks.spec import block
from gan_blocks.types import OpenProbability


@block(double_backward=True, compile=True, distributed=True)
class WeightedJensenShannon(FDivergence):
    r"""The Jensen-Shannon divergence with unequal weights.

    $$\mathrm{JSD}_\pi(P, Q) = \pi\,\mathrm{KL}(P \| M) + (1-\pi)\,\mathrm{KL}(Q \| M), \quad
      M = \pi P + (1-\pi) Q$$

    It lies between 0 and the entropy $-\pi \log \pi - (1-\pi) \log(1-\pi)$. With
    $m = 1 - \pi + \pi u$ and the softplus $\zeta(x) = \log(1 + e^x)$,

    $$f(u) = \pi u \log \frac{u}{m} - (1-\pi) \log m, \quad f'(u) = \pi \log\frac{u}{m}, \quad
      f^*(t) = (1-\pi) \log\frac{1-\pi}{1 - \pi e^{t/\pi}} \;(t < -\pi \log \pi),$$

    $$g(v) = -\pi \log \pi - \zeta(-v), \quad
      f^*(g(v)) = (1-\pi)\left[\log(1-\pi) - \log\left(1 - e^{-\zeta(-v)/\pi}\right)\right].$$

    At $\pi = \tfrac12$ it is the textbooks' JSD, half of [`JensenShannon`][gan_blocks.JensenShannon].
    For small $\pi$ it is about $\pi\,\mathrm{KL}(P \| Q)$, for $\pi$ near 1 about
    $(1-\pi)\,\mathrm{KL}(Q \| P)$. Finite for all critic values.

    Args:
        pi: $\pi$, the weight of the real distribution, inside (0, 1).

    Example:
        >>> import torch
        >>> p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> WeightedJensenShannon(0.5).between(p, q)
        tensor(0.6931)

    Reference:
        Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709, tables 1, 2 and 6.
    """

    threshold = 0.0

    def __init__(self, pi: OpenProbability) -> None:
        self.pi = pi
        self.slope_at_infinity = -pi * math.log(pi)

    def f(self, u: Tensor) -> Tensor:
        there = u > 0
        first = torch.where(there, u * self.derivative(torch.where(there, u, 1)), 0)
        return first - (1 - self.pi) * self._log_m(u)

    def derivative(self, u: Tensor) -> Tensor:
        # u/m = 1 + (1-pi)(u-1)/m keeps the digits near u = 1; near 0 the logarithms stand apart.
        small = u < 0.5
        m = (1 - self.pi) + self.pi * u
        near = torch.log1p(torch.where(small, 0, (1 - self.pi) * (u - 1) / m))
        return self.pi * torch.where(small, torch.where(small, u, 1).log() - self._log_m(u), near)

    def _log_m(self, u: Tensor) -> Tensor:
        small = u < 0.5
        near = torch.log1p(self.pi * torch.where(small, 0, u - 1))
        return torch.where(small, ((1 - self.pi) + self.pi * torch.where(small, u, 1)).log(), near)

    def conjugate(self, t: Tensor) -> Tensor:
        inside = ~(t >= self.slope_at_infinity)  # NaN stays NaN
        rest = -torch.expm1(torch.where(inside, t, 0) / self.pi + math.log(self.pi))
        return torch.where(inside, (1 - self.pi) * (math.log1p(-self.pi) - rest.log()), math.inf)

    def activation(self, v: Tensor) -> Tensor:
        return self.slope_at_infinity - softplus(-v)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        # Beyond 50 the softplus is e^-v to the last digit, and its logarithm -v.
        large = v > 50
        s = softplus(-torch.where(large, 0, v)) / self.pi
        log_rest = torch.where(large, -v - math.log(self.pi), (-torch.expm1(-s)).log())
        return (1 - self.pi) * (math.log1p(-self.pi) - log_rest)

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        # zeta(-v) = pi zeta(-w) with w = log(pi p / ((1-pi) q))
        w = log_ratio + math.log(self.pi / (1 - self.pi))
        return -inverse_log_softplus(math.log(self.pi) + log_softplus(-w))
