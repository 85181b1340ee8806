"""What convex analysis says of the f-divergences."""
# Wrong arguments are given on purpose, and tables of arguments are unpacked.
# pyright: reportArgumentType=false, reportCallIssue=false

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal

import gan_blocks
from gan_blocks import (
    KL,
    AlphaDivergence,
    FDivergence,
    GANDivergence,
    Jeffrey,
    JensenShannon,
    NeymanChi2,
    PearsonChi2,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
    WeightedJensenShannon,
    block,
)
from gan_blocks.spec import recorded_arguments
from gan_blocks.types import PositiveFloat

F64 = torch.float64
ALPHAS = [AlphaDivergence(a) for a in (-1.5, 0.3, 0.7, 1.7, 3.0)]
WEIGHTED = [WeightedJensenShannon(pi) for pi in (0.3, 0.9)]
SMOOTH = [KL(), ReverseKL(), Jeffrey(), PearsonChi2(), NeymanChi2(), SquaredHellinger()]
SMOOTH += [JensenShannon(), GANDivergence(), *WEIGHTED, *ALPHAS]
ALL = [*SMOOTH, TotalVariation()]
every = pytest.mark.parametrize("divergence", ALL, ids=str)
every_smooth = pytest.mark.parametrize("divergence", SMOOTH, ids=str)
ratios = st.floats(1e-3, 1e3)
values = st.floats(-6, 6)


def tensor(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=F64)


@st.composite
def distributions(draw, outcomes: int = 5, smallest: float = 0.01):
    raw = st.lists(st.floats(smallest, 1), min_size=outcomes, max_size=outcomes)
    x, y = torch.tensor(draw(raw), dtype=F64), torch.tensor(draw(raw), dtype=F64)
    return x / x.sum(), y / y.sum()


def at_one(divergence) -> float:
    """f(1): 0, but for the GAN divergence."""
    return -math.log(4) if isinstance(divergence, GANDivergence) else 0.0


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
    u = torch.cat([torch.zeros(1, dtype=F64), torch.logspace(-14, 14, 400_001, dtype=F64)])
    brute = (u * t - divergence.f(u)).max()
    torch.testing.assert_close(divergence.conjugate(t), brute, rtol=1e-6, atol=1e-6)


@every
@given(st.floats(-20, 20))
def test_stable_composition_is_the_conjugate_of_the_activation(divergence, v):
    v = tensor(v)
    exact = divergence.conjugate(divergence.activation(v))
    torch.testing.assert_close(divergence.conjugate_of_activation(v), exact, rtol=1e-6, atol=1e-6)


@every_smooth
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
    at = divergence.f(tensor(1e300)) / 1e300
    if math.isinf(divergence.slope_at_infinity):
        assert at > 600
    else:
        assert float(at) == pytest.approx(divergence.slope_at_infinity, abs=1e-12)


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
    assert ((f[2:] - 2 * f[1:-1] + f[:-2]) >= -1e-12 * (1 + f[1:-1].abs())).all()
    assert float(divergence.f(tensor(1.0))) == pytest.approx(at_one(divergence), abs=1e-15)


@every
def test_activation_increases_and_stays_in_the_domain(divergence):
    v = torch.linspace(-30, 30, 601, dtype=F64)
    t = divergence.activation(v)
    assert (t.diff() >= 0).all()
    assert divergence.conjugate(t[v < 15]).isfinite().all()


@every
def test_domain_of_the_conjugate_ends_at_the_slope_with_a_gradient_that_is_not_nan(divergence):
    end = divergence.slope_at_infinity
    t = torch.tensor([1.5, 20.0] if math.isinf(end) else [end + 0.1, end + 20], dtype=F64)
    value = divergence.conjugate(t.requires_grad_())
    assert (value == math.inf).all() if math.isfinite(end) else value.isfinite().all()
    (gradient,) = torch.autograd.grad(value.sum(), t)
    assert not gradient.isnan().any()
    if math.isfinite(end):
        assert divergence.conjugate(tensor(end - 1e-6)).isfinite()


@pytest.mark.parametrize(
    ("divergence", "value"),
    [(NeymanChi2(), 2.0), (TotalVariation(), 0.5), (AlphaDivergence(-1.0), 1.0)],
    ids=str,
)
def test_conjugate_is_finite_at_the_end_of_a_closed_domain(divergence, value):
    assert float(divergence.conjugate(tensor(divergence.slope_at_infinity))) == value


