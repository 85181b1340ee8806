"""What every f-divergence offers: closed forms where a class gives them, else computed from f."""

import functools
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from gan_blocks._checks import check_tensor, type_name
from gan_blocks._math import f_divergence


def _check_values(name: str, x: Any) -> None:
    check_tensor(name, x, empty=False)


def _check_gaussian(name: str, p: Any) -> None:
    if not isinstance(p, Normal):
        raise TypeError(f"{name} should be a torch.distributions.Normal, got {type_name(p)}")


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "f": check_tensor,
    "derivative": check_tensor,
    "conjugate": check_tensor,
    "activation": check_tensor,
    "conjugate_of_activation": check_tensor,
    "optimal_critic": check_tensor,
    "bound": _check_values,
    "between_gaussians": _check_gaussian,
}
"""What the arguments of a method have to be, whichever class gives its formula."""


def _checked(
    method: Callable[..., Tensor], check: Callable[[str, Any], None] = check_tensor
) -> Callable[..., Tensor]:
    """The method, with a look at its arguments first."""
    names = list(inspect.signature(method).parameters)[1:]

    @functools.wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        for name, x in zip(names, args, strict=False):
            check(name, x)
        for name in kwargs:
            if name in names:
                check(name, kwargs[name])
        return method(self, *args, **kwargs)

    return checked


