"""Cases of the layers."""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from cases.images import (
    batch_normalised,
    by_layer,
    convolved,
    halved,
    rectified,
    repeated,
    standardised,
)
from gan_blocks import WithReference
from gan_blocks.spec import recorded_arguments
from gan_blocks.testing import Case


def similarities(layer: Any, x: Tensor) -> Tensor:
    """Minibatch discrimination as the double loop of the paper."""
    rows = []
    for i in range(len(x)):
        row = []
        for b in range(layer.num_kernels):
            total = torch.zeros((), dtype=x.dtype)
            for j in range(len(x)):
                if j == i:
                    continue
                distance = torch.zeros((), dtype=x.dtype)
                for c in range(layer.kernel_dim):
                    theta = layer.theta[:, b, c]
                    column = theta * torch.exp(layer.log_scale[b, c]) / (theta**2).sum() ** 0.5
                    distance = distance + ((x[i] - x[j]) * column).sum().abs()
                total = total + torch.exp(-distance)
            row.append(total if layer.bias is None else total + layer.bias[b])
        rows.append(torch.cat([x[i], torch.stack(row)]))
    return torch.stack(rows)


def virtually_normalised(layer: Any, reference: Tensor, x: Tensor) -> Tensor:
    """Each sample with batch norm over the reference and itself, written as one batch of n + 1."""
    rows = []
    for sample in x:
        batch = torch.cat([reference, sample[None]])
        normalised = torch.nn.functional.batch_norm(
            batch, None, None, layer.weight, layer.bias, training=True, eps=layer.eps
        )
        rows.append(normalised[-1])
    return torch.stack(rows)


def virtual_case(shape: tuple[int, ...], note: str) -> Case:
    return Case(
        {"block": "VirtualBatchNorm", "num_features": shape[0], "eps": 1e-3},
        inputs=lambda make: (make(4, *shape), make(6, *shape)),
        call=lambda layer, x, reference: WithReference(layer, reference)(x),
        reference=lambda layer, x, reference: virtually_normalised(layer, reference, x),
        batched=1,
        detached=(1,),
        note=note,
    )


def deviations(layer: Any, x: Tensor) -> Tensor:
    """Minibatch standard deviation with the samples dealt out to the groups by hand."""
    count = 1 if layer.group_size is None else math.ceil(len(x) / layer.group_size)
    groups: list[list[int]] = [[] for _ in range(count)]
    for i in range(len(x)):
        groups[i % count].append(i)
    share = x.shape[1] // layer.num_channels
    results: list[Any] = [None] * len(x)
    for group in groups:
        maps = []
        for k in range(layer.num_channels):
            deviations = []
            for feature in torch.stack(
                [x[i, k * share : (k + 1) * share].flatten() for i in group], 1
            ):
                average = feature.sum() / len(group)
                variance = ((feature - average) ** 2).sum() / len(group)
                deviations.append((variance + layer.eps) ** 0.5)
            maps.append(torch.stack(deviations).sum() / len(deviations))
        for i in group:
            statistic = torch.stack([m.expand(x.shape[2:]) for m in maps])
            results[i] = torch.cat([x[i], statistic])
    return torch.stack(results)


