"""What theory says of the adversarial losses, checked on the library's own objects."""
# Wrong arguments are given on purpose, and tables of arguments are unpacked.
# pyright: reportArgumentType=false, reportCallIssue=false

import math
import warnings

import pytest
import torch
from dirac import eigenvalues, gradient_field
from hypothesis import given, settings
from hypothesis import strategies as st

import gan_blocks
from gan_blocks import (
    KL,
    AlphaDivergence,
    FDivergenceLoss,
    GANDivergence,
    HingeLoss,
    Jeffrey,
    JensenShannon,
    LeastSquaresLoss,
    MinimaxLoss,
    NeymanChi2,
    NonSaturatingLoss,
    PearsonChi2,
    RelativisticAverageLoss,
    RelativisticLoss,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
    WassersteinLoss,
    WeightedJensenShannon,
)

F64 = torch.float64
# Divergences whose bound is finite for all critic values of float32, and those whose exact value is not.
BOUNDED = [JensenShannon(), GANDivergence(), TotalVariation(), WeightedJensenShannon(0.3)]
UNBOUNDED = [KL(), ReverseKL(), PearsonChi2(), NeymanChi2(), SquaredHellinger(), Jeffrey()]
UNBOUNDED += [AlphaDivergence(a) for a in (-1.5, 0.3, 1.7)]
UNPAIRED = [MinimaxLoss(), NonSaturatingLoss(), NonSaturatingLoss(0.9), LeastSquaresLoss()]
UNPAIRED += [NonSaturatingLoss(0.8, 0.1, 0.5), HingeLoss(), HingeLoss(0.5), WassersteinLoss()]
UNPAIRED += [FDivergenceLoss(divergence) for divergence in BOUNDED]
UNPAIRED += [FDivergenceLoss(GANDivergence(), "non_saturating")]
COMPARISONS = ("softplus", "least_squares", "hinge")
PAIRED = [RelativisticLoss(c) for c in COMPARISONS]
AVERAGE = [RelativisticAverageLoss(c) for c in COMPARISONS]
ALL = [*UNPAIRED, *PAIRED, *AVERAGE]
ids = str

# The values of given numbers are computed here, which train nothing.
pytestmark = pytest.mark.filterwarnings("ignore:no gradient is required")


def generator_side(loss):
    """The generator's loss as a function of two tensors."""
    return lambda f, r: loss.generator(f, real_logits=r)


@st.composite
def distributions(draw, outcomes: int = 5):
    """Counts of two discrete distributions over the same outcomes, all positive."""
    counts = st.lists(st.integers(1, 20), min_size=outcomes, max_size=outcomes)
    return torch.tensor(draw(counts)), torch.tensor(draw(counts))


def samples(counts):
    """Which outcome each sample of a batch is: an exact picture of the distribution."""
    return torch.arange(len(counts)).repeat_interleave(counts)


def best_critic(loss, real_counts, fake_counts):
    """The tabular critic that minimises the library's own loss, by descent and Newton steps."""
    v = torch.zeros(len(real_counts), dtype=F64, requires_grad=True)
    real, fake = samples(real_counts), samples(fake_counts)
    optimiser = torch.optim.LBFGS([v], max_iter=200, line_search_fn="strong_wolfe")
    optimiser.param_groups[0].update(tolerance_grad=1e-12, tolerance_change=1e-16)

    def closure():
        optimiser.zero_grad()
        value = loss.discriminator(v[real], v[fake])
        value.backward()
        return value

    optimiser.step(closure)
    for _ in range(4):
        value = loss.discriminator(v[real], v[fake])
        (slope,) = torch.autograd.grad(value, v)
        curvature = torch.autograd.functional.hessian(
            lambda v: loss.discriminator(v[real], v[fake]), v.detach()
        )
        v.data -= torch.linalg.solve(curvature, slope)
    return v.detach(), loss.discriminator(v[real], v[fake]).detach()


def js_divergence(p, q):
    m = (p + q) / 2
    return (torch.xlogy(p, p / m) + torch.xlogy(q, q / m)).sum() / 2


# --- optimal critics -------------------------------------------------------------------------------


@settings(max_examples=25)
@given(distributions())
def test_optimal_discriminator_is_p_over_p_plus_q_and_its_value_follows_from_jsd(counts):
    p, q = (c.to(F64) / c.sum() for c in counts)
    for loss in (MinimaxLoss(), NonSaturatingLoss()):
        v, value = best_critic(loss, *counts)
        torch.testing.assert_close(torch.sigmoid(v), p / (p + q), rtol=1e-9, atol=1e-12)
        # V(D*) = -log 4 + 2 JSD, and the loss is -V
        torch.testing.assert_close(-value, -math.log(4) + 2 * js_divergence(p, q))


@settings(max_examples=25)
@given(distributions(), st.floats(0.55, 1.0))
def test_smoothed_optimum_is_alpha_p_over_p_plus_q(counts, alpha):
    p, q = (c.to(F64) / c.sum() for c in counts)
    v, _ = best_critic(NonSaturatingLoss(real_target=alpha), *counts)
    torch.testing.assert_close(torch.sigmoid(v), alpha * p / (p + q), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.9, 0.7])
