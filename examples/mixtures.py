"""Mixtures of Gaussians as in PacGAN's tables: which parts of a loss find all modes.

    python examples/mixtures.py
    python examples/mixtures.py --data ring --seeds 2 --steps 500

All seeds train at once: their networks lie side by side in one stack, and their batches one after the
other in one batch, as the blocks take it. A mean over such a batch is the mean over the seeds, so times
their number it gives each network the gradient that it has alone. Each finished method is a line of
`mixtures.csv` for each seed, and a study that was stopped goes on where it was.

Lin, Khetan, Fanti and Oh, "PacGAN: The power of two samples in generative adversarial networks", 2018,
arXiv:1712.04086, section 4.1: the data, the metrics and the published numbers.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import data
import evaluate
import mode_collapse
import reading
import show
from gan_blocks import EMA, build
from gan_blocks.presets import OptimizerSettings

WIDTH, DEPTH, BATCH, LATENT = 128, 4, 256, 2
STEPS = {"ring": 6_000, "grid": 12_000}

# --8<-- [start:methods]
PENALTIES = [
    {
        "block": "Scheduled",
        "penalty": {"block": name, "gamma": 1.0},
        "schedule": {"block": "CosineSchedule", "start": 0.01, "end": 5e-4},
    }
    for name in ("R1Penalty", "R2Penalty")
]
METHODS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "non-saturating": ("NonSaturatingLoss", []),
    "relativistic": ("RelativisticLoss", []),
    "non-saturating, R1 and R2": ("NonSaturatingLoss", PENALTIES),
    "relativistic, R1 and R2": ("RelativisticLoss", PENALTIES),
}
# --8<-- [end:methods]
"""Each method's loss and penalties; everything else is the same."""

PUBLISHED = {
    "ring": {
        "GAN": (6.3, 0.982, 0.45),
        "PacGAN2": (7.9, 0.956, 0.07),
        "PacGAN4": (7.8, 0.959, 0.07),
    },
    "grid": {
        "GAN": (17.3, 0.948, 0.70),
        "PacGAN2": (23.8, 0.913, 0.13),
        "PacGAN4": (24.8, 0.936, 0.04),
    },
}
"""PacGAN's rows, means of ten runs: modes, share of high quality, reverse KL."""

METRICS = {"modes": ".1f", "high_quality": ".3f", "reverse_kl": ".3f"}
FIELDS = ["data", "method", "seed", "steps", "ms_per_step", *METRICS]


