"""What every f-divergence offers."""

from abc import ABC, abstractmethod

from torch import Tensor

from gan_blocks._math import f_divergence


class FDivergence(ABC):
    r"""An f-divergence $D_f(P \| Q) = \mathbb{E}_Q\, f(p/q)$, with $f$ convex and $f(1) = 0$.

    A subclass gives the formulas; all are elementwise and keep shape and dtype.

    Reference:
        Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709, tables 1, 2 and 6.
    """

    threshold: float
    """$f'(1)$: the value of $T$ at which real and generated are equally likely."""

    slope_at_infinity: float
    r"""$\lim_{u \to \infty} f(u)/u$: what mass of $p$ costs where $q$ has none."""

    @abstractmethod
    def f(self, u: Tensor) -> Tensor:
        """The generator function at density ratios $u = p/q$ of at least 0."""

    @abstractmethod
    def derivative(self, u: Tensor) -> Tensor:
        """$f'(u)$, which is the optimal $T$ at density ratio $u$."""

    @abstractmethod
    def conjugate(self, t: Tensor) -> Tensor:
        r"""$f^*(t) = \sup_u\, ut - f(u)$; infinity outside its domain."""

    @abstractmethod
    def activation(self, v: Tensor) -> Tensor:
        """$g(v)$: takes any critic value into the domain of $f^*$, increasing."""

    @abstractmethod
    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        """$f^*(g(v))$ in one stable form; never the two called in turn."""

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        """The exact divergence between discrete distributions over the last dimension.

        Args:
            p: Probabilities of shape `(..., n)`.
            q: Probabilities of the same shape.

        Returns:
            $D_f(p \\| q)$ of shape `(...)`; infinity where it is infinite.

        Raises:
            ValueError: If the shapes differ or one of them is no distribution.
        """
        return f_divergence(self.f, self.slope_at_infinity, p, q)
