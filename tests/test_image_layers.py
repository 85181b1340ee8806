"""What the papers say of the layers for images, of noise and of augmentation."""
# What lies in a module is typed as any tensor or module, and tables of arguments are unpacked.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOptionalMemberAccess=false

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gan_blocks import (
    ConditionalBatchNorm2d,
    DiffAugment,
    EqualizedConv2d,
    EqualizedLinear,
    GaussianNoise,
    MinibatchStdDev,
    PixelNorm,
    ProjectionHead,
    ResidualDown2d,
    ResidualUp2d,
    SelfAttention2d,
)

F64 = torch.float64


# --- self-attention ----------------------------------------------------------------------------------


def attention(**arguments):
    layer = SelfAttention2d(8, **arguments).double()
    nn.init.normal_(layer.gamma)
    return layer


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("pool", [False, True])
def test_shares_are_a_distribution_at_any_scale(scale, pool):
    shares = attention(pool=pool).shares(scale * torch.randn(2, 8, 4, 6, dtype=F64))
    assert shares.shape == (2, 24, 6 if pool else 24)
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(2), torch.ones(2, 24, dtype=F64))


def test_attention_starts_as_the_identity_and_learns_gamma_first():
    layer, x = SelfAttention2d(8), torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(layer(x), x)
    layer(x).square().sum().backward()
    assert layer.gamma.grad is not None
    assert layer.gamma.grad != 0


def test_attention_does_not_know_where_a_position_is():
    layer, x = attention(), torch.randn(2, 8, 3, 4, dtype=F64)
    order = torch.randperm(12)
    permuted = x.flatten(2)[:, :, order].unflatten(2, (3, 4))
    expected = layer(x).flatten(2)[:, :, order].unflatten(2, (3, 4))
    torch.testing.assert_close(layer(permuted), expected)


def test_channels_of_keys_and_values_are_those_asked_for():
    assert SelfAttention2d(64).f.out_channels == 8
    assert SelfAttention2d(64).h.out_channels == 8
    assert SelfAttention2d(4).g.out_channels == 1
    layer = SelfAttention2d(64, key_channels=5, value_channels=32)
    assert (layer.f.out_channels, layer.g.out_channels) == (5, 5)
    assert (layer.h.out_channels, layer.v.in_channels, layer.v.out_channels) == (32, 32, 64)


@pytest.mark.parametrize("shape", [(2, 8, 4), (2, 7, 4, 4), (2, 8, 0, 4)])
def test_attention_refuses_other_maps(shape):
    with pytest.raises(ValueError, match=r"\(N, 8, H, W\), H and W at least 1"):
        SelfAttention2d(8)(torch.zeros(shape))
    with pytest.raises(ValueError, match="at least 2"):
        SelfAttention2d(8, pool=True)(torch.zeros(2, 8, 1, 4))


# --- classes -----------------------------------------------------------------------------------------


def test_one_class_is_batch_norm():
    norm, plain = ConditionalBatchNorm2d(3, 1), nn.BatchNorm2d(3)
    with torch.no_grad():
        plain.weight.copy_(norm.weight.normal_()[0])
        plain.bias.copy_(norm.bias.normal_()[0])
    for _ in range(3):
        x = torch.randn(5, 3, 4, 4) * 2 + 1
        torch.testing.assert_close(norm(x, torch.zeros(5, dtype=torch.long)), plain(x))
    norm.eval()
    plain.eval()
    x = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(norm(x, torch.zeros(5, dtype=torch.long)), plain(x))


def test_classes_share_the_statistics_and_start_the_same():
    norm, x = ConditionalBatchNorm2d(3, 4), torch.randn(4, 3, 2, 2)
    first, second = norm(x, torch.tensor([0, 1, 2, 3])), norm(x, torch.tensor([3, 3, 3, 3]))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first, nn.BatchNorm2d(3)(x))


def test_torchs_synchronised_batch_norm_takes_the_place_of_the_normalisation():
    network = nn.SyncBatchNorm.convert_sync_batchnorm(ConditionalBatchNorm2d(3, 4))
    assert isinstance(network.norm, nn.SyncBatchNorm)


def test_a_head_without_class_vectors_is_a_linear_layer():
    head, features = ProjectionHead(5, 3), torch.randn(4, 5)
    labels = torch.tensor([0, 1, 2, 0])
    unconditional = head.linear(features)[:, 0]
    assert not torch.allclose(head(features, labels), unconditional)
    nn.init.zeros_(head.classes.weight)
    torch.testing.assert_close(head(features, labels), unconditional)


