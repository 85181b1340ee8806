"""Every penalty with every layer of a critic, in the ways people train: `make matrix`.

    python tests/matrix.py RESULTS.jsonl TABLE.md

Each pair of a penalty and a layer trains a small critic for three steps in one way: eager, with the
critic compiled or with the whole step compiled; in float32 or under bfloat16 autocast; on one process
or on two under DistributedDataParallel. The ways take turns, so that each penalty and each layer
meets all of them. What is judged: no error, nothing that is not finite, weights that move, no
difference between the two processes, and, where nothing is drawn at random, the weights of one
process that trains eagerly in float32 on the whole batch. A result is a line of the file; a run that
was stopped goes on after the last one.
"""

import argparse
import functools
import itertools
import json
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import gan_blocks as gb

STEPS, BATCH, SIDE, CHANNELS, CLASSES = 3, 8, 8, 4, 3

R1 = {"block": "R1Penalty", "gamma": 1.0}
PENALTIES: dict[str, dict[str, Any]] = {
    "GradientPenalty": {"block": "GradientPenalty", "weight": 1.0},
    "GradientPenalty, one-sided": {"block": "GradientPenalty", "weight": 1.0, "one_sided": True},
    "DraganPenalty": {"block": "DraganPenalty", "weight": 1.0},
    "R1Penalty": R1,
    "R2Penalty": {"block": "R2Penalty", "gamma": 1.0},
    "ApproximateR1Penalty": {"block": "ApproximateR1Penalty", "weight": 1.0, "sigma": 0.1},
    "ApproximateR2Penalty": {"block": "ApproximateR2Penalty", "weight": 1.0, "sigma": 0.1},
    "Lazy": {"block": "Lazy", "penalty": R1, "every": 2},
    "Scheduled": {
        "block": "Scheduled",
        "penalty": R1,
        "schedule": {"block": "CosineSchedule", "start": 2.0, "end": 0.2, "steps": 3},
    },
}
DRAWN = ("GradientPenalty", "DraganPenalty", "Approximate", "GaussianNoise", "DiffAugment")
"""What draws random numbers, so that no two ways agree."""
REFUSAL = "the critic fails in a compiled penalty"
"""The one combination that cannot work."""


class Images(nn.Sequential):
    """A critic with a layer for images inside."""

    def __init__(self, *layers: nn.Module, shape: tuple[int, ...] = (CHANNELS, SIDE, SIDE)) -> None:
        first = (nn.Conv2d(1, CHANNELS, 3, padding=1), nn.LeakyReLU(0.2))
        features = torch.Size(shape).numel()
        super().__init__(*first, *layers, nn.Flatten(), nn.Linear(features, 1), nn.Flatten(0))


class Labelled(nn.Module):
    """A critic with a layer that takes labels too."""

    def __init__(self, layer: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.layer, self.last = layer, last

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        y = nn.functional.leaky_relu(self.first(x), 0.2)
        if isinstance(self.layer, gb.ProjectionHead):
            return self.layer(self.last(y), labels)
        return self.last(self.layer(y, labels))


def _with_reference() -> nn.Module:
    return gb.WithReference(Images(gb.VirtualBatchNorm(CHANNELS)), torch.randn(4, 1, SIDE, SIDE))


def _minibatch_discrimination() -> nn.Module:
    layers = (nn.Flatten(), nn.Linear(SIDE**2, 16), nn.Tanh(), gb.MinibatchDiscrimination(16, 4, 3))
    return nn.Sequential(*layers, nn.Linear(20, 1), nn.Flatten(0))


def _packing() -> nn.Module:
    layers = (nn.Conv2d(2, CHANNELS, 3, padding=1), nn.LeakyReLU(0.2), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(CHANNELS * SIDE**2, 1), nn.Flatten(0))


def _projection_head() -> nn.Module:
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Labelled(gb.ProjectionHead(CHANNELS, CLASSES), last)


def _conditional_batch_norm() -> nn.Module:
    last = nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * SIDE**2, 1), nn.Flatten(0))
    return Labelled(gb.ConditionalBatchNorm2d(CHANNELS, CLASSES), last)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "none": Images,
    "MinibatchDiscrimination": _minibatch_discrimination,
    "MinibatchStdDev": lambda: Images(gb.MinibatchStdDev(4), shape=(CHANNELS + 1, SIDE, SIDE)),
    "VirtualBatchNorm": _with_reference,
    "SelfAttention2d": lambda: Images(gb.SelfAttention2d(CHANNELS)),
    "ResidualDown2d": lambda: Images(gb.ResidualDown2d(CHANNELS, 6), shape=(6, 4, 4)),
    "ProjectionHead": _projection_head,
    "PixelNorm": lambda: Images(gb.PixelNorm()),
    "EqualizedLinear": lambda: Images(
        nn.Flatten(), gb.EqualizedLinear(CHANNELS * SIDE**2, 8), nn.Tanh(), shape=(8,)
    ),
    "EqualizedConv2d": lambda: Images(
        gb.EqualizedConv2d(CHANNELS, CHANNELS, 3, padding=1), nn.Tanh()
    ),
    "GaussianNoise": lambda: Images(gb.GaussianNoise(0.1)),
    "DiffAugment": lambda: nn.Sequential(gb.DiffAugment(), Images()),
    "ConditionalBatchNorm2d": _conditional_batch_norm,
    "SpectralNorm": Images,
    "WeightClipper": Images,
    "Orthogonal": Images,
    "Packing": _packing,
}
CONSTRAINTS = ("SpectralNorm", "WeightClipper", "Orthogonal")
MODES = {"E": "eager", "C": "compiled critic", "S": "compiled step"}
PRECISIONS = {"32": "float32", "16": "bfloat16"}


