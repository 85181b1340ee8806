"""How far two sets of samples are from each other, by their features.

Nothing here is about networks: both sets are tensors of shape `(N, d)`, whatever made them.
"""

import torch
from torch import Tensor


def frechet_distance(x: Tensor, y: Tensor) -> float:
    r"""The Fréchet distance between Gaussians fitted to two sets of features `(N, d)`.

    $$|\mu_x - \mu_y|^2 + \operatorname{tr}(\Sigma_x + \Sigma_y - 2(\Sigma_x\Sigma_y)^{1/2})$$

    It is too large for few samples: also two sets of one distribution are apart. Compare only numbers
    of as many samples.
    """
    x, y = x.double(), y.double()
    cov_x, cov_y = torch.atleast_2d(torch.cov(x.T), torch.cov(y.T))
    # tr (AB)^(1/2) is the sum of the singular values of A^(1/2) B^(1/2).
    cross = torch.linalg.matrix_norm(_root(cov_x) @ _root(cov_y), ord="nuc")
    return float((x.mean(0) - y.mean(0)).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def kernel_distance(x: Tensor, y: Tensor) -> tuple[float, float]:
    r"""The kernel distance between two sets of features `(N, d)`, and its standard error.

    The unbiased squared maximum mean discrepancy with the cubic kernel
    $k(x, y) = (x^\top y / d + 1)^3$ (Bińkowski et al. 2018, arXiv:1801.01401, section 4):

    $$\frac{1}{m(m-1)}\sum_{i \ne j} k(x_i, x_j) + \frac{1}{n(n-1)}\sum_{i \ne j} k(y_i, y_j)
      - \frac{2}{mn}\sum_{i,j} k(x_i, y_j).$$

    Its mean is 0 for two sets of one distribution, whatever their sizes, so it may be negative. All
    samples are used, where the paper averages over random subsets. The error is that of the
    jackknife: the sum is repeated without each sample of either set in turn. It is on the safe side,
    up to $\sqrt 2$ too large, where both sets are of one distribution.
    """
    x, y = x.double(), y.double()
    m, n, d = len(x), len(y), x.shape[1]
    if min(m, n) < 3:
        raise ValueError(f"the kernel distance needs 3 samples of each set, got {m} and {n}")
    # For each sample the sum of the kernel over the others of its set, and over the other set.
    xx, yy = (
        _sums(x, x) - _kernel(x.square().sum(1), d),
        _sums(y, y) - _kernel(y.square().sum(1), d),
    )
    xy, yx = _sums(x, y), _sums(y, x)

    def value(xx: Tensor, m: int, yy: Tensor, n: int, between: Tensor) -> Tensor:
        return xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * between / (m * n)

    # A sample that is left out was in two of the sums over its own set: as i and as j.
    whole_x, whole_y, between = xx.sum(), yy.sum(), xy.sum()
    without_x = value(whole_x - 2 * xx, m - 1, whole_y, n, between - xy)
    without_y = value(whole_x, m, whole_y - 2 * yy, n - 1, between - yx)
    variance = sum((len(v) - 1) * v.var(correction=0) for v in (without_x, without_y))
    return float(value(whole_x, m, whole_y, n, between)), float(variance**0.5)


def _kernel(product: Tensor, d: int) -> Tensor:
    return (product / d + 1) ** 3


def _sums(a: Tensor, b: Tensor) -> Tensor:
    """For each row of `a` the sum of the kernel over all rows of `b`, without the whole matrix."""
    return torch.cat([_kernel(part @ b.T, b.shape[1]).sum(1) for part in a.split(500)])