def test_least_smoothed_loss_at_perfect_separation_is_the_entropy(alpha):
    v = torch.tensor([math.log(alpha / (1 - alpha))], dtype=F64)
    value = NonSaturatingLoss(real_target=alpha).discriminator(v, torch.full((1,), -1e4, dtype=F64))
    entropy = -alpha * math.log(alpha) - (1 - alpha) * math.log(1 - alpha)
    assert float(value) == pytest.approx(entropy, rel=1e-12)


@settings(max_examples=25)
@given(distributions())
def test_least_squares_optimum_is_the_weighted_target(counts):
    p, q = (c.to(F64) / c.sum() for c in counts)
    for a, b in ((0.0, 1.0), (-1.0, 1.0), (0.3, 2.0)):
        loss = LeastSquaresLoss(fake_target=a, real_target=b, generator_target=0.0)
        v, _ = best_critic(loss, *counts)
        torch.testing.assert_close(v, (b * p + a * q) / (p + q), rtol=1e-9, atol=1e-12)


@settings(max_examples=25)
@given(distributions())
def test_pearson_divergence_of_the_least_squares_game(counts):
    p, q = (c.to(F64) / c.sum() for c in counts)
    loss = LeastSquaresLoss(fake_target=-1.0, real_target=1.0, generator_target=0.0)
    d = (p - q) / (p + q)
    real, fake = samples(counts[0]), samples(counts[1])
    criterion = loss.generator(d[fake]) + loss.generator(d[real])
    torch.testing.assert_close(2 * criterion, ((p - q) ** 2 / (p + q)).sum())


@settings(max_examples=25)
@given(distributions())
def test_hinge_optimum_is_the_sign_with_value_two_minus_two_tv(counts):
    p, q = (c.to(F64) / c.sum() for c in counts)
    sign = torch.sign(p - q)
    loss = HingeLoss()
    value = loss.discriminator(sign[samples(counts[0])], sign[samples(counts[1])])
    torch.testing.assert_close(value, 2 - (p - q).abs().sum())
    for _ in range(20):
        v = 2 * torch.randn(len(p), dtype=F64)
        other = loss.discriminator(v[samples(counts[0])], v[samples(counts[1])])
        assert other >= value - 1e-12


@settings(max_examples=15)
@given(distributions(outcomes=3))
def test_relativistic_game_plays_the_jsd_of_the_products(counts):
    # sup_C E log sigma(C(x) - C(y)) + log 2 <= JSD(p x q, q x p), tight if the ratio factorises
    p, q = (c.to(F64) / c.sum() for c in counts)
    x = samples(counts[0]).repeat_interleave(int(counts[1].sum()))
    y = samples(counts[1]).repeat(int(counts[0].sum()))
    v = torch.log(p / q)
    value = RelativisticLoss().discriminator(v[x], v[y])
    a, b = torch.outer(p, q), torch.outer(q, p)
    torch.testing.assert_close(math.log(2) - value, js_divergence(a, b), rtol=1e-9, atol=1e-12)


@settings(max_examples=20)
@given(distributions())
@pytest.mark.parametrize("divergence", [*BOUNDED, *UNBOUNDED], ids=str)
def test_f_gan_bound_holds_for_every_critic_and_is_tight_at_the_optimum(divergence, counts):
    loss = FDivergenceLoss(divergence)
    p, q = (c.to(F64) / c.sum() for c in counts)
    exact = divergence.between(p, q)
    real, fake = samples(counts[0]), samples(counts[1])
    for _ in range(5):
        v = 3 * torch.randn(len(p), dtype=F64)
        assert -loss.discriminator(v[real], v[fake]) <= exact + 1e-12
    best = loss.optimal_critic((p / q).log())
    value = loss.discriminator(best[real], best[fake])
    torch.testing.assert_close(-value, exact, rtol=1e-9, atol=1e-12)


@settings(max_examples=15)
@given(distributions())
@pytest.mark.parametrize(
    "loss",
    [
        MinimaxLoss(),
        NonSaturatingLoss(),
        NonSaturatingLoss(0.9),
        NonSaturatingLoss(0.8, 0.1, 0.5),
        LeastSquaresLoss(),
        LeastSquaresLoss(-1.0, 1.0, 0.0, discriminator_scale=2.0),
        *(FDivergenceLoss(d) for d in (KL(), ReverseKL(), JensenShannon(), NeymanChi2())),
        *(FDivergenceLoss(AlphaDivergence(a)) for a in (-1.5, 0.3)),
        FDivergenceLoss(WeightedJensenShannon(0.3)),
    ],
    ids=ids,
)
def test_no_other_critic_does_better_than_the_optimal_one(loss, counts):
    p, q = (c.to(F64) / c.sum() for c in counts)
    best = loss.optimal_critic((p / q).log()).requires_grad_()
    real, fake = samples(counts[0]), samples(counts[1])
    value = loss.discriminator(best[real], best[fake])
    (gradient,) = torch.autograd.grad(value, best)
    torch.testing.assert_close(gradient, torch.zeros_like(best), rtol=0, atol=1e-9)
    for size in (0.01, 0.1, 1.0):
        other = best.detach() + size * torch.randn(len(p), dtype=F64)
        assert loss.discriminator(other[real], other[fake]) >= value - 1e-12


