"""The divergence that the original game plays."""

import math

import torch
from torch import Tensor

from gan_blocks._math import softplus
from gan_blocks.divergences.base import FDivergence
from gan_blocks.spec import block


@block(double_backward=True, compile=True, distributed=True)
class GANDivergence(FDivergence):
    r"""The f-divergence whose bound is the objective of the first GAN paper.

    $$f(u) = u \log \frac{u}{1+u} - \log(1+u), \quad f'(u) = \log\frac{u}{1+u}, \quad
      f^*(t) = -\log(1 - e^t) \;(t < 0),$$

    $$g(v) = -\zeta(-v) = \log \sigma(v), \quad f^*(g(v)) = \zeta(v),$$

    where $\zeta(x) = \log(1 + e^x)$ is the softplus. It is $2\,\mathrm{JSD}(P, Q) - \log 4$: here
    $f(1) = -\log 4$, not 0, so its minimum is $-\log 4$. With it,
    [`FDivergenceLoss`][gan_blocks.FDivergenceLoss] is [`MinimaxLoss`][gan_blocks.MinimaxLoss].

    Example:
        >>> import torch
        >>> GANDivergence().between(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]))
        tensor(-1.3863)

    Reference:
        Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709, tables 1, 2 and 6.
    """

    threshold = -math.log(2)
    slope_at_infinity = 0.0

    def _complete(self) -> None:
        """Nothing to check: f(1) is -log 4 and not 0."""

    def f(self, u: Tensor) -> Tensor:
        # u log u/(1+u), where u/(1+u) rounds to 1 for large ratios.
        large = u > 1
        far = -u * torch.log1p(1 / torch.where(large, u, 1))
        return torch.where(large, far, torch.xlogy(u, u / (1 + u))) - torch.log1p(u)

    def derivative(self, u: Tensor) -> Tensor:
        return -torch.log1p(1 / u)

    def conjugate(self, t: Tensor) -> Tensor:
        inside = ~(t >= 0)  # NaN stays NaN
        return torch.where(inside, -torch.log(-torch.expm1(torch.where(inside, t, -1))), math.inf)

    def activation(self, v: Tensor) -> Tensor:
        return -softplus(-v)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return softplus(v)

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        return log_ratio
