"""Clipping, spectral normalisation and orthogonal weights."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportOptionalOperand=false

import copy
import gc
import math
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

import gan_blocks as gb
from gan_blocks import MLPDiscriminator, Orthogonal, SpectralNorm, WeightClipper
from gan_blocks.types import Normalization

F64 = torch.float64


# --- clipping ----------------------------------------------------------------------------------------


def test_clipping_bounds_every_weight_and_keeps_what_is_inside():
    critic = MLPDiscriminator((6,), width=16)
    before = {name: p.detach().clone() for name, p in critic.named_parameters()}
    WeightClipper(0.1)(critic)
    for name, p in critic.named_parameters():
        assert torch.equal(p, before[name].clamp(-0.1, 0.1))
    assert any((p.abs() == 0.1).any() for p in critic.parameters())
    assert all(p.requires_grad and p.grad_fn is None for p in critic.parameters())


class ActNorm(Normalization):
    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.ones(4))


class EmbeddedNorm2d(Normalization):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, affine=False)
        self.scale = nn.Embedding.from_pretrained(torch.ones(3, 4), freeze=False)


NORMS = [
    nn.BatchNorm1d(4),
    nn.BatchNorm2d(4),
    nn.SyncBatchNorm(4),
    nn.LayerNorm(4),
    nn.LayerNorm((4, 5)),
    nn.GroupNorm(2, 4),
    nn.RMSNorm(4),
    nn.InstanceNorm1d(4, affine=True),
    gb.VirtualBatchNorm(4),
    gb.ConditionalBatchNorm2d(4, 3),
    type("Renamed", (nn.LayerNorm,), {})(4),
    ActNorm(),
    EmbeddedNorm2d(),
]


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: type(norm).__name__)
def test_normalisation_keeps_its_scale(norm):
    module = nn.Sequential(nn.Linear(4, 4), copy.deepcopy(norm))
    WeightClipper(0.01)(module)
    assert any((p == 1).all() for p in module[1].parameters())
    assert all(p.abs().max() <= 0.01 for p in module[0].parameters())
    WeightClipper(0.01, normalisation=True)(module)
    assert all(p.abs().max() <= 0.01 for p in module.parameters())


class SNConv2d(nn.Conv2d):
    """As in BigGAN's code, whose layers have an eps."""

    eps = 1e-12


class LinearNorm(nn.Module):
    """Named like a norm: Tacotron's linear layer."""

    def __init__(self):
        super().__init__()
        self.linear_layer = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4, 4))


class MyNorm1d(nn.Linear):
    pass


class SpectralNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.eps = 1e-12
        self.weight_bar = nn.Parameter(torch.ones(4, 4))


WeightNorm = type("WeightNorm", (SpectralNormed,), {})
OldSpectralNorm = type("SpectralNorm", (SpectralNormed,), {})


class PreNorm(nn.Module):
    """A name like a norm's, around layers that are none."""

    def __init__(self):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(4), nn.Linear(4, 4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(4, 4),
        nn.Conv2d(2, 2, 3),
        nn.ConvTranspose1d(2, 2, 3),
        nn.Embedding(3, 4),
        nn.MultiheadAttention(4, 2),
        nn.GRU(3, 4),
        gb.SelfAttention2d(8),
        gb.EqualizedLinear(3, 4),
        gb.MinibatchDiscrimination(3),
        SNConv2d(2, 2, 3),
        MyNorm1d(4, 4),
        LinearNorm(),
        SpectralNormed(),
        WeightNorm(),
        OldSpectralNorm(),
        PreNorm().fn,
        nn.Sequential(gb.PixelNorm(), nn.Linear(4, 4), gb.MinibatchStdDev()),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_are_no_normalisation_are_clipped(layer):
    for p in layer.parameters():
        p.data.fill_(2.0)
    WeightClipper(0.25)(layer)
    assert all((p == 0.25).all() for p in layer.parameters())


def test_layers_in_a_wrapper_named_like_a_norm_are_clipped():
    wrapped = PreNorm()
    WeightClipper(0.01)(wrapped)
    assert wrapped.fn.weight.abs().max() <= 0.01
    assert (wrapped.norm.weight == 1).all()


def test_clipping_a_module_without_parameters_does_nothing():
    WeightClipper()(nn.ReLU())


def test_clipping_works_on_every_dtype_and_on_shared_parameters():
    shared = nn.Linear(3, 3).half()
    module = nn.Sequential(shared, shared, nn.Linear(3, 3).double(), nn.Linear(3, 3))
    WeightClipper(0.01)(module)
    assert all(p.double().abs().max() <= 0.01 for p in module.parameters())
    assert module[2].weight.abs().max() == 0.01
    assert module[3].weight.abs().max() == 0.01


@pytest.mark.parametrize("bound", [0.01, 0.1, 0.25, 1 / 3, 1e-6, 1e-9, 1e6])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_clipped_to_its_largest_number_within_the_bound(dtype, bound):
    """All 2^15 numbers that are not negative, found without the clipper's way."""
    numbers = torch.arange(2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    numbers = numbers[numbers.isfinite()]
    layer, clip = nn.Linear(len(numbers), 2, bias=False), WeightClipper(bound)
    clip(layer)  # in float32, and cast later
    layer.to(dtype).weight.data = torch.stack([numbers, -numbers])
    clip(layer)
    largest = numbers.double()[numbers.double() <= bound].max()
    assert layer.weight.double().max() == largest
    assert layer.weight.double().min() == -largest
    kept = numbers.double() <= bound
    assert torch.equal(layer.weight[0, kept], numbers[kept])


def test_frozen_parameters_are_clipped_too():
    critic = nn.Linear(4, 4).requires_grad_(False)
    WeightClipper(0.01)(critic)
    assert critic.weight.abs().max() == 0.01


def two_layers():
    critic = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 1)))
    for p in critic.parameters():
        p.data.fill_(1.0)
    return critic