@pytest.mark.parametrize(
    ("loss", "ends"),
    [
        (MinimaxLoss(), (-math.inf, math.inf)),
        (NonSaturatingLoss(), (-math.inf, math.inf)),
        (NonSaturatingLoss(0.9), (-math.inf, math.log(9))),
        (NonSaturatingLoss(0.9, 0.2), (-math.log(4), math.log(9))),
        (LeastSquaresLoss(-1.0, 2.0), (-1.0, 2.0)),
        (HingeLoss(), (-1.0, 1.0)),
        (RelativisticLoss(), (-math.inf, math.inf)),
    ],
    ids=ids,
)
def test_optimal_critic_where_one_density_is_zero(loss, ends):
    v = loss.optimal_critic(torch.tensor([-math.inf, -1e4, 1e4, math.inf], dtype=F64))
    assert float(v[0]) == pytest.approx(ends[0])
    assert float(v[3]) == pytest.approx(ends[1])
    assert (v.diff() >= 0).all()


def test_no_optimal_critic_where_it_depends_on_more_than_the_ratio():
    with pytest.raises(NotImplementedError, match="with hinge the optimum at a point depends on"):
        RelativisticLoss("hinge").optimal_critic(torch.zeros(1))


@settings(max_examples=25)
@given(distributions(), st.floats(0.55, 1.0), st.floats(0.0, 0.45))
def test_two_sided_smoothing_makes_a_mixture_of_the_targets(counts, alpha, beta):
    p, q = (c.to(F64) / c.sum() for c in counts)
    v, _ = best_critic(NonSaturatingLoss(alpha, beta), *counts)
    torch.testing.assert_close(v.sigmoid(), (alpha * p + beta * q) / (p + q), rtol=1e-8, atol=1e-10)


def test_f_gan_with_the_gan_divergence_is_the_minimax_game():
    r, f = torch.randn(9, dtype=F64), torch.randn(7, dtype=F64)
    ours, game = FDivergenceLoss(GANDivergence()), MinimaxLoss()
    torch.testing.assert_close(ours.discriminator(r, f), game.discriminator(r, f))
    torch.testing.assert_close(ours.generator(f), game.generator(f))


# --- parallel lines (Arjovsky et al. 2017, example 1) ------------------------------------------------


@pytest.mark.parametrize("theta", [-2.0, -0.5, 0.25, 1.0])
def test_parallel_lines_give_jsd_no_gradient_and_wasserstein_a_gradient_of_size_one(theta):
    # Real mass at 0 and generated mass at theta, on a grid that holds both.
    places = torch.linspace(-2, 2, 17, dtype=F64)
    p, q = (places == 0).to(F64), (places == theta).to(F64)
    assert float(JensenShannon().between(p, q) / 2) == pytest.approx(math.log(2), abs=1e-15)
    assert gan_blocks.KL().between(p, q) == math.inf

    at = torch.tensor([theta], dtype=F64, requires_grad=True)
    origin = torch.zeros(1, dtype=F64)
    sign = math.copysign(1, theta)

    # A steep discriminator between the two tends to the optimal one; the game then has no slope.
    def steep(x):
        return 1e3 * sign * (theta / 2 - x)

    game = MinimaxLoss()
    jsd = (math.log(4) - game.discriminator(steep(origin), steep(at.detach()))) / 2
    assert float(jsd) == pytest.approx(math.log(2), abs=1e-12)
    (slope,) = torch.autograd.grad(game.generator(steep(at)), at)
    assert slope.abs() < 1e-40

    # The optimal 1-Lipschitz critic is f(x) = -sign(theta) x; its gap is W1 = |theta|.
    def best(x):
        return -sign * x

    gap = -WassersteinLoss().discriminator(best(origin), best(at))
    torch.testing.assert_close(gap.detach(), at.detach().abs()[0])
    (slope,) = torch.autograd.grad(WassersteinLoss().generator(best(at)), at)
    assert slope == sign


# --- Dirac-GAN (Mescheder et al. 2018): every sign and every factor of two -----------------------------


