"""The squared Hellinger divergence."""

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from gan_blocks._math import log_affinity
from gan_blocks.divergences.base import FDivergence
from gan_blocks.spec import block


@block(double_backward=True, compile=True, distributed=True)
class SquaredHellinger(FDivergence):
    r"""The squared Hellinger divergence.

    $$H^2(P, Q) = \int (\sqrt p - \sqrt q)^2$$

    It lies between 0 and 2.

    $$f(u) = (\sqrt u - 1)^2, \quad f'(u) = 1 - u^{-1/2}, \quad f^*(t) = \frac{t}{1-t} \;(t < 1), \quad
      g(v) = 1 - e^{-v}, \quad f^*(g(v)) = e^v - 1.$$

    Symmetric in $P$ and $Q$. Critic values below -88.7 on real samples, above 88.7
    on generated ones, exceed float32 and give infinity.

    Example:
        >>> import torch
        >>> SquaredHellinger().between(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        tensor(0.0681)

    Reference:
        Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709, tables 1, 2 and 6.
    """

    threshold = 0.0
    slope_at_infinity = 1.0

    def f(self, u: Tensor) -> Tensor:
        return (u.sqrt() - 1).square()

    def derivative(self, u: Tensor) -> Tensor:
        return 1 - u.rsqrt()

    def conjugate(self, t: Tensor) -> Tensor:
        t = t.clamp(min=torch.finfo(t.dtype).min)  # -inf / inf would be NaN
        inside = ~(t >= 1)  # NaN stays NaN
        return torch.where(inside, t / torch.where(inside, 1 - t, 1), math.inf)

    def activation(self, v: Tensor) -> Tensor:
        return 1 - (-v).exp_()

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return v.exp() - 1

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        return log_ratio / 2

    def between_gaussians(self, p: Normal, q: Normal) -> Tensor:
        return -2 * torch.expm1(log_affinity(0.5, p, q))