@every
def test_conjugate_at_minus_infinity_is_minus_f_at_zero(divergence):
    expected = -divergence.f(tensor(0.0))
    torch.testing.assert_close(divergence.conjugate(tensor(-math.inf)), expected)


@every
@given(distributions())
def test_divergence_is_least_where_the_distributions_agree(divergence, pair):
    p, q = pair
    least = divergence.between(p, p)
    assert float(least) == pytest.approx(at_one(divergence), abs=1e-12)
    assert divergence.between(p, q) >= least - 1e-12


@every
@given(distributions(), st.lists(st.floats(0.01, 1), min_size=15, max_size=15))
def test_a_random_channel_never_adds_information(divergence, pair, weights):
    kernel = torch.tensor(weights, dtype=F64).reshape(5, 3)
    kernel = kernel / kernel.sum(1, keepdim=True)
    p, q = pair
    before, after = divergence.between(p, q), divergence.between(p @ kernel, q @ kernel)
    assert after <= before + 1e-10 * (1 + before.abs())


@every
@given(distributions(), distributions(), st.floats(0, 1))
def test_divergence_is_jointly_convex(divergence, first, second, share):
    mixed = [share * a + (1 - share) * b for a, b in zip(first, second, strict=True)]
    chord = share * divergence.between(*first) + (1 - share) * divergence.between(*second)
    assert divergence.between(*mixed) <= chord + 1e-10 * (1 + chord.abs())


@pytest.mark.parametrize(
    ("divergence", "other"),
    [
        (KL(), ReverseKL()),
        (PearsonChi2(), NeymanChi2()),
        (AlphaDivergence(0.3), AlphaDivergence(0.7)),
        (AlphaDivergence(-1.5), AlphaDivergence(2.5)),
        (WeightedJensenShannon(0.2), WeightedJensenShannon(0.8)),
        *((d, d) for d in (Jeffrey(), SquaredHellinger(), JensenShannon(), TotalVariation())),
        (GANDivergence(), GANDivergence()),
    ],
    ids=str,
)
@given(pair=distributions(), u=ratios)
def test_u_times_f_of_one_over_u_swaps_the_two_sides(divergence, other, pair, u):
    p, q = pair
    torch.testing.assert_close(divergence.between(p, q), other.between(q, p))
    u = tensor(u)
    # As functions they may differ by a multiple of u - 1, which no distribution sees.
    gap = u * divergence.f(1 / u) - other.f(u)
    slope = -divergence.threshold + divergence.f(tensor(1.0)) - other.threshold
    torch.testing.assert_close(gap, slope * (u - 1), rtol=1e-9, atol=1e-9 * float(1 + u + 1 / u**2))


@given(distributions())
def test_relations_between_divergences(pair):
    p, q = pair

    def d(divergence):
        return divergence.between(p, q)

    kl, chi2, hellinger, js = map(d, (KL(), PearsonChi2(), SquaredHellinger(), JensenShannon()))
    tv = d(TotalVariation())
    torch.testing.assert_close(tv, (p - q).abs().sum() / 2)
    torch.testing.assert_close(d(GANDivergence()), js - math.log(4))
    torch.testing.assert_close(d(Jeffrey()), kl + d(ReverseKL()))
    m = (p + q) / 2
    torch.testing.assert_close(js, KL().between(p, m) + KL().between(q, m))
    m = 0.3 * p + 0.7 * q
    weighted = 0.3 * KL().between(p, m) + 0.7 * KL().between(q, m)
    torch.testing.assert_close(d(WeightedJensenShannon(0.3)), weighted)
    torch.testing.assert_close(d(WeightedJensenShannon(0.5)), js / 2)
    torch.testing.assert_close(d(AlphaDivergence(0.5)), 2 * hellinger)
    torch.testing.assert_close(d(AlphaDivergence(2)), chi2 / 2)
    torch.testing.assert_close(d(AlphaDivergence(-1)), d(NeymanChi2()) / 2)
    slack = 1e-12
    assert js / 2 <= math.log(2) + slack
    assert tv**2 <= kl / 2 + slack
    assert hellinger / 2 <= tv + slack
    assert tv**2 <= hellinger * (1 - hellinger / 4) + slack
    assert kl <= torch.log1p(chi2) + slack
    assert tv**2 / 2 <= js / 2 + slack
    assert js / 2 <= math.log(2) * tv + slack


