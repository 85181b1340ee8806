"""The networks."""

import itertools

import pytest
import torch
from torch import nn

import gan_blocks
from gan_blocks import (
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    R1Penalty,
    WithReference,
)


def test_wrong_feature_size_names_the_network_and_both_shapes():
    with pytest.raises(
        ValueError, match=r"MLPGenerator: z should have shape \(N, 3\), got \(5, 4\)"
    ):
        MLPGenerator(3, (2,))(torch.randn(5, 4))
    with pytest.raises(ValueError, match=r"shape \(N, 1, 8, 8\), got \(5, 64\)"):
        MLPDiscriminator((1, 8, 8))(torch.randn(5, 64))
    with pytest.raises(ValueError, match=r"shape \(N, 2\), got \(2,\)"):
        MLPDiscriminator((2,))(torch.randn(2))


@pytest.mark.parametrize("batch", [1, 7])
def test_one_logit_per_sample_without_sigmoid(batch):
    logits = MLPDiscriminator((3,))(1e4 * torch.randn(batch, 3))
    assert logits.shape == (batch,)
    assert logits.abs().max() > 1


@pytest.mark.parametrize("width", [4, 9])
@pytest.mark.parametrize("depth", [0, 1, 4])
def test_width_and_depth_are_what_they_say(width, depth):
    shapes = [p.shape for p in MLPGenerator(3, (2, 2), width, depth).parameters() if p.dim() == 2]
    sizes = [3, *[width] * depth, 4]
    assert shapes == [(b, a) for a, b in itertools.pairwise(sizes)]


@pytest.mark.parametrize(("output", "low", "high"), [("tanh", -1, 1), ("sigmoid", 0, 1)])
def test_output_activation_bounds_the_samples(output, low, high):
    samples = MLPGenerator(3, (5,), output=output)(1e3 * torch.randn(64, 3))
    assert samples.min() >= low
    assert samples.max() <= high
    assert samples.max() - samples.min() > 0.5 * (high - low)


def test_batch_norm_depends_on_the_batch_in_training_only():
    z = torch.randn(6, 3)
    generator = MLPGenerator(3, (2,), norm="batch")
    assert not torch.allclose(generator(z)[:2], generator(z[:2]))
    generator.eval()
    torch.testing.assert_close(generator(z)[:2], generator(z[:2]))


# --- DCGAN -------------------------------------------------------------------------------------------


def convolutions(network):
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert all(m.bias is None for m in layers)
    shapes = [(m.in_channels, m.out_channels) for m in layers]
    return shapes, [(m.kernel_size[0], m.stride[0], m.padding[0]) for m in layers]