@pytest.mark.parametrize(
    ("arguments", "clipped"),
    [
        ({}, ["0.weight", "0.bias", "1.0.weight", "1.0.bias"]),
        ({"include": ["*.weight"]}, ["0.weight", "1.0.weight"]),
        ({"exclude": ["*.bias"]}, ["0.weight", "1.0.weight"]),
        ({"include": ["1.*", "0.bias"]}, ["0.bias", "1.0.weight", "1.0.bias"]),
        ({"include": ["1.*"], "exclude": ["*bias"]}, ["1.0.weight"]),
        ({"exclude": ["1.*", "0.bias"]}, ["0.weight"]),
    ],
)
def test_patterns_choose_by_name(arguments, clipped):
    critic = two_layers()
    gb.build({"block": "WeightClipper", "bound": 0.5, **arguments})(critic)
    assert [name for name, p in critic.named_parameters() if (p == 0.5).all()] == clipped
    assert all((p == 1).all() for name, p in critic.named_parameters() if name not in clipped)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"include": ("2.*",)}, r"no parameter fits '2\.\*'; there are 0\.weight, 0\.bias, 1\.0"),
        ({"include": ("*", "Weight")}, "no parameter fits 'Weight'"),
        ({"exclude": ("1.0", "head")}, "no parameter fits '1.0', 'head'"),
        ({"exclude": ("*",)}, r"nothing to clip: .*leave none of 0\.weight, 0\.bias"),
    ],
)
def test_choice_that_fits_nothing_is_refused_with_the_names(arguments, text):
    with pytest.raises(ValueError, match=text):
        WeightClipper(**arguments)(two_layers())


def test_module_of_norms_alone_is_refused():
    with pytest.raises(ValueError, match=r"normalisation=False leave none of 0\.weight"):
        WeightClipper()(nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(ValueError, match="there are none"):
        WeightClipper(include=("w",))(nn.ReLU())


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("old", [nn.utils.spectral_norm, nn.utils.weight_norm])
def test_weight_that_a_hook_computes_is_refused(old):
    critic = nn.Sequential(old(nn.Linear(3, 3)), nn.Linear(3, 1))
    with pytest.raises(
        ValueError, match=r"would clip 0\.weight_.*parametrisation or hook computes"
    ):
        WeightClipper()(critic)
    WeightClipper(exclude=("*.weight_*",))(critic)
    assert critic[1].weight.abs().max() <= 0.01
    assert critic[0].bias.abs().max() <= 0.01
    for constraint in (Orthogonal(), SpectralNorm(), SpectralNorm(input_shape=(3,))):
        with pytest.raises(ValueError, match=r"weight of 0, .*torch\.nn\.utils\.parametrizations"):
            constraint(critic)


@pytest.mark.parametrize("form", [parametrizations.spectral_norm, parametrizations.weight_norm])
def test_weight_that_a_parametrisation_computes_is_refused_or_left_out(form):
    critic = nn.Sequential(form(nn.Linear(3, 3)), nn.Linear(3, 1))
    with pytest.raises(ValueError, match=r"would clip 0\.parametrizations\.weight\.original"):
        WeightClipper()(critic)
    WeightClipper(exclude=("*.original*",))(critic)
    assert critic[1].weight.abs().max() <= 0.01
    assert critic[0].weight.abs().max() > 0.01


def replace_parameter(critic):
    critic[0].weight = nn.Parameter(torch.full((3, 2), 7.0))


def add_layer(critic):
    critic.append(nn.Linear(2, 2))


def replace_data(critic):
    critic[0].weight.data = torch.full((3, 2), 7.0, dtype=F64)


def add_parameter(critic):
    critic[0].more = nn.Parameter(torch.ones(5))


@pytest.mark.parametrize("change", [replace_parameter, add_layer, replace_data, add_parameter])
def test_what_changes_in_a_module_between_two_calls_is_clipped(change):
    critic, clip = two_layers(), WeightClipper(0.1)
    clip(critic)
    change(critic)
    clip(critic)
    assert all(p.abs().max() <= 0.1 for p in critic.parameters())


def test_one_clipper_clips_several_modules_and_keeps_none_alive():
    clip, critics = WeightClipper(0.1), [two_layers(), two_layers()]
    for _ in range(2):
        for critic in critics:
            for p in critic.parameters():
                p.data.fill_(1.0)
            clip(critic)
            assert all((p == 0.1).all() for p in critic.parameters())
    last = weakref.ref(critics[1][0].weight)
    copied = copy.deepcopy(clip)
    critic = p = critics = None
    gc.collect()
    assert last() is None
    copied(fresh := two_layers())
    assert (fresh[0].weight == 0.1).all()


def test_parametrisation_that_is_added_later_is_refused():
    critic, clip = two_layers(), WeightClipper(0.1)
    clip(critic)
    parametrizations.weight_norm(critic[0])
    with pytest.raises(ValueError, match="would clip"):
        clip(critic)


# --- spectral normalisation --------------------------------------------------------------------------

MAPS = [
    (nn.Conv2d(3, 5, 3, padding=1), (3, 7, 6)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=(2, 1), dilation=(2, 1), groups=2), (4, 9, 8)),
    (nn.Conv2d(2, 3, (4, 3), padding="same"), (2, 6, 5)),
    (nn.Conv2d(2, 3, (5, 3), padding="valid"), (2, 6, 5)),
    (nn.Conv2d(2, 3, 3, stride=2, padding=(2, 1), padding_mode="circular"), (2, 6, 5)),
    (nn.Conv2d(2, 3, (3, 5), padding=(1, 2), padding_mode="reflect"), (2, 6, 5)),
    (nn.Conv2d(2, 3, 3, padding="same", padding_mode="replicate"), (2, 6, 5)),
    (nn.Conv1d(2, 3, 5, stride=3, padding=1), (2, 13)),
    (nn.Conv1d(1, 1, 2), (1, 3)),
    (nn.Conv3d(1, 2, 2, padding=1), (1, 3, 4, 3)),
    (nn.ConvTranspose2d(4, 2, 4, stride=2, padding=1, groups=2), (4, 3, 4)),
    (nn.ConvTranspose1d(2, 2, 3, dilation=3, output_padding=2), (2, 5)),
    (nn.ConvTranspose2d(2, 2, 3, stride=2, output_padding=1), (2, 4, 3)),
    (nn.ConvTranspose3d(1, 2, 2), (1, 3, 2, 3)),
]