def test_optimal_head_of_two_log_linear_classes_is_the_log_ratio():
    # p(y|x) = softmax(<a_y, x>), q(y|x) = softmax(<b_y, x>): v_y = a_y - b_y up to a common vector.
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 4, dtype=F64)
    x, labels = torch.randn(6, 4, dtype=F64), torch.tensor([0, 1, 2, 2, 1, 0])
    head = ProjectionHead(4, 3, dtype=F64)
    with torch.no_grad():
        head.classes.weight.copy_(a - b)
        head.linear.weight.zero_()
        head.linear.bias.zero_()
    log_p, log_q = (x @ a.T).log_softmax(1), (x @ b.T).log_softmax(1)
    rows = torch.arange(6)
    of_x = (x @ a.T).logsumexp(1) - (x @ b.T).logsumexp(1)
    expected = (log_p - log_q)[rows, labels] + of_x
    torch.testing.assert_close(head(x, labels), expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda labels: ConditionalBatchNorm2d(2, 3)(torch.randn(4, 2, 2, 2), labels),
        lambda labels: ProjectionHead(2, 3)(torch.randn(4, 2), labels),
    ],
)
def test_labels_are_one_integer_for_each_sample(call):
    for labels in (torch.zeros(4), torch.zeros(4, dtype=torch.bool)):
        with pytest.raises(TypeError, match="labels should be integers"):
            call(labels)
    for shape in ((3,), (4, 1), ()):
        with pytest.raises(ValueError, match=r"shape \(4,\), one for each sample"):
            call(torch.zeros(shape, dtype=torch.long))


def test_maps_and_features_of_another_size_are_refused():
    labels = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"shape \(N, 3, H, W\), got \(2, 4, 1, 1\)"):
        ConditionalBatchNorm2d(3, 2)(torch.zeros(2, 4, 1, 1), labels)
    with pytest.raises(ValueError, match=r"shape \(N, 3\), got \(2, 4\)"):
        ProjectionHead(3, 2)(torch.zeros(2, 4), labels)
    with pytest.raises(ValueError, match="has 2 classes: pass the labels"):
        ResidualUp2d(3, 2, num_classes=2)(torch.zeros(2, 3, 2, 2))
    with pytest.raises(ValueError, match="has no classes"):
        ResidualUp2d(3, 2)(torch.zeros(2, 3, 2, 2), labels)


# --- normalisation and scaling -----------------------------------------------------------------------


@given(st.floats(-10, 10), st.integers(1, 9))
def test_pixel_norm_gives_each_pixel_a_mean_square_of_one_whatever_its_scale(exponent, channels):
    x = torch.randn(3, channels, 2, 2, dtype=F64) * 2.0**exponent
    squares = PixelNorm(1e-20)(x).square().mean(1)
    torch.testing.assert_close(squares, torch.ones_like(squares), rtol=1e-6, atol=0)


def test_pixel_norm_of_zero_is_zero_with_a_finite_gradient():
    x = torch.zeros(2, 3, requires_grad=True)
    y = PixelNorm()(x)
    y.sum().backward()
    assert (y == 0).all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert PixelNorm()(torch.full((1, 4), 300.0).half()).isfinite().all(), "squares leave float16"
    with pytest.raises(ValueError, match=r"\(N, C, \.\.\.\)"):
        PixelNorm()(torch.zeros(3))


EQUALISED = {
    "linear": (lambda **options: EqualizedLinear(400, 300, **options), (200, 400)),
    "conv": (lambda **options: EqualizedConv2d(40, 300, 3, **options), (40, 40, 5, 5)),
}


@pytest.mark.parametrize(("make", "shape"), EQUALISED.values(), ids=EQUALISED)
@pytest.mark.parametrize("lr_multiplier", [1.0, 0.01])
@pytest.mark.parametrize("gain", [1.0, math.sqrt(2)])
def test_equalised_layers_keep_the_variance_at_the_start(make, shape, lr_multiplier, gain):
    torch.manual_seed(0)
    layer = make(gain=gain, lr_multiplier=lr_multiplier)
    y = layer(torch.randn(shape))
    assert y.std().item() == pytest.approx(gain, rel=0.03)
    assert layer.weight.std().item() == pytest.approx(1 / lr_multiplier, rel=0.03)
    assert (layer.bias == 0).all()


