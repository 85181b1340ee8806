"""The exact Wasserstein-1 distance of two sets of points, and its optimal critic."""

from collections.abc import Callable

import torch
from torch import Tensor

from gan_blocks._checks import Dimensions, check_tensor
from gan_blocks.precision import at_least_float32

LARGEST = 250_000
"""Of the number of pairs that the linear program takes on."""


def wasserstein_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""The exact Wasserstein-1 distance of two sets of points, each of equal weights.

    $$W_1 = \min_\pi \sum_{ij} \pi_{ij} \|x_i - y_j\|_2$$

    over all couplings $\pi$ with marginals $1/n$ and $1/m$. In one dimension that is
    $\int |F_x - F_y|$ with the empirical distribution functions, at the cost of a sort; in more it
    is a linear program for SciPy, for small sets. It measures what a Wasserstein critic estimates.

    Args:
        x: Points of shape `(n,)` or `(n, d)`.
        y: Points of shape `(m,)` or `(m, d)`.

    Returns:
        A scalar of at least float32, computed in float64, differentiable by both sets.

    Raises:
        TypeError: If one of them is no tensor.
        ValueError: If the shapes do not fit, a point is not finite, or there are more than 250,000
            pairs in more than one dimension.
        ImportError: In more than one dimension, if SciPy is not installed.

    Example:
        >>> import torch
        >>> from gan_blocks import wasserstein_distance
        >>> wasserstein_distance(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 5.0, 5.0]))
        tensor(3.5000)
        >>> wasserstein_distance(torch.zeros(5, 2), torch.tensor([[3.0, 4.0]]))
        tensor(5.)

    Reference:
        Villani, "Optimal Transport: Old and New", 2009, chapter 6; Arjovsky, Chintala and Bottou,
        "Wasserstein GAN", 2017, arXiv:1701.07875, section 2.
    """
    dtype = at_least_float32(_checked(x, y)).dtype
    x, y = _in_float64(x), _in_float64(y)
    if x.shape[1] == 1:
        points, below = _distribution_functions(x.squeeze(1), y.squeeze(1))
        return (below.abs() * points.diff()).sum().to(dtype)
    plan, _ = _linear_program(x, y)
    return (plan * _distances(x, y)).sum().to(dtype)


def wasserstein_critic(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    r"""The best 1-Lipschitz critic between two sets of points, in closed form.

    By the duality of Kantorovich and Rubinstein
    $W_1 = \max_{\|f\|_L \le 1} \mathrm{mean} f(x_i) - \mathrm{mean} f(y_j)$. A maximiser on the
    points, extended to all of space, is $f(z) = \max_i f(x_i) - \|z - x_i\|_2$. Its gradient leads
    from generated points straight to real ones.

    Args:
        x: Real points of shape `(n,)` or `(n, d)`.
        y: Generated points of shape `(m,)` or `(m, d)`.

    Returns:
        A critic of points `(k,)` or `(k, d)`, with values `(k,)`.

    Raises:
        ValueError: As [`wasserstein_distance`][gan_blocks.wasserstein_distance].
        ImportError: Likewise.

    Example:
        >>> import torch
        >>> from gan_blocks import WassersteinLoss, wasserstein_critic
        >>> x, y = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 5.0, 5.0])
        >>> critic = wasserstein_critic(x, y)
        >>> with torch.no_grad():  # the value only
        ...     WassersteinLoss().discriminator(critic(x), critic(y))
        tensor(-3.5000)

    Reference:
        Villani, "Optimal Transport: Old and New", 2009, theorem 5.10 and remark 6.5.
    """
    _checked(x, y)
    x, y = _in_float64(x).detach(), _in_float64(y).detach()
    if x.shape[1] == 1:
        return _critic_on_a_line(x.squeeze(1), y.squeeze(1))
    _, values = _linear_program(x, y)

    def critic(z: Tensor) -> Tensor:
        _check_points(z, x, ("k", x.shape[1]))
        return (values - _distances(z.double(), x)).max(1).values.to(z.dtype)

    return critic


def _critic_on_a_line(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The same in one dimension, at the cost of a sort: a line of slope -1 to the right of each x."""
    # The slope of the best critic is -sign(F_x - F_y).
    points, below = _distribution_functions(x, y)
    values = torch.cat([points.new_zeros(1), (-below.sign() * points.diff()).cumsum(0)])
    x = x.sort().values
    values = values[torch.searchsorted(points, x)]
    none = values.new_full((1,), -torch.inf)
    # The highest line that falls from the left, and that rises to the right, of each gap.
    falling = torch.cat([none, (values + x).cummax(0).values])
    rising = torch.cat([(values - x).flip(0).cummax(0).values.flip(0), none])

    def critic(z: Tensor) -> Tensor:
        _check_points(z, x, ("k",) if isinstance(z, Tensor) and z.dim() == 1 else ("k", 1))
        at = z.double().reshape(-1)
        gap = torch.searchsorted(x, at.detach().contiguous(), right=True)
        return torch.maximum(falling[gap] - at, rising[gap] + at).to(z.dtype)

    return critic


