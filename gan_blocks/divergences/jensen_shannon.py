"""The Jensen-Shannon divergence of the f-GAN paper."""

import math

import torch
from torch import Tensor

from gan_blocks._math import softplus
from gan_blocks.divergences.base import FDivergence
from gan_blocks.spec import block


@block(double_backward=True, compile=True, distributed=True)
class JensenShannon(FDivergence):
    r"""Twice the Jensen-Shannon divergence, as the f-GAN paper has it.

    It lies between 0 and $2 \log 2$.

    $$f(u) = u \log \frac{2u}{1+u} + \log\frac{2}{1+u}, \quad f'(u) = \log \frac{2u}{1+u}, \quad
      f^*(t) = -\log(2 - e^t) \;(t < \log 2),$$

    $$g(v) = \log 2 - \zeta(-v), \quad f^*(g(v)) = \zeta(v) - \log 2,$$

    where $\zeta(x) = \log(1 + e^x)$ is the softplus. The true
    $\mathrm{JSD}(P, Q) = \tfrac12 \mathrm{KL}(P \| M) + \tfrac12 \mathrm{KL}(Q \| M)$ with
    $M = (P+Q)/2$ is half of it. Symmetric in $P$ and $Q$; finite for all critic values.

    Example:
        >>> import torch
        >>> JensenShannon().between(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor(1.3863)

    Reference:
        Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709, tables 1, 2 and 6.
    """

    threshold = 0.0
    slope_at_infinity = math.log(2)

    def f(self, u: Tensor) -> Tensor:
        # 2u/(1+u) = 1 + d and 2/(1+u) = 1 - d: no cancellation near u = 1. Far from it d rounds to
        # -1 or 1, and the logarithm of a small number is taken apart instead.
        d = (u - 1) / (u + 1)
        small, large = u < 1 / 3, u > 3
        tiny = torch.where(small, u, 1)
        first = torch.special.xlog1py(u, torch.where(small, 0, d))
        second = torch.log1p(-torch.where(large, 0, d))
        return torch.where(
            small, torch.xlogy(tiny, 2 * tiny) - tiny * torch.log1p(tiny), first
        ) + torch.where(large, math.log(2) - torch.log1p(u), second)

    def derivative(self, u: Tensor) -> Tensor:
        small = u < 1 / 3
        far = torch.log(2 * torch.where(small, u, 1)) - torch.log1p(u)
        return torch.where(small, far, torch.log1p(torch.where(small, 0, (u - 1) / (u + 1))))

    def conjugate(self, t: Tensor) -> Tensor:
        inside = ~(t >= math.log(2))  # NaN stays NaN
        return torch.where(inside, -torch.log1p(-torch.expm1(torch.where(inside, t, 0))), math.inf)

    def activation(self, v: Tensor) -> Tensor:
        return math.log(2) - softplus(-v)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return softplus(v) - math.log(2)

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        return log_ratio
