"""Cases of the auxiliary terms."""

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, nn

from cases.formulas import (
    mean,
)
from gan_blocks.testing import Case


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
        term.step()
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
    return balance(((x @ w) ** 2).mean(), torch.sin(y @ w).mean(), w)


def ratio_of_norms(balance: Any, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    first = torch.stack([2 * (row * w).sum() * row for row in x]).sum(0) / len(x)
    second = torch.stack([torch.cos((row * w).sum()) * row for row in y]).sum(0) / len(y)
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


def held_to_the_other_side(regularizer: Any, real: Tensor, fake: Tensor) -> Tensor:
    """The first step, in which the averages are the means."""
    above = [x - float(fake.sum() / len(fake)) for x in real]
    below = [float(real.sum() / len(real)) - x for x in fake]
    if regularizer.form == "code":
        above, below = ([x if x > 0 else 0 * x for x in side] for side in (above, below))
    squares = [torch.stack([x**2 for x in side]).sum() / len(side) for side in (above, below)]
    return regularizer.weight * (squares[0] + squares[1])


def module_with(w: Tensor, v: Tensor) -> nn.Module:
    """A linear map and a transposed convolution with these weights."""
    convolution = nn.ConvTranspose2d(v.shape[0], v.shape[1], 1, device="meta")
    module = nn.Sequential(nn.Linear(w.shape[1], w.shape[0], device="meta"), convolution)
    for layer, weight in zip(module, (w, v), strict=True):
        weight = weight if weight.requires_grad else weight.clone().requires_grad_()
        layer._parameters.clear()
        layer._parameters["weight"] = weight  # pyright: ignore[reportArgumentType]
    return module


def products_of_rows(regularizer: Any, w: Tensor, v: Tensor) -> Tensor:
    total = torch.zeros((), dtype=w.dtype)
    for rows in (w, v.transpose(0, 1).flatten(1)):
        for i, j in itertools.product(range(len(rows)), repeat=2):
            if i != j:
                total = total + (rows[i] * rows[j]).sum() ** 2
            elif regularizer.unit_norm:
                total = total + ((rows[i] ** 2).sum() - 1) ** 2
    return regularizer.weight * total


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
        batched=0,
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
    *(
        Case(
            {"block": "LeCamRegularizer", "weight": 2, "decay": 0.7, "form": form},
            # Shifted, so that some logits lie beyond the average of the other side.
            inputs=lambda make: (make(4), make(6) + 1),
            reference=held_to_the_other_side,
            note=form,
            expected_failures={
                "gradient": "the averages take in the batch, and have no gradient",
                "double_backward": "likewise",
            },
        )
        for form in ("code", "paper")
    ),
    *(
        Case(
            {"block": "OrthogonalRegularizer", "weight": 3, "unit_norm": unit_norm},
            inputs=lambda make: (make(3, 4), make(2, 3, 1, 1)),
            call=lambda regularizer, w, v: regularizer(module_with(w, v)),
            reference=products_of_rows,
            batched=0,
            note="unit-norm" if unit_norm else "",
        )
        for unit_norm in (False, True)
    ),
]


def images_of(w: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Images of two channels and three pixels; with styles of layers, the first two of them count."""
    first, second = (w[:, 0], w[:, 1]) if w.dim() == 3 else (w, w)
    return (torch.tanh(first @ a) + second @ b).view(len(w), 2, 3)


def path_penalty(penalty: Any, w: Tensor, a: Tensor, b: Tensor) -> Tensor:
    w = w if w.requires_grad else w.detach().requires_grad_()
    penalty = copy.deepcopy(penalty)
    if w.dim() == 2:  # an average that stands still
        penalty.eval().average.fill_(0.3)
    return penalty(images_of(w, a, b), w)


def spread_of_lengths(penalty: Any, w: Tensor, a: Tensor, b: Tensor) -> Tensor:
    noise = torch.randn(len(w), 2, 3).to(w.dtype) / 3**0.5
    lengths = []
    for i, y in enumerate(noise.flatten(1)):
        style = w[i, 0] if w.dim() == 3 else w[i]
        steep = y * (1 - torch.tanh(style @ a) ** 2)
        by_first, by_second = a @ steep, b @ y
        if w.dim() == 3:
            squares = ((by_first**2).sum() + (by_second**2).sum()) / w.shape[1]
        else:
            squares = ((by_first + by_second) ** 2).sum()
        lengths.append(squares**0.5)
    average = 0.3
    if w.dim() == 3:
        average = (1 - penalty.decay) * sum(float(x) for x in lengths) / len(lengths)
    return penalty.weight * torch.stack([(x - average) ** 2 for x in lengths]).sum() / len(w)


def advanced(schedule: Any, x: Tensor) -> Tensor:
    return schedule() * x


AUXILIARY += [
    *(
        Case(
            {"block": "PathLengthPenalty", "weight": 3, "decay": 0.75},
            inputs=inputs,
            call=path_penalty,
            reference=spread_of_lengths,
            batched=1,
            note=note,
            expected_failures=expected
            | {"permutation": "the noise is drawn in the order of the batch"},
        )
        for inputs, note, expected in (
            (lambda make: (make(4, 5), make(5, 6), make(5, 6)), "", {}),
            (
                lambda make: (make(4, 3, 5), make(5, 6), make(5, 6)),
                "layers",
                {"gradient": "the average has none, on purpose", "double_backward": "likewise"},
            ),
        )
    ),
    Case(
        {"block": "ConsistencyRegularizer", "weight": 3},
        inputs=lambda make: (make(4, 1), make(4, 1)),
        reference=lambda term, x, y: (
            3 * torch.stack([(a - b) ** 2 for a, b in zip(x[:, 0], y[:, 0], strict=True)]).sum() / 4
        ),
    ),
    *(
        Case(
            {"block": name, "start": 0.5, "end": 2.0, "steps": 8},
            inputs=lambda make: (make(4),),
            call=advanced,
            reference=lambda schedule, x: torch.stack([0.5 * value for value in x]),
        )
        for name in ("CosineSchedule", "LinearSchedule", "StepSchedule")
    ),
]