# The slopes of the two sides by the generated sample's logit at 0, from the formulas of the papers.
SLOPES = [
    (MinimaxLoss(), 0.5, -0.5),
    (NonSaturatingLoss(), 0.5, -0.5),
    (NonSaturatingLoss(0.9), 0.5, -0.5),
    (NonSaturatingLoss(0.8, 0.1, 0.5), 0.2, -0.5),
    (LeastSquaresLoss(), 0.0, -1.0),
    (LeastSquaresLoss(-1.0, 1.0, 0.5), 1.0, -0.5),
    (LeastSquaresLoss(-1.0, 1.0, 0.5, 1.0, 1.0), 2.0, -1.0),
    (HingeLoss(), 1.0, -1.0),
    (HingeLoss(0.5), 0.5, -1.0),
    (WassersteinLoss(), 1.0, -1.0),
    (RelativisticLoss(), 0.5, -0.5),
    (RelativisticLoss("least_squares"), 2.0, -2.0),
    (RelativisticLoss("hinge"), 1.0, -1.0),
    (RelativisticAverageLoss(), 1.0, -1.0),
    (RelativisticAverageLoss("least_squares"), 4.0, -4.0),
    (RelativisticAverageLoss("hinge", 0.5, 0.25), 1.0, -0.5),
    (FDivergenceLoss(KL()), math.exp(-1), -math.exp(-1)),
    (FDivergenceLoss(KL(), "non_saturating"), math.exp(-1), -1.0),
    (FDivergenceLoss(ReverseKL()), 1.0, -1.0),
    (FDivergenceLoss(PearsonChi2()), 1.0, -1.0),
    (FDivergenceLoss(NeymanChi2()), 1.0, -1.0),
    (FDivergenceLoss(NeymanChi2(), "non_saturating"), 1.0, -1.0),
    (FDivergenceLoss(SquaredHellinger()), 1.0, -1.0),
    (FDivergenceLoss(Jeffrey()), 1.0, -1.0),
    (FDivergenceLoss(JensenShannon()), 0.5, -0.5),
    (FDivergenceLoss(GANDivergence(), "non_saturating"), 0.5, -0.5),
    (FDivergenceLoss(TotalVariation()), 0.5, -0.5),
    # e^(-s) / (1 - e^(-s)) sigma(0) (1-pi)/pi with s = log(2)/pi
    (FDivergenceLoss(WeightedJensenShannon(0.5)), 1 / 6, -1 / 6),
    # ((1-a) log 2)^(1/(a-1)) sigma(0), at a = 1/2
    (FDivergenceLoss(AlphaDivergence(0.5)), 2 / math.log(2) ** 2, -2 / math.log(2) ** 2),
    (FDivergenceLoss(AlphaDivergence(2)), 1.0, -1.0),
]


@pytest.mark.parametrize(("loss", "critic_slope", "generator_slope"), SLOPES, ids=ids)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("both", [False, True])
def test_eigenvalues_of_the_dirac_gan(loss, critic_slope, generator_slope, gamma, both):
    penalties = [gan_blocks.R1Penalty(gamma)] + [gan_blocks.R2Penalty(gamma)] * both
    total = gamma * (1 + both)
    root = (total**2 / 4 + critic_slope * generator_slope + 0j) ** 0.5
    expected = sorted([-total / 2 - root, -total / 2 + root], key=lambda z: (z.real, z.imag))
    for actual, exact in zip(eigenvalues(loss, penalties), expected, strict=True):
        assert actual == pytest.approx(exact, abs=1e-7)


@pytest.mark.parametrize(("loss", "critic_slope", "generator_slope"), SLOPES, ids=ids)
def test_gradient_penalty_leaves_the_equilibrium_no_rest_and_one_sided_leaves_it_alone(
    loss, critic_slope, generator_slope
):
    # Beside psi = 0 the price of a slope that is not 1 pushes with twice its weight.
    field = gradient_field(loss, [gan_blocks.GradientPenalty(weight=3)])
    push = field(torch.tensor([1e-9, 0.0], dtype=F64))[0]
    assert float(push) == pytest.approx(6, abs=1e-6)
    # At psi = 1 it is content, and there the generator moves on.
    at_rest = field(torch.tensor([1.0, 0.0], dtype=F64))
    assert float(at_rest[0]) == pytest.approx(0, abs=1e-9)
    assert at_rest[1].abs() > 1e-3 or isinstance(loss, LeastSquaresLoss | TotalVariation)
    alone = eigenvalues(loss, [gan_blocks.GradientPenalty(weight=3, one_sided=True)])
    for actual, exact in zip(alone, eigenvalues(loss), strict=True):
        assert actual == pytest.approx(exact, abs=1e-12)


def step_of_the_game(loss, penalties, h, *, alternating, critic_steps=1):
    """One round of gradient descent with step size h, as a map of (psi, theta)."""
    field = gradient_field(loss, penalties)

    def step(state):
        if not alternating:
            return state + h * field(state)
        for _ in range(critic_steps):
            state = state + h * field(state) * torch.tensor([1.0, 0.0], dtype=F64)
        return state + h * field(state) * torch.tensor([0.0, 1.0], dtype=F64)

    return step


def spectral_radius(step):
    matrix = torch.autograd.functional.jacobian(step, torch.zeros(2, dtype=F64))
    return float(torch.linalg.eigvals(matrix).abs().max())


@pytest.mark.parametrize(
    ("loss", "a"), [(NonSaturatingLoss(), 0.5), (WassersteinLoss(), 1.0)], ids=ids
)
def test_simultaneous_descent_spirals_out_and_alternating_descent_circles(loss, a):
    for h in (0.1, 0.5, 1.5):
        radius = spectral_radius(step_of_the_game(loss, (), h, alternating=False))
        assert radius == pytest.approx(math.sqrt(1 + (h * a) ** 2), rel=1e-12)
        for n in (1, 3):
            game = step_of_the_game(loss, (), h, alternating=True, critic_steps=n)
            if math.sqrt(n) * h * a <= 2:
                assert spectral_radius(game) == pytest.approx(1, rel=1e-12)
            else:
                assert spectral_radius(game) > 1.01


