r"""The sums of similarities of minibatch discrimination, in little memory.

Of projections $M$, stored as $C \times B \times N$, the first $n$ samples get

$$o_{b,i} = \sum_{j \ne i} E_{b,ij}, \qquad E_{b,ij} = e^{-D_{b,ij}}, \qquad
  D_{b,ij} = \sum_c |M_{c,b,i} - M_{c,b,j}|,$$

over all $N$ samples $j$. Plain operations keep tensors of $N^2 B C$ numbers for the backward pass.
Here pieces of them are made, used and dropped, and each unordered pair is computed once. The
derivatives are written out, with $s_{c,ij} = \operatorname{sign}(M_{c,i} - M_{c,j})$ and $g$ the
gradient of $o$ (0 for the samples beyond $n$):

$$\frac{\partial L}{\partial M_{c,i}} = -\sum_j (g_i + g_j)\, E_{ij}\, s_{c,ij},$$

and for the derivative of that in a direction $h$, with
$q_{ij} = \sum_c (h_{c,i} - h_{c,j})\, s_{c,ij}$,

$$\frac{\partial}{\partial g_i} = -\sum_j E_{ij}\, q_{ij}, \qquad
  \frac{\partial}{\partial M_{c,i}} = \sum_j (g_i + g_j)\, E_{ij}\, q_{ij}\, s_{c,ij}.$$
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_MOST_ROWS = 64
_NUMBERS = {"cpu": 5 * 2**17}
"""Differences in one piece: few enough for a processor's cache."""
_NUMBERS_ELSEWHERE = 2**23
_KEPT_BYTES = 2**25
"""Similarities are kept for the backward pass up to this size, and computed again beyond it."""


def similarity_sums(projections: Tensor, own: int) -> Tensor:
    """For each of the first `own` samples the sums of similarities to all others.

    Args:
        projections: Of shape `(C, B, N)`, contiguous.
        own: How many of the samples get a result.

    Shape:
        `(B, own)`.
    """
    if torch.compiler.is_compiling():
        # The compiler makes one loop of it, and cannot follow the pieces.
        return _in_plain_operations(projections, own)
    return _Sums.apply(projections, own)[0]  # type: ignore[index]


def _in_plain_operations(m: Tensor, own: int) -> Tensor:
    distance = (m[:, :, :own, None] - m[:, :, None, :]).abs().sum(0)
    itself = torch.eye(own, m.shape[2], dtype=torch.bool, device=m.device)
    return (-distance).exp().masked_fill(itself, 0).sum(2)


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(m: Tensor, own: int) -> tuple[Tensor, Tensor]:
        sums, store = m.new_zeros(m.shape[1], own), _store(m, own)
        for piece in _pieces(m, own):
            e = piece.similarities(piece.differences(piece.m))
            if len(store):
                piece.kept(store).copy_(e)
            piece.add_symmetric(sums, e)
        return sums, store

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Any, None]:  # type: ignore[override]
        return _Gradient.apply(*ctx.saved_tensors, g), None


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(m: Tensor, store: Tensor, g: Tensor) -> Tensor:
        gradient, own, g = torch.zeros_like(m), g.shape[1], _for_all(g, m)
        for piece in _pieces(m, own):
            s = piece.differences(piece.m)
            e = piece.kept(store) if len(store) else piece.similarities(s)
            s.sign_().mul_(piece.sums(g).mul_(e))
            piece.add_antisymmetric(gradient, s)
        return gradient.neg_()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[2])

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Any, None, Any]:  # type: ignore[override]
        m, g = ctx.saved_tensors
        by_m, by_g = _Second.apply(m, g, h)  # type: ignore[misc]
        return by_m, None, by_g