@pytest.mark.parametrize("lr_multiplier", [1.0, 0.1])
def test_adam_moves_layers_of_any_width_at_one_relative_speed(lr_multiplier):
    torch.manual_seed(0)
    changes = []
    for width in (16, 1024):
        layer = EqualizedLinear(width, 64, lr_multiplier=lr_multiplier)
        before = layer.weight.detach() * layer.scale
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
        layer(torch.randn(32, width)).square().mean().backward()
        optimizer.step()
        change = (layer.weight.detach() * layer.scale - before).norm() / before.norm()
        changes.append(change.item())
    assert changes[0] == pytest.approx(changes[1], rel=0.1)
    assert changes[0] == pytest.approx(1e-3 * lr_multiplier, rel=0.1)


def test_offset_of_an_equalised_layer_learns_at_the_multiplied_speed():
    layer = EqualizedLinear(3, 2, lr_multiplier=0.1)
    with torch.no_grad():
        layer.bias += 1.0  # type: ignore[operator]
    x = torch.zeros(1, 3)
    torch.testing.assert_close(layer(x), torch.full((1, 2), 0.1))


# --- noise and augmentation --------------------------------------------------------------------------


def test_noise_is_gone_after_its_steps_and_absent_in_evaluation():
    noise, x = GaussianNoise(2.0, anneal_steps=4), torch.zeros(100, 100)
    found = []
    for _ in range(6):
        found.append(noise(x).std().item())
        noise.step()
    assert found == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0, 0.0], rel=0.05)
    assert GaussianNoise(2.0).eval()(x) is x


def test_noise_stays_without_annealing_and_its_steps_lie_in_the_state():
    noise = GaussianNoise(0.5)
    for _ in range(9):
        noise.step()
    assert noise.current_std() == 0.5
    annealed, fresh = GaussianNoise(1.0, 10), GaussianNoise(1.0, 10)
    for _ in range(3):
        annealed.step()
    fresh.load_state_dict(annealed.state_dict())
    assert fresh.current_std().item() == pytest.approx(0.7)
    long = GaussianNoise(1.0, anneal_steps=100_000).half()
    long.step_count.fill_(70_000)
    assert long.current_std(torch.float16).item() == pytest.approx(0.3, rel=1e-3)


def test_given_generators_draw_the_same_noise_and_augmentation():
    x = torch.rand(3, 2, 8, 8)
    for block in (GaussianNoise(), DiffAugment()):
        first, second = (block(x, generator=torch.Generator().manual_seed(4)) for _ in range(2))
        assert torch.equal(first, second)
        assert not torch.equal(first, block(x))


def test_middle_of_each_draw_changes_nothing_but_the_hole():
    x, middle = torch.randn(2, 3, 9, 9, dtype=F64), torch.full((2, 7), 0.5)
    for policy in (["color"], ["translation"], ["color", "translation"], []):
        torch.testing.assert_close(DiffAugment(policy)(x, middle), x)
    changed = (DiffAugment(["cutout"])(x, middle) != x).nonzero()
    assert changed[:, 2:].min() == 2
    assert changed[:, 2:].max() == 6


def test_one_draw_moves_two_batches_the_same_way():
    x, y = torch.rand(2, 64, 1, 8, 8)
    augment = DiffAugment(["translation", "cutout"])
    draw = augment.draw(x)
    torch.testing.assert_close(augment(x, draw) + augment(y, draw), augment(x + y, draw))
    assert not torch.allclose(augment(x, draw), augment(x))