@pytest.mark.parametrize(
    ("loss", "a"), [(NonSaturatingLoss(), 0.5), (WassersteinLoss(), 1.0)], ids=ids
)
def test_simultaneous_descent_with_r1_is_stable_below_gamma_over_a_squared(loss, a):
    gamma = a  # half of the critical one: it oscillates
    limit = gamma / a**2
    for share, stable in ((0.5, True), (0.99, True), (1.01, False)):
        game = step_of_the_game(
            loss, [gan_blocks.R1Penalty(gamma)], share * limit, alternating=False
        )
        assert (spectral_radius(game) < 1) == stable


def test_clipping_never_lets_the_wasserstein_dirac_gan_come_to_rest():
    step = step_of_the_game(WassersteinLoss(), (), 0.01, alternating=True)
    clip, critic = gan_blocks.WeightClipper(0.5), torch.nn.Linear(1, 1, bias=False, dtype=F64)
    state, furthest = torch.tensor([0.0, 1.0], dtype=F64), []
    for _ in range(20):
        widest = 0.0
        for _ in range(400):
            state = step(state).detach()
            critic.weight.data.fill_(state[0])
            clip(critic)
            state[0] = critic.weight.data[0, 0]
            widest = max(widest, abs(float(state[1])))
        furthest.append(widest)
    assert min(furthest[10:]) > 0.4


# --- extremes ------------------------------------------------------------------------------------------


def value_and_gradient(function, *logits):
    logits = [x.clone().requires_grad_() for x in logits]
    value = function(*logits)
    gradients = torch.autograd.grad(value, logits, allow_unused=True)
    return value, [torch.zeros(()) if g is None else g for g in gradients]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", ALL, ids=ids)
def test_value_and_gradient_are_finite_at_logits_of_ten_thousand(loss, dtype):
    for real in (-1e4, 0.0, 1e4):
        for fake in (-1e4, 0.0, 1e4):
            r, f = torch.full((4,), real, dtype=dtype), torch.full((4,), fake, dtype=dtype)
            for value, gradients in (
                value_and_gradient(loss.discriminator, r, f),
                value_and_gradient(generator_side(loss), f, r),
            ):
                assert value.isfinite()
                assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
                assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("divergence", UNBOUNDED, ids=str)
@pytest.mark.parametrize("objective", ["minimax", "non_saturating"])
def test_divergence_losses_are_never_nan(divergence, objective, dtype):
    loss = FDivergenceLoss(divergence, objective)
    for real in (-1e4, -200.0, 0.0, 200.0, 1e4):
        for fake in (-1e4, -200.0, 0.0, 200.0, 1e4):
            r, f = torch.full((4,), real, dtype=dtype), torch.full((4,), fake, dtype=dtype)
            for value, gradients in (
                value_and_gradient(loss.discriminator, r, f),
                value_and_gradient(generator_side(loss), f, r),
            ):
                assert not value.isnan()
                assert not any(g.isnan().any() for g in gradients)


def test_infinite_values_have_the_right_sign():
    big = torch.full((4,), 1e4)
    kl, reverse = gan_blocks.KL(), gan_blocks.ReverseKL()
    assert FDivergenceLoss(kl).discriminator(big, big) == math.inf
    assert FDivergenceLoss(kl).generator(big) == -math.inf
    assert FDivergenceLoss(reverse).discriminator(-big, -big) == math.inf


def test_neyman_loss_has_the_sign_of_the_larger_term_where_both_overflow():
    loss = FDivergenceLoss(NeymanChi2())
    for real, fake, sign in (
        (-1e4, -1e4, 1),
        (-1e4, -1.5e4, 1),
        (-100.0, -1e4, -1),
        (0.0, -1e4, -1),
    ):
        value, gradients = value_and_gradient(
            loss.discriminator, torch.full((2,), real), torch.full((3,), fake)
        )
        assert value == sign * math.inf
        assert gradients[0].max() <= 0 <= gradients[1].min()


@pytest.mark.parametrize("logit", [-46.0, -1e4])
def test_generator_keeps_its_gradient_when_the_discriminator_wins(logit):
    f = torch.full((1,), logit)
    _, (gradient,) = value_and_gradient(NonSaturatingLoss().generator, f)
    assert gradient == -1.0
    # The naive form, sigmoid and then binary cross entropy, has lost it.
    naive = torch.nn.functional.binary_cross_entropy
    _, (lost,) = value_and_gradient(lambda x: naive(x.sigmoid(), torch.ones(1)), f)
    assert lost.abs() < 1e-7


