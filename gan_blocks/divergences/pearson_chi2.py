"""The Pearson chi-squared divergence."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal

from gan_blocks._math import log_affinity
from gan_blocks.divergences.base import FDivergence
from gan_blocks.spec import block


@block(double_backward=True, compile=True, distributed=True)
class PearsonChi2(FDivergence):
    r"""The Pearson chi-squared divergence.

    $$\chi^2(P \| Q) = \int \frac{(p - q)^2}{q}$$

    $$f(u) = (u-1)^2, \quad f'(u) = 2(u-1), \quad f^*(t) = \begin{cases} t^2/4 + t & t \ge -2 \\
      -1 & t < -2 \end{cases}, \quad g(v) = v.$$

    The second case is missing from the paper's table. There $t^2/4 + t$ exceeds the supremum over
    $u \ge 0$: at $t = -6$ it gives 3 instead of -1.

    Example:
        >>> import torch
        >>> PearsonChi2().between(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        tensor(0.3333)

    Reference:
        Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709, tables 1, 2 and 6.
    """

    threshold = 0.0
    slope_at_infinity = math.inf

    def f(self, u: Tensor) -> Tensor:
        return (u - 1).square()

    def derivative(self, u: Tensor) -> Tensor:
        return 2 * (u - 1)

    def conjugate(self, t: Tensor) -> Tensor:
        return torch.rsub(t, 1, alpha=-0.5).relu_().square() - 1

    def activation(self, v: Tensor) -> Tensor:
        return v

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return self.conjugate(v)

    def bound(self, real: Tensor, fake: Tensor) -> Tensor:
        # The same, with the mean of the squares in one pass.
        root = torch.rsub(fake, 1, alpha=-0.5).relu_()
        return real.mean() + 1 - F.mse_loss(root, fake.new_zeros(()).expand_as(fake))

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        return 2 * torch.expm1(log_ratio)

    def between_gaussians(self, p: Normal, q: Normal) -> Tensor:
        return torch.expm1(log_affinity(2, p, q))
