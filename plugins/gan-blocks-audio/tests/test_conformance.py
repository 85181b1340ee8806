"""The conformance kit: every block against a literal computation of its formula."""

import itertools
import math
from typing import Any

import pytest
import torch

from gan_blocks.testing import Case, check, parametrize

PICKLE = {"pickled_copy_agrees": "torch refuses to pickle parametrised modules"}


# --- convolutions, number by number ------------------------------------------------------------


def weight_normalised(layer):
    """Each output channel's weights: a direction v, and a length g."""
    kept = layer.parametrizations.weight
    lengths, directions = kept.original0.flatten(), kept.original1
    return torch.stack(
        [
            g * v / sum(x * x for x in v.flatten()) ** 0.5
            for g, v in zip(lengths, directions, strict=True)
        ]
    )


def spectrally_normalised(layer):
    """The weight divided by u^T W v, for u and v as they are kept."""
    kept = layer.parametrizations.weight
    return kept.original / (kept[0]._u @ kept.original.flatten(1) @ kept[0]._v)


def convolved(x, weight, bias, stride, pad, dilation, groups):
    """A convolution of one map (C, H, W), zeros beyond its ends."""
    kernel, sides = weight.shape[2:], x.shape[1:]
    sizes = [
        (sides[i] + 2 * pad[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    ]
    places = []
    for a, b in itertools.product(range(sizes[0]), range(sizes[1])):
        total = bias
        for i, j in itertools.product(range(kernel[0]), range(kernel[1])):
            y = a * stride[0] - pad[0] + i * dilation[0]
            z = b * stride[1] - pad[1] + j * dilation[1]
            if 0 <= y < sides[0] and 0 <= z < sides[1]:
                parts = zip(weight[:, :, i, j].chunk(groups), x[:, y, z].chunk(groups), strict=True)
                total = total + torch.cat([matrix @ vector for matrix, vector in parts])
        places.append(total)
    return torch.stack(places, 1).view(len(weight), *sizes)


def rectified(x, slope):
    return torch.where(x > 0, x, slope * x)


def stack_of(layers, settings, x, slope, normalised):
    """Convolutions of one map, rectified but for the last; settings: stride, pad, dilation, groups."""
    for i, (layer, setting) in enumerate(zip(layers, settings, strict=True)):
        weight = normalised(layer)
        weight = weight.unsqueeze(2) if weight.dim() == 3 else weight
        x = convolved(x, weight, layer.bias, *setting)
        x = x if i == len(layers) - 1 else rectified(x, slope)
    return x


def side_by_side(logits):
    """The logits of all parts, in one row for each sample."""
    return torch.cat([each.flatten(1) for each in logits], 1)


# --- periods -----------------------------------------------------------------------------------


def reflected(x, before, after):
    """The numbers of x, mirrored at its first and its last."""
    n = len(x)
    left = [x[i] for i in range(before, 0, -1)]
    right = [x[n - 1 - i] for i in range(1, after + 1)]
    return torch.stack([*left, *x, *right])


def periods(block, x, each):
    """Every column of the folded waveform by itself."""
    rows = []
    for sample in x:
        logits = []
        for p, part in zip(each, block.discriminators, strict=True):
            padded = [reflected(channel, 0, -len(channel) % p) for channel in sample]
            hidden = len(part.layers) - 1
            settings = [((3, 1), (2, 0), (1, 1), 1)] * (hidden - 1)
            settings += [((1, 1), (2, 0), (1, 1), 1), ((1, 1), (1, 0), (1, 1), 1)]
            columns = []
            for j in range(p):
                column = torch.stack([channel[j::p] for channel in padded]).unsqueeze(2)
                columns.append(stack_of(part.layers, settings, column, 0.1, weight_normalised))
            logits.append(torch.cat(columns, 2).flatten())
        rows.append(torch.cat(logits))
    return torch.stack(rows)


# --- scales ------------------------------------------------------------------------------------


def means_of_four(x):
    """Half the rate; zeros beyond the ends count."""
    padded = torch.cat([x.new_zeros(2), x, x.new_zeros(2)])
    return torch.stack([padded[i : i + 4].sum() / 4 for i in range(0, len(padded) - 3, 2)])


def scales(block, x):
    kernels, strides = (15, 41, 41, 41, 41, 41, 5, 3), (1, 2, 2, 4, 4, 1, 1, 1)
    rows = []
    for sample in x:
        logits = []
        for i, part in enumerate(block.discriminators):
            if i:
                sample = torch.stack([means_of_four(channel) for channel in sample])
            # As many as divide the channels before and after, and the paper's number.
            counts = [len(sample), *(layer.bias.numel() for layer in part.layers)]
            groups = [
                max(g for g in range(1, most + 1) if most % g == before % g == after % g == 0)
                for most, before, after in zip(
                    (1, 4, 16, 16, 16, 16, 1, 1), counts, counts[1:], strict=False
                )
            ]
            settings = [
                ((1, s), (0, k // 2), (1, 1), g)
                for k, s, g in zip(kernels, strides, groups, strict=True)
            ]
            normalised = weight_normalised if i else spectrally_normalised
            logits.append(
                stack_of(part.layers, settings, sample.unsqueeze(1), 0.1, normalised).flatten()
            )
        rows.append(torch.cat(logits))
    return torch.stack(rows)


# --- spectra -----------------------------------------------------------------------------------


def spectrum(x, size, normalised) -> Any:
    """Real and imaginary part, each (frames, frequencies), of one waveform."""
    window = [math.sin(math.pi * n / size) ** 2 for n in range(size)]
    norm = math.sqrt(sum(w * w for w in window)) if normalised else 1.0
    frames = []
    for start in range(0, len(x) - size + 1, size // 4):
        row = []
        for k in range(size // 2 + 1):
            angles = [2 * math.pi * k * n / size for n in range(size)]
            terms = [(window[n] * x[start + n], angles[n]) for n in range(size)]
            real: Any = sum(value * math.cos(angle) for value, angle in terms) / norm
            imaginary: Any = -sum(value * math.sin(angle) for value, angle in terms) / norm
            row.append(torch.stack([real, imaginary]))
        frames.append(torch.stack(row))
    return torch.stack(frames).unbind(2)


def resolutions(block, x, windows, dilations, edges, slope):
    """Edges are those of the bands, in frequencies of each window."""
    settings = [((1, 1), (1, 4), (1, 1), 1)]
    settings += [((1, 2), (d, 4), (d, 1), 1) for d in dilations]
    settings += [((1, 1), (1, 1), (1, 1), 1)]
    rows = []
    for sample in x:
        logits = []
        for size, part, bands in zip(windows, block.discriminators, edges, strict=True):
            both = [spectrum(channel, size, normalised=True) for channel in sample]
            maps = torch.stack([real for real, _ in both] + [imaginary for _, imaginary in both])
            ends = []
            for layers, start, end in zip(part.stacks, bands, bands[1:], strict=False):
                last = stack_of(layers, settings, maps[:, :, start:end], slope, weight_normalised)
                ends.append(rectified(last, slope))
            united, setting = torch.cat(ends, 2), ((1, 1), (1, 1), (1, 1), 1)
            logits.append(stack_of([part.last], [setting], united, 0, weight_normalised).flatten())
        rows.append(torch.cat(logits))
    return torch.stack(rows)


# --- mel spectrograms --------------------------------------------------------------------------


def hertz_of_mel(scale, m):
    if scale == "htk":
        return 700 * (10 ** (m / 2595) - 1)
    return 200 * m / 3 if m < 15 else 1000 * 6.4 ** ((m - 15) / 27)


def mel_of_hertz(scale, f):
    """By bisection, so that only one direction of the formula is used."""
    low, high = 0.0, 10_000.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if hertz_of_mel(scale, middle) < f else (low, middle)
    return low


def filters(rate, size, count, scale, norm):
    top = mel_of_hertz(scale, rate / 2)
    edges = [hertz_of_mel(scale, top * k / (count + 1)) for k in range(count + 2)]
    rows = []
    for a, b, c in zip(edges, edges[1:], edges[2:], strict=False):
        row = []
        for k in range(size // 2 + 1):
            f = k * rate / size
            value = (f - a) / (b - a) if a < f <= b else (c - f) / (c - b) if b < f < c else 0.0
            row.append(value * 2 / (c - a) if norm == "area" else value)
        rows.append(row)
    return rows


def mel(x, rate, size, count, scale="slaney", norm="area", power=False, normalised=False, pad=0):
    """The numbers of one waveform's mel spectrogram."""
    real, imaginary = spectrum(reflected(x, pad, pad), size, normalised)
    values = []
    for row in filters(rate, size, count, scale, norm):
        for a, b in zip(real, imaginary, strict=True):
            squares = a**2 + b**2
            strength = squares if power else (squares + 1e-9) ** 0.5
            values.append(sum(w * s for w, s in zip(row, strength, strict=True)))
    return torch.stack(values)


def mean(terms) -> Any:
    terms = list(terms)
    return sum(terms) / len(terms)


def hifigan(block, real, fake):
    a, b = (torch.cat([mel(row, 8000, 16, 3, pad=6) for row in x]) for x in (real, fake))
    return 45 * mean(abs(p.log() - q.log()) for p, q in zip(a, b, strict=True))


def dac(block, real, fake):
    total: Any = 0
    for size, count in ((8, 2), (16, 4)):
        a, b = (
            torch.cat([mel(row, 8000, size, count, pad=size // 2) for row in x])
            for x in (real, fake)
        )
        total = total + mean(abs(torch.log10(p / q)) for p, q in zip(a, b, strict=True))
    return total


def encodec(block, real, fake):
    total: Any = 0
    for size in (8, 16):
        settings = {"scale": "htk", "norm": "peak", "power": True, "normalised": True}
        a, b = (
            torch.cat([mel(row, 8000, size, 5, **settings, pad=3 * size // 8) for row in x])
            for x in (real, fake)
        )
        linear = mean(abs(p - q) for p, q in zip(a, b, strict=True))
        log = mean(
            (torch.log10(p + 1e-5) - torch.log10(q + 1e-5)) ** 2 for p, q in zip(a, b, strict=True)
        )
        total = total + (linear + 0.5 * log) / 2
    return total


CASES = [
    Case(
        {"block": "audio/MultiPeriodDiscriminator", "periods": [2, 3], "width": 1}
        | {"multiples": [1, 2, 2]},
        inputs=lambda make: (make(2, 1, 29),),
        call=lambda block, x: side_by_side(block(x)),
        reference=lambda block, x: periods(block, x, (2, 3)),
        expected_failures=PICKLE,
    ),
    Case(
        {"block": "audio/MultiPeriodDiscriminator", "periods": [5], "width": 2, "channels": 2}
        | {"multiples": [1]},
        inputs=lambda make: (make(3, 2, 11),),
        call=lambda block, x: side_by_side(block(x)),
        reference=lambda block, x: periods(block, x, (5,)),
        note="stereo",
        expected_failures=PICKLE,
    ),
    Case(
        {"block": "audio/MultiScaleWaveDiscriminator", "num_scales": 1, "width": 1}
        | {"multiples": [1, 1, 2, 2, 1, 1, 1]},
        inputs=lambda make: (make(2, 1, 40),),
        # In evaluation mode the vectors of spectral normalisation stay as they are.
        call=lambda block, x: side_by_side(block.eval()(x)),
        reference=lambda block, x: scales(block.eval(), x),
        expected_failures=PICKLE,
    ),
    Case(
        {"block": "audio/MultiResolutionSTFTDiscriminator", "windows": [8], "width": 1}
        | {"dilations": [2]},
        inputs=lambda make: (make(2, 1, 14),),
        call=lambda block, x: side_by_side(block(x)),
        reference=lambda block, x: resolutions(block, x, (8,), (2,), [(0, 5)], 0.2),
        expected_failures=PICKLE,
    ),
    Case(
        {"block": "audio/MultiResolutionSTFTDiscriminator", "windows": [16], "width": 1}
        | {"dilations": [], "bands": [0.12, 0.4, 1], "negative_slope": 0.1},
        inputs=lambda make: (make(2, 1, 20),),
        call=lambda block, x: side_by_side(block(x)),
        # The window has 9 frequencies: 1 to 2, and 3 to 8.
        reference=lambda block, x: resolutions(block, x, (16,), (), [(1, 3, 9)], 0.1),
        note="bands",
        expected_failures=PICKLE,
    ),
    Case(
        {"block": "audio/MelSpectrogramLoss", "sample_rate": 8000, "windows": [16]}
        | {"num_mels": [3], "weight": 45},
        inputs=lambda make: (make(2, 24), make(2, 24)),
        reference=hifigan,
        detached=(0,),
        note="hifigan",
    ),
    Case(
        {"block": "audio/MelSpectrogramLoss", "sample_rate": 8000, "windows": [8, 16]}
        | {"num_mels": [2, 4], "log_base": "10", "padding": "centre"},
        inputs=lambda make: (make(2, 20), make(2, 20)),
        reference=dac,
        detached=(0,),
        note="dac",
    ),
    Case(
        {"block": "audio/MelSpectrogramLoss", "sample_rate": 8000, "windows": [8, 16]}
        | {"num_mels": [5], "mel_scale": "htk", "filter_norm": "peak", "spectrum": "power"}
        | {"normalized": True, "linear_weight": 1, "log_weight": 0.5, "log_distance": "l2"}
        | {"log_base": "10", "floor_by": "add", "windows_combine": "mean", "empty_bands": "keep"},
        inputs=lambda make: (make(2, 20), make(2, 20)),
        reference=encodec,
        detached=(0,),
        note="encodec",
    ),
]


@parametrize(CASES)
def test_conformance(case, name):
    check(case, name)


# Their many weights would make finite differences slow, so these are compared with the formula only.
LARGE = [
    Case(
        {"block": "audio/MultiScaleWaveDiscriminator", "num_scales": 3, "width": 2}
        | {"multiples": [1, 1, 2, 2, 1, 1, 2], "channels": 2},
        inputs=lambda make: (make(2, 2, 61),),
        call=lambda block, x: side_by_side(block.eval()(x)),
        reference=lambda block, x: scales(block.eval(), x),
        note="stereo",
    ),
    Case(
        {"block": "audio/MultiResolutionSTFTDiscriminator", "windows": [8, 16], "width": 3}
        | {"dilations": [1, 2, 4], "channels": 2},
        inputs=lambda make: (make(2, 2, 27),),
        call=lambda block, x: side_by_side(block(x)),
        reference=lambda block, x: resolutions(
            block, x, (8, 16), (1, 2, 4), [(0, 5), (0, 9)], slope=0.2
        ),
        note="stereo",
    ),
]


@pytest.mark.parametrize("case", LARGE, ids=lambda case: case.name)
def test_larger_discriminators_compute_the_formula(case):
    check(case, "literal_reference")
