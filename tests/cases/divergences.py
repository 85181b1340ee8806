"""Cases of the divergences."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cases.formulas import (
    ALPHAS,
    LOG2,
    Term,
    identity,
    lambert,
    log_sigmoid,
    log_sigmoid_plus,
    power,
)
from gan_blocks.testing import Case


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