@pytest.mark.parametrize("side", [8, 9, 28])
@pytest.mark.parametrize("part", [0.0, 0.125, 0.5, 1.0])
def test_extreme_draws_reach_the_limits_and_no_further(side, part):
    image = torch.arange(1.0, side**2 + 1).view(1, 1, side, side)
    most = int(side * part + 0.5)
    for u, shift in ((0.0, -most), (1 - 1e-6, most)):
        moved = DiffAugment(["translation"], translation=part)(image, torch.full((1, 7), u))
        expected = torch.zeros_like(image)
        kept = side - abs(shift)
        if kept > 0:
            to, source = (
                (slice(shift, None), slice(0, kept))
                if shift > 0
                else (
                    slice(0, kept),
                    slice(-shift, None),
                )
            )
            expected[..., to, to] = image[..., source, source]
        assert torch.equal(moved, expected)
    ones = torch.ones(200, 1, side, side)
    torch.manual_seed(0)
    holes = (DiffAugment(["cutout"], cutout=part)(ones) == 0).sum((1, 2, 3))
    size = int(side * part + 0.5)
    assert holes.max() <= size**2
    if 0 < size < side:
        assert holes.max() == size**2
        assert holes.min() >= (size // 2) ** 2, "the centre lies in the image"


def test_ranges_of_colour_are_those_of_the_paper():
    torch.manual_seed(0)
    x = torch.zeros(20_000, 3, 1, 1)
    x[:, 0], x[:, 1], x[:, 2] = 1.0, 0.0, -1.0
    y = DiffAugment(["color"])(x)[:, :, 0, 0]
    assert y.mean(1).min().item() == pytest.approx(-0.5, abs=0.01)
    assert y.mean(1).max().item() == pytest.approx(0.5, abs=0.01)
    spread = (y[:, 0] - y[:, 2]) / 2  # saturation of U[0, 2) times contrast of U[0.5, 1.5)
    assert spread.min() < 0.01
    assert spread.max().item() == pytest.approx(3.0, abs=0.1)
    assert spread.mean().item() == pytest.approx(1.0, abs=0.02)


def test_gradient_reaches_the_generator_through_the_augmentation():
    x = torch.rand(4, 1, 8, 8, requires_grad=True)
    augment = DiffAugment()
    draw = augment.draw(x)
    (gradient,) = torch.autograd.grad(augment(x, draw).sum(), x)
    assert (gradient != 0).any((1, 2, 3)).all()


def test_wrong_images_and_draws_are_refused():
    augment = DiffAugment()
    with pytest.raises(ValueError, match=r"\(N, C, H, W\), got \(4, 8\)"):
        augment(torch.zeros(4, 8))
    with pytest.raises(ValueError, match=r"draw should have shape \(4, 7\), got \(3, 7\)"):
        augment(torch.zeros(4, 1, 8, 8), torch.zeros(3, 7))


# --- residual blocks ---------------------------------------------------------------------------------


def test_a_residual_block_without_branch_keeps_the_map():
    up, down = ResidualUp2d(3, 3), ResidualDown2d(3, 3, downsample=False)
    for block in (up, down):
        nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(down(x), x)
    nn.init.dirac_(up.shortcut.weight)
    torch.testing.assert_close(up(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_weights_of_residual_blocks_start_as_in_the_paper():
    torch.manual_seed(0)
    block = ResidualDown2d(64, 64)
    # Glorot: variance 2 / (fan_in + fan_out), times 2 in the branch.
    assert block.conv1.weight.var().item() == pytest.approx(4 / (2 * 64 * 9), rel=0.05)
    assert block.shortcut.weight.var().item() == pytest.approx(2 / (2 * 64), rel=0.05)
    assert (block.conv2.bias == 0).all()


# --- wrong use ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_integer_dtype_choose_the_class(dtype):
    labels = torch.tensor([2, 2, 1])
    norm, head = ConditionalBatchNorm2d(1, 3).eval(), ProjectionHead(2, 3)
    nn.init.normal_(norm.bias)
    x, features = torch.randn(3, 1, 2, 2), torch.randn(3, 2)
    torch.testing.assert_close(norm(x, labels.to(dtype)), norm(x, labels))
    torch.testing.assert_close(head(features, labels.to(dtype)), head(features, labels))


def test_labels_beyond_the_classes_are_refused_and_lists_too():
    norm, x = ConditionalBatchNorm2d(1, 3), torch.randn(2, 1, 2, 2)
    for bad in (-1, 3):
        with pytest.raises(ValueError, match="labels should be numbers of classes, from 0 on, got"):
            norm(x, torch.tensor([0, bad]))
    with pytest.raises(TypeError, match="labels should be a tensor, got list"):
        norm(x, [0, 1])
    with pytest.raises(TypeError, match="should be integers"):
        norm(x, torch.zeros(2, dtype=torch.complex64))


@pytest.mark.parametrize(
    "layer", [PixelNorm(), DiffAugment(), GaussianNoise(), MinibatchStdDev()], ids=repr
)
def test_integer_images_are_refused(layer):
    for dtype in (torch.uint8, torch.int64):
        with pytest.raises(TypeError, match=r"floating.point"):
            layer(torch.ones(2, 1, 8, 8, dtype=dtype))


def test_residual_blocks_refuse_other_maps():
    with pytest.raises(ValueError, match=r"ResidualUp2d: x should have shape \(N, 3, H, W\)"):
        ResidualUp2d(3, 2)(torch.zeros(2, 4, 2, 2))
    with pytest.raises(ValueError, match="H and W at least 2"):
        ResidualDown2d(3, 2)(torch.zeros(2, 3, 1, 4))
    ResidualDown2d(3, 2, downsample=False)(torch.zeros(2, 3, 1, 1))


def test_attention_stays_finite_under_float16_autocast():
    layer, x = SelfAttention2d(8), 300 * torch.randn(2, 8, 8, 8)
    nn.init.ones_(layer.gamma)
    with torch.autocast("cpu", torch.float16):
        assert layer(x).isfinite().all()
        assert layer.shares(x).dtype == torch.float32
