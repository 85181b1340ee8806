"""The alpha-divergences."""

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from gan_blocks._math import inverse_log_softplus, log_affinity, log_softplus, softplus
from gan_blocks.divergences.base import FDivergence
from gan_blocks.spec import block


@block(double_backward=True, compile=True, distributed=True)
class AlphaDivergence(FDivergence):
    r"""The alpha-divergence, a family that joins most of the others.

    $$D_\alpha(P \| Q) = \frac{1}{\alpha(\alpha-1)} \left(\int p^\alpha q^{1-\alpha} - 1\right)$$

    $$f(u) = \frac{u^\alpha - 1 - \alpha(u-1)}{\alpha(\alpha-1)}, \quad
      f'(u) = \frac{u^{\alpha-1} - 1}{\alpha-1}, \quad
      f^*(t) = \frac1\alpha \left[(1 + (\alpha-1) t)^{\alpha/(\alpha-1)} - 1\right],$$

    with $\max(0, \cdot)$ around the base for $\alpha > 1$, which the paper leaves out; for
    $\alpha < 1$ the domain is $t < 1/(1-\alpha)$, with its end if $\alpha < 0$. The activation is

    $$g(v) = v \;(\alpha > 1), \qquad g(v) = \frac{1}{1-\alpha} - \zeta(-v) \;(\alpha < 1),$$

    where $\zeta(x) = \log(1 + e^x)$ is the softplus.

    It tends to KL as $\alpha \to 1$ and to the reverse KL as $\alpha \to 0$; it is twice the
    squared Hellinger divergence at $\tfrac12$, half the Pearson divergence at 2 and half the Neyman
    divergence at -1. Large $\alpha$ covers all modes, small $\alpha$ prefers one. Swapping $P$ and
    $Q$ swaps $\alpha$ and $1 - \alpha$.

    For $0 < \alpha < 1$ a critic value of generated samples gives infinity in float32 about where
    $(1-\alpha)\,\zeta(-v) < e^{-88(1-\alpha)/\alpha}$: at $\alpha = \tfrac12$ beyond $v = 87$, but for
    $\alpha$ above about 0.96 already at $v = 0$, where training starts; take [`KL`][gan_blocks.KL].

    Args:
        alpha: $\alpha$, any number but 0 and 1.

    Raises:
        ValueError: At $\alpha = 0$, which is [`ReverseKL`][gan_blocks.ReverseKL], and at
            $\alpha = 1$, which is [`KL`][gan_blocks.KL].

    Example:
        >>> import torch
        >>> AlphaDivergence(2).between(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        tensor(0.1667)

    Reference:
        Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709, tables 1, 2 and 6;
        Amari, "Differential-Geometrical Methods in Statistics", 1985, section 3.5.
    """

    threshold = 0.0

    def __init__(self, alpha: float) -> None:
        if alpha in (0, 1):
            limit = "KL" if alpha else "ReverseKL"
            raise ValueError(f"alpha should not be {alpha:g}; the limit there is {limit}()")
        self.alpha = alpha
        self.slope_at_infinity = 1 / (1 - alpha) if alpha < 1 else math.inf

    def _complete(self) -> None:
        """Nothing to check: f is convex for every alpha, and far out it may exceed float64."""

    def f(self, u: Tensor) -> Tensor:
        a = self.alpha
        there = ~(u <= 0)  # NaN stays NaN
        log_u = torch.where(there, u, 1).log()
        # Two forms of one formula, each exact near its limit, KL or reverse KL.
        if a > 0.5:
            value = (u * torch.expm1((a - 1) * log_u) / (a - 1) - (u - 1)) / a
        else:
            value = (torch.expm1(a * log_u) / a - (u - 1)) / (a - 1)
        return torch.where(there, value, 1 / a if a > 0 else math.inf)

    def derivative(self, u: Tensor) -> Tensor:
        return torch.expm1((self.alpha - 1) * u.log()) / (self.alpha - 1)

    def conjugate(self, t: Tensor) -> Tensor:
        a = self.alpha
        x = (a - 1) * t
        positive = ~(x <= -1)
        log_base = torch.log1p(torch.where(positive, x, 0))
        value = torch.expm1(a / (a - 1) * log_base) / a
        # At base 0 the maximiser u is 0 for alpha > 1, and infinite for alpha < 1.
        if a > 1:
            return torch.where(positive, value, -1 / a)
        return torch.where(positive, value, torch.where((x == -1) & (a < 0), -1 / a, math.inf))

    def activation(self, v: Tensor) -> Tensor:
        return v if self.alpha > 1 else self.slope_at_infinity - softplus(-v)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        a = self.alpha
        if a > 1:
            return self.conjugate(v)
        # The base is (1-a) zeta(-v).
        return torch.expm1(a / (a - 1) * (math.log(1 - a) + log_softplus(-v))) / a

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        a = self.alpha
        if a > 1:
            return torch.expm1((a - 1) * log_ratio) / (a - 1)
        return -inverse_log_softplus((a - 1) * log_ratio - math.log(1 - a))

    def between_gaussians(self, p: Normal, q: Normal) -> Tensor:
        a = self.alpha
        return torch.expm1(log_affinity(a, p, q)) / (a * (a - 1))
