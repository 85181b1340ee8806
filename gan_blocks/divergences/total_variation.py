"""The total variation distance."""

import math

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.special import ndtr

from gan_blocks.divergences.base import FDivergence
from gan_blocks.spec import block


@block(double_backward=True, compile=True, distributed=True)
class TotalVariation(FDivergence):
    r"""The total variation distance, the largest difference of probabilities of any event.

    $$\mathrm{TV}(P, Q) = \tfrac12 \int |p - q|$$

    It lies between 0 and 1.

    $$f(u) = \tfrac12 |u - 1|, \quad f'(u) = \tfrac12 \mathrm{sign}(u - 1), \quad
      f^*(t) = \begin{cases} t & |t| \le \tfrac12 \\ -\tfrac12 & t < -\tfrac12 \end{cases}, \quad
      g(v) = f^*(g(v)) = \tfrac12 \tanh v.$$

    Symmetric in $P$ and $Q$. The supremum is reached by no critic, only approached as
    $v \to \pm\infty$, and there the gradient vanishes. [`HingeLoss`][gan_blocks.HingeLoss], whose
    optimum is $2 - 2\,\mathrm{TV}(P, Q)$, reaches it at $v = \pm 1$.

    Example:
        >>> import torch
        >>> TotalVariation().between(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        tensor(0.2500)

    Reference:
        Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709, tables 1, 2 and 6.
    """

    threshold = 0.0
    slope_at_infinity = 0.5

    def f(self, u: Tensor) -> Tensor:
        return (u - 1).abs() / 2

    def derivative(self, u: Tensor) -> Tensor:
        at_one = (u - 1) * 0  # or NaN, whose sign is 0 in torch
        return torch.where(u > 1, 0.5, torch.where(u < 1, -0.5, at_one))

    def conjugate(self, t: Tensor) -> Tensor:
        return torch.where(t > 0.5, math.inf, t.clamp(min=-0.5))

    def activation(self, v: Tensor) -> Tensor:
        return v.tanh() / 2

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return v.tanh() / 2

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        return torch.where(log_ratio == 0, log_ratio, log_ratio.sign() * math.inf)

    def between_gaussians(self, p: Normal, q: Normal) -> Tensor:
        # In units of p: q has mean m and standard deviation s, and the densities cross where
        # (1 - s^2) z^2 - 2 m z + m^2 + 2 s^2 log s = 0; one root is infinite if s = 1.
        m, s = (q.mean - p.mean) / p.stddev, q.stddev / p.stddev
        square = m.square() + 2 * (s.square() - 1) * s.log()
        same, one = square == 0, s == 1
        w = m + torch.where(m < 0, -s, s) * torch.where(same, 1, square).sqrt()
        far = w / torch.where(one, 1, 1 - s.square())
        near = (m.square() + 2 * s.square() * s.log()) / torch.where(same, 1, w)
        all_or_none = (w > 0).to(w.dtype)
        mass_p = torch.where(one, all_or_none, ndtr(far)) - ndtr(near)
        mass_q = torch.where(one, all_or_none, ndtr((far - m) / s)) - ndtr((near - m) / s)
        return torch.where(same, 0, (mass_p - mass_q).abs())