def norm_by_definition(layer, shape):
    """The largest singular value of the dense matrix of the affine map."""
    x = torch.zeros(1, *shape, dtype=layer.weight.dtype)
    matrix = torch.autograd.functional.jacobian(lambda x: layer(x).flatten(), x)
    return torch.linalg.matrix_norm(matrix.flatten(1), 2).item()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("layer", "shape"), MAPS, ids=lambda x: str(x).split("(")[0])
def test_convolution_has_norm_one_on_the_maps_that_it_sees(layer, shape):
    torch.manual_seed(0)
    layer = copy.deepcopy(layer).double()
    nn.init.normal_(layer.weight)
    weight = layer.weight.detach().clone()
    size = norm_by_definition(layer, shape)
    SpectralNorm(n_power_iterations=50, input_shape=shape)(layer)
    assert norm_by_definition(layer.eval(), shape) == pytest.approx(1, rel=1e-5), "at once"
    torch.testing.assert_close(layer.weight, weight / size, rtol=1e-5, atol=1e-9)
    layer.train().parametrizations.weight.original.data.normal_()
    for _ in range(40):
        layer(torch.zeros(1, *shape, dtype=F64))
    assert norm_by_definition(layer.eval(), shape) == pytest.approx(1, rel=1e-4)


def test_reshaped_weight_of_norm_one_stretches_images():
    sizes = []
    for seed in range(8):
        torch.manual_seed(seed)
        layer = nn.Conv2d(4, 8, 3, padding=1, dtype=F64)
        SpectralNorm(n_power_iterations=100)(layer)
        layer.eval()
        sizes.append(norm_by_definition(layer, (4, 8, 8)))
        rows = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert rows.item() == pytest.approx(1, rel=1e-4)
    assert min(sizes) > 1.2
    assert max(sizes) < 3, "the root of the kernel's area"


def torchs(layer, iterations):
    parametrizations.spectral_norm(layer, n_power_iterations=iterations)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(3, 4),
        nn.Conv2d(2, 3, 3),
        nn.ConvTranspose2d(2, 3, 3),
        nn.ConvTranspose1d(2, 3, 3),
        nn.Embedding(5, 3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_default_is_torchs_parametrisation(layer):
    ours, theirs = (copy.deepcopy(layer).double() for _ in range(2))
    torch.manual_seed(0)
    SpectralNorm(n_power_iterations=3)(nn.Sequential(ours))
    torch.manual_seed(0)
    torchs(theirs, 3)
    for _ in range(3):
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=0)
    matrix = ours.weight.transpose(0, 1) if "Transpose" in type(layer).__name__ else ours.weight
    assert torch.linalg.matrix_norm(matrix.flatten(1), 2).item() == pytest.approx(1, rel=0.02)


def critic_of_images(seed=0, **options):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, **options),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4, 6, 4, stride=2, padding=1, **options),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(6 * 16, 1, **options),
    )


SHAPE = (1, 8, 8)


