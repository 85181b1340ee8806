"""What the layers promise beyond their formula."""

import copy
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gan_blocks_stylegan import (
    Downsample2d,
    MappingNetwork,
    ModulatedConv2d,
    NoiseInjection,
    Upsample2d,
)

import gan_blocks
from gan_blocks import InvalidArgumentsError, distributed


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- resampling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [Upsample2d(), Downsample2d(), Upsample2d((1, 1))])
def test_inside_of_a_constant_image_stays_constant(layer):
    y = layer(torch.full((1, 2, 16, 16), 3.0))
    torch.testing.assert_close(y[:, :, 1:-1, 1:-1], torch.full_like(y, 3.0)[:, :, 1:-1, 1:-1])


@pytest.mark.parametrize("taps", [(1, 3, 3, 1), (1, 1), (1, 4, 7, 7, 4, 1)])
def test_up_is_four_times_the_adjoint_of_down(taps):
    large = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    small = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    up, down = Upsample2d(taps, dtype=torch.float64), Downsample2d(taps, dtype=torch.float64)
    torch.testing.assert_close((up(small) * large).sum(), 4 * (small * down(large)).sum())


def test_up_is_bilinear_interpolation_inside():
    x = torch.randn(1, 2, 6, 6)
    bilinear = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(Upsample2d()(x)[..., 1:-1, 1:-1], bilinear[..., 1:-1, 1:-1])


def test_down_removes_the_highest_frequency():
    x = torch.ones(1, 1, 8, 8)
    x[..., 1::2] = -1
    assert Downsample2d()(x)[..., 1:-1].abs().max() < 1e-6


def test_resampling_keeps_the_mean_apart_from_the_edge():
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 3, 4] = 1
    assert Upsample2d()(x).sum().item() == pytest.approx(4)
    assert Downsample2d()(x).sum().item() == pytest.approx(0.25)


def test_scale_of_the_taps_does_not_matter():
    x = torch.randn(1, 1, 4, 4)
    torch.testing.assert_close(Upsample2d((10, 30, 30, 10))(x), Upsample2d()(x))


@pytest.mark.parametrize("layer", [Upsample2d, Downsample2d])
def test_taps_of_sum_zero_are_refused(layer):
    with pytest.raises(InvalidArgumentsError, match="sum other than 0"):
        layer((1.0, -1.0))


def test_odd_side_is_refused():
    with pytest.raises(ValueError, match=r"even sides, got \(1, 1, 4, 5\)"):
        Downsample2d()(torch.ones(1, 1, 4, 5))


@pytest.mark.parametrize("layer", [Upsample2d(), Downsample2d()])
@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 0, 4, 4), (1, 1, 0, 4)])
def test_other_shapes_are_refused(layer, shape):
    with pytest.raises(ValueError, match="takes maps of shape"):
        layer(torch.ones(shape))


# --- modulated convolution -------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_demodulated_output_has_unit_variance_whatever_the_style(scale):
    torch.manual_seed(0)
    layer = ModulatedConv2d(16, 8, 3)
    y = layer(torch.randn(400, 16, 8, 8), scale * torch.rand(400, 16))[:, :, 1:-1, 1:-1]
    variance = y.transpose(0, 1).flatten(1).var(1)
    torch.testing.assert_close(variance, torch.ones(8), rtol=0.05, atol=0)


def test_demodulated_output_does_not_depend_on_the_length_of_the_style():
    layer, x, s = ModulatedConv2d(4, 3, 3), torch.randn(2, 4, 5, 5), torch.randn(2, 4)
    torch.testing.assert_close(layer(x, 100 * s), layer(x, s))


def test_output_without_demodulation_is_linear_in_the_style():
    layer = ModulatedConv2d(4, 3, 3, demodulate=False, upsample=True)
    x, s, t = torch.randn(2, 4, 5, 5), torch.randn(2, 4), torch.randn(2, 4)
    torch.testing.assert_close(layer(x, s + 2 * t), layer(x, s) + 2 * layer(x, t))


def test_style_of_zeros_gives_zeros_and_finite_gradients():
    layer, x = ModulatedConv2d(4, 3, 3), torch.randn(2, 4, 5, 5)
    s = torch.zeros(2, 4, requires_grad=True)
    y = layer(x, s)
    assert not y.any()
    (gradient,) = torch.autograd.grad(y.sum(), s, create_graph=True)
    (again,) = torch.autograd.grad(gradient.square().sum(), s)
    assert gradient.isfinite().all()
    assert again.isfinite().all()


def test_doubling_convolves_what_lies_beyond_the_edge():
    """Not so a doubled map with zeros around it: there the edge differs, and only there."""
    layer, x, s = (
        ModulatedConv2d(4, 3, 3, upsample=True),
        torch.randn(1, 4, 5, 5),
        torch.randn(1, 4),
    )
    plain = ModulatedConv2d(4, 3, 3)
    plain.load_state_dict({"weight": layer.weight})
    cut = plain(Upsample2d()(x), s)
    torch.testing.assert_close(layer(x, s)[..., 1:-1, 1:-1], cut[..., 1:-1, 1:-1])
    assert (layer(x, s) - cut)[..., 0].abs().max() > 0.01


