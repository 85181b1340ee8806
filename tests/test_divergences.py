"""What convex analysis says of the f-divergences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gan_blocks

F64 = torch.float64
NAMES = ["KL", "ReverseKL", "PearsonChi2", "SquaredHellinger", "JensenShannon", "GANDivergence"]
ALL = [gan_blocks.build({"block": name}) for name in NAMES]
every = pytest.mark.parametrize("divergence", ALL, ids=str)
ratios = st.floats(1e-3, 1e3)
values = st.floats(-6, 6)


def tensor(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=F64)


@st.composite
def distributions(draw, outcomes: int = 5, smallest: float = 0.01):
    raw = st.lists(st.floats(smallest, 1), min_size=outcomes, max_size=outcomes)
    x, y = torch.tensor(draw(raw), dtype=F64), torch.tensor(draw(raw), dtype=F64)
    return x / x.sum(), y / y.sum()


@every
@given(ratios, values)
def test_fenchel_young(divergence, u, v):
    t = divergence.activation(tensor(v))
    assert u * t <= divergence.f(tensor(u)) + divergence.conjugate(t) + 1e-9 * (1 + abs(u * t))


@every
@given(ratios)
def test_fenchel_young_is_tight_at_the_derivative(divergence, u):
    u = tensor(u)
    t = divergence.derivative(u)
    gap = divergence.f(u) + divergence.conjugate(t) - u * t
    assert gap.abs() <= 1e-8 * (1 + (u * t).abs() + divergence.f(u).abs())


@every
@given(values)
def test_conjugate_is_the_brute_force_supremum(divergence, v):
    t = divergence.activation(tensor(v))
    u = torch.cat([torch.zeros(1, dtype=F64), torch.logspace(-9, 9, 200_001, dtype=F64)])
    brute = (u * t - divergence.f(u)).max()
    torch.testing.assert_close(divergence.conjugate(t), brute, rtol=1e-6, atol=1e-6)


@every
@given(st.floats(-20, 20))
def test_stable_composition_is_the_conjugate_of_the_activation(divergence, v):
    v = tensor(v)
    exact = divergence.conjugate(divergence.activation(v))
    torch.testing.assert_close(divergence.conjugate_of_activation(v), exact, rtol=1e-6, atol=1e-6)


@every
def test_derivative_is_the_derivative_and_its_inverse_is_the_conjugates(divergence):
    u = torch.logspace(-3, 3, 61, dtype=F64).requires_grad_()
    (slope,) = torch.autograd.grad(divergence.f(u).sum(), u)
    torch.testing.assert_close(slope, divergence.derivative(u), rtol=1e-7, atol=1e-9)
    t = divergence.derivative(u).detach().requires_grad_()
    (back,) = torch.autograd.grad(divergence.conjugate(t).sum(), t)
    torch.testing.assert_close(back, u, rtol=1e-6, atol=1e-8)


@every
def test_threshold_is_the_derivative_at_one_and_the_slope_is_the_limit(divergence):
    assert float(divergence.derivative(tensor(1.0))) == pytest.approx(divergence.threshold)
    at = divergence.f(tensor(1e14)) / 1e14
    if math.isinf(divergence.slope_at_infinity):
        assert at > 30
    else:
        assert float(at) == pytest.approx(divergence.slope_at_infinity, abs=1e-6)


@every
def test_float32_agrees_with_float64_at_ratios_from_1e_minus_12_to_1e12(divergence):
    u = torch.logspace(-12, 12, 97, dtype=F64)
    for function in (divergence.f, divergence.derivative):
        # Beyond the largest number of float32 it is infinity of the right sign.
        expected = function(u).float()
        torch.testing.assert_close(function(u.float()), expected, rtol=1e-5, atol=1e-6)


@every
def test_f_is_convex_and_zero_at_one(divergence):
    u = torch.linspace(0.01, 20, 2001, dtype=F64)
    f = divergence.f(u)
    assert ((f[2:] - 2 * f[1:-1] + f[:-2]) >= -1e-12).all()
    at_one = -math.log(4) if isinstance(divergence, gan_blocks.GANDivergence) else 0.0
    assert float(divergence.f(tensor(1.0))) == pytest.approx(at_one, abs=1e-15)


@every
def test_activation_increases_and_stays_in_the_domain(divergence):
    v = torch.linspace(-30, 30, 601, dtype=F64)
    t = divergence.activation(v)
    assert (t.diff() >= 0).all()
    assert divergence.conjugate(t[v < 15]).isfinite().all()


@every
def test_conjugate_is_infinite_outside_its_domain_with_a_gradient_that_is_not_nan(divergence):
    edge = {"ReverseKL": 0.0, "SquaredHellinger": 1.0, "JensenShannon": math.log(2)}
    edge |= {"GANDivergence": 0.0}
    t = torch.tensor([1.5, 20.0], dtype=F64, requires_grad=True)
    value = divergence.conjugate(t)
    if type(divergence).__name__ in edge:
        assert (value == math.inf).all()
    (gradient,) = torch.autograd.grad(value.sum(), t)
    assert not gradient.isnan().any()


@every
def test_conjugate_at_minus_infinity_is_minus_f_at_zero(divergence):
    expected = -divergence.f(tensor(0.0))
    torch.testing.assert_close(divergence.conjugate(tensor(-math.inf)), expected)


@every
@given(distributions())
def test_divergence_is_least_where_the_distributions_agree(divergence, pair):
    p, q = pair
    least = divergence.between(p, p)
    at_one = -math.log(4) if isinstance(divergence, gan_blocks.GANDivergence) else 0.0
    assert float(least) == pytest.approx(at_one, abs=1e-12)
    assert divergence.between(p, q) >= least - 1e-12


@every
@given(distributions(), st.lists(st.floats(0.01, 1), min_size=15, max_size=15))
def test_a_random_channel_never_adds_information(divergence, pair, weights):
    kernel = torch.tensor(weights, dtype=F64).reshape(5, 3)
    kernel = kernel / kernel.sum(1, keepdim=True)
    p, q = pair
    assert divergence.between(p @ kernel, q @ kernel) <= divergence.between(p, q) + 1e-10


@given(distributions())
def test_relations_between_divergences(pair):
    p, q = pair
    kl, reverse, chi2, hellinger, js, gan = (d.between(p, q) for d in ALL)
    tv = (p - q).abs().sum() / 2
    torch.testing.assert_close(reverse, gan_blocks.KL().between(q, p))
    torch.testing.assert_close(hellinger, gan_blocks.SquaredHellinger().between(q, p))
    torch.testing.assert_close(js, gan_blocks.JensenShannon().between(q, p))
    torch.testing.assert_close(gan, js - math.log(4))
    m = (p + q) / 2
    torch.testing.assert_close(js, gan_blocks.KL().between(p, m) + gan_blocks.KL().between(q, m))
    slack = 1e-12
    assert js / 2 <= math.log(2) + slack
    assert tv**2 <= kl / 2 + slack
    assert hellinger / 2 <= tv + slack
    assert tv**2 <= hellinger * (1 - hellinger / 4) + slack
    assert kl <= torch.log1p(chi2) + slack
    assert tv**2 / 2 <= js / 2 + slack
    assert js / 2 <= math.log(2) * tv + slack


def test_values_on_disjoint_supports():
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    found = {name: float(d.between(p, q)) for name, d in zip(NAMES, ALL, strict=True)}
    assert found == {
        "KL": math.inf,
        "ReverseKL": math.inf,
        "PearsonChi2": math.inf,
        "SquaredHellinger": 2.0,
        "JensenShannon": pytest.approx(2 * math.log(2)),
        "GANDivergence": 0.0,
    }


@every
def test_outcomes_that_neither_has_do_not_count(divergence):
    p, q = torch.tensor([0.5, 0.5, 0.0], dtype=F64), torch.tensor([0.2, 0.8, 0.0], dtype=F64)
    torch.testing.assert_close(divergence.between(p, q), divergence.between(p[:2], q[:2]))
    p.requires_grad_()
    (gradient,) = torch.autograd.grad(divergence.between(p, q), p)
    assert not gradient.isnan().any()


def test_between_gaussians_by_quadrature_equals_the_closed_forms():
    x = torch.linspace(-15, 15, 200_001, dtype=F64)
    dx = float(x[1] - x[0])
    (m1, s1), (m2, s2) = (0.3, 1.1), (-0.4, 1.3)

    def density(m, s):
        return torch.exp(-(((x - m) / s) ** 2) / 2) / (s * math.sqrt(2 * math.pi))

    p, q = density(m1, s1), density(m2, s2)

    def integral(divergence):
        return float((q * divergence.f(p / q)).sum() * dx)

    kl = math.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5
    assert integral(gan_blocks.KL()) == pytest.approx(kl, rel=1e-6)
    kl = math.log(s1 / s2) + (s2**2 + (m1 - m2) ** 2) / (2 * s1**2) - 0.5
    assert integral(gan_blocks.ReverseKL()) == pytest.approx(kl, rel=1e-6)
    s = s1**2 + s2**2
    affinity = math.sqrt(2 * s1 * s2 / s) * math.exp(-((m1 - m2) ** 2) / (4 * s))
    assert integral(gan_blocks.SquaredHellinger()) == pytest.approx(2 - 2 * affinity, rel=1e-6)


@every
@pytest.mark.parametrize(
    ("p", "text"),
    [
        ([0.5, 0.6], "is no distribution"),
        ([1.5, -0.5], "is no distribution"),
        ([float("nan"), 1.0], "is no distribution"),
        ([0.5, 0.25, 0.25], "should be of one shape"),
    ],
)
def test_what_is_no_distribution_is_refused(divergence, p, text):
    with pytest.raises(ValueError, match=text):
        divergence.between(torch.tensor(p), torch.tensor([0.5, 0.5]))
    with pytest.raises(TypeError, match="floating point"):
        divergence.between(torch.tensor([1, 0]), torch.tensor([1, 0]))