class FDivergence(ABC):
    r"""An f-divergence $D_f(P \| Q) = \mathbb{E}_Q\, f(p/q)$, with $f$ convex and $f(1) = 0$.

    A subclass has to give $f$ alone. Everything else then follows in float64: $f'$ by automatic
    differentiation, $f^*$ by bisection of $f'(u) = t$, and $g(v) = f'(e^v)$, so that the optimal
    critic is $v = \log(p/q)$ and $f^*(g(v)) = e^v f'(e^v) - f(e^v)$ needs no search. Beyond
    $|v| = 25$ the exponent goes on as $25 + \log(1 + |v| - 25)$, which keeps it finite. A closed
    form in place of any of them is more exact and faster; the built-in divergences have them all.

    All functions are elementwise and keep shape and dtype.

    Raises:
        ValueError: If $f(1)$ is not 0, or $f$ is not convex, not finite or linear, as seen at ratios
            from $10^{-6}$ to $10^6$; or if $f'$ has flat stretches and there is no `activation`.

    Example:
        >>> import torch
        >>> from gan_blocks import FDivergence, FDivergenceLoss, block
        >>> @block(double_backward=True)
        ... class TriangularDiscrimination(FDivergence):
        ...     def f(self, u):
        ...         return (u - 1).square() / (u + 1)
        >>> divergence = TriangularDiscrimination()
        >>> divergence.between(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        tensor(0.1333)
        >>> with torch.no_grad():  # the value only
        ...     FDivergenceLoss(divergence).discriminator(torch.ones(8), -torch.ones(8))
        tensor(-1.4214)

    Reference:
        Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709, tables 1, 2 and 6.
    """

    threshold: float
    """$f'(1)$: the value of $T$ at which real and generated are equally likely."""

    slope_at_infinity: float
    r"""$\lim_{u \to \infty} f(u)/u$: what mass of $p$ costs where $q$ has none. It is also the upper
    end of the domain of $f^*$."""

    def __init__(self) -> None:  # noqa: B027, the look at f comes afterwards
        """A subclass may have arguments of its own."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Every constructor ends with a look at the formula that it leaves."""
        super().__init_subclass__(**options)
        initialise = cls.__init__

        @functools.wraps(initialise)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            initialise(self, *args, **kwargs)
            if type(self) is cls:
                self._complete()

        cls.__init__ = __init__
        for name in _CHECKS.keys() & vars(cls).keys():
            setattr(cls, name, _checked(vars(cls)[name], _CHECKS[name]))

    def _complete(self) -> None:
        """Refuses what is no f-divergence, and fills in what a class does not give."""
        problem = _problem_of(self)
        if problem:
            raise ValueError(problem)
        if not hasattr(self, "threshold"):
            self.threshold = float(derivative_of(self.f, _cpu([1.0])))
        if not hasattr(self, "slope_at_infinity"):
            self.slope_at_infinity = _slope_at_infinity(self.f)

    @abstractmethod
    def f(self, u: Tensor) -> Tensor:
        """The generator function at density ratios $u = p/q$ of at least 0."""

    @_checked
    def derivative(self, u: Tensor) -> Tensor:
        """$f'(u)$, which is the optimal $T$ at density ratio $u$."""
        return derivative_of(self.f, u)

    @_checked
    def conjugate(self, t: Tensor) -> Tensor:
        r"""$f^*(t) = \sup_u\, ut - f(u)$; infinity outside its domain."""
        x = t.double()
        inside = x < self.slope_at_infinity
        low = derivative_of(self.f, x.new_full((), math.exp(-_WIDEST)))
        found = inside & (x > low)
        u = _inverse_of_derivative(self.f, torch.where(found, x, self.threshold).detach())
        # A Newton step from the solution does not move it, and gives it its derivative 1/f''(u) by t.
        # Where f has a kink the maximiser stays in its place.
        curvature = derivative_of(lambda u: derivative_of(self.f, u), u)
        rest = x - derivative_of(self.f, u)
        smooth = found & (curvature > 0) & (rest.abs() <= 1e-6 * (1 + x.abs()))
        step = torch.where(smooth, rest, 0)
        moving = u + step / torch.where(smooth, curvature, 1)
        at_zero = -self.f(torch.zeros_like(u))
        value = torch.where(found, moving * torch.where(found, x, 0) - self.f(moving), at_zero)
        value = torch.where(inside, value, math.inf)
        return torch.where(x.isnan(), x, value).to(t.dtype)

    @_checked
    def activation(self, v: Tensor) -> Tensor:
        """$g(v)$: takes any critic value into the domain of $f^*$, increasing."""
        return derivative_of(self.f, _ratio(v)).to(v.dtype)

    @_checked
    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        """$f^*(g(v))$ in one stable form; never the two called in turn."""
        if type(self).activation is not FDivergence.activation:
            return self.conjugate(self.activation(v))
        u = _ratio(v)
        return (u * derivative_of(self.f, u) - self.f(u)).to(v.dtype)

    def bound(self, real: Tensor, fake: Tensor) -> Tensor:
        r"""$\mathbb{E}\,g(v) - \mathbb{E}\,f^*(g(v))$ of values on real and on generated samples."""
        _check_values("real", real)
        _check_values("fake", fake)
        return self.activation(real).mean() - self.conjugate_of_activation(fake).mean()

    @_checked
    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        r"""The critic value at which the bound is tight, $g(v) = f'(p/q)$.

        Args:
            log_ratio: $\log(p/q)$, of any shape; infinite where one density is 0.
        """
        if type(self).activation is not FDivergence.activation:
            raise NotImplementedError(
                f"{type(self).__name__} has an activation of its own and gives no optimal_critic"
            )
        far = log_ratio.sign() * (_LINEAR + torch.expm1(log_ratio.abs() - _LINEAR))
        return torch.where(log_ratio.abs() > _LINEAR, far, log_ratio)

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        """The exact divergence between discrete distributions over the last dimension.

        Args:
            p: Probabilities of shape `(..., n)`.
            q: Probabilities of the same shape.

        Returns:
            $D_f(p \\| q)$ of shape `(...)`; infinity where it is infinite.

        Raises:
            ValueError: If the shapes differ or one of them is no distribution.
            TypeError: If they are not floating point.
        """
        return f_divergence(self.f, self.slope_at_infinity, p, q)

    def between_gaussians(self, p: Normal, q: Normal) -> Tensor:
        """The exact divergence between normal distributions of one dimension, in closed form.

        Args:
            p: One distribution or a batch.
            q: Likewise.

        Returns:
            $D_f(p \\| q)$ for each pair; infinity where it is infinite.

        Raises:
            NotImplementedError: If there is no closed form.
        """
        raise NotImplementedError(
            f"{type(self).__name__} between Gaussians has no closed form; take both on a fine grid x, "
            "between(p.log_prob(x).softmax(-1), q.log_prob(x).softmax(-1))"
        )