def state_of(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("input_shape", [None, SHAPE])
def test_a_second_call_does_nothing(input_shape):
    critic = critic_of_images()
    parameters, constraint = list(critic.parameters()), SpectralNorm(input_shape=input_shape)
    constraint(critic)
    assert {id(p) for p in critic.parameters()} == {id(p) for p in parameters}, "the same objects"
    before, shown = state_of(critic), repr(critic)
    constraint(critic)
    assert repr(critic) == shown
    assert all(torch.equal(before[name], x) for name, x in state_of(critic).items())


@pytest.mark.parametrize("input_shape", [None, SHAPE])
def test_adam_made_before_trains_on_within_the_constraint(input_shape):
    critic = critic_of_images(dtype=F64)
    optimiser = torch.optim.Adam(critic.parameters(), lr=0.01)
    constraint = SpectralNorm(n_power_iterations=5, input_shape=input_shape)
    real, fake = torch.randn(16, *SHAPE, dtype=F64) + 0.5, torch.randn(16, *SHAPE, dtype=F64)
    gaps = []
    for _ in range(60):
        loss = gb.WassersteinLoss().discriminator(critic(real), critic(fake))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        constraint(critic)
        gaps.append(-loss.item())
    assert gaps[-1] > gaps[1] + 0.05, "it learns"
    critic.eval()
    if input_shape is None:
        return
    assert norm_by_definition(critic[0], SHAPE) == pytest.approx(1, rel=0.01)
    assert norm_by_definition(critic[2], (4, 8, 8)) == pytest.approx(1, rel=0.01)
    assert torch.linalg.matrix_norm(critic[5].weight, 2).item() == pytest.approx(1, rel=0.01)
    slopes = (critic(real) - critic(fake)).flatten().abs() / (real - fake).flatten(1).norm(dim=1)
    assert slopes.max() <= 1.03


def test_no_pair_of_points_is_stretched():
    critic = critic_of_images(dtype=F64)
    SpectralNorm(input_shape=SHAPE)(critic)
    critic.eval()
    x = 5 * torch.randn(500, *SHAPE, dtype=F64)
    y = x + torch.logspace(-4, 1, 500, dtype=F64).view(-1, 1, 1, 1) * torch.randn_like(x)
    gap = (critic(x) - critic(y)).flatten().abs()
    assert (gap <= (x - y).flatten(1).norm(dim=1) * (1 + 1e-5)).all()


def exact():
    layer = nn.Conv2d(2, 3, 3, padding=1, dtype=F64)
    SpectralNorm(input_shape=(2, 5, 4))(layer)
    return layer


def test_gradient_is_that_of_the_weight_over_the_exact_norm():
    layer = exact()
    for _ in range(300):
        layer(torch.zeros(1, 2, 5, 4, dtype=F64))
    original = layer.parametrizations.weight.original
    direction = torch.randn_like(original)
    x = torch.randn(2, 2, 5, 4, dtype=F64)
    (layer.eval()(x).square().sum()).backward()
    plain = nn.Conv2d(2, 3, 3, padding=1, dtype=F64)
    plain.bias = layer.bias

    def value(step):
        plain.weight.data = original.data + step * direction
        plain.weight.data /= norm_by_definition(plain, (2, 5, 4))
        return plain(x).square().sum().item()

    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    assert (original.grad * direction).sum().item() == pytest.approx(slope, rel=1e-5)


def test_iteration_runs_in_training_only_and_so_many_times_a_forward():
    layer, x = exact(), torch.zeros(1, 2, 5, 4, dtype=F64)
    norm = layer.parametrizations.weight[0]
    layer.parametrizations.weight.original.data.normal_()
    before = norm.u.clone()
    layer.eval()(x)
    assert torch.equal(norm.u, before)
    with torch.no_grad():
        layer.train()(x)
    once = norm.u.clone()
    assert not torch.equal(once, before)
    weight = layer.parametrizations.weight.original.detach()
    by_autograd = before.clone().requires_grad_()
    image = norm.map(by_autograd, weight)
    (u,) = torch.autograd.grad(image, by_autograd, image.detach())
    torch.testing.assert_close(once, u / u.norm())
    norm.n_power_iterations = 3
    norm.u.copy_(before)
    layer(x)
    thrice = norm.u.clone()
    norm.n_power_iterations = 1
    norm.u.copy_(before)
    for _ in range(3):
        layer(x)
    torch.testing.assert_close(norm.u, thrice, rtol=0, atol=0)


def test_layer_in_evaluation_mode_stays_in_it():
    for shape in (None, (2, 5, 4)):
        layer = nn.Conv2d(2, 3, 3).eval()
        SpectralNorm(input_shape=shape)(layer)
        assert not any(part.training for part in layer.modules())


def test_two_forwards_before_one_backward_are_differentiated_as_they_were():
    layer, x = exact(), torch.randn(2, 2, 5, 4, dtype=F64)
    alone = copy.deepcopy(layer)
    (layer(x).square().sum() + layer(2 * x).square().sum()).backward()
    alone(x).square().sum().backward()
    alone(2 * x).square().sum().backward()
    torch.testing.assert_close(
        layer.parametrizations.weight.original.grad, alone.parametrizations.weight.original.grad
    )


def test_gradient_penalty_through_it_is_right_by_finite_differences():
    layer = exact().eval()
    original = layer.parametrizations.weight.original
    direction = torch.randn_like(original)
    x = torch.randn(2, 2, 5, 4, dtype=F64)

    def value():
        return gb.R1Penalty()(lambda x: torch.tanh(layer(x)).flatten(1).sum(1), x)

    value().backward()
    slopes = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            original += step * direction
        slopes.append(value().item())
        with torch.no_grad():
            original -= step * direction
    expected = (slopes[0] - slopes[1]) / 2e-5
    # u is a constant, and at its fixed point the norm's derivative does not see it.
    assert (original.grad * direction).sum().item() == pytest.approx(expected, rel=1e-4)


def test_copies_and_a_loaded_state_compute_the_same():
    critic = critic_of_images()
    SpectralNorm(input_shape=SHAPE)(critic)
    fresh = critic_of_images(seed=1)
    SpectralNorm(input_shape=SHAPE)(fresh)
    for _ in range(3):
        critic(torch.randn(2, *SHAPE))
    fresh.load_state_dict(critic.state_dict())
    x = torch.randn(4, *SHAPE)
    for mode in (False, True):
        other = copy.deepcopy(critic)
        expected = critic.train(mode)(x)
        assert torch.equal(fresh.train(mode)(x), expected)
        assert torch.equal(other.train(mode)(x), expected)


def test_processes_start_from_the_same_vectors_and_the_global_stream_is_untouched():
    first = critic_of_images()
    second = copy.deepcopy(first)
    convolutions = [nn.Sequential(*critic[:4]) for critic in (first, second)]
    torch.manual_seed(5)
    SpectralNorm(input_shape=SHAPE)(convolutions[0])
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    SpectralNorm(input_shape=SHAPE)(convolutions[1])
    a, b = (state_of(each) for each in convolutions)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_half_precision_keeps_the_norm_in_float32():
    critic = critic_of_images()
    SpectralNorm(input_shape=SHAPE)(critic)
    weight = critic.eval()[2].weight.detach()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(critic[2].weight, weight), "not touched by autocast"
        critic.train()(torch.randn(2, *SHAPE)).sum().backward()
    critic.eval().to(torch.bfloat16)
    norm = critic[2].parametrizations.weight[0]
    assert norm.u.dtype == torch.float32
    assert critic[2].weight.dtype == torch.bfloat16
    assert norm_by_definition(critic[2].float(), (4, 8, 8)) == pytest.approx(1, rel=0.01)
    critic.double()
    critic.train()(torch.randn(2, *SHAPE, dtype=F64))
    assert norm.u.dtype == F64


def test_compiled_critic_is_the_eager_one():
    critic = critic_of_images()
    SpectralNorm(input_shape=SHAPE)(critic)
    other, x = copy.deepcopy(critic), torch.randn(3, *SHAPE)
    torch.compiler.reset()
    compiled = torch.compile(critic, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        torch.testing.assert_close(compiled(x), other(x), rtol=1e-5, atol=1e-6)
    compiled(x).sum().backward()
    other(x).sum().backward()
    for (name, p), q in zip(critic.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6, msg=name)
    for name, buffer in other.named_buffers():
        torch.testing.assert_close(critic.get_buffer(name), buffer, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("input_shape", [None, SHAPE])
def test_critic_in_training_runs_within_torch_func(input_shape, compiled):
    critic, x = critic_of_images(), torch.randn(3, *SHAPE)
    SpectralNorm(input_shape=input_shape)(critic)
    other = copy.deepcopy(critic)

    def gradient(x):
        return torch.func.grad(lambda x: other(x).sum())(x)

    if compiled:
        torch.compiler.reset()
        gradient = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    x.requires_grad_()
    for _ in range(2):
        (expected,) = torch.autograd.grad(critic(x).sum(), x)
        torch.testing.assert_close(gradient(x), expected, rtol=1e-5, atol=1e-6)
    for name, buffer in critic.named_buffers():
        torch.testing.assert_close(other.get_buffer(name), buffer, rtol=1e-4, atol=1e-5)


def test_finding_the_sizes_leaves_the_network_as_it_was():
    critic = nn.Sequential(nn.BatchNorm2d(1), *critic_of_images(), nn.Dropout(0.5))
    seen = []
    critic[1].register_forward_hook(lambda *_: seen.append(1))
    before, drawn = state_of(critic[0]), torch.get_rng_state()
    shapes = SpectralNorm(input_shape=SHAPE)
    shapes(nn.Sequential(*critic[:4]))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(before[name], x) for name, x in state_of(critic[0]).items())
    assert not critic[1]._forward_pre_hooks


def test_meta_device():
    critic = critic_of_images(device="meta")
    SpectralNorm(input_shape=SHAPE)(critic)
    assert critic(torch.empty(2, *SHAPE, device="meta")).shape == (2, 1)
    assert all(x.is_meta for x in [*critic.parameters(), *critic.buffers()])


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 3, padding=1)
        self.unused = nn.Conv2d(1, 1, 3)

    def forward(self, x):
        return self.convolution(x).sum() + self.convolution(x[..., ::2]).sum()


@pytest.mark.parametrize(
    ("module", "shape", "text"),
    [
        (
            nn.ReLU(),
            None,
            "module should have a layer to constrain, of linear layers, convolutions, Embeddings; "
            "this ReLU",
        ),
        (Twice(), SHAPE, r"convolution sees \(1, 8, 4\) and \(1, 8, 8\), and its norm depends"),
        (nn.Sequential(Twice().unused), (2, 8, 8), r"Sequential does not run on .*\(2, 8, 8\)"),
    ],
)
def test_what_spectral_norm_cannot_do_is_refused(module, shape, text):
    with pytest.raises(ValueError, match=text):
        SpectralNorm(input_shape=shape)(module)
    assert not any("parametrizations" in name for name, _ in module.named_parameters())
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_convolution_that_the_forward_does_not_reach_is_refused():
    module = nn.ModuleDict({"used": nn.Conv2d(1, 1, 3), "idle": nn.Conv2d(1, 1, 3)})
    module.forward = lambda x: module["used"](x)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="convolution idle sees no map at all"):
        SpectralNorm(input_shape=SHAPE)(module)
    SpectralNorm()(module)


