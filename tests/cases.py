"""One row or more per block: inputs, and the formula as a slow literal computation.

A reference loops over the samples and writes the paper's formula down; it shares no code with the
block.
"""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import scipy.special
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
    *loss_cases(
        {"block": "NonSaturatingLoss", "real_target": 0.8, "fake_target": 0.1}
        | {"discriminator_scale": 0.5},
        lambda x: bce(0.8)(x) / 2,
        lambda x: bce(0.1)(x) / 2,
        bce(1),
        "-two-sided",
    )[:2],
    *loss_cases({"block": "LeastSquaresLoss"}, square(1), square(0), square(1)),
    *loss_cases(
        {"block": "LeastSquaresLoss", "discriminator_scale": 2, "generator_scale": 1},
        lambda x: 4 * square(1)(x),
        lambda x: 4 * square(0)(x),
        lambda x: 2 * square(1)(x),
        "-scales",
    )[:2],
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
    *loss_cases(
        {"block": "HingeLoss", "discriminator_scale": 0.5},
        lambda x: margin(1)(x) / 2,
        lambda x: margin(-1)(x) / 2,
        lambda x: -x,
        "-half",
    )[:2],
    *loss_cases({"block": "WassersteinLoss"}, lambda x: -x, identity, lambda x: -x),
]


def lambert(t: Tensor) -> Tensor:
    """Jeffrey's conjugate as the paper has it."""
    w = torch.as_tensor(scipy.special.lambertw(math.exp(1 - float(t))).real, dtype=t.dtype)
    return w + 1 / w + t - 2


def power(alpha: float) -> Term:
    def conjugate(t: Tensor) -> Tensor:
        base = t * (alpha - 1) + 1
        base = base if alpha < 1 or base > 0 else 0 * base
        return (base ** (alpha / (alpha - 1)) - 1) / alpha

    return conjugate


def log_sigmoid_plus(constant: float) -> Term:
    return lambda v: constant - torch.log(1 + torch.exp(-v))


ALPHAS = (-1.5, 0.3, 0.7, 1.7, 3.0)

for divergence, activation, conjugate in (
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
    ("NeymanChi2", lambda v: 1 - torch.exp(-v), lambda t: 2 - 2 * (1 - t) ** 0.5),
    ("Jeffrey", identity, lambert),
    (
        "TotalVariation",
        lambda v: (torch.exp(v) - torch.exp(-v)) / (torch.exp(v) + torch.exp(-v)) / 2,
        identity,
    ),
    (
        {"block": "WeightedJensenShannon", "pi": 0.3},
        log_sigmoid_plus(-0.3 * math.log(0.3)),
        lambda t: 0.7 * torch.log(0.7 / (1 - 0.3 * torch.exp(t / 0.3))),
    ),
    *(
        (
            {"block": "AlphaDivergence", "alpha": a},
            identity if a > 1 else log_sigmoid_plus(1 / (1 - a)),
            power(a),
        )
        for a in (-1.5, 0.3, 1.7)
    ),
):
    nested = divergence if isinstance(divergence, dict) else {"block": divergence}
    name = "-".join(map(str, nested.values()))
    spec = {"block": "FDivergenceLoss", "divergence": nested}

    def gain(v: Tensor, activation: Any = activation) -> Tensor:
        return -activation(v)

    def cost(v: Tensor, activation: Any = activation, conjugate: Any = conjugate) -> Tensor:
        return conjugate(activation(v))

    LOSSES += loss_cases(spec, gain, cost, lambda v, cost=cost: -cost(v), f"-{name}")[:2]
    alternative = spec | {"generator_objective": "non_saturating"}
    LOSSES += loss_cases(alternative, gain, cost, gain, f"-{name}-non-saturating")[1:2]


def relativistic(block: Any, better: Tensor, worse: Tensor) -> Tensor:
    return mean(lambda b, w: -log_sigmoid(b - w), better.flatten(), worse.flatten())


