"""Bounds on Lipschitz constants are certain, and exact where they can be."""

import itertools
import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import nn
from torch.autograd.functional import jacobian
from torch.nn.utils.parametrizations import spectral_norm

from gan_blocks import (
    DCGANDiscriminator,
    DCGANGenerator,
    EqualizedConv2d,
    EqualizedLinear,
    GaussianNoise,
    MLPDiscriminator,
    MLPGenerator,
    MultiScaleDiscriminator,
    PatchDiscriminator,
    PixelNorm,
    R3GANDiscriminator,
    R3GANGenerator,
    ResidualDown2d,
    ResidualUp2d,
    ResNetDiscriminator,
    ResNetGenerator,
    SelfAttention2d,
    SpectralNorm,
    WassersteinLoss,
    WeightClipper,
    lipschitz_bound,
    lipschitz_rule,
)
from gan_blocks.layers._batch_norm import BatchNorm2d
from gan_blocks.lipschitz import convolution, linear
from gan_blocks.networks import r3gan

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
    nn.ReLU6(),
    nn.Softsign(),
    nn.CELU(alpha=0.3),
    nn.PReLU(init=0.3),
    nn.PReLU(init=-1.5),
    nn.Dropout(0.5).eval(),
]


def matrix_of(module, shape):
    """The matrix of the module's derivative at 0, entry by entry."""
    zero = torch.zeros(1, *shape, dtype=F64)
    rows = jacobian(lambda x: module(x).flatten(), zero)
    return rows.reshape(-1, math.prod(shape))  # type: ignore[union-attr]


def dense_norm(module, shape):
    return float(torch.linalg.svdvals(matrix_of(module, shape))[0])


def assert_holds(module, shape, bound, points=4):
    """On far and near pairs, and along the derivative's steepest direction."""

    def values(x):
        y = module(x)
        parts = y if isinstance(y, list) else [y]
        return torch.cat([part.reshape(len(x), -1) for part in parts], 1)

    x, y = 3 * torch.randn(40, *shape, dtype=F64), 3 * torch.randn(40, *shape, dtype=F64)
    y[20:] = x[20:] + 1e-4 * y[20:]
    gap = (values(x) - values(y)).norm(dim=1)
    assert (gap <= bound * (x - y).flatten(1).norm(dim=1) * (1 + 1e-9) + 1e-12).all()
    for point in x[:points]:
        slopes = jacobian(lambda z: values(z[None])[0], point)
        slopes = slopes.reshape(-1, point.numel())  # type: ignore[union-attr]
        assert torch.linalg.svdvals(slopes)[0] <= bound * (1 + 1e-9)


# --- activations, linear layers and multilayer perceptrons --------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_rule_of_an_activation_is_the_largest_slope(activation):
    bound = lipschitz_bound(activation, (1,))
    x = torch.linspace(-8, 8, 400_001, dtype=F64).requires_grad_()
    activation = activation.double()
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


