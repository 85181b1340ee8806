"""Cases of the penalties."""

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