def test_even_kernel_is_refused():
    with pytest.raises(InvalidArgumentsError, match="kernel_size should be odd, got 4"):
        ModulatedConv2d(2, 2, 4)


@pytest.mark.parametrize(
    ("shape", "style"), [((2, 3, 4, 4), (2, 4)), ((2, 4, 4, 4), (1, 4)), ((4, 4), (4, 4))]
)
def test_styles_that_do_not_fit_are_refused(shape, style):
    with pytest.raises(ValueError, match="ModulatedConv2d takes maps"):
        ModulatedConv2d(4, 2, 1)(torch.ones(shape), torch.ones(style))


# --- noise --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["random", "fixed", "none", torch.full((1, 1, 4, 4), 1e4)])
def test_noise_of_strength_zero_changes_nothing(noise):
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(NoiseInjection(4)(x, noise), x)


def test_noise_is_one_standard_normal_map_for_all_channels():
    layer, x = NoiseInjection(), torch.zeros(50, 3, 20, 20)
    torch.nn.init.constant_(layer.strength, 2.0)
    y = layer(x, generator=seeded()).detach()
    assert torch.equal(y[:, 0], y[:, 2])
    assert not torch.equal(y[0], y[1])
    assert y.std().item() == pytest.approx(2.0, rel=0.03)
    assert y.mean().item() == pytest.approx(0.0, abs=0.06)


def test_fixed_noise_is_the_same_in_every_call_and_in_a_loaded_layer():
    layer, x = NoiseInjection(4), torch.zeros(2, 3, 4, 4)
    torch.nn.init.ones_(layer.strength)
    other = NoiseInjection(4)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x, "fixed"), other(x, "fixed"))
    assert layer(x, "fixed").any()


def test_generator_draws_the_same_noise_in_every_precision():
    layer = NoiseInjection()
    torch.nn.init.ones_(layer.strength)
    single = layer(torch.zeros(1, 1, 4, 4), generator=seeded())
    double = layer.double()(torch.zeros(1, 1, 4, 4, dtype=torch.float64), generator=seeded())
    assert torch.equal(single.double(), double)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ("fixed", r"the layer has one of \(8, 8\); build it with their image_size"),
        ("loud", 'should be "random", "fixed", "none" or a tensor'),
        (torch.ones(2, 1, 4, 5), r"should have shape \(2, 1, 4, 4\)"),
        (torch.ones(3, 1, 4, 4), "or 1 in the place of 2"),
        (torch.ones(2, 3, 4, 4), r"should have shape \(2, 1, 4, 4\)"),
    ],
)
def test_noise_that_does_not_fit_is_refused(noise, message):
    with pytest.raises(ValueError, match=message):
        NoiseInjection(8)(torch.ones(2, 3, 4, 4), noise)


# --- mapping network ----------------------------------------------------------------------------------


def test_length_of_a_latent_vector_does_not_matter():
    mapping, z = MappingNetwork(8, 4, depth=2), torch.randn(3, 8)
    torch.testing.assert_close(mapping(50 * z), mapping(z))


def test_styles_keep_the_mean_square_of_the_latents_through_eight_layers():
    torch.manual_seed(0)
    w = MappingNetwork(256, 256)(torch.randn(64, 256))
    # E lrelu(x)^2 = (1 + 0.04) / 2, times the gain's 2, for each of eight layers.
    assert w.square().mean().item() == pytest.approx(1.04**8, rel=0.35)


def test_a_step_of_adam_moves_the_map_in_proportion_to_the_multiplier():
    moves = {}
    for speed in (1.0, 0.1):
        torch.manual_seed(0)
        layer = MappingNetwork(8, 8, depth=1, lr_multiplier=speed)
        z = torch.randn(16, 8, generator=seeded())
        before = layer(z).detach()
        adam = torch.optim.Adam(layer.parameters(), lr=1e-4)
        layer(z).square().sum().backward()
        adam.step()
        moves[speed] = (layer(z) - before).norm().item()
    assert moves[0.1] / moves[1.0] == pytest.approx(0.1, rel=0.05)


def test_average_follows_the_mean_of_the_styles_from_zero():
    mapping = MappingNetwork(8, 4, depth=2, average_decay=0.9)
    expected = torch.zeros(4)
    for seed in range(3):
        w = mapping(torch.randn(5, 8, generator=seeded(seed))).detach()
        mapping.step()
        expected = 0.9 * expected + 0.1 * w.sum(0) / 5
    torch.testing.assert_close(mapping.average, expected)


