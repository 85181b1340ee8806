"""Every general promise of each block, and what it computes by slow literal references."""

import math

import pytest
import torch
import torch.nn.functional as F

from gan_blocks.testing import Case, check, parametrize

LINE = [1 / 8, 3 / 8, 3 / 8, 1 / 8]


def pixel(x, i, j):
    """A pixel of a map (C, H, W); 0 outside."""
    inside = 0 <= i < x.shape[1] and 0 <= j < x.shape[2]
    return x[:, i, j] if inside else x.new_zeros(len(x))


def smoothed_at(x, i, j, line):
    """The sum over a and b of f_a f_b x(i - a, j - b)."""
    taps = range(len(line))
    return sum(line[a] * line[b] * pixel(x, i - a, j - b) for a in taps for b in taps)


def raster(x, sides, value):
    """A map whose pixels are given by a function of their place."""
    rows = [torch.stack([value(i, j) for j in range(sides[1])], dim=1) for i in range(sides[0])]
    return torch.stack(rows, dim=1)


def with_zeros(x):
    """A map with a zero row and a zero column behind each of its own."""
    doubled = x.new_zeros(len(x), 2 * x.shape[1], 2 * x.shape[2])
    doubled[:, ::2, ::2] = x
    return doubled


def doubled(x, line=LINE, edge=0):
    """Zeros inserted, filtered with gain 4; so many pixels more on each side, of what is outside."""
    zeros, half = with_zeros(x), len(line) // 2 - 1
    sides = (2 * x.shape[1] + 2 * edge, 2 * x.shape[2] + 2 * edge)
    return raster(
        x, sides, lambda i, j: 4 * smoothed_at(zeros, i - edge + half, j - edge + half, line)
    )


def halved(x, line=LINE):
    half, sides = len(line) // 2, (x.shape[1] // 2, x.shape[2] // 2)
    return raster(x, sides, lambda i, j: smoothed_at(x, 2 * i + half, 2 * j + half, line))


