"""Cases of the losses."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cases.formulas import LOG2, Term, identity, lambert, log_sigmoid, log_sigmoid_plus, mean, power
from gan_blocks.testing import Case

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
            call=lambda loss, f1, f2: loss.generator([f1, f2]),
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
            call=lambda loss, f, r: loss.generator(f, real_logits=r),
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
        call=lambda loss, f, r: loss.generator(f, real_logits=r),
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
