"""Clipping, and the Lipschitz bounds that follow from it."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import nn

from gan_blocks import (
    MLPDiscriminator,
    MLPGenerator,
    WassersteinLoss,
    WeightClipper,
    lipschitz_bound,
    lipschitz_rule,
)

F64 = torch.float64

ACTIVATIONS = [
    nn.Identity(),
    nn.ReLU(),
    nn.LeakyReLU(0.2),
    nn.LeakyReLU(1.7),
    nn.LeakyReLU(-2.0),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.Softplus(),
    nn.Softplus(beta=4),
    nn.ELU(),
    nn.ELU(alpha=3.0),
    nn.SELU(),
    nn.SiLU(),
    nn.GELU(),
    nn.LogSigmoid(),
    nn.Hardtanh(-3, 2),
    nn.Dropout(0.5).eval(),
]


# --- the bound ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_rule_of_an_activation_is_the_largest_slope(activation):
    bound = lipschitz_bound(activation, (1,))
    x = torch.linspace(-8, 8, 400_001, dtype=F64).requires_grad_()
    (slope,) = torch.autograd.grad(activation(x).sum(), x)
    assert slope.abs().max() <= bound + 1e-12
    assert slope.abs().max() >= 0.999 * bound, "attained"


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_rule_of_a_linear_layer_is_the_operator_norm_from_above(n, m, seed):
    torch.manual_seed(seed)
    layer = nn.Linear(n, m, dtype=F64)
    bound = lipschitz_bound(layer, (n,))
    exact = torch.linalg.svdvals(layer.weight)[0]
    assert exact <= bound <= exact * (1 + 1e-12)
    right = torch.linalg.svd(layer.weight).Vh[0]
    attained = (layer(right) - layer(torch.zeros(n, dtype=F64))).norm()
    torch.testing.assert_close(attained, torch.tensor(bound, dtype=F64))


@settings(max_examples=40)
@given(
    st.integers(1, 4),
    st.integers(1, 24),
    st.integers(0, 3),
    st.sampled_from(["relu", "leaky_relu", "silu", "tanh", "softplus"]),
    st.floats(0.01, 1.0),
    st.integers(0, 2**31),
)
def test_product_bound_holds_for_clipped_mlps_on_random_pairs(n, width, depth, activation, c, seed):
    torch.manual_seed(seed)
    critic = MLPDiscriminator((n,), width, depth, activation, dtype=F64)  # pyright: ignore[reportArgumentType]
    for p in critic.parameters():
        nn.init.normal_(p)
    WeightClipper(c)(critic)
    bound = lipschitz_bound(critic, (n,))
    sizes = [n, *[width] * depth, 1]
    slope = 1.0998393201288672 if activation == "silu" else 1.0
    product = math.prod(c * math.sqrt(a * b) for a, b in itertools.pairwise(sizes))
    assert bound <= product * slope**depth * (1 + 1e-9)
    x, y = 3 * torch.randn(200, n, dtype=F64), 3 * torch.randn(200, n, dtype=F64)
    y[100:] = x[100:] + 1e-4 * y[100:]
    gap = (critic(x) - critic(y)).abs()
    assert (gap <= bound * (x - y).norm(dim=1) * (1 + 1e-9) + 1e-12).all()


def wasserstein_1(x, y):
    """The exact distance of two point sets, as the transport linear program."""
    n, m = len(x), len(y)
    cost = torch.cdist(x, y).flatten().numpy()
    rows = torch.zeros(n + m, n * m)
    for i in range(n):
        rows[i, i * m : (i + 1) * m] = 1
    for j in range(m):
        rows[n + j, j::m] = 1
    mass = torch.cat([torch.full((n,), 1 / n), torch.full((m,), 1 / m)])
    return linprog(cost, A_eq=rows.numpy(), b_eq=mass.numpy(), bounds=(0, None)).fun


@settings(max_examples=25)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 3), st.integers(0, 2**31))
def test_gap_over_the_certified_constant_never_exceeds_the_exact_distance(n, m, d, seed):
    torch.manual_seed(seed)
    x, y = torch.randn(n, d, dtype=F64), torch.randn(m, d, dtype=F64) + 0.5
    exact = wasserstein_1(x, y)
    critic = MLPDiscriminator((d,), width=16, depth=1, activation="softplus", dtype=F64)
    optimiser = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for step in range(40):
        loss = WassersteinLoss().discriminator(critic(x), critic(y))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        WeightClipper(0.5)(critic)
        if step % 20 == 19:
            gap = -float(WassersteinLoss().discriminator(critic(x), critic(y)).detach())
            assert gap / lipschitz_bound(critic, (d,)) <= exact * (1 + 1e-6) + 1e-9


def test_distance_of_a_pair_is_attained_by_a_linear_critic():
    x, y = torch.tensor([[0.0, 0.0]], dtype=F64), torch.tensor([[3.0, 4.0]], dtype=F64)
    critic = nn.Linear(2, 1, bias=False, dtype=F64)
    critic.weight.data = torch.tensor([[-0.6, -0.8]], dtype=F64)
    gap = -float(WassersteinLoss().discriminator(critic(x), critic(y)).detach())
    assert gap / lipschitz_bound(critic, (2,)) == pytest.approx(5.0)
    assert wasserstein_1(x, y) == pytest.approx(5.0)


def test_shape_is_followed_through_a_sequential():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Unflatten(1, (5, 1)), nn.Linear(1, 2))
    assert lipschitz_bound(net, (3, 4)) > 0
    with pytest.raises(ValueError, match="takes 12 features, got shape"):
        lipschitz_bound(net, (3, 5))


def test_own_networks_have_a_rule():
    generator = MLPGenerator(3, (1, 2, 2), width=5, output="sigmoid", dtype=F64)
    bound = lipschitz_bound(generator, (3,))
    x, y = torch.randn(100, 3, dtype=F64), torch.randn(100, 3, dtype=F64)
    gap = (generator(x) - generator(y)).flatten(1).norm(dim=1)
    assert (gap <= bound * (x - y).norm(dim=1)).all()


class Doubling(nn.ReLU):
    def forward(self, input):
        return 2 * input


@pytest.mark.parametrize(
    ("module", "shape", "text"),
    [
        (nn.Conv2d(1, 1, 3), (1, 8, 8), "no Lipschitz bound is known for Conv2d"),
        (nn.Sequential(nn.BatchNorm1d(3)), (3,), "no Lipschitz bound is known for BatchNorm1d"),
        (MLPDiscriminator((3,), norm="layer"), (3,), "no Lipschitz bound is known for LayerNorm"),
        (Doubling(), (3,), "no Lipschitz bound is known for Doubling"),
        (nn.Dropout(0.5), (3,), "dropout in training mode"),
        (nn.GELU("tanh"), (3,), "tanh approximation"),
        (nn.Softplus(threshold=1), (3,), "jumps at its threshold"),
        (nn.Linear(3, 3, dtype=torch.complex64), (3,), "complex weights"),
    ],
)
def test_what_has_no_rule_is_refused(module, shape, text):
    with pytest.raises(TypeError, match=text):
        lipschitz_bound(module, shape)


def test_a_module_with_a_hook_is_refused():
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda *passed: passed[2] * 10)
    with pytest.raises(TypeError, match="Linear in this state"):
        lipschitz_bound(layer, (2,))


def test_weights_that_are_not_finite_are_refused():
    layer = nn.Linear(2, 2)
    layer.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        lipschitz_bound(layer, (2,))


def test_spectral_normalisation_gives_a_bound_near_one():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4), n_power_iterations=50).eval()
    assert lipschitz_bound(layer, (4,)) == pytest.approx(1.0, rel=0.05)


def test_subclass_that_keeps_forward_keeps_the_rule():
    class Named(nn.ReLU):
        pass

    assert lipschitz_bound(Named(), (3,)) == 1.0


def test_rules_can_be_added():
    class Third(nn.Module):
        def forward(self, x):
            return x / 3

    @lipschitz_rule(Third)
    def third(module, input_shape):
        return 1 / 3

    assert lipschitz_bound(nn.Sequential(Third(), nn.Sigmoid()), (2,)) == pytest.approx(1 / 12)
