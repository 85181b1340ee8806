"""Cases of the networks."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cases.formulas import identity
from cases.images import (
    batch_normalised,
    by_layer,
    convolved,
    group_normalised,
    rectified,
    standardised,
)
from cases.layers import residual_down, residual_up, similarities, virtually_normalised
from gan_blocks import MinibatchDiscrimination, VirtualBatchNorm, WithReference
from gan_blocks.testing import Case


def dense(block: Any, x: Tensor, hidden: Callable[[Tensor], Tensor]) -> Tensor:
    """One sample through the linear layers of an MLP, with their weights by number."""
    weights = [m for m in block.modules() if isinstance(m, nn.Linear)]
    for i, layer in enumerate(weights):
        x = torch.stack([(row * x).sum() for row in layer.weight]) + layer.bias
        x = torch.stack([hidden(value) for value in x]) if i < len(weights) - 1 else x
    return x


def layer_normalised(block: Any, x: Tensor) -> Tensor:
    """One hidden layer with layer norm, then softplus, then the last linear map."""
    first, last = [m for m in block.modules() if isinstance(m, nn.Linear)]
    norm = next(m for m in block.modules() if isinstance(m, nn.LayerNorm))
    x = first.weight @ x + first.bias
    average = x.sum() / len(x)
    variance = ((x - average) ** 2).sum() / len(x)
    x = (x - average) / (variance + 1e-5) ** 0.5 * norm.weight + norm.bias
    return last.weight @ torch.log(1 + torch.exp(x)) + last.bias


def batch_normalised_layer(block: Any, z: Tensor) -> Tensor:
    """One hidden layer with batch norm and tanh, then the last linear map."""
    first, last = [m for m in block.modules() if isinstance(m, nn.Linear)]
    norm = next(m for m in block.modules() if isinstance(m, nn.BatchNorm1d))
    hidden = torch.stack([first.weight @ row + first.bias for row in z])
    hidden = standardised(hidden, (0,)) * norm.weight + norm.bias
    return torch.stack([last.weight @ torch.tanh(row) + last.bias for row in hidden])


NETWORKS = [
    Case(
        {"block": "MLPGenerator", "latent_dim": 3, "output_shape": [1, 2, 2], "width": 5}
        | {"depth": 2, "activation": "silu", "output": "tanh"},
        inputs=lambda make: (make(4, 3),),
        reference=lambda block, z: torch.stack(
            [
                torch.tanh(dense(block, s, lambda x: x / (1 + torch.exp(-x)))).view(1, 2, 2)
                for s in z
            ]
        ),
    ),
    Case(
        {"block": "MLPGenerator", "latent_dim": 3, "output_shape": [2], "width": 5, "depth": 1}
        | {"norm": "layer", "activation": "softplus", "output": "sigmoid"},
        inputs=lambda make: (make(4, 3),),
        reference=lambda block, z: torch.stack(
            [1 / (1 + torch.exp(-layer_normalised(block, s))) for s in z]
        ),
        note="layer-norm",
    ),
    Case(
        {"block": "MLPGenerator", "latent_dim": 3, "output_shape": [2], "width": 4, "depth": 1}
        | {"norm": "batch", "activation": "tanh"},
        inputs=lambda make: (make(6, 3),),
        reference=lambda block, z: batch_normalised_layer(block, z),
        note="batch-norm",
    ),
    Case(
        {"block": "MLPDiscriminator", "input_shape": [1, 2, 3], "width": 5, "activation": "tanh"},
        inputs=lambda make: (make(4, 1, 2, 3),),
        reference=lambda block, x: torch.cat([dense(block, s.flatten(), torch.tanh) for s in x]),
    ),
    Case(
        {"block": "MLPDiscriminator", "input_shape": [3], "width": 5, "depth": 2},
        inputs=lambda make: (make(4, 3),),
        reference=lambda block, x: torch.cat(
            [dense(block, s, lambda h: h if h > 0 else 0.2 * h) for s in x]
        ),
        note="leaky-relu",
    ),
    Case(
        {"block": "MLPDiscriminator", "input_shape": [3], "width": 5, "depth": 0},
        inputs=lambda make: (make(4, 3),),
        reference=lambda block, x: torch.cat([dense(block, s, identity) for s in x]),
        note="linear",
    ),
    Case(
        {"block": "MLPDiscriminator", "input_shape": [3], "width": 4, "depth": 1}
        | {"minibatch_kernels": 2, "activation": "tanh"},
        inputs=lambda make: (make(4, 3),),
        reference=lambda block, x: dense_with_similarities(block, x),
        note="minibatch",
    ),
    Case(
        {"block": "MLPGenerator", "latent_dim": 3, "output_shape": [2], "width": 4, "depth": 1}
        | {"norm": "virtual", "activation": "tanh"},
        inputs=lambda make: (make(3, 3), make(5, 3)),
        call=lambda block, z, reference: WithReference(block, reference)(z),
        reference=lambda block, z, reference: virtual_layers(block, z, reference),
        batched=1,
        detached=(1,),
        note="virtual",
    ),
    Case(
        {"block": "MLPDiscriminator", "input_shape": [3], "width": 4, "depth": 1}
        | {"norm": "virtual", "activation": "tanh"},
        inputs=lambda make: (make(3, 3), make(5, 3)),
        call=lambda block, x, reference: WithReference(block, reference)(x),
        reference=lambda block, x, reference: virtual_layers(block, x, reference).flatten(),
        batched=1,
        detached=(1,),
        note="virtual",
    ),
]


def dense_with_similarities(block: Any, x: Tensor) -> Tensor:
    """One hidden layer with tanh, the similarities, and the logit."""
    first, last = [m for m in block.modules() if isinstance(m, nn.Linear)]
    layer = next(m for m in block.modules() if isinstance(m, MinibatchDiscrimination))
    hidden = torch.stack([torch.tanh(first.weight @ row + first.bias) for row in x])
    return torch.cat([last.weight @ row + last.bias for row in similarities(layer, hidden)])


def virtual_layers(block: Any, x: Tensor, reference: Tensor) -> Tensor:
    """One hidden layer with virtual batch norm and tanh, then the last linear map."""
    first, last = [m for m in block.modules() if isinstance(m, nn.Linear)]
    norm = next(m for m in block.modules() if isinstance(m, VirtualBatchNorm))
    linear = lambda batch: torch.stack([first.weight @ row + first.bias for row in batch])  # noqa: E731
    hidden = virtually_normalised(norm, linear(reference.detach()), linear(x))
    return torch.stack([last.weight @ torch.tanh(row) + last.bias for row in hidden])


def transposed(layer: Any, x: Tensor) -> Tensor:
    """A transposed convolution of one image: what each pixel adds to the result."""
    k, stride, pad = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    n, out = x.shape[-1], (x.shape[-1] - 1) * stride - 2 * pad + layer.kernel_size[0]
    zero = torch.zeros(layer.out_channels, dtype=x.dtype)
    sums = dict.fromkeys(itertools.product(range(out), range(out)), zero)
    for a, b, i, j in itertools.product(range(n), range(n), range(k), range(k)):
        place = a * stride - pad + i, b * stride - pad + j
        if place in sums:
            sums[place] = sums[place] + layer.weight[:, :, i, j].T @ x[:, a, b]
    return torch.stack(list(sums.values()), 1).view(-1, out, out)


def convolutional(block: Any, x: Tensor) -> Tensor:
    """DCGAN's layers one after the other, each written out."""
    for layer in block.layers:
        match layer:
            case nn.Unflatten():
                x = x.view(len(x), -1, 1, 1)
            case nn.Flatten():
                x = x.reshape(len(x), -1) if layer.start_dim else x.reshape(-1)
            case nn.ConvTranspose2d():
                x = torch.stack([transposed(layer, image) for image in x])
            case nn.Conv2d():
                x = by_layer(layer, x)
            case nn.BatchNorm2d():
                x = batch_normalised(layer, x)
            case nn.GroupNorm():
                x = group_normalised(layer, x)
            case nn.ReLU():
                x = torch.where(x > 0, x, 0 * x)
            case nn.LeakyReLU():
                x = torch.where(x > 0, x, 0.2 * x)
            case nn.Tanh():
                x = 1 - 2 / (torch.exp(2 * x) + 1)
            case nn.Linear():
                x = torch.stack([layer.weight @ row + layer.bias for row in x])
            case _:
                x = similarities(layer, x)
    return x