def packed(layer: Any, x: Tensor) -> Tensor:
    """The channels of m samples in turn, one channel at a time."""
    packs = []
    for j in range(len(x) // layer.pack_size):
        of_pack = range(layer.pack_size * j, layer.pack_size * (j + 1))
        packs.append(torch.stack([x[i, c] for i in of_pack for c in range(x.shape[1])]))
    return torch.stack(packs)


def unit_pixels(layer: Any, x: Tensor) -> Tensor:
    pixels = x.reshape(len(x), x.shape[1], -1)
    columns = [
        [pixel / ((pixel**2).sum() / len(pixel) + layer.eps) ** 0.5 for pixel in sample.T]
        for sample in pixels
    ]
    return torch.stack([torch.stack(c, 1) for c in columns]).view(x.shape)


def attended(layer: Any, x: Tensor) -> Tensor:
    """Each position looks at all others, one at a time."""

    def through(convolution: Any, pixel: Tensor) -> Tensor:
        return convolution.weight[:, :, 0, 0] @ pixel

    def pooled(image: Tensor) -> list[Tensor]:
        channels, rows, columns = image.shape
        if not layer.pool:
            return list(image.reshape(channels, -1).T)
        squares = [
            image[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(channels, 4)
            for i in range(rows // 2)
            for j in range(columns // 2)
        ]
        return [torch.stack([row.max() for row in square]) for square in squares]

    def image_of(convolution: Any, sample: Tensor) -> Tensor:
        pixels = [through(convolution, pixel) for pixel in sample.flatten(1).T]
        return torch.stack(pixels, 1).view(-1, *sample.shape[1:])

    samples = []
    for sample in x:
        keys, values = pooled(image_of(layer.f, sample)), pooled(image_of(layer.h, sample))
        pixels = []
        for pixel in sample.flatten(1).T:
            query = through(layer.g, pixel)
            shares = torch.stack([torch.exp((key * query).sum()) for key in keys])
            shares = shares / shares.sum()
            taken = torch.stack([b * h for b, h in zip(shares, values, strict=True)]).sum(0)
            pixels.append(pixel + layer.gamma * through(layer.v, taken))
        samples.append(torch.stack(pixels, 1).view(sample.shape))
    return torch.stack(samples)


def conditionally_normalised(layer: Any, x: Tensor, labels: Tensor) -> Tensor:
    normalised = standardised(x, (0, 2, 3), layer.norm.eps)
    return torch.stack(
        [
            sample * layer.weight[y, :, None, None] + layer.bias[y, :, None, None]
            for sample, y in zip(normalised, labels, strict=True)
        ]
    )


def projected(head: Any, features: Tensor, labels: Tensor) -> Tensor:
    logits = []
    for phi, y in zip(features, labels, strict=True):
        unconditional = (head.linear.weight[0] * phi).sum() + head.linear.bias[0]
        logits.append((head.classes.weight[y] * phi).sum() + unconditional)
    return torch.stack(logits)


def equalised(layer: Any, x: Tensor) -> Tensor:
    """Linear map or convolution with the weights times gain, multiplier and 1/sqrt(fan in)."""
    arguments = recorded_arguments(layer)
    fan_in = layer.weight[0].numel()
    multiplier = arguments["lr_multiplier"]
    weight = layer.weight * (arguments["gain"] * multiplier / fan_in**0.5)
    bias = (
        torch.zeros(len(weight), dtype=x.dtype) if layer.bias is None else layer.bias * multiplier
    )
    if x.dim() == 2:
        return torch.stack([weight @ row + bias for row in x])
    stride, padding = arguments["stride"], arguments["padding"]
    return torch.stack([convolved(image, weight, bias, stride, padding) for image in x])


def noisy(layer: Any, x: Tensor) -> Tensor:
    noise = torch.randn(x.shape, dtype=x.dtype)
    return torch.stack([a + layer.std * e for a, e in zip(x, noise, strict=True)])


def augmented(layer: Any, x: Tensor) -> Tensor:
    """Each image by itself, each pixel by hand."""
    draws = torch.rand(len(x), 7).double()
    side = x.shape[2]
    images = []
    for image, u in zip(x, draws.tolist(), strict=True):
        for name in layer.policy:
            if name == "color":
                image = image + u[0] - 0.5
                grey = image.sum(0) / len(image)
                image = torch.stack([(channel - grey) * 2 * u[1] + grey for channel in image])
                mean = image.sum() / image.numel()
                image = (image - mean) * (u[2] + 0.5) + mean
            elif name == "translation":
                most = round(side * layer.translation)
                down, right = (math.floor(n * (2 * most + 1)) - most for n in u[3:5])
                moved = torch.zeros_like(image)
                for i, j in itertools.product(range(side), range(side)):
                    if 0 <= i - down < side and 0 <= j - right < side:
                        moved[:, i, j] = image[:, i - down, j - right]
                image = moved
            else:
                size = round(side * layer.cutout)
                y, z = (math.floor(n * (side + 1 - size % 2)) - size // 2 for n in u[5:])
                keep = torch.ones(side, side, dtype=x.dtype)
                for i, j in itertools.product(range(size), range(size)):
                    if 0 <= y + i < side and 0 <= z + j < side:
                        keep[y + i, z + j] = 0
                image = image * keep
        images.append(image)
    return torch.stack(images)


def residual_up(layer: Any, x: Tensor, labels: Tensor | None = None) -> Tensor:
    def norm(within: Any, y: Tensor) -> Tensor:
        return (
            batch_normalised(within, y)
            if labels is None
            else conditionally_normalised(within, y, labels)
        )

    y = by_layer(layer.conv1, repeated(rectified(norm(layer.norm1, x))))
    y = by_layer(layer.conv2, rectified(norm(layer.norm2, y)))
    return y + by_layer(layer.shortcut, repeated(x))


def residual_down(layer: Any, x: Tensor) -> Tensor:
    y = by_layer(layer.conv1, x if layer.first else rectified(x))
    y = by_layer(layer.conv2, rectified(y))
    shortcut = x if isinstance(layer.shortcut, nn.Identity) else by_layer(layer.shortcut, x)
    return halved(y) + halved(shortcut) if layer.downsample else y + shortcut


ONE_DRAW = {
    "permutation": "each sample has its draw by its place in the batch",
    "batch_mates": "a sample alone has another draw than in a batch",
}
LABELS = torch.tensor([2, 0, 1, 2])

LAYERS = [
    Case(
        {"block": "MinibatchDiscrimination", "in_features": 4, "num_kernels": 3, "kernel_dim": 2},
        inputs=lambda make: (make(5, 4),),
        reference=similarities,
    ),
    Case(
        {"block": "MinibatchDiscrimination", "in_features": 3, "num_kernels": 2, "bias": True},
        inputs=lambda make: (make(4, 3),),
        reference=similarities,
        note="bias",
    ),
    virtual_case((3,), "vectors"),
    virtual_case((2, 5), "signals"),
    virtual_case((2, 3, 2), "images"),
    Case(
        {"block": "MinibatchStdDev", "group_size": None, "eps": 0.01},
        inputs=lambda make: (make(4, 2, 2, 3),),
        reference=deviations,
        note="whole-batch",
    ),
    *(
        Case(
            {"block": "MinibatchStdDev", "group_size": 3, "num_channels": 2, "eps": 0.01},
            inputs=lambda make, n=n: (make(n, 4, 2),),
            reference=deviations,
            note=f"groups-of-{n}",
            expected_failures={"permutation": "the groups follow the order of the batch"},
        )
        for n in (7, 8)
    ),
    *(
        Case(
            {"block": "Packing", "pack_size": size},
            inputs=lambda make, shape=shape: (make(*shape),),
            reference=packed,
            note=note,
            expected_failures={"permutation": "neighbours in the batch make a pack"},
        )
        for size, shape, note in ((2, (8, 3), "vectors"), (3, (6, 2, 2, 3), "images"))
    ),
    Case(
        {"block": "PixelNorm", "eps": 0.1},
        inputs=lambda make: (make(4, 3, 2, 2),),
        reference=unit_pixels,
    ),
    Case(
        {"block": "SelfAttention2d", "in_channels": 3, "key_channels": 2},
        inputs=lambda make: (make(2, 3, 2, 3),),
        reference=attended,
    ),
    Case(
        {"block": "SelfAttention2d", "in_channels": 2, "value_channels": 2, "pool": True},
        inputs=lambda make: (make(2, 2, 4, 3),),
        reference=attended,
        note="pool",
    ),
    Case(
        {"block": "ConditionalBatchNorm2d", "num_features": 2, "num_classes": 3, "eps": 0.01},
        inputs=lambda make: (make(4, 2, 2, 3), LABELS),
        reference=conditionally_normalised,
    ),
    Case(
        {"block": "ProjectionHead", "in_features": 3, "num_classes": 3},
        inputs=lambda make: (make(4, 3), LABELS),
        reference=projected,
    ),
    Case(
        {"block": "EqualizedLinear", "in_features": 3, "out_features": 2},
        inputs=lambda make: (make(4, 3),),
        reference=equalised,
    ),
    Case(
        {"block": "EqualizedLinear", "in_features": 3, "out_features": 2, "bias": False}
        | {"gain": 2, "lr_multiplier": 0.3},
        inputs=lambda make: (make(4, 3),),
        reference=equalised,
        note="gain",
    ),
    Case(
        {"block": "EqualizedConv2d", "in_channels": 2, "out_channels": 3, "kernel_size": 3}
        | {"stride": 2, "padding": 1, "gain": 1.5, "lr_multiplier": 0.5},
        inputs=lambda make: (make(2, 2, 4, 3),),
        reference=equalised,
    ),
    Case(
        {"block": "EqualizedConv2d", "in_channels": 2, "out_channels": 1, "kernel_size": 1}
        | {"bias": False},
        inputs=lambda make: (make(2, 2, 2, 2),),
        reference=equalised,
        note="no-bias",
    ),
    Case(
        {"block": "GaussianNoise", "std": 0.3, "anneal_steps": 10},
        inputs=lambda make: (make(4, 3),),
        reference=noisy,
        expected_failures=ONE_DRAW,
    ),
    Case(
        {"block": "DiffAugment", "translation": 0.25},
        inputs=lambda make: (make(4, 2, 8, 8),),
        reference=augmented,
        expected_failures=ONE_DRAW,
    ),
    Case(
        {"block": "DiffAugment", "policy": ["cutout", "translation"], "cutout": 0.4},
        inputs=lambda make: (make(4, 1, 7, 7),),
        reference=augmented,
        note="odd",
        expected_failures=ONE_DRAW,
    ),
    Case(
        {"block": "ResidualUp2d", "in_channels": 2, "out_channels": 1},
        inputs=lambda make: (make(3, 2, 2, 2),),
        reference=residual_up,
    ),
    Case(
        {"block": "ResidualUp2d", "in_channels": 1, "out_channels": 2, "num_classes": 3},
        inputs=lambda make: (make(4, 1, 2, 1), LABELS),
        reference=residual_up,
        note="classes",
    ),
    *(
        Case(
            {"block": "ResidualDown2d", "in_channels": 2, "out_channels": after}
            | {"downsample": downsample, "first": first},
            inputs=lambda make: (make(2, 2, 3, 4),),
            reference=residual_down,
            note=note,
        )
        for after, downsample, first, note in (
            (3, True, True, "first"),
            (2, True, False, "down"),
            (2, False, False, "plain"),
            (1, False, True, "narrower"),
        )
    ),
]