def test_finding_the_sizes_leaves_shared_layers_as_they_were():
    convolution, norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
    module = nn.Sequential(nn.Sequential(norm, convolution, norm), nn.Sequential(convolution))
    before, tensors = state_of(norm), [*norm.parameters(), *norm.buffers(), convolution.weight]
    SpectralNorm(input_shape=(2, 5, 5))(module)
    assert all(torch.equal(before[name], x) for name, x in state_of(norm).items())
    after = [*norm.parameters(), *norm.buffers(), convolution.parametrizations.weight.original]
    assert all(a is b for a, b in zip(after, tensors, strict=True))
    assert norm_by_definition(convolution.eval().double(), (2, 5, 5)) == pytest.approx(1, rel=1e-4)


class Standardised(nn.Conv2d):
    """Weight standardisation."""

    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight / weight.std(), bias)


class ScaledInForward(nn.Conv2d):
    def forward(self, input):
        return 3 * super().forward(input)


@pytest.mark.parametrize("kind", [Standardised, ScaledInForward])
def test_norm_of_a_convolution_that_computes_something_else_is_refused(kind):
    module = nn.Sequential(kind(1, 2, 3))
    with pytest.raises(ValueError, match="0 changes what Conv2d computes with its weight"):
        SpectralNorm(input_shape=(1, 5, 5))(module)
    changed = nn.Conv2d(1, 2, 3)
    changed._conv_forward = lambda *passed: None
    with pytest.raises(ValueError, match="Conv2d changes what"):
        SpectralNorm(input_shape=(1, 5, 5))(changed)
    SpectralNorm()(module)


