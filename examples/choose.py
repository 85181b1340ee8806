"""Losses with one penalty, and penalties with one loss, on the same digits: what to choose by.

    python examples/choose.py
    python examples/choose.py --seeds 1 --steps 300

All runs have the same networks, optimisers, batches and steps, and differ in what `LOSSES` and
`REGULARISERS` say. Each finished run is a row of `choose.csv`, so a study that was stopped goes on
where it was.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import evaluate
import mode_collapse
import reading
import show
from config import Config
from train import Trainer

CONFIG = mode_collapse.CONFIGS / "choose_digits.toml"
QUARTERS = (0.25, 0.5, 0.75, 1.0)

# --8<-- [start:variants]
R1 = 'penalties=[{block="R1Penalty", gamma=1.0}]'
R1_10 = 'penalties=[{block="R1Penalty", gamma=10.0}]'
BOTH = 'penalties=[{block="R1Penalty", gamma=1.0}, {block="R2Penalty", gamma=1.0}]'

LOSSES = {
    "MinimaxLoss": ["loss.block=MinimaxLoss", R1],
    "NonSaturatingLoss": ["loss.block=NonSaturatingLoss", R1],
    "LeastSquaresLoss": ["loss.block=LeastSquaresLoss", R1],
    "HingeLoss": ["loss.block=HingeLoss", R1],
    "WassersteinLoss": ["loss.block=WassersteinLoss", R1],
    "RelativisticLoss": ["loss.block=RelativisticLoss", R1],
    "RelativisticAverageLoss": ["loss.block=RelativisticAverageLoss", R1],
    "FDivergenceLoss, KL": ['loss={block="FDivergenceLoss", divergence={block="KL"}}', R1],
}
LOSSES |= {f"{name}, gamma 10": [loss, R1_10] for name, (loss, _) in LOSSES.items()}
REGULARISERS = {
    "none": [],
    "R1Penalty": [R1],
    "R1Penalty, Lazy": [
        'penalties=[{block="Lazy", every=16, penalty={block="R1Penalty", gamma=1.0}}]'
    ],
    "R1Penalty and R2Penalty": [BOTH],
    "ApproximateR1Penalty": [
        'penalties=[{block="ApproximateR1Penalty", weight=5000.0, sigma=0.01}]'
    ],
    "GradientPenalty": ['penalties=[{block="GradientPenalty", weight=10.0}]'],
    "DraganPenalty": ['penalties=[{block="DraganPenalty", weight=10.0}]'],
    "SpectralNorm": ['constraint={block="SpectralNorm"}'],
    "WassersteinLoss, GradientPenalty": [
        "loss.block=WassersteinLoss",
        'penalties=[{block="GradientPenalty", weight=10.0}]',
    ],
    "WassersteinLoss, WeightClipper": [
        "loss.block=WassersteinLoss",
        'constraint={block="WeightClipper", bound=0.1}',
    ],
    "RelativisticLoss, R1Penalty and R2Penalty": ["loss.block=RelativisticLoss", BOTH],
}
# --8<-- [end:variants]
"""Each variant's differences from the config, whose loss is the non-saturating one."""

GROUPS = {"losses": LOSSES, "regularisers": REGULARISERS}
DISTANCES = [f"frechet_distance_at_{quarter}" for quarter in QUARTERS]
FIELDS = ["variant", "seed", "steps", "ms_per_step", "classes", "rarest_class", *DISTANCES]


def config_of(settings: list[str], seed: int, steps: int | None) -> Config:
    """The config of one run."""
    more = [f"seed={seed}"] + ([f"steps={steps}"] if steps else [])
    return reading.read_config(Config, CONFIG, [*settings, *more])


