"""The Neyman chi-squared divergence."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from gan_blocks._math import log_affinity
from gan_blocks.divergences.base import FDivergence
from gan_blocks.spec import block


@block(double_backward=True, compile=True, distributed=True)
class NeymanChi2(FDivergence):
    r"""The Neyman chi-squared divergence.

    $$\chi^2_N(P, Q) = \int \frac{(p - q)^2}{p} = \chi^2(Q \| P)$$

    $$f(u) = \frac{(1-u)^2}{u}, \quad f'(u) = 1 - u^{-2}, \quad f^*(t) = 2 - 2\sqrt{1-t} \;(t \le 1),
      \quad g(v) = 1 - e^{-v}, \quad f^*(g(v)) = 2 - 2e^{-v/2}.$$

    The paper's table swaps its integral with that of the Pearson divergence. It is infinite where
    $P$ misses mass of $Q$. Critic values below -88.7 exceed float32 on the real side, below -176
    on the generated one, and give infinity.

    Example:
        >>> import torch
        >>> NeymanChi2().between(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        tensor(0.2500)

    Reference:
        Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709, tables 1, 2 and 6.
    """

    threshold = 0.0
    slope_at_infinity = 1.0

    def f(self, u: Tensor) -> Tensor:
        # The limits at 0 and infinity need (1-u)/u by itself: (1-u)^2 overflows early.
        return (1 - u) * ((1 - u) / u)

    def derivative(self, u: Tensor) -> Tensor:
        return 1 - u.square().reciprocal()

    def conjugate(self, t: Tensor) -> Tensor:
        inside = ~(t > 1)  # NaN stays NaN
        return torch.where(inside, 2 - 2 * torch.where(inside, 1 - t, 1).sqrt(), math.inf)

    def activation(self, v: Tensor) -> Tensor:
        return 1 - (-v).exp_()

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return torch.rsub((v / -2).exp_(), 2, alpha=2)

    def bound(self, real: Tensor, fake: Tensor) -> Tensor:
        # Both terms may overflow: e^-r on real samples and 2 e^(-f/2) on generated ones.
        gain = 1 - (-real).exp_().mean()  # the mean of the activation
        cost = 2 - 2 * (fake / -2).exp_().mean()
        with torch.no_grad():
            larger = torch.where(-real.amin() > -fake.amin() / 2, -math.inf, math.inf)
        return _Difference.apply(gain, cost, larger)

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        return 2 * log_ratio

    def between_gaussians(self, p: Normal, q: Normal) -> Tensor:
        return torch.expm1(log_affinity(-1, p, q))


class _Difference(torch.autograd.Function):
    """a - b, and a given value where both are infinite; of the derivative of a - b everywhere.

    There is no `jvp`, since torch.compile would refuse it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor, otherwise: Tensor) -> Tensor:
        return torch.where(a.isinf() & b.isinf(), otherwise, a - b)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return gradients[0], -gradients[0], None