@given(distributions())
def test_limits_of_the_two_families(pair):
    p, q = pair
    kl, reverse = KL().between(p, q), ReverseKL().between(p, q)
    close = {"rtol": 1e-5, "atol": 1e-7}
    for step in (-1e-7, 1e-7):
        torch.testing.assert_close(AlphaDivergence(1 + step).between(p, q), kl, **close)
        torch.testing.assert_close(AlphaDivergence(step).between(p, q), reverse, **close)
    torch.testing.assert_close(WeightedJensenShannon(1e-7).between(p, q) / 1e-7, kl, **close)
    torch.testing.assert_close(
        WeightedJensenShannon(1 - 1e-7).between(p, q) / 1e-7, reverse, **close
    )


def test_values_on_disjoint_supports():
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    entropy = {pi: -pi * math.log(pi) - (1 - pi) * math.log(1 - pi) for pi in (0.3, 0.9)}
    expected = {SquaredHellinger: 2.0, JensenShannon: 2 * math.log(2), GANDivergence: 0.0}
    expected |= {TotalVariation: 1.0}
    for divergence in ALL:
        value = expected.get(type(divergence), math.inf)
        if isinstance(divergence, WeightedJensenShannon):
            value = entropy[divergence.pi]
        if isinstance(divergence, AlphaDivergence) and 0 < divergence.alpha < 1:
            value = 1 / (divergence.alpha * (1 - divergence.alpha))
        assert float(divergence.between(p, q)) == pytest.approx(value), divergence


@every
def test_outcomes_that_neither_has_do_not_count(divergence):
    p, q = torch.tensor([0.5, 0.5, 0.0], dtype=F64), torch.tensor([0.2, 0.8, 0.0], dtype=F64)
    torch.testing.assert_close(divergence.between(p, q), divergence.between(p[:2], q[:2]))
    p.requires_grad_()
    (gradient,) = torch.autograd.grad(divergence.between(p, q), p)
    assert not gradient.isnan().any()


NO_CLOSED_FORM = (JensenShannon, GANDivergence, WeightedJensenShannon)


