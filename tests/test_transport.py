"""Exact Wasserstein-1 distances and the critics that reach them."""
# Wrong arguments are given on purpose, and tables of arguments are unpacked.
# pyright: reportArgumentType=false, reportCallIssue=false

import builtins
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_blocks import WassersteinLoss, wasserstein_critic, wasserstein_distance

F64 = torch.float64


def points(n: int, d: int | None = None, seed: int = 0) -> torch.Tensor:
    shape = (n,) if d is None else (n, d)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@given(st.integers(1, 8), st.integers(0, 100))
def test_equal_samples_on_a_line_are_matched_in_order(n, seed):
    x, y = points(n, seed=seed), points(n, seed=seed + 1000)
    expected = (x.sort().values - y.sort().values).abs().mean()
    torch.testing.assert_close(wasserstein_distance(x, y), expected)


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(0, 100))
def test_equal_samples_in_space_have_the_best_matching_of_all(n, seed):
    x, y = points(n, 3, seed=seed), points(n, 3, seed=seed + 1000)
    distances = torch.cdist(x, y)
    orders = itertools.permutations(range(n))
    best = min(float(distances[torch.arange(n), list(order)].mean()) for order in orders)
    assert float(wasserstein_distance(x, y)) == pytest.approx(best, rel=1e-9, abs=1e-12)


@settings(max_examples=20)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 100))
def test_sort_and_linear_program_agree_on_a_line_in_space(n, m, seed):
    x, y = points(n, seed=seed), points(m, seed=seed + 1000)
    direction = torch.tensor([0.6, 0.8], dtype=F64)
    on_line = wasserstein_distance(x[:, None] * direction, y[:, None] * direction)
    torch.testing.assert_close(wasserstein_distance(x, y), on_line, rtol=1e-9, atol=1e-12)


@settings(max_examples=20)
@given(st.integers(1, 7), st.integers(1, 7), st.sampled_from([None, 1, 2, 5]), st.integers(0, 50))
def test_the_critic_reaches_the_distance_with_slope_one(n, m, d, seed):
    x, y = points(n, d, seed=seed), points(m, d, seed=seed + 1000)
    critic = wasserstein_critic(x, y)
    gap = -WassersteinLoss().discriminator(critic(x), critic(y))
    torch.testing.assert_close(gap, wasserstein_distance(x, y), rtol=1e-8, atol=1e-10)
    a, b = points(50, d, seed=1) * 3, points(50, d, seed=2) * 3
    distance = (a - b).abs() if d is None else (a - b).norm(dim=1)
    assert ((critic(a) - critic(b)).abs() <= distance + 1e-9).all()


@given(st.integers(1, 6), st.integers(1, 6), st.floats(-3, 3), st.floats(0.1, 4))
def test_distance_is_zero_on_a_permutation_and_moves_with_its_points(n, m, shift, scale):
    x, y = points(n), points(m, seed=1)
    assert float(wasserstein_distance(x, x.flip(0))) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(wasserstein_distance(x, y), wasserstein_distance(y, x))
    moved = wasserstein_distance(scale * x + shift, scale * y + shift)
    torch.testing.assert_close(moved, scale * wasserstein_distance(x, y))
    # A shift of one point set alone: at least the distance of the means.
    assert wasserstein_distance(x, x + shift) == pytest.approx(abs(shift), abs=1e-12)


@pytest.mark.parametrize("d", [None, 2])
def test_distance_is_differentiable_by_both_sets(d):
    x, y = points(4, d).requires_grad_(), points(3, d, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(wasserstein_distance, (x, y))


def test_gradient_of_the_critic_leads_from_generated_points_to_real_ones():
    x, y = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]], requires_grad=True)
    loss = WassersteinLoss().generator(wasserstein_critic(x, y)(y))
    (gradient,) = torch.autograd.grad(loss, y)
    torch.testing.assert_close(gradient, torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize("function", [wasserstein_distance, wasserstein_critic])
@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        (points(3), points(3, 1), r"x \(3,\) and y \(3, 1\) should be points"),
        (points(3, 2), points(3, 1), "of one dimension"),
        (points(0), points(3), "none empty"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), r"flatten images with flatten\(1\)"),
        (points(3), points(3).float(), "of one dtype"),
        (torch.arange(3), torch.arange(3), "x should be floating point"),
        (torch.tensor([0.0, torch.nan]), torch.zeros(2), "should be finite"),
        (torch.zeros(1000, 2), torch.zeros(251, 2), "more than 250,000 pairs"),
    ],
)
def test_points_that_do_not_fit_are_refused(function, x, y, text):
    with pytest.raises((TypeError, ValueError), match=text):
        function(x, y)


def test_distributions_are_not_samples():
    with pytest.raises(TypeError, match="x should be a tensor, got Normal"):
        wasserstein_distance(torch.distributions.Normal(0.0, 1.0), torch.zeros(2))


def test_critic_refuses_points_of_another_dimension():
    for d, other in ((2, points(2, 3)), (2, points(2)), (None, points(2, 2)), (1, points(2, 2))):
        with pytest.raises(ValueError, match=r"z should have shape .* got \(2"):
            wasserstein_critic(points(2, d), points(2, d))(other)


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1e6, 1e25])
def test_unit_and_place_of_the_points_do_not_matter(unit):
    x, y = points(12, 3), points(9, 3, seed=1)
    expected = wasserstein_distance(x, y)
    scaled = wasserstein_distance(x * unit, y * unit)
    torch.testing.assert_close(scaled / unit, expected, rtol=1e-9, atol=0)
    critic = wasserstein_critic(x * unit, y * unit)
    gap = (critic(x * unit).mean() - critic(y * unit).mean()) / unit
    torch.testing.assert_close(gap, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("d", [None, 1, 2])
def test_low_precision_points_have_the_distance_that_they_have_in_float64(d, dtype):
    x, y = (100 + points(40, d)).to(dtype), (100 + points(35, d, seed=1)).to(dtype)
    found, exact = wasserstein_distance(x, y), wasserstein_distance(x.double(), y.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)
    assert wasserstein_distance(x, x.clone()) == 0
    assert wasserstein_critic(x, y)(y).dtype == dtype


def test_many_points_on_a_line():
    x, y = points(100_000).half(), points(70_000, seed=1).half() + 1
    assert wasserstein_distance(x, y).item() == pytest.approx(1, abs=0.02)
    critic = wasserstein_critic(x.double(), y.double())
    gap = critic(x.double()).mean() - critic(y.double()).mean()
    torch.testing.assert_close(gap.float(), wasserstein_distance(x, y), rtol=1e-5, atol=0)


def test_without_scipy_one_dimension_works_and_more_say_what_to_install(monkeypatch):
    original = builtins.__import__

    def without_scipy(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    assert wasserstein_distance(torch.zeros(2), torch.ones(2)) == 1
    with pytest.raises(ImportError, match="pip install scipy"):
        wasserstein_distance(torch.zeros(2, 2), torch.ones(2, 2))
