"""What the papers say of the penalties: per sample, exact on linear critics, safe at zero gradient."""

import math

import pytest
import torch
from dirac import eigenvalues, gradient_field
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import gan_blocks
import gan_blocks as gb
from gan_blocks import GradientPenalty, R1Penalty, R2Penalty

F64 = torch.float64
ALL = [GradientPenalty(), GradientPenalty(target=0.01, one_sided=True), R1Penalty(), R2Penalty()]
every = pytest.mark.parametrize("penalty", ALL, ids=str)
SHAPES = [(2,), (7,), (3, 5), (1, 8, 8), (3, 64, 64), (2, 3, 4, 5)]


def linear(shape, slope: float):
    """A critic <w, x> with |w| = slope, and w."""
    w = torch.randn(shape, dtype=F64)
    w = w * slope / w.norm()
    return lambda x: (x * w).flatten(1).sum(1), w


def pair(batch: int, shape):
    return torch.randn(batch, *shape, dtype=F64), torch.randn(batch, *shape, dtype=F64)


@pytest.mark.parametrize("batch", [1, 2, 64, 257])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unit_slope_costs_nothing_at_any_batch_and_input_size(batch, shape):
    if batch * math.prod(shape) > 1_000_000:
        batch = 8
    critic, _ = linear(shape, 1.0)
    assert GradientPenalty(weight=10)(critic, *pair(batch, shape)) < 1e-12


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        (GradientPenalty(0.5), 0.5 * 2**2),
        (GradientPenalty(0.5, one_sided=True), 0.5 * 2**2),
        (GradientPenalty(0.5, target=4, one_sided=True), 0.0),
        (gb.DraganPenalty(0.5), 0.5 * 2**2),
        (gb.DraganPenalty(0.5, noise="gaussian"), 0.5 * 2**2),
        (R1Penalty(0.5), 0.25 * 3**2),
        (R2Penalty(0.5), 0.25 * 3**2),
        (gb.Lazy(R1Penalty(0.5), every=1), 0.25 * 3**2),
        (gb.Scheduled(R1Penalty(1.0), gb.StepSchedule(0.5, 1.0, 10**6)), 0.25 * 3**2),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [1, 2, 64, 257])
@pytest.mark.parametrize("shape", [(2,), (3, 5), (1, 8, 8), (3, 64, 64)], ids=str)
def test_slope_of_3_at_any_batch_and_input_size(penalty, expected, batch, shape):
    critic, _ = linear(shape, 3.0)
    if batch * math.prod(shape) > 1_000_000:
        batch = 33
    assert penalty(critic, *pair(batch, shape)).item() == pytest.approx(expected, rel=1e-9)


@given(st.floats(0, 30), st.integers(1, 9), st.sampled_from(SHAPES[:4]), st.floats(0.1, 20))
def test_values_on_a_linear_critic(slope, batch, shape, weight):
    critic, _ = linear(shape, slope)
    real, fake = pair(batch, shape)

    def value(penalty):
        return float(penalty(critic, real, fake))

    def near(expected):
        return pytest.approx(expected, rel=1e-9, abs=1e-9)

    assert value(GradientPenalty(weight)) == near(weight * (slope - 1) ** 2)
    expected = weight * max(slope - 1, 0) ** 2
    assert value(GradientPenalty(weight, one_sided=True)) == near(expected)
    assert value(GradientPenalty(weight, target=0)) == near(weight * slope**2)
    assert value(R1Penalty(weight)) == near(weight / 2 * slope**2)
    assert value(R2Penalty(weight)) == near(weight / 2 * slope**2)


@every
def test_shape_of_the_critics_output_does_not_matter(penalty):
    critic, _ = linear((5,), 3.0)
    real, fake = pair(6, (5,))

    def value(c):
        torch.manual_seed(0)
        return penalty(c, real, fake)

    expected = value(critic)
    torch.testing.assert_close(value(lambda x: critic(x)[:, None]), expected)
    patches = torch.tensor([0.25, 0.75], dtype=F64)
    torch.testing.assert_close(value(lambda x: critic(x)[:, None] * patches), expected)


@every
def test_gradient_reaches_the_critic_and_nothing_else(penalty):
    critic = nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 1)).double()
    generator = nn.Linear(2, 3).double()
    real = torch.randn(5, 3, dtype=F64, requires_grad=True)
    penalty(critic, real, generator(torch.randn(5, 2, dtype=F64))).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in critic.parameters())
    assert all(p.grad is None for p in generator.parameters())
    assert real.grad is None


