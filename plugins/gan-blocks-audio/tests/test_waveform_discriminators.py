"""What the discriminators of waveforms see, and how they work with the blocks of the core."""

from typing import Any

import pytest
import torch
from gan_blocks_audio import (
    MultiPeriodDiscriminator,
    MultiResolutionSTFTDiscriminator,
    MultiScaleWaveDiscriminator,
)

import gan_blocks
from gan_blocks import (
    HingeLoss,
    LayerwiseFeatureMatchingLoss,
    LeastSquaresLoss,
    R1Penalty,
    build,
    to_spec,
)

SMALL: dict[str, dict[str, Any]] = {
    "periods": {"block": "audio/MultiPeriodDiscriminator", "periods": [2, 3], "width": 2},
    "scales": {"block": "audio/MultiScaleWaveDiscriminator", "num_scales": 2, "width": 2},
    "spectra": {"block": "audio/MultiResolutionSTFTDiscriminator", "windows": [32, 16], "width": 3},
    "bands": {"block": "audio/MultiResolutionSTFTDiscriminator", "windows": [32, 16], "width": 3}
    | {"bands": [0, 0.3, 1], "dilations": [1, 1]},
}
every_discriminator = pytest.mark.parametrize("name", SMALL)


def discriminator(name, **options) -> Any:
    torch.manual_seed(0)
    return build(SMALL[name], **options)


def waveforms(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# --- periods -----------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [2, 3, 5, 11])
def test_logits_of_a_column_see_every_pth_sample_only(period):
    critic: Any = MultiPeriodDiscriminator((period,), width=1, dtype=torch.float64)
    x = waveforms(1, 1, 12 * period).requires_grad_()
    (logits,) = critic(x)
    for j in range(period):
        (gradient,) = torch.autograd.grad(logits[..., j].sum(), x, retain_graph=True)
        seen = gradient.flatten().nonzero().flatten()
        assert len(seen) > 6
        assert set((seen % period).tolist()) == {j}


def test_shift_by_one_sample_moves_the_logits_by_one_column():
    critic: Any = MultiPeriodDiscriminator((5,), width=2, dtype=torch.float64)
    x = waveforms(2, 1, 200)
    (before,), (after,) = critic(x), critic(x.roll(1, -1))
    torch.testing.assert_close(after[..., 1:], before[..., :-1])


def test_shift_by_the_period_and_all_strides_moves_the_logits_by_one_row():
    critic: Any = MultiPeriodDiscriminator((3,), width=2, multiples=(1, 2, 2), dtype=torch.float64)
    x = waveforms(1, 1, 3 * 9 * 14)
    (before,), (after,) = critic(x), critic(x.roll(3 * 9, -1))
    # Away from the ends, where the map is filled up with zeros: a logit sees 5 rows of the last maps.
    torch.testing.assert_close(after[:, :, 6:9], before[:, :, 5:8])
    assert not torch.allclose(after[:, :, 5:8], before[:, :, 5:8])


def test_waveform_is_reflected_to_a_multiple_of_the_period():
    critic: Any = MultiPeriodDiscriminator((7,), width=2, dtype=torch.float64)
    x = waveforms(2, 1, 31)
    mirrored = torch.cat([x, x[..., -5:-1].flip(-1)], -1)
    torch.testing.assert_close(critic(x), critic(mirrored))


def test_periods_do_not_share_weights():
    critic: Any = MultiPeriodDiscriminator((4, 4), width=2, dtype=torch.float64)
    first, second = critic(waveforms(1, 1, 64))
    assert not torch.allclose(first, second)


# --- scales ------------------------------------------------------------------------------------


def test_second_scale_sees_means_of_four_samples():
    critic: Any = MultiScaleWaveDiscriminator(2, width=1, dtype=torch.float64).eval()
    x = waveforms(1, 1, 100)
    # A wave of a period of four samples has the mean 0 over any four, but at the ends.
    wave = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64).repeat(25)
    inside = torch.zeros(100, dtype=torch.float64)
    inside[8:88] = wave[8:88]
    with_wave, without = critic.feature_maps(x + 5 * inside), critic.feature_maps(x)
    assert not torch.allclose(with_wave[0][0], without[0][0])
    # Its half periods at both ends remain, so only places that do not reach them are equal.
    torch.testing.assert_close(with_wave[1][0][..., 14:34], without[1][0][..., 14:34])