NETWORKS += [
    Case(
        {"block": "DCGANGenerator", "latent_dim": 2, "image_size": 16, "width": 1},
        inputs=lambda make: (make(2, 2),),
        reference=convolutional,
        note="batch-norm",
    ),
    Case(
        {"block": "DCGANGenerator", "latent_dim": 2, "image_size": 8, "channels": 2, "width": 1}
        | {"norm": "layer"},
        inputs=lambda make: (make(2, 2),),
        reference=convolutional,
        note="layer-norm",
    ),
    Case(
        {"block": "DCGANDiscriminator", "image_size": 8, "channels": 2, "width": 2},
        inputs=lambda make: (make(2, 2, 8, 8),),
        reference=convolutional,
    ),
    Case(
        {"block": "DCGANDiscriminator", "image_size": 16, "width": 1, "norm": "layer"}
        | {"minibatch_kernels": 1},
        inputs=lambda make: (make(2, 1, 16, 16),),
        reference=convolutional,
        note="minibatch",
    ),
]


# --- residual networks and patches -----------------------------------------------------------------


def resnet_generator(block: Any, z: Tensor, labels: Tensor | None = None) -> Tensor:
    linear, last = block.first[0], block.last
    side = int((len(linear.weight) / block.last[0].num_features) ** 0.5)
    x = torch.stack([linear.weight @ row + linear.bias for row in z])
    x = x.view(len(z), -1, side, side)
    for up in block.blocks:
        x = residual_up(up, x, labels)
    x = by_layer(last[2], rectified(batch_normalised(last[0], x)))
    return 1 - 2 / (torch.exp(2 * x) + 1)