class StackedLinear(nn.Module):
    """A linear layer for each seed: `(seeds, N, inputs)` to `(seeds, N, outputs)`."""

    def __init__(self, seeds: int, inputs: int, outputs: int, gain: float, offset: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(seeds, inputs, outputs) * gain / inputs**0.5)
        self.bias = nn.Parameter(offset * (2 * torch.rand(seeds, 1, outputs) - 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class FourierFeatures(nn.Module):
    """Sines and cosines of fixed random projections, so that a critic sees modes that are narrow.

    Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
    Domains", 2020, arXiv:2006.10739, section 5.
    """

    projections: Tensor

    def __init__(self, seeds: int, inputs: int, outputs: int, std: float) -> None:
        super().__init__()
        self.register_buffer("projections", std * torch.randn(seeds, inputs, outputs // 2))

    def forward(self, x: Tensor) -> Tensor:
        phase = x @ self.projections
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


def generator_of(seeds: int) -> nn.Sequential:
    """A generator for each seed, whose tanh has plateaus for the modes and steep slopes between."""
    first = StackedLinear(seeds, LATENT, WIDTH, gain=5 / 3, offset=0.5)
    return stacked_mlp(seeds, first, 2, nn.Tanh, gain=5 / 3, offset=0.5)


def critic_of(seeds: int) -> nn.Sequential:
    """A critic for each seed."""
    features = FourierFeatures(seeds, 2, WIDTH, std=1.5)
    first = nn.Sequential(features, StackedLinear(seeds, WIDTH, WIDTH, 2**0.5, 0.0))
    return stacked_mlp(seeds, first, 1, lambda: nn.LeakyReLU(0.2), gain=2**0.5, offset=0.0)


def stacked_mlp(
    seeds: int,
    first: nn.Module,
    outputs: int,
    activation: Callable[[], nn.Module],
    gain: float,
    offset: float,
) -> nn.Sequential:
    """A perceptron for each seed; their batches come and go one after the other."""
    layers: list[nn.Module] = [nn.Unflatten(0, (seeds, -1)), first, activation()]
    for _ in range(DEPTH - 1):
        layers += [StackedLinear(seeds, WIDTH, WIDTH, gain, offset), activation()]
    return nn.Sequential(*layers, StackedLinear(seeds, WIDTH, outputs, 1.0, 0.0), nn.Flatten(0, 1))


def train(name: str, method: str, seeds: int, steps: int) -> tuple[Tensor, float]:
    """Samples of each seed, `(seeds, N, 2)`, and the milliseconds of processor time of a step."""
    torch.manual_seed(0)
    n = seeds * BATCH
    scale = data.modes(name)[0].square().mean().sqrt()
    generator, critic = generator_of(seeds), critic_of(seeds)
    loss_name, specs = METHODS[method]
    loss = build({"block": loss_name})
    penalties = [build(x | {"schedule": x["schedule"] | {"steps": steps}}) for x in specs]
    rate = {"block": "CosineSchedule", "start": 2e-3, "end": 0.0, "steps": steps}
    settings = OptimizerSettings({"name": "Adam", "lr": rate, "betas": [0.0, 0.99], "fused": True})
    d_optimizer, g_optimizer = (settings.build(net.parameters()) for net in (critic, generator))
    ema, draws = EMA(generator, half_life=20_000), torch.Generator().manual_seed(0)
    start = time.process_time()
    for step in range(steps):
        for optimizer in (d_optimizer, g_optimizer):
            settings.update(optimizer, step)
        real = data.mixture(name, n, draws) / scale
        fake = generator(torch.randn(n, LATENT))
        shown = fake.detach()
        terms = [loss.discriminator(critic(real), critic(shown))]
        terms += [penalty(critic, real, shown) for penalty in penalties]
        d_optimizer.zero_grad()
        (seeds * torch.stack(terms).sum()).backward()
        d_optimizer.step()
        critic.requires_grad_(False)
        with torch.no_grad():
            of_real = critic(real)
        g_optimizer.zero_grad()
        (seeds * loss.generator(critic(fake), real_logits=of_real)).backward()
        g_optimizer.step()
        critic.requires_grad_(True)
        ema.update(generator, BATCH)
    cpu = 1000 * (time.process_time() - start) / steps
    with torch.no_grad():
        x = ema(torch.randn(seeds * evaluate.POINTS, LATENT, generator=draws)) * scale
    return x.unflatten(0, (seeds, -1)), cpu


def study(name: str, out: Path, seeds: int, steps: int) -> list[dict[str, str]]:
    """The rows of every method, those that lie in the file already among them."""
    path = out / "mixtures.csv"
    rows, done = mode_collapse.read_rows(path, FIELDS), []
    for method in METHODS:
        key = {"data": name, "method": method, "steps": str(steps)}
        found = [row for row in rows if key.items() <= row.items()][:seeds]
        if len(found) < seeds:
            x, cpu = train(name, method, seeds, steps)
            torch.save(x[0], samples_of(out, name, method, steps))
            found = [
                key
                | {"seed": str(i), "ms_per_step": f"{cpu:.1f}"}
                | {m: str(v) for m, v in evaluate.mode_metrics(name, each).items()}
                for i, each in enumerate(x)
            ]
            rows = [row for row in rows if not key.items() <= row.items()] + found
            mode_collapse.write_rows(rows, path, FIELDS)
            print(*found, sep="\n", flush=True)
        done += found
    return done


def samples_of(out: Path, name: str, method: str, steps: int) -> Path:
    """The samples of the first seed."""
    return out / f"{name} {method} {steps}.pt"


def table(name: str, rows: list[dict[str, str]]) -> show.Table:
    """Ours, the published ones, and real samples."""
    lines: list[list[Any]] = []
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        cells = []
        for metric, form in METRICS.items():
            values = [float(row[metric]) for row in mine if row[metric] != "None"]
            cells.append(show.mean_and_error(values, form) if values else "none")
        lines.append([method, *cells, mine[0]["ms_per_step"]])
    for method, values in PUBLISHED[name].items():
        cells = [format(v, form) for v, form in zip(values, METRICS.values(), strict=True)]
        lines.append([f"{method}, published", *cells, ""])
    real = data.mixture(name, evaluate.POINTS, torch.Generator().manual_seed(1))
    metrics = evaluate.mode_metrics(name, real)
    lines.append(["real samples", *(format(metrics[m], form) for m, form in METRICS.items()), ""])
    modes = f"modes of {len(data.modes(name)[0])}"
    return show.Table(["", modes, "high quality", "reverse KL", "ms of a step, all seeds"], lines)


def picture(name: str, out: Path, steps: int) -> Figure:
    """The samples of the first seed of each method."""
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    means, _ = data.modes(name)
    side = 1.4 * float(means.abs().max())
    for axes, method in zip(figure.subplots(1, len(METHODS)), METHODS, strict=True):
        axes.set_title(method, fontsize=9)
        axes.scatter(*means.T.numpy(), s=60, facecolors="none", edgecolors="tab:red", linewidths=1)
        x = torch.load(samples_of(out, name, method, steps))
        axes.scatter(*x.T.numpy(), s=2, alpha=0.3, linewidths=0)
        axes.set(xlim=(-side, side), ylim=(-side, side), aspect="equal", xticks=[], yticks=[])
    return figure


def main(arguments: list[str] | None = None) -> int:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description="Find all modes of a mixture.")
    parser.add_argument("--data", choices=PUBLISHED, action="append", help="both if left out")
    parser.add_argument("--out", type=Path, default=Path("runs/mixtures"), help="its folder")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each method")
    parser.add_argument("--steps", type=int, help="of a run; 6,000 and 12,000 if left out")
    parser.add_argument("--docs", type=Path, help="copy tables and pictures to this documentation")
    options = parser.parse_args(arguments)

    def run() -> None:
        given = {} if options.steps is None else {"steps": options.steps}
        mode_collapse.check_counts(seeds=options.seeds, **given)
        torch.set_num_threads(1)  # more only wait for each other in networks this small
        options.out.mkdir(parents=True, exist_ok=True)
        for name in options.data or PUBLISHED:
            steps = options.steps or STEPS[name]
            rows = study(name, options.out, options.seeds, steps)
            result = table(name, rows)
            print(f"\n{name}\n\n{result}\n")
            figure = picture(name, options.out, steps)
            show.keep(f"mixtures_{name}", result, figure, options.out, options.docs)

    return reading.exit_status("mixtures.py", run)


if __name__ == "__main__":
    sys.exit(main())