def test_minimax_generator_saturates_where_theory_says_so():
    _, (gradient,) = value_and_gradient(MinimaxLoss().generator, torch.full((1,), -20.0, dtype=F64))
    assert float(gradient) == pytest.approx(-1 / (1 + math.exp(20)), rel=1e-9)


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_gradients_push_real_up_and_fake_down_and_the_generator_fakes_up(real, fake):
    r, f = torch.tensor([real], dtype=F64), torch.tensor([fake], dtype=F64)
    for loss in (MinimaxLoss(), NonSaturatingLoss(), HingeLoss(), WassersteinLoss()):
        _, (by_real, by_fake) = value_and_gradient(loss.discriminator, r, f)
        assert by_real <= 0 <= by_fake
        _, (by_fake, _) = value_and_gradient(generator_side(loss), f, r)
        assert by_fake <= 0
    for comparison in ("softplus", "hinge"):
        for loss in (RelativisticLoss(comparison), RelativisticAverageLoss(comparison)):
            _, (by_real, by_fake) = value_and_gradient(loss.discriminator, r, f)
            assert by_real <= 0 <= by_fake
            _, (by_fake, by_real) = value_and_gradient(generator_side(loss), f, r)
            assert by_fake <= 0 <= by_real
    for divergence in [*BOUNDED, *UNBOUNDED]:
        for objective in ("minimax", "non_saturating"):
            loss = FDivergenceLoss(divergence, objective)
            _, (by_real, by_fake) = value_and_gradient(loss.discriminator, r, f)
            assert by_real <= 0 <= by_fake
            _, (by_fake, _) = value_and_gradient(generator_side(loss), f, r)
            assert by_fake <= 0


@given(st.floats(-100, 100))
def test_only_wasserstein_and_relativistic_ignore_a_shift_of_the_critic(shift):
    r, f = torch.randn(6, dtype=F64), torch.randn(6, dtype=F64)
    for loss in (WassersteinLoss(), *PAIRED, *AVERAGE):
        for function, a, b in ((loss.discriminator, r, f), (generator_side(loss), f, r)):
            if isinstance(loss, WassersteinLoss) and function != loss.discriminator:
                continue
            torch.testing.assert_close(
                function(a + shift, b + shift), function(a, b), atol=1e-9, rtol=0
            )
    if abs(shift) > 10:
        for loss in (MinimaxLoss(), NonSaturatingLoss(), HingeLoss(), LeastSquaresLoss()):
            moved = loss.discriminator(r + shift, f + shift) - loss.discriminator(r, f)
            assert moved.abs() > 1e-3


def test_average_loss_sends_gradient_through_both_means():
    r, f = torch.randn(5, dtype=F64), torch.randn(3, dtype=F64)
    for loss in AVERAGE:
        _, (by_fake, by_real) = value_and_gradient(generator_side(loss), f, r)
        # The critic may be shifted without effect, so the gradients cancel as a whole.
        torch.testing.assert_close(by_fake.sum() + by_real.sum(), torch.zeros((), dtype=F64))
        assert (by_fake != 0).any()
        assert (by_real != 0).any()


def test_average_loss_is_the_paired_one_twice_on_batches_of_one():
    r, f = torch.randn(1, dtype=F64), torch.randn(1, dtype=F64)
    for paired, average in zip(PAIRED, AVERAGE, strict=True):
        expected = 2 * paired.discriminator(r, f)
        torch.testing.assert_close(average.discriminator(r, f), expected)


# --- shapes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ALL, ids=ids)
@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 1, 3, 3), (6, 2, 10), ()])
def test_value_depends_on_the_logits_and_not_on_their_shape(loss, shape):
    r, f = torch.randn(shape, dtype=F64), torch.randn(shape, dtype=F64)
    torch.testing.assert_close(
        loss.discriminator(r, f), loss.discriminator(r.reshape(-1), f.reshape(-1))
    )
    assert loss.discriminator(r, f).shape == ()
    assert loss.generator(f, real_logits=r).shape == ()


@pytest.mark.parametrize("loss", ALL, ids=ids)
def test_a_column_against_a_row_never_broadcasts(loss):
    r, f = torch.randn(4, 1), torch.randn(4)
    with pytest.raises(ValueError, match=r"real_logits \(4, 1\) and fake_logits \(4,\) differ"):
        loss.discriminator(r, f)
    with pytest.raises(ValueError, match="differ in more than the batch size"):
        loss.discriminator(torch.randn(4, 2), torch.randn(4, 1))
    with pytest.raises(ValueError, match="differ in more than the batch size"):
        loss.discriminator(torch.randn(()), torch.randn(4))


@pytest.mark.parametrize("loss", [*UNPAIRED, *AVERAGE], ids=ids)
def test_batch_sizes_may_differ(loss):
    r, f = torch.randn(6, dtype=F64), torch.randn(4, dtype=F64)
    doubled = loss.discriminator(r.repeat(2), f)
    torch.testing.assert_close(loss.discriminator(r, f), doubled)


def test_a_pairing_loss_needs_pairs():
    for loss in PAIRED:
        with pytest.raises(ValueError, match="need one batch size"):
            loss.discriminator(torch.randn(4), torch.randn(5))
        with pytest.raises(ValueError, match="need one batch size"):
            loss.generator(torch.randn(4), real_logits=torch.randn(5))
    for loss in (*PAIRED, *AVERAGE):
        with pytest.raises(
            TypeError, match="missing 1 required keyword-only argument: 'real_logits"
        ):
            loss.generator(torch.randn(4))


