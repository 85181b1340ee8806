"""What the papers say of residual networks and patch discriminators."""
# What lies in a module is typed as any tensor or module, and tables of arguments are unpacked.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOptionalMemberAccess=false

import pytest
import torch
from torch import nn

import gan_blocks as gb

F64 = torch.float64


def channels_of(network):
    return [(m.in_channels, m.out_channels) for m in network.modules() if isinstance(m, nn.Conv2d)]


# --- SN-GAN ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "widths", "side"),
    [(32, (8, 8, 8, 8), 4), (48, (16, 8, 4, 2), 6), (128, (4, 4, 4, 2, 2, 2), 4), (15, (4,), 15)],
)
def test_generator_doubles_the_first_map_once_for_each_further_width(size, widths, side):
    generator = gb.ResNetGenerator(5, size, 2, widths)
    assert generator.first(torch.randn(2, 5)).shape == (2, widths[0], side, side)
    images = generator(torch.randn(2, 5))
    assert images.shape == (2, 2, size, size)
    assert images.abs().max() <= 1


def test_32_pixel_networks_are_those_of_the_paper():
    generator, discriminator = gb.ResNetGenerator(), gb.ResNetDiscriminator(spectral_norm=False)
    block = [(256, 256), (256, 256), (256, 256)]
    assert channels_of(generator) == [*block * 3, (256, 3)]
    first = [(3, 128), (128, 128), (3, 128)]
    assert channels_of(discriminator)[:3] == first
    kept = [(128, 128), (128, 128)]
    assert channels_of(discriminator)[3:] == [*kept, (128, 128), *kept, *kept]
    sizes = []
    for block in discriminator.blocks:
        block.register_forward_hook(lambda m, args, out: sizes.append(out.shape[-1]))
    discriminator(torch.randn(1, 3, 32, 32))
    assert sizes == [16, 8, 8, 8]


def test_features_are_summed_over_the_pixels():
    # Four copies of an image side by side, with a network of 1x1 kernels in effect.
    discriminator = gb.ResNetDiscriminator(1, (4,), downsamplings=1, spectral_norm=False).double()
    block, linear = discriminator.blocks[0], discriminator.head
    for convolution in (block.conv1, block.conv2):
        centre = convolution.weight.data[:, :, 1, 1].clone()
        convolution.weight.data.zero_()
        convolution.weight.data[:, :, 1, 1] = centre
    x = torch.randn(3, 1, 2, 2, dtype=F64)
    one = discriminator(x) - linear.bias
    torch.testing.assert_close(discriminator(x.repeat(1, 1, 2, 2)) - linear.bias, 4 * one)


def test_spectral_norms_of_all_weights_become_one():
    discriminator = gb.ResNetDiscriminator(1, (6, 8), 1, num_classes=3)
    layers = [m for m in discriminator.modules() if hasattr(m, "parametrizations")]
    assert len(layers) == 2 * 2 + 2 + 2, "convolutions, shortcuts, and the two parts of the head"
    for _ in range(400):
        discriminator(torch.randn(2, 1, 8, 8), torch.tensor([0, 2]))
    for layer in layers:
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert norm.item() == pytest.approx(1, rel=1e-2)
    discriminator.eval()
    x, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])
    assert torch.equal(discriminator(x, labels), discriminator(x, labels))


def test_a_label_changes_images_and_logits():
    generator = gb.ResNetGenerator(4, 8, 1, (4, 4), num_classes=3)
    nn.init.normal_(generator.blocks[0].norm1.weight)
    discriminator = gb.ResNetDiscriminator(1, (4,), 1, num_classes=3)
    z, labels = torch.randn(2, 4), torch.tensor([0, 1])
    images = generator(z, labels)
    assert not torch.allclose(images, generator(z, labels.flip(0)))
    assert not torch.allclose(discriminator(images, labels), discriminator(images, labels.flip(0)))


# --- R3GAN -------------------------------------------------------------------------------------------


SMALL = {"blocks_per_stage": 2, "group_width": 4}


