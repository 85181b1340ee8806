"""Cases of the penalties."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gan_blocks.testing import Case


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

    options.setdefault("call", lambda penalty, x, y, w1, w2: penalty(critic(w1, w2), x, y))
    return Case(
        spec,
        inputs=lambda make: (make(4, 1, 2, 3), make(4, 1, 2, 3), make(6, 5), make(5)),
        reference=lambda penalty, x, y, w1, w2: torch.stack(
            [per_sample(norm_at(point, w1, w2)) for point in points(x, y)]
        ).mean(),
        batched=2,
        detached=(0, 1),
        **options,
    )


def around(penalty: Any, x: Tensor) -> list[Tensor]:
    """The points of DRAGAN, by its code and by its paper."""
    if penalty.noise == "gaussian":
        noise = torch.randn(x.shape).to(x.dtype)
        return [sample + penalty.scale * e for sample, e in zip(x, noise, strict=True)]
    u, alpha = torch.rand(x.shape).to(x.dtype), torch.rand(len(x), 1, 1, 1).to(x.dtype)
    numbers = x.detach().flatten()
    average = numbers.sum() / len(numbers)
    spread = (((numbers - average) ** 2).sum() / len(numbers)) ** 0.5
    far = [sample + penalty.scale * spread * v for sample, v in zip(x, u, strict=True)]
    return [a + t * (b - a) for a, b, t in zip(x, far, alpha, strict=True)]


def squared_differences(penalty: Any, x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    noise = torch.randn(x.shape).to(x.dtype)
    values = [
        (critic(w1, w2)(a[None]) - critic(w1, w2)((a + penalty.sigma * e)[None])) ** 2
        for a, e in zip(x.detach(), noise, strict=True)
    ]
    return penalty.weight * torch.cat(values).sum() / len(values)


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
    *(
        Case(
            {"block": "DraganPenalty", "weight": 3, "target": 0.5, "noise": noise, "scale": 0.4},
            inputs=lambda make: (make(4, 1, 2, 3), make(6, 5), make(5)),
            call=lambda penalty, x, w1, w2: penalty(critic(w1, w2), x),
            reference=lambda penalty, x, w1, w2: torch.stack(
                [3 * (norm_at(point, w1, w2) - 0.5) ** 2 for point in around(penalty, x)]
            ).mean(),
            batched=1,
            detached=(0,),
            note=noise,
            expected_failures={"permutation": "the noise is drawn in the order of the batch"},
        )
        for noise in ("uniform", "gaussian")
    ),
    *(
        Case(
            {"block": name, "weight": 7, "sigma": 0.3},
            inputs=lambda make: (make(4, 1, 2, 3), make(6, 5), make(5)),
            call=lambda penalty, x, w1, w2: penalty(critic(w1, w2), x, x),
            reference=squared_differences,
            batched=1,
            detached=(0,),
            expected_failures={"permutation": "the noise is drawn in the order of the batch"},
        )
        for name in ("ApproximateR1Penalty", "ApproximateR2Penalty")
    ),
    penalty_case(
        {"block": "Lazy", "penalty": {"block": "R1Penalty", "gamma": 3}, "every": 4},
        lambda norm: 4 * 1.5 * norm**2,
        "real",
        call=lambda penalty, x, y, w1, w2: copy.deepcopy(penalty)(critic(w1, w2), x, y),
    ),
]


def list_case(spec: dict[str, Any], per_sample: Callable[[Tensor], Tensor]) -> Case:
    """Two sub-discriminators, at real samples that are the generated ones too."""
    return Case(
        spec,
        inputs=lambda make: (make(4, 1, 2, 3), make(6, 5), make(5), make(6, 2), make(2)),
        call=lambda penalty, x, w1, w2, v1, v2: penalty(
            lambda p: [critic(w1, w2)(p), critic(v1, v2)(p)], x, x
        ),
        reference=lambda penalty, x, w1, w2, v1, v2: (
            torch.stack([per_sample(norm_at(p, *w)) for p in x for w in ((w1, w2), (v1, v2))]).sum()
            / (2 * len(x) if penalty.combine == "mean" else len(x))
        ),
        batched=1,
        detached=(0,),
        note=f"list-{spec['combine']}",
    )


PENALTIES += [
    list_case({"block": "R1Penalty", "gamma": 3, "combine": "sum"}, lambda norm: 1.5 * norm**2),
    list_case({"block": "R2Penalty", "gamma": 3, "combine": "mean"}, lambda norm: 1.5 * norm**2),
    list_case(
        {"block": "GradientPenalty", "weight": 3, "combine": "mean"},
        lambda norm: 3 * (norm - 1) ** 2,
    ),
]
PENALTIES.append(
    penalty_case(
        {
            "block": "Scheduled",
            "penalty": {"block": "R1Penalty", "gamma": 3},
            "schedule": {"block": "StepSchedule", "start": 0.25, "end": 1.0, "steps": 10**6},
        },
        lambda norm: 0.25 * 1.5 * norm**2,
        "real",
    )
)
