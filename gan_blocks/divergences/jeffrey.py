"""The Jeffrey divergence."""

import math

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from gan_blocks.divergences.base import FDivergence
from gan_blocks.spec import block


@block(double_backward=True, compile=True, distributed=True)
class Jeffrey(FDivergence):
    r"""The Jeffrey divergence, KL in both directions.

    $$J(P, Q) = \mathrm{KL}(P \| Q) + \mathrm{KL}(Q \| P) = \int (p - q) \log\frac{p}{q}$$

    $$f(u) = (u - 1) \log u, \quad f'(u) = 1 + \log u - \frac1u, \quad f^*(t) = e^{-x} - 1 - x,
      \quad g(v) = v,$$

    where $x$ solves $e^x + x = 1 - t$. In terms of the Lambert function $W$ that is
    $x = \log W(e^{1-t})$ and $f^*(t) = W(e^{1-t}) + 1/W(e^{1-t}) + t - 2$, the form of the paper, which
    overflows and cancels; here Newton's method finds $x$ itself.

    Symmetric in $P$ and $Q$; infinite where one of them misses mass of the other. Critic values of
    generated samples beyond 89.7 exceed float32 and give infinity.

    Example:
        >>> import torch
        >>> Jeffrey().between(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        tensor(0.2747)

    Reference:
        Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709, tables 1, 2 and 6.
    """

    threshold = 0.0
    slope_at_infinity = math.inf

    def f(self, u: Tensor) -> Tensor:
        return (u - 1) * u.log()

    def derivative(self, u: Tensor) -> Tensor:
        return 1 + u.log() - 1 / u

    def conjugate(self, t: Tensor) -> Tensor:
        # Above 50 e^x is below the rounding of x = 1 - t.
        large = t > 50
        y = 1 - torch.where(large | (t == -math.inf), 0, t)
        with torch.no_grad():
            # Where e^x + x exceeds y, Newton's steps descend to the root without passing it.
            x = torch.where(y > 1, y.clamp(min=1).log(), y)
            for _ in range(4):
                x = _newton(x, y)
        # Each further step makes one more derivative of x by t exact.
        x = _newton(_newton(x, y), y)
        far = torch.expm1(torch.where(large, t - 1, 0)) + (t - 1)
        return torch.where(large | (t == -math.inf), far, torch.expm1(-x) - x)

    def activation(self, v: Tensor) -> Tensor:
        return v

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return self.conjugate(v)

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        return log_ratio - torch.expm1(-log_ratio)

    def between_gaussians(self, p: Normal, q: Normal) -> Tensor:
        return kl_divergence(p, q) + kl_divergence(q, p)


def _newton(x: Tensor, y: Tensor) -> Tensor:
    """A step towards the root of e^x + x = y, by (e^x + x - y) / (e^x + 1) in parts that are finite."""
    return x - x.sigmoid() - (x - y) * (-x).sigmoid()