# --- convolutions --------------------------------------------------------------------------------------

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@st.composite
def convolutions(draw):
    """A convolution, transposed or not, and a small map that it takes."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    dimensions, groups = draw(st.sampled_from([1, 2, 2, 3])), draw(st.integers(1, 2))

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dimensions))

    before, after = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel, stride, dilation, padding = each(1, 3), each(1, 3), each(1, 2), each(0, 2)
    sizes = each(5, 6) if dimensions < 3 else each(5, 5)
    if draw(st.booleans()):
        more = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
        layer = TRANSPOSED[dimensions](
            before, after, kernel, stride, padding, more, groups, dilation=dilation, dtype=F64
        )
        smallest = zip(kernel, stride, dilation, padding, sizes, strict=True)
        if min((n - 1) * s - 2 * p + d * (k - 1) + 1 for k, s, d, p, n in smallest) < 1:
            layer.padding = (0,) * dimensions
    else:
        mode = draw(st.sampled_from(["zeros", "zeros", "circular", "reflect", "replicate"]))
        if draw(st.booleans()) and draw(st.booleans()):
            stride, padding = 1, "same"
        layer = CONVOLUTIONS[dimensions](
            before, after, kernel, stride, padding, dilation, groups, padding_mode=mode, dtype=F64
        )
    return layer, (before, *sizes)


@settings(max_examples=60, deadline=None)
@given(convolutions())
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_bound_of_a_small_convolution_is_attained(drawn):
    layer, shape = drawn
    bound = lipschitz_bound(layer, shape)
    right = torch.linalg.svd(matrix_of(layer, shape)).Vh[0].view(1, *shape)
    attained = float((layer(right) - layer(torch.zeros_like(right))).detach().norm())
    assert attained <= bound
    assert attained == pytest.approx(bound, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(convolutions())
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_bound_of_a_large_convolution_is_never_below_the_dense_norm(drawn):
    layer, shape = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "_WORK", 0)  # nothing is small
        assert dense_norm(layer, shape) <= lipschitz_bound(layer, shape)


@pytest.mark.parametrize(
    ("layer", "shape", "ratio"),
    [
        (nn.Conv1d(3, 4, 5, padding=2), (3, 120), 1.006),
        (nn.Conv2d(2, 3, 3, padding=1), (2, 16, 16), 1.01),
        (nn.Conv2d(2, 3, 3), (2, 16, 16), 1.02),
        (nn.Conv2d(2, 3, 4, 2, 1), (2, 16, 16), 1.02),
        (nn.Conv2d(2, 2, 3, padding=2, dilation=2), (2, 16, 16), 1.08),
        (nn.Conv2d(4, 4, 3, padding=1, groups=2), (4, 16, 16), 1.02),
        (nn.ConvTranspose2d(3, 2, 4, 2, 1), (3, 8, 8), 1.02),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 16, 16), 1 + 1e-6),
        (nn.Conv2d(2, 3, 4, 2, 1, padding_mode="circular"), (2, 16, 16), 1 + 1e-6),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), (2, 16, 16), 2.0),
        (nn.Conv2d(4, 8, 1), (4, 16, 16), 1 + 1e-6),
    ],
    ids=str,
)
def test_bound_of_a_large_convolution_is_close(layer, shape, ratio, monkeypatch):
    torch.manual_seed(0)
    layer = layer.double()
    for p in layer.parameters():
        nn.init.normal_(p)
    monkeypatch.setattr(linear, "_WORK", 0)
    exact, bound = dense_norm(layer, shape), lipschitz_bound(layer, shape)
    assert exact <= bound <= ratio * exact


@given(*[st.integers(1, 7)] * 2, *[st.integers(1, 3)] * 2, *[st.integers(0, 4)] * 2)
def test_on_the_torus_no_output_meets_the_other_end_of_the_map(size, kernel, s, d, before, after):
    axis = convolution._Axis(size, kernel, s, d, before, after)
    side, offsets, phases = axis.torus("zeros"), *axis.taps
    assert axis.outputs <= side
    for output in range(axis.outputs):
        for t in range(kernel):
            position = output * s + d * t - before
            on_torus = int((output + offsets[t]) % side) * s + int(phases[t])
            assert on_torus == position if 0 <= position < size else on_torus >= size


@pytest.mark.parametrize(
    ("weight", "stride", "padding", "size", "exact"),
    [
        ([1.0], 1, 1, 4, 2**0.5),  # two of the outputs repeat others
        ([1.0, 0.0, 0.0, 1.0], 2, 1, 5, 3**0.5),  # both outputs meet the last entry
    ],
)
def test_a_map_that_is_not_its_own_torus_is_not_treated_as_one(
    weight, stride, padding, size, exact, monkeypatch
):
    layer = nn.Conv1d(1, 1, len(weight), stride, padding, padding_mode="circular", dtype=F64)
    layer.weight.data = torch.tensor([[weight]], dtype=F64)
    assert lipschitz_bound(layer, (1, size)) == pytest.approx(exact)
    monkeypatch.setattr(linear, "_WORK", 0)
    assert lipschitz_bound(layer, (1, size)) >= exact


def test_a_coarse_grid_of_frequencies_costs_at_most_its_margin():
    # |1 + e^{i w}| is largest, 2, at one frequency only, and falls as the cosine of the theorem.
    axis = convolution._Axis(1000, 2, 1, 1, 0, 0)
    waves, margin = axis.waves(axis.torus("zeros"))
    assert len(waves) == 16
    assert margin == pytest.approx(1 / math.cos(math.pi / 32))
    # Turned so that the peak lies in the middle between two frequencies, nothing is left over.
    turned = torch.tensor([1.0, 0.0], dtype=F64) + 0j
    turned[1] = torch.exp(torch.tensor(1j * math.pi / 16, dtype=torch.complex128))
    assert float((waves[:, 0] * turned).sum(1).abs().max()) * margin == pytest.approx(2)


def test_bound_of_a_large_map_is_the_limit_of_the_norms_of_ever_larger_ones():
    # [1, 2, 1] on n pixels has the norm 2 + 2 cos(pi / (n + 1)), below 4.
    layer = nn.Conv1d(1, 1, 3, padding=1, dtype=F64)
    layer.weight.data = torch.tensor([[[1.0, 2.0, 1.0]]], dtype=F64)
    for n in (5, 50, 500):
        assert lipschitz_bound(layer, (1, n)) == pytest.approx(2 + 2 * math.cos(math.pi / (n + 1)))
    assert 4 <= lipschitz_bound(layer, (1, 10**6)) <= 4 * 1.005


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(0, 1), st.integers(3, 8))
def test_a_transposed_convolution_is_the_adjoint_and_has_the_same_norm(seed, stride, padding, n):
    torch.manual_seed(seed)
    forth = nn.Conv2d(3, 2, 3, stride, padding, bias=False, dtype=F64)
    x = torch.randn(1, 3, n, n, dtype=F64)
    y = torch.randn_like(forth(x))
    rest = (n + 2 * padding - 3) % stride
    back = nn.ConvTranspose2d(2, 3, 3, stride, padding, rest, bias=False, dtype=F64)
    back.weight = forth.weight
    torch.testing.assert_close((forth(x) * y).sum(), (x * back(y)).sum())
    bounds = lipschitz_bound(forth, (3, n, n)), lipschitz_bound(back, tuple(y.shape[1:]))
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-9)


def test_norm_of_the_reshaped_weights_is_not_the_norm_of_the_convolution():
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False, dtype=F64)
    nn.init.constant_(layer.weight, 1 / 3)
    assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2) == pytest.approx(1)
    # The mean over 3 pixels, times 3, in both directions; the limit is sqrt(3 * 3).
    line = (1 + 2 * math.cos(math.pi / 17)) / 3
    assert lipschitz_bound(layer, (1, 16, 16)) == pytest.approx(3 * line**2)


def test_spectral_normalisation_leaves_a_convolution_above_one():
    torch.manual_seed(0)
    layer: Any
    layer = spectral_norm(nn.Conv2d(8, 8, 3, padding=1), n_power_iterations=100).eval().double()
    assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2) == pytest.approx(
        1, rel=0.02
    )
    assert 1.4 < lipschitz_bound(layer, (8, 6, 6)) < 3
    assert lipschitz_bound(layer, (8, 6, 6)) == pytest.approx(dense_norm(layer, (8, 6, 6)))


def test_weight_normalised_convolution_has_the_norm_of_what_it_computes():
    layer = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 3, dtype=F64))
    assert lipschitz_bound(layer, (2, 9)) == pytest.approx(dense_norm(layer, (2, 9)))


@pytest.mark.parametrize("power", [-180, 0, 140])
def test_weights_of_any_size_keep_the_bound(power):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 2, 3, padding=1, dtype=F64)
    usual = lipschitz_bound(layer, (2, 5, 5))
    layer.weight.data *= 10.0**power
    assert lipschitz_bound(layer, (2, 5, 5)) == pytest.approx(usual * 10.0**power, rel=1e-9, abs=0)


def test_a_convolution_of_zeros_is_constant():
    layer = nn.Conv2d(2, 2, 3)
    nn.init.zeros_(layer.weight)
    assert lipschitz_bound(layer, (2, 5, 5)) == 0


# --- pooling, resizing and padding ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "shape", "bound"),
    [
        (nn.AvgPool1d(3), (2, 9), 3**-0.5),
        (nn.AvgPool2d(2), (2, 6, 6), 1 / 2),
        (nn.AvgPool2d(2), (1, 7, 5), 1 / 2),
        (nn.AvgPool3d(2), (1, 4, 4, 4), 8**-0.5),
        (nn.AvgPool2d(2, divisor_override=1), (1, 4, 4), 2.0),
        (nn.AdaptiveAvgPool1d(2), (3, 6), 3**-0.5),
        (nn.AdaptiveAvgPool2d(1), (3, 4, 5), 20**-0.5),
        (nn.AdaptiveAvgPool3d(1), (1, 2, 2, 3), 12**-0.5),
        (nn.Upsample(scale_factor=2), (2, 5), 2**0.5),
        (nn.Upsample(scale_factor=2), (2, 3, 4), 2.0),
        (nn.UpsamplingNearest2d(scale_factor=3), (1, 3, 3), 3.0),
        (nn.CircularPad1d(1), (1, 5), 2**0.5),
        (nn.ReplicationPad2d(2), (1, 5, 5), 9**0.5),
        (nn.ReplicationPad3d(1), (1, 2, 3, 2), 8**0.5),
        (nn.ReflectionPad1d(2), (1, 6), 2**0.5),
        (nn.ZeroPad2d(3), (1, 4, 4), 1.0),
        (nn.ConstantPad1d(2, 5.0), (1, 4), 1.0),
        (nn.PixelShuffle(2), (8, 3, 3), 1.0),
        (nn.PixelUnshuffle(2), (2, 4, 4), 1.0),
        (nn.ChannelShuffle(2), (4, 2, 2), 1.0),
    ],
    ids=str,
)
def test_bound_of_pooling_and_padding_is_attained(module, shape, bound):
    assert lipschitz_bound(module, shape) == pytest.approx(bound)
    assert dense_norm(module, shape) == pytest.approx(bound)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.AvgPool1d(3, 1), (1, 9)),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (1, 7, 6)),
        (nn.AvgPool2d(3, 2, ceil_mode=True), (2, 6, 6)),
        (nn.AdaptiveAvgPool2d((3, 4)), (1, 7, 6)),
        (nn.AdaptiveAvgPool1d(7), (1, 3)),
        (nn.Upsample(scale_factor=2, mode="linear"), (1, 6)),
        (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 4, 5)),
        (nn.Upsample((7, 5), mode="bilinear", align_corners=True), (1, 4, 4)),
        (nn.Upsample(scale_factor=1.6, mode="nearest-exact"), (1, 4, 5)),
        (nn.Upsample(2, mode="trilinear"), (1, 3, 3, 3)),
        (nn.ReflectionPad2d(2), (1, 5, 4)),
    ],
    ids=str,
)
def test_bound_of_overlapping_means_is_exact_or_by_schur_a_little_above(module, shape, monkeypatch):
    exact = dense_norm(module, shape)
    assert exact <= lipschitz_bound(module, shape) <= exact * (1 + 1e-6)
    monkeypatch.setattr(linear, "_WORK", 0)
    assert exact <= lipschitz_bound(module, shape) <= 1.4 * exact


@pytest.mark.parametrize(
    ("module", "shape", "bound"),
    [
        (nn.MaxPool1d(3), (1, 9), 1),
        (nn.MaxPool1d(3, 2), (1, 9), 2**0.5),
        (nn.MaxPool1d(3, 1, 1), (1, 9), 3**0.5),
        (nn.MaxPool1d(3, 2, dilation=2), (1, 11), 3**0.5),
        (nn.MaxPool1d(2, 2, dilation=3, ceil_mode=True), (1, 11), 1),
        (nn.MaxPool2d(3, 2), (1, 7, 7), 2),
        (nn.MaxPool2d(3, (2, 3), ceil_mode=True), (1, 7, 7), 2**0.5),
        (nn.MaxPool3d(2, 1), (1, 4, 4, 4), 8**0.5),
        (nn.AdaptiveMaxPool1d(4), (1, 6), 2**0.5),
        (nn.AdaptiveMaxPool1d(3), (1, 6), 1),
        (nn.AdaptiveMaxPool2d((None, 5)), (1, 4, 3), 3**0.5),
    ],
    ids=str,
)
def test_bound_of_a_maximum_is_attained_at_a_single_peak(module, shape, bound):
    assert lipschitz_bound(module, shape) == pytest.approx(bound)
    flat = torch.zeros(1, *shape, dtype=F64)
    peaks = torch.eye(flat.numel(), dtype=F64).view(-1, *shape)
    gaps = (module(peaks) - module(flat)).flatten(1).norm(dim=1)
    assert gaps.max() == pytest.approx(bound)
    torch.manual_seed(0)
    assert_holds(module, shape, bound)


# --- normalisation and own layers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(3), BatchNorm2d(3), nn.BatchNorm2d(3, affine=False)]
)
def test_batch_norm_in_evaluation_is_a_scale(layer):
    layer = layer.double().eval()
    layer.running_var.copy_(torch.tensor([4.0, 0.25, 1.0]))
    if layer.affine:
        layer.weight.data = torch.tensor([1.0, -0.5, -3.0], dtype=F64)
    bound = 3 / math.sqrt(1 + 1e-5) if layer.affine else 1 / math.sqrt(0.25 + 1e-5)
    assert lipschitz_bound(layer, (3, 2, 2)) == pytest.approx(bound)
    assert dense_norm(layer, (3, 2, 2)) == pytest.approx(bound)


def test_pixel_norm_is_steepest_at_zero():
    layer = PixelNorm(eps=0.04)
    assert lipschitz_bound(layer, (3, 2)) == pytest.approx(5)
    assert dense_norm(layer, (3, 2)) == pytest.approx(5)
    torch.manual_seed(0)
    assert_holds(layer, (3, 2), 5)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (EqualizedLinear(5, 3, gain=2.0, lr_multiplier=0.01, dtype=F64), (5,)),
        (EqualizedConv2d(2, 3, 3, 2, 1, gain=2.0, lr_multiplier=0.5, dtype=F64), (2, 6, 6)),
        (r3gan._Up(2, 3, {"dtype": F64}), (2, 4, 4)),
        (r3gan._Down(2, 3, {"dtype": F64}), (2, 6, 6)),
        (GaussianNoise(0.5).eval(), (3, 2)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_bound_of_a_linear_layer_of_this_library(layer, shape):
    exact, bound = dense_norm(layer, shape), lipschitz_bound(layer, shape)
    assert exact * (1 - 1e-12) <= bound
    # A product of two norms, of smoothing and of a 1x1 convolution, is that of their product.
    assert bound == pytest.approx(exact, rel=1e-6)


def test_bound_of_a_learned_basis_is_its_longest_map_times_the_linear_map():
    torch.manual_seed(0)
    layer = r3gan._GenerativeBasis(4, 3, 2, {"dtype": F64})
    longest = layer.basis.flatten(1).norm(dim=1).max().item()
    bound = lipschitz_bound(layer, (4,))
    assert bound == pytest.approx(longest * dense_norm(layer.linear, (4,)))
    assert bound >= dense_norm(layer, (4,))
    layer.basis.data /= layer.basis.detach().flatten(1).norm(dim=1)[:, None, None]
    assert lipschitz_bound(layer, (4,)) == pytest.approx(dense_norm(layer, (4,))), "attained"


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("after", "downsample"), [(3, True), (3, False), (2, False)])
def test_bound_of_a_halving_block_is_branch_plus_shortcut(first, after, downsample):
    torch.manual_seed(0)
    block = ResidualDown2d(2, after, downsample, first, dtype=F64)
    shape = (2, 6, 6)
    hidden = (block.conv1.out_channels, 6, 6)
    branch = dense_norm(block.conv1, shape) * dense_norm(block.conv2, hidden)
    shortcut = dense_norm(block.shortcut, shape)
    factor = 1 / 2 if downsample else 1
    bound = lipschitz_bound(block, shape)
    assert bound == pytest.approx(factor * (branch + shortcut), rel=1e-6)
    assert_holds(block, shape, bound)


def test_bound_of_a_doubling_block_is_branch_plus_shortcut():
    torch.manual_seed(0)
    block = ResidualUp2d(2, 3, dtype=F64).eval()
    block.norm1.running_var.fill_(0.25)  # type: ignore[operator,union-attr]
    block.norm2.running_var.fill_(9.0)  # type: ignore[operator,union-attr]
    convolved = dense_norm(block.conv1, (2, 8, 8)) * dense_norm(block.conv2, (3, 8, 8))
    scales = 1 / math.sqrt((0.25 + 1e-5) * (9 + 1e-5))
    wanted = 2 * scales * convolved + 2 * dense_norm(block.shortcut, (2, 4, 4))
    assert lipschitz_bound(block, (2, 4, 4)) == pytest.approx(wanted, rel=1e-6)
    assert_holds(block, (2, 4, 4), wanted)


def test_bound_of_a_bottleneck_is_one_plus_its_branch():
    torch.manual_seed(0)
    block = r3gan._Bottleneck(2, 2, 2, 4, {"dtype": F64})
    assert lipschitz_bound(block, (2, 4, 4)) == 1, "its last convolution starts at 0"
    nn.init.normal_(block.layers[4].weight)  # type: ignore[arg-type]
    convolutions = zip((0, 2, 4), ((2, 4, 4), (4, 4, 4), (4, 4, 4)), strict=True)
    product = math.prod(dense_norm(block.layers[i], shape) for i, shape in convolutions)
    bound = lipschitz_bound(block, (2, 4, 4))
    assert bound == pytest.approx(1 + product, rel=1e-6)
    assert_holds(block, (2, 4, 4), bound)


# --- networks ------------------------------------------------------------------------------------------


def random_network(seed):
    """A few random layers, in turn, that take a map of 2 channels and 6 to 8 pixels."""
    torch.manual_seed(seed)
    chance = random.Random(seed)
    shape = (2, chance.randint(6, 8), chance.randint(6, 8))
    layers, channels = [], 2
    for _ in range(chance.randint(1, 4)):
        after = 2 * chance.randint(1, 2)
        kernel, stride, dilation = chance.randint(1, 3), chance.randint(1, 2), chance.randint(1, 2)
        mode: Any = chance.choice(["zeros", "circular", "reflect", "replicate"])
        group = chance.choice([1, 2])
        layer = chance.choice(
            [
                nn.Conv2d(channels, after, kernel, stride, 1, dilation, group, padding_mode=mode),
                nn.ConvTranspose2d(channels, after, kernel, stride, 0, 0, group),
                ResidualDown2d(channels, after, downsample=False),
                nn.AvgPool2d(2, 1),
                nn.MaxPool2d(2, chance.randint(1, 2)),
                nn.Upsample(scale_factor=2, mode=chance.choice(["nearest", "bilinear"])),
                nn.BatchNorm2d(channels),
            ]
        )
        candidate = nn.Sequential(*layers, layer).eval()
        try:
            sides = tuple(candidate(torch.zeros(1, *shape)).shape[1:])
        except RuntimeError:  # the map is too small by now
            continue
        if min(sides[1:]) < 3 or math.prod(sides) > 600:
            continue
        channels = sides[0]
        layers += [layer, chance.choice(ACTIVATIONS)]
    return nn.Sequential(*layers).double().eval(), shape


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_no_pair_of_points_and_no_direction_violates_the_bound_of_a_random_network(seed):
    network, shape = random_network(seed)
    assert_holds(network, shape, lipschitz_bound(network, shape), points=2)


NETWORKS = [
    (DCGANDiscriminator(8, 1, 4, norm="none"), (1, 8, 8)),
    (DCGANDiscriminator(8, 1, 4), (1, 8, 8)),
    (DCGANGenerator(3, 8, 1, 4), (3,)),
    (PatchDiscriminator(1, 4, 1, norm="none"), (1, 8, 8)),
    (PatchDiscriminator(1, 4, 1, norm="batch"), (1, 8, 8)),
    (MultiScaleDiscriminator(2, 1, 2, 1, norm="none"), (1, 13, 13)),
    (ResNetDiscriminator(1, (4, 4), 1), (1, 6, 6)),
    (ResNetDiscriminator(1, (4, 4), 1, spectral_norm=False), (1, 6, 6)),
    (ResNetGenerator(3, 8, 1, (4, 4)), (3,)),
    (R3GANDiscriminator(8, 1, (4, 4), 1, group_width=2), (1, 8, 8)),
    (R3GANGenerator(3, 8, 1, (4, 4), 1, group_width=2), (3,)),
]


@pytest.mark.parametrize(("network", "shape"), NETWORKS, ids=lambda x: type(x).__name__)
def test_no_pair_of_points_and_no_direction_violates_the_bound_of_own_networks(network, shape):
    torch.manual_seed(0)
    network = network.double().eval()
    for module in network.modules():
        if hasattr(module, "running_var"):
            module.running_var.uniform_(0.5, 2)
    if not hasattr(network, "pool"):
        for p in network.parameters():
            nn.init.normal_(p, std=0.5)
    bound = lipschitz_bound(network, shape)
    assert 0 < bound < math.inf
    assert_holds(network, shape, bound, points=2)


def test_bound_of_several_scales_is_the_length_of_their_bounds():
    torch.manual_seed(0)
    network = MultiScaleDiscriminator(3, 1, 2, 0, norm="none", dtype=F64)
    shapes = [(1, 12, 12), (1, 6, 6), (1, 3, 3)]
    pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
    factor, squares = 1.0, 0.0
    for scale, shape in zip(network.scales, shapes, strict=True):
        squares += (factor * lipschitz_bound(scale, shape)) ** 2
        factor *= lipschitz_bound(pool, shape)
    assert lipschitz_bound(network, shapes[0]) == pytest.approx(squares**0.5)


def test_sum_of_pixels_is_attained_on_a_constant_map():
    network = ResNetDiscriminator(2, (2,), 0, spectral_norm=False, dtype=F64)
    assert lipschitz_bound(network.pool, (2, 3, 5)) == pytest.approx(15**0.5)
    ones = torch.ones(1, 2, 3, 5, dtype=F64)
    assert network.pool(ones).norm() / ones.norm() == pytest.approx(15**0.5)


# --- what is refused -----------------------------------------------------------------------------------


class Doubling(nn.ReLU):
    def forward(self, input):
        return 2 * input


@pytest.mark.parametrize(
    ("module", "shape", "text"),
    [
        (nn.LayerNorm(3), (3,), "no Lipschitz bound is known for LayerNorm"),
        (nn.Sequential(nn.BatchNorm1d(3)), (3,), r"BatchNorm1d in training mode.*call eval\(\)"),
        (ResidualUp2d(2, 2), (2, 4, 4), r"BatchNorm2d in training mode.*call eval\(\)"),
        (nn.BatchNorm1d(3, track_running_stats=False), (3,), "without running statistics"),
        (GaussianNoise(), (3,), r"random: call eval\(\)"),
        (SelfAttention2d(8), (8, 4, 4), "no Lipschitz bound is known for SelfAttention2d"),
        (PatchDiscriminator(1, 4), (1, 24, 24), "known for InstanceNorm2d"),
        (
            DCGANDiscriminator(16, width=4, norm="virtual"),
            (1, 16, 16),
            "known for VirtualBatchNorm",
        ),
        (MultiScaleDiscriminator(2, 1, 4), (1, 64, 64), "known for InstanceNorm2d"),
        (ResNetGenerator(3, 8, 1, (2, 2), 5).eval(), (3,), "ResNetGenerator with classes"),
        (
            ResNetDiscriminator(1, (2,), 1, num_classes=5),
            (1, 8, 8),
            "ResNetDiscriminator with classes",
        ),
        (
            R3GANDiscriminator(8, 1, (4, 4), 1, 2, 2, 5),
            (1, 8, 8),
            "R3GANDiscriminator with classes",
        ),
        (ResidualUp2d(2, 2, 5).eval(), (2, 4, 4), "known for ConditionalBatchNorm2d"),
        (nn.Upsample(scale_factor=2, mode="bicubic"), (1, 4, 4), "weights below 0"),
        (nn.MaxPool2d(2, return_indices=True), (1, 4, 4), "indices"),
        (nn.AdaptiveMaxPool1d(2, return_indices=True), (1, 4), "indices"),
        (nn.CELU(alpha=-1.0), (3,), "slopes without a bound"),
        (nn.CELU(alpha=math.nan), (3,), "slopes without a bound"),
        (nn.Softplus(threshold=math.nan), (3,), "jumps at its threshold"),
        (nn.CircularPad1d((2, -1)), (1, 5), "takes pixels away"),
        (
            nn.Sequential(MultiScaleDiscriminator(2, 1, 2, 1, norm="none"), nn.ReLU()),
            (1, 13, 13),
            "list",
        ),
        (nn.Conv2d(1, 1, 3, dtype=torch.complex64), (1, 4, 4), "complex weights"),
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


@pytest.mark.parametrize("register", ["forward_hook", "forward_pre_hook"])
def test_hooks_on_all_modules_are_refused(register):
    register = getattr(nn.modules.module, f"register_module_{register}")
    handle = register(lambda *_: None)
    try:
        with pytest.raises(TypeError, match="hooks on all modules"):
            lipschitz_bound(nn.Linear(2, 2), (2,))
    finally:
        handle.remove()
    assert lipschitz_bound(nn.Tanh(), (2,)) == 1


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("old", [nn.utils.spectral_norm, nn.utils.weight_norm])
def test_weights_that_a_hook_computes_are_refused(old):
    with pytest.raises(TypeError, match="which has forward hooks"):
        lipschitz_bound(nn.Sequential(old(nn.Linear(2, 2))), (2,))


NETWORK_PARTS = [
    (network, shape, name)
    for network, shape in NETWORKS
    for name, part in network.named_modules()
    if not isinstance(part, nn.ModuleList) and "parametrizations" not in name
]


@pytest.mark.parametrize(
    ("network", "shape", "name"), NETWORK_PARTS, ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_hook_on_any_part_of_own_networks_is_refused(network, shape, name):
    handle = (
        network.eval().get_submodule(name).register_forward_hook(lambda *passed: passed[2] * 10)
    )
    try:
        with pytest.raises(TypeError, match="has forward hooks"):
            lipschitz_bound(network, shape)
    finally:
        handle.remove()


class Standardised(nn.Conv2d):
    """Weight standardisation, which makes small weights large."""

    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight / weight.std(), bias)


class Reversed(nn.Sequential):
    def __iter__(self):
        return reversed(list(super().__iter__()))


class Tenfold(nn.Linear):
    def __call__(self, x):
        return 10 * super().__call__(x)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (Standardised(1, 2, 3), (1, 4, 4)),
        (Tenfold(3, 3), (3,)),
        (Reversed(nn.Linear(2, 3), nn.Linear(3, 2)), (3,)),
        (nn.Sequential(nn.ReLU(), Standardised(1, 2, 3)), (1, 4, 4)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_subclass_that_changes_what_forward_calls_is_refused(module, shape):
    with pytest.raises(TypeError, match=r"is known for (Stand|Tenf|Rever)"):
        lipschitz_bound(module, shape)


def test_a_method_of_the_instance_is_refused():
    layer: Any = nn.Conv2d(1, 2, 3)
    layer._conv_forward = lambda *passed: 2 * nn.Conv2d._conv_forward(layer, *passed)
    with pytest.raises(TypeError, match="Conv2d in this state"):
        lipschitz_bound(layer, (1, 4, 4))


def everything_of(module):
    """Every tensor itself with its values, version and all else that a module holds."""
    seen = []
    for part in module.modules():
        for table in (vars(part), part._parameters, part._buffers):
            seen += [(name, id(value)) for name, value in table.items()]
            tensors = [value for value in table.values() if isinstance(value, torch.Tensor)]
            seen += [(t.device, t._version, t.detach().clone().numpy().tobytes()) for t in tensors]
        seen.append(part.training)
    return seen


def counting():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.plain = 0, torch.eye(4)
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, x):
            self.calls, self.last = self.calls + 1, x
            self.steps = self.steps + 1
            return x @ self.plain

    lipschitz_rule(Counting)(lambda module, shape: 1.0)
    return Counting()


def shared_layers():
    linear, norm = nn.Linear(4, 4), nn.BatchNorm1d(4).eval()
    tied = nn.Linear(4, 4)
    tied.weight = linear.weight
    inner = nn.Sequential(linear, norm, nn.ReLU(), linear, norm)
    return nn.Sequential(inner, tied, inner, nn.Linear(4, 1))


def normalised():
    convolution = nn.Conv2d(1, 2, 3, padding=1)
    SpectralNorm(input_shape=(1, 2, 2))(convolution)
    return nn.Sequential(
        spectral_norm(nn.Linear(4, 4)), nn.Unflatten(1, (1, 2, 2)), convolution, nn.ReLU()
    )


@pytest.mark.parametrize("make", [shared_layers, counting, normalised])
def test_a_module_is_the_same_afterwards_bit_by_bit(make):
    torch.manual_seed(0)
    module = make()
    before = everything_of(module)
    bound = lipschitz_bound(module, (4,))
    assert everything_of(module) == before
    assert lipschitz_bound(module, (4,)) == bound
    with pytest.raises(ValueError, match="does not"):
        lipschitz_bound(nn.Sequential(module, nn.Conv2d(3, 3, 3), nn.MaxPool2d(9)), (4,))
    assert everything_of(module) == before
    assert lipschitz_bound(module.eval(), (4,)) == bound, "the weights of evaluation mode"


def test_bound_of_shared_layers_is_that_of_their_copies():
    torch.manual_seed(0)
    linear = nn.Linear(4, 4, dtype=F64)
    network = nn.Sequential(nn.Sequential(linear, nn.ReLU(), linear), nn.Linear(4, 1, dtype=F64))
    wanted = dense_norm(linear, (4,)) ** 2 * dense_norm(network[1], (4,))
    assert lipschitz_bound(network, (4,)) == pytest.approx(wanted)
    assert_holds(network, (4,), wanted)


def test_each_layer_of_a_deep_composition_runs_once():
    class Called(nn.Module):
        times = 0

        def forward(self, x):
            Called.times += 1
            return x

    lipschitz_rule(Called)(lambda module, shape: 1.0)
    network = nn.Sequential(Called())
    for _ in range(30):
        network = nn.Sequential(network, Called())
    assert lipschitz_bound(network, (3,)) == 1
    assert Called.times == 31


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


@pytest.mark.parametrize(
    ("module", "shape", "text"),
    [
        (nn.Conv2d(2, 2, 3), (2, 8), "2 dimensions and 2 channels"),
        (nn.Conv2d(2, 2, 3), (8, 8), "2 dimensions and 2 channels"),
        (nn.Conv2d(2, 2, 3), (3, 8, 8), "2 dimensions and 2 channels"),
        (nn.Conv2d(2, 2, 3), (2, 2, 8), r"kernel of \(3, 3\) does not fit"),
        (nn.ConvTranspose2d(2, 3, 3), (3, 8, 8), "2 dimensions and 2 channels"),
        (EqualizedConv2d(2, 2, 3), (3, 8, 8), "2 dimensions and 2 channels"),
        (EqualizedLinear(3, 2), (2,), "takes 3 features"),
        (nn.AvgPool2d(2), (4, 4), "samples of 3 dimensions"),
        (nn.AvgPool2d(5), (1, 4, 4), "does not take maps of"),
        (nn.MaxPool1d(2), (4, 4, 4), "samples of 2 dimensions"),
        (nn.BatchNorm2d(2).eval(), (3, 4, 4), "takes 2 channels"),
        (nn.Unflatten(1, (2, 2)), (5,), r"Unflatten does not take samples of shape \(5,\)"),
        (nn.PixelShuffle(2), (3, 4, 4), r"PixelShuffle does not take samples of shape \(3, 4, 4\)"),
        (nn.MaxPool2d(9), (1, 4, 4), "MaxPool2d does not take samples of shape"),
        (nn.BatchNorm2d(4).eval(), (4,), "BatchNorm2d does not take samples of shape"),
        (nn.Flatten(0), (4,), r"of 2 it makes something of shape \(8,\)"),
        (nn.ZeroPad2d(1), (4,), r"of 2 it makes something of shape \(4, 6\)"),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(9)), (1, 4, 4), "MaxPool2d does not take samples"),
        (DCGANDiscriminator(8, width=2, norm="none"), (1, 9, 9), "x should have shape"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(module, shape, text):
    with pytest.raises(ValueError, match=text):
        lipschitz_bound(module, shape)


def with_variance(value):
    layer = nn.BatchNorm1d(3).eval()
    layer.running_var[1] = value  # type: ignore[index]
    return layer


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("make", "shape", "text"),
    [
        (lambda: nn.LeakyReLU(math.nan), (3,), "has no Lipschitz bound"),
        (lambda: nn.ELU(math.nan), (3,), "has no Lipschitz bound"),
        (lambda: with_variance(-1.0), (3,), "has no Lipschitz bound"),
        (lambda: nn.Linear(3, 0), (3,), "without entries"),
        (lambda: nn.Conv2d(1, 0, 3), (1, 4, 4), "without entries"),
        (lambda: nn.Linear(3, 2, device="meta"), (3,), "meta device"),
        (lambda: nn.Conv2d(1, 2, 3, device="meta"), (1, 4, 4), "meta device"),
        (lambda: nn.BatchNorm1d(3, device="meta").eval(), (3,), "meta device"),
    ],
)
def test_numbers_without_a_meaning_are_refused(make, shape, text):
    with pytest.raises(ValueError, match=text):
        lipschitz_bound(nn.Sequential(make()), shape)


def test_a_forward_of_the_instance_is_refused():
    layer = nn.ReLU()
    layer.forward = lambda input: 2 * input  # noqa: A006
    with pytest.raises(TypeError, match="ReLU in this state"):
        lipschitz_bound(layer, (2,))


def test_a_plugin_adds_the_rule_of_its_own_residual_block():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU())

        def forward(self, x):
            return x + self.branch(x) / 2

    @lipschitz_rule(Residual)
    def residual(module, input_shape):
        return 1 + lipschitz_bound(module.branch, input_shape) / 2

    torch.manual_seed(0)
    network: Any = nn.Sequential(Residual(), nn.AvgPool2d(2), Residual()).double()
    wanted = math.prod(
        1 + dense_norm(network[i].branch[0], (2, n, n)) / 2 for i, n in ((0, 6), (2, 3))
    )
    bound = lipschitz_bound(network, (2, 6, 6))
    assert bound == pytest.approx(wanted / 2)
    assert_holds(network, (2, 6, 6), bound)