def lrelu(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def equalised(layer, x):
    """A linear layer of one sample."""
    w = layer.weight / math.sqrt(layer.weight.shape[1])
    return torch.stack([(row * x).sum() for row in w]) + layer.bias


def convolved(x, w, bias=None, stride=1, padding=0):
    """A map of one sample; torch's convolution."""
    return F.conv2d(x[None], w, bias, stride, padding)[0]


def equalised_conv(layer, x, stride=1, padding=0):
    w = layer.weight / math.sqrt(layer.weight[0].numel())
    return convolved(x, w, layer.bias, stride, padding)


def explicit_weights(layer, style, demodulate):
    """The weights of one sample, each by itself."""
    w = layer.weight / math.sqrt(layer.weight[0].numel())
    outputs, inputs = w.shape[:2]
    scaled = [torch.stack([style[i] * w[o, i] for i in range(inputs)]) for o in range(outputs)]
    if demodulate:
        scaled = [w / torch.sqrt((w**2).sum() + layer.eps) for w in scaled]
    return torch.stack(scaled)


def modulated(layer, x, style, demodulate):
    """One sample, convolved with weights of its own."""
    w = explicit_weights(layer, style, demodulate)
    edge = w.shape[2] // 2
    return convolved(doubled(x, edge=edge), w) if layer.upsample else convolved(x, w, padding=edge)


def normalised(z):
    return z / torch.sqrt((z**2).sum() / len(z) + 1e-8)


def mapped(mapping, z, label=None):
    """The style of one latent vector."""
    x = normalised(z)
    if label is not None:
        x = torch.cat([x, normalised(mapping.classes.weight[label])])
    for layer in mapping.layers:
        speed = layer.lr_multiplier
        w = speed * layer.weight / math.sqrt(len(x))
        x = lrelu(torch.stack([(row * x).sum() for row in w]) + speed * layer.bias)
    return x


def synthesised(synthesis, w):
    """The image of one sample from the styles of its layers, with fixed noise."""

    def styled(layer, x, w):
        y = modulated(layer.conv, x, equalised(layer.affine, w), demodulate=True)
        y = y + layer.noise.strength * layer.noise.fixed
        return lrelu(y + layer.bias[:, None, None])

    def rgb(layer, x, w):
        y = modulated(layer.conv, x, equalised(layer.affine, w), demodulate=False)
        return y + layer.bias[:, None, None]

    convs, styles = iter(synthesis.convs), list(w)
    x = styled(next(convs), synthesis.constant, styles[0])
    image = rgb(synthesis.to_rgb[0], x, styles[1])
    for size, to_rgb in enumerate(list(synthesis.to_rgb)[1:], 1):
        x = styled(next(convs), x, styles[2 * size - 1])
        x = styled(next(convs), x, styles[2 * size])
        image = doubled(image) + rgb(to_rgb, x, styles[2 * size + 1])
    return image


def generated(generator, z, label=None):
    w = mapped(generator.mapping, z, label)
    return synthesised(generator.synthesis, [w] * generator.num_layers)


def smoothed(x, edge):
    """Filtered with the pixels outside as zeros, and so many more on each side than there are."""
    sides = (x.shape[1] + 2 * edge - 3, x.shape[2] + 2 * edge - 3)
    return raster(x, sides, lambda i, j: smoothed_at(x, i - edge + 3, j - edge + 3, LINE))


def discriminated(block, x, labels=None):
    """Logits of a batch that is one group."""
    maps = []
    for image in x:
        y = lrelu(equalised_conv(block.from_rgb, image))
        for stage in block.blocks:
            inner = lrelu(equalised_conv(stage.conv1, y, padding=1))
            inner = lrelu(equalised_conv(stage.conv2, smoothed(inner, edge=2), stride=2))
            y = (inner + equalised_conv(stage.shortcut, halved(y))) / math.sqrt(2)
        maps.append(y)
    mean = sum(maps) / len(maps)
    squares = torch.stack([(y - mean) ** 2 for y in maps])
    std = torch.sqrt(squares.sum(0) / len(maps) + 1e-8).mean()
    logits = []
    for n, y in enumerate(maps):
        y = lrelu(equalised_conv(block.conv, torch.cat([y, std.expand(1, 4, 4)]), padding=1))
        y = equalised(block.out, lrelu(equalised(block.hidden, y.flatten())))
        if labels is not None:
            vector = normalised(block.classes.weight[labels[n]])
            y = (vector * y).sum(0, keepdim=True) / math.sqrt(len(y))
        logits.append(y[0])
    return torch.stack(logits)


def each(function):
    """A reference for one sample, put on all of a batch."""

    def reference(block, *inputs):
        return torch.stack([function(block, *sample) for sample in zip(*inputs, strict=True)])

    return reference


def with_fixed_noise(generator, z, *labels):
    return generator(z, *labels, noise="fixed")


LABELS = torch.tensor([1, 0, 1, 1])
MODULATED = {"block": "stylegan/ModulatedConv2d", "in_channels": 2, "out_channels": 2}
GENERATOR = {"block": "stylegan/StyleGAN2Generator", "latent_dim": 2, "channels": 1, "w_dim": 2}
# At the small rate of StyleGAN a finite difference of the weights would drown in rounding.
GENERATOR |= {"mapping_depth": 2, "lr_multiplier": 0.5, "channel_base": 16, "channel_max": 2}
DISCRIMINATOR = {"block": "stylegan/StyleGAN2Discriminator", "channels": 1}

CASES = [
    Case(
        {"block": "stylegan/Upsample2d"},
        inputs=lambda make: (make(2, 3, 3, 4),),
        reference=each(lambda block, x: doubled(x)),
    ),
    Case(
        {"block": "stylegan/Upsample2d", "taps": [1, 2, 4]},
        inputs=lambda make: (make(2, 1, 3, 4),),
        reference=each(lambda block, x: doubled(x, [1 / 7, 2 / 7, 4 / 7])),
        note="odd-and-skew",
    ),
    Case(
        {"block": "stylegan/Downsample2d"},
        inputs=lambda make: (make(2, 3, 6, 4),),
        reference=each(lambda block, x: halved(x)),
    ),
    Case(
        {"block": "stylegan/Downsample2d", "taps": [1, 2, 4]},
        inputs=lambda make: (make(2, 1, 6, 4),),
        reference=each(lambda block, x: halved(x, [1 / 7, 2 / 7, 4 / 7])),
        note="odd-and-skew",
    ),
    Case(
        {"block": "stylegan/NoiseInjection"},
        inputs=lambda make: (make(3, 2, 4, 5), make(3, 1, 4, 5)),
        reference=lambda block, x, noise: torch.stack(
            [
                torch.stack([channel + block.strength * n[0] for channel in sample])
                for sample, n in zip(x, noise, strict=True)
            ]
        ),
        note="given",
    ),
    Case(
        {"block": "stylegan/NoiseInjection", "image_size": 3},
        inputs=lambda make: (make(3, 2, 3, 3),),
        call=lambda block, x: block(x, "fixed"),
        reference=lambda block, x: torch.stack(
            [torch.stack([c + block.strength * block.fixed for c in sample]) for sample in x]
        ),
        note="fixed",
    ),
    *(
        Case(
            MODULATED | {"kernel_size": size, "demodulate": demodulate, "upsample": upsample},
            inputs=lambda make: (make(2, 2, 2, 3), make(2, 2)),
            reference=each(lambda block, x, s, on=demodulate: modulated(block, x, s, on)),
            note=f"{size}{'-demodulate' * demodulate}{'-upsample' * upsample}",
        )
        for size, demodulate, upsample in [
            (1, False, False),
            (1, True, True),
            (3, True, False),
            (3, False, True),
            (3, True, True),
            (5, True, True),
        ]
    ),
    Case(
        {"block": "stylegan/MappingNetwork", "latent_dim": 3, "w_dim": 4, "depth": 3}
        | {"lr_multiplier": 0.5},
        inputs=lambda make: (make(4, 3),),
        reference=each(mapped),
    ),
    Case(
        {"block": "stylegan/MappingNetwork", "latent_dim": 3, "w_dim": 4, "depth": 1}
        | {"lr_multiplier": 0.5, "num_classes": 2},
        inputs=lambda make: (make(4, 3), LABELS),
        reference=each(mapped),
        note="classes",
    ),
    Case(
        GENERATOR | {"image_size": 8, "style_mixing": 0, "mapping_depth": 1},
        inputs=lambda make: (make(2, 2),),
        call=with_fixed_noise,
        reference=each(generated),
    ),
    Case(
        GENERATOR | {"image_size": 4, "style_mixing": 0, "num_classes": 2},
        inputs=lambda make: (make(4, 2), LABELS),
        call=with_fixed_noise,
        reference=each(generated),
        note="classes",
    ),
    Case(
        DISCRIMINATOR | {"image_size": 8, "channel_base": 8},
        inputs=lambda make: (make(2, 1, 8, 8),),
        reference=discriminated,
    ),
    Case(
        DISCRIMINATOR | {"image_size": 4, "channel_base": 8, "num_classes": 2},
        inputs=lambda make: (make(4, 1, 4, 4), LABELS),
        reference=discriminated,
        note="classes",
    ),
]


# Finite differences run a block more often than a training does between two steps.
@pytest.mark.filterwarnings("ignore:MappingNetwork has run 256 times without an optimizer step")
@parametrize(CASES)
def test_conformance(case, name):
    check(case, name)


@pytest.mark.parametrize("side", [16, 32])
def test_generator_follows_the_formula_at_larger_sizes(side):
    larger = {
        "image_size": side,
        "channel_base": 64,
        "channel_max": 6,
        "channels": 3,
        "latent_dim": 5,
    }
    spec = GENERATOR | larger | {"w_dim": 4, "style_mixing": 0, "lr_multiplier": 0.01}
    case = Case(spec, lambda make: (make(2, 5),), each(generated), with_fixed_noise)
    check(case, "literal_reference")


@pytest.mark.parametrize("side", [16, 32])
def test_discriminator_follows_the_formula_at_larger_sizes(side):
    spec = DISCRIMINATOR | {"image_size": side, "channel_base": 64, "channel_max": 6, "channels": 3}
    check(Case(spec, lambda make: (make(3, 3, side, side),), discriminated), "literal_reference")