def test_first_scale_is_spectrally_normalised_and_no_other():
    critic: Any = MultiScaleWaveDiscriminator(3, width=4)
    for _ in range(200):
        critic.discriminators[0](torch.randn(1, 1, 8))
    for i, part in enumerate(critic.discriminators):
        largest = [torch.linalg.matrix_norm(each.weight.flatten(1), 2) for each in part.layers]
        near = (torch.stack(largest) - 1).abs() < 0.02
        assert near.all() if i == 0 else near.sum() < 3


# --- spectra -----------------------------------------------------------------------------------


def tone(frequency, length, window, phase=0.0):
    """A cosine at a multiple of the window's lowest frequency."""
    time = torch.arange(length, dtype=torch.float64)
    return torch.cos(2 * torch.pi * frequency * time / window + phase).view(1, 1, -1)


def test_band_does_not_hear_tones_of_another():
    critic: Any = MultiResolutionSTFTDiscriminator((32,), 3, bands=(0.5, 1.0), dtype=torch.float64)
    x = waveforms(2, 1, 128)
    (before,) = critic(x)
    # A Hann window spreads a tone over its own and the two next frequencies; the band starts at 8.
    torch.testing.assert_close(critic(x + 10 * tone(5, 128, 32))[0], before)
    assert not torch.allclose(critic(x + 10 * tone(12, 128, 32))[0], before)


def test_phase_is_heard():
    critic: Any = MultiResolutionSTFTDiscriminator((32,), 3, dtype=torch.float64)
    (a,), (b,) = critic(tone(5, 128, 32)), critic(tone(5, 128, 32, phase=2.0))
    assert not torch.allclose(a, b)


def test_channels_are_the_real_and_the_imaginary_parts():
    critic: Any = MultiResolutionSTFTDiscriminator((16,), 2, dtype=torch.float64)
    part = critic.discriminators[0]
    seen = []
    part.stacks[0][0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    critic(tone(3, 64, 16))
    critic(tone(3, 64, 16, phase=-torch.pi / 2))
    (cosine, sine), peak = seen, 8 / 6**0.5  # sum(w)/2 over the norm of the window
    # Of the first sample of each frame; a frame starts four samples after the one before.
    phases = 2 * torch.pi * 3 * 4 * torch.arange(13, dtype=torch.float64) / 16
    torch.testing.assert_close(cosine[:, 0, :, 3], peak / 2 * phases.cos()[None])
    torch.testing.assert_close(cosine[:, 1, :, 3], peak / 2 * phases.sin()[None])
    torch.testing.assert_close(sine[:, 0, :, 3], peak / 2 * phases.sin()[None])
    torch.testing.assert_close(sine[:, 1, :, 3], -peak / 2 * phases.cos()[None])


# --- all of them -------------------------------------------------------------------------------


@every_discriminator
def test_last_feature_maps_are_the_logits(name):
    critic = discriminator(name, dtype=torch.float64).eval()
    x = waveforms(2, 1, 100)
    maps = critic.feature_maps(x)
    for one, logits in zip(maps, critic(x), strict=True):
        torch.testing.assert_close(one[-1], logits, rtol=0, atol=0)
        assert logits.shape[1] == 1
        assert all(len(each) == 2 for each in one)


@every_discriminator
def test_hidden_maps_are_rectified_with_the_slope(name):
    slope = {"periods": 0.1, "scales": 0.1}.get(name, 0.2)
    critic = discriminator(name, dtype=torch.float64).eval()
    x, before = waveforms(1, 1, 100), []
    for layer in critic.modules():
        if isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d):
            layer.register_forward_hook(lambda module, inputs, output: before.append(output))
    maps = [each for one in critic.feature_maps(x) for each in one]
    for raw, each in zip(before, maps, strict=True):
        rectified = torch.where(raw > 0, raw, slope * raw)
        last = raw.shape[1] == 1
        torch.testing.assert_close(each, raw if last else rectified)


