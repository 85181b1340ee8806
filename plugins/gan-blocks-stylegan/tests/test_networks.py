"""What the generator and the discriminator promise beyond their formula."""

import copy
import json

import pytest
import torch
from gan_blocks_stylegan import StyleGAN2Discriminator, StyleGAN2Generator
from torch import Tensor, nn

import gan_blocks
from gan_blocks import (
    EMA,
    InvalidArgumentsError,
    Lazy,
    NonSaturatingLoss,
    PathLengthPenalty,
    R1Penalty,
    build,
    to_spec,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def generator(seed=0, **options):
    torch.manual_seed(seed)
    small = {"latent_dim": 8, "image_size": 16, "channels": 2, "w_dim": 8, "mapping_depth": 2}
    return StyleGAN2Generator(**{**small, "channel_base": 64, "channel_max": 8, **options})


def discriminator(seed=0, **options):
    torch.manual_seed(seed)
    small = {"image_size": 16, "channels": 2, "channel_base": 64, "channel_max": 8}
    return StyleGAN2Discriminator(**{**small, **options})


def gradient_of(parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def loud(network):
    """With noise that can be seen."""
    for name, weight in network.named_parameters():
        if name.endswith("strength"):
            torch.nn.init.constant_(weight, 0.5)
    return network


# --- sizes ---------------------------------------------------------------------------------------


def test_networks_have_the_parameters_of_the_authors():
    """As the program of StyleGAN2-ADA prints them at 1024 pixels, with two layers of mapping."""
    g = StyleGAN2Generator(image_size=1024, mapping_depth=2, device="meta")
    d = StyleGAN2Discriminator(image_size=1024, device="meta")

    def size(*modules):
        return sum(p.numel() for m in modules for p in m.parameters())

    assert g.num_layers == 18
    convs, to_rgb = g.synthesis.convs, g.synthesis.to_rgb
    assert [size(convs[i]) for i in range(-8, 0)] == [
        1_442_561, 721_409, 426_369, 213_249, 139_457, 69_761, 51_297, 25_665,
    ]  # fmt: skip
    assert [size(layer) for layer in to_rgb][-5:] == [264_195, 132_099, 66_051, 33_027, 16_515]
    assert size(g) == 28_794_124
    first = d.blocks[0]
    assert isinstance(first, nn.Module)
    assert [size(m) for m in first.children()] == [9_248, 18_496, 2_048]
    assert [size(d.conv), size(d.hidden), size(d.out)] == [2_364_416, 4_194_816, 513]
    assert size(d) == 29_012_513


@pytest.mark.parametrize("side", [4, 8, 32])
def test_each_size_has_its_images(side):
    g, d = generator(image_size=side), discriminator(image_size=side)
    images = g(torch.randn(3, 8))
    assert images.shape == (3, 2, side, side)
    assert d(images).shape == (3,)


@pytest.mark.parametrize("network", [StyleGAN2Generator, StyleGAN2Discriminator])
@pytest.mark.parametrize("side", [1, 2, 3, 6, 12, 33])
def test_sides_that_are_no_power_of_two_from_four_are_refused(network, side):
    with pytest.raises(InvalidArgumentsError, match=f"power of two from 4 on, got {side}"):
        network(image_size=side, device="meta")


@pytest.mark.parametrize("network", [StyleGAN2Generator, StyleGAN2Discriminator])
def test_base_without_a_channel_for_the_last_map_is_refused(network):
    with pytest.raises(InvalidArgumentsError, match="channel_base should be image_size or more"):
        network(image_size=64, channel_base=63, device="meta")


# --- styles --------------------------------------------------------------------------------------


def test_each_style_acts_from_its_own_layer_on():
    """The image's derivative by each style is not 0; a map of the synthesis knows no later one."""
    g = generator()
    w = torch.randn(1, g.num_layers, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(g.synthesis(w, noise="none").square().sum(), w)
    assert (gradient.abs().sum(2) > 1e-4).all()
    maps = []
    for conv in g.synthesis.convs:
        conv.register_forward_hook(lambda module, inputs, output: maps.append(output))
    g.synthesis(w, noise="none")
    for layer, x in enumerate(maps):
        (gradient,) = torch.autograd.grad(x.square().sum(), w, retain_graph=True)
        told = gradient.abs().sum(2)[0] > 0
        assert told.tolist() == [i <= layer for i in range(g.num_layers)]


def test_mixing_has_the_first_style_below_the_crossover_and_the_second_above():
    g = generator()
    first, second = torch.zeros(3, g.num_layers, 8), torch.ones(3, g.num_layers, 8)
    for crossover in range(g.num_layers + 1):
        mixed = g.mix(first, second, crossover)
        layers = mixed[..., 0].tolist()
        assert layers == [[0.0] * crossover + [1.0] * (g.num_layers - crossover)] * 3
    each = g.mix(first, second, torch.tensor([0, 2, 6]))
    assert each[..., 5].tolist() == [[1.0] * 6, [0.0] * 2 + [1.0] * 4, [0.0] * 6]


def test_coarse_map_of_a_mixed_image_is_the_first_ones():
    g = generator().eval()
    w1, w2 = g.styles(torch.randn(2, 8)).split(1)
    maps = []
    for conv in g.synthesis.convs:
        conv.register_forward_hook(lambda module, inputs, output: maps.append(output))
    g.synthesis(w1, noise="fixed")
    g.synthesis(g.mix(w1, w2, 3), noise="fixed")
    same = [torch.equal(a, b) for a, b in zip(maps[:5], maps[5:], strict=True)]
    assert same == [True, True, True, False, False]


def test_training_mixes_with_the_probability_and_at_every_layer_alike():
    g = generator(style_mixing=0.8)
    w = g.styles(torch.randn(6000, 8), generator=seeded())
    changes = (w[:, 1:] != w[:, :-1]).any(2)
    assert (changes.sum(1) <= 1).all()
    share = changes.float().mean(0)
    torch.testing.assert_close(share, torch.full_like(share, 0.8 / 5), rtol=0.1, atol=0)


@pytest.mark.parametrize("chosen", ["evaluation", "probability 0"])
def test_no_mixing(chosen):
    g = generator().eval() if chosen == "evaluation" else generator(style_mixing=0)
    w = g.styles(torch.randn(50, 8))
    assert torch.equal(w, w[:, :1].expand_as(w))


def test_average_takes_in_first_styles_only():
    g, z = generator(style_mixing=1), torch.randn(4, 8)
    g.styles(z)
    g.mapping.step()
    torch.testing.assert_close(g.mapping.average, 0.005 * g.mapping.map(z).mean(0))


def test_styles_scale_by_one_at_the_start():
    """The affine maps begin at 1, so that a style of 0 leaves all channels as they are."""
    synthesis = generator().synthesis
    for layer in (*synthesis.convs, *synthesis.to_rgb):
        affine = layer.get_submodule("affine")
        scales = affine(torch.zeros(1, 8))
        assert torch.equal(scales, torch.ones_like(scales))


def test_second_style_of_a_sample_has_its_class():
    g = generator(style_mixing=1, num_classes=2)
    with torch.no_grad():
        g.mapping.classes.weight[0].zero_()
        first = next(g.mapping.layers.parameters())
        first[:, :8].zero_()  # a style is a function of the class alone
    w = g.styles(torch.randn(20, 8), torch.arange(20) % 2)
    assert torch.equal(w, w[:, :1].expand_as(w))
    assert not torch.equal(w[0], w[1])


# --- truncation ------------------------------------------------------------------------------------


def test_truncation_to_zero_gives_the_mean_image_for_every_latent_vector():
    g = generator()
    for _ in range(20):
        g(torch.randn(8, 8))
        g.mapping.step()
    g.eval()
    images = g(torch.randn(5, 8), psi=0.0, noise="fixed")
    mean = g.synthesis(g.mapping.average.expand(1, g.num_layers, -1), noise="fixed")
    torch.testing.assert_close(images, mean.expand_as(images))
    assert (g(torch.randn(5, 8), noise="fixed") - mean).abs().max() > 0.1


def test_cutoff_truncates_the_first_layers_only():
    g = generator().eval()
    g.mapping.average.fill_(3.0)
    z = torch.randn(4, 8)
    w, truncated = g.styles(z), g.styles(z, psi=0.25, cutoff=2)
    assert torch.equal(truncated[:, 2:], w[:, 2:])
    torch.testing.assert_close(truncated[:, :2], 3 + 0.25 * (w[:, :2] - 3))
    assert torch.equal(g.styles(z, psi=0.25, cutoff=0), w)


# --- chance ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_same_seed_gives_the_same_image(training):
    g = loud(generator()).train(training)
    z = torch.randn(4, 8)
    once, again, other = (g(z, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_chance_of_the_process_is_untouched_by_a_generator():
    g = loud(generator())
    before = torch.get_rng_state()
    g(torch.zeros(2, 8), generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_of_strength_zero_makes_no_difference_to_the_image():
    g, z = generator().eval(), torch.randn(2, 8)
    images = [g(z, noise=noise) for noise in ("random", "fixed", "none")]
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])
    assert not torch.equal(loud(g)(z, noise="fixed"), images[2])


# --- training ----------------------------------------------------------------------------------------


def test_path_length_penalty_makes_the_lengths_alike():
    g, z = generator(lr_multiplier=1.0), torch.randn(32, 8)
    penalty = PathLengthPenalty(decay=0.0)
    adam = torch.optim.Adam(g.parameters(), lr=3e-3)

    def spread():
        w = g.styles(z, generator=seeded())
        value = penalty(g.synthesis(w, noise="none"), w, generator=seeded(1))
        penalty.step()
        return value, (value / penalty.weight).sqrt() / penalty.average

    first = spread()[1].item()
    for _ in range(30):
        value, _ = spread()
        adam.zero_grad()
        value.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in g.parameters())
        adam.step()
    assert spread()[1].item() < 0.5 * first


def test_path_length_reaches_the_mapping_network():
    g = generator()
    w = g.styles(torch.randn(4, 8))
    PathLengthPenalty()(g.synthesis(w), w).backward()
    assert all(gradient_of(p).any() for p in g.mapping.parameters())


def test_lazy_r1_is_the_gradient_of_the_logits_on_real_images():
    d, penalty = discriminator().double(), Lazy(R1Penalty(gamma=2.0), every=4)
    real = torch.randn(4, 2, 16, 16, dtype=torch.float64)
    value = penalty(d, real, real)
    # In the direction v: the difference quotient of the sum of logits.
    x = real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(d(x).sum(), x)
    v = torch.randn_like(real)
    quotient = (d(real + 1e-6 * v).sum() - d(real - 1e-6 * v).sum()) / 2e-6
    torch.testing.assert_close((gradient * v).sum(), quotient, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(value, 4 * 2.0 / 2 * gradient.square().sum() / 4)
    value.backward()
    assert gradient_of(d.from_rgb.weight).any()
    computed = []
    for _ in range(4):
        penalty.step()
        computed.append(penalty(d, real, real).item() > 0)
    assert computed == [False, False, False, True]


@pytest.mark.parametrize("classes", [0, 3])
def test_one_step_lowers_each_loss(classes):
    g, d = generator(num_classes=classes, style_mixing=0), discriminator(num_classes=classes)
    real, z = torch.randn(8, 2, 16, 16) + 1, torch.randn(8, 8)
    labels = (torch.arange(8) % 3,) if classes else ()
    loss = NonSaturatingLoss()

    def of_discriminator():
        fake = g(z, *labels, noise="fixed").detach()
        return loss.discriminator(d(real, *labels), d(fake, *labels))

    def of_generator():
        return loss.generator(d(g(z, *labels, noise="fixed"), *labels))

    for network, objective in ((d, of_discriminator), (g, of_generator)):
        adam = torch.optim.Adam(network.parameters(), lr=1e-3)
        before = objective()
        adam.zero_grad()
        before.backward()
        idle = [n for n, p in network.named_parameters() if not gradient_of(p).any()]
        assert not idle
        adam.step()
        assert objective() < before


def test_signal_neither_grows_nor_fades_with_the_size():
    torch.manual_seed(0)
    spread = [
        generator(image_size=side, channel_base=8 * side).eval()(torch.randn(8, 8)).std().item()
        for side in (8, 64)
    ]
    assert 0.4 < spread[1] / spread[0] < 2.5
    x = torch.randn(8, 2, 64, 64)
    maps = []
    d = discriminator(image_size=64, channel_base=2048, channel_max=32)
    for stage in d.blocks:
        stage.register_forward_hook(lambda module, inputs, output: maps.append(output))
    d(x)
    assert all(0.2 < y.square().mean().sqrt().item() < 3 for y in maps)


# --- the discriminator -------------------------------------------------------------------------------


def test_discriminator_sees_a_collapse_in_its_group_only():
    d = discriminator(group_size=2).eval()
    x = torch.randn(4, 2, 16, 16)
    mates = x.clone()
    mates[2] = x[2] + 1  # groups are 0 with 2, and 1 with 3
    changed = (d(x) - d(mates)).abs() > 1e-7
    assert changed.tolist() == [True, False, True, False]


def test_logit_of_a_class_is_the_product_with_its_vector():
    d, x = discriminator(num_classes=3), torch.randn(1, 2, 16, 16)
    with torch.no_grad():
        d.classes.weight[1] = -5 * d.classes.weight[0]
    zero, one = d(x, torch.tensor([0])), d(x, torch.tensor([1]))
    torch.testing.assert_close(one, -zero)
    assert zero.abs().item() > 1e-4


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 3, 16, 16), (1, 2, 16, 8)])
def test_other_images_are_refused(shape):
    with pytest.raises(ValueError, match=r"images of shape \(N, 2, 16, 16\), got"):
        discriminator()(torch.ones(shape))


@pytest.mark.parametrize("shape", [(1, 8), (1, 5, 8), (1, 6, 7)])
def test_other_styles_are_refused(shape):
    with pytest.raises(ValueError, match=r"styles of shape \(N, 6, 8\), one for each layer, got"):
        generator().synthesis(torch.ones(shape))


# --- as a part of larger things ------------------------------------------------------------------------


def test_state_dict_round_trip_keeps_image_average_and_fixed_noise():
    g, other = loud(generator()), generator(seed=1)
    g(torch.randn(16, 8))
    g.mapping.step()
    other.load_state_dict(g.state_dict())
    z = torch.randn(2, 8)
    images = [each.eval()(z, psi=0.5, noise="fixed") for each in (g, other)]
    assert torch.equal(*images)
    assert other.mapping.average.any()


def test_network_made_on_the_meta_device_and_filled_is_the_network():
    """Filters are buffers in the state, so nothing is left of what the memory held."""
    for make, x in ((generator, torch.randn(2, 8)), (discriminator, torch.randn(2, 2, 16, 16))):
        network = make().eval()
        empty = make(device="meta").to_empty(device="cpu").eval()
        for tensor in empty.state_dict().values():
            tensor.fill_(float("nan") if tensor.is_floating_point() else -1)
        empty.load_state_dict(network.state_dict())
        assert torch.equal(empty(x), network(x))


def test_average_of_weights_takes_the_average_style_along():
    g = generator()
    ema = EMA(g, half_life=100)
    g(torch.randn(16, 8))
    g.mapping.step()
    ema.update(g, samples=16)
    average = ema.module.get_buffer("mapping.average")
    assert average.any()
    assert torch.equal(average, g.mapping.average)
    assert ema(torch.randn(2, 8), psi=0.7).isfinite().all()


def test_specs_of_networks_round_trip_through_json():
    for network in (generator(num_classes=3), discriminator(group_size=None)):
        spec = json.loads(json.dumps(to_spec(network)))
        assert spec["block"] == f"stylegan/{type(network).__name__}"
        again = build(spec, "network")
        assert to_spec(again) == spec
        again.load_state_dict(network.state_dict())


def test_training_step_in_bfloat16_is_finite_and_close():
    z, real = torch.randn(8, 8), torch.randn(8, 2, 16, 16)

    def step(mixed):
        g, d = loud(generator()), discriminator()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            w = g.styles(z, generator=seeded())
            images = g.synthesis(w, noise="fixed")
            loss = NonSaturatingLoss().generator(d(images))
            loss = loss + R1Penalty(gamma=1.0)(d, real, images)
            loss = loss + PathLengthPenalty()(images, w, generator=seeded())
        loss.backward()
        gradients = torch.cat([gradient_of(p).flatten() for n in (g, d) for p in n.parameters()])
        return loss.float(), gradients

    (loss, gradient), (mixed_loss, mixed) = step(False), step(True)
    assert mixed.isfinite().all()
    torch.testing.assert_close(mixed_loss, loss, rtol=0.03, atol=0)
    assert torch.nn.functional.cosine_similarity(mixed, gradient, dim=0).item() > 0.99


def test_compiled_training_with_mixing_and_noise_follows_the_average():
    g, z = loud(generator(image_size=8)), torch.randn(4, 8)
    plain = copy.deepcopy(g)
    torch.compiler.reset()
    images = torch.compile(g, fullgraph=True, backend="aot_eager")(z)
    images.sum().backward()
    plain(z)
    gan_blocks.step(g, plain)
    assert g.mapping.average.any()
    torch.testing.assert_close(g.mapping.average, plain.mapping.average)
    assert gradient_of(g.synthesis.constant).isfinite().all()


def test_copy_is_independent():
    g = generator()
    other = copy.deepcopy(g)
    g(torch.randn(4, 8))
    gan_blocks.step(g, other)
    assert g.mapping.average.any()
    assert not other.mapping.average.any()