@every
def test_zero_gradient_is_finite_in_value_and_derivative(penalty):
    critic = nn.Linear(4, 1)
    nn.init.zeros_(critic.weight)
    value = penalty(critic, torch.randn(3, 4), torch.randn(3, 4))
    value.backward()
    assert value.isfinite()
    assert critic.weight.grad is not None
    assert critic.weight.grad.isfinite().all()


def test_points_lie_between_real_and_fake_with_one_epsilon_per_sample():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    real, fake = torch.zeros(512, 3, 4, 4), torch.ones(512, 3, 4, 4)
    GradientPenalty()(critic, real, fake, generator=torch.Generator().manual_seed(0))
    (points,) = seen
    per_sample = points.flatten(1)
    assert (per_sample == per_sample[:, :1]).all(), "one epsilon per sample, not per pixel"
    shares = per_sample[:, 0].sort().values
    uniform = (torch.arange(512) + 0.5) / 512
    assert (shares - uniform).abs().max() < 0.08, "Kolmogorov-Smirnov distance to U[0, 1]"


def test_r1_looks_at_real_and_r2_at_fake():
    real, fake = torch.full((4, 1), 3.0), torch.full((4, 1), 5.0)
    square = {"critic": lambda x: (x**2 / 2).sum(1), "real": real, "fake": fake}
    assert R1Penalty(2.0)(**square) == 9.0
    assert R2Penalty(2.0)(**square) == 25.0
    assert R1Penalty(2.0)(square["critic"], real) == 9.0


@pytest.mark.parametrize("penalty", [R1Penalty(0.7), R2Penalty(0.7)], ids=str)
def test_from_logits_equals_the_call_in_value_and_gradient(penalty):
    critic = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x = torch.randn(5, 3, dtype=F64)
    direct = penalty(critic, x, x)
    by_call = torch.autograd.grad(direct, list(critic.parameters()), allow_unused=True)
    inputs = x.clone().requires_grad_()
    shared = penalty.from_logits(critic(inputs), inputs)
    by_logits = torch.autograd.grad(shared, list(critic.parameters()), allow_unused=True)
    torch.testing.assert_close(direct, shared)
    for a, b in zip(by_call, by_logits, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def test_from_logits_says_what_is_missing():
    critic, x = nn.Linear(3, 1), torch.randn(5, 3)
    with pytest.raises(ValueError, match=r"call inputs.requires_grad_\(\) before"):
        R1Penalty().from_logits(critic(x), x)


def test_same_generator_gives_the_same_points():
    critic = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    real, fake = torch.randn(5, 3), torch.randn(5, 3)

    def value(seed):
        return GradientPenalty()(critic, real, fake, generator=torch.Generator().manual_seed(seed))

    state = torch.get_rng_state()
    assert value(0) == value(0) != value(1)
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_value_under_no_grad(penalty):
    critic, _ = linear((3,), 3.0)
    with torch.no_grad():
        assert penalty(critic, *pair(5, (3,))).isfinite()


@every
def test_half_precision_models_are_computed_in_float32(penalty):
    w = torch.full((4096,), 0.25, dtype=torch.bfloat16)  # a norm of 16
    real, fake = torch.randn(4, 4096).bfloat16(), torch.randn(4, 4096).bfloat16()
    value = penalty(lambda x: x @ w, real, fake)
    assert value.dtype == torch.float32
    target = getattr(penalty, "target", None)
    expected = 5 * 16**2 if target is None else 10 * (16 - target) ** 2
    assert float(value) == pytest.approx(expected, rel=1e-3)


@every
def test_batch_norm_in_training_mode_is_named(penalty):
    critic = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    real, fake = torch.randn(5, 3), torch.randn(5, 3)
    with pytest.warns(UserWarning, match="a batch norm of 4 channels in the critic used the stat"):
        penalty(critic, real, fake)
    penalty(critic.eval(), real, fake)


@every
def test_a_layer_that_mixes_the_batch_on_purpose_gets_the_gradient_of_the_batchs_sum(penalty):
    def critic(x):
        return x[:, 0] + x.std(0).sum()

    assert penalty(critic, *pair(5, (3,))).isfinite()


@every
def test_wrong_use_is_explained(penalty):
    critic = nn.Linear(3, 1)
    good = torch.randn(4, 3)
    with pytest.raises(ValueError, match="should depend on inputs"):
        penalty(lambda x: critic(x.detach()), good, good)
    with pytest.raises(ValueError, match="should depend on inputs"):
        penalty(lambda x: torch.zeros(len(x)), good, good)
    with pytest.raises(TypeError, match="should be floating point"):
        penalty(critic, good.long(), good.long())
    with pytest.raises(TypeError, match="should be a tensor, got NoneType"):
        penalty(critic, None, None)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"use torch\.no_grad"):
        penalty(critic, good, good)
    with pytest.raises(
        TypeError, match=r"critic's output should be a tensor, or a list.*item 1 is a l"
    ):
        penalty(lambda x: [critic(x), [x]], good, good)
    with pytest.raises(ValueError, match="one sub-discriminator at least, got an empty"):
        penalty(lambda x: [], good, good)
    with pytest.raises(ValueError, match=r"logits of each of 4 samples, got shape \(\)"):
        penalty(lambda x: critic(x).mean(), good, good)
    with pytest.raises(ValueError, match="not empty"):
        penalty(critic, good[:0], good[:0])
    with pytest.raises(ValueError, match=r"logits of each of 3 samples, got shape \(1,\)"):
        penalty(critic, good[0], good[0])  # a sample without its batch