@pytest.mark.parametrize("power", [-38, -22, -7, 0, 30, 37])
def test_exact_form_holds_for_weights_of_any_size(power):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, padding=1)
    SpectralNorm(input_shape=(2, 6, 6))(layer)
    original = layer.parametrizations.weight.original
    for at_once in (False, True):
        torch.nn.init.normal_(original)
        original.data *= 10.0**power
        if at_once:
            layer = nn.Conv2d(2, 3, 3, padding=1)
            layer.weight.data = original.detach()
            SpectralNorm(input_shape=(2, 6, 6))(layer)
        for _ in range(60):
            layer.train()(torch.zeros(1, 2, 6, 6))
        assert norm_by_definition(layer.eval(), (2, 6, 6)) == pytest.approx(1, rel=1e-3)
        u = layer.parametrizations.weight[0].u
        assert u.norm().item() == pytest.approx(1, rel=1e-5)


def test_exact_form_outlives_a_weight_of_zeros():
    torch.manual_seed(0)
    layer = exact()
    original = layer.parametrizations.weight.original
    drawn = original.detach().clone()
    original.data.zero_()
    y = layer(torch.randn(1, 2, 5, 4, dtype=F64))
    y.square().sum().backward()
    assert y.isfinite().all()
    assert torch.isfinite(original.grad).all()
    assert (layer.weight == 0).all()
    original.data.copy_(drawn)
    layer(torch.zeros(1, 2, 5, 4, dtype=F64))
    assert norm_by_definition(layer.eval(), (2, 5, 4)) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("size", [1e30, 1e-22])
def test_weight_that_torchs_iteration_cannot_follow_is_refused(size):
    layer = nn.Linear(4, 4)
    layer.weight.data *= size
    with pytest.raises(ValueError, match=r"weight of 0 has entries up to .*eps=1e-12"):
        SpectralNorm()(nn.Sequential(layer))
    if size < 1:
        SpectralNorm(eps=1e-30, n_power_iterations=20)(layer)
        assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, rel=0.05)


UNKNOWN = [
    (gb.EqualizedLinear(3, 4), "weight of EqualizedLinear"),
    (gb.EqualizedConv2d(3, 4, 3), "weight of EqualizedConv2d"),
    (nn.MultiheadAttention(4, 2), "in_proj_weight of MultiheadAttention"),
    (nn.MultiheadAttention(4, 2, kdim=3), "q_proj_weight of MultiheadAttention"),
    (nn.GRU(3, 4), "weight_ih_l0 of GRU"),
    (nn.Bilinear(2, 3, 4), "weight of Bilinear"),
    (SpectralNormed(), "weight_bar of SpectralNormed"),
]