def compared(block: Any, better: Tensor, worse: Tensor) -> Tensor:
    """Each logit with the mean of the other side, by the block's comparison."""
    phi: Term = {
        "softplus": lambda d: torch.log(1 + torch.exp(-d)),
        "least_squares": lambda d: (d - 1) ** 2,
        "hinge": margin(1),
    }[block.comparison]
    b, w = better.flatten(), worse.flatten()
    if type(block).__name__ == "RelativisticLoss":
        return mean(phi, b - w)
    mean_b, mean_w = sum(b) / len(b), sum(w) / len(w)
    return mean(lambda x: phi(x - mean_w), b) + mean(lambda x: phi(mean_b - x), w)


for spec, sizes in (
    ({"block": "RelativisticLoss", "comparison": "least_squares"}, (6, 6)),
    ({"block": "RelativisticLoss", "comparison": "hinge"}, (6, 6)),
    ({"block": "RelativisticAverageLoss"}, (6, 4)),
    (
        {"block": "RelativisticAverageLoss", "comparison": "least_squares"}
        | {"discriminator_scale": 0.5, "generator_scale": 0.25},
        (6, 4),
    ),
    ({"block": "RelativisticAverageLoss", "comparison": "hinge"}, (5, 3)),
):
    LOSSES += [
        Case(
            spec,
            inputs=lambda make, sizes=sizes: (make(sizes[0], 1), make(sizes[1], 1)),
            call=lambda loss, r, f: loss.discriminator(r, f),
            reference=lambda loss, r, f: (
                getattr(loss, "discriminator_scale", 1) * compared(loss, r, f)
            ),
            note="-".join(["discriminator", *map(str, list(spec.values())[1:])]),
        ),
        Case(
            spec,
            inputs=lambda make, sizes=sizes: (make(sizes[1], 1), make(sizes[0], 1)),
            call=lambda loss, f, r: loss.generator(f, r),
            reference=lambda loss, f, r: getattr(loss, "generator_scale", 1) * compared(loss, f, r),
            note="-".join(["generator", *map(str, list(spec.values())[1:])]),
        ),
    ]