@every
def test_samples_made_under_inference_mode_are_samples_as_any(penalty):
    first = nn.Linear(3, 4)
    critic = nn.Sequential(first, nn.Tanh(), nn.Linear(4, 1))
    with torch.inference_mode():
        real, fake = torch.randn(2, 4, 3).unbind()
    made = [
        penalty(critic, *samples, generator=torch.Generator().manual_seed(0))
        for samples in ((real, fake), (real.clone(), fake.clone()))
    ]
    assert torch.equal(*made)
    made[0].backward()
    assert first.weight.grad is not None
    assert first.weight.grad.any()


@every
@pytest.mark.parametrize("critic", [nn.Linear, None, 3, "critic"])
def test_a_critic_is_called_and_no_class(penalty, critic):
    good = torch.randn(4, 3)
    with pytest.raises(TypeError, match="critic should be a module or a function"):
        penalty(critic, good, good)


def test_interpolation_needs_pairs():
    critic = nn.Linear(3, 1)
    with pytest.raises(ValueError, match=r"real \(4, 3\) and fake \(5, 3\) need one shape"):
        GradientPenalty()(critic, torch.randn(4, 3), torch.randn(5, 3))


def test_training_with_the_penalty_reaches_the_wasserstein_distance():
    # Two points 2 apart; over 1-Lipschitz critics the gap is 2.
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(1, 32), nn.Softplus(), nn.Linear(32, 1))
    # One-sided: the two-sided form also has a local minimum at slope -1, the critic upside down.
    loss, penalty = gan_blocks.WassersteinLoss(), GradientPenalty(weight=100.0, one_sided=True)
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3, betas=(0.0, 0.9))
    real, fake = torch.full((64, 1), 1.0), torch.full((64, 1), -1.0)
    for _ in range(800):
        value = loss.discriminator(critic(real), critic(fake)) + penalty(critic, real, fake)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    gap = -loss.discriminator(critic(real), critic(fake)).detach()
    assert float(gap) == pytest.approx(2.0, abs=0.1)


# --- DRAGAN, R1 and R2 by differences, lazy penalties ------------------------------------------------


def with_weights(*weights):
    w = torch.tensor(weights, dtype=torch.float64)
    return lambda x: x.flatten(1) @ w


@pytest.mark.parametrize("noise", ["uniform", "gaussian"])
@pytest.mark.parametrize("n", [1, 2, 257])
def test_dragan_of_a_linear_critic_is_exact_whatever_the_noise(noise, n):
    x = torch.randn(n, 2, dtype=torch.float64)
    value = gb.DraganPenalty(7.0, 2.0, noise)(with_weights(3.0, 4.0), x)
    assert value.item() == pytest.approx(7 * (5 - 2) ** 2)