def test_r3gan_starts_as_a_linear_map_of_the_latent_vector():
    generator = gb.R3GANGenerator(6, 16, 3, (16, 8, 8), **SMALL).double()
    first, second = torch.randn(2, 4, 6, dtype=F64)
    torch.testing.assert_close(
        generator(2 * first + second), 2 * generator(first) + generator(second)
    )


@pytest.mark.parametrize("size", [28, 32, 48])
def test_r3gan_keeps_its_variance_from_latent_vector_to_logit(size):
    torch.manual_seed(0)
    generator = gb.R3GANGenerator(64, size, 3, (64, 64, 32), **SMALL)
    discriminator = gb.R3GANDiscriminator(size, 3, (32, 64, 64), **SMALL)
    images = generator(torch.randn(64, 64))
    assert images.shape == (64, 3, size, size)
    assert 0.2 < images.std() < 2
    assert 0.05 < discriminator(torch.randn(64, 3, size, size)).std() < 3


def test_every_bottleneck_learns_from_the_first_step_on():
    generator = gb.R3GANGenerator(6, 8, 1, (8, 8), **SMALL)
    discriminator = gb.R3GANDiscriminator(8, 1, (8, 8), **SMALL)
    discriminator(generator(torch.randn(4, 6))).sum().backward()
    for network in (generator, discriminator):
        bottlenecks = [m for m in network.layers if type(m).__name__ == "_Bottleneck"]
        assert len(bottlenecks) == 4
        for block in bottlenecks:
            last = block.layers[-1]
            assert (last.weight == 0).all()
            assert last.weight.grad.abs().sum() > 0


def test_scale_of_a_branch_falls_with_the_number_of_blocks():
    torch.manual_seed(0)
    gain2 = 2 / (1 + 0.2**2)
    for network, stages in (
        (gb.R3GANDiscriminator(32, 1, (64,), blocks_per_stage=4), 1),
        (gb.R3GANDiscriminator(32, 1, (64,) * 4, blocks_per_stage=4), 4),
        (gb.R3GANGenerator(8, 32, 1, (64,) * 4, blocks_per_stage=4), 4),
    ):
        branches = [m.layers for m in network.layers if type(m).__name__ == "_Bottleneck"]
        depth = 4 * stages
        assert len(branches) == depth
        for place, fan_in in ((0, 64), (2, 16 * 9)):
            variance = torch.cat([branch[place].weight.flatten() for branch in branches]).var()
            assert variance.item() == pytest.approx(gain2 * depth**-0.5 / fan_in, rel=0.02)
        assert all(branch[2].groups == 128 // 16 for branch in branches)


def test_class_vectors_of_r3gan_start_as_a_linear_map_of_one_hot_vectors():
    torch.manual_seed(0)
    for network in (
        gb.R3GANGenerator(400, 8, 1, (16,), num_classes=25),
        gb.R3GANDiscriminator(8, 1, (400,), num_classes=25),
    ):
        assert network.classes.weight.std().item() == pytest.approx(0.2, rel=0.03)


def test_cifar_networks_have_the_papers_widths():
    generator = gb.R3GANGenerator(device="meta")
    discriminator = gb.R3GANDiscriminator(device="meta")
    for network in (generator, discriminator):
        grouped = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups == 96]
        assert len(grouped) == 8
        assert all((m.in_channels, m.out_channels) == (1536, 1536) for m in grouped)
    assert generator(torch.zeros(2, 64, device="meta")).shape == (2, 3, 32, 32)


