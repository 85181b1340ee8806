"""The distances between sets of features, against closed forms and slow references."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import linalg


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_frechet_distance_of_a_set_with_itself_is_zero(examples):
    x = torch.randn(200, 64, generator=generator()) @ torch.randn(64, 64, generator=generator(1))
    assert examples.distances.frechet_distance(x, x) == pytest.approx(0, abs=1e-8)


def test_frechet_distance_of_a_shift_is_its_squared_length(examples):
    x = torch.randn(200, 3, generator=generator(), dtype=torch.float64)
    shift = torch.tensor([1.0, -2.0, 2.0])
    assert examples.distances.frechet_distance(x, x + shift) == pytest.approx(9)


def test_frechet_distance_of_a_stretch_is_the_squared_difference_of_deviations(examples):
    # In one dimension: (sigma_x - sigma_y)^2.
    x = torch.randn(500, 1, generator=generator(), dtype=torch.float64)
    x = (x - x.mean()) / x.std()
    assert examples.distances.frechet_distance(2 * x, 5 * x) == pytest.approx(9)


def test_frechet_distance_equals_the_matrix_square_root_of_scipy(examples):
    x = torch.randn(300, 5, generator=generator(), dtype=torch.float64) * torch.arange(1.0, 6)
    y = x @ torch.randn(5, 5, generator=generator(1), dtype=torch.float64) + 1
    a, b = np.cov(x.numpy().T), np.cov(y.numpy().T)
    root = np.real(np.asarray(linalg.sqrtm(a @ b)))
    gap = (x.mean(0) - y.mean(0)).square().sum().item()
    expected = gap + np.trace(a + b - 2 * root)
    assert examples.distances.frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_gaussians_is_the_closed_form(examples):
    # With commuting covariances the roots are taken axis by axis.
    mean, a, b = (
        torch.tensor([[1.0, 0.0, -2.0]]),
        torch.tensor([1.0, 2, 3]),
        torch.tensor([3.0, 2, 1]),
    )
    x, y = (torch.randn(400_000, 3, generator=generator(seed)).double() for seed in (0, 1))
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator(2)).double())
    found = examples.distances.frechet_distance(x * a @ rotation, (y * b + mean) @ rotation)
    assert found == pytest.approx(5 + 4 + 0 + 4, rel=0.01)


def literal_kernel_distance(x, y):
    """A loop over the formula."""

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    within = [
        sum(kernel(a, b) for a, b in itertools.permutations(part, 2)) / len(part) / (len(part) - 1)
        for part in (x, y)
    ]
    return sum(within) - 2 * sum(kernel(a, b) for a in x for b in y) / len(x) / len(y)


def literal_jackknife(x, y):
    """The standard error: the distance once more without each of the samples."""
    without_x = [literal_kernel_distance(x[:i] + x[i + 1 :], y) for i in range(len(x))]
    without_y = [literal_kernel_distance(x, y[:i] + y[i + 1 :]) for i in range(len(y))]
    variance = 0
    for values in (without_x, without_y):
        mean = sum(values) / len(values)
        variance += (len(values) - 1) / len(values) * sum((v - mean) ** 2 for v in values)
    return math.sqrt(variance)


@pytest.mark.parametrize(("m", "n", "d"), [(3, 3, 1), (7, 4, 3), (5, 9, 2)])
def test_kernel_distance_and_its_error_equal_the_loops(examples, m, n, d):
    x = torch.randn(m, d, generator=generator())
    y = torch.randn(n, d, generator=generator(1)) * 2 + 1
    value, error = examples.distances.kernel_distance(x, y)
    x, y = x.double().tolist(), y.double().tolist()
    assert value == pytest.approx(literal_kernel_distance(x, y), rel=1e-9)
    assert error == pytest.approx(literal_jackknife(x, y), rel=1e-9)


def test_kernel_distance_of_point_masses_is_the_polynomial(examples):
    # k(a, a) + k(b, b) - 2 k(a, b), with no error.
    value, error = examples.distances.kernel_distance(torch.ones(5, 1), 3 * torch.ones(4, 1))
    assert value == pytest.approx(2**3 + 10**3 - 2 * 4**3)
    assert error == pytest.approx(0, abs=1e-5)


def test_kernel_distance_is_that_of_the_moments(examples):
    # In one dimension (xy + 1)^3 compares means, squares and cubes, weighted 3, 3 and 1. From
    # N(0, 1) to N(1, 1) these go from 0, 1, 0 to 1, 2, 4.
    x, y = (torch.randn(4_000, 1, generator=generator(seed)) for seed in (0, 1))
    value, error = examples.distances.kernel_distance(x, y + 1)
    assert value == pytest.approx(3 * 1 + 3 * 1 + 16, abs=4 * error)
    assert error < 1.6


def test_kernel_distance_between_equal_distributions_has_mean_zero_and_the_frechet_distance_has_not(
    examples,
):
    found, frechet = [], []
    for seed in range(200):
        x, y = torch.randn(70, 8, generator=generator(seed)).split([30, 40])
        found.append(examples.distances.kernel_distance(x, y))
        frechet.append(examples.distances.frechet_distance(x, y))
    values, errors = torch.tensor(found).unbind(1)
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(200)
    assert (values < 0).any()
    assert min(frechet) > 0.5
    # The jackknife is up to sqrt 2 too large here, and never much too small.
    assert 0.9 < errors.mean() / values.std() < 1.6


def test_error_of_the_kernel_distance_is_its_spread_where_the_distributions_differ(examples):
    found = []
    for seed in range(200):
        x, y = torch.randn(100, 8, generator=generator(seed)).split(50)
        found.append(examples.distances.kernel_distance(x, y + 1))
    values, errors = torch.tensor(found).unbind(1)
    assert errors.mean() / values.std() == pytest.approx(1, abs=0.15)


def test_kernel_distance_of_two_samples_is_refused(examples):
    with pytest.raises(ValueError, match="needs 3 samples of each set, got 2 and 5"):
        examples.distances.kernel_distance(torch.zeros(2, 1), torch.zeros(5, 1))