@every
@pytest.mark.parametrize(
    ("first", "second"),
    [((0.3, 1.1), (-0.4, 1.3)), ((0.3, 1.3), (-0.4, 1.1)), ((1.0, 0.9), (-1.0, 0.9))],
)
def test_closed_form_between_gaussians_is_the_integral(divergence, first, second):
    p, q = (
        Normal(*map(tensor, first)),
        Normal(*map(tensor, second)),
    )
    if isinstance(divergence, NO_CLOSED_FORM):
        with pytest.raises(NotImplementedError, match="no closed form; take both on a fine grid"):
            divergence.between_gaussians(p, q)
        return
    x = torch.linspace(-25, 25, 1_000_001, dtype=F64)
    log_p, log_q = p.log_prob(x), q.log_prob(x)
    integrand = log_q.exp() * divergence.f((log_p - log_q).exp())
    # Where f overflows, q f(p/q) is below anything that counts, but for the divergences that grow.
    integrand = integrand[(log_p.exp() > 1e-290) & (log_q.exp() > 1e-290)]
    integral = integrand.sum() * (x[1] - x[0])
    torch.testing.assert_close(divergence.between_gaussians(p, q), integral, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("step", [-1e-3, -1e-9, 1e-12, 1e-6])
@pytest.mark.parametrize("std", [1.2, 1.001])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_alpha_divergence_of_gaussians_tends_to_its_limits(step, std, dtype):
    p = Normal(torch.tensor(0.0, dtype=dtype), torch.tensor(1.0, dtype=dtype))
    q = Normal(torch.tensor(0.3, dtype=dtype), torch.tensor(std, dtype=dtype))
    rtol = 2 * abs(step) + (1e-3 if dtype == torch.float32 else 1e-6)
    for alpha, limit in ((1 + step, KL()), (step, ReverseKL())):
        found = AlphaDivergence(alpha).between_gaussians(p, q)
        torch.testing.assert_close(found, limit.between_gaussians(p, q), rtol=rtol, atol=0)


def test_divergence_of_gaussians_is_infinite_where_the_integral_is():
    narrow = Normal(tensor(0.0), tensor(1.0))
    wide = Normal(tensor(0.0), tensor(1.5))
    assert PearsonChi2().between_gaussians(wide, narrow) == math.inf
    assert PearsonChi2().between_gaussians(narrow, wide).isfinite()
    assert NeymanChi2().between_gaussians(narrow, wide) == math.inf
    assert AlphaDivergence(3).between_gaussians(wide, narrow) == math.inf


@given(st.floats(-3, 3), st.floats(0.2, 3), st.sampled_from([0.0, 1e-9, -1e-9, 0.5]))
def test_total_variation_of_gaussians_is_smooth_where_the_spreads_agree(mean, std, change):
    p = Normal(tensor(0.0), tensor(std))
    wide = tensor(std + max(change, 0.1 - std)).requires_grad_()
    q = Normal(tensor(mean).requires_grad_(), wide)
    value = TotalVariation().between_gaussians(p, q)
    assert 0 <= value <= 1
    if abs(change) < 1e-6:
        exact = math.erf(abs(mean) / (2 * math.sqrt(2) * std))
        assert value.item() == pytest.approx(exact, abs=1e-6)
    for gradient in torch.autograd.grad(value, [q.loc, wide]):
        assert gradient.isfinite()


@every
@pytest.mark.parametrize(
    ("p", "text"),
    [
        ([0.5, 0.6], r"is no distribution: .* take log_density.softmax"),
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


# --- the optimal critic ---------------------------------------------------------------------------


@every_smooth
@given(st.floats(-8, 8))
def test_activation_of_the_optimal_critic_is_the_derivative_at_the_ratio(divergence, log_ratio):
    ratio = tensor(log_ratio)
    t = divergence.activation(divergence.optimal_critic(ratio))
    torch.testing.assert_close(t, divergence.derivative(ratio.exp()), rtol=1e-9, atol=1e-9)


@every
def test_optimal_critic_at_infinite_ratios_is_infinite_or_the_end_of_its_range(divergence):
    v = divergence.optimal_critic(torch.tensor([-math.inf, 0.0, math.inf], dtype=F64))
    assert not v.isnan().any()
    assert v[0] < v[1] < v[2]
    t = divergence.activation(v)
    torch.testing.assert_close(t[2], tensor(divergence.slope_at_infinity))
    torch.testing.assert_close(divergence.conjugate(t[0]), -divergence.f(tensor(0.0)))


@pytest.mark.parametrize(
    ("divergence", "log_ratio", "expected"),
    [
        (WeightedJensenShannon(0.3), 110.0, 110 + math.log(1 / 0.7)),
        (WeightedJensenShannon(0.3), 200.0, 200 + math.log(1 / 0.7)),
        (AlphaDivergence(0.5), 220.0, 110 + math.log(0.5)),
        (AlphaDivergence(-2.0), 40.0, 120 + math.log(3)),
        (AlphaDivergence(0.5), -20.0, -2 * math.exp(10)),
    ],
)
def test_optimal_critic_at_ratios_beyond_float32(divergence, log_ratio, expected):
    found = divergence.optimal_critic(torch.tensor(log_ratio))
    assert found.item() == pytest.approx(expected, rel=1e-5)


# --- ends of the range ------------------------------------------------------------------------------


def test_weighted_divergence_keeps_its_digits_for_weights_near_zero_and_one():
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    for pi in (1e-12, 1e-3, 1 - 1e-3, 1 - 1e-12):
        divergence = WeightedJensenShannon(pi)
        # of p = (1, 0) and q = (1/2, 1/2), with m = ((1 + pi)/2, (1 - pi)/2)
        first = -pi * math.log1p((pi - 1) / 2)
        second = -(1 - pi) / 2 * (math.log1p(pi) + math.log(1 - pi))
        exact = first + second
        assert divergence.between(p, q).item() == pytest.approx(exact, rel=1e-3)
        for dtype in (torch.bfloat16, torch.float16):
            assert divergence.between(p.to(dtype), q.to(dtype)).item() == pytest.approx(
                exact, rel=1e-3
            )
    u, pi = tensor(1e-6), 1 - 1e-12
    slope = pi * (math.log(1e-6) - math.log((1 - pi) + pi * 1e-6))
    assert WeightedJensenShannon(pi).derivative(u).item() == pytest.approx(slope, rel=1e-9)


@pytest.mark.parametrize("alpha", [-60.0, 60.0, 1e-9, 1 - 1e-9])
def test_every_alpha_is_allowed(alpha):
    p, q = torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([0.4, 0.6], dtype=F64)
    divergence = AlphaDivergence(alpha)
    power = (p**alpha * q ** (1 - alpha)).sum()
    exact = (power - 1) / (alpha * (alpha - 1)) if abs(alpha) > 1 else None
    limit = KL().between(p, q) if alpha > 0.5 else ReverseKL().between(p, q)
    torch.testing.assert_close(divergence.between(p, q), exact if abs(alpha) > 1 else limit)


@pytest.mark.parametrize("v", [20.0, 29.0, 31.0, 44.0, 48.0, 60.0])
def test_float32_gradient_of_the_alpha_composition_is_finite_where_it_is(v):
    v = torch.tensor(v, requires_grad=True)
    value = AlphaDivergence(0.5).conjugate_of_activation(v)
    (first,) = torch.autograd.grad(value, v, create_graph=True)
    (second,) = torch.autograd.grad(first, v)
    # e^v / (1/4) and a constant, but for what float32 does not show
    for derivative in (value, first, second):
        torch.testing.assert_close(derivative, 4 * v.exp(), rtol=1e-4, atol=0)


def test_conjugate_of_jeffrey_at_infinity_and_at_nan():
    t = torch.tensor([-math.inf, math.inf, math.nan])
    found = Jeffrey().conjugate(t)
    assert found[:2].tolist() == [-math.inf, math.inf]
    assert found[2].isnan()
    assert FromF(JensenShannon()).conjugate(t)[2].isnan()


@every
def test_zeros_in_the_distributions_leave_the_gradient_without_nan(divergence):
    p = torch.tensor([1.0, 0.0, 0.0], requires_grad=True)
    q = torch.tensor([0.5, 0.5, 0.0], requires_grad=True)
    for one, other in ((p, q), (q, p)):
        for gradient in torch.autograd.grad(divergence.between(one, other), (p, q)):
            assert not gradient.isnan().any()


def test_a_sum_is_checked_in_full_precision():
    for sums, n, dtype in (
        (5, 1000, torch.float16),
        (2, 32, torch.bfloat16),
        (1.9, 10**6, torch.float32),
    ):
        p = torch.full((n,), sums / n, dtype=dtype)
        with pytest.raises(ValueError, match="p is no distribution"):
            KL().between(p, torch.full((n,), 1 / n, dtype=dtype))
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        p, q = torch.randn(2, 500).softmax(1).to(dtype)
        assert KL().between(p, q) > 0


# --- a divergence from f alone -----------------------------------------------------------------------


class FromF(FDivergence):
    """All but f is computed."""

    def __init__(self, closed):
        self.closed = closed

    def f(self, u):
        return self.closed.f(u)


every_computed = pytest.mark.parametrize(
    "closed", [d for d in SMOOTH if not isinstance(d, GANDivergence)], ids=str
)


@every_computed
def test_what_is_computed_from_f_agrees_with_the_closed_forms(closed):
    computed = FromF(closed)
    assert computed.threshold == pytest.approx(closed.threshold, abs=1e-12)
    assert computed.slope_at_infinity == pytest.approx(closed.slope_at_infinity, abs=1e-9)
    u = torch.logspace(-3, 3, 25, dtype=F64)
    torch.testing.assert_close(computed.derivative(u), closed.derivative(u), rtol=1e-8, atol=1e-10)
    t = closed.derivative(u)
    torch.testing.assert_close(computed.conjugate(t), closed.conjugate(t), rtol=1e-7, atol=1e-9)
    v = torch.linspace(-6, 6, 13, dtype=F64)
    torch.testing.assert_close(computed.optimal_critic(v), v)
    torch.testing.assert_close(computed.activation(v), closed.derivative(v.exp()))
    stable = computed.conjugate_of_activation(v)
    torch.testing.assert_close(
        stable, closed.conjugate(closed.derivative(v.exp())), rtol=1e-7, atol=1e-9
    )


@every_computed
def test_what_is_computed_from_f_is_differentiable_twice(closed):
    computed = FromF(closed)
    v = torch.linspace(-2, 2, 5, dtype=F64, requires_grad=True)
    t = computed.activation(v).detach().requires_grad_()
    for function, x in (
        (computed.conjugate, t),
        (computed.activation, v),
        (computed.conjugate_of_activation, v),
        (computed.derivative, v.exp().detach().requires_grad_()),
    ):
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)


@every_computed
def test_critic_values_of_ten_thousand_keep_their_gradient_from_f_alone(closed):
    computed = FromF(closed)
    for dtype in (torch.float32, F64):
        v = torch.tensor([-1e4, -30.0, -25.0, 25.0, 30.0, 1e4], dtype=dtype, requires_grad=True)
        for function in (computed.activation, computed.conjugate_of_activation):
            value = function(v)
            (gradient,) = torch.autograd.grad(value.sum(), v)
            assert value.dtype == dtype
            assert not value.isnan().any()
            assert not gradient.isnan().any()
            assert (value.diff() >= -1e-3).all()


def test_conjugate_from_f_alone_is_infinite_outside_and_minus_f_at_zero_below():
    computed = FromF(PearsonChi2())
    assert computed.conjugate(torch.tensor([-5.0, -math.inf])).tolist() == [-1.0, -1.0]
    computed = FromF(JensenShannon())
    t = torch.tensor([math.log(2) + 0.01, 40.0], requires_grad=True)
    assert (computed.conjugate(t) == math.inf).all()
    (gradient,) = torch.autograd.grad(computed.conjugate(t).sum(), t)
    assert not gradient.isnan().any()


def test_conjugate_at_a_kink_keeps_its_maximiser():
    # f' jumps from -1 to 1 at u = 1, so for t in between the supremum is at 1.
    kinked = divergence_of(lambda u: (u - 1).abs() + (u - 1) ** 2)()
    t = torch.tensor([-0.9, 0.0, 0.5, 2.0], dtype=F64, requires_grad=True)
    value = kinked.conjugate(t)
    # Above 1 it is at u = 1 + (t - 1)/2.
    torch.testing.assert_close(value, torch.tensor([-0.9, 0.0, 0.5, 2.25], dtype=F64))
    (gradient,) = torch.autograd.grad(value.sum(), t)
    torch.testing.assert_close(gradient, torch.tensor([1.0, 1.0, 1.0, 1.5], dtype=F64))


def test_exact_divergence_from_f_alone_is_computed_in_float64():
    triangular = divergence_of(lambda u: (u - 1).square() / (u + 1))()
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 1e-30])
    value = triangular.between(p, q)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(1 / 6 + 0.5)