@pytest.mark.parametrize("loss", ALL, ids=ids)
def test_wrong_logits_are_refused(loss):
    good = torch.randn(4)
    for bad, error, text in (
        (torch.randn(0), ValueError, "should not be empty"),
        ([], ValueError, "empty list"),
        (torch.ones(4, dtype=torch.int64), TypeError, "should be floating point"),
        (torch.ones(4, dtype=torch.complex64), TypeError, "should be floating point"),
        (3.0, TypeError, "should be a tensor"),
        ([good, None], TypeError, "item 1 is a NoneType"),
        ([[good], [good]], TypeError, "item 0 is a list"),
    ):
        for call in (
            lambda bad=bad: loss.discriminator(bad, good),
            lambda bad=bad: loss.discriminator(good, bad),
            lambda bad=bad: loss.generator(bad, real_logits=good),
        ):
            with pytest.raises(error, match=text):
                call()
    with pytest.raises(ValueError, match="as many sub-discriminators, got 1 and 2"):
        loss.discriminator([good], [good, good])


@pytest.mark.parametrize("loss", ALL, ids=ids)
def test_calling_the_module_names_the_two_methods(loss):
    with pytest.raises(TypeError, match=r"\.discriminator\(real_logits, fake_logits\)"):
        loss(torch.randn(4), torch.randn(4))


@pytest.mark.parametrize("loss", ALL, ids=ids)
def test_batch_of_one(loss):
    assert loss.discriminator(torch.zeros(1), torch.zeros(1)).isfinite()


@pytest.mark.parametrize("logit", [19.0, 21.0, 30.0])
def test_float64_keeps_its_digits_where_the_default_softplus_is_cut_off(logit):
    value = MinimaxLoss().generator(torch.tensor([logit], dtype=F64))
    excess = float(-value) - logit
    assert excess == pytest.approx(math.log1p(math.exp(-logit)), rel=0.05)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: NonSaturatingLoss(0.5, 0.5), "fake_target 0.5 should be below real_target 0.5"),
        (
            lambda: NonSaturatingLoss(fake_target=1.2),
            "fake_target: should be less than or equal to 1",
        ),
        (lambda: HingeLoss(0), "discriminator_scale: should be greater than 0"),
        (lambda: RelativisticLoss("cubic"), "comparison: should be 'softplus', 'least_squares' or"),
        (lambda: LeastSquaresLoss(1, 1), "fake_target and real_target are equal"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, text):
    with pytest.raises(gan_blocks.InvalidArgumentsError, match=text):
        make()


# --- mistakes that leave every number finite ---------------------------------------------------------


@pytest.fixture
def warnings_raise():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def trainable(n=4):
    return torch.randn(n, requires_grad=True)


@pytest.mark.parametrize("loss", ALL, ids=ids)
def test_loss_that_trains_nothing_says_so_at_the_users_line(loss):
    real = trainable()
    with pytest.warns(
        UserWarning, match=rf"{type(loss).__name__}.generator trains nothing"
    ) as caught:
        loss.generator(torch.randn(4), real_logits=real)
    with pytest.warns(UserWarning, match=rf"{type(loss).__name__}.discriminator trains nothing"):
        loss.discriminator([torch.randn(4)], [torch.randn(4)])
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.usefixtures("warnings_raise")
@pytest.mark.parametrize("loss", ALL, ids=ids)
def test_loss_that_trains_something_or_is_only_looked_at_says_nothing(loss):
    r, f = torch.randn(4), torch.randn(4)
    loss.discriminator(trainable(), f)
    loss.discriminator(r, trainable())
    loss.discriminator([r, trainable()], [f, f])
    loss.generator(trainable(), real_logits=r)
    loss.generator([trainable(), f], real_logits=[r, r])
    for look in (torch.no_grad, torch.inference_mode):
        with look():
            loss.discriminator(r, f)
            loss.generator(f, real_logits=r)


# torch's own forward mode is written with its deprecated compiler.
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("error:no gradient is required")
@pytest.mark.parametrize("loss", ALL, ids=ids)
def test_derivatives_by_torch_func_are_no_mistake(loss):
    r, f = torch.randn(3, 4), torch.randn(3, 4)
    for function, a, b in ((loss.discriminator, r, f), (generator_side(loss), f, r)):
        torch.func.grad(function)(a[0], b[0])
        torch.func.jacrev(function)(a[0], b[0])
        torch.func.vmap(torch.func.grad(function))(a, b)
        torch.func.jvp(function, (a[0], b[0]), (b[0], a[0]))
        torch.func.jacfwd(function)(a[0], b[0])
        torch.func.hessian(function)(a[0], b[0])