def test_64_pixel_networks_have_exactly_the_papers_layers():
    doubling = [(4, 2, 1)] * 4
    shapes, kernels = convolutions(DCGANGenerator())
    assert shapes == [(100, 512), (512, 256), (256, 128), (128, 64), (64, 1)]
    assert kernels == [(4, 1, 0), *doubling]
    shapes, kernels = convolutions(DCGANDiscriminator())
    assert shapes == [(1, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
    assert kernels == [*doubling, (4, 1, 0)]
    norms = [m.num_features for m in DCGANGenerator().modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == [512, 256, 128, 64]
    norms = [
        m.num_features for m in DCGANDiscriminator().modules() if isinstance(m, nn.BatchNorm2d)
    ]
    assert norms == [128, 256, 512]


def test_weights_start_as_in_the_paper():
    torch.manual_seed(0)
    for network in (DCGANGenerator(), DCGANDiscriminator()):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                assert abs(module.weight.mean()) < 3e-3
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
            if isinstance(module, nn.BatchNorm2d):
                assert module.weight.mean().item() == pytest.approx(1.0, abs=0.01)
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.4)
                assert (module.bias == 0).all()


@pytest.mark.parametrize(
    "size", [8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_is_made_and_judged(size, channels):
    images = DCGANGenerator(4, size, channels, width=2)(torch.randn(2, 4))
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert DCGANDiscriminator(size, channels, width=2)(images).shape == (2,)


@pytest.mark.parametrize("size", [7, 9, 18, 30, 36, 130, 256, 4])
def test_other_sizes_are_refused_with_those_that_work(size):
    with pytest.raises(ValueError, match=f"should be one of 8, 10, .* got {size}"):
        DCGANDiscriminator(size)


def test_sizes_in_the_documentation_are_those_that_work():
    with pytest.raises(ValueError, match="one of") as caught:
        DCGANGenerator(image_size=9)
    sizes = str(caught.value).split("one of ")[1].split(", got")[0].split(", ")
    listed = ", ".join(sizes[:-1]) + f" or {sizes[-1]}"
    for network in (DCGANGenerator, DCGANDiscriminator):
        assert listed in " ".join((network.__doc__ or "").split())


@pytest.mark.parametrize("norm", ["layer", "none", "virtual"])
@pytest.mark.parametrize("kernels", [0, 3])
def test_penalised_discriminator_trains_with_every_norm_that_keeps_samples_apart(norm, kernels):
    critic: nn.Module = DCGANDiscriminator(16, width=4, norm=norm, minibatch_kernels=kernels)
    if norm == "virtual":
        critic = WithReference(critic, torch.randn(5, 1, 16, 16))
    R1Penalty()(critic, torch.randn(3, 1, 16, 16)).backward()
    gradients = [p.grad for p in critic.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients)
    assert any(g.abs().sum() > 0 for g in gradients)


def test_wrong_images_and_latents_are_refused():
    with pytest.raises(ValueError, match=r"z should have shape \(N, 4\), got \(2, 3\)"):
        DCGANGenerator(4, 8)(torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"shape \(N, 1, 8, 8\), got \(2, 1, 9, 9\)"):
        DCGANDiscriminator(8)(torch.randn(2, 1, 9, 9))


# --- settings ----------------------------------------------------------------------------------------


DEFAULTS = {
    "MLPGenerator": {
        "width": 256,
        "depth": 3,
        "activation": "relu",
        "norm": "none",
        "output": "none",
    },
    "MLPDiscriminator": {"width": 256, "depth": 3, "activation": "leaky_relu", "norm": "none"}
    | {"minibatch_kernels": 0, "packing": 1},
    "DCGANGenerator": {"latent_dim": 100, "image_size": 64, "channels": 1, "width": 64}
    | {"norm": "batch"},
    "DCGANDiscriminator": {"image_size": 64, "channels": 1, "width": 64, "norm": "batch"}
    | {"minibatch_kernels": 0, "packing": 1},
    "ResNetGenerator": {"latent_dim": 128, "image_size": 32, "channels": 3, "widths": [256] * 4}
    | {"num_classes": 0},
    "ResNetDiscriminator": {"channels": 3, "widths": [128] * 4, "downsamplings": 2}
    | {"num_classes": 0, "spectral_norm": True},
    "R3GANGenerator": {"latent_dim": 64, "image_size": 32, "channels": 3, "widths": [768] * 4}
    | {"blocks_per_stage": 2, "expansion": 2, "group_width": 16, "num_classes": 0},
    "R3GANDiscriminator": {"image_size": 32, "channels": 3, "widths": [768] * 4}
    | {"blocks_per_stage": 2, "expansion": 2, "group_width": 16, "num_classes": 0},
    "PatchDiscriminator": {"channels": 3, "width": 64, "depth": 3, "norm": "instance"},
    "MultiScaleDiscriminator": {"num_scales": 3, "channels": 3, "width": 64, "depth": 3}
    | {"norm": "instance"},
}
REQUIRED = {
    "MLPGenerator": {"latent_dim": 2, "output_shape": [2]},
    "MLPDiscriminator": {"input_shape": [2]},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_settings_left_out_are_those_of_the_papers(name):
    spec = {"block": name} | REQUIRED.get(name, {})
    built = gan_blocks.to_spec(gan_blocks.build(spec, device="meta"))
    assert built == spec | DEFAULTS[name]


def test_every_network_has_its_settings_in_the_table():
    networks = {e.name for e in gan_blocks.registry.list("network") if e.plugin == "builtin"}
    assert networks == set(DEFAULTS)
