"""The reverse Kullback-Leibler divergence."""

import math

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from gan_blocks.divergences.base import FDivergence
from gan_blocks.spec import block


@block(double_backward=True, compile=True, distributed=True)
class ReverseKL(FDivergence):
    r"""The reverse Kullback-Leibler divergence.

    $$\mathrm{KL}(Q \| P) = \mathbb{E}_Q \log\frac{q}{p}$$

    $$f(u) = -\log u, \quad f'(u) = -1/u, \quad f^*(t) = -1 - \log(-t) \;(t < 0), \quad
      g(v) = -e^{-v}, \quad f^*(g(v)) = v - 1.$$

    It is infinite where $P$ misses mass of $Q$, so a fit prefers one mode to the space between
    two. $g(v)$ exceeds float32 below $v = -88.7$ and is then minus infinity.

    Example:
        >>> import torch
        >>> ReverseKL().between(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        tensor(0.1308)

    Reference:
        Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709, tables 1, 2 and 6.
    """

    threshold = -1.0
    slope_at_infinity = 0.0

    def f(self, u: Tensor) -> Tensor:
        return -u.log()

    def derivative(self, u: Tensor) -> Tensor:
        return -1 / u

    def conjugate(self, t: Tensor) -> Tensor:
        inside = ~(t >= 0)  # NaN stays NaN
        return torch.where(inside, -1 - torch.where(inside, -t, 1).log(), math.inf)

    def activation(self, v: Tensor) -> Tensor:
        return -(-v).exp_()

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return v - 1

    def bound(self, real: Tensor, fake: Tensor) -> Tensor:
        # The same, without a pass over the values for each constant.
        return 1 - (-real).exp_().mean() - fake.mean()

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        return log_ratio

    def between_gaussians(self, p: Normal, q: Normal) -> Tensor:
        return kl_divergence(q, p)