class _Second(torch.autograd.Function):
    @staticmethod
    def forward(m: Tensor, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        by_m, by_g, own, g = torch.zeros_like(m), torch.zeros_like(g), g.shape[1], _for_all(g, m)
        for piece in _pieces(m, own):
            s = piece.differences(piece.m)
            e = piece.similarities(s)
            s.sign_()
            q = piece.differences(h[:, piece.kernels]).mul_(s).sum(0)
            eq = e.mul_(q)
            piece.add_symmetric(by_g, eq)
            piece.add_antisymmetric(by_m, s.mul_(piece.sums(g).mul_(eq)))
        return by_m, by_g.neg_()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError(
            "MinibatchDiscrimination is differentiable twice, as a penalty needs it, not three times; "
            "within torch.compile it is"
        )


def _for_all(g: Tensor, m: Tensor) -> Tensor:
    """The gradient of all samples' results: 0 for those that have none."""
    return F.pad(g, (0, m.shape[2] - g.shape[1])).contiguous()


class _Piece:
    """Some rows against all columns from the first of these rows on, for some kernels."""

    def __init__(self, m: Tensor, kernels: slice, start: int, stop: int, own: int, at: int) -> None:
        self.kernels, self.rows, self.columns = kernels, slice(start, stop), slice(start, None)
        self.later, self.later_own = slice(stop, None), slice(stop, own)
        self.behind, self.own = stop - start, own - start  # the same places, counted from the rows
        self.m = m[:, kernels]
        self.at = slice(at, at + (stop - start) * (m.shape[2] - start))

    def differences(self, x: Tensor) -> Tensor:
        """x_i - x_j of a tensor (C, kernels, N)."""
        return x[:, :, self.rows, None] - x[:, :, None, self.columns]

    def sums(self, g: Tensor) -> Tensor:
        """g_i + g_j of a tensor (B, N)."""
        return g[self.kernels, self.rows, None] + g[self.kernels, None, self.columns]

    def similarities(self, differences: Tensor) -> Tensor:
        """E, with 0 for a sample and itself."""
        e = differences.abs().sum(0).neg_().exp_()
        e[:, :, : self.behind].diagonal(dim1=1, dim2=2).zero_()
        return e

    def kept(self, store: Tensor) -> Tensor:
        """This piece's part of the store."""
        return store[self.kernels, self.at].unflatten(1, (self.behind, -1))

    def add_symmetric(self, total: Tensor, x: Tensor) -> None:
        """Add a symmetric x_ij to the total of i and, where j has one, to that of j."""
        total[self.kernels, self.rows] += x.sum(2)
        total[self.kernels, self.later_own] += x[:, :, self.behind : self.own].sum(1)

    def add_antisymmetric(self, total: Tensor, x: Tensor) -> None:
        """Add an antisymmetric x_cij to the total of i, and -x_cij to that of j."""
        total[:, self.kernels, self.rows] += x.sum(3)
        total[:, self.kernels, self.later] -= x[..., self.behind :].sum(2)


def _rows(m: Tensor, own: int) -> list[tuple[int, int]]:
    """Where the rows of each piece begin and end."""
    c, _, n = m.shape
    step = min(_MOST_ROWS, max(1, _numbers(m) // max(1, c * n)))
    return [(start, min(start + step, own)) for start in range(0, own, step)]


def _numbers(m: Tensor) -> int:
    return _NUMBERS.get(m.device.type, _NUMBERS_ELSEWHERE)


def _pieces(m: Tensor, own: int) -> Iterator[_Piece]:
    c, b, n = m.shape
    rows = _rows(m, own)
    most = max((stop - start for start, stop in rows), default=1)
    kernels = max(1, _numbers(m) // max(1, c * n * most))
    for kernel in range(0, b, kernels):
        at = 0
        for start, stop in rows:
            yield _Piece(m, slice(kernel, kernel + kernels), start, stop, own, at)
            at += (stop - start) * (n - start)


def _store(m: Tensor, own: int) -> Tensor:
    """A place for the similarities of all pieces; empty if they are too many."""
    size = sum((stop - start) * (m.shape[2] - start) for start, stop in _rows(m, own))
    fits = m.shape[1] * size * m.element_size() <= _KEPT_BYTES
    return m.new_empty((m.shape[1], size) if fits else (0, 0))
