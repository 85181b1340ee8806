"""The Kullback-Leibler divergence."""

import math

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from gan_blocks.divergences.base import FDivergence
from gan_blocks.spec import block


@block(double_backward=True, compile=True, distributed=True)
class KL(FDivergence):
    r"""The Kullback-Leibler divergence, which maximum likelihood minimises.

    $$\mathrm{KL}(P \| Q) = \mathbb{E}_P \log\frac{p}{q}$$

    $$f(u) = u \log u, \quad f'(u) = 1 + \log u, \quad f^*(t) = e^{t-1}, \quad g(v) = v, \quad
      f^*(g(v)) = e^{v-1}.$$

    It is infinite where $Q$ misses mass of $P$, so a fit covers all modes. $e^{v-1}$ exceeds
    float32 beyond $v = 89.7$ and is then infinity.

    Example:
        >>> import torch
        >>> KL().between(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        tensor(0.1438)

    Reference:
        Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709, tables 1, 2 and 6.
    """

    threshold = 1.0
    slope_at_infinity = math.inf

    def f(self, u: Tensor) -> Tensor:
        return torch.xlogy(u, u)

    def derivative(self, u: Tensor) -> Tensor:
        return 1 + u.log()

    def conjugate(self, t: Tensor) -> Tensor:
        return (t - 1).exp()

    def activation(self, v: Tensor) -> Tensor:
        return v

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return (v - 1).exp_()

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        return 1 + log_ratio

    def between_gaussians(self, p: Normal, q: Normal) -> Tensor:
        return kl_divergence(p, q)