@pytest.mark.parametrize(
    "constraint", [SpectralNorm(), Orthogonal()], ids=["spectral", "orthogonal"]
)
@pytest.mark.parametrize(("layer", "text"), UNKNOWN, ids=[text for _, text in UNKNOWN])
def test_layer_that_would_be_left_out_is_refused_by_name(layer, text, constraint):
    module = nn.Sequential(nn.Linear(3, 3), layer)
    before = state_of(module)
    with pytest.raises(ValueError, match=rf"would leave out .*1\.{text}"):
        constraint(module)
    assert all(torch.equal(before[name], x) for name, x in state_of(module).items())
    with pytest.raises(ValueError, match=f"would leave out .*{text}"):
        constraint(layer)


def test_weight_with_a_parametrisation_is_not_left_out():
    attention = nn.MultiheadAttention(4, 2)
    parametrizations.spectral_norm(attention, "in_proj_weight", n_power_iterations=20)
    SpectralNorm()(attention)
    for weight in (attention.in_proj_weight, attention.out_proj.weight):
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    "constraint", [SpectralNorm(), Orthogonal()], ids=["spectral", "orthogonal"]
)
def test_learned_tensors_and_normalisation_are_left_alone(constraint):
    module = nn.Sequential(
        nn.Linear(4, 4),
        nn.LayerNorm((3, 4)),
        nn.PReLU(4),
        gb.MinibatchDiscrimination(4),
        gb.ConditionalBatchNorm2d(4, 3),
        gb.R3GANGenerator(4, 8, 1, (4, 4), 1, group_width=2).layers[0],
    )
    before = state_of(module)
    constraint(module)
    after = module.state_dict()
    changed = {name for name, x in before.items() if name not in after or (after[name] != x).any()}
    assert changed == {"0.weight", "5.linear.weight"}


def test_discriminator_that_has_spectral_norm_already_is_left_as_it_is():
    critic = gb.ResNetDiscriminator(1, (4, 4), 1)
    shown = repr(critic)
    SpectralNorm()(critic)
    with pytest.raises(ValueError, match="normalised already, by the norm of its reshaped weight"):
        SpectralNorm(input_shape=(1, 8, 8))(critic)
    assert repr(critic) == shown


@pytest.mark.parametrize("input_shape", [None, (1, 4, 4)])
@pytest.mark.parametrize(
    ("fill", "text"), [(0.0, "should .* but it is all zeros"), (math.nan, "should be finite")]
)
def test_weight_without_a_norm_is_refused(input_shape, fill, text):
    layer = nn.Conv2d(1, 1, 3)
    layer.weight.data.fill_(fill)
    with pytest.raises(ValueError, match=f"weight of 0 {text}"):
        SpectralNorm(input_shape=input_shape)(nn.Sequential(layer))
    with pytest.raises(ValueError, match=f"weight of Conv2d {text}"):
        SpectralNorm(input_shape=input_shape)(layer)


def test_one_weight_that_is_not_zero_is_enough():
    layer = nn.Linear(3, 3)
    layer.weight.data.zero_()[1, 2] = -5.0
    SpectralNorm(n_power_iterations=2)(layer)
    assert layer.weight[1, 2].item() == pytest.approx(-1)


# --- orthogonal weights ------------------------------------------------------------------------------


def assert_orthonormal(w, gain=1.0, tolerance=1e-6):
    gram = w @ w.mT if w.shape[-2] <= w.shape[-1] else w.mT @ w
    identity = torch.eye(gram.shape[-1], dtype=w.dtype).expand_as(gram)
    torch.testing.assert_close(gram, gain**2 * identity, rtol=0, atol=tolerance)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_projection_is_orthonormal_and_nearer_than_others(n, m, seed):
    torch.manual_seed(seed)
    layer = nn.Linear(n, m, dtype=F64)
    nn.init.normal_(layer.weight)
    before = layer.weight.detach().clone()
    Orthogonal()(layer)
    w = layer.weight.detach()
    assert_orthonormal(w, tolerance=1e-12)
    distance = (w - before).norm()
    singular = torch.linalg.svdvals(before)
    torch.testing.assert_close(distance, (singular - 1).norm())
    for near in (0.0, 1e-3, 0.1):
        q = w + near * torch.randn_like(w) if near else torch.randn_like(w)
        q = torch.linalg.qr(q).Q if m >= n else torch.linalg.qr(q.T).Q.T
        assert distance <= (q - before).norm() + 1e-12