SQUASHING = [MinimaxLoss(), NonSaturatingLoss(), FDivergenceLoss(JensenShannon())]
SQUASHING += [RelativisticLoss(), RelativisticAverageLoss()]
ENDS = {
    "sigmoid": torch.sigmoid,
    "log sigmoid": torch.nn.functional.logsigmoid,
    "hard sigmoid": torch.nn.functional.hardsigmoid,
    "squeezed": lambda x: torch.sigmoid(x[:, None]).squeeze(1),
    "flat": lambda x: torch.sigmoid(x.view(2, 2)).flatten(),
    "cast": lambda x: torch.sigmoid(x.bfloat16()).double(),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("loss", SQUASHING, ids=ids)
def test_critic_that_ends_in_a_sigmoid_is_named_at_the_users_line(loss, end):
    real, fake = ENDS[end](trainable()), ENDS[end](trainable())
    with pytest.warns(UserWarning, match="come out of a sigmoid, but") as caught:
        loss.discriminator(real, fake)
    with pytest.warns(UserWarning, match=f"but {type(loss).__name__} takes any real number"):
        loss.generator([fake], real_logits=[real])
    assert [warning.filename for warning in caught] == [__file__]


def test_probabilities_of_one_batch_that_was_cut_in_two_are_named():
    critic, both, loss = torch.nn.Linear(2, 1), torch.randn(8, 2), gan_blocks.NonSaturatingLoss()
    cuts = (
        lambda x: x.chunk(2),
        lambda x: x.split([3, 5]),
        lambda x: x.view(2, 4).unbind(),
        lambda x: (x[torch.arange(4)], x[[4, 5]]),
    )
    for cut in cuts:
        with pytest.warns(UserWarning, match="come out of a sigmoid"):
            loss.discriminator(*cut(critic(both).sigmoid()))


@pytest.mark.usefixtures("warnings_raise")
def test_losses_of_several_critics_inside_vmap_are_taken_to_train():
    logits = torch.randn(3, 4, requires_grad=True)
    value = torch.func.vmap(gan_blocks.NonSaturatingLoss().generator)(logits)
    value.sum().backward()
    assert logits.grad is not None
    assert logits.grad.all()


@pytest.mark.usefixtures("warnings_raise")
def test_sigmoid_that_makes_no_probability_of_a_logit_is_left_alone():
    def critics():
        yield lambda x: 8 * torch.sigmoid(x) - 4
        yield lambda x: torch.nn.functional.silu(x)
        yield lambda x: torch.sigmoid(x) @ torch.eye(4)
        yield lambda x: x

    for loss in SQUASHING:
        for critic in critics():
            loss.discriminator(critic(trainable()), critic(trainable()))
    # These are defined on values between 0 and 1.
    for loss in (LeastSquaresLoss(), WassersteinLoss(), RelativisticLoss("least_squares")):
        loss.discriminator(trainable().sigmoid(), trainable().sigmoid())


@pytest.mark.parametrize("loss", ALL, ids=ids)
def test_logits_with_features_in_a_tuple_are_refused(loss):
    logits, features = trainable(), torch.randn(4, 8)
    for call in (
        lambda: loss.discriminator((logits, features), logits),
        lambda: loss.discriminator([logits, logits], (logits, features)),
        lambda: loss.generator((logits, features), real_logits=logits),
    ):
        with pytest.raises(
            TypeError, match=r"is a tuple: is it \(logits, features\)\? pass the lo"
        ):
            call()


@pytest.mark.parametrize("loss", ALL, ids=ids)
def test_real_logits_are_passed_by_name(loss):
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        loss.generator(trainable(), trainable())


# --- torch.func ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [*ALL, *map(FDivergenceLoss, UNBOUNDED)], ids=ids)
def test_losses_of_a_stack_of_critics_by_vmap_are_those_of_each(loss):
    r, f = torch.randn(3, 6, dtype=F64), torch.randn(3, 6, dtype=F64)
    for function, a, b in ((loss.discriminator, r, f), (generator_side(loss), f, r)):
        together = torch.func.vmap(torch.func.grad(function, argnums=(0, 1)))(a, b)
        for i in range(3):
            _, alone = value_and_gradient(function, a[i], b[i])
            for stacked, single in zip(together, alone, strict=True):
                torch.testing.assert_close(stacked[i], single.to(F64).expand(6))


# Neyman's bound decides between two infinities, without a forward mode: torch.compile would refuse it.
FORWARD_MODE = [d for d in UNBOUNDED if not isinstance(d, NeymanChi2)]


# torch's own forward mode is written with its deprecated compiler.
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("loss", [*ALL, *map(FDivergenceLoss, FORWARD_MODE)], ids=ids)
def test_derivatives_forward_and_backward_agree(loss):
    r, f = torch.randn(4, dtype=F64), torch.randn(4, dtype=F64)
    for function, a, b in ((loss.discriminator, r, f), (generator_side(loss), f, r)):
        forward, backward = torch.func.jacfwd(function)(a, b), torch.func.jacrev(function)(a, b)
        torch.testing.assert_close(forward, backward)
        assert torch.func.hessian(function)(a, b).isfinite().all()


# --- memory ----------------------------------------------------------------------------------------


KEPT = {AlphaDivergence: 5, WeightedJensenShannon: 4, Jeffrey: 6}


@pytest.mark.parametrize("loss", [*ALL, *map(FDivergenceLoss, UNBOUNDED)], ids=ids)
def test_at_most_one_tensor_for_each_side_is_kept_for_the_backward_pass(loss):
    real, fake = torch.randn(1000, requires_grad=True), torch.randn(1000, requires_grad=True)
    kept = {}

    def pack(x):
        if x.untyped_storage().nbytes() >= 4000:
            kept[x.data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        value = loss.discriminator(real, fake)
    of_its_own = kept.keys() - {real.data_ptr(), fake.data_ptr()}
    divergence = type(getattr(loss, "divergence", None))
    assert len(of_its_own) <= KEPT.get(divergence, 2), value
