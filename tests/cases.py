"""One row or more per block: inputs, and the formula as a slow literal computation.

A reference loops over the samples and writes the paper's formula down; it shares no code with the
block.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks import MinibatchDiscrimination, VirtualBatchNorm, WithReference
from gan_blocks.testing import Case

LOG2 = math.log(2)


def mean(function: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """The mean of a function of one sample (or one of each batch) over the batch."""
    values = [function(*samples) for samples in zip(*batches, strict=True)]
    return torch.stack(values).mean()


def log_sigmoid(x: Tensor) -> Tensor:
    return torch.log(1 / (1 + torch.exp(-x)))


# --- adversarial losses ------------------------------------------------------------------------

# What one sample contributes, from the formulas of the papers with D = sigmoid(logit).


def bce(target: float) -> Callable[[Tensor], Tensor]:
    def one(x: Tensor) -> Tensor:
        probability = 1 / (1 + torch.exp(-x))
        return -target * torch.log(probability) - (1 - target) * torch.log(1 - probability)

    return one


def square(target: float) -> Callable[[Tensor], Tensor]:
    return lambda x: (x - target) ** 2 / 2


def margin(sign: int) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.stack([torch.zeros_like(x), 1 - sign * x]).max()


def identity(x: Tensor) -> Tensor:
    return x


Term = Callable[[Tensor], Tensor]


def loss_cases(
    arguments: dict[str, Any], real: Term, fake: Term, generated: Term, note: str = ""
) -> list[Case]:
    """Both sides of a loss that averages one term per sample: on batches of two sizes, and on
    patches from two sub-discriminators."""
    combine = arguments.get("combine", "sum")

    def together(terms: Sequence[Tensor]) -> Tensor:
        total = sum(terms, torch.zeros((), dtype=torch.float64))
        return total / len(terms) if combine == "mean" else total

    def critic(block: Any, *logits: Tensor) -> Tensor:
        half = len(logits) // 2
        return together(
            [
                mean(real, r.flatten()) + mean(fake, f.flatten())
                for r, f in zip(logits[:half], logits[half:], strict=True)
            ]
        )

    def generator(block: Any, *logits: Tensor) -> Tensor:
        return together([mean(generated, f.flatten()) for f in logits])

    def patches(make: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        return make(4, 1, 2, 2), make(4, 1, 3, 3), make(4, 1, 2, 2), make(4, 1, 3, 3)

    return [
        Case(
            arguments,
            inputs=lambda make: (make(6), make(4)),
            call=lambda loss, r, f: loss.discriminator(r, f),
            reference=critic,
            note=f"discriminator{note}",
        ),
        Case(
            arguments,
            inputs=lambda make: (make(5, 1),),
            call=lambda loss, f: loss.generator(f),
            reference=generator,
            note=f"generator{note}",
        ),
        Case(
            arguments,
            inputs=patches,
            call=lambda loss, r1, r2, f1, f2: loss.discriminator([r1, r2], [f1, f2]),
            reference=critic,
            note=f"discriminator{note}-of-two",
        ),
        Case(
            arguments,
            inputs=lambda make: patches(make)[:2],
            call=lambda loss, f1, f2: loss.generator((f1, f2)),
            reference=generator,
            note=f"generator{note}-of-two",
        ),
    ]


LOSSES = [
    *loss_cases({"block": "MinimaxLoss"}, bce(1), bce(0), lambda x: -bce(0)(x)),
    *loss_cases({"block": "NonSaturatingLoss", "combine": "mean"}, bce(1), bce(0), bce(1)),
    *loss_cases(
        {"block": "NonSaturatingLoss", "real_target": 0.9}, bce(0.9), bce(0), bce(1), "-smoothed"
    ),
    *loss_cases({"block": "LeastSquaresLoss"}, square(1), square(0), square(1)),
    *loss_cases(
        {
            "block": "LeastSquaresLoss",
            "fake_target": -1,
            "real_target": 2,
            "generator_target": 0.5,
        },
        square(2),
        square(-1),
        square(0.5),
        "-targets",
    ),
    *loss_cases({"block": "HingeLoss"}, margin(1), margin(-1), lambda x: -x),
    *loss_cases({"block": "WassersteinLoss"}, lambda x: -x, identity, lambda x: -x),
]

for name, activation, conjugate in (
    ("KL", identity, lambda t: torch.exp(t - 1)),
    ("ReverseKL", lambda v: -torch.exp(-v), lambda t: -1 - torch.log(-t)),
    ("PearsonChi2", identity, lambda t: t**2 / 4 + t if t >= -2 else 0 * t - 1),
    ("SquaredHellinger", lambda v: 1 - torch.exp(-v), lambda t: t / (1 - t)),
    (
        "JensenShannon",
        lambda v: LOG2 - torch.log(1 + torch.exp(-v)),
        lambda t: -torch.log(2 - torch.exp(t)),
    ),
    ("GANDivergence", log_sigmoid, lambda t: -torch.log(1 - torch.exp(t))),
):
    spec = {"block": "FDivergenceLoss", "divergence": {"block": name}}

    def gain(v: Tensor, activation: Any = activation) -> Tensor:
        return -activation(v)

    def cost(v: Tensor, activation: Any = activation, conjugate: Any = conjugate) -> Tensor:
        return conjugate(activation(v))

    LOSSES += loss_cases(spec, gain, cost, lambda v, cost=cost: -cost(v), f"-{name}")[:2]
    alternative = spec | {"generator_objective": "non_saturating"}
    LOSSES += loss_cases(alternative, gain, cost, gain, f"-{name}-non-saturating")[1:2]


def relativistic(block: Any, better: Tensor, worse: Tensor) -> Tensor:
    return mean(lambda b, w: -log_sigmoid(b - w), better.flatten(), worse.flatten())


LOSSES += [
    Case(
        {"block": "RelativisticLoss"},
        inputs=lambda make: (make(6, 1), make(6, 1)),
        call=lambda loss, r, f: loss.discriminator(r, f),
        reference=relativistic,
        note="discriminator",
    ),
    Case(
        {"block": "RelativisticLoss"},
        inputs=lambda make: (make(6, 1), make(6, 1)),
        call=lambda loss, f, r: loss.generator(f, r),
        reference=relativistic,
        note="generator",
    ),
    Case(
        {"block": "RelativisticLoss", "combine": "mean"},
        inputs=lambda make: (make(3, 2), make(3), make(3, 2), make(3)),
        call=lambda loss, r1, r2, f1, f2: loss.discriminator([r1, r2], [f1, f2]),
        reference=lambda loss, r1, r2, f1, f2: (
            (relativistic(loss, r1, f1) + relativistic(loss, r2, f2)) / 2
        ),
        note="discriminator-of-two",
    ),
]


# --- divergences -------------------------------------------------------------------------------


def divergence_cases(name: str, f: Term, derivative: Term, conjugate: Term, g: Term) -> list[Case]:
    """Each formula of a divergence, sample by sample, and its sum over a discrete distribution."""

    def each(function: Term) -> Callable[..., Tensor]:
        return lambda block, x: torch.stack([function(value) for value in x])

    def between(block: Any, p: Tensor, q: Tensor) -> Tensor:
        ratios = p / q
        return torch.stack(
            [
                torch.stack([b * f(u) for b, u in zip(qs, us, strict=True)]).sum()
                for qs, us in zip(q, ratios, strict=True)
            ]
        )

    ratios = {"inputs": lambda make: (make(9).exp(),), "spec": {"block": name}}
    values = {"inputs": lambda make: (make(9),), "spec": {"block": name}}
    return [
        Case(**ratios, call=lambda d, u: d.f(u), reference=each(f), note="f"),
        Case(
            **ratios,
            call=lambda d, u: d.derivative(u),
            reference=each(derivative),
            note="derivative",
        ),
        Case(**values, call=lambda d, v: d.activation(v), reference=each(g), note="activation"),
        Case(
            **values,
            call=lambda d, v: d.conjugate(d.activation(v)),
            reference=each(lambda v: conjugate(g(v))),
            note="conjugate",
        ),
        Case(
            **values,
            call=lambda d, v: d.conjugate_of_activation(v),
            reference=each(lambda v: conjugate(g(v))),
            note="conjugate_of_activation",
        ),
        Case(
            {"block": name},
            inputs=lambda make: (make(3, 5).exp(), make(3, 5).exp()),
            call=lambda d, p, q: d.between(p / p.sum(-1, True), q / q.sum(-1, True)),
            reference=lambda d, p, q: between(d, p / p.sum(-1, True), q / q.sum(-1, True)),
            note="between",
            expected_failures={
                "meta_device": "between checks that p and q are distributions, which needs values",
                "compile_fullgraph": "the same check reads values, which breaks the graph",
            },
        ),
    ]


DIVERGENCES = [
    *divergence_cases(
        "KL",
        lambda u: u * torch.log(u),
        lambda u: 1 + torch.log(u),
        lambda t: torch.exp(t - 1),
        identity,
    ),
    *divergence_cases(
        "ReverseKL",
        lambda u: -torch.log(u),
        lambda u: -1 / u,
        lambda t: -1 - torch.log(-t),
        lambda v: -torch.exp(-v),
    ),
    *divergence_cases(
        "PearsonChi2",
        lambda u: (u - 1) ** 2,
        lambda u: 2 * (u - 1),
        lambda t: t**2 / 4 + t if t >= -2 else 0 * t - 1,
        identity,
    ),
    *divergence_cases(
        "SquaredHellinger",
        lambda u: (u**0.5 - 1) ** 2,
        lambda u: 1 - u**-0.5,
        lambda t: t / (1 - t),
        lambda v: 1 - torch.exp(-v),
    ),
    *divergence_cases(
        "JensenShannon",
        lambda u: u * torch.log(u) - (u + 1) * torch.log((u + 1) / 2),
        lambda u: torch.log(2 * u / (1 + u)),
        lambda t: -torch.log(2 - torch.exp(t)),
        lambda v: LOG2 - torch.log(1 + torch.exp(-v)),
    ),
    *divergence_cases(
        "GANDivergence",
        lambda u: u * torch.log(u) - (u + 1) * torch.log(u + 1),
        lambda u: torch.log(u / (1 + u)),
        lambda t: -torch.log(1 - torch.exp(t)),
        log_sigmoid,
    ),
]


# --- penalties ---------------------------------------------------------------------------------


def critic(w1: Tensor, w2: Tensor) -> Callable[[Tensor], Tensor]:
    """A smooth critic of one hidden layer, on samples of any shape with six numbers."""
    return lambda x: torch.tanh(x.flatten(1) @ w1) @ w2


def norm_at(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """The gradient's norm at one sample, from the critic's derivative by hand."""
    hidden = [torch.tanh((x.flatten() * w1[:, k]).sum()) for k in range(w1.shape[1])]
    slopes = [
        torch.stack([(1 - h**2) * w1[d, k] * w2[k] for k, h in enumerate(hidden)]).sum()
        for d in range(len(w1))
    ]
    return torch.stack([s**2 for s in slopes]).sum() ** 0.5


def penalty_case(
    spec: dict[str, Any], per_sample: Callable[[Tensor], Tensor], where: str, **options: Any
) -> Case:
    def points(real: Tensor, fake: Tensor) -> list[Tensor]:
        epsilon = torch.rand(len(real), dtype=torch.float32).to(real.dtype)
        between = [e * x + (1 - e) * y for e, x, y in zip(epsilon, real, fake, strict=True)]
        return {"real": list(real), "fake": list(fake), "between": between}[where]

    return Case(
        spec,
        inputs=lambda make: (make(4, 1, 2, 3), make(4, 1, 2, 3), make(6, 5), make(5)),
        call=lambda penalty, x, y, w1, w2: penalty(critic(w1, w2), x, y),
        reference=lambda penalty, x, y, w1, w2: torch.stack(
            [per_sample(norm_at(point, w1, w2)) for point in points(x, y)]
        ).mean(),
        batched=2,
        detached=(0, 1),
        **options,
    )


ONE_DRAW = {"permutation": "the points between real and fake are drawn in the order of the batch"}

PENALTIES = [
    penalty_case(
        {"block": "GradientPenalty"},
        lambda norm: 10 * (norm - 1) ** 2,
        "between",
        expected_failures=ONE_DRAW,
    ),
    penalty_case(
        {"block": "GradientPenalty", "weight": 3, "target": 2.5, "one_sided": True},
        lambda norm: 3 * torch.stack([norm - 2.5, torch.zeros_like(norm)]).max() ** 2,
        "between",
        note="one-sided",
        expected_failures=ONE_DRAW,
    ),
    penalty_case({"block": "R1Penalty"}, lambda norm: 5 * norm**2, "real"),
    penalty_case({"block": "R2Penalty", "gamma": 3}, lambda norm: 1.5 * norm**2, "fake"),
]


# --- constraints -------------------------------------------------------------------------------


def clipped(clipper: Any, weight: Tensor) -> Tensor:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device)
    layer.weight = nn.Parameter(weight.detach().clone())
    clipper(nn.Sequential(layer))
    return layer.weight.detach()


CONSTRAINTS = [
    Case(
        {"block": "WeightClipper", "bound": 0.5},
        inputs=lambda make: (make(4, 3),),
        call=clipped,
        reference=lambda clipper, w: torch.tensor(
            [[min(max(float(x), -0.5), 0.5) for x in row] for row in w], dtype=w.dtype
        ),
    )
]


# --- networks ----------------------------------------------------------------------------------


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


def moved(layer: Any, x: Tensor, forward: bool) -> Tensor:
    """A convolution (or a transposed one) of one image, pixel by pixel."""
    k, stride, pad = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    n = x.shape[-1]
    out = (n + 2 * pad - k) // stride + 1 if forward else (n - 1) * stride - 2 * pad + k
    big, small = (n, out) if forward else (out, n)
    sums: dict[tuple[int, int], Tensor] = {}
    zero = torch.zeros(layer.out_channels, dtype=x.dtype)
    for a, b, i, j in itertools.product(range(small), range(small), range(k), range(k)):
        # The place (y, z) of the larger map that the kernel's (i, j) touches.
        y, z = a * stride - pad + i, b * stride - pad + j
        if not (0 <= y < big and 0 <= z < big):
            continue
        if forward:
            term, place = layer.weight[:, :, i, j] @ x[:, y, z], (a, b)
        else:
            term, place = layer.weight[:, :, i, j].T @ x[:, a, b], (y, z)
        sums[place] = sums.get(place, zero) + term
    return torch.stack([sums[y, z] for y in range(out) for z in range(out)], 1).view(-1, out, out)


def batch_normalised(layer: Any, x: Tensor) -> Tensor:
    means = x.sum((0, 2, 3), keepdim=True) / (x.numel() / x.shape[1])
    variances = ((x - means) ** 2).sum((0, 2, 3), keepdim=True) / (x.numel() / x.shape[1])
    scale, offset = layer.weight.view(1, -1, 1, 1), layer.bias.view(1, -1, 1, 1)
    return (x - means) / (variances + 1e-5) ** 0.5 * scale + offset


def group_normalised(layer: Any, x: Tensor) -> Tensor:
    rows = []
    for image in x:
        mean_of_all = image.sum() / image.numel()
        variance = ((image - mean_of_all) ** 2).sum() / image.numel()
        scale, offset = layer.weight.view(-1, 1, 1), layer.bias.view(-1, 1, 1)
        rows.append((image - mean_of_all) / (variance + 1e-5) ** 0.5 * scale + offset)
    return torch.stack(rows)


def convolutional(block: Any, x: Tensor) -> Tensor:
    """DCGAN's layers one after the other, each written out."""
    for layer in block.layers:
        match layer:
            case nn.Unflatten():
                x = x.view(len(x), -1, 1, 1)
            case nn.Flatten():
                x = x.reshape(len(x), -1) if layer.start_dim else x.reshape(-1)
            case nn.ConvTranspose2d():
                x = torch.stack([moved(layer, image, forward=False) for image in x])
            case nn.Conv2d():
                x = torch.stack([moved(layer, image, forward=True) for image in x])
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