def test_scale_of_f_does_not_make_it_linear():
    tiny = divergence_of(lambda u: 1e-9 * (u - 1).square() / (u + 1))()
    assert tiny.slope_at_infinity == pytest.approx(1e-9)


def test_a_plugins_divergence_is_f_and_nothing_else():
    @block(double_backward=True)
    class Triangular(FDivergence):
        def f(self, u):
            return (u - 1).square() / (u + 1)

    divergence = Triangular()
    assert divergence.slope_at_infinity == pytest.approx(1.0)
    p, q = torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([0.2, 0.8], dtype=F64)
    torch.testing.assert_close(divergence.between(p, q), ((p - q) ** 2 / (p + q)).sum())
    loss = gan_blocks.FDivergenceLoss(divergence)
    v = loss.optimal_critic((p / q).log())
    real, fake = (
        v.repeat_interleave(torch.tensor([5, 5])),
        v.repeat_interleave(torch.tensor([2, 8])),
    )
    with torch.no_grad():
        bound = -loss.discriminator(real, fake)
    torch.testing.assert_close(bound, divergence.between(p, q))


def divergence_of(f, **members):
    return type("Mine", (FDivergence,), {"f": lambda self, u: f(u), **members})


@pytest.mark.parametrize(
    ("f", "text"),
    [
        (lambda u: (u - 1) ** 2 + 1, r"f\(1\) should be 0, .* got 1"),
        (lambda u: -((u - 1) ** 2), "should be convex, but its derivative falls at ratio"),
        (lambda u: torch.sin(u - 1), "should be convex"),
        (lambda u: u - 1, "f is linear"),
        (lambda u: 0 * u, "f is linear"),
        (lambda u: u * u.log(), "f.0. is NaN: give its limit there"),
        (lambda u: 1 / (2 - u) - 1, "should be"),
        (lambda u: torch.where(u < 0.5, math.inf, (u - 1) ** 2), "finite at every ratio > 0"),
        (lambda u: (u - 1).square().sum(), "f should be elementwise"),
        (lambda u: 3.0, "f should be elementwise"),
        (lambda u: (u - 1).relu(), "f' is constant on a stretch"),
    ],
)
def test_what_is_no_generator_function_is_refused(f, text):
    with pytest.raises(ValueError, match=text):
        divergence_of(f)()
    with pytest.raises(gan_blocks.InvalidArgumentsError, match="Mine cannot be built"):
        block(divergence_of(f))()