@every_discriminator
def test_losses_and_feature_matching_of_the_core_take_the_lists(name):
    critic = discriminator(name, dtype=torch.float64).eval()
    real, fake = waveforms(2, 1, 100), -waveforms(2, 1, 100).flip(-1)
    r, f = critic(real), critic(fake)
    squares = sum(((a - 1) ** 2).mean() + (b**2).mean() for a, b in zip(r, f, strict=True))
    loss = LeastSquaresLoss(discriminator_scale=1.0)
    torch.testing.assert_close(loss.discriminator(r, f), squares)
    hinge = sum(
        (1 - a).clamp(min=0).mean() + (1 + b).clamp(min=0).mean() for a, b in zip(r, f, strict=True)
    )
    torch.testing.assert_close(HingeLoss().discriminator(r, f), hinge)
    real_maps, fake_maps = critic.feature_maps(real), critic.feature_maps(fake)
    expected = 2 * sum(
        (a - b).abs().mean()
        for one, other in zip(real_maps, fake_maps, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    matching = LayerwiseFeatureMatchingLoss(weight=2)
    torch.testing.assert_close(matching(real_maps, fake_maps), expected)
    assert matching(real_maps, real_maps) == 0


@every_discriminator
def test_r1_penalty_is_the_squared_gradient_of_each_part(name):
    critic = discriminator(name, dtype=torch.float64).eval()
    real = waveforms(2, 1, 100)
    penalty = R1Penalty(gamma=3.0)(critic, real, real)
    x = real.clone().requires_grad_()
    expected = 0
    for logits in critic(x):
        (gradient,) = torch.autograd.grad(logits.sum(), x, retain_graph=True)
        expected = expected + 1.5 * gradient.square().sum((1, 2)).mean()
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    gradients = [p.grad for p in critic.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients)
    assert sum(bool(g.abs().sum() > 0) for g in gradients) > 10


@every_discriminator
def test_second_derivative_by_the_weights_knows_that_lengths_change(name):
    # A function of the direction v / |v| has a gradient that is homogeneous of degree -1 in v, so
    # Euler's relation gives its derivative along v.
    critic = discriminator(name, dtype=torch.float64).eval()
    direction = next(p for key, p in critic.named_parameters() if key.endswith("original1"))
    value: Any = sum(logits.square().sum() for logits in critic(waveforms(1, 1, 100)))
    (gradient,) = torch.autograd.grad(value, direction, create_graph=True)
    (along,) = torch.autograd.grad((gradient * direction.detach()).sum(), direction)
    torch.testing.assert_close(along, -gradient)


@every_discriminator
def test_training_step_in_bfloat16_autocast_is_finite(name):
    critic = discriminator(name)
    real, fake = waveforms(2, 1, 100).float(), waveforms(2, 1, 100).flip(-1).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = LeastSquaresLoss().discriminator(critic(real), critic(fake))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in critic.parameters())


def test_spectrum_stays_in_float32_under_autocast_and_in_a_half_precision_module():
    critic: Any = MultiResolutionSTFTDiscriminator((64,), 2)
    part = critic.discriminators[0]
    x = torch.randn(1, 1, 256)
    exact = part.spectrum(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(part.spectrum(x), exact, rtol=0, atol=0)
    critic.to(torch.bfloat16)
    torch.testing.assert_close(part.spectrum(x), exact, rtol=0, atol=0)
    assert critic(x.to(torch.bfloat16))[0].dtype == torch.bfloat16
    assert not any("window" in key for key in critic.state_dict())


def test_widths_are_those_of_the_papers():
    meta: dict[str, Any] = {"device": "meta"}
    period: Any
    scale: Any
    (period,) = MultiPeriodDiscriminator((2,), **meta).discriminators
    assert [each.weight.shape[0] for each in period.layers] == [32, 128, 512, 1024, 1024, 1]
    (scale,) = MultiScaleWaveDiscriminator(1, **meta).discriminators
    assert [tuple(each.weight.shape) for each in scale.layers] == [
        (128, 1, 15),
        (128, 32, 41),
        (256, 8, 41),
        (512, 16, 41),
        (1024, 32, 41),
        (1024, 64, 41),
        (1024, 1024, 5),
        (1, 1024, 3),
    ]
    # In millions, as counted by others: 41.1 for the periods and 29.6 for the scales.
    counts = [
        sum(p.numel() for p in critic.parameters())
        for critic in (MultiPeriodDiscriminator(**meta), MultiScaleWaveDiscriminator(**meta))
    ]
    assert [round(count / 1e6, 1) for count in counts] == [41.1, 29.6]


DEFAULTS = {
    "audio/MultiPeriodDiscriminator": {"periods": [2, 3, 5, 7, 11], "width": 32, "channels": 1}
    | {"multiples": [1, 4, 16, 32, 32]},
    "audio/MultiScaleWaveDiscriminator": {"num_scales": 3, "width": 128, "channels": 1}
    | {"multiples": [1, 1, 2, 4, 8, 8, 8]},
    "audio/MultiResolutionSTFTDiscriminator": {"windows": [2048, 1024, 512, 256, 128], "width": 32}
    | {"dilations": [1, 2, 4], "bands": [0.0, 1.0], "negative_slope": 0.2, "channels": 1},
    "audio/MelSpectrogramLoss": {"sample_rate": 22050, "windows": [1024], "num_mels": [80]}
    | {"f_min": 0.0, "f_max": None, "mel_scale": "slaney", "filter_norm": "area"}
    | {"spectrum": "magnitude", "normalized": False, "padding": "frame", "linear_weight": 0.0}
    | {"log_weight": 1.0, "log_distance": "l1", "log_base": "e", "floor": 1e-5}
    | {"floor_by": "clamp", "windows_combine": "sum", "weight": 1.0, "empty_bands": "refuse"},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_settings_left_out_are_those_of_the_papers(name):
    assert to_spec(build({"block": name}, device="meta")) == {"block": name} | DEFAULTS[name]


def test_every_block_has_its_settings_in_the_table():
    names = {entry.name for entry in gan_blocks.registry.list() if entry.plugin == "audio"}
    assert names == set(DEFAULTS)


def test_wrong_waveforms_are_refused():
    with pytest.raises(ValueError, match=r"\(N, 1, T\), T at least 3, got \(2, 1, 2\)"):
        discriminator("periods")(torch.randn(2, 1, 2))
    with pytest.raises(ValueError, match=r"\(N, 1, T\), T at least 1, got \(2, 100\)"):
        discriminator("scales")(torch.randn(2, 100))
    with pytest.raises(ValueError, match=r"\(N, 1, T\), T at least 32, got \(2, 1, 31\)"):
        discriminator("spectra")(torch.randn(2, 1, 31))
    with pytest.raises(ValueError, match=r"\(N, 2, T\), .* got \(2, 1, 64\)"):
        MultiResolutionSTFTDiscriminator((32,), 2, channels=2)(torch.randn(2, 1, 64))


def test_shortest_waveforms_are_taken():
    for name, shortest in (("periods", 3), ("scales", 1), ("spectra", 32), ("bands", 32)):
        logits = discriminator(name).eval()(torch.randn(1, 1, shortest))
        assert all(each.numel() > 0 and each.isfinite().all() for each in logits)


def test_impossible_settings_are_refused():
    with pytest.raises(
        gan_blocks.InvalidArgumentsError, match="multiple of 4, for the hop, got 30"
    ):
        MultiResolutionSTFTDiscriminator((32, 30))
    with pytest.raises(gan_blocks.InvalidArgumentsError, match=r"from 0\.5 to 0\.4 there is none"):
        MultiResolutionSTFTDiscriminator((32,), bands=(0, 0.5, 0.4))
    with pytest.raises(
        gan_blocks.InvalidArgumentsError, match="of the 3 frequencies of the window 4"
    ):
        MultiResolutionSTFTDiscriminator((32, 4), bands=(0, 0.1, 1))
    with pytest.raises(gan_blocks.InvalidArgumentsError, match="multiples"):
        MultiScaleWaveDiscriminator(multiples=(1, 2))