def resnet_discriminator(block: Any, x: Tensor, labels: Tensor | None = None) -> Tensor:
    for down in block.blocks:
        x = residual_down(down, x)
    features = rectified(x).sum((2, 3))
    if labels is None:
        linear = block.head
        return torch.cat([linear.weight @ row + linear.bias for row in features])
    linear, classes = block.head.linear, block.head.classes.weight
    return torch.cat(
        [
            (linear.weight + classes[label]) @ row + linear.bias
            for row, label in zip(features, labels, strict=True)
        ]
    )


def spectrally_divided(block: Any, x: Tensor) -> Tensor:
    """The network with each weight divided by u^T W v, and u and v as they are kept."""
    divided = copy.deepcopy(block)
    for name, layer in block.named_modules():
        if not hasattr(layer, "parametrizations"):
            continue
        kept = layer.parametrizations.weight
        weight = kept.original
        norm = kept[0]._u @ weight.flatten(1) @ kept[0]._v
        plain = divided.get_submodule(name)
        nn.utils.parametrize.remove_parametrizations(plain, "weight")
        del plain._parameters["weight"]
        plain.weight = weight / norm
    return resnet_discriminator(divided, x)


def interpolated(x: Tensor) -> Tensor:
    """Twice the side: each new pixel lies 1/4 from one old pixel and 3/4 from another, zeros beyond."""
    h, w = x.shape[2], x.shape[3]

    def near(i: int) -> list[tuple[int, float]]:
        return [(i // 2, 3 / 4), (i // 2 + (1 if i % 2 else -1), 1 / 4)]

    def pixel(i: int, j: int) -> Tensor:
        total = torch.zeros_like(x[:, :, 0, 0])
        for (a, by_row), (b, by_column) in itertools.product(near(i), near(j)):
            if 0 <= a < h and 0 <= b < w:
                total = total + by_row * by_column * x[:, :, a, b]
        return total

    pixels = [pixel(i, j) for i in range(2 * h) for j in range(2 * w)]
    return torch.stack(pixels, 2).view(len(x), -1, 2 * h, 2 * w)


def smoothed(x: Tensor) -> Tensor:
    """Half the side: 3/8 of the two pixels of a new one, 1/8 of their outer neighbours, each way."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8
    kernel = torch.stack([line * a for a in line]).expand(x.shape[1], 1, 4, 4)
    return torch.stack([convolved(image, kernel, None, 2, 1, x.shape[1]) for image in x])


def with_channels(layer: Any, x: Tensor) -> Tensor:
    return x if isinstance(layer, nn.Identity) else by_layer(layer, x)


def r3gan(block: Any, x: Tensor) -> Tensor:
    """The layers of either network one after the other."""
    for layer in block.layers:
        match type(layer).__name__:
            case "_GenerativeBasis":
                codes = [layer.linear.weight @ row for row in x]
                x = torch.stack([code[:, None, None] * layer.basis for code in codes])
            case "_Up":
                x = interpolated(with_channels(layer.linear, x))
            case "_Down":
                x = with_channels(layer.linear, smoothed(x))
            case "_Bottleneck":
                first, bias1, second, bias2, third = layer.layers
                y = rectified(by_layer(first, x) + bias1.bias[:, None, None], 0.2)
                y = rectified(by_layer(second, y) + bias2.bias[:, None, None], 0.2)
                x = x + by_layer(third, y)
            case "Conv2d":
                x = by_layer(layer, x)
            case "Flatten":
                x = x.reshape(len(x), -1)
            case "Linear":
                x = torch.stack([layer.weight @ row for row in x])
    return x


def r3gan_generator(block: Any, z: Tensor, labels: Tensor | None = None) -> Tensor:
    if labels is not None:
        z = torch.cat([z, torch.stack([block.classes.weight[label] for label in labels])], 1)
    return r3gan(block, z)


def r3gan_discriminator(block: Any, x: Tensor, labels: Tensor | None = None) -> Tensor:
    vectors = r3gan(block, x)
    if labels is None:
        return vectors[:, 0]
    products = [v @ block.classes.weight[y] for v, y in zip(vectors, labels, strict=True)]
    return torch.stack(products)


def patches(block: Any, x: Tensor) -> Tensor:
    for layer in block.layers:
        convolution = layer[0] if isinstance(layer, nn.Sequential) else layer
        x = by_layer(convolution, x)
        if isinstance(layer, nn.Sequential):
            if isinstance(layer[1], nn.InstanceNorm2d):
                x = standardised(x, (2, 3))
            elif isinstance(layer[1], nn.BatchNorm2d):
                x = batch_normalised(layer[1], x)
            x = rectified(x, 0.2)
    return x


def scales(block: Any, x: Tensor) -> Tensor:
    logits = []
    for discriminator in block.scales:
        logits.append(patches(discriminator, x).flatten(1))
        x = mean_of_nine(x)
    return torch.cat(logits, 1)


def mean_of_nine(x: Tensor) -> Tensor:
    """Each other pixel with those around it, as many as there are."""
    rows, columns = (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2
    pixels = []
    for i, j in itertools.product(range(rows), range(columns)):
        part = x[:, :, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2]
        pixels.append(part.sum((2, 3)) / (part.shape[2] * part.shape[3]))
    return torch.stack(pixels, 2).view(len(x), -1, rows, columns)


def evaluated(block: Any, *inputs: Tensor) -> Tensor:
    """In evaluation mode, in which the vectors of spectral normalisation stay as they are."""
    return block.eval()(*inputs)


LABELS = torch.tensor([1, 0])
SMALL = {"blocks_per_stage": 1, "expansion": 2, "group_width": 2}

NETWORKS += [
    Case(
        {"block": "ResNetGenerator", "latent_dim": 2, "image_size": 4, "channels": 1}
        | {"widths": [2, 2]},
        inputs=lambda make: (make(3, 2),),
        reference=resnet_generator,
    ),
    Case(
        {"block": "ResNetGenerator", "latent_dim": 2, "image_size": 4, "channels": 2}
        | {"widths": [2, 1], "num_classes": 2},
        inputs=lambda make: (make(2, 2), LABELS),
        reference=resnet_generator,
        note="classes",
    ),
    Case(
        {"block": "ResNetDiscriminator", "channels": 2, "widths": [2, 2, 3], "downsamplings": 1}
        | {"spectral_norm": False},
        inputs=lambda make: (make(2, 2, 4, 5),),
        reference=resnet_discriminator,
    ),
    Case(
        {"block": "ResNetDiscriminator", "channels": 1, "widths": [2], "downsamplings": 1}
        | {"num_classes": 2, "spectral_norm": False},
        inputs=lambda make: (make(2, 1, 4, 4), LABELS),
        reference=resnet_discriminator,
        note="classes",
    ),
    Case(
        {"block": "ResNetDiscriminator", "channels": 1, "widths": [2, 2], "downsamplings": 1},
        inputs=lambda make: (make(2, 1, 4, 4),),
        call=evaluated,
        reference=spectrally_divided,
        note="spectral",
        expected_failures={"pickled_copy_agrees": "torch refuses to pickle parametrised modules"},
    ),
    Case(
        {"block": "R3GANGenerator", "latent_dim": 2, "image_size": 4, "channels": 1}
        | {"widths": [2, 1], **SMALL},
        inputs=lambda make: (make(2, 2),),
        reference=r3gan_generator,
    ),
    Case(
        {"block": "R3GANGenerator", "latent_dim": 2, "image_size": 4, "channels": 1}
        | {"widths": [2, 2], "num_classes": 2, **SMALL},
        inputs=lambda make: (make(2, 2), LABELS),
        reference=r3gan_generator,
        note="classes",
    ),
    Case(
        {"block": "R3GANDiscriminator", "image_size": 4, "channels": 2, "widths": [1, 2], **SMALL},
        inputs=lambda make: (make(2, 2, 4, 4),),
        reference=r3gan_discriminator,
    ),
    Case(
        {"block": "R3GANDiscriminator", "image_size": 4, "channels": 1, "widths": [2, 2]}
        | {"num_classes": 2, **SMALL},
        inputs=lambda make: (make(2, 1, 4, 4), LABELS),
        reference=r3gan_discriminator,
        note="classes",
    ),
    Case(
        {"block": "PatchDiscriminator", "channels": 2, "width": 1, "depth": 1},
        inputs=lambda make: (make(2, 2, 7, 6),),
        reference=patches,
    ),
    Case(
        {"block": "PatchDiscriminator", "channels": 1, "width": 2, "depth": 1, "norm": "batch"},
        inputs=lambda make: (make(2, 1, 6, 6),),
        reference=patches,
        note="batch-norm",
    ),
    *(
        Case(
            {"block": "MultiScaleDiscriminator", "num_scales": 2, "channels": 1, "width": 1}
            | {"depth": depth, "norm": norm},
            inputs=inputs,
            call=lambda block, x: torch.cat([logits.flatten(1) for logits in block(x)], 1),
            reference=scales,
            note=note,
        )
        for depth, norm, inputs, note in (
            (0, "none", lambda make: (make(2, 1, 6, 7),), ""),
            (1, "batch", lambda make: (make(3, 1, 11, 12),), "batch-norm"),
        )
    ),
]