@pytest.mark.parametrize(
    ("noise", "low", "high", "spread"), [("uniform", 0.0, 1.5, 0.3), ("gaussian", -6.0, 6.0, 0.5)]
)
def test_points_of_dragan_lie_where_the_source_draws_them(noise, low, high, spread):
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.sum(1)

    torch.manual_seed(0)
    real = 3.0 * torch.randn(4000, 3).sign()  # standard deviation 3
    gb.DraganPenalty(noise=noise, scale=0.5)(critic, real)
    moved = seen[0] - real
    assert moved.min() >= low
    assert moved.max() <= high
    if noise == "uniform":
        # 0.5 * 3 * alpha * u: mean 0.375, variance 2.25 (1/9 - 1/16); one alpha for a sample.
        assert moved.mean().item() == pytest.approx(0.375, abs=0.02)
        assert moved.std().item() == pytest.approx((2.25 * (1 / 9 - 1 / 16)) ** 0.5, rel=0.03)
        correlation = torch.corrcoef(moved.T)[0, 1].item()
        assert correlation == pytest.approx((1 / 12) / 4 / (1 / 9 - 1 / 16), abs=0.05)
    else:
        assert moved.std().item() == pytest.approx(spread, rel=0.03)
        assert abs(torch.corrcoef(moved.T)[0, 1].item()) < 0.05


@pytest.mark.parametrize("penalty", [gb.ApproximateR1Penalty, gb.ApproximateR2Penalty])
def test_approximation_of_a_linear_critic_is_r1_with_gamma_of_2_lambda_sigma_squared(penalty):
    torch.manual_seed(0)
    x, critic = torch.randn(200_000, 2, dtype=torch.float64), with_weights(3.0, 4.0)
    with torch.no_grad():
        value = penalty(weight=10.0, sigma=0.2)(critic, x, x)
    assert value.item() == pytest.approx(10 * 0.2**2 * 25, rel=0.02)
    exact = gb.R1Penalty(gamma=2 * 10 * 0.2**2)(critic, x)
    assert value.item() == pytest.approx(exact.item(), rel=0.02)


def test_approximation_tends_to_r1_and_its_gradient_to_that_of_r1():
    torch.manual_seed(0)
    critic = gb.MLPDiscriminator((2,), width=16, activation="tanh").double()
    x = torch.randn(1, 2, dtype=torch.float64).expand(100_000, 2)
    sigma = 1e-3
    near = gb.ApproximateR1Penalty(1 / (2 * sigma**2), sigma)(critic, x)
    exact = gb.R1Penalty(1.0)(critic, x[:1])
    parameters = list(critic.parameters())[:-1]
    a = torch.cat([g.flatten() for g in torch.autograd.grad(near, parameters)])
    b = torch.cat([g.flatten() for g in torch.autograd.grad(exact, parameters)])
    assert near.item() == pytest.approx(exact.item(), rel=0.02)
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.999
    assert (a.norm() / b.norm()).item() == pytest.approx(1, rel=0.03)


def test_both_logits_of_an_approximation_carry_the_gradient():
    penalty = gb.ApproximateR1Penalty(1.0, 0.1)
    clean, perturbed = (torch.randn(5, requires_grad=True) for _ in range(2))
    penalty.from_logits(clean, perturbed).backward()
    torch.testing.assert_close(clean.grad, -perturbed.grad)  # type: ignore[operator]
    torch.testing.assert_close(clean.grad, 2 * (clean - perturbed).detach() / 5)
    with pytest.raises(ValueError, match="should be of one shape"):
        penalty.from_logits(clean[:, None], perturbed)


def test_approximation_needs_no_second_derivative_and_trains_the_critic_only():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):  # type: ignore[override]
            return g

    weight = torch.tensor(2.0, requires_grad=True)
    fake = torch.randn(4, 3, requires_grad=True)
    value = gb.ApproximateR2Penalty()(lambda x: Once.apply(weight * x).sum(1), None, fake)
    value.backward()
    assert fake.grad is None
    assert weight.grad is not None


def test_lazy_penalty_is_the_penalty_on_average_and_leaves_the_critic_alone_between():
    calls = []

    def critic(x):
        calls.append(1)
        return x.sum(1)

    penalty, real = gb.R1Penalty(2.0), torch.randn(3, 2)
    lazy = gb.Lazy(penalty, every=4)
    values = []
    for _ in range(12):
        values.append(lazy(critic, real, None).item())
        lazy.step()
    assert len(calls) == 3
    assert values[0] == values[4] == values[8] == 4 * penalty(critic, real).item()
    assert sum(values) / 12 == pytest.approx(penalty(critic, real).item())


def test_lazy_penalty_counts_on_from_its_state():
    lazy, fresh = (gb.Lazy(gb.R1Penalty(), every=3) for _ in range(2))
    real = torch.randn(3, 2)
    for _ in range(2):
        lazy.step()
    fresh.load_state_dict(lazy.state_dict())
    assert [fresh.is_due(), int(fresh.step_count)] == [False, 2]
    assert fresh(lambda x: x.sum(1), real, None) == 0
    fresh.step()
    assert fresh.is_due()