@pytest.mark.parametrize("order", ["no super", "super first", "super last"])
def test_a_divergence_of_ones_own_with_a_parameter_is_checked_in_any_order(order):
    @block
    class Power(FDivergence):
        def __init__(self, k: PositiveFloat = 2.0) -> None:
            if order == "super first":
                super().__init__()
            self.k = k
            if order == "super last":
                super().__init__()

        def f(self, u):
            return (u - 1).abs() ** self.k

    p, q = torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([0.2, 0.8], dtype=F64)
    torch.testing.assert_close(Power(2).between(p, q), PearsonChi2().between(p, q))
    assert Power(3).slope_at_infinity == math.inf
    assert recorded_arguments(Power(3)) == {"k": 3.0}
    assert repr(gan_blocks.FDivergenceLoss(Power(2)).divergence) == "Power(k=2.0)"
    with pytest.raises(
        gan_blocks.InvalidArgumentsError, match="Power cannot be built: f and its derivative"
    ):
        Power(0.5)

    @block
    class Steeper(Power):
        pass

    assert Steeper(k=4).f(tensor(3.0)) == 16
    with pytest.raises(gan_blocks.InvalidArgumentsError, match="f and its derivative"):
        Steeper(0.5)


def test_an_activation_of_ones_own_is_used_for_the_composition():
    hockey_stick = divergence_of(lambda u: (u - 1).relu(), activation=lambda self, v: v.sigmoid())()
    v = torch.linspace(-3, 3, 7, dtype=F64)
    # Here f*(t) = t on [0, 1].
    torch.testing.assert_close(
        hockey_stick.conjugate_of_activation(v), v.sigmoid(), rtol=1e-6, atol=1e-6
    )
    with pytest.raises(NotImplementedError, match="gives no optimal_critic"):
        hockey_stick.optimal_critic(v)


