"""The mel scale, the spectrum and the mel loss."""

import math
from typing import Any

import pytest
import torch
from gan_blocks_audio import MelSpectrogramLoss, mel_filters
from gan_blocks_audio.spectrum import Spectrum

from gan_blocks import InvalidArgumentsError, build

SMALL: dict[str, Any] = {"sample_rate": 8000, "windows": (64,), "num_mels": (8,)}


def waveforms(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_of(**settings):
    return MelSpectrogramLoss(**(SMALL | settings), dtype=torch.float64)


# --- filters -----------------------------------------------------------------------------------


def peaks(num_mels, top, **settings):
    """The frequency of each filter's peak, on a grid of 0.1 Hz."""
    rate = 2 * top
    filters = mel_filters(rate, rate * 10, num_mels, norm="peak", **settings)
    return filters.argmax(1) / 10


def test_slaney_frequencies_are_the_published_ones():
    # librosa's documentation of mel_frequencies, for 40 frequencies from 0 to 11025 Hz.
    published = [85.317, 170.635, 255.952, 341.269, 426.586, 511.904, 597.221, 682.538, 767.855]
    published += [853.173, 938.49, 1024.856, 1119.114, 1222.042, 1334.436, 1457.167, 1591.187]
    published += [1737.532, 1897.337, 2071.84, 2262.393, 2470.47, 2697.686, 2945.799, 3216.731]
    published += [3512.582, 3835.643, 4188.41, 4573.636, 4994.285, 5453.621, 5955.205, 6502.92]
    published += [7101.009, 7754.107, 8467.272, 9246.028, 10096.408]
    found = peaks(38, 11025, scale="slaney").tolist()
    assert found == pytest.approx(published, abs=0.051)


def test_htk_scale_has_a_thousand_mels_at_a_thousand_hertz():
    # So nine filters up to 1000 Hz, 1000 mels, have their peaks 100 mels apart.
    expected = [700 * (10 ** (100 * k / 2595) - 1) for k in range(1, 10)]
    assert peaks(9, 1000, scale="htk").tolist() == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_filters_of_peak_one_sum_to_one_between_the_first_and_the_last_peak(scale):
    rate, window = 16000, 1024
    filters = mel_filters(rate, window, 20, 200, 7000, scale, "peak")
    first, last = filters.argmax(1)[[0, -1]].tolist()
    total = filters.sum(0)
    torch.testing.assert_close(total[first + 1 : last], torch.ones(last - first - 1).double())
    frequencies = torch.arange(window // 2 + 1) * rate / window
    assert (total[(frequencies <= 200) | (frequencies >= 7000)] == 0).all()
    # No more than two filters hear one frequency.
    assert (filters > 0).sum(0).max() == 2


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_filters_of_area_one_integrate_to_one(scale):
    rate, window = 16000, 2**16
    areas = mel_filters(rate, window, 20, scale=scale).sum(1) * rate / window
    torch.testing.assert_close(areas, torch.ones(20).double(), rtol=1e-4, atol=0)


def test_frequencies_that_do_not_rise_are_refused():
    with pytest.raises(ValueError, match=r"f_min 3000 and f_max 2000 should rise"):
        mel_filters(8000, 64, 4, 3000, 2000)
    with pytest.raises(InvalidArgumentsError, match=r"at most half the sample rate, 4000"):
        loss_of(f_max=4001)


# --- spectrum ----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 7, 14])
def test_tone_lands_in_its_frequency_with_half_in_its_neighbours(k):
    window = 32
    x = torch.cos(2 * torch.pi * k * torch.arange(200, dtype=torch.float64) / window)
    magnitude = Spectrum(window, False, dtype=torch.float64)(x).square().sum(-1).sqrt()
    expected = torch.zeros(17, dtype=torch.float64)
    # Half the sum of the window, which is W/2; the window's transform is half of its sum one step away.
    expected[k], expected[k - 1], expected[k + 1] = 8, 4, 4
    torch.testing.assert_close(magnitude, expected.expand_as(magnitude))


def test_normalised_spectrum_of_white_noise_has_its_variance():
    s = Spectrum(64, True, dtype=torch.float64)(waveforms(200_000))
    power = s.square().sum(-1).mean(0)
    torch.testing.assert_close(power, torch.ones(33).double(), rtol=0.1, atol=0)


def test_frames_are_where_the_padding_says():
    x = torch.zeros(256, dtype=torch.float64)
    x[128] = 1.0
    loudest = {}
    for padding in ("none", "frame", "centre"):
        s = Spectrum(32, False, padding, dtype=torch.float64)(x)
        loudest[padding] = (len(s), int(s.square().sum((-1, -2)).argmax()))
    # The window's middle is at m * 8 + 16, m * 8 + 4 and m * 8; the middle of 4 and 5 is reached twice.
    assert loudest["none"] == (29, 14)
    assert loudest["frame"][0] == 256 // 8
    assert loudest["frame"][1] in (15, 16)
    assert loudest["centre"] == (33, 16)


# --- loss --------------------------------------------------------------------------------------


SETTINGS: dict[str, dict[str, Any]] = {
    "hifigan": {"weight": 45},
    "dac": {"windows": (16, 64), "num_mels": (3, 8), "log_base": "10", "padding": "centre"},
    "encodec": {"windows": (16, 64), "mel_scale": "htk", "filter_norm": "peak"}
    | {"spectrum": "power", "normalized": True, "linear_weight": 1, "log_distance": "l2"}
    | {"log_base": "10", "floor_by": "add", "windows_combine": "mean", "empty_bands": "keep"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_zero_for_equal_spectra_and_else_positive(name):
    loss, x = loss_of(**SETTINGS[name]), waveforms(2, 300)
    assert loss(x, x) == 0
    # It is deaf to the sign of a waveform, as a magnitude is, and to nothing else that is tried here.
    assert loss(x, -x) == 0
    for other in (1.001 * x, x.roll(1, -1), x.flip(-1), x + 1e-3 * waveforms(2, 300, seed=1)):
        assert loss(x, other) > 0
        torch.testing.assert_close(loss(x, other), loss(other, x))


@pytest.mark.parametrize("name", SETTINGS)
def test_gradient_goes_to_the_generated_side_only(name):
    real, fake = waveforms(2, 300).requires_grad_(), waveforms(2, 300, seed=1).requires_grad_()
    loss_of(**SETTINGS[name])(real, fake).backward()
    assert real.grad is None
    assert fake.grad is not None
    assert fake.grad.abs().sum() > 0


def test_logarithm_measures_the_gain():
    x = waveforms(2, 300)
    e = loss_of()(x, math.e * x)
    torch.testing.assert_close(e, torch.ones(()).double(), rtol=1e-6, atol=0)
    ten = loss_of(log_base="10")(x, 10 * x)
    torch.testing.assert_close(ten, torch.ones(()).double(), rtol=1e-6, atol=0)
    power = loss_of(log_base="10", spectrum="power", log_distance="l2")(x, 100 * x)
    torch.testing.assert_close(power, torch.full((), 16.0).double(), rtol=1e-6, atol=0)


def test_linear_term_is_homogeneous():
    x, y = waveforms(2, 300), waveforms(2, 300, seed=1)
    for spectrum, degree in (("magnitude", 1), ("power", 2)):
        loss = loss_of(log_weight=0, linear_weight=1, spectrum=spectrum)
        torch.testing.assert_close(loss(7 * x, 7 * y), 7**degree * loss(x, y), rtol=1e-6, atol=0)


def test_windows_are_summed_or_averaged():
    x, y = waveforms(2, 300), waveforms(2, 300, seed=1)
    each = [loss_of(windows=(w,), num_mels=(n,))(x, y) for w, n in ((16, 3), (32, 4), (64, 8))]
    settings = {"windows": (16, 32, 64), "num_mels": (3, 4, 8)}
    torch.testing.assert_close(loss_of(**settings)(x, y), sum(each))
    average = loss_of(**settings, windows_combine="mean", weight=5)(x, y)
    torch.testing.assert_close(average, 5 * sum(each) / 3)


def test_terms_are_weighted():
    x, y = waveforms(2, 300), waveforms(2, 300, seed=1)
    linear, log = loss_of(linear_weight=1, log_weight=0)(x, y), loss_of()(x, y)
    both = loss_of(linear_weight=2, log_weight=3)(x, y)
    torch.testing.assert_close(both, 2 * linear + 3 * log)


@pytest.mark.parametrize("floor_by", ["clamp", "add"])
@pytest.mark.parametrize("spectrum", ["magnitude", "power"])
def test_silence_has_a_finite_gradient_and_the_floor_hides_what_is_below(floor_by, spectrum):
    loss = loss_of(floor=1e-3, floor_by=floor_by, spectrum=spectrum)
    silence = torch.zeros(1, 300, dtype=torch.float64)
    x = silence.clone().requires_grad_()
    value = loss(waveforms(1, 300), x)
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    (again,) = torch.autograd.grad(gradient.square().sum() + 0 * x.sum(), x)
    assert value > 1
    assert gradient.isfinite().all()
    assert again.isfinite().all()
    whisper = loss(silence, 1e-6 * waveforms(1, 300))
    assert whisper == 0 if floor_by == "clamp" else 0 < whisper < 1e-2


def test_empty_filters_are_refused_or_count_as_zeros():
    # The window has the frequencies 0, 1000, ... 4000 Hz, and most of 12 filters hear none of them.
    narrow = {"windows": (8,), "num_mels": (12,)}
    with pytest.raises(
        InvalidArgumentsError, match=r"of the 12 mel filters of the window 8, \d+ lie"
    ):
        loss_of(**narrow)
    kept = loss_of(**narrow, empty_bands="keep", linear_weight=1)
    filters = mel_filters(8000, 8, 12)
    heard = int((filters.sum(1) > 0).sum())
    assert 0 < heard < 8
    x, y = waveforms(2, 100), waveforms(2, 100, seed=1)
    total = kept(x, y)
    spectra = [
        (Spectrum(8, False, "frame", dtype=torch.float64)(z).square().sum(-1) + 1e-9).sqrt()
        @ filters[filters.sum(1) > 0].T
        for z in (x, y)
    ]
    linear = (spectra[0] - spectra[1]).abs().mean()
    log = (spectra[0].log() - spectra[1].log()).abs().mean()
    torch.testing.assert_close(total, (linear + log) * heard / 12)


def test_tone_is_heard_by_the_filter_around_it():
    loss = loss_of(windows=(512,), num_mels=(20,))
    filters = mel_filters(8000, 512, 20, norm="peak")
    for frequency in (437.5, 1250.0, 3000.0):
        x = torch.sin(2 * torch.pi * frequency / 8000 * torch.arange(4000, dtype=torch.float64))
        (spectrogram,) = loss.log_mel_spectrograms(x)
        assert spectrogram.shape == (20, 4000 // 128)
        loudest = spectrogram[:, 4:-4].mean(1).argmax()
        assert filters[loudest, int(frequency * 512 / 8000)] >= 0.5


def test_compared_spectrograms_are_those_it_gives():
    loss, x, y = loss_of(**SETTINGS["dac"]), waveforms(2, 300), waveforms(2, 300, seed=1)
    pairs = zip(loss.log_mel_spectrograms(x), loss.log_mel_spectrograms(y), strict=True)
    torch.testing.assert_close(loss(x, y), sum((a - b).abs().mean() for a, b in pairs))


def test_leading_dimensions_are_a_batch():
    loss, x, y = loss_of(), waveforms(2, 3, 300), waveforms(2, 3, 300, seed=1)
    torch.testing.assert_close(loss(x, y), loss(x.flatten(0, 1), y.flatten(0, 1)))
    torch.testing.assert_close(
        loss(x, y), sum(loss(x[i, j], y[i, j]) for i in (0, 1) for j in range(3)) / 6
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    loss = build({"block": "audio/MelSpectrogramLoss", **SMALL})
    x, y = waveforms(2, 300).to(dtype), waveforms(2, 300, seed=1).to(dtype)
    exact = loss(x.float(), y.float())
    torch.testing.assert_close(loss(x, y), exact, rtol=0, atol=0)
    torch.testing.assert_close(loss.to(dtype)(x, y), exact, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(x, y), exact, rtol=0, atol=0)
    assert loss.state_dict() == {}


def test_published_settings_can_be_built():
    windows = (32, 64, 128, 256, 512, 1024, 2048)
    x, y = waveforms(1, 4096), waveforms(1, 4096, seed=1)
    hifigan = MelSpectrogramLoss(weight=45)
    dac = MelSpectrogramLoss(
        weight=15,
        sample_rate=44100,
        windows=windows,
        num_mels=(5, 10, 20, 40, 80, 160, 320),
        log_base="10",
        padding="centre",
    )
    settings: dict[str, Any] = SETTINGS["encodec"] | {"windows": windows, "num_mels": (64,)}
    encodec: Any = MelSpectrogramLoss(sample_rate=24000, **settings)
    assert all(0 < loss(x, y) < 1000 for loss in (hifigan, dac, encodec))
    empty = [int((each.filters.sum(1) == 0).sum()) for each in encodec.spectrograms]
    assert sum(empty) == 70  # the number in its documentation


def test_wrong_waveforms_are_refused():
    loss = loss_of()
    with pytest.raises(ValueError, match=r"T at least the longest window, 64, got \(2, 63\)"):
        loss(torch.randn(2, 63), torch.randn(2, 63))
    with pytest.raises(
        ValueError, match=r"real \(2, 100\) and fake \(2, 99\) should be of one shape"
    ):
        loss(torch.randn(2, 100), torch.randn(2, 99))
    with pytest.raises(ValueError, match="not empty"):
        loss(torch.randn(0, 100), torch.randn(0, 100))
    with pytest.raises(TypeError, match=r"fake should be floating point, .* got torch\.int64"):
        loss(torch.randn(2, 100), torch.ones(2, 100, dtype=torch.int64))


def test_impossible_settings_are_refused():
    with pytest.raises(InvalidArgumentsError, match="one for each of the 3 windows, got 2"):
        loss_of(windows=(16, 32, 64), num_mels=(3, 4))
    with pytest.raises(InvalidArgumentsError, match="both 0"):
        loss_of(log_weight=0)
    with pytest.raises(InvalidArgumentsError, match="multiple of 4, for the hop, got 62"):
        loss_of(windows=(62,))