_LINEAR = 25.0
"""Up to here the exponent of the numerical activation is the critic's value itself."""

_WIDEST = 100.0
"""The search for the maximiser u looks from exp(-100) to exp(100)."""


def _cpu(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def derivative_of(f: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    """The derivative of an elementwise function, to be differentiated again."""
    return torch.func.grad(lambda u: f(u).sum())(u)


def _slope_at_infinity(f: Callable[[Tensor], Tensor]) -> float:
    near, far = derivative_of(f, _cpu([1e60, 1e120])).tolist()
    if math.isnan(far):
        raise ValueError(
            "f' is NaN at 1e120, so the limit of f(u)/u is unknown; give it as the class attribute "
            "slope_at_infinity (math.inf if there is none)"
        )
    return far if abs(far - near) <= 1e-6 * (1 + abs(far)) else math.inf


def _ratio(v: Tensor) -> Tensor:
    x = v.double()
    beyond = (x.abs() - _LINEAR).clamp(min=0)
    return (x.clamp(-_LINEAR, _LINEAR) + x.sign() * torch.log1p(beyond)).exp()


def _inverse_of_derivative(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """The u with f'(u) = t, by bisection of log u."""
    low, high = torch.full_like(t, -_WIDEST), torch.full_like(t, _WIDEST)
    for _ in range(64):
        middle = (low + high) / 2
        above = derivative_of(f, middle.exp()) > t
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return ((low + high) / 2).exp()


def _problem_of(divergence: FDivergence) -> str | None:
    """What keeps f from being the generator of an f-divergence, in words."""
    u = torch.cat([_cpu([0.0, 1.0]), torch.logspace(-6, 6, 241, dtype=torch.float64, device="cpu")])
    f = divergence.f(u)
    if not isinstance(f, Tensor) or f.shape != u.shape:
        return "f should be elementwise: a tensor of the shape of u"
    at_zero, at_one = f[:2].tolist()
    if not abs(at_one) <= 1e-9:
        return (
            f"f(1) should be 0, so that the divergence of equal distributions is 0, got {at_one:g}"
        )
    if math.isnan(at_zero):
        return "f(0) is NaN: give its limit there, for instance torch.xlogy(u, u) for u log u"
    u, f = u[2:], f[2:]
    slope = derivative_of(divergence.f, u)
    # Far out f may exceed float64.
    near = (u > 1e-3) & (u < 1e3)
    wrong = f.isnan() | slope.isnan() | (near & ~(f.isfinite() & slope.isfinite()))
    if wrong.any():
        return (
            f"f and its derivative should be finite at every ratio > 0, not so at {u[wrong][0]:.3g}"
        )
    falling = slope.diff() < -1e-9 * (slope[1:].abs() + slope[:-1].abs())
    if falling.any():
        return f"f should be convex, but its derivative falls at ratio {u[1:][falling][0]:.3g}"
    if slope[near][-1] - slope[near][0] <= 1e-9 * slope[near].abs().max():
        return "f is linear, so the divergence of any two distributions is 0"
    numerical = type(divergence).activation is FDivergence.activation
    if numerical and (slope.diff()[(u[1:] > 0.1) & (u[1:] < 10)] <= 0).any():
        return (
            "f' is constant on a stretch, and the activation f'(exp(v)) has no gradient there: give "
            "activation and conjugate_of_activation, as TotalVariation does"
        )
    return None