def test_resampling_keeps_constants_inside_and_is_its_own_adjoint():
    from gan_blocks.networks.r3gan import _Down, _Up

    up, down = _Up(2, 2, {}), _Down(2, 2, {})
    ones = torch.ones(1, 2, 4, 4, dtype=F64)
    assert (up(ones)[:, :, 1:-1, 1:-1] == 1).all()
    assert (down(ones)[:, :, 1:-1, 1:-1] == 1).all()
    inside = nn.functional.interpolate(ones.cumsum(2), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(up(ones.cumsum(2))[:, :, 1:-1, 1:-1], inside[:, :, 1:-1, 1:-1])
    # Four times the adjoint of the one is the other.
    x, y = torch.randn(1, 2, 4, 4, dtype=F64), torch.randn(1, 2, 8, 8, dtype=F64)
    torch.testing.assert_close((up(x) * y).sum(), 4 * (x * down(y)).sum())


# --- patches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "pixels"), [(0, 7), (1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_as_many_pixels_as_the_paper_says(depth, pixels):
    discriminator = gb.PatchDiscriminator(1, 2, depth, norm="none").double()
    x = torch.randn(1, 1, 160, 160, dtype=F64, requires_grad=True)
    logits = discriminator(x)
    middle = logits.shape[-1] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], x)
    seen = gradient[0, 0].abs().sum(0).nonzero()
    assert seen.max() - seen.min() + 1 == pixels


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("extra", [0, 1, 5])
def test_number_of_logits_is_that_of_the_documentation(depth, extra):
    side = 3 * 2**depth + extra
    logits = gb.PatchDiscriminator(2, 2, depth, norm="none")(torch.randn(1, 2, side, side + 4))
    assert logits.shape == (1, 1, side // 2**depth - 2, (side + 4) // 2**depth - 2)
    with pytest.raises(ValueError, match=f"at least {3 * 2**depth}"):
        gb.PatchDiscriminator(2, 2, depth)(torch.randn(1, 2, 3 * 2**depth - 1, 64))


def test_70_pixel_discriminator_has_the_papers_layers():
    discriminator = gb.PatchDiscriminator(6, norm="batch")
    assert channels_of(discriminator) == [(6, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
    strides = [m.stride[0] for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    assert strides == [2, 2, 2, 1, 1]
    norms = [m.num_features for m in discriminator.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == [128, 256, 512]
    widest = gb.PatchDiscriminator(1, 2, 6, norm="none")
    assert [after for _, after in channels_of(widest)] == [2, 4, 8, 16, 16, 16, 16, 1]


def test_weights_of_patches_start_as_in_the_paper():
    torch.manual_seed(0)
    discriminator = gb.PatchDiscriminator(norm="batch")
    for module in discriminator.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert module.bias is None or (module.bias == 0).all()
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.4)
            assert module.weight.mean().item() == pytest.approx(1, abs=0.01)


def test_instance_norm_keeps_samples_apart_and_batch_norm_does_not():
    x = torch.randn(3, 3, 48, 48)
    apart = gb.PatchDiscriminator(width=4)
    torch.testing.assert_close(apart(x)[:1], apart(x[:1]), rtol=1e-4, atol=1e-5)
    mixed = gb.PatchDiscriminator(width=4, norm="batch")
    assert not torch.allclose(mixed(x)[:1], mixed(x[:1]), rtol=1e-3)


def test_feature_maps_and_logits_come_from_one_forward():
    discriminator, x = gb.MultiScaleDiscriminator(2, 1, 4, 1), torch.randn(2, 1, 24, 24)
    maps = discriminator.feature_maps(x)
    assert [[tuple(m.shape[1:]) for m in each] for each in maps] == [
        [(4, 12, 12), (8, 11, 11), (1, 10, 10)],
        [(4, 6, 6), (8, 5, 5), (1, 4, 4)],
    ]
    for each, logits in zip(maps, discriminator(x), strict=True):
        torch.testing.assert_close(each[-1], logits)
    loss = gb.LayerwiseFeatureMatchingLoss()(maps, discriminator.feature_maps(-x))
    assert loss > 0


def test_scales_have_weights_of_their_own():
    discriminator = gb.MultiScaleDiscriminator(3, 1, 4, 1)
    weights = [each.layers[0][0].weight for each in discriminator.scales]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert len(discriminator(torch.randn(1, 1, 24, 24))) == 3


# --- errors ------------------------------------------------------------------------------------------


def test_wrong_inputs_are_refused_with_what_was_expected():
    labels = torch.tensor([0])
    with pytest.raises(ValueError, match="multiple of 8, for 3 doublings, got 20"):
        gb.ResNetGenerator(image_size=20)
    with pytest.raises(ValueError, match="multiple of 8, for 3 doublings, got 4"):
        gb.R3GANDiscriminator(image_size=4)
    with pytest.raises(ValueError, match="3 downsamplings need as many widths, got 2"):
        gb.ResNetDiscriminator(widths=(4, 4), downsamplings=3)
    with pytest.raises(ValueError, match=r"width 6 times expansion 2 should be a multiple .* 16"):
        gb.R3GANGenerator(image_size=4, widths=(6,))
    generators = [
        gb.ResNetGenerator(4, 8, 1, (4, 4)),
        gb.R3GANGenerator(4, 8, 1, (8, 8), group_width=4),
    ]
    for generator in generators:
        name = type(generator).__name__
        with pytest.raises(
            ValueError, match=rf"{name}: z should have shape \(N, 4\), got \(2, 5\)"
        ):
            generator(torch.randn(2, 5))
        with pytest.raises(ValueError, match=f"{name} has no classes"):
            generator(torch.randn(1, 4), labels)
    for discriminator in (
        gb.ResNetDiscriminator(3, (4,), 1),
        gb.R3GANDiscriminator(8, 3, (8,), group_width=4),
        gb.PatchDiscriminator(3, 4, 1),
        gb.MultiScaleDiscriminator(2, 3, 4, 1),
    ):
        with pytest.raises(ValueError, match=r"x should have shape \(N, 3, .*got \(1, 1, 8, 8\)"):
            discriminator(torch.randn(1, 1, 8, 8))
    conditional = gb.R3GANDiscriminator(8, 1, (8,), group_width=4, num_classes=2)
    with pytest.raises(ValueError, match="R3GANDiscriminator has 2 classes: pass the labels"):
        conditional(torch.randn(1, 1, 8, 8))
    with pytest.raises(ValueError, match="H and W at least 4"):
        gb.ResNetDiscriminator(1, (4, 4), 2)(torch.randn(1, 1, 3, 8))


@pytest.mark.parametrize(
    ("network", "x"),
    [
        (gb.ResNetGenerator(4, 8, 1, (4, 4), num_classes=4), torch.randn(4, 4)),
        (gb.ResNetDiscriminator(1, (4,), 1, num_classes=4), torch.randn(4, 1, 8, 8)),
        (gb.R3GANGenerator(4, 8, 1, (8,), group_width=4, num_classes=4), torch.randn(4, 4)),
        (gb.R3GANDiscriminator(8, 1, (8,), group_width=4, num_classes=4), torch.randn(4, 1, 8, 8)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_conditional_networks_take_one_integer_for_each_sample(network, x):
    labels = torch.tensor([3, 0, 1, 2])
    network.eval()
    torch.testing.assert_close(network(x, labels.to(torch.uint8)), network(x, labels))
    for bad in (labels[:, None], labels[:1], labels[0], torch.eye(4).long()):
        with pytest.raises(ValueError, match=r"shape \(4,\), one for each sample"):
            network(x, bad)
    with pytest.raises(TypeError, match="should be integers"):
        network(x, torch.rand(4))


def test_classes_need_a_block_to_act_in():
    with pytest.raises(ValueError, match="give two widths at least"):
        gb.ResNetGenerator(4, 8, 1, (4,), num_classes=3)


def test_smallest_image_of_several_scales_is_that_of_the_documentation():
    for scales, smallest in ((3, 93), (2, 47)):
        discriminator = gb.MultiScaleDiscriminator(scales, 1, 2)
        assert len(discriminator(torch.randn(1, 1, smallest, smallest))) == scales
        with pytest.raises(ValueError, match=f"MultiScaleDiscriminator: .* least {smallest}"):
            discriminator(torch.randn(1, 1, smallest - 1, 200))


def test_pooled_features_of_a_residual_discriminator_have_a_name():
    discriminator = gb.ResNetDiscriminator(1, (4, 6), 1, spectral_norm=False)
    x = torch.randn(2, 1, 8, 8)
    seen = gb.FeatureExtractor(discriminator, ["pool", ""])(x)
    torch.testing.assert_close(discriminator.head(seen["pool"])[:, 0], seen[""])