@pytest.mark.parametrize(
    ("layer", "matrix"),
    [
        (nn.Linear(5, 3), lambda w: w),
        (nn.Linear(3, 5), lambda w: w),
        (nn.Conv2d(3, 5, 3), lambda w: w.reshape(5, 27)),
        (nn.Conv1d(2, 9, 3), lambda w: w.reshape(9, 6)),
        (nn.Conv2d(4, 6, 3, groups=2), lambda w: w.reshape(2, 3, 18)),
        (nn.Conv2d(4, 4, 3, groups=4), lambda w: w.reshape(4, 1, 9)),
        (nn.ConvTranspose2d(3, 5, 2), lambda w: w.permute(1, 0, 2, 3).reshape(5, 12)),
        (
            nn.ConvTranspose1d(4, 6, 2, groups=2),
            lambda w: torch.stack([half.transpose(0, 1).flatten(1) for half in w.chunk(2)]),
        ),
    ],
    ids=lambda x: str(x) if isinstance(x, nn.Module) else "matrix",
)
@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_each_layer_has_one_row_for_each_output(layer, matrix, gain):
    layer = copy.deepcopy(layer).double()
    kept, bias = layer.weight, layer.bias.detach().clone()
    Orthogonal(gain)(nn.Sequential(layer))
    assert layer.weight is kept
    assert layer.weight.is_leaf
    assert layer.weight.requires_grad
    assert torch.equal(layer.bias, bias)
    assert_orthonormal(matrix(layer.weight.detach()), gain, tolerance=1e-12)
    once = layer.weight.detach().clone()
    Orthogonal(gain)(layer)
    torch.testing.assert_close(layer.weight.detach(), once, rtol=0, atol=1e-12)


def test_square_layer_keeps_lengths():
    layer = nn.Linear(16, 16, bias=False, dtype=F64)
    Orthogonal()(layer)
    x = torch.randn(50, 16, dtype=F64)
    torch.testing.assert_close(layer(x).norm(dim=1), x.norm(dim=1))


@pytest.mark.parametrize(("n", "m"), [(4, 4), (6, 3), (3, 6)])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_weight_of_low_rank_becomes_orthonormal(n, m, rank):
    layer = nn.Linear(n, m)
    layer.weight.data = torch.randn(m, rank) @ torch.randn(rank, n)
    Orthogonal()(layer)
    assert_orthonormal(layer.weight.detach(), tolerance=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_projected_in_float32(dtype):
    layer = nn.Linear(8, 8).to(dtype)
    wide = copy.deepcopy(layer).float()
    Orthogonal()(layer)
    Orthogonal()(wide)
    assert layer.weight.dtype == dtype
    assert torch.equal(layer.weight, wide.weight.to(dtype))


def test_embeddings_normalisation_and_offsets_are_left_alone():
    module = nn.Sequential(nn.Embedding(4, 3), nn.LayerNorm(3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    Orthogonal()(module)
    changed = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"3.weight"}


def test_adam_trains_on_orthogonal_weights():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4, bias=False)
    optimiser, constraint = torch.optim.Adam(layer.parameters(), lr=0.05), Orthogonal()
    turn = torch.linalg.qr(torch.randn(4, 4)).Q
    constraint(layer)
    turn = turn * (torch.det(turn) * torch.det(layer.weight.detach())).sign()
    turn = turn if torch.det(turn) * torch.det(layer.weight) > 0 else -turn[[1, 0, 2, 3]]
    x = torch.randn(64, 4)
    for _ in range(200):
        loss = (layer(x) - x @ turn.T).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        constraint(layer)
        assert_orthonormal(layer.weight.detach(), tolerance=1e-5)
    assert (layer.weight - turn).abs().max() < 0.1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (
            nn.Embedding(3, 2),
            "module should have a layer to constrain, of linear layers, convolutions; "
            "this Embedding has none",
        ),
        (
            parametrizations.orthogonal(nn.Linear(3, 3)),
            "weight of ParametrizedLinear, which a param",
        ),
        (
            nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3))),
            "weight of 0, which a param",
        ),
    ],
)
def test_what_orthogonal_cannot_do_is_refused(module, text):
    with pytest.raises(ValueError, match=text):
        Orthogonal()(module)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weight_that_is_not_finite_is_refused_before_any_other_is_changed(value):
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight.data[0, 1] = value
    before = module[0].weight.detach().clone()
    with pytest.raises(ValueError, match="the weight of 1 should be finite"):
        Orthogonal()(module)
    assert torch.equal(module[0].weight, before)


def test_orthogonal_runs_on_the_meta_device():
    Orthogonal()(nn.Conv2d(3, 4, 3, device="meta"))


def test_torchs_orthogonal_is_of_the_last_two_dimensions():
    layer = parametrizations.orthogonal(nn.Conv2d(3, 5, 3))
    assert_orthonormal(layer.weight.detach(), tolerance=1e-5)
    rows = layer.weight.detach().flatten(1)
    assert (rows @ rows.T - torch.eye(5)).abs().max() > 0.5


# --- all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        (
            "WeightClipper",
            {"bound": 0.01, "include": ["*"], "exclude": [], "normalisation": False},
        ),
        ("SpectralNorm", {"n_power_iterations": 1, "eps": 1e-12, "input_shape": None}),
        ("Orthogonal", {"gain": 1.0}),
    ],
)
def test_settings_left_out_are_those_of_the_papers(name, defaults):
    assert gb.to_spec(gb.build({"block": name})) == {"block": name, **defaults}


@pytest.mark.parametrize("first", [None, (2, 8, 8)])
def test_convolution_is_not_normalised_by_both_norms(first):
    layer = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
    gb.SpectralNorm(input_shape=first)(layer)
    gb.SpectralNorm(input_shape=first)(layer)
    other = gb.SpectralNorm(input_shape=(2, 8, 8) if first is None else None)
    with pytest.raises(ValueError, match="the convolution 0 is normalised already, by "):
        other(layer)