def test_adam_of_a_lazy_penalty_is_stylegan2s():
    arguments = gb.Lazy(gb.R1Penalty(), every=16).adam(0.0025, (0.0, 0.99))
    assert arguments["lr"] == pytest.approx(0.0025 * 16 / 17)
    assert arguments["betas"] == pytest.approx((0.0, 0.99 ** (16 / 17)))


@pytest.mark.parametrize(
    ("spec", "defaults"),
    [
        (
            {"block": "GradientPenalty"},
            {"weight": 10.0, "target": 1.0, "one_sided": False, "combine": "sum"},
        ),
        (
            {"block": "DraganPenalty"},
            {"weight": 10.0, "target": 1.0, "noise": "uniform", "scale": 0.5, "combine": "sum"},
        ),
        ({"block": "R1Penalty"}, {"gamma": 10.0, "combine": "sum"}),
        ({"block": "R2Penalty"}, {"gamma": 10.0, "combine": "sum"}),
        ({"block": "ApproximateR1Penalty"}, {"weight": 100.0, "sigma": 0.01, "combine": "sum"}),
        ({"block": "ApproximateR2Penalty"}, {"weight": 100.0, "sigma": 0.01, "combine": "sum"}),
        (
            {"block": "Lazy", "penalty": {"block": "R1Penalty", "gamma": 10.0, "combine": "sum"}},
            {"every": 16},
        ),
    ],
    ids=lambda x: x.get("block"),
)
def test_settings_left_out_are_those_of_the_papers(spec, defaults):
    assert gb.to_spec(gb.build(spec)) == spec | defaults


def test_adam_of_a_lazy_penalty_starts_from_torchs_betas():
    assert gb.Lazy(gb.R1Penalty(), every=1).adam(1.0) == {
        "lr": 0.5,
        "betas": (0.9**0.5, 0.999**0.5),
    }


# --- Dirac-GAN (Mescheder et al. 2018): every sign and every factor of two -----------------------------

GAMES = [
    (gb.NonSaturatingLoss(), 0.5, -0.5),
    (gb.WassersteinLoss(), 1.0, -1.0),
    (gb.HingeLoss(), 1.0, -1.0),
]
EPSILON = torch.randn(1, 1, generator=torch.Generator().manual_seed(0)).item()


class SameNoise(nn.Module):
    """A penalty that draws the same noise each time."""

    def __init__(self, penalty):
        super().__init__()
        self.penalty = penalty

    def forward(self, critic, real, fake):
        return self.penalty(critic, real, fake, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("penalties", "gamma"),
    [
        ([gb.R1Penalty(0.5), gb.R2Penalty(0.75)], 1.25),
        # For a linear critic lambda sigma^2 epsilon^2 psi^2, with this one epsilon.
        ([SameNoise(gb.ApproximateR1Penalty(3.0, 0.5))], 2 * 3 * 0.25 * EPSILON**2),
        ([SameNoise(gb.ApproximateR2Penalty(3.0, 0.5))], 2 * 3 * 0.25 * EPSILON**2),
        ([gb.Scheduled(gb.R1Penalty(1.0), gb.LinearSchedule(0.7, 0.7, 1))], 0.7),
        ([gb.Lazy(gb.R1Penalty(0.25), every=1)], 0.25),
    ],
    ids=str,
)
@pytest.mark.parametrize(("loss", "critic_slope", "generator_slope"), GAMES, ids=str)
def test_eigenvalues_of_the_dirac_gan_with_each_penalty(
    penalties, gamma, loss, critic_slope, generator_slope
):
    root = (gamma**2 / 4 + critic_slope * generator_slope + 0j) ** 0.5
    expected = sorted([-gamma / 2 - root, -gamma / 2 + root], key=lambda z: (z.real, z.imag))
    for actual, exact in zip(eigenvalues(loss, penalties), expected, strict=True):
        assert actual == pytest.approx(exact, abs=1e-7)


@pytest.mark.parametrize("penalty", [gb.GradientPenalty(3.0), gb.DraganPenalty(3.0)], ids=str)
def test_dirac_gan_finds_no_rest_where_the_norm_is_held_to_1(penalty):
    field = gradient_field(gb.WassersteinLoss(), [penalty])
    for side in (1, -1):
        push = field(torch.tensor([side * 1e-9, 0.0], dtype=F64))[0]
        assert push.item() == pytest.approx(side * 6, abs=1e-6)