@dataclass(frozen=True)
class Way:
    """How a critic is trained."""

    mode: str
    precision: str
    processes: int

    def __str__(self) -> str:
        return f"{self.mode}{self.precision}{'' if self.processes == 1 else f'x{self.processes}'}"


# DistributedDataParallel and a compiled step that differentiates twice do not go together.
WAYS = [
    Way(mode, precision, processes)
    for mode, precision, processes in itertools.product(MODES, PRECISIONS, (1, 2))
    if (mode, processes) != ("S", 2)
]


@dataclass(frozen=True)
class Pair:
    """A penalty and a layer, and the way in which they are trained."""

    penalty: str
    layer: str
    way: Way

    @property
    def key(self) -> str:
        return f"{self.penalty} | {self.layer} | {self.way}"


def covering() -> list[Pair]:
    """Every penalty with every layer once, and each of them in every way."""
    return [
        Pair(penalty, layer, WAYS[(3 * i + j) % len(WAYS)])
        for i, penalty in enumerate(PENALTIES)
        for j, layer in enumerate(LAYERS)
    ]


# --- training one pair -------------------------------------------------------------------------------


def train(pair: Pair, backend: str, rank: int = 0) -> dict[str, Any]:
    """Three steps; the change of the weights, and whether the penalty warned."""
    torch.compiler.reset()
    torch.manual_seed(0)
    critic = LAYERS[pair.layer]()
    constraint = getattr(gb, pair.layer)() if pair.layer in CONSTRAINTS else None
    if constraint:
        constraint(critic)
    penalty, loss = gb.build(PENALTIES[pair.penalty], "penalty"), gb.HingeLoss()
    in_front = gb.Packing(2) if pair.layer == "Packing" else nn.Identity()
    data = torch.rand(STEPS, 2, BATCH, 1, SIDE, SIDE)
    labels = torch.arange(BATCH) % CLASSES
    share = BATCH // pair.way.processes
    part = slice(rank * share, (rank + 1) * share)
    before = weights_of(critic)
    model: Any = critic
    if pair.way.mode == "C":
        model = torch.compile(model, backend=backend)
    if pair.way.processes > 1:
        model = DistributedDataParallel(model)
    if isinstance(critic, Labelled):
        model = functools.partial(model, labels=labels[part])

    def step(real: Tensor, fake: Tensor) -> Tensor:
        real, fake = in_front(real), in_front(fake)
        with torch.autocast("cpu", torch.bfloat16, enabled=pair.way.precision == "16"):
            value = loss.discriminator(model(real), model(fake))
            return value + penalty(model, real, fake)

    if pair.way.mode == "S":
        step = torch.compile(step, backend=backend, fullgraph="Lazy" not in pair.penalty)
    optimiser = torch.optim.SGD(critic.parameters(), lr=0.05)
    torch.manual_seed(100 + rank)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for real, fake in data[:, :, part]:
            optimiser.zero_grad()
            value = step(real, fake)
            value.backward()
            optimiser.step()
            if constraint:
                constraint(critic)
            if not value.isfinite():
                raise ArithmeticError(f"the loss is {value.item()}")
    return {
        "change": (weights_of(critic) - before).tolist(),
        "warns": any("which mixes the samples" in str(w.message) for w in caught),
    }