LOSSES += [
    Case(
        {"block": "RelativisticAverageLoss", "combine": "mean"},
        inputs=lambda make: (make(3, 2), make(3), make(2, 2), make(4)),
        call=lambda loss, r1, r2, f1, f2: loss.discriminator([r1, r2], [f1, f2]),
        reference=lambda loss, r1, r2, f1, f2: (
            (compared(loss, r1, f1) + compared(loss, r2, f2)) / 2
        ),
        note="discriminator-of-two",
    ),
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


def divergence_cases(
    divergence: str | dict[str, Any], f: Term, derivative: Term, conjugate: Term, g: Term
) -> list[Case]:
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

    spec = divergence if isinstance(divergence, dict) else {"block": divergence}
    words = [str(value) for value in list(spec.values())[1:]]
    ratios = {"inputs": lambda make: (make(9).exp(),), "spec": spec}
    values = {"inputs": lambda make: (make(9),), "spec": spec}

    def named(note: str) -> str:
        return "-".join([note, *words])

    return [
        Case(**ratios, call=lambda d, u: d.f(u), reference=each(f), note=named("f")),
        Case(
            **ratios,
            call=lambda d, u: d.derivative(u),
            reference=each(derivative),
            note=named("derivative"),
        ),
        Case(
            **values, call=lambda d, v: d.activation(v), reference=each(g), note=named("activation")
        ),
        Case(
            **values,
            call=lambda d, v: d.conjugate(d.activation(v)),
            reference=each(lambda v: conjugate(g(v))),
            note=named("conjugate"),
        ),
        Case(
            **values,
            call=lambda d, v: d.conjugate_of_activation(v),
            reference=each(lambda v: conjugate(g(v))),
            note=named("conjugate_of_activation"),
        ),
        Case(
            spec,
            inputs=lambda make: (make(3, 5).exp(), make(3, 5).exp()),
            call=lambda d, p, q: d.between(p / p.sum(-1, True), q / q.sum(-1, True)),
            reference=lambda d, p, q: between(d, p / p.sum(-1, True), q / q.sum(-1, True)),
            note=named("between"),
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
    *divergence_cases(
        "NeymanChi2",
        lambda u: (1 - u) ** 2 / u,
        lambda u: 1 - u**-2,
        lambda t: 2 - 2 * (1 - t) ** 0.5,
        lambda v: 1 - torch.exp(-v),
    ),
    *divergence_cases(
        "Jeffrey",
        lambda u: (u - 1) * torch.log(u),
        lambda u: 1 + torch.log(u) - 1 / u,
        lambert,
        identity,
    ),
    *divergence_cases(
        "TotalVariation",
        lambda u: (u - 1 if u > 1 else 1 - u) / 2,
        lambda u: 0 * u + (0.5 if u > 1 else -0.5),
        identity,
        lambda v: (torch.exp(v) - torch.exp(-v)) / (torch.exp(v) + torch.exp(-v)) / 2,
    ),
    *divergence_cases(
        {"block": "WeightedJensenShannon", "pi": 0.3},
        lambda u: 0.3 * u * torch.log(u) - (0.7 + 0.3 * u) * torch.log(0.7 + 0.3 * u),
        lambda u: 0.3 * torch.log(u / (0.7 + 0.3 * u)),
        lambda t: 0.7 * torch.log(0.7 / (1 - 0.3 * torch.exp(t / 0.3))),
        log_sigmoid_plus(-0.3 * math.log(0.3)),
    ),
]

for a in ALPHAS:
    DIVERGENCES += divergence_cases(
        {"block": "AlphaDivergence", "alpha": a},
        lambda u, a=a: (u**a - 1 - a * (u - 1)) / (a * (a - 1)),
        lambda u, a=a: (u ** (a - 1) - 1) / (a - 1),
        power(a),
        identity if a > 1 else log_sigmoid_plus(1 / (1 - a)),
    )


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


def layer_distances(loss: Any, *maps: Tensor) -> Tensor:
    """Real and then generated maps: two sub-discriminators of two maps each."""
    real, fake = maps[: len(maps) // 2], maps[len(maps) // 2 :]

    def size(x: Tensor) -> Tensor:
        return x.abs() if loss.distance == "l1" else x**2

    terms = []
    for layers in ((0, 1), (2, 3)):
        compared = layers if loss.last_map else layers[:-1]
        total = torch.zeros((), dtype=torch.float64)
        for position, i in enumerate(compared):
            value = mean(size, (real[i] - fake[i]).flatten())
            if loss.relative:
                value = value / mean(size, real[i].flatten())
            total = total + (loss.layer_weights or (1, 1))[position] * value
        terms.append(total / len(compared) if loss.layers == "mean" else total)
    together = terms[0] + terms[1]
    return loss.weight * (together / 2 if loss.discriminators == "mean" else together)


def layerwise(arguments: dict[str, Any], note: str = "") -> Case:
    return Case(
        {"block": "LayerwiseFeatureMatchingLoss"} | arguments,
        inputs=lambda make: tuple(make(3, *s) for _ in "rf" for s in ((2, 4), (1,), (5,), (2,))),
        call=lambda loss, *x: loss([x[:2], x[2:4]], [x[4:6], x[6:]]),
        reference=layer_distances,
        detached=(0, 1, 2, 3),
        note=note,
    )


def history(term: Any, *states: Tensor) -> Tensor:
    """The term at the last of several states of a module, from no history."""
    term, module = copy.deepcopy(term), nn.Linear(1, 1, bias=False)
    for state in states[:-1]:
        module.weight = nn.Parameter(state.detach())
        term(module)
    last = states[-1] if states[-1].requires_grad else states[-1].detach().requires_grad_()
    module._parameters["weight"] = last  # pyright: ignore[reportArgumentType]
    return term(module)


def distance_from_the_mean(term: Any, *states: Tensor) -> Tensor:
    past = sum(states[:-1], torch.zeros_like(states[0])).detach() / (len(states) - 1)
    squares = [(a - b) ** 2 for a, b in zip(states[-1].flatten(), past.flatten(), strict=True)]
    return torch.stack(squares).sum()


def weight_of(balance: Any, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """The adaptive weight of two losses of a linear layer."""
    w = w.detach().requires_grad_()
    return balance(((x @ w) ** 2).sum(), torch.sin(y @ w).sum(), w)


def ratio_of_norms(balance: Any, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    first = torch.stack([2 * (row * w).sum() * row for row in x]).sum(0)
    second = torch.stack([torch.cos((row * w).sum()) * row for row in y]).sum(0)
    ratio = (first**2).sum() ** 0.5 / ((second**2).sum() ** 0.5 + balance.eps)
    return balance.weight * torch.as_tensor(min(float(ratio), balance.maximum), dtype=w.dtype)


def balanced(balancer: Any, output: Tensor, y: Tensor, z: Tensor) -> Tensor:
    output = output if output.requires_grad else output.detach().requires_grad_()
    losses = {"first": (output * y).sum(), "second": (output * z).sum()}
    return copy.deepcopy(balancer)(losses, output)


def shares(balancer: Any, output: Tensor, y: Tensor, z: Tensor) -> Tensor:
    def norm(gradient: Tensor) -> Tensor:
        if balancer.per_sample:
            return mean(lambda g: (g**2).sum() ** 0.5, gradient)
        return (gradient**2).sum() ** 0.5

    first = 3 / 4 * (output * y).sum() / norm(y)
    second = 1 / 4 * (output * z).sum() / norm(z)
    return balancer.total_norm * (first + second)


AUXILIARY += [
    *(
        Case(
            {"block": "AdaptiveWeight"} | arguments,
            inputs=lambda make: (make(4, 3), make(5, 3), make(3)),
            call=weight_of,
            reference=ratio_of_norms,
            batched=2,
            note=note,
            expected_failures=expected,
        )
        for arguments, note, expected in (
            ({}, "", {"gradient": "the weight is a number, detached on purpose"}),
            ({"maximum": 0.1}, "limited", {}),
            ({"weight": 0.8, "eps": 0.5}, "weighted", {"gradient": "likewise"}),
        )
    ),
    *(
        Case(
            {"block": "GradientBalancer", "weights": {"first": 3, "second": 1}} | arguments,
            inputs=lambda make: (make(4, 3), make(4, 3), make(4, 3)),
            call=balanced,
            reference=shares,
            detached=(1, 2),
            note=note,
        )
        for arguments, note in (({}, ""), ({"total_norm": 2, "per_sample": False}, "batch"))
    ),
    Case(
        {"block": "HistoricalAveraging"},
        inputs=lambda make: (make(3, 2), make(3, 2), make(3, 2), make(3, 2)),
        call=history,
        reference=distance_from_the_mean,
        detached=(0, 1, 2),
    ),
    Case(
        {"block": "FeatureMatchingLoss", "distance": "l1"},
        inputs=lambda make: (make(4, 5), make(3, 5)),
        reference=lambda loss, r, f: torch.stack(
            [(a.sum() / 4 - b.sum() / 3).abs() for a, b in zip(r.T, f.T, strict=True)]
        ).sum(),
        detached=(0,),
        note="l1",
    ),
    layerwise({}),
    layerwise(
        {"weight": 2, "layers": "mean", "discriminators": "mean", "relative": True}, "relative"
    ),
    layerwise({"distance": "l2", "relative": True, "layer_weights": [0.5, 3]}, "weights"),
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