def _check_points(z: Tensor, x: Tensor, shape: Dimensions) -> None:
    check_tensor("z", z, shape)
    if z.device != x.device:
        raise ValueError(
            f"z should be on {x.device}, as the points of the critic are, got {z.device}"
        )


def _checked(x: Tensor, y: Tensor) -> Tensor:
    """x, if both sets are points that can be compared."""
    for name, points in (("x", x), ("y", y)):
        check_tensor(name, points)
        if points.is_meta:
            raise ValueError(f"{name} should have values, got a tensor on the meta device")
    alike = x.dim() == y.dim() and x.shape[1:] == y.shape[1:]
    if x.dim() not in (1, 2) or not alike or not x.numel() or not y.numel():
        raise ValueError(
            f"x {tuple(x.shape)} and y {tuple(y.shape)} should be points of shape (n,) or (n, d), of "
            "one dimension and none empty; flatten images with flatten(1)"
        )
    if x.dtype != y.dtype:
        raise ValueError(f"x and y should be of one dtype, got {x.dtype} and {y.dtype}")
    for name, points in (("x", x), ("y", y)):
        if not points.isfinite().all():
            raise ValueError(f"{name} should be finite; a point has a coordinate that is not")
    return x


def _in_float64(x: Tensor) -> Tensor:
    """As `(n, d)`; "exact" is meant in float64, whatever the points are kept in."""
    return x.double() if x.dim() == 2 else x.double()[:, None]


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # By differences: by products the distance of near points far from 0 would cancel.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _distribution_functions(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """All points in order, and F_x - F_y between each and the next."""
    points = torch.cat([x, y]).sort().values
    at = points[:-1].detach()
    counts = [
        torch.searchsorted(z.detach().sort().values, at, right=True).to(x.dtype) / len(z)
        for z in (x, y)
    ]
    return points, counts[0] - counts[1]


def _linear_program(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The best coupling, and the best critic's values at x."""
    try:
        import numpy as np
        from scipy.optimize import linprog
        from scipy.sparse import eye_array, kron, vstack
    except ImportError:
        raise ImportError(
            "in more than one dimension this needs SciPy: pip install scipy"
        ) from None
    n, m = len(x), len(y)
    if n * m > LARGEST:
        raise ValueError(
            f"{n} times {m} points are more than {LARGEST:,} pairs; take a random subset of each"
        )
    distances = _distances(x.detach(), y.detach())
    # The solver's tolerances are absolute: the unit of the points must not matter.
    unit = distances.max().clamp(min=torch.finfo(torch.float64).tiny)
    cost = (distances / unit).cpu().numpy()
    rows, columns = np.ones((1, m)), np.ones((1, n))
    marginals = vstack([kron(eye_array(n), rows), kron(columns, eye_array(m))]).tocsr()
    sides = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    result = linprog(cost.ravel(), A_eq=marginals, b_eq=sides, bounds=(0, None), method="highs")
    if result.status != 0:
        raise RuntimeError(f"the linear program found no solution: {result.message}")
    plan = x.new_tensor(result.x.reshape(n, m))
    return plan, unit * x.new_tensor(result.eqlin.marginals[:n])