def weights_of(critic: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in critic.parameters()]).clone()


def judge(pair: Pair, results: list[dict[str, Any]]) -> str:
    """What is wrong with the results of the processes; nothing if the text is empty."""
    changes = [torch.tensor(result["change"], dtype=torch.float64) for result in results]
    if not all(bool(change.isfinite().all()) for change in changes):
        return "weights are not finite"
    if not bool(changes[0].abs().max() > 1e-6):
        return "weights did not move"
    if any(not torch.equal(change, changes[0]) for change in changes):
        return "processes differ"
    if any(name in f"{pair.penalty} {pair.layer}" for name in DRAWN):
        return ""
    alone = train(Pair(pair.penalty, pair.layer, WAYS[0]), "eager")
    expected = torch.tensor(alone["change"], dtype=torch.float64)
    error = float((changes[0] - expected).norm() / expected.norm())
    if error > (1e-3 if pair.way.precision == "32" else 0.15):
        return f"the change of the weights is off by {error:.2g} of its length"
    return ""


# --- one process or two ------------------------------------------------------------------------------


def _join(rank: int, count: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{store}", timedelta(seconds=300), rank=rank, world_size=count
    )


class Runner:
    """Runs pairs here, and in two processes that stay for all of them."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.pools: list[ProcessPoolExecutor] = []

    def __call__(self, pair: Pair) -> dict[str, Any]:
        started = time.perf_counter()
        problem = note = ""
        try:
            results = self._results(pair)
            problem = judge(pair, results)
            note = "warns" if any(result["warns"] for result in results) else ""
        except Exception as error:
            if REFUSAL in str(error):
                note = "refused"
            else:
                problem = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                self.close(kill=True)  # a collective that one process left is of no use any more
        took = round(time.perf_counter() - started, 1)
        return {"key": pair.key, "problem": problem, "note": note, "seconds": took}

    def _results(self, pair: Pair) -> list[dict[str, Any]]:
        if pair.way.processes == 1:
            return [train(pair, self.backend)]
        if not self.pools:
            store = tempfile.mktemp()  # the file is made by the first process
            self.pools = [
                ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _join, (r, 2, store))
                for r in range(2)
            ]
        futures = [
            pool.submit(train, pair, self.backend, rank) for rank, pool in enumerate(self.pools)
        ]
        return [future.result(timeout=600) for future in futures]

    def close(self, kill: bool = False) -> None:
        for pool in self.pools:
            for process in list((pool._processes or {}).values()) if kill else ():
                process.kill()
            pool.shutdown(wait=not kill, cancel_futures=True)
        self.pools = []


@contextmanager
def runner(backend: str) -> Iterator[Runner]:
    run = Runner(backend)
    try:
        yield run
    finally:
        run.close()


# --- the table ---------------------------------------------------------------------------------------


def table(results: dict[str, dict[str, Any]]) -> str:
    """Layers by penalties; each cell has the way in which the pair was trained."""
    lines = [f"| | {' | '.join(PENALTIES)} |", "|---" * (len(PENALTIES) + 1) + "|"]
    pairs = {(pair.layer, pair.penalty): pair for pair in covering()}
    for layer in LAYERS:
        cells = []
        for penalty in PENALTIES:
            pair = pairs[layer, penalty]
            result = results.get(pair.key)
            if result is None:
                cells.append("not run")
            elif result["problem"]:
                cells.append(f"**fails** ({pair.way})")
            else:
                cells.append(f"{pair.way}, {result['note']}" if result["note"] else str(pair.way))
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="a line of JSON for each pair")
    parser.add_argument("table", type=Path, help="the table, in Markdown")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    arguments = parser.parse_args()
    file: Path = arguments.results
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    results = {result["key"]: result for result in map(json.loads, lines)}
    with runner(arguments.backend) as run, file.open("a", encoding="utf-8") as log:
        for pair in tqdm([p for p in covering() if p.key not in results], unit="pair"):
            results[pair.key] = run(pair)
            log.write(json.dumps(results[pair.key]) + "\n")
            log.flush()
    arguments.table.write_text(table(results), encoding="utf-8")
    failed = [result for result in results.values() if result["problem"]]
    for result in failed:
        print(f"{result['key']}: {result['problem']}")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