def test_a_limit_that_cannot_be_computed_is_asked_for():
    with pytest.raises(ValueError, match="give it as the class attribute slope_at_infinity"):
        divergence_of(lambda u: (u - 1) ** 4 / (u + 1) ** 3)()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: AlphaDivergence(0), r"alpha should not be 0; the limit there is ReverseKL\(\)"),
        (lambda: AlphaDivergence(1), r"alpha should not be 1; the limit there is KL\(\)"),
        (lambda: WeightedJensenShannon(0), "pi: should be greater than 0"),
        (lambda: WeightedJensenShannon(1), "pi: should be less than 1"),
        (lambda: WeightedJensenShannon(math.pi), "pi: should be less than 1"),
        (lambda: WeightedJensenShannon(), "pi: is required"),
    ],
)
def test_parameters_outside_their_range_are_refused(make, text):
    with pytest.raises(gan_blocks.InvalidArgumentsError, match=text):
        make()


# --- where a formula changes its form ------------------------------------------------------------------


@pytest.mark.parametrize("t", [49.0, 51.0, 200.0, 700.0])
def test_jeffreys_conjugate_grows_like_an_exponential(t):
    # At x = 1 - t, to the rounding of float64, f* = e^(-x) - 1 - x.
    exact = math.exp(t - 1) + t - 2
    assert Jeffrey().conjugate(tensor(t)).item() == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_conjugate_is_infinite_at_the_open_end_for_alpha_between_0_and_1(alpha):
    divergence = AlphaDivergence(alpha)
    end = tensor(divergence.slope_at_infinity)
    assert (alpha - 1) * end == -1
    assert divergence.conjugate(end) == math.inf


def test_gradient_of_total_variation_between_equal_gaussians_is_finite():
    mean, std = tensor(0.0).requires_grad_(), tensor(1.0).requires_grad_()
    value = TotalVariation().between_gaussians(Normal(tensor(0.0), tensor(1.0)), Normal(mean, std))
    value.backward()
    assert value == 0
    assert all(x.grad is None or x.grad.isfinite() for x in (mean, std))


def test_message_names_the_first_ratio_at_which_the_derivative_falls():
    class Kinked(FDivergence):
        def f(self, u):
            return torch.where(u < 2, (u - 1) ** 2, u - 1)  # its slope falls from 2 to 1 at 2

    with pytest.raises(ValueError, match="falls at ratio 2") as caught:
        Kinked()
    assert "ratio 20" not in str(caught.value)
