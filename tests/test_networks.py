"""The networks."""

import itertools

import pytest
import torch

from gan_blocks import MLPDiscriminator, MLPGenerator


def test_wrong_feature_size_names_the_network_and_both_shapes():
    with pytest.raises(ValueError, match=r"latent vectors of shape \(N, 3\), got \(5, 4\)"):
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