# --- layers and auxiliary terms --------------------------------------------------------------------


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
]


def squared_distance_of_means(loss: Any, real: Tensor, fake: Tensor) -> Tensor:
    real = real.detach().flatten(1)
    features = zip(real.T, fake.flatten(1).T, strict=True)
    return torch.stack([(r.sum() / len(r) - f.sum() / len(f)) ** 2 for r, f in features]).sum()


AUXILIARY = [
    Case(
        {"block": "FeatureMatchingLoss"},
        inputs=lambda make: (make(4, 2, 3), make(6, 2, 3)),
        reference=squared_distance_of_means,
        detached=(0,),
    ),
    Case(
        {"block": "FeatureMatchingLoss", "distance": "mean_squared"},
        inputs=lambda make: (make(4, 5), make(3, 5)),
        reference=lambda loss, r, f: squared_distance_of_means(loss, r, f) / 5,
        detached=(0,),
        note="mean-squared",
    ),
    Case(
        {"block": "FeatureMatchingLoss", "distance": "mean_absolute"},
        inputs=lambda make: (make(4, 5), make(3, 5)),
        reference=lambda loss, r, f: torch.stack(
            [(a.sum() / 4 - b.sum() / 3).abs() for a, b in zip(r.T, f.T, strict=True)]
        ).mean(),
        detached=(0,),
        note="mean-absolute",
    ),
]

CASES: list[Case] = [
    *LOSSES,
    *AUXILIARY,
    *DIVERGENCES,
    *PENALTIES,
    *CONSTRAINTS,
    *LAYERS,
    *NETWORKS,
]