def test_average_is_that_of_the_whole_batch_in_however_many_parts_it_comes():
    whole = MappingNetwork(8, 4, depth=2, average_decay=0.9).double()
    parts, z = copy.deepcopy(whole), torch.randn(6, 8, dtype=torch.float64)
    for _ in range(3):
        whole(z)
        whole.step()
        for part in z.split((1, 2, 3)):
            parts(part)
        before = parts.average.clone()
        parts(z).sum().backward()
        assert torch.equal(parts.average, before), "forward changes nothing"
        parts.step()
    torch.testing.assert_close(parts.average, whole.average)


def test_average_follows_the_optimizer_of_the_generator():
    mapping, z = MappingNetwork(8, 4, depth=2), torch.randn(5, 8)
    optimizer = torch.optim.SGD(mapping.parameters(), lr=0.0)
    gan_blocks.follow(optimizer, mapping)
    mapping(z).sum().backward()
    assert not mapping.average.any()
    optimizer.step()
    torch.testing.assert_close(mapping.average, 0.005 * mapping.map(z).mean(0))


def test_average_stands_still_in_evaluation_and_where_it_is_only_asked():
    mapping = MappingNetwork(8, 4, depth=2)
    mapping.map(torch.randn(5, 8))
    mapping.eval()(torch.randn(5, 8))
    mapping.step()
    assert not mapping.average.any()


def test_average_is_that_of_all_processes():
    gloo: Any = dist  # some of its names are not declared
    store, z = gloo.HashStore(), torch.randn(6, 8)
    alone = MappingNetwork(8, 4, depth=2, average_decay=0.9)
    copies = [copy.deepcopy(alone), copy.deepcopy(alone)]
    alone(z)
    alone.step()

    def process(rank):
        group = gloo.ProcessGroupGloo(store, rank, 2, timedelta(seconds=30))
        with distributed.process_group(group):
            copies[rank](z[:2] if rank == 0 else z[2:])
            copies[rank].step()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(process, (0, 1)))
    for each in copies:
        torch.testing.assert_close(each.average, alone.average)


def test_average_carries_no_gradient():
    mapping = MappingNetwork(8, 4, depth=1)
    w = mapping(torch.randn(5, 8))
    mapping.step()
    assert mapping.average.any()
    assert not mapping.average.requires_grad
    mapping.truncate(w, 0.5).sum().backward()
    gradients = [p.grad for p in mapping.parameters()]
    assert all(g is not None and g.any() for g in gradients)


def test_truncation_halves_the_way_to_the_average():
    mapping = MappingNetwork(8, 4, depth=1)
    mapping.average.copy_(torch.arange(4.0))
    w = torch.randn(5, 4)
    torch.testing.assert_close(mapping.truncate(w, 0.5), (w + torch.arange(4.0)) / 2)
    assert torch.equal(mapping.truncate(w, 1.0), w)
    assert torch.equal(mapping.truncate(w, 0.0), torch.arange(4.0).expand(5, 4))


def test_average_moves_in_a_network_of_half_precision():
    mapping = MappingNetwork(8, 4, depth=1, average_decay=0.999).bfloat16()
    for built in (mapping, MappingNetwork(8, 4, depth=1, dtype=torch.bfloat16)):
        assert built.average.dtype == torch.float32
    mapping.average.fill_(1.0)
    z = torch.randn(64, 8, dtype=torch.bfloat16)
    mean = mapping(z).float().mean(0)
    mapping.step()
    expected = 0.999 + 0.001 * mean
    torch.testing.assert_close(mapping.average, expected, rtol=1e-5, atol=1e-6)
    assert mapping.truncate(mapping(z), 0.5).dtype == torch.bfloat16


def test_styles_of_autocast_are_those_of_full_precision():
    mapping, z = MappingNetwork(8, 4).eval(), torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mapping(z)
    assert torch.equal(mixed, mapping(z))


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        (3, None, "MappingNetwork has 3 classes: pass the labels"),
        (0, torch.zeros(2, dtype=torch.int64), "MappingNetwork has no classes"),
        (3, torch.zeros(3, dtype=torch.int64), r"labels should have shape \(2,\)"),
    ],
)
def test_labels_that_are_missing_or_needless_are_refused(classes, labels, message):
    with pytest.raises(ValueError, match=message):
        MappingNetwork(4, 4, depth=1, num_classes=classes)(torch.ones(2, 4), labels)


def test_labels_of_floats_are_refused():
    with pytest.raises(TypeError, match="labels should be integers"):
        MappingNetwork(4, 4, depth=1, num_classes=2)(torch.ones(2, 4), torch.ones(2))


def test_latent_vectors_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"shape \(N, 4\), got \(2, 5\)"):
        MappingNetwork(4, 4, depth=1)(torch.ones(2, 5))


def test_classes_have_styles_of_their_own():
    mapping, z = MappingNetwork(4, 8, depth=2, num_classes=2), torch.randn(1, 4)
    first, second = (mapping(z, torch.tensor([label])) for label in (0, 1))
    assert (first - second).norm().item() > 0.1