def run(config: Config) -> dict[str, Any]:
    """Train, and judge the samples after each quarter of the steps."""
    trainer = Trainer(config, CONFIG.parent, torch.device("cpu"))
    trainer.check()
    judge, _ = mode_collapse.metrics_of("digits")
    batches, cpu, row, metrics = trainer.batches(), 0.0, dict[str, Any](), dict[str, Any]()
    for quarter, name in zip(QUARTERS, DISTANCES, strict=True):
        start = time.process_time()  # not that of the clock, which other programs stretch
        while trainer.step < quarter * config.steps:
            trainer.train_step([next(batches)])
        cpu += time.process_time() - start
        metrics = judge(trainer.sample(evaluate.IMAGES, seed=1))
        row[name] = metrics["frechet_distance"]
    row["ms_per_step"] = 1000 * cpu / config.steps
    return row | {name: metrics[name] for name in ("classes", "rarest_class")}


def study(out: Path, seeds: int, steps: int | None) -> list[mode_collapse.Row]:
    """The rows of all runs; those in the CSV file are not repeated."""
    path, done = out / "choose.csv", list[mode_collapse.Row]()
    rows = mode_collapse.read_rows(path, FIELDS)
    for seed in range(seeds):
        for variant, settings in (GROUPS["losses"] | GROUPS["regularisers"]).items():
            config = config_of(settings, seed, steps)
            key = {"variant": variant, "seed": str(seed), "steps": str(config.steps)}
            found = [row for row in rows if key.items() <= row.items()]
            if not found:
                row = key | run(config)
                found = [{name: str(row[name]) for name in FIELDS}]
                rows += found
                mode_collapse.write_rows(rows, path, FIELDS)
                print(*found[0].values(), flush=True)
            done += found
    return done


def values(variant: str, name: str, rows: list[mode_collapse.Row]) -> list[float]:
    """A column of a variant's runs."""
    return [float(row[name]) for row in rows if row["variant"] == variant]


def table(group: str, rows: list[mode_collapse.Row]) -> show.Table:
    """A line for each variant, and one for real images."""
    lines = []
    for variant in GROUPS[group]:
        cells = [
            show.mean_and_error(values(variant, name, rows), form)
            for name, form in (
                (DISTANCES[1], ".0f"),
                (DISTANCES[-1], ".0f"),
                ("rarest_class", ".3f"),
            )
        ]
        lines.append([variant, *cells])
    _, real = mode_collapse.metrics_of("digits")
    distance = f"{real['frechet_distance']:.0f}"
    lines.append(["*real images*", distance, distance, f"{real['rarest_class']:.3f}"])
    return show.Table(["", "distance, half-way", "distance, at the end", "rarest class"], lines)


def picture(group: str, rows: list[mode_collapse.Row]) -> Figure:
    """The distance against the steps, a curve for each variant."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes, every = figure.subplots(), int(rows[0]["steps"])
    for i, variant in enumerate(GROUPS[group]):
        means = [statistics.mean(values(variant, name, rows)) for name in DISTANCES]
        style = ("o-", "s--", "^:", "v-.")[i // 4]
        axes.plot([q * every for q in QUARTERS], means, style, label=variant)
    axes.set(xlabel="step", ylabel="Fréchet distance", yscale="log")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def main(arguments: list[str] | None = None) -> int:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description="Compare losses, and regularisers.")
    parser.add_argument("--out", type=Path, default=Path("runs/choose"), help="its folder")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant")
    parser.add_argument("--steps", type=int, help="steps of a run; those of the config if left out")
    parser.add_argument("--docs", type=Path, help="copy tables and picture to this documentation")
    options = parser.parse_args(arguments)

    def run_it() -> None:
        mode_collapse.check_counts(seeds=options.seeds, steps=options.steps)
        torch.set_num_threads(1)  # more only wait for each other in networks this small
        options.out.mkdir(parents=True, exist_ok=True)
        rows = study(options.out, options.seeds, options.steps)
        for group in GROUPS:
            result = table(group, rows)
            print(f"\n{group}\n\n{result}\n")
            figure = picture(group, rows)
            show.keep(f"choose_{group}", result, figure, options.out, options.docs)

    return reading.exit_status("choose.py", run_it)


if __name__ == "__main__":
    sys.exit(main())
